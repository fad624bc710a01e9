"""Tasks from TensorFlow Datasets, prepared on disk or downloaded by TFDS.

Without a split 'test', 'validation' is for testing; without either, the last fifth of
'train' (VTAB's own tasks cut theirs by rules of their own).
"""

import contextlib
import difflib
import functools
import os
import sys

import numpy as np

from zoo import cli
from zoo import hierarchy
from zoo import tasks

TREE = 'wordnet_hierarchy.json'


def load(name, data_dir=None, label='label'):
  """A TFDS data set as a `zoo.tasks.Task`; see `zoo.tasks.load`."""
  builder = _builder(name, data_dir)
  features = builder.info.features
  if label not in features:
    labels = sorted(key for key, feature in features.items() if _classes(feature))
    several = [f'{key} (several an image)' if _is_sequence(features[key]) else key
               for key in labels]
    raise ValueError(f'task {name!r} has no feature {label!r}; '
                     f'it has the labels {", ".join(several) or "none"}.')
  if 'image' not in features:
    raise ValueError(f'task {name!r} has no feature "image"; it has {", ".join(features)}.')
  names = _classes(features[label])
  if not names:
    raise ValueError(f'feature {label!r} of task {name!r} is no class label.')
  multi_label = _is_sequence(features[label])
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
    import tensorflow as tf
    import tensorflow_datasets as tfds
    name, start = stored[split]
    indices = np.asarray(indices, np.int64) + start
    if not len(indices):
      return
    first, last = int(indices.min()), int(indices.max()) + 1
    wanted = tf.constant(np.isin(np.arange(first, last), indices))

    # Only what is wanted is decoded, which for a cut or a draw is a small part.
    data = _records(builder, f'{name}[{first}:{last}]', {'image': tfds.decode.SkipDecoding()})
    data = data.enumerate().filter(lambda i, example: wanted[i]).map(
        lambda i, example: (features['image'].decode_example(example['image']), example[label]),
        num_parallel_calls=tf.data.AUTOTUNE)
    for image, found in tfds.as_numpy(data.prefetch(tf.data.AUTOTUNE)):
      yield image, marked(found) if multi_label else int(found)

  def marked(numbers):
    """The 0/1 label [C] of an image with the classes of these numbers, int64 [any]."""
    if len(set(numbers)) < len(numbers) or -1 in numbers:  # TFDS writes -1 for unknown
      raise ValueError(f'feature {label!r} of task {name!r} is {numbers.tolist()} in an '
                       'image, which is no set of classes: name another feature.')
    vector = np.zeros(len(names), np.float32)
    vector[numbers] = 1
    return vector

  def labeler(split):
    import tensorflow_datasets as tfds
    name, start = stored[split]
    if multi_label:
      data = _records(builder, f'{name}[{start}:{start + splits[split]}]',
                      tfds.decode.PartialDecoding({label: True}))
      return np.stack([marked(one[label]) for one in tfds.as_numpy(data)])
    everything = _class_labels(os.fspath(builder.data_dir), name)[label]
    return everything[start:start + splits[split]].copy()

  source = builder.info.full_name.replace('/' + str(builder.version), ':' + str(builder.version))
  if label != 'label':
    source += f'#{label}'
  return tasks.Task(name, tuple(names), splits, source, reader, labeler, multi_label)


def _is_sequence(feature):
  import tensorflow_datasets as tfds
  return isinstance(feature, tfds.features.Sequence)


def _classes(feature):
  """The class names of a TFDS feature, one class label or a sequence of them; else None."""
  import tensorflow_datasets as tfds
  inner = feature.feature if _is_sequence(feature) else feature
  return inner.names if isinstance(inner, tfds.features.ClassLabel) else None


def _builder(name, data_dir):
  """A TFDS builder whose data are on disk, downloaded if need be and possible."""
  import tensorflow_datasets as tfds
  if '[' in name:
    raise ValueError(f'task {name!r}: some classes of a data set are written '
                     'NAME[FEATURE=VALUE|VALUE], with one pair of brackets.')
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
      with contextlib.redirect_stdout(sys.stderr):  # TFDS says there what it does
        builder.download_and_prepare()
    except Exception as error:  # whatever network, disk or the data set's own code raise
      raise ValueError(
          f'task {name!r} is not prepared in {builder.data_dir} and could not be downloaded '
          f'({type(error).__name__}: {cli.last_line(error)}): give --data_dir.') from None
  return builder


def _records(builder, split, decoders):
  """The examples of a split in stored order, as a `tf.data.Dataset`."""
  import tensorflow_datasets as tfds
  return builder.as_dataset(
      split=split, shuffle_files=False, decoders=decoders,
      # One shard after the other, else the i-th example would depend on where a read begins.
      read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1))


@functools.lru_cache(maxsize=8)  # tasks that are cut from one data set read them once
def _class_labels(data_dir, split):
  """All class labels, one an image, of a stored split: feature name to int64 [N]."""
  import tensorflow_datasets as tfds
  builder = tfds.builder_from_directory(data_dir)
  keys = [key for key, feature in builder.info.features.items()
          if isinstance(feature, tfds.features.ClassLabel)]
  data = _records(builder, split, tfds.decode.PartialDecoding(dict.fromkeys(keys, True)))
  batches = list(tfds.as_numpy(data.batch(4096)))
  return {key: np.concatenate([batch[key] for batch in batches]) for key in keys}


def coarse_labels(name, data_dir, fine='label', coarse='coarse_label'):
  """The coarse class of each fine class of a TFDS data set that has both.

  Returns:
    A dict from fine class name to coarse class name.

  Raises:
    ValueError: a feature is no class label, or a fine class has examples of two coarse
      classes.
  """
  builder = _builder(name, data_dir)
  features = builder.info.features
  columns = _class_labels(os.fspath(builder.data_dir), 'train')
  for key in (fine, coarse):
    if key not in columns:
      raise ValueError(f'task {name!r} has no class label {key!r}; '
                       f'it has {", ".join(sorted(columns))}.')
  found = {}
  for one, two in np.unique(np.stack([columns[fine], columns[coarse]]), axis=1).T:
    child, parent = features[fine].int2str(int(one)), features[coarse].int2str(int(two))
    if found.setdefault(child, parent) != parent:
      raise ValueError(f'{name}: class {child!r} is in {found[child]!r} and {parent!r}.')
  return found


def label_tree(name, data_dir):
  """The tree over the classes of a TFDS data set, a `zoo.hierarchy.Hierarchy`.

  It is read from wordnet_hierarchy.json beside the data set's versions.

  Raises:
    ValueError: there is none.
  """
  path = os.path.join(os.path.dirname(_builder(name, data_dir).data_dir), TREE)
  if not os.path.exists(path):
    raise ValueError(f'task {name!r} has no label tree: there is no {path}.')
  return hierarchy.from_json(path)
