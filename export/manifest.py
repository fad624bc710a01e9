"""SHA256SUMS: the digest of every file of a module, as `sha256sum -c` reads it.

The fingerprint in module.json proves graph and weights; this proves what else is there, and says
which file is damaged. Neither says who made it: that is what a signature is for
(`export.signing`).
"""

import os
import re
import stat

from export import archives
from export import card
from export import metadata
from zoo import atomic
from zoo import digests

FILE = 'SHA256SUMS'
SIGNATURE = 'model.sig'  # comes later, and covers this file
_LINE = re.compile(r'([0-9a-f]{64})  ([^\n\r]+)')
MOST = 1 << 20  # bytes; twice what 1,000 files with the longest names need


def seal(path, description):
  """Completes a module: writes its module.json, its card and its SHA256SUMS.

  Args:
    path: folder of a SavedModel.
    description: as `export.metadata.write` takes it.
  """
  metadata.write(path, description)
  card.write(path)
  write(path)


def write(path):
  """Writes the SHA256SUMS of a folder.

  Raises:
    ValueError: as `export.archives.files` does.
  """
  atomic.write_text(os.path.join(path, FILE), ''.join(
      f'{digests.of_file(os.path.join(path, name))}  {name}\n' for name in _names(path)))


def check(path, description):
  """Checks that a module is what its SHA256SUMS, if it has one, and its module.json say.

  Only files that are in the folder are opened, whatever SHA256SUMS says.

  Args:
    path: folder of a module, or a .keras file.
    description: its module.json, as `export.metadata.read` gives it.

  Raises:
    ValueError: a file was changed, is missing or is not listed, there is a link, SHA256SUMS is
      no such list, or graph and weights have another fingerprint. The message goes on from a
      colon and ends without a full stop.
  """
  if os.path.isdir(path):
    _check_files(path)
  # It names the module in caches, where another's embeddings must not come from.
  if metadata.fingerprint(path) != description['fingerprint']:
    raise ValueError(f'its files are not those that {metadata.FILE} describes')


def _check_files(path):
  """`check`, of SHA256SUMS."""
  wanted = read(path)
  if wanted is None:
    return
  there = _names(path)
  for name in sorted({*wanted, *there}):
    if name not in wanted:
      raise ValueError(f'{name!r} is not in {FILE}')
    if name not in there:
      raise ValueError(f'{name!r} is missing')
    if digests.of_file(os.path.join(path, name)) != wanted[name]:
      raise ValueError(f'{name!r} was changed')


def read(path):
  """The digests that a folder's SHA256SUMS lists, by name; None without one.

  Raises:
    ValueError: it is no such list.
  """
  file = os.path.join(path, FILE)
  if not os.path.lexists(file):
    return None
  if os.path.islink(file) or not os.path.isfile(file) or os.path.getsize(file) > MOST:
    raise ValueError(f'{FILE} is no list of files')
  with open(file, 'rb') as content:
    return parse(content.read())


def parse(content):
  """`read`, of the bytes of a SHA256SUMS."""
  try:
    lines = content.decode().removesuffix('\n').split('\n')
  except UnicodeDecodeError:
    raise ValueError(f'{FILE} is not UTF-8') from None
  found = {}
  for number, line in enumerate(lines, 1):
    match = _LINE.fullmatch(line)
    if not match or match[2] in found:
      raise ValueError(f'{FILE} is damaged in line {number}')
    found[match[2]] = match[1]
  return found


def _names(path):
  """The files that SHA256SUMS must list, sorted."""
  return [name for name, status in archives.files(path)
          if stat.S_ISREG(status.st_mode) and name not in (FILE, SIGNATURE)]
