"""A module as a tar.gz: made so that equal files give equal bytes, and unpacked without trust.

An archive of a stranger may try to write outside of its folder, through links or names, to fill
the disk or the memory, or to mean different things to different readers. `extract` therefore
reads it forwards once, allows itself a bounded number of bytes for each header, writes only
plain files that were not there, and refuses everything that no module needs.
"""

import dataclasses
import gzip
import os
import re
import stat
import tarfile
import unicodedata
import zlib

from zoo import atomic
from zoo import cli

# Of two archives with this in common, equal files have equal bytes.
FORMAT = f'tar.gz 1, zlib {zlib.ZLIB_RUNTIME_VERSION}'

_CHUNK = 1 << 20
_HEADER = 1 << 16  # bytes; what stands between two members, extended headers included
_REST = 1 << 20  # bytes; zeros behind the last member, of which tar writes 10 KiB
_SHARED = 16  # headers for all members; git writes one
_DEPTH, _PART, _NAME = 16, 255, 512  # folders, bytes of each part and of all of a name
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\]|^[A-Za-z]:')  # other systems' separators and drives
_LINKS = {tarfile.SYMTYPE: 'symbolic link', tarfile.LNKTYPE: 'hard link',
          tarfile.CHRTYPE: 'device', tarfile.BLKTYPE: 'device', tarfile.FIFOTYPE: 'pipe'}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What an archive may hold.

  Attributes:
    members: files and folders.
    size: bytes of all files, unpacked; twice the largest published BiT network.
  """
  members: int = 1000
  size: int = 8 << 30


class RefusedError(ValueError):
  """An archive is damaged, or has what no module needs."""


def files(path):
  """The files and folders of a module, parents first.

  Args:
    path: folder of the module.

  Returns:
    A list of (name, os.stat_result), names relative and with '/', sorted.

  Raises:
    ValueError: one is a link, a device or a pipe, which could bring in what lies elsewhere.
    OSError: the folder cannot be read.
  """
  found = []

  def walk(folder, prefix):
    with os.scandir(folder) as entries:
      for entry in entries:
        name, status = prefix + entry.name, entry.stat(follow_symlinks=False)
        found.append((name, status))
        if stat.S_ISDIR(status.st_mode):
          walk(entry.path, name + '/')
        elif not stat.S_ISREG(status.st_mode):
          raise ValueError(f'{entry.path} is neither a file nor a folder: a module must hold its '
                           'files itself.')

  walk(path, '')
  return sorted(found, key=lambda pair: pair[0].split('/'))


def state(path):
  """What `files` finds, as a list that is another one once a file has changed; raises as it."""
  return [(name, status.st_size, status.st_mtime_ns, status.st_ino, status.st_mode)
          for name, status in files(path)]


def pack(path, target):
  """Makes the archive of a module; equal files and names give equal bytes (see `FORMAT`).

  Args:
    path: folder of the module.
    target: where the tar.gz goes; it appears whole or not at all.

  Raises:
    ValueError: as `files` does.
    OSError: a file cannot be read or changed size meanwhile, or the disk is full.
  """
  # Trained weights are noise to gzip: its fastest level is a few per cent larger than its best.
  with (atomic.writing(target) as out,
        gzip.GzipFile('', 'wb', compresslevel=1, fileobj=out, mtime=0) as stream,
        tarfile.TarFile(fileobj=stream, mode='w', format=tarfile.PAX_FORMAT) as tar):
    for name, status in files(path):
      member = tarfile.TarInfo(name)  # time, owner and group stay 0
      if stat.S_ISDIR(status.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
      else:
        member.size = status.st_size
        with open(os.path.join(path, name), 'rb') as content:
          tar.addfile(member, content)


def unpack(archive, target, limits=Limits()):
  """Unpacks an archive that need not be trusted; the folder appears whole or not at all.

  Args:
    archive: path of a tar.gz, or of a tar.
    target: folder that must not exist.
    limits: a `Limits`.

  Raises:
    RefusedError (a ValueError): as `extract` does.
    OSError: there is something at `target`, or the disk is full.
  """
  with atomic.writing_folder(target) as folder:
    extract(archive, folder, limits)


def extract(archive, folder, limits=Limits()):
  """Writes what an archive holds into an empty folder, and nothing anywhere else.

  Args:
    archive: path of a tar.gz, or of a tar.
    folder: an empty folder, of which nobody uses anything yet: what was written before an error
      stays in it.
    limits: a `Limits`.

  Raises:
    RefusedError (a ValueError): the archive is damaged or has an absolute name, '..', another
      name that some system cannot have, a link, a device, a name twice, a sparse file, more
      members or bytes than the limits, headers without end or something behind its end.
    OSError: the disk is full.
  """
  try:
    with open(archive, 'rb') as file:
      zipped = file.read(2) == b'\x1f\x8b'
      file.seek(0)
      with gzip.GzipFile(fileobj=file) if zipped else file as stream:
        _extract(_Forwards(stream), folder, limits)
  except RefusedError as error:
    raise RefusedError(f'{archive} is refused: {error}.') from None
  except Exception as error:  # whatever tarfile, gzip and zlib stumble over
    if isinstance(error, OSError) and error.errno is not None:
      raise  # the disk's error, not the archive's
    raise RefusedError(f'{archive} is damaged or no tar.gz ({type(error).__name__}: '
                       f'{cli.last_line(error)}).') from None


class _Forwards:
  """A stream that is read forwards only, and never further than it was allowed to.

  tarfile would read headers of any length into memory, follow sizes below 0 back to where it
  was, and pass over a damaged header as if the archive ended there.
  """

  def __init__(self, stream):
    self._stream, self._at, self._allowed = stream, 0, 0
    self.last = b''

  def allow(self, size):
    """Sets how many bytes may be read from here on."""
    self._allowed = size

  def tell(self):
    return self._at

  def read(self, size):
    if not 0 <= size <= self._allowed:
      raise RefusedError(f'a header has more than {_HEADER:,} bytes')
    self.last = self._stream.read(size)
    self._at += len(self.last)
    self._allowed -= len(self.last)
    return self.last

  def seek(self, position):
    if position < self._at:
      raise RefusedError('a header points back')
    self.read(position - self._at)


def _extract(stream, folder, limits):
  """`extract`, of a `_Forwards`."""
  stream.allow(_HEADER)
  tar = tarfile.TarFile(fileobj=stream, encoding='utf-8', errors='surrogateescape')
  kinds, size = {}, 0
  for count in range(1, limits.members + 2):
    member = tar.next()
    if member is None:
      break
    if count > limits.members:
      raise RefusedError(f'it has more than {limits.members:,} files and folders')
    tar.members.clear()  # or all are kept
    if len(tar.pax_headers) > _SHARED:  # each member gets a copy of them
      raise RefusedError(f'more than {_SHARED} headers hold for all of its members')
    if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or (
        member.issparse()):
      raise RefusedError(f'{member.name!r} is a {_LINKS.get(member.type, "special file")}')
    parts = _parts(member.name)
    if not parts and member.isdir():
      stream.allow(_HEADER)
      continue  # '.', the folder itself
    _enter(kinds, member.name, parts, 'folder' if member.isdir() else 'file')
    path = os.path.join(folder, *parts)
    if hasattr(tarfile, 'data_filter'):  # since Python 3.11.4; a second opinion
      tarfile.data_filter(member, folder)
    if member.isdir():
      os.makedirs(path, exist_ok=True)
    else:
      size += member.size
      if member.size < 0 or size > limits.size:
        raise RefusedError(f'its files are more than {limits.size:,} bytes')
      os.makedirs(os.path.dirname(path), exist_ok=True)
      _copy(stream, member, path)
    stream.allow(_HEADER)
  if stream.last.strip(b'\0'):
    raise RefusedError('a header is damaged')
  stream.allow(_REST)
  rest = stream.read(_REST)  # reads on to the checksum, too
  if len(rest) == _REST or rest.strip(b'\0'):
    raise RefusedError('something stands behind its end')


def _copy(stream, member, path):
  """Writes a member to a file that is not there yet."""
  if stream.tell() != member.offset_data:
    raise RefusedError(f'{member.name!r} is not where its header is')
  stream.allow(member.size)
  left = member.size
  with open(path, 'xb') as out:
    while left:
      chunk = stream.read(min(left, _CHUNK))
      if not chunk:
        raise RefusedError(f'it ends within {member.name!r}')
      out.write(chunk)
      left -= len(chunk)


def _parts(name):
  """The parts of a member's name; none for the folder itself.

  Raises:
    RefusedError: the name leaves the folder, or some file system could not have it.
  """
  parts = [part for part in name.split('/') if part not in ('', '.')]
  try:
    encoded = name.encode()
  except UnicodeEncodeError:
    raise RefusedError(f'the name {name!r} is not UTF-8') from None
  if name.startswith('/') or '..' in parts:
    raise RefusedError(f'the name {name!r} leaves the folder')
  if (_FORBIDDEN.search(name) or len(encoded) > _NAME or len(parts) > _DEPTH
      or any(len(part.encode()) > _PART for part in parts)):
    raise RefusedError(f'the name {name[:80]!r} is not one that every system can have')
  return parts


def check_names(names):
  """Checks names of files that are to be written below one folder.

  Args:
    names: relative, with '/'.

  Raises:
    RefusedError (a ValueError): one leaves the folder, is not as some system has it, or two
      are or would be the same file.
  """
  kinds = {}
  for name in names:
    parts = _parts(name)
    if '/'.join(parts) != name:
      raise RefusedError(f'the name {name[:80]!r} is not one that every system can have')
    _enter(kinds, name, parts, 'file')


def _enter(kinds, name, parts, kind):
  """Notes that a name is a file or a folder.

  Args:
    kinds: dict of what each name is so far, names as file systems that ignore case have them.
    name, parts: as the archive has it, and its parts.
    kind: 'file' or 'folder'; a folder that only its files imply is 'implied'.

  Raises:
    RefusedError: it was there already, or is a file and a folder.
  """
  keys = [unicodedata.normalize('NFC', '/'.join(parts[:i + 1])).casefold()
          for i in range(len(parts))]
  if not keys:
    raise RefusedError(f'{name!r} is a file without a name')
  if any(kinds.setdefault(key, 'implied') == 'file' for key in keys[:-1]):
    raise RefusedError(f'{name!r} is below a file')
  if keys[-1] in kinds and (kind, kinds[keys[-1]]) != ('folder', 'implied'):
    raise RefusedError(f'{name!r} is there twice')
  kinds[keys[-1]] = kind
