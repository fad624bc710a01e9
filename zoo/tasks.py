"""Tasks: images as they are, class names and splits, from TFDS, folders or arrays.

Shapes: N examples, H height, W width, C classes.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from zoo import pixels

logger = logging.getLogger(__name__)

VAL_EXAMPLES = 200
TRAIN_EXAMPLES = 800
TEST_SHARE = 5  # one example in five, where a source sets none apart


@dataclasses.dataclass(frozen=True)
class Task:
  """A classification data set.

  Attributes:
    name: as the user gave it.
    class_names: the C names, in the order of the labels.
    splits: examples in each split; 'train' and 'test' are always there.
    source: builder and version, for example 'rsscn7_64:1.0.0'.
    reader: `reader(split, indices)` yields (image, label) for the sorted indices of a
      split: an array as `zoo.pixels.to_rgb` takes it, and an integer. An image that
      cannot be read comes as None, and the reader has said so.
  """
  name: str
  class_names: tuple[str, ...]
  splits: dict[str, int]
  source: str
  reader: Callable[[str, Sequence[int]], Iterator] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples in memory: images uint8 [N, H, W, 3], labels int64 [N] in 0..C-1."""
  images: np.ndarray
  labels: np.ndarray

  def __len__(self):
    return len(self.labels)

  def __add__(self, other):
    return Examples(np.concatenate([self.images, other.images]),
                    np.concatenate([self.labels, other.labels]))

  def digest(self):
    """SHA-256 over pixels, shape and labels: the same data give the same digest."""
    digest = hashlib.sha256(repr(self.images.shape).encode())
    digest.update(np.ascontiguousarray(self.images))
    digest.update(np.ascontiguousarray(self.labels))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Which examples train, choose and test: indices into splits.

  Attributes:
    train, val, test: (split, indices) of each part.
    name: says how they were drawn.
  """
  train: tuple[str, np.ndarray]
  val: tuple[str, np.ndarray]
  test: tuple[str, np.ndarray]
  name: str


def protocol_1k(task, seed=None):
  """The 1,000-example protocol: 800 to train, 200 to choose, the whole test split.

  Train is the first 800 of 'train' in stored order. Val is the first 200 of 'validation'
  where there is one, else the next 200 of 'train' (VTAB's own tasks cut val elsewhere).
  With fewer than 1,000 at hand, four fifths train and one fifth chooses.

  Args:
    task: a `Task`.
    seed: None for stored order; a number draws at random instead.

  Returns:
    A `Protocol`.
  """
  number = task.splits['train']

  def first(split, count, skip=0):
    order = np.arange(task.splits[split])
    if seed is not None:
      order = np.random.default_rng((seed, len(order))).permutation(order)
    return split, np.sort(order[skip:skip + count])

  if 'validation' in task.splits:
    train, val = first('train', TRAIN_EXAMPLES), first('validation', VAL_EXAMPLES)
  else:
    train_count = min(TRAIN_EXAMPLES, number * 4 // 5)
    train = first('train', train_count)
    val = first('train', VAL_EXAMPLES, skip=train_count)
  drawn = 'first' if seed is None else f'seed {seed}'
  return Protocol(train, val, ('test', np.arange(task.splits['test'])),
                  f'{len(train[1])}/{len(val[1])} ({drawn})')


def read(task, part, image_size):
  """Reads examples into memory, resized.

  Args:
    task: a `Task`.
    part: (split, indices), as in a `Protocol`; indices None for the whole split.
    image_size: H = W in pixels; the aspect is not kept (as in VTAB).

  Returns:
    `Examples`; those that cannot be read are left out, and named in a warning.

  Raises:
    ValueError: no example is left, or a label is not in 0..C-1.
  """
  split, indices = part
  if indices is None:
    indices = np.arange(task.splits[split])
  images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
  labels, skipped = [], 0
  for image, label in task.reader(split, indices):
    if image is None:
      skipped += 1
      continue
    if not 0 <= label < len(task.class_names):
      raise ValueError(
          f'task {task.name!r} has label {label} in split {split!r}, but its '
          f'{len(task.class_names)} classes are 0..{len(task.class_names) - 1}: renumber them.')
    images[len(labels)] = pixels.resize(pixels.to_rgb(image), image_size)
    labels.append(label)
  if skipped:
    logger.warning('task %r, split %r: %d of %d images could not be read and are skipped.',
                   task.name, split, skipped, len(indices))
  if not labels:
    raise ValueError(f'task {task.name!r} has no readable image in split {split!r}.')
  return Examples(images[:len(labels)], np.array(labels, np.int64))


def from_arrays(name, class_names, **splits):
  """A task over arrays in memory.

  Args:
    name: anything.
    class_names: the C names.
    **splits: for each split (images, labels): images uint8 [N, H, W], [N, H, W, 1],
      [N, H, W, 3] or [N, H, W, 4], or a list of such images; labels integers [N].

  Returns:
    A `Task`; give it 'train' and 'test' at least.

  Raises:
    ValueError: a split is missing or its lengths differ.
  """
  for split in ('train', 'test'):
    if split not in splits:
      raise ValueError(f'task {name!r} has no split {split!r}: give one.')
  digest = hashlib.sha256()
  for split, (images, labels) in sorted(splits.items()):
    if len(images) != len(labels):
      raise ValueError(
          f'task {name!r}, split {split!r}: {len(images)} images but {len(labels)} labels.')
    digest.update(repr((split, tuple(class_names), np.asarray(labels).tolist())).encode())
    for image in images:
      digest.update(repr(np.shape(image)).encode())
      digest.update(np.ascontiguousarray(image))

  def reader(split, indices):
    images, labels = splits[split]
    for i in indices:
      yield images[i], int(labels[i])

  return Task(name, tuple(class_names), {k: len(v[1]) for k, v in splits.items()},
              f'arrays:{digest.hexdigest()[:12]}', reader)


def digits():
  """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels: 1,000 to train, 797 to test."""
  import sklearn.datasets
  data = sklearn.datasets.load_digits()
  images = np.round(data.images * (255 / 16)).astype(np.uint8)
  task = from_arrays('digits', [str(i) for i in range(10)],
                     train=(images[:1000], data.target[:1000]),
                     test=(images[1000:], data.target[1000:]))
  return dataclasses.replace(task, source='sklearn.datasets.load_digits')


def load(name, data_dir=None, label='label'):
  """Finds a task by name.

  Args:
    name: 'digits'; 'folder:PATH' (see `zoo.folder_tasks`); or a TFDS name with an optional
      config and version, as in 'name/config:1.0.0' (see `zoo.tfds_tasks`).
    data_dir: where TFDS looks for prepared data; None for its own default.
    label: the TFDS feature that is the label.

  Returns:
    A `Task`.

  Raises:
    ValueError: there is no such task, or it cannot be used; the message says what to do.
  """
  if name == 'digits':
    return digits()
  if name.startswith('folder:'):
    from zoo import folder_tasks
    return folder_tasks.load(os.path.expanduser(name.removeprefix('folder:')))
  from zoo import tfds_tasks
  return tfds_tasks.load(name, data_dir, label)
