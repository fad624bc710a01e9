"""Tasks from one file of arrays: for a machine that has no TFDS, or for data from elsewhere."""

import dataclasses
import os

import numpy as np

from zoo import atomic
from zoo import tasks
from zoo import weights

# As in MedMNIST's files, and as in Keras'.
SPLITS = {'train': (('train_images', 'train_labels'), ('x_train', 'y_train')),
          'validation': (('val_images', 'val_labels'), ('x_val', 'y_val')),
          'test': (('test_images', 'test_labels'), ('x_test', 'y_test'))}


def load(path):
  """A task from an .npz file of train_images, train_labels, test_images and test_labels.

  Or x_train, y_train, x_test and y_test; with val_images and val_labels, or x_val and y_val, if
  there are such. Images are uint8 [N, H, W] or [N, H, W, C] of 1, 3 or 4 channels; labels integers
  [N] or [N, 1], or 0 and 1 [N, C] where an image has several. `class_names` [C] and `source`, a
  string by which modules that have learnt from these data know them, need not be there.

  Args:
    path: the file. What is pickled in it is not read.

  Returns:
    A `zoo.tasks.Task`.

  Raises:
    ValueError: it is no such file; the message says what is wrong.
  """
  name = f'npz:{path}'
  if not os.path.isfile(path):
    raise ValueError(f'{name}: there is no such file.')
  arrays = weights.load(path)
  splits = {split: _split(name, arrays, split, pairs) for split, pairs in SPLITS.items()
            if any(key in arrays for pair in pairs for key in pair)}
  for split in ('train', 'test'):
    if split not in splits:
      raise ValueError(f'{name} has no {SPLITS[split][0][0]}; it has '
                       f'{", ".join(arrays) or "none"}.')
  labels = splits['train'][1]
  number = labels.shape[1] if labels.ndim > 1 else 1 + max(
      (int(own.max()) for _, own in splits.values() if len(own)), default=0)
  names = [str(one) for one in arrays.get('class_names', range(number))]
  if len(names) < number:
    raise ValueError(f'{name}: class_names has {len(names)} names, but labels know {number}.')
  task = tasks.from_arrays(name, names, **splits)
  return dataclasses.replace(task, source=str(arrays['source'])) if 'source' in arrays else task


def _split(name, arrays, split, pairs):
  """(images, labels) of a split, checked."""
  images, labels = next(pair for pair in pairs if pair[0] in arrays or pair[1] in arrays)
  for key in (images, labels):
    if key not in arrays:
      raise ValueError(f'{name} has {", ".join(arrays)}, but no {key}.')
  pixels, own = arrays[images], arrays[labels]
  if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (
      pixels.ndim == 4 and pixels.shape[3] not in (1, 3, 4)):
    raise ValueError(f'{name}: {images} is {pixels.dtype} {list(pixels.shape)}; it must be uint8 '
                     '[N, H, W], or with a last axis of 1, 3 or 4 channels.')
  if own.ndim == 2 and own.shape[1] == 1:
    own = own[:, 0]
  if own.dtype.kind not in 'iub' or own.ndim not in (1, 2) or (
      own.size and (own.min() < 0 or (own.ndim == 2 and own.max() > 1))):
    raise ValueError(f'{name}: {labels} is {own.dtype} {list(own.shape)}; it must be integers [N] '
                     'from 0 on, or 0 and 1 [N, C].')
  return pixels, own.astype(np.int64)


def save(task, path, image_size):
  """Writes a task as such a file.

  Args:
    task: a `zoo.tasks.Task`.
    path: where it goes.
    image_size: pixels; images are resized.
  """
  arrays = {'class_names': np.array(task.class_names), 'source': np.array(task.source)}
  for split, number in task.splits.items():
    if split in SPLITS and number:
      examples = tasks.read(task, (split, None), image_size)
      (images, labels), _ = SPLITS[split]
      arrays |= {images: examples.images, labels: examples.labels.astype(
          np.uint8 if task.multi_label else np.int64)}
  with atomic.writing(path) as file:
    np.savez_compressed(file, **arrays)
