"""Work directories: who owns one, what it is for, and that it goes on after a kill."""

import contextlib
import fcntl
import json
import logging
import os
import socket

from zoo import atomic

logger = logging.getLogger(__name__)

SETTINGS = 'settings.json'


class InUseError(ValueError):
  """Another process holds a work directory; the message names it."""


@contextlib.contextmanager
def opened(path, settings, owner=True):
  """Holds a work directory for one process and one set of settings.

  Args:
    path: the folder, made if need be.
    settings: a JSON-like dict of everything that changes the result.
    owner: False in all but one of the processes of one run; they only read there.

  Yields:
    The path. The lock goes with the process, also when it is killed.

  Raises:
    InUseError: another process holds it.
    ValueError: it belongs to other settings; the message names the difference.
    OSError: its file system has no locks.
  """
  if os.path.exists(path) and not os.path.isdir(path):
    raise ValueError(f'--work_dir={path} is a file; name a folder.')
  os.makedirs(path, exist_ok=True)
  if not owner:
    yield path
    return
  with open(os.path.join(path, '.lock'), 'a+', encoding='utf-8') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.seek(0)
      raise InUseError(
          f'--work_dir={path} is in use by process {lock.read().strip() or "unknown"}: '
          'wait for it, or name another folder.') from None
    except OSError as error:
      raise OSError(f'--work_dir={path} cannot be locked ({error.strerror}): name a folder on a '
                    'file system with locks.') from None
    lock.truncate(0)
    lock.write(f'{os.getpid()} on {socket.gethostname()}')
    lock.flush()
    if settle(path, settings):
      logger.info('Going on in %s', path)
    yield path


def settle(path, settings):
  """Says what a folder is for, or checks that it is for this; several processes may.

  Args:
    path: the folder.
    settings: as in `opened`.

  Returns:
    Whether it was for this already.

  Raises:
    ValueError: it belongs to other settings; the message names the difference.
  """
  settings = json.loads(json.dumps(settings))  # as they read back: tuples are lists there
  own = os.path.join(path, SETTINGS)
  if not os.path.exists(own):
    atomic.write_json(own, settings)
    return False
  difference = _difference(atomic.read_json(own), settings)
  if difference:
    raise ValueError(f'--work_dir={path} belongs to another run: {difference}. '
                     'Name another folder, or remove this one.')
  return True


def _difference(there, here, name=''):
  """The first setting that differs, in words, or ''."""
  if isinstance(there, dict) and isinstance(here, dict):
    found = (_difference(there.get(key), here.get(key), f'{name}.{key}' if name else key)
             for key in sorted(set(there) | set(here)))
    return next(filter(None, found), '')
  return '' if there == here else f'{name} is {there!r} there and {here!r} here'
