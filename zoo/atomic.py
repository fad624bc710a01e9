"""Files that are there whole or not at all: temporary name, fsync, rename."""

import contextlib
import json
import os
import shutil
import tempfile


@contextlib.contextmanager
def writing(path):
  """Opens a binary file that appears at `path` when the block ends without an error.

  Args:
    path: where it goes; its folder is made. An earlier file stays until then.

  Yields:
    The open file. If the block raises, nothing is left behind.
  """
  folder = os.path.dirname(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  handle, temporary = tempfile.mkstemp(prefix='.' + os.path.basename(path), dir=folder)
  try:
    with os.fdopen(handle, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)  # mkstemp's 0600 is for secrets
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise


def write_text(path, text):
  """Writes a text file, UTF-8."""
  with writing(path) as file:
    file.write(text.encode())


def write_json(path, value):
  """Writes a value as indented JSON. NaN is an error: JSON has none."""
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def read_json(path):
  """The value of a JSON file.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not JSON; the message names the file.
  """
  with open(path, encoding='utf-8') as file:
    try:
      return json.load(file)
    except ValueError as error:
      raise ValueError(f'{path} is not JSON ({error}).') from None


@contextlib.contextmanager
def writing_folder(target):
  """A folder to write into, which appears at `target` when the block ends without an error.

  Args:
    target: where it goes; must not exist. Its parents are made.

  Yields:
    The path of an empty folder beside the target. If the block raises, it and the parents
    that were made for it are removed.

  Raises:
    FileExistsError: there is something at `target`, before or after the block.
  """
  target = os.path.abspath(target)
  if os.path.exists(target):
    raise FileExistsError(f'{target} exists.')
  parent = os.path.dirname(target)
  made, above = 0, parent
  while not os.path.exists(above):
    made, above = made + 1, os.path.dirname(above)
  os.makedirs(parent, exist_ok=True)
  temporary = tempfile.mkdtemp(prefix='.writing-', dir=parent)
  try:
    os.chmod(temporary, 0o755)  # mkdtemp's 0700 is for secrets
    yield temporary
    for root, _, files in os.walk(temporary):
      for path in [root, *(os.path.join(root, name) for name in files)]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
          os.fsync(descriptor)
        finally:
          os.close(descriptor)
    if os.path.exists(target):
      raise FileExistsError(f'{target} exists.')
    os.rename(temporary, target)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):  # a parent that another process uses by now stays
      for _ in range(made):
        os.rmdir(parent)
        parent = os.path.dirname(parent)
    raise
