"""Modules of other places as they are kept here: by content, whole, once.

Below $TFHUB_CACHE_DIR, or tfhub_modules in the folder for temporary files:
  contents/DIGEST        a module; the digest is that of its SHA256SUMS, so that the same module
                         of two places is kept once
  contents/DIGEST.part   what has been fetched of one so far
  looked_up/DIGEST.json  what a name stood for when it was last looked up

One process downloads, the others wait for it.
"""

import collections.abc
import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile

from export import archives
from export import manifest
from export import metadata
from zoo import atomic

logger = logging.getLogger(__name__)

LIMITS = archives.Limits()

# What is fetched of a module without SHA256SUMS, whose place may hold much else.
_SAVED_MODEL = re.compile(
    r'saved_model\.pb|fingerprint\.pb|module\.json|README\.md|(variables|assets)/.+')


@dataclasses.dataclass(frozen=True)
class Source:
  """A module at some other place, in one state.

  Attributes:
    files: size of each file in bytes, by name relative to the module, as the place says.
    state: text that is another one if a file is; for modules without SHA256SUMS.
    download: function (name, path, work) that makes `path` the file of that name. It may go on
      from what is at `path`. `work` is a folder for the client's own needs; what it leaves there
      goes.
  """
  files: dict[str, int]
  state: str
  download: collections.abc.Callable[[str, str, str], None]


def root():
  """The folder of all that is kept; TensorFlow Hub's client keeps its modules there, too."""
  return os.environ.get('TFHUB_CACHE_DIR') or os.path.join(
      tempfile.gettempdir(), 'tfhub_modules')


def holds(path):
  """Whether a path is below `root`: what is there can be removed and fetched again."""
  return os.path.realpath(path).startswith(os.path.realpath(root()) + os.sep)


@contextlib.contextmanager
def locked(path):
  """Waits until no other process is in such a block for the path of a file."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'a', encoding='utf-8') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # the system takes it from a process that dies
    yield


def is_there(folder):
  """Whether a folder has something in it; TensorFlow Hub's client asks the same."""
  return os.path.isdir(folder) and bool(os.listdir(folder))


def use(folder):
  """`is_there`; if so, sets the time of its last use (`export.caches`)."""
  there = is_there(folder)
  if there:
    with contextlib.suppress(OSError):  # somebody else's
      os.utime(folder)
  return there


def module(name, fixed, look, limits=LIMITS):
  """The folder of the module that a name stands for.

  Args:
    name: of the module, a URL.
    fixed: whether it always stands for the same, which then needs no network once it is here.
    look: function that returns its `Source`; raises ConnectionError without network.
    limits: an `export.archives.Limits`.

  Returns:
    A path, which holds what SHA256SUMS, if there is one, and module.json say.

  Raises:
    ConnectionError: without network, and it was not fetched before.
    OSError: network or disk; what has come is kept, and the next call goes on from there.
    ValueError: it is no module or another than it says, a name would not stay in its folder, or
      there is more than the limits. Nothing of it is kept.
  """
  if fixed:
    with contextlib.suppress(FileNotFoundError):
      folder = _folder(_last(name))
      if use(folder):
        return folder
  folder = _folder(looked_up(name, lambda: _fetched(look(), limits)))
  if not use(folder):
    raise ConnectionError('it cannot be reached and is not kept any more')
  return folder


def looked_up(name, look):
  """The JSON value `look()`; if that raises ConnectionError, the one of last time.

  Args:
    name: text that tells it from others.
    look: function without arguments.
  """
  try:
    value = look()
  except ConnectionError as error:
    with contextlib.suppress(FileNotFoundError):
      value = _last(name)
      logger.warning('%s: %s; taking what it was the last time.', name, error)
      return value
    raise
  atomic.write_json(_record(name), {'name': name, 'value': value})
  return value


def _record(name):
  return os.path.join(root(), 'looked_up', hashlib.sha256(name.encode()).hexdigest() + '.json')


def _last(name):
  return atomic.read_json(_record(name))['value']


def _folder(content):
  return os.path.join(root(), 'contents', content)


def _fetched(source, limits):
  """Fetches what is not here yet; returns the name of the content's folder."""
  if 'saved_model.pb' not in source.files:
    raise ValueError('it is no module: it has no saved_model.pb')
  sums = _sums(source)
  if sums is None:
    wanted = [name for name in source.files if _SAVED_MODEL.fullmatch(name)]
    content = hashlib.sha256(source.state.encode()).hexdigest()
  else:
    wanted = [*manifest.parse(sums), manifest.FILE]
    wanted += [manifest.SIGNATURE] * (manifest.SIGNATURE in source.files)
    content = hashlib.sha256(sums).hexdigest()
  folder = _folder(content)
  _check_wanted(source, wanted, limits)
  with locked(folder + '.fetching'):
    if not is_there(folder):
      _fetch(source, wanted, sums, folder)
  return content


def _sums(source):
  """SHA256SUMS as bytes, or None if there is none."""
  if manifest.FILE not in source.files:
    return None
  if source.files[manifest.FILE] > manifest.MOST:
    raise ValueError(f'its {manifest.FILE} is more than {manifest.MOST:,} bytes')
  os.makedirs(root(), exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='.sums-', dir=root()) as folder:
    path = os.path.join(folder, manifest.FILE)
    source.download(manifest.FILE, path, os.path.join(folder, 'work'))
    with open(path, 'rb') as file:
      return file.read()


def _check_wanted(source, wanted, limits):
  """Raises ValueError unless all files can be had, below one folder, within the limits."""
  archives.check_names(wanted)
  for name in wanted:
    if name not in source.files:
      raise ValueError(f'{name!r} is missing')
  if len(wanted) > limits.members:
    raise ValueError(f'it has more than {limits.members:,} files')
  if sum(source.files[name] for name in wanted) > limits.size:
    raise ValueError(f'its files are more than {limits.size:,} bytes')


def _fetch(source, wanted, sums, folder):
  """Makes `folder` the module, by way of a part that is gone on from."""
  part = folder + '.part'
  files, work = os.path.join(part, 'files'), os.path.join(part, 'work')
  try:
    for name in wanted:
      path, size = os.path.join(files, name), source.files[name]
      os.makedirs(os.path.dirname(path), exist_ok=True)
      if name == manifest.FILE:
        with open(path, 'wb') as file:
          file.write(sums)  # those that the folder is named by
      elif not os.path.exists(path) or os.path.getsize(path) != size:
        source.download(name, path, work)
        _check_size(name, path, size)
    try:
      manifest.check(files, metadata.read(files))
    except ValueError as error:
      raise ValueError(str(error).replace(files + os.sep, '').replace(files, 'it')) from None
    shutil.rmtree(folder, ignore_errors=True)  # an empty one is none
    with atomic.writing_folder(folder) as temporary:
      for entry in os.listdir(files):
        os.rename(os.path.join(files, entry), os.path.join(temporary, entry))
  except ValueError:
    shutil.rmtree(part, ignore_errors=True)
    raise
  shutil.rmtree(part, ignore_errors=True)


def _check_size(name, path, size):
  there = os.path.getsize(path)
  if there > size:
    raise ValueError(f'{name!r} has more bytes than its place says')
  if there < size:
    raise OSError(f'the transfer of {name!r} broke off after {there:,} of {size:,} bytes')
