"""Tasks from folders of images."""

import hashlib
import logging
import os

from zoo import cli
from zoo import pixels
from zoo import tasks

logger = logging.getLogger(__name__)

ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
SPLITS = {'train': ('train', 'training'), 'validation': ('val', 'valid', 'validation'),
          'test': ('test', 'testing')}


def load(path):
  """A folder with one sub-folder a class, or with train/ (val/) test/ of such folders.

  Without a test folder, every fifth image of each class is for testing. Order and cut
  follow a hash of the image's path below the folder: they are the same on any machine, and
  the order mixes the classes.

  Args:
    path: the folder. Hidden files and files without an image's ending are passed over.

  Returns:
    A `zoo.tasks.Task`.

  Raises:
    ValueError: it is no such folder, has fewer than two classes, or a class has too few
      images to be cut; the message says what to do.
  """
  if not os.path.isdir(path):
    raise ValueError(f'folder:{path}: there is no such folder.')
  roots = {split: os.path.join(path, name) for split, names in SPLITS.items()
           for name in names if _folders(os.path.join(path, name))}
  if 'train' not in roots:
    roots = {'train': path}
  classes = _folders(roots['train'])
  if len(classes) < 2:
    raise ValueError(f'folder:{path}: {len(classes)} sub-folders with images; at least two '
                     'are needed, one a class.')
  for split, root in roots.items():
    unknown = sorted(set(_folders(root)) - set(classes))
    if unknown:
      raise ValueError(f'folder:{path}: {split} has class {unknown[0]!r}, which training '
                       'lacks: add images of it or remove it.')
  files = {split: [(os.path.join(root, name, file), label)
                   for label, name in enumerate(classes)
                   for file in _images(os.path.join(root, name))]
           for split, root in roots.items()}
  if 'test' not in files:
    files['train'], files['test'] = _cut(path, files['train'], classes)
  for split in files:
    files[split].sort(key=lambda entry: _digest(path, entry[0]))

  def reader(split, indices):
    for i in indices:
      file, label = files[split][i]
      try:
        image = pixels.to_rgb(pixels.decode(file))
      except Exception as error:  # Pillow's plugins raise what they like
        logger.warning('%s cannot be read and is skipped (%s).', file, cli.last_line(error))
        image = None
      yield image, label

  def namer(split, indices):
    return [os.path.relpath(files[split][i][0], path) for i in indices]

  listing = hashlib.sha256()
  for split in sorted(files):
    for file, _ in files[split]:
      relative = os.path.relpath(file, path)
      listing.update(f'{split}\0{relative}\0{os.path.getsize(file)}\0'.encode())
  return tasks.Task(f'folder:{path}', tuple(classes),
                    {split: len(entries) for split, entries in files.items()},
                    f'folder:{listing.hexdigest()[:12]}', reader, namer=namer)


def _folders(root):
  """The sub-folders of `root` that hold images, sorted; none if it is no folder."""
  if not os.path.isdir(root):
    return []
  return sorted(name for name in os.listdir(root) if not name.startswith('.')
                and os.path.isdir(os.path.join(root, name))
                and _images(os.path.join(root, name)))


def _images(folder):
  if not os.path.isdir(folder):
    return []
  return sorted(name for name in os.listdir(folder)
                if name.lower().endswith(ENDINGS) and not name.startswith('.'))


def _digest(path, file):
  return hashlib.sha256(os.path.relpath(file, path).encode()).digest()


def _cut(path, entries, classes):
  """Cuts (file, label) pairs into train and test, class by class."""
  train, test = [], []
  for label, name in enumerate(classes):
    own = sorted((e for e in entries if e[1] == label), key=lambda e: _digest(path, e[0]))
    if len(own) < 2:
      raise ValueError(f'folder:{path}: class {name!r} has one image, and two are needed, one '
                       'to train and one to test: add images or remove the class.')
    count = max(len(own) // tasks.TEST_SHARE, 1)
    test += own[:count]
    train += own[count:]
  return train, test
