"""suite.py: lists the local suite, tasks of three groups that run without a network.

Natural tasks are small data sets and cuts from CIFAR-100 and Tiny ImageNet; specialized ones
are of signs, digits and scenes from above; structured ones are drawn here (see shapes.py). A
task that is cut from the data a module was trained on is not for that module.
"""

import dataclasses
import json
import os
import sys

from absl import flags

from zoo import cli

GROUPS = ('natural', 'specialized', 'structured')
MADE = os.path.join('runs', 'tfds')  # where the structured tasks are kept


@dataclasses.dataclass(frozen=True)
class Entry:
  """A task of the suite.

  Attributes:
    name: in tables.
    group: one of `GROUPS`.
    task: as `zoo.tasks.load` takes it.
  """
  name: str
  group: str
  task: str

  @property
  def upstream(self):
    """The data set that the task is cut from, or None if it is whole."""
    whole, bracket, _ = self.task.partition('[')
    return whole if bracket else None


def _cuts(data_set, feature, **values):
  return tuple(Entry(name.replace('_', '-'), 'natural', f'{data_set}[{feature}={value}]')
               for name, value in values.items())


SUITE = (
    Entry('cifar10', 'natural', 'cifar10_12k'),
    Entry('caltech97', 'natural', 'caltech97_64'),
    Entry('dtd10', 'natural', 'dtd10_64'),
    *_cuts('cifar100_jpeg', 'coarse_label',
           mammals='aquatic_mammals|large_carnivores|large_omnivores_and_herbivores|'
                   'medium_mammals|small_mammals',
           invertebrates='insects|non-insect_invertebrates',
           fish='fish',
           reptiles='reptiles',
           people='people',
           plants='flowers|fruit_and_vegetables|trees',
           vehicles='vehicles_1|vehicles_2',
           household='food_containers|household_electrical_devices|household_furniture',
           outdoor='large_man-made_outdoor_things|large_natural_outdoor_scenes'),
    *_cuts('tiny_imagenet_32', 'under',
           tiny_mammals='n01861778',
           tiny_invertebrates='n01905661',
           tiny_vehicles='n03100490',  # WordNet's conveyance: trains and boats too
           tiny_clothing='n03051540',
           tiny_food='n00021265|n07555863',  # what is eaten, as substance and as solid
           tiny_structures='n04341686'),
    Entry('gtsrb', 'specialized', 'gtsrb_32'),
    Entry('rsscn7', 'specialized', 'rsscn7_64'),
    Entry('sign-digits', 'specialized', 'sign_digits_64'),
    Entry('mnist', 'specialized', 'mnist_12k'),
    Entry('digits', 'specialized', 'digits'),
    Entry('location', 'structured', 'shapes/location'),
    Entry('orientation', 'structured', 'shapes/orientation'),
    Entry('count', 'structured', 'shapes/count'))


def tasks(group=None):
  """The entries of a group, or all of them, as a tuple of `Entry`.

  Raises:
    ValueError: there is no such group.
  """
  if group is not None and group not in GROUPS:
    raise ValueError(f'the suite has no group {group!r}; it has {", ".join(GROUPS)}.')
  return tuple(entry for entry in SUITE if group in (None, entry.group))


def load(name, data_dir=None, made_dir=MADE):
  """A task of the suite.

  Args:
    name: of an `Entry`.
    data_dir: where TFDS finds the prepared data sets.
    made_dir: folder in which the structured tasks are kept; they are drawn there on first
      use, in seconds.

  Returns:
    A `zoo.tasks.Task` with this name.

  Raises:
    ValueError: the suite has no such task, or its data cannot be had.
  """
  from zoo import tasks as tasks_lib
  entry = next((entry for entry in SUITE if entry.name == name), None)
  if entry is None:
    raise ValueError(f'the suite has no task {name!r}; it has '
                     f'{", ".join(entry.name for entry in SUITE)}.')
  if entry.group == 'structured':
    from benchmarks import shapes
    task = shapes.load(entry.name, made_dir)
  else:
    task = tasks_lib.load(entry.task, data_dir)
  return dataclasses.replace(task, name=name)


def rows(group=None, data_dir=None, made_dir=MADE):
  """What the suite holds: a list of dicts of name, group, task, source, upstream, classes
  and examples in each split."""
  found = []
  for entry in tasks(group):
    task = load(entry.name, data_dir, made_dir)
    found.append({**dataclasses.asdict(entry), 'source': task.source,
                  'upstream': entry.upstream, 'classes': len(task.class_names),
                  'splits': task.splits})
  return found


def table(found):
  """`rows` as lines of text."""
  lines = [f'{"task":18} {"group":11} {"classes":>7} {"train":>6} {"test":>6}  source']
  for row in found:
    lines.append(f'{row["name"]:18} {row["group"]:11} {row["classes"]:7} '
                 f'{row["splits"]["train"]:6} {row["splits"]["test"]:6}  {row["source"]}')
  return '\n'.join(lines)


FLAGS = cli.new_flags()
flags.DEFINE_enum('group', None, GROUPS, 'Only this group.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('made_dir', MADE, 'Folder in which the structured tasks are kept.',
                    flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command):
  del command
  found = rows(values.group, values.data_dir, values.made_dir)
  print(json.dumps(found) if values.json else table(found))


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
