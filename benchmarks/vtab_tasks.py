"""The 19 tasks of VTAB (arXiv 1910.04867) as data: splits, label rules and what TFDS lacks.

T, V and E are what VTAB trains on, chooses with and tests on. VTAB-1k is the first 800 of T,
the first 200 of V and all of E, which `zoo.tasks.protocol_1k` takes of a task loaded here.

Sizes, cuts and rules are those of google-research/task_adaptation at d7630d3; builders are of
the newest version that TFDS has, and `zoo.tasks.Task.source` says which.
"""

import bisect
import collections
import dataclasses
import difflib
import logging
import os
import re
from collections.abc import Callable

logger = logging.getLogger(__name__)

GROUPS = ('natural', 'specialized', 'structured')
TRAIN_EXAMPLES, VAL_EXAMPLES = 800, 200

# A cut: (split of the task, stored split, percent of it; None for what is left), in order.
WHOLE = (('train', 'train', None), ('validation', 'validation', None), ('test', 'test', None))
TENTH = (('train', 'train', 90), ('validation', 'train', None), ('test', 'test', None))
FIFTH = (('train', 'train', 80), ('validation', 'train', None), ('test', 'test', None))
THREE = (('train', 'train', 60), ('validation', 'train', 20), ('test', 'train', None))
DSPRITES = (('train', 'train', 80), ('validation', 'train', 10), ('test', 'train', None))
# No label of CLEVR's own test split is public.
CLEVR = (('train', 'train', 90), ('validation', 'train', None), ('test', 'validation', None))
# Other toys than in train, in both parts: to choose well here is to generalise to new ones.
SMALLNORB = (('train', 'train', None), ('validation', 'test', 50), ('test', 'test', None))


@dataclasses.dataclass(frozen=True)
class Label:
  """A label that is worked out of other features.

  Attributes:
    name: of the rule.
    features: those that it needs, as `zoo.tfds_tasks.task` takes them.
    label_of: function of a dict of these features of one example, to an integer.
    class_names: what its values mean.
  """
  name: str
  features: tuple
  label_of: Callable = dataclasses.field(repr=False)
  class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """A task of VTAB.

  Attributes:
    name: as users give it.
    title: as papers print it.
    group: one of `GROUPS`.
    builder: TFDS name, with its config.
    cut: how T, V and E are cut from the stored splits.
    sizes: examples in T, V and E, as published.
    classes: how many.
    label: the rule, or None where it is the feature 'label'.
    image_of: as in `zoo.tfds_tasks.task`.
    manual: what to download by hand into the folder that `check` names; None where TFDS does.
  """
  name: str
  title: str
  group: str
  builder: str
  cut: tuple
  sizes: tuple[int, int, int]
  classes: int
  label: Label | None = None
  image_of: Callable | None = dataclasses.field(default=None, repr=False)
  manual: str | None = None


def _bin(edges, value):
  """The greatest i with edges[i] < value: what lies on an edge is in the bin below it."""
  return bisect.bisect_left(edges, value) - 1


def _clevr_count(example):
  return len(example['objects']['pixel_coords']) - 3


def _clevr_distance(example):
  nearest = example['objects']['pixel_coords'][:, 2].min()
  return _bin((0., 8., 8.5, 9., 9.5, 10., 100.), nearest)


def _kitti_distance(example):
  objects = example['objects']
  vehicles = objects['location'][objects['type'] < 3, 2]  # cars, vans and trucks
  return _bin((-100., 8., 20., 999.), min([*vehicles, 1000.]))


def _dsprites_image(image):
  return 255 * image  # stored as 0 and 1


_PIXEL_COORDS = (('objects', ('pixel_coords',)),)
_COUNT = Label('count', _PIXEL_COORDS, _clevr_count, tuple(f'{i} objects' for i in range(3, 11)))
_CLEVR_DISTANCE = Label(
    'distance', _PIXEL_COORDS, _clevr_distance,
    ('up to 8', '8 to 8.5', '8.5 to 9', '9 to 9.5', '9.5 to 10', 'above 10'))
_KITTI_DISTANCE = Label(
    'distance', (('objects', ('location', 'type')),), _kitti_distance,
    ('up to 8 m', '8 to 20 m', 'above 20 m', 'no vehicle'))
_LOCATION = Label(
    'location', ('label_x_position',), lambda example: int(example['label_x_position']) // 2,
    tuple(f'columns {i} and {i + 1} of 32' for i in range(0, 32, 2)))
_ORIENTATION = Label(  # floor(label / 2.5), so that bins of three and of two take turns
    'orientation', ('label_orientation',),
    lambda example: int(example['label_orientation']) * 2 // 5,
    tuple(f'turns {-(-5 * i // 2)} to {(5 * i + 4) // 2} of 40' for i in range(16)))
_AZIMUTH = Label(
    'azimuth', ('label_azimuth',), lambda example: int(example['label_azimuth']),
    tuple(f'{i} degrees' for i in range(0, 360, 20)))
_ELEVATION = Label(
    'elevation', ('label_elevation',), lambda example: int(example['label_elevation']),
    tuple(f'{i} degrees' for i in range(30, 75, 5)))

VTAB = (
    Entry('caltech101', 'Caltech101', 'natural', 'caltech101', TENTH, (2754, 306, 6084), 102),
    Entry('cifar100', 'CIFAR-100', 'natural', 'cifar100', TENTH, (45000, 5000, 10000), 100),
    Entry('dtd', 'DTD', 'natural', 'dtd', WHOLE, (1880, 1880, 1880), 47),
    Entry('flowers102', 'Flowers102', 'natural', 'oxford_flowers102', WHOLE, (1020, 1020, 6149),
          102),
    Entry('pets', 'Pets', 'natural', 'oxford_iiit_pet', FIFTH, (2944, 736, 3669), 37),
    Entry('svhn', 'SVHN', 'natural', 'svhn_cropped', TENTH, (65931, 7326, 26032), 10),
    Entry('sun397', 'Sun397', 'natural', 'sun397/tfds', WHOLE, (76128, 10875, 21750), 397),
    Entry('camelyon', 'Camelyon', 'specialized', 'patch_camelyon', WHOLE, (262144, 32768, 32768),
          2),
    Entry('eurosat', 'EuroSAT', 'specialized', 'eurosat/rgb', THREE, (16200, 5400, 5400), 10),
    Entry('resisc45', 'Resisc45', 'specialized', 'resisc45', THREE, (18900, 6300, 6300), 45,
          manual='NWPU-RESISC45.rar from https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs, '
                 'extracted to NWPU-RESISC45'),
    Entry('retinopathy', 'Retinopathy', 'specialized',
          'diabetic_retinopathy_detection/btgraham-300', WHOLE, (35126, 10906, 42670), 5,
          manual='the files of https://www.kaggle.com/c/diabetic-retinopathy-detection/data, '
                 'extracted to train, test and sample, and trainLabels.csv'),
    Entry('clevr-count', 'Clevr-Count', 'structured', 'clevr', CLEVR, (63000, 7000, 15000), 8,
          _COUNT),
    Entry('clevr-dist', 'Clevr-Dist', 'structured', 'clevr', CLEVR, (63000, 7000, 15000), 6,
          _CLEVR_DISTANCE),
    Entry('dmlab', 'DMLab', 'structured', 'dmlab', WHOLE, (65550, 22628, 22735), 6),
    Entry('dsprites-location', 'dSpr-Loc', 'structured', 'dsprites', DSPRITES,
          (589824, 73728, 73728), 16, _LOCATION, _dsprites_image),
    Entry('dsprites-orientation', 'dSpr-Orient', 'structured', 'dsprites', DSPRITES,
          (589824, 73728, 73728), 16, _ORIENTATION, _dsprites_image),
    Entry('kitti-dist', 'KITTI-Dist', 'structured', 'kitti', WHOLE, (6347, 423, 711), 4,
          _KITTI_DISTANCE),
    Entry('smallnorb-azimuth', 'sNORB-Azim', 'structured', 'smallnorb', SMALLNORB,
          (24300, 12150, 12150), 18, _AZIMUTH),
    Entry('smallnorb-elevation', 'sNORB-Elev', 'structured', 'smallnorb', SMALLNORB,
          (24300, 12150, 12150), 9, _ELEVATION))


def entries(names):
  """Tasks of VTAB, in its order.

  Args:
    names: any of 'all', groups and names of tasks, in a list or with commas between them.

  Returns:
    A tuple of `Entry`, none twice.

  Raises:
    ValueError: there is no such name, or none is given.
  """
  if isinstance(names, str):
    names = names.split(',')
  known = ('all', *GROUPS, *(entry.name for entry in VTAB))
  for name in names:
    _check_name(name, known)
  if not names:
    raise ValueError(f'no task of VTAB is named; it has {", ".join(known)}.')
  return tuple(entry for entry in VTAB if {'all', entry.group, entry.name} & set(names))


def _check_name(name, known):
  if name not in known:
    near = difflib.get_close_matches(name, known, 3) or known
    raise ValueError(f'VTAB has no task {name!r}; it has {", ".join(near)}.')


def _cuts(cut, counts):
  """Each split of a task as (stored split, its first example there, how many).

  Args:
    cut: as in `Entry`.
    counts: dict from stored split to its number of examples.
  """
  found, taken = {}, collections.Counter()
  for split, stored, percent in cut:
    number = (counts[stored] - taken[stored] if percent is None
              else counts[stored] * percent // 100)
    found[split] = (stored, taken[stored], number)
    taken[stored] += number
  return found


def slices(entry):
  """The parts of a task as TFDS slices of the stored splits, as published.

  Args:
    entry: an `Entry`.

  Returns:
    A dict: 'train', 'validation' and 'test' are T, V and E; 'train800' and 'val200' are those
    of VTAB-1k, whose test is all of E.
  """
  counts = collections.Counter()
  for (_, stored, _), size in zip(entry.cut, entry.sizes, strict=True):
    counts[stored] += size
  parts = _cuts(entry.cut, counts)
  parts['train800'] = (*parts['train'][:2], TRAIN_EXAMPLES)
  parts['val200'] = (*parts['validation'][:2], VAL_EXAMPLES)

  def text(stored, first, number):
    if number == counts[stored]:
      return stored
    return f'{stored}[{first or ""}:{first + number}]'

  return {part: text(*cut) for part, cut in parts.items()}


def load(name, data_dir=None):
  """A task of VTAB, downloaded by TFDS if need be and possible.

  Where the stored splits do not have the published sizes a warning is logged.

  Args:
    name: of an `Entry`.
    data_dir: as in `zoo.tasks.load`.

  Returns:
    A `zoo.tasks.Task` with the splits 'train' (T), 'validation' (V) and 'test' (E).

  Raises:
    ValueError: there is no such task, or its data cannot be had; the message says what to do.
  """
  from zoo import tfds_tasks
  named = {entry.name: entry for entry in VTAB}
  _check_name(name, tuple(named))
  entry = named[name]
  builder = tfds_tasks.prepared(entry.builder, data_dir)
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  if missing := {stored for _, stored, _ in entry.cut} - set(counts):
    raise ValueError(f'task {name!r} needs the split {min(missing)!r} of {entry.builder}, and '
                     f'{builder.data_dir} has {", ".join(counts)}: prepare it anew.')
  cuts = _cuts(entry.cut, counts)
  sizes = tuple(number for _, _, number in cuts.values())
  if sizes != entry.sizes:
    logger.warning('task %r has %s examples to train, choose and test here and %s as published: '
                   'results cannot be compared.', name, _slashed(sizes), _slashed(entry.sizes))
  label = entry.label or Label(
      None, ('label',), lambda example: int(example['label']),
      tuple(builder.info.features['label'].names))
  return tfds_tasks.task(builder, name, cuts, label.class_names, label.features, label.label_of,
                         label.name, entry.image_of)


def _slashed(numbers):
  return '/'.join(map(str, numbers))


def check(entry, data_dir=None):
  """What is missing of a task's data, in one line, and what to do; None if nothing is.

  Nothing is downloaded: `load` does that, and says why where it fails.

  Args:
    entry: an `Entry`.
    data_dir: as in `zoo.tasks.load`.

  Raises:
    ValueError: data_dir is no folder.
  """
  from zoo import tfds_tasks
  builder = tfds_tasks.find(entry.builder, data_dir)
  if builder.info.splits:
    return None
  manual = os.path.join(builder.data_dir_root, 'downloads', 'manual')
  above = os.path.dirname(builder.data_dir)
  others = [version for version in (sorted(os.listdir(above)) if os.path.isdir(above) else ())
            if re.fullmatch(r'\d+\.\d+\.\d+', version)]
  there = f' (there is {", ".join(others)})' if others else ''
  what = f'put {entry.manual}, into {manual}, and say --prepare' if entry.manual else (
      'say --prepare, and TFDS downloads it')
  return f'{builder.data_dir} is not prepared{there}: {what}.'
