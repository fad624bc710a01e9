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
  builder = prepared(name, data_dir)
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
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  if 'train' not in counts:
    raise ValueError(f'task {name!r} has no split "train"; it has {", ".join(counts)}.')
  cuts = {split: (split, 0, count) for split, count in counts.items()}
  if 'test' not in cuts and 'validation' in cuts:
    cuts['test'] = cuts.pop('validation')
  elif 'test' not in cuts:
    kept = counts['train'] - counts['train'] // tasks.TEST_SHARE
    cuts['train'] = ('train', 0, kept)
    cuts['test'] = ('train', kept, counts['train'] - kept)

  def marked(example):
    """The 0/1 label [C] of an image with the classes of these numbers, int64 [any]."""
    numbers = example[label]
    if len(set(numbers)) < len(numbers) or -1 in numbers:  # TFDS writes -1 for unknown
      raise ValueError(f'feature {label!r} of task {name!r} is {numbers.tolist()} in an '
                       'image, which is no set of classes: name another feature.')
    vector = np.zeros(len(names), np.float32)
    vector[numbers] = 1
    return vector

  multi_label = _is_sequence(features[label])
  return task(builder, name, cuts, names, (label,),
              marked if multi_label else lambda example: int(example[label]),
              rule=None if label == 'label' else label, multi_label=multi_label)


def task(builder, name, cuts, class_names, features, label_of, rule=None, image_of=None,
         multi_label=False):
  """A task made of what a TFDS builder has stored.

  Only what is wanted is decoded, which for a cut or a draw is a small part.

  Args:
    builder: as `prepared` gives it.
    name: of the task.
    cuts: dict from each split of the task to (stored split, its first example there, how
      many there are).
    class_names: the C names.
    features: those that the label is made of: names, and for some features of a sequence
      (name, (name, ...)).
    label_of: function of a dict of these features of one example, as NumPy arrays (a
      sequence's have a leading axis), to its label as `zoo.tasks.Task.reader` gives it.
    rule: name of the rule that `label_of` is, for `source`; None for the feature 'label'.
    image_of: function of a decoded image, uint8 [H, W, channels], to that of the task; None
      where it is the same.
    multi_label: as in `zoo.tasks.Task`.

  Returns:
    A `zoo.tasks.Task`.
  """
  image_feature = builder.info.features['image']

  def reader(split, indices):
    import tensorflow as tf
    import tensorflow_datasets as tfds
    stored, start, _ = cuts[split]
    indices = np.asarray(indices, np.int64) + start
    if not len(indices):
      return
    first, last = int(indices.min()), int(indices.max()) + 1
    wanted = tf.constant(np.isin(np.arange(first, last), indices))
    data = _records(builder, f'{stored}[{first}:{last}]', ('image', *features),
                    {'image': tfds.decode.SkipDecoding()})
    data = data.enumerate().filter(lambda i, example: wanted[i]).map(
        lambda i, example: (image_feature.decode_example(example['image']), example),
        num_parallel_calls=tf.data.AUTOTUNE)
    for image, example in tfds.as_numpy(data.prefetch(tf.data.AUTOTUNE)):
      yield image_of(image) if image_of else image, label_of(example)

  def labeler(split):
    stored, first, count = cuts[split]
    columns = _class_labels(os.fspath(builder.data_dir), stored)
    if more := tuple(feature for feature in features if feature not in columns):
      columns = columns | _columns(os.fspath(builder.data_dir), stored, more)
    labels = [label_of(_row(columns, i)) for i in range(first, first + count)]
    return np.array(labels, np.float32 if multi_label else np.int64)

  def namer(split, indices):
    stored, start, _ = cuts[split]
    info = builder.info.splits[stored]
    files, lengths = info.filenames, np.array(info.shard_lengths)
    ends = np.cumsum(lengths)
    rows = np.asarray(indices, np.int64) + start
    shards = np.searchsorted(ends, rows, side='right')
    # As `tfds.ReadConfig(add_tfds_id=True)` has it, without a look at the files.
    return [f'{files[shard]}__{i}'
            for shard, i in zip(shards, rows - (ends - lengths)[shards], strict=True)]

  source = builder.info.full_name.replace('/' + str(builder.version), ':' + str(builder.version))
  if rule:
    source += f'#{rule}'
  counts = {split: count for split, (_, _, count) in cuts.items()}
  return tasks.Task(name, tuple(class_names), counts, source, reader, labeler, multi_label, namer)


def _is_sequence(feature):
  import tensorflow_datasets as tfds
  return isinstance(feature, tfds.features.Sequence)


def _classes(feature):
  """The class names of a TFDS feature, one class label or a sequence of them; else None."""
  import tensorflow_datasets as tfds
  inner = feature.feature if _is_sequence(feature) else feature
  return inner.names if isinstance(inner, tfds.features.ClassLabel) else None


def find(name, data_dir=None):
  """A TFDS builder, its data on disk or not.

  Args:
    name: with an optional config and version; without a version, the newest of TFDS.
    data_dir: as in `zoo.tasks.load`.

  Returns:
    A `tfds.core.DatasetBuilder`; it has no `info.splits` where nothing is prepared.

  Raises:
    ValueError: the name is unknown, or data_dir is no folder.
  """
  import tensorflow_datasets as tfds
  if '[' in name:
    raise ValueError(f'task {name!r}: some classes of a data set are written '
                     'NAME[FEATURE=VALUE|VALUE], with one pair of brackets.')
  if data_dir is not None and not os.path.isdir(data_dir):
    raise ValueError(f'--data_dir={data_dir} is not a folder.')
  try:
    return tfds.builder(name, data_dir=data_dir)
  except (tfds.core.DatasetNotFoundError, tfds.core.registered.DatasetNotFoundError):
    known = [*tfds.list_builders(), 'digits']
    if data_dir:
      known += [entry for entry in os.listdir(data_dir)
                if os.path.isdir(os.path.join(data_dir, entry))]
    near = difflib.get_close_matches(name, known, 3)
    raise ValueError(
        f'unknown task {name!r}' + (f' (near: {", ".join(near)})' if near else '')
        + ': name a TFDS data set (--data_dir says where prepared ones are), folder:PATH, '
        'npz:FILE or digits.') from None
  except (AssertionError, ValueError, RuntimeError) as error:
    raise ValueError(f'task {name!r}: {cli.last_line(error)}') from None


def prepared(name, data_dir=None):
  """A TFDS builder whose data are on disk, downloaded if need be and possible.

  Args and Raises as `find`; ValueError also where the data cannot be had.
  """
  builder = find(name, data_dir)
  if not builder.info.splits:
    try:
      with contextlib.redirect_stdout(sys.stderr):  # TFDS says there what it does
        builder.download_and_prepare()
    except Exception as error:  # whatever network, disk or the data set's own code raise
      raise ValueError(
          f'task {name!r} is not prepared in {builder.data_dir} and could not be downloaded '
          f'({type(error).__name__}: {cli.last_line(error)}): give --data_dir.') from None
  return builder


def _records(builder, split, features, decoders=None):
  """Some features, as in `task`, of the examples of a split in stored order.

  Returns:
    A `tf.data.Dataset`.
  """
  import tensorflow_datasets as tfds
  wanted = {}
  for feature in features:
    name, inner = (feature, True) if isinstance(feature, str) else feature
    wanted[name] = inner if inner is True else set(inner)
  return builder.as_dataset(
      split=split, shuffle_files=False,
      decoders=tfds.decode.PartialDecoding(wanted, decoders),
      # One shard after the other, else the i-th example would depend on where a read begins.
      read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1))


@functools.lru_cache(maxsize=8)  # tasks that are cut from one data set read them once
def _class_labels(data_dir, split):
  """All class labels, one an image, of a stored split: feature name to int64 [N]."""
  import tensorflow as tf
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import file_adapters
  builder = tfds.builder_from_directory(data_dir)
  spec = {key: tf.io.FixedLenFeature([], tf.int64)
          for key, feature in builder.info.features.items()
          if isinstance(feature, tfds.features.ClassLabel)}
  if not spec:
    return {}
  # TFDS would parse one example after the other, at ten times the cost of a batch.
  files = [os.fspath(path) for path in builder.info.splits[split].filepaths]
  adapter = file_adapters.ADAPTER_FOR_FORMAT[builder.info.file_format]
  data = tf.data.Dataset.from_tensor_slices(files).flat_map(adapter.make_tf_data)
  return _joined([tf.io.parse_example(records, spec) for records in data.batch(4096)])


@functools.lru_cache(maxsize=8)
def _columns(data_dir, split, features):
  """Some features, as in `task`, of a stored split.

  Returns:
    A dict from feature to its N values, an array or a list of arrays; to such a dict for a
    sequence of several features.
  """
  import tensorflow_datasets as tfds
  builder = tfds.builder_from_directory(data_dir)
  return _joined(list(_records(builder, split, features).ragged_batch(4096)))


def _joined(batches):
  """A list of batches, tensors of any kind or dicts of them, as one of `_columns`."""
  if isinstance(batches[0], dict):
    return {key: _joined([batch[key] for batch in batches]) for key in batches[0]}
  if hasattr(batches[0], 'row_splits'):
    return [row for batch in batches
            for row in np.split(batch.values.numpy(), batch.row_splits.numpy()[1:-1])]
  return np.concatenate([batch.numpy() for batch in batches])


def _row(columns, i):
  """Example i of `_columns`."""
  return {key: _row(column, i) if isinstance(column, dict) else column[i]
          for key, column in columns.items()}


def coarse_labels(name, data_dir, fine='label', coarse='coarse_label'):
  """The coarse class of each fine class of a TFDS data set that has both.

  Returns:
    A dict from fine class name to coarse class name.

  Raises:
    ValueError: a feature is no class label, or a fine class has examples of two coarse
      classes.
  """
  builder = prepared(name, data_dir)
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
  path = os.path.join(os.path.dirname(prepared(name, data_dir).data_dir), TREE)
  if not os.path.exists(path):
    raise ValueError(f'task {name!r} has no label tree: there is no {path}.')
  return hierarchy.from_json(path)
