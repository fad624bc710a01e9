"""What trainers do for sparse networks: changed presets, upcycled starts, measured routing."""

import dataclasses

import numpy as np

from zoo import backbones
from zoo import expert_load
from zoo import slices
from zoo import sparse

MEASURED = 512  # images on which each row of a log is measured


def architecture_of(preset, image_size=None, changed=None):
  """A preset's architecture, changed.

  Args:
    preset: its name.
    image_size: pixels; None for the preset's.
    changed: dict of changes to its `zoo.sparse.SparseConfig`, or None.

  Raises:
    ValueError: there is no such preset, or it cannot be changed so.
  """
  architecture = backbones.preset(preset)
  if image_size:
    architecture = dataclasses.replace(architecture, image_size=image_size)
  if not changed:
    return architecture
  if not getattr(architecture, 'sparse', None):
    raise ValueError(f'preset {preset} has no sparse layers to change; there are '
                     f'{", ".join(backbones.sparse_presets())}.')
  return dataclasses.replace(
      architecture, sparse=dataclasses.replace(architecture.sparse, **changed))


def changes(pairs):
  """What --sparse says, NAME=VALUE each, as a dict from fields of `SparseConfig` to values.

  Raises:
    ValueError: there is no such field, or it takes no such value.
  """
  kinds = {field.name: type(field.default) for field in dataclasses.fields(sparse.SparseConfig)
           if field.name not in ('blocks', 'gate', 'tasks')}
  found = {}
  for pair in pairs:
    name, _, value = pair.partition('=')
    if name not in kinds:
      raise ValueError(f'--sparse={pair}: there is no {name!r}; there are {", ".join(kinds)}.')
    try:
      found[name] = ({'true': True, 'false': False}[value.lower()] if kinds[name] is bool
                     else kinds[name](value))
    except (KeyError, ValueError):
      raise ValueError(f'--sparse={pair}: {value!r} is no {kinds[name].__name__}.') from None
  return found


def upcycled(folder, result, values, architecture):
  """The weights of a sparse network that computes what a dense one does; see `zoo.sparse`.

  Args:
    folder, result, values: a finished run of the dense one: for messages, its result, and its
      weights, a dict from path to array.
    architecture: of the sparse one.

  Raises:
    ValueError: that is not sparse, or differs in more than sparse layers.
  """
  if not getattr(architecture, 'sparse', None):
    raise ValueError('only a sparse network can be upcycled; there are '
                     f'{", ".join(backbones.sparse_presets())}.')
  there, here = result['architecture'], dataclasses.replace(architecture, sparse=None).to_dict()
  if there != here:
    name = next(key for key in here if there.get(key) != here[key])
    raise ValueError(f'{folder} cannot be upcycled: its network has {name} {there.get(name)!r}, '
                     f'this one {here[name]!r}.')
  return sparse.upcycled(values, architecture.sparse)


class Routing:
  """Measures where the tokens of a sparse backbone go.

  Args:
    backbone: a built `zoo.backbone.Backbone` with sparse layers.
    class_names: of the labels.
  """

  def __init__(self, backbone, class_names):
    self._backbone, self._names = backbone, class_names

  def _meter(self, images, labels, by_task):
    return expert_load.Meter(
        self._backbone, images, labels, len(self._names), labels if by_task else 0)

  def of_log(self, examples, by_task=False):
    """A function for columns of a log, measured on some `zoo.tasks.Examples`.

    Args:
      examples: from which they are drawn.
      by_task: whether labels are the tasks that gates know.
    """
    few = np.random.default_rng(0).permutation(len(examples))[:MEASURED]
    meter = self._meter(examples.images[few], examples.labels[few], by_task)
    return lambda: meter.measure().columns()

  def write(self, work_dir, examples, tree=None, counts=None, by_task=False):
    """Writes what `zoo.expert_load.write` does, of `zoo.tasks.Examples`, and returns it.

    Args:
      work_dir: the folder.
      examples: to measure it on.
      tree: a `zoo.hierarchy.Hierarchy` of the classes, whose slices are shown, or None.
      counts: with a tree, the number of training examples of each class.
      by_task: as in `of_log`.
    """
    found = slices.slices(tree, dict(zip(self._names, counts, strict=True)), 1) if tree else ()
    load = self._meter(examples.images, examples.labels, by_task).measure()
    return expert_load.write(load, self._names, work_dir, found)
