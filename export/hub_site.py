"""zoo-hub site: writes the catalogue of a hub as files, for any web server, bucket or disk.

They are the pages that zoo-hub serve shows, and work from file:// too. Nothing in them asks another
host for anything. The modules themselves are not copied. A catalogue that this command wrote to
--out before is replaced; any other folder is left alone.
"""

import os
import tempfile

from absl import flags

from export import catalogue_pages
from export import hub
from zoo import atomic
from zoo import cli

FLAGS = cli.new_flags()
flags.DEFINE_string('root', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('out', None, 'Folder of the catalogue.', flag_values=FLAGS)
flags.DEFINE_string('url', None, 'Where others find the modules, for the lines that load them, '
                    'such as https://hub.example.org (default: the path of --root).',
                    flag_values=FLAGS)


def write(root, out, address=None):
  """Writes the catalogue of a hub, whole or not at all.

  Args:
    root: folder of the hub.
    out: folder that is made; or an earlier catalogue, or an empty folder, that is replaced.
    address: of the hub, a folder or a URL, for the lines that load a module; None for `root`.

  Returns:
    How many modules it has.

  Raises:
    ValueError: the root is no folder or has no module that is well described, or `out` has
      files that are none of a catalogue; it is left as it is.
  """
  if not os.path.isdir(root):
    raise ValueError(f'--root={root} is not a folder.')
  pages = catalogue_pages.Catalogue(root)
  entries = pages.entries()
  if not entries:
    raise ValueError(f'--root={root} has no module that could be shown.')
  target = os.path.realpath(out)
  address = address.rstrip('/') if address else os.path.abspath(root)
  if not os.path.exists(target):
    _fill(target, pages, address)
    return len(entries)
  strange = _strange(target)
  if strange:
    raise ValueError(f'--out={out} has {strange}, which is no file of a catalogue: give another '
                     'folder.')
  with tempfile.TemporaryDirectory(prefix='.site-', dir=os.path.dirname(target)) as beside:
    new, old = os.path.join(beside, 'new'), os.path.join(beside, 'old')
    _fill(new, pages, address)
    os.rename(target, old)
    try:
      os.rename(new, target)
    except OSError:
      os.rename(old, target)
      raise
  return len(entries)


def _fill(folder, pages, address):
  with atomic.writing_folder(folder) as temporary:
    for name, text in pages.files(address):
      path = os.path.join(temporary, name)
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.write(text)


def _strange(folder):
  """What is in a folder that no catalogue has, as text; None if nothing is."""
  if not os.path.isdir(folder):
    return 'no folder'
  names = {*catalogue_pages.PAGES, *catalogue_pages.ASSETS, catalogue_pages.INDEX}
  try:
    listed = atomic.read_json(os.path.join(folder, catalogue_pages.INDEX))['modules']
    names |= {catalogue_pages.page_of(one['handle']) for one in listed}
  except (FileNotFoundError, ValueError, TypeError, KeyError):
    names = set()
  for at, folders, files in os.walk(folder):
    for name in files + [one for one in folders if os.path.islink(os.path.join(at, one))]:
      found = os.path.relpath(os.path.join(at, name), folder)
      if found.replace(os.sep, '/') not in names:
        return found
  return None


def main(values, command):
  del command
  if not values.out:
    raise flags.Error('give --out, the folder of the catalogue')
  number = write(values.root, values.out, values.url)
  index = os.path.join(os.path.abspath(values.out), 'index.html')
  print(f'{index}: {number} modules')
