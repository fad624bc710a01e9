"""What this machine keeps to save work, and the removal of what has not been used for long.

All of it can be made or fetched again: embeddings of images, archives that a server packed, and
modules that were fetched. Whoever reads embeddings or a module sets its time; archives have that of
their making.
"""

import contextlib
import dataclasses
import fcntl
import glob
import os
import re
import shutil
import time

from export import kept
from zoo import caches

EMBEDDINGS, ARCHIVES, MODULES = 'embeddings', 'archives', 'modules'
SUFFIX = {EMBEDDINGS: '.zoo-embeddings', ARCHIVES: '.tar.gz'}  # of the files in their folders
# In the folder itself by URL, as TensorFlow Hub's client names them; in contents/ by content. What
# has come of one whose transfer broke off is its part.
_FETCHED = re.compile(r'([0-9a-f]{40}|contents/[0-9a-f]{64})(\.part)?')


@dataclasses.dataclass(frozen=True)
class Entry:
  """What can be removed as one.

  Attributes:
    path: a file, or the folder of a module.
    size: bytes.
    used: seconds since the epoch of its last use.
  """
  path: str
  size: int
  used: float


def folder(cache):
  """The folder of a cache, one of the three."""
  return kept.root() if cache == MODULES else caches.folder(cache)


def entries(cache):
  """The `Entry`s of a cache, the longest unused first. What others keep there is none."""
  found = _modules() if cache == MODULES else _files(cache)
  return sorted(found, key=lambda entry: entry.used)


def _modules():
  """Fetched modules and parts of such, each of which is one entry."""
  root, found = kept.root(), []
  for path in (*glob.glob(f'{glob.escape(root)}/*'), *glob.glob(f'{glob.escape(root)}/contents/*')):
    if _FETCHED.fullmatch(os.path.relpath(path, root)) and not os.path.islink(path):
      files = [path] if os.path.isfile(path) else [
          os.path.join(above, name) for above, _, names in os.walk(path) for name in names]
      found.append(Entry(path, sum(os.lstat(file).st_size for file in files),
                         os.stat(path).st_mtime))
  return found


def _files(cache):
  found = []
  for above, _, names in os.walk(folder(cache)):
    for name in names:
      if name.endswith(SUFFIX[cache]) and not name.startswith('.'):
        with contextlib.suppress(FileNotFoundError):  # others collect, too
          status = os.lstat(os.path.join(above, name))
          found.append(Entry(os.path.join(above, name), status.st_size, status.st_mtime))
  return found


def collect(cache, days, dry_run=False):
  """Removes what has not been used for so many days.

  Args:
    cache: one of the three.
    days: 0 for all.
    dry_run: only say what would go.

  Returns:
    The `Entry`s that went. A module that is being fetched stays.
  """
  latest = time.time() - days * 24 * 3600
  old = [entry for entry in entries(cache) if entry.used <= latest]
  if dry_run:
    return old
  return [entry for entry in old
          if (_remove_module if cache == MODULES else _remove_file)(entry.path)]


def _remove_file(path):
  with contextlib.suppress(FileNotFoundError):
    os.unlink(path)
    return True
  return False


def _remove_module(path):
  """Removes a fetched module, or a part, as those see it who would fetch it: at once."""
  whole = path.removesuffix('.part')
  with open(whole + '.fetching', 'a', encoding='utf-8') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return False
    gone = path + '.gone'
    try:
      os.rename(path, gone)
    except FileNotFoundError:
      return False
    if os.path.isdir(gone):
      shutil.rmtree(gone)
    else:
      os.unlink(gone)
    for beside in '.descriptor.txt', '.etag':  # what is said there is of what has gone
      with contextlib.suppress(FileNotFoundError):
        os.unlink(whole + beside)
  return True
