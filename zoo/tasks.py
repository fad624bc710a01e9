"""Tasks: images as they are, class names and splits, from TFDS, folders or arrays.

Shapes: N examples, H height, W width, C classes.
"""

import dataclasses
import hashlib
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from zoo import pixels

logger = logging.getLogger(__name__)

VAL_EXAMPLES = 200
TRAIN_EXAMPLES = 800
TEST_SHARE = 5  # one example in five, where a source sets none apart
MEMORY_BYTES = 2 << 30  # of images read at once; more lie in a temporary file
CUT = re.compile(r'(.+)\[(\w+)=([^\[\]]+)\]')  # NAME[FEATURE=CLASS|CLASS]


@dataclasses.dataclass(frozen=True)
class Task:
  """A classification data set.

  Attributes:
    name: as the user gave it.
    class_names: the C names, in the order of the labels.
    splits: examples in each split; 'train' and 'test' are always there.
    source: builder and version, for example 'rsscn7_64:1.0.0'.
    reader: `reader(split, indices)` yields (image, label) for the sorted indices of a
      split: an array as `zoo.pixels.to_rgb` takes it, and an integer, or an array [C] of 0
      and 1 where `multi_label`. An image that cannot be read comes as None, and the reader
      has said so.
    labeler: `labeler(split)` gives the labels of a split as `labels` does, without a look
      at the images; None where only reading tells.
    multi_label: whether an image has any number of the classes, none included, instead of
      one.
    namer: `namer(split, indices)` gives the ids of examples as `ids` does; None where
      nothing but their places names them.
  """
  name: str
  class_names: tuple[str, ...]
  splits: dict[str, int]
  source: str
  reader: Callable[[str, Sequence[int]], Iterator] = dataclasses.field(repr=False)
  labeler: Callable[[str], np.ndarray] | None = dataclasses.field(default=None, repr=False)
  multi_label: bool = False
  namer: Callable[[str, Sequence[int]], list[str]] | None = dataclasses.field(
      default=None, repr=False)

  def labels(self, split):
    """The labels of all examples of a split in stored order, as in `Examples`."""
    if self.labeler is not None:
      return self.labeler(split)
    everything = self.reader(split, np.arange(self.splits[split]))
    return _stacked(self, [label for _, label in everything])

  def ids(self, split, indices):
    """Names of examples of a split that are the same wherever the data are: a list of str.

    Those of TFDS are its own, FILE__NUMBER; those of a folder are paths below it; others
    are SPLIT/INDEX. A task that is cut from another has the ids of that.
    """
    if self.namer is not None:
      return self.namer(split, indices)
    return [f'{split}/{i}' for i in indices]

  def check_one_label(self, consequence):
    """Raises ValueError if images have several labels; `consequence` ends its sentence."""
    if self.multi_label:
      raise ValueError(f'task {self.name!r} has several labels an image, {consequence}')


@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples in memory.

  Attributes:
    images: uint8 [N, H, W, 3].
    labels: int64 [N] in 0..C-1; float32 [N, C] of 0 and 1 where an image has several.
  """
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
    if self.labels.ndim > 1:  # else no label for any would give the digest of class 0 for all
      digest.update(repr(self.labels.shape).encode())
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
  where there is one, else the next 200 of 'train'. With fewer than 1,000 at hand, four
  fifths train and one fifth chooses.

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


def protocol_full(task):
  """All examples: 'train' to train, 'validation' to choose, 'test' to test.

  Without 'validation', the last tenth of 'train' in stored order chooses.

  Returns:
    A `Protocol`.
  """
  number = task.splits['train']
  if 'validation' in task.splits:
    train = ('train', np.arange(number))
    val = ('validation', np.arange(task.splits['validation']))
  else:
    kept = number * 9 // 10
    train, val = ('train', np.arange(kept)), ('train', np.arange(kept, number))
  return Protocol(train, val, ('test', np.arange(task.splits['test'])),
                  f'{len(train[1])}/{len(val[1])} (full)')


def ids_digest(task, protocol):
  """SHA-256 over which examples train, choose and test: the same wherever it is taken.

  Args:
    task: a `Task`.
    protocol: a `Protocol` of it.

  Returns:
    Hex digits; the ids of `Task.ids` in order, each with its part, make them.
  """
  digest = hashlib.sha256()
  for part in ('train', 'val', 'test'):
    for name in task.ids(*getattr(protocol, part)):
      digest.update(f'{part}\0{name}\n'.encode())
  return digest.hexdigest()


def read(task, part, image_size):
  """Reads examples of one size into memory.

  Args:
    task: a `Task`.
    part: (split, indices), as in a `Protocol`; indices None for the whole split.
    image_size: H = W in pixels.

  Returns:
    `Examples`; otherwise as `read_sizes`.
  """
  return read_sizes(task, [part], [image_size])[image_size]


def read_sizes(task, parts, image_sizes):
  """Reads examples for several image sizes, each image decoded once.

  Args:
    task: a `Task`.
    parts: (split, indices) of each part, as in a `Protocol`, read one after the other into
      the same arrays; indices None for the whole split.
    image_sizes: each H = W in pixels; the aspect is not kept (as in VTAB).

  Returns:
    A dict from image size to `Examples`, the same examples in each. Those that cannot be
    read are left out, and named in a warning. Images of more than `MEMORY_BYTES` in all
    lie in a temporary file instead of in memory, which goes with the last array over it
    or with the process.

  Raises:
    ValueError: no example of a part is left, or a label is not in 0..C-1, or not [C] of 0
      and 1 where there are several.
    OSError: there is no room for the temporary file.
  """
  parts = [(split, np.arange(task.splits[split]) if indices is None else indices)
           for split, indices in parts]
  images = _room(sum(len(indices) for _, indices in parts), sorted(set(image_sizes)))
  labels = []
  for split, indices in parts:
    before = len(labels)
    for image, label in task.reader(split, indices):
      if image is None:
        continue
      _check_label(task, split, label)
      rgb = pixels.to_rgb(image)
      for size, array in images.items():
        array[len(labels)] = pixels.resize(rgb, size)
      labels.append(label)
    skipped = before + len(indices) - len(labels)
    if skipped:
      logger.warning('task %r, split %r: %d of %d images could not be read and are skipped.',
                     task.name, split, skipped, len(indices))
    if len(labels) == before:
      raise ValueError(f'task {task.name!r} has no readable image in split {split!r}.')
  labels = _stacked(task, labels)
  return {size: Examples(array[:len(labels)], labels) for size, array in images.items()}


def _stacked(task, labels):
  """Labels as the reader of a task yields them, one by one, as those of `Examples`."""
  return np.array(labels, np.float32 if task.multi_label else np.int64)


def _check_label(task, split, label):
  """Raises ValueError if a label is not what the task says."""
  classes, shape = len(task.class_names), np.shape(label)
  if task.multi_label:
    if shape != (classes,):
      raise ValueError(f'task {task.name!r} has a label of shape {shape} in split {split!r}: with '
                       f'several labels an image, give 0 or 1 for each of its {classes} classes.')
    odd = [value for value in label if value not in (0, 1)]
    if odd:
      raise ValueError(f'task {task.name!r} has {odd[0]} in a label in split {split!r}: with '
                       'several labels an image, give 1 for each class that it has, else 0.')
  elif shape:
    raise ValueError(f'task {task.name!r} has a label of shape {shape} in split {split!r}: give '
                     'the number of one class, or make it a task of several labels an image.')
  elif not 0 <= label < classes:
    raise ValueError(f'task {task.name!r} has label {label} in split {split!r}, but its '
                     f'{classes} classes are 0..{classes - 1}: renumber them.')


def _room(number, sizes):
  """Arrays uint8 [number, size, size, 3] to fill, by size; in files if they are large."""
  shapes = {size: (number, size, size, 3) for size in sizes}
  needed = sum(math.prod(shape) for shape in shapes.values())
  if needed <= MEMORY_BYTES:
    return {size: np.empty(shape, np.uint8) for size, shape in shapes.items()}
  arrays = {}
  for size, shape in shapes.items():
    with tempfile.TemporaryFile() as file:  # has no name: the mapping alone keeps it
      try:
        if hasattr(os, 'posix_fallocate'):  # else a full disk kills the process later on
          os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        arrays[size] = np.memmap(file, np.uint8, 'w+', shape=shape)
      except OSError as error:
        raise OSError(f'{tempfile.gettempdir()} has no room for {needed:,} bytes of images '
                      f'({error.strerror}): set TMPDIR to a folder that has.') from None
  return arrays


def from_arrays(name, class_names, **splits):
  """A task over arrays in memory.

  Args:
    name: anything.
    class_names: the C names.
    **splits: for each split (images, labels): images uint8 [N, H, W], [N, H, W, 1],
      [N, H, W, 3] or [N, H, W, 4], or a list of such images; labels integers [N], or 0 and 1
      [N, C] where an image has several.

  Returns:
    A `Task`; give it 'train' and 'test' at least.

  Raises:
    ValueError: a split is missing, its lengths differ, or its labels have another form than
      those of 'train'.
  """
  for split in ('train', 'test'):
    if split not in splits:
      raise ValueError(f'task {name!r} has no split {split!r}: give one.')
  multi_label = _dimensions(splits['train'][1]) == 2
  digest = hashlib.sha256()
  for split, (images, labels) in sorted(splits.items()):
    if len(images) != len(labels):
      raise ValueError(
          f'task {name!r}, split {split!r}: {len(images)} images but {len(labels)} labels.')
    if _dimensions(labels) != 1 + multi_label:
      raise ValueError(f'task {name!r}, split {split!r}: give labels as integers [N] in every '
                       f'split, or as 0 and 1 [N, {len(class_names)}] in every split.')
    listed = np.asarray(labels, np.float32 if multi_label else None).tolist()
    digest.update(repr((split, tuple(class_names), listed)).encode())
    for image in images:
      digest.update(repr(np.shape(image)).encode())
      digest.update(np.ascontiguousarray(image))

  def reader(split, indices):
    images, labels = splits[split]
    for i in indices:
      yield images[i], np.asarray(labels[i]) if multi_label else int(labels[i])

  return Task(name, tuple(class_names), {k: len(v[1]) for k, v in splits.items()},
              f'arrays:{digest.hexdigest()[:12]}', reader, multi_label=multi_label)


def _dimensions(labels):
  """How many dimensions labels have; None if they are lists of several lengths."""
  try:
    return np.ndim(labels)
  except ValueError:
    return None


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
    name: 'digits'; 'folder:PATH' (see `zoo.folder_tasks`); 'npz:FILE' (see `zoo.npz_tasks`); or
      a TFDS name with an optional config and version, as in 'name/config:1.0.0' (see
      `zoo.tfds_tasks`). With
      '[FEATURE=VALUE|VALUE]' behind it, some of its classes only (see `zoo.cut_tasks`):
      'digits[label=3|8]', 'cifar100[coarse_label=fish|people]',
      'tiny_imagenet_32[under=dog|cat]'.
    data_dir: where TFDS looks for prepared data; None for its own default.
    label: the TFDS feature that is the label: one class label an image, or a sequence of
      them, which makes the task one of several labels an image.

  Returns:
    A `Task`.

  Raises:
    ValueError: there is no such task, or it cannot be used; the message says what to do.
  """
  if match := CUT.fullmatch(name):
    from zoo import cut_tasks
    return cut_tasks.load(*match.groups(), data_dir, label)
  if name == 'digits':
    return digits()
  if name.startswith('folder:'):
    from zoo import folder_tasks
    return folder_tasks.load(os.path.expanduser(name.removeprefix('folder:')))
  if name.startswith('npz:'):
    from zoo import npz_tasks
    return npz_tasks.load(os.path.expanduser(name.removeprefix('npz:')))
  from zoo import tfds_tasks
  return tfds_tasks.load(name, data_dir, label)
