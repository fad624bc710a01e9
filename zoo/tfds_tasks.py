"""Tasks from TensorFlow Datasets, prepared on disk or downloaded by TFDS.

Without a split 'test', 'validation' is for testing; without either, the last fifth of
'train' (VTAB's own tasks cut theirs by rules of their own).
"""

import difflib
import os

import numpy as np

from zoo import cli
from zoo import tasks


def load(name, data_dir=None, label='label'):
  """A TFDS data set as a `zoo.tasks.Task`; see `zoo.tasks.load`."""
  builder = _builder(name, data_dir)
  features = builder.info.features
  if label not in features:
    labels = sorted(key for key, feature in features.items() if hasattr(feature, 'names'))
    raise ValueError(f'task {name!r} has no feature {label!r}; '
                     f'it has the labels {", ".join(labels) or "none"}.')
  if 'image' not in features:
    raise ValueError(f'task {name!r} has no feature "image"; it has {", ".join(features)}.')
  names = getattr(features[label], 'names', None)
  if not names:
    raise ValueError(f'feature {label!r} of task {name!r} is no class label.')
  splits = {split: info.num_examples for split, info in builder.info.splits.items()}
  if 'train' not in splits:
    raise ValueError(f'task {name!r} has no split "train"; it has {", ".join(splits)}.')
  # Split to (stored split, its first example): what a task lacks is cut from what it has.
  stored = {split: (split, 0) for split in splits}
  if 'test' not in splits and 'validation' in splits:
    splits['test'], stored['test'] = splits.pop('validation'), stored.pop('validation')
  elif 'test' not in splits:
    kept = splits['train'] - splits['train'] // tasks.TEST_SHARE
    splits['test'], stored['test'] = splits['train'] - kept, ('train', kept)
    splits['train'] = kept

  def reader(split, indices):
    import tensorflow_datasets as tfds
    name, start = stored[split]
    indices = np.asarray(indices) + start
    first, last = int(indices.min()), int(indices.max()) + 1
    wanted = set(indices.tolist())
    data = builder.as_dataset(
        split=f'{name}[{first}:{last}]', shuffle_files=False,
        # One shard after the other, else the i-th example would depend on where a read begins.
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1))
    for i, example in enumerate(tfds.as_numpy(data.map(lambda e: (e['image'], e[label]))), first):
      if i in wanted:
        yield example[0], int(example[1])

  source = builder.info.full_name.replace('/' + str(builder.version), ':' + str(builder.version))
  if label != 'label':
    source += f'#{label}'
  return tasks.Task(name, tuple(names), splits, source, reader)


def _builder(name, data_dir):
  """A TFDS builder whose data are on disk, downloaded if need be and possible."""
  import tensorflow_datasets as tfds
  if data_dir is not None and not os.path.isdir(data_dir):
    raise ValueError(f'--data_dir={data_dir} is not a folder.')
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except (tfds.core.DatasetNotFoundError, tfds.core.registered.DatasetNotFoundError):
    known = [*tfds.list_builders(), 'digits']
    if data_dir:
      known += [entry for entry in os.listdir(data_dir)
                if os.path.isdir(os.path.join(data_dir, entry))]
    near = difflib.get_close_matches(name, known, 3)
    raise ValueError(
        f'unknown task {name!r}' + (f' (near: {", ".join(near)})' if near else '')
        + ': name a TFDS data set (--data_dir says where prepared ones are), folder:PATH, '
        'or digits.') from None
  except (AssertionError, ValueError, RuntimeError) as error:
    raise ValueError(f'task {name!r}: {cli.last_line(error)}') from None
  if not builder.info.splits:
    try:
      builder.download_and_prepare()
    except Exception as error:  # whatever network, disk or the data set's own code raise
      raise ValueError(
          f'task {name!r} is not prepared in {builder.data_dir} and could not be downloaded '
          f'({type(error).__name__}: {cli.last_line(error)}): give --data_dir.') from None
  return builder


def coarse_labels(name, data_dir, fine='label', coarse='coarse_label'):
  """The coarse class of each fine class of a TFDS data set that has both.

  Returns:
    A dict from fine class name to coarse class name.

  Raises:
    ValueError: a fine class has examples of two coarse classes.
  """
  import tensorflow_datasets as tfds
  builder = _builder(name, data_dir)
  features = builder.info.features
  for key in (fine, coarse):
    if key not in features:
      raise ValueError(f'task {name!r} has no feature {key!r}; it has {", ".join(features)}.')
  found = {}
  data = builder.as_dataset(
      split='train', shuffle_files=False, decoders={'image': tfds.decode.SkipDecoding()})
  for one, two in tfds.as_numpy(data.map(lambda e: (e[fine], e[coarse]))):
    child, parent = features[fine].int2str(int(one)), features[coarse].int2str(int(two))
    if found.setdefault(child, parent) != parent:
      raise ValueError(f'{name}: class {child!r} is in {found[child]!r} and {parent!r}.')
  return found


