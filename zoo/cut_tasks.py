"""Tasks cut from other tasks by class, NAME[FEATURE=VALUE|VALUE].

Every example of the classes stays, in stored order; the classes keep their order and are
numbered anew. FEATURE chooses them:

- the label itself: 'digits[label=3|8]';
- another class label of a TFDS data set, which groups the classes as coarse labels do fine
  ones: 'cifar100[coarse_label=vehicles_1|vehicles_2]';
- 'under': nodes of the tree in wordnet_hierarchy.json beside a TFDS data set, by id or
  name: 'tiny_imagenet_32[under=n04524313]', 'tiny_imagenet_32[under=vehicle]'. A name that
  several nodes have means all of them.
"""

import difflib
import re

import numpy as np

from zoo import tasks
from zoo import tfds_tasks

UNCUT = 'so that it cannot be cut by class: use the whole of it.'

# Data sets that hold images of another, some or all, at whatever size: whoever has learnt from
# one has seen the other. A name without a config is for all of them.
ORIGINALS = {
    'caltech97_64': 'caltech101',
    'cifar100_jpeg': 'cifar100',
    'cifar10_12k': 'cifar10',
    'dtd10_64': 'dtd',
    'gtsrb_32': 'gtsrb',
    'mnist_12k': 'mnist',
    **dict.fromkeys((
        'tiny_imagenet_32', 'imagenet_resized', 'downsampled_imagenet', 'imagenet_lt',
        'imagenet2012_subset', 'imagenet2012_fewshot', 'imagenette', 'imagewang'),
        'imagenet2012'),
    # Their configs are other sizes, bands or splits of the same images.
    **{name: name for name in ('diabetic_retinopathy_detection', 'eurosat', 'sun397')}}


def load(whole, feature, values, data_dir=None, label='label'):
  """The cut that a name says, `zoo.tasks.load` having taken it apart.

  Args:
    whole: name of the task to cut.
    feature: what chooses the classes.
    values: of that feature, with '|' between them.
    data_dir, label: as in `zoo.tasks.load`.

  Returns:
    A `zoo.tasks.Task`.

  Raises:
    ValueError: the whole, the feature or a value is unknown, too few classes are left, or
      images have several labels.
  """
  task = tasks.load(whole, data_dir, label)
  task.check_one_label(UNCUT)
  groups = _groups(task, feature, data_dir, label)
  kept = set()
  for value in values.split('|'):
    if value not in groups:
      near = difflib.get_close_matches(value, groups, 3) or sorted(groups)[:5]
      raise ValueError(f'task {whole!r} has no class with {feature}={value} '
                       f'(there is {", ".join(near)}, ...).')
    kept |= groups[value]
  return cut(task, kept, f'{feature}={values}')


def _groups(task, feature, data_dir, label):
  """A dict from each value of a feature to the set of the class names that have it."""
  if feature == label:
    return {name: {name} for name in task.class_names}
  if task.labeler is None:
    raise ValueError(f'task {task.name!r} is no TFDS data set: it can be cut by label only.')
  groups = {}
  if feature == 'under':
    tree = tfds_tasks.label_tree(task.name, data_dir)
    for node, classes in tree.leaves_below(task.class_names).items():
      for value in (node, tree.names[node]):
        groups.setdefault(value, set()).update(classes)
  else:
    coarse = tfds_tasks.coarse_labels(task.name, data_dir, label, feature)
    for name, value in coarse.items():
      groups.setdefault(value, set()).add(name)
  return groups


def cut(task, class_names, how=None):
  """The examples of some classes of a task, as a task.

  Args:
    task: a `zoo.tasks.Task`.
    class_names: two or more of its classes, in any order.
    how: FEATURE=VALUE|VALUE that chose them, for name and source; label=... if not given.

  Returns:
    A `zoo.tasks.Task`; `source` is that of the whole with the cut in brackets behind it.

  Raises:
    ValueError: a class is unknown, there are fewer than two, a split has none of them, or
      images have several labels.
  """
  task.check_one_label(UNCUT)
  unknown = sorted(set(class_names) - set(task.class_names))
  if unknown:
    raise ValueError(f'task {task.name!r} has no class {unknown[0]!r}.')
  chosen = [i for i, name in enumerate(task.class_names) if name in set(class_names)]
  names = tuple(task.class_names[i] for i in chosen)
  brackets = f'[{how or "label=" + "|".join(names)}]'
  if len(chosen) < 2:
    raise ValueError(f'{task.name}{brackets} keeps {len(chosen)} of the classes: at least two '
                     'are needed.')
  renumbered = np.full(len(task.class_names), -1)
  renumbered[chosen] = np.arange(len(chosen))
  labels = {split: task.labels(split) for split in task.splits}
  rows = {split: np.flatnonzero(np.isin(labels[split], chosen)) for split in task.splits}
  for split, found in rows.items():
    if not len(found):
      raise ValueError(f'{task.name}{brackets} has no example in split {split!r}.')

  def reader(split, indices):
    for image, label in task.reader(split, rows[split][np.asarray(indices)]):
      yield image, int(renumbered[label])

  return tasks.Task(
      task.name + brackets, names, {split: len(found) for split, found in rows.items()},
      task.source + brackets, reader, lambda split: renumbered[labels[split][rows[split]]],
      namer=lambda split, indices: task.ids(split, rows[split][np.asarray(indices)]))


def same_data(one, other):
  """Whether two sources are of one data set: in any version, by any label, cut or whole, and
  in any copy that `ORIGINALS` knows.

  Args:
    one, other: as in `zoo.tasks.Task.source` and in a module's upstream.source.
  """
  return _original(data_set(one)) == _original(data_set(other))


def _original(name):
  """The data set whose images a data set holds, itself if it is no copy."""
  return ORIGINALS.get(name) or ORIGINALS.get(name.partition('/')[0], name)


def data_set(source):
  """The data set of a source: without version, label and cut."""
  return re.sub(r'(:\d+\.\d+\.\d+)?(#\w+)?(\[.*\])?$', '', source)
