"""Embeddings on disk, so that no image goes through the same network twice.

What one expert gives at one image size (`key`) is kept as segments: files that never change,
each with some images' digests and embeddings. A segment appears whole (`zoo.atomic`), is named
after the images in it and has checksums, so processes and threads that read, write, merge and
evict at the same time need no lock; the worst that can happen is that a row is computed again.

Shapes: N images, R rows of a segment, F features. A segment, all of it little-endian:

  MAGIC, R and F as uint64 | R digests | a CRC for every BLOCK rows | CRC of all before | rows
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
import time
import zlib

import numpy as np

from export import caches
from export import foreign
from zoo import atomic

logger = logging.getLogger(__name__)

FORMAT = 'RGB as float32 in [0, 1]; 1'  # of what experts are given; a new one forgets all rows
MAX_BYTES = 4 << 30  # two million embeddings of 512 features
DIGEST = np.dtype('V16')

MAGIC = b'ZOOROWS1'
START = struct.Struct('<8sQQ')
BLOCK = 64  # rows that are read and checked together: few of many cost little
SUFFIX = caches.SUFFIX[caches.EMBEDDINGS]  # nothing else in the folder is ever touched

FEW = 4  # small segments that may serve one request before they are merged
SMALL = 1 << 24  # bytes; merging larger segments saves nothing
LISTINGS = 3  # looks for rows that another process moves by merging
KEPT = 0.9  # of the bound, after evicting: not every put after it is to evict again
STALE = 24 * 3600  # seconds after which a temporary file belongs to a killed process


class _DamagedError(Exception):
  """A segment is not what was written."""


def opened(folder=None):
  """The `Cache` at a folder: the default one for None; None, which keeps nothing, for ''."""
  folder = caches.folder(caches.EMBEDDINGS) if folder is None else folder
  return Cache(folder) if folder else None


def image_digests(images):
  """Digests that tell images apart: BLAKE2b of shape and pixels.

  Args:
    images: uint8 [N, H, W, 3]; a memory-mapped file is read image by image.

  Returns:
    V16 [N], 16 bytes each. (As S16, NumPy would cut zeros off their ends.)

  Raises:
    ValueError: images are not uint8 [N, H, W, 3].
  """
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(f'images are {images.dtype} of shape {images.shape}; '
                     'give uint8 [N, height, width, 3].')
  shape = hashlib.blake2b(repr(images.shape[1:]).encode(), digest_size=DIGEST.itemsize)
  digests = bytearray()
  for image in images:
    digest = shape.copy()
    digest.update(np.ascontiguousarray(image))
    digests += digest.digest()
  return np.frombuffer(digests, DIGEST)


def key(fingerprint, expert, image_size, input_range=foreign.UNIT):
  """Names what one expert gives at one image size.

  Args:
    fingerprint: of the module, as in its `module.json`.
    expert: index of the expert in a packed module, else None.
    image_size: pixels.
    input_range: (low, high), values that its images are scaled to.

  Returns:
    64 hexadecimal digits.
  """
  expert = None if expert is None else int(expert)
  parts = [FORMAT, fingerprint, expert, int(image_size)]
  if input_range != foreign.UNIT:
    parts.append(list(input_range))
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Segment:
  """An open segment: its digests now, rows on demand.

  Args:
    file: open for reading in binary, at its start.
    key: the key it should belong to.

  Raises:
    _DamagedError: it is no whole segment of that key.
  """

  def __init__(self, file, key):
    start = file.read(START.size)
    if len(start) < START.size or not start.startswith(MAGIC):
      raise _DamagedError('it is not a file of embeddings')
    _, rows, self.features = START.unpack(start)
    blocks = -(-rows // BLOCK)
    head = rows * DIGEST.itemsize + 4 * blocks
    self._start = START.size + head + 4
    if os.fstat(file.fileno()).st_size != self._start + 4 * rows * self.features:
      raise _DamagedError('it has not the size that it says')
    head, check = file.read(head), file.read(4)
    if check != _crcs(key.encode() + start + head):
      raise _DamagedError('the checksum of its start is wrong')
    self._file = file
    self.digests = np.frombuffer(head, DIGEST, rows)
    self._checks = head[rows * DIGEST.itemsize:]

  def read(self, rows):
    """Reads the embeddings of some rows, float32 [len(rows), F].

    Args:
      rows: int array of indices, ascending.

    Raises:
      _DamagedError: their checksum is wrong.
    """
    found, done = np.empty((len(rows), self.features), '<f4'), 0
    for part in np.split(rows, np.flatnonzero(np.diff(rows // BLOCK)) + 1):
      block = int(part[0]) // BLOCK
      self._file.seek(self._start + 4 * block * BLOCK * self.features)
      data = self._file.read(4 * BLOCK * self.features)
      if _crcs(data) != self._checks[4 * block:4 * block + 4]:
        raise _DamagedError('the checksum of its embeddings is wrong')
      values = np.frombuffer(data, '<f4').reshape(-1, self.features)
      found[done:done + len(part)] = values[part % BLOCK]
      done += len(part)
    return found


def _crcs(*pieces):
  return b''.join(zlib.crc32(piece).to_bytes(4, 'little') for piece in pieces)


class Cache:
  """A bounded folder of embeddings that any number of processes may share.

  The disk never stops the work: a damaged segment is warned of, removed and computed again;
  a folder that cannot be read or written is warned of once and done without.

  Args:
    folder: where; made when first written to.
    max_bytes: more than this is evicted after a `put`, least recently used segments first,
      never what that `put` wrote. Several writers at once may exceed it by a tenth each.
  """

  def __init__(self, folder, max_bytes=MAX_BYTES):
    self.folder, self.max_bytes = os.path.abspath(folder), max_bytes
    self._room = -1  # bytes to write before the folder is measured again
    self._warned = set()

  def get(self, key, digests):
    """Finds embeddings.

    Args:
      key: as the function `key` makes it.
      digests: V16 [N], as `image_digests` makes them; may repeat.

    Returns:
      found: bool [N].
      rows: float32 [found.sum(), F], those found in the order of `digests`; None if none is.
    """
    wanted, which = np.unique(digests, return_inverse=True)
    found, rows, used = self._find(key, wanted)
    for path in used:
      with contextlib.suppress(OSError):
        os.utime(path)
    small = {path: size for path, size in used.items() if size <= SMALL}
    if len(small) > FEW:
      self._merge(key, small)
    hits = found[which]
    return hits, rows[which[hits]] if hits.any() else None

  def put(self, key, digests, embeddings):
    """Keeps embeddings; where the disk will not have them, goes on without.

    Args:
      key: as the function `key` makes it.
      digests: V16 [N], as `image_digests` makes them.
      embeddings: float32 [N, F].

    Raises:
      ValueError: embeddings are not [N, F].
    """
    embeddings = np.ascontiguousarray(embeddings, '<f4')
    if embeddings.ndim != 2 or len(embeddings) != len(digests):
      raise ValueError(f'embeddings have shape {embeddings.shape}; there are {len(digests)} '
                       'images, so give [that many, features].')
    if not len(digests):
      return
    written = self._write(key, digests, embeddings)
    if written and self._room < 0:
      try:
        self._evict(written)
      except OSError as error:
        self._go_on_without(error)

  def _find(self, key, wanted):
    """As `get`, for sorted digests without repeats.

    Returns:
      found: bool [N].
      rows: float32 [N, F], to be used where found; None if nothing is.
      used: bytes of the segments that served, by path.
    """
    found, rows, used = np.zeros(len(wanted), bool), None, {}
    for _ in range(LISTINGS):
      complete = True
      for path, size in self._segments(key):
        if found.all():
          break
        try:
          with open(path, 'rb') as file:
            segment = _Segment(file, key)
            at = np.minimum(np.searchsorted(wanted, segment.digests), len(wanted) - 1)
            own = np.flatnonzero((wanted[at] == segment.digests) & ~found[at])
            if not len(own):
              continue
            if rows is None:
              rows = np.empty((len(wanted), segment.features), np.float32)
            if rows.shape[1] != segment.features:  # which of them is right, nothing says
              for other in (path, *used):
                self._discard(other, 'segments differ in their number of features')
              return np.zeros(len(wanted), bool), None, {}
            rows[at[own]] = segment.read(own)
            found[at[own]] = True
            used[path] = size
        except _DamagedError as error:
          self._discard(path, error)
        except FileNotFoundError:  # evicted, or merged into one that the next listing has
          complete = False
        except OSError as error:
          self._go_on_without(error)
      if complete:
        break
    return found, rows, used

  def _segments(self, key):
    """Path and bytes of a key's segments, largest first: few of those serve a request."""
    folder = os.path.join(self.folder, key[:2])
    try:
      found = [(path, status.st_size) for path, status in _files(folder)
               if path.startswith(os.path.join(folder, f'{key}-'))]
    except FileNotFoundError:
      return []
    except OSError as error:
      self._go_on_without(error)
      return []
    return sorted(found, key=lambda pair: pair[1], reverse=True)

  def _write(self, key, digests, rows):
    """Writes a segment, each image once; its path, or None where the disk will not have it."""
    images, first = np.unique(digests, return_index=True)
    if len(first) < len(digests):
      first.sort()  # as they came: what was asked for together stays together
      digests, rows = digests[first], rows[first]
    # The same images have the same name: whoever replaces or removes it, no other rows go.
    name = hashlib.blake2b(images, digest_size=DIGEST.itemsize).hexdigest()
    path = os.path.join(self.folder, key[:2], f'{key}-{name}{SUFFIX}')
    start = START.pack(MAGIC, *rows.shape)
    blocks = (rows[block:block + BLOCK] for block in range(0, len(rows), BLOCK))
    head = digests.tobytes() + _crcs(*blocks)
    size = len(start) + len(head) + 4 + rows.nbytes
    if size > self.max_bytes:
      self._go_on_without(f'{size} bytes at once are more than its bound of {self.max_bytes}')
      return None
    try:
      with atomic.writing(path) as file:
        file.write(start + head + _crcs(key.encode() + start + head))
        file.write(rows)
    except OSError as error:
      self._go_on_without(error)
      return None
    self._room -= size
    return path

  def _merge(self, key, paths):
    """Makes one segment of several (bytes by path), and removes those once it is in place.

    What another process writes meanwhile has another name, or the same images.
    """
    digests, rows = [], []
    try:
      for path in paths:
        with open(path, 'rb') as file:
          segment = _Segment(file, key)
          digests.append(segment.digests)
          rows.append(segment.read(np.arange(len(segment.digests))))
    except (_DamagedError, OSError):  # removed meanwhile, or for the next `get` to say
      return
    merged = self._write(key, np.concatenate(digests), np.concatenate(rows))
    if merged:
      for path in paths:
        if path != merged and _remove(path):
          self._room += paths[path]

  def _evict(self, written):
    """Measures the folder and brings it below its bound; removes what killed writers left."""
    files = []
    for shard in os.listdir(self.folder):
      with contextlib.suppress(OSError):  # not ours
        for path, status in _files(os.path.join(self.folder, shard)):
          if not os.path.basename(path).startswith('.'):
            files.append((path, status))
          elif status.st_mtime < time.time() - STALE:
            _remove(path)
    total = sum(status.st_size for _, status in files)
    if total > self.max_bytes:
      files.sort(key=lambda pair: pair[1].st_mtime_ns)
      for path, status in files:
        if total <= KEPT * self.max_bytes:
          break
        if path != written and _remove(path):
          total -= status.st_size
    # Others write too: what they add is seen after a tenth of the bound at the latest.
    self._room = min(self.max_bytes - total, self.max_bytes // 10)

  def _discard(self, path, reason):
    """Removes a segment that cannot be used."""
    self._warn(path, f'{path} is damaged ({reason}): its embeddings are computed again.')
    _remove(path)

  def _go_on_without(self, reason):
    self._warn(None, f'the cache of embeddings {self.folder} fails ({reason}): going on '
                     'without what it cannot read or write.')

  def _warn(self, about, message):
    """Warns once of each thing."""
    if about not in self._warned:
      self._warned.add(about)
      logger.warning('%s', message)


def _files(folder):
  """Lists path and `os.stat` of our files in a folder, temporary ones included."""
  found = []
  with os.scandir(folder) as entries:
    for entry in entries:
      if SUFFIX in entry.name:
        with contextlib.suppress(FileNotFoundError):
          found.append((entry.path, entry.stat()))
  return found


def _remove(path):
  """Removes a file; whether it is gone, by whomever."""
  try:
    os.unlink(path)
  except FileNotFoundError:
    pass
  except OSError:
    return False
  return True
