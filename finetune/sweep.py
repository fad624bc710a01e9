"""Hyper-parameter sweeps, as pure functions of a machine's means."""

import dataclasses

from zoo import training

LEARNING_RATES = (0.1, 0.01)
STEPS = (2500, 10_000)


@dataclasses.dataclass(frozen=True)
class Budget:
  """How much of the full sweep a machine can afford.

  Attributes:
    batch: examples an update; 512 in full.
    steps_scale: factor on the steps; 1 in full.
  """
  batch: int
  steps_scale: float


FULL = Budget(512, 1.)
SMALL = Budget(64, 0.02)


def default_budget():
  """The full sweep with an accelerator; without one, a fiftieth of the steps and batches of 64.

  The small budget sees 1/400 of the images of the full one: a minute in place of seven
  hours.
  """
  import tensorflow as tf
  return FULL if tf.config.list_logical_devices('GPU') else SMALL


def light(budget, seed=0):
  """The light sweep of VTAB: two learning rates times two schedules.

  SGD with momentum 0.9, no weight decay, no augmentation, a tenth of the rate at 30, 60
  and 90% of the steps (google-research/task_adaptation). The learning rates are not scaled
  with the batch: under a small budget few large steps serve better than few small ones.

  Args:
    budget: a `Budget`.
    seed: of the order of examples.

  Returns:
    A list of `zoo.training.Recipe`.
  """
  return [
      training.Recipe(
          steps=steps, batch=budget.batch, learning_rate=rate, warmup=steps // 20,
          schedule='steps', nesterov=False, flip=False, crop=0, seed=seed)
      for rate in LEARNING_RATES
      for steps in (max(round(full * budget.steps_scale), 1) for full in STEPS)]


def describe(recipe):
  """A recipe in a few words."""
  return f'learning rate {recipe.learning_rate:g}, {recipe.steps} steps'
