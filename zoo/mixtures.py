"""Batches of several tasks at once, mixed by their sizes or evenly.

Shapes: T tasks, N examples of all tasks, C classes of all tasks.
"""

import dataclasses

import numpy as np

from zoo import batches
from zoo import tasks as tasks_lib


def shares(counts, temperature=1.):
  """How much of a mixture each task is: in proportion to its examples to the power 1/temperature.

  Args:
    counts: the tasks' numbers of examples, T.
    temperature: 1 for shares in proportion to the examples; the higher, the more even; infinity
      for equal shares.

  Returns:
    float64 [T], of sum 1.

  Raises:
    ValueError: a task has no example, or the temperature is not above 0.
  """
  if not temperature > 0:
    raise ValueError(f'--temperature={temperature}: it must be above 0.')
  counts = np.asarray(counts, np.float64)
  if not counts.all():
    raise ValueError(f'task {np.argmin(counts)} of the mixture has no examples: leave it out.')
  logs = np.log(counts) / temperature
  powers = np.exp(logs - logs.max())
  return powers / powers.sum()


@dataclasses.dataclass(frozen=True)
class Mixture(batches.Batches):
  """Batches in which every example's task is drawn by itself, and then one of its examples.

  Attributes:
    counts: the examples of each task, which stand one behind the other.
    shares: float [T], the tasks' probabilities.
  """
  counts: tuple[int, ...] = ()
  shares: tuple[float, ...] = ()

  def _chosen(self, step):
    random = np.random.default_rng((self.seed, 2, step))
    counts = np.array(self.counts)
    drawn = random.choice(len(counts), self.batch, p=self.shares)
    return (np.cumsum(counts) - counts)[drawn] + random.integers(counts[drawn])


def of(examples, sizes, recipe, temperature=1.):
  """The mixture that a `zoo.training.Recipe` makes of tasks.

  Args:
    examples: `zoo.tasks.Examples` of each task, of one image size.
    sizes: the tasks' numbers of classes; labels of a task count from the sum of those before.
    recipe: the recipe.
    temperature: as in `shares`.

  Returns:
    A `Mixture`.
  """
  counts = [len(own) for own in examples]
  starts = np.cumsum([0, *sizes[:-1]])
  together = tasks_lib.Examples(
      np.concatenate([own.images for own in examples]),
      np.concatenate([own.labels + start for own, start in zip(examples, starts, strict=True)]))
  plain = batches.of(together, recipe, sum(sizes))
  return Mixture(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)},
                 counts=tuple(counts), shares=tuple(shares(counts, temperature)))
