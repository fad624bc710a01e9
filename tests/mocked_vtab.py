"""Small prepared copies of VTAB's data sets: random examples of TFDS' own features and splits."""

import contextlib
import io
import zlib
from unittest import mock

import numpy as np

from benchmarks import vtab_tasks

SIDE = 24  # pixels, where the features leave it open
MORE_SPLITS = {'svhn_cropped': ('extra',), 'clevr': ('test',),
               'diabetic_retinopathy_detection': ('sample',)}


def stored_splits(builder_name):
  """The stored splits of a builder of VTAB, those that no task uses included."""
  entry = next(entry for entry in vtab_tasks.VTAB if entry.builder == builder_name)
  splits = dict.fromkeys(stored for _, stored, _ in entry.cut)
  return (*splits, *MORE_SPLITS.get(builder_name.partition('/')[0], ()))


def prepare(data_dir, examples=30):
  """Prepares the data sets of all tasks by their own builders' writers, without a download.

  Args:
    data_dir: folder for TFDS.
    examples: in each stored split.
  """
  import tensorflow_datasets as tfds
  for name in dict.fromkeys(entry.builder for entry in vtab_tasks.VTAB):
    builder = tfds.builder(name, data_dir=data_dir)
    splits = {split: _examples(builder, split, examples) for split in stored_splits(name)}
    with (mock.patch.object(builder, '_split_generators', return_value=splits),
          contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())):
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
          try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP))


def _examples(builder, split, number):
  """(key, example) pairs, the same every time."""
  for i in range(number):
    seed = zlib.crc32(f'{builder.info.full_name} {split} {i}'.encode())
    made = _value(builder.info.features, np.random.default_rng(seed))
    if builder.name == 'dsprites':
      made['image'] //= 128  # 0 and 1
    yield i, made


def _value(feature, random):
  """A random value that a feature takes; 3 to 10 of them where it is a sequence."""
  import tensorflow_datasets as tfds
  if isinstance(feature, tfds.features.FeaturesDict):
    return {key: _value(one, random) for key, one in feature.items()}
  if isinstance(feature, tfds.features.Sequence):
    return [_value(feature.feature, random) for _ in range(random.integers(3, 11))]
  if isinstance(feature, tfds.features.Image):  # of one colour, which is quick to encode
    shape = [SIDE if side is None else side for side in feature.shape]
    color = random.integers(256, size=shape[-1])
    return np.broadcast_to(color, shape).astype(np.uint8)
  if isinstance(feature, tfds.features.ClassLabel):
    return int(random.integers(feature.num_classes))
  if isinstance(feature, tfds.features.BBoxFeature):
    return tfds.features.BBox(0.1, 0.2, 0.8, 0.9)
  if isinstance(feature, tfds.features.Text):
    return f'{random.integers(10 ** 6):06}'
  return random.uniform(0, 30, feature.shape).astype(feature.np_dtype)  # metres, mostly
