"""Which settings are tried: plans, and sweeps as pure functions of a plan."""

import dataclasses
import importlib.util

import numpy as np

from zoo import precision as precisions
from zoo import training

LEARNING_RATES = (0.1, 0.01)
STEPS = (2500, 10_000)
# Of what is drawn or searched: learning rates, weight decays, alphas of MixUp.
RATE_RANGE = (1e-3, 0.3)
DECAY_RANGE = (1e-6, 1e-2)
MIXUPS = (0., 0.1, 0.3)
SWEEPS = ('light', 'hyperrule', 'quick', 'fixed', 'search')
QUICK = 150, 0.03  # steps and learning rate
PARTS = ('whole', 'head', 'adapters', 'last:N')
# BiT-HyperRule: below so many examples steps, warm-up, tenths of the steps after which the rate
# falls, and alpha of MixUp.
HYPERRULE = ((20_000, 500, 100, (4, 6, 8), 0.), (500_000, 10_000, 500, (3, 6, 9), 0.1),
             (float('inf'), 20_000, 500, (3, 6, 9), 0.1))


@dataclasses.dataclass(frozen=True)
class Plan:
  """How to fine-tune an expert.

  Attributes:
    sweep: the settings tried: 'light' (VTAB's four), 'hyperrule' (BiT's one), 'quick' (a cheap
      one), 'fixed' (the one of `learning_rate` and `steps`) or 'search' (`trials` of Optuna's
      choice).
    tune: what trains: 'whole', 'head', 'adapters' (fresh ones on a frozen network, or those
      that it has) or 'last:N' (the last N stages, or blocks of a Transformer); always with a
      new head.
    batch: examples an update; 512 in full.
    steps_scale: factor on the steps of the sweeps 'light' and 'search'; 1 in full.
    learning_rate, steps: of the sweep 'fixed'.
    trials: of the sweep 'search'.
    stochastic_depth: of modules of ours, as in `zoo.backbones.Backbone`.
    class_weights: 'none', or 'balanced': each class weighs inversely to its examples.
    precision: a Keras policy for modules of ours; 'auto' is `zoo.precision.best()`.
    strategy: as `zoo.strategies.make` takes it.
    seed: of the order of examples, and of the search.
  """
  sweep: str = 'light'
  tune: str = 'whole'
  batch: int = 512
  steps_scale: float = 1.
  learning_rate: float = 0.01
  steps: int | None = None
  trials: int = 20
  stochastic_depth: float = 0.
  class_weights: str = 'none'
  precision: str = 'auto'
  strategy: str = 'default'
  seed: int = 0

  def __post_init__(self):
    for name, allowed in (('sweep', SWEEPS), ('class_weights', ('none', 'balanced')),
                          ('precision', ('auto', *precisions.POLICIES))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'--{name}={getattr(self, name)} is none of {", ".join(allowed)}.')
    stages(self.tune)
    if self.sweep == 'search' and importlib.util.find_spec('optuna') is None:
      raise ValueError('--sweep=search needs Optuna: pip install "expert-zoo[search]".')
    if not 0 <= self.stochastic_depth < 1:
      raise ValueError(f'--stochastic_depth={self.stochastic_depth} must be at least 0, and below '
                       '1.')
    for name in ('batch', 'steps_scale', 'learning_rate', 'trials', 'steps'):
      if getattr(self, name) is not None and not 0 < getattr(self, name) < float('inf'):
        raise ValueError(f'--{name}={getattr(self, name)} must be above 0 and finite.')


@dataclasses.dataclass(frozen=True)
class Setting:
  """One way to fine-tune.

  Attributes:
    recipe: a `zoo.training.Recipe`.
    tune: as in `Plan`.
    head_seed: of a random head; None for one that starts at zero.
  """
  recipe: training.Recipe
  tune: str = 'whole'
  head_seed: int | None = None

  def describe(self):
    """In a few words."""
    recipe = self.recipe
    words = [f'learning rate {recipe.learning_rate:.3g}', f'{recipe.steps} steps']
    words += [f'{name} {value:.2g}' for name, value in (
        ('weight decay', recipe.weight_decay), ('MixUp', recipe.mixup)) if value]
    words += [self.tune] * (self.tune != 'whole')
    return ', '.join(words)

  def to_dict(self):
    """What a result says of it."""
    kept = ('learning_rate', 'steps', 'batch', 'weight_decay', 'mixup', 'seed')
    return {name: getattr(self.recipe, name) for name in kept} | {
        'tune': self.tune, 'head_seed': self.head_seed}


def stages(tune):
  """N of 'last:N', None of other parts.

  Raises:
    ValueError: there is no such part.
  """
  kind, _, number = tune.partition(':')
  if kind == 'last' and number.isdecimal() and int(number):
    return int(number)
  if tune not in PARTS[:-1]:
    raise ValueError(f'--tune={tune} is none of {", ".join(PARTS)}.')
  return None


def default_plan(**changes):
  """The full light sweep with an accelerator; without one, a fiftieth of the steps of 64 examples.

  The small plan sees 1/400 of the images of the full one: a minute in place of seven hours.
  Changes that are None are none.
  """
  import tensorflow as tf
  accelerated = tf.config.list_physical_devices('GPU') or tf.config.list_physical_devices('TPU')
  plan = Plan() if accelerated else Plan(batch=64, steps_scale=0.02)
  changed = dataclasses.replace(
      plan, **{name: value for name, value in changes.items() if value is not None})
  if changed.precision == 'auto':  # so that what a run leaves says what it was
    changed = dataclasses.replace(changed, precision=precisions.best())
  return changed


def settings(plan, examples, multi_label=False):
  """The settings of a plan other than 'search'.

  Args:
    plan: a `Plan`.
    examples: how many there are to train on.
    multi_label: whether an image has several labels.

  Returns:
    A list of `Setting`.
  """
  if plan.sweep == 'light':
    recipes = light(plan)
  elif plan.sweep == 'hyperrule':
    recipes = [hyperrule(plan, examples)]
  elif plan.sweep == 'quick':
    recipes = [quick(plan)]
  else:
    steps = plan.steps or scaled(STEPS[0], plan)
    recipes = [_as_in_vtab(plan, plan.learning_rate, steps)]
  loss = 'sigmoid' if multi_label else 'softmax'
  return [Setting(dataclasses.replace(recipe, loss=loss), plan.tune) for recipe in recipes]


def light(plan):
  """The light sweep of VTAB: two learning rates times two schedules.

  SGD with momentum 0.9, no weight decay, no augmentation, a tenth of the rate at 30, 60
  and 90% of the steps (google-research/task_adaptation). The learning rates are not scaled
  with the batch: under a small plan few large steps serve better than few small ones.

  Returns:
    A list of `zoo.training.Recipe`.
  """
  return [_as_in_vtab(plan, rate, scaled(steps, plan))
          for rate in LEARNING_RATES for steps in STEPS]


def drawn(plan, number, multi_label=False):
  """Settings at random, for the hyper-ensembles of 2006.13570 (there: around a good one).

  Args:
    plan: a `Plan`.
    number: how many.
    multi_label: as in `settings`.

  Returns:
    A list of `Setting`: learning rate and weight decay log-uniform in `RATE_RANGE` and
    `DECAY_RANGE`, steps of the plan or of the light sweep, MixUp of `MIXUPS`.
  """
  random = np.random.default_rng(plan.seed)
  steps = (plan.steps,) if plan.steps else [scaled(one, plan) for one in STEPS]

  def log_uniform(low, high):
    return float(np.exp(random.uniform(np.log(low), np.log(high))))

  return [Setting(dataclasses.replace(
      _as_in_vtab(plan, log_uniform(*RATE_RANGE), int(random.choice(steps))),
      weight_decay=log_uniform(*DECAY_RANGE), mixup=float(random.choice(MIXUPS)),
      loss='sigmoid' if multi_label else 'softmax'), plan.tune) for _ in range(number)]


def hyperrule(plan, examples):
  """BiT-HyperRule (arXiv 1912.11370; big_transfer/bit_hyperrule.py), a `zoo.training.Recipe`.

  Steps, warm-up, decay and MixUp by the number of examples; learning rate 0.003 times batch /
  512, and as many more steps as the batch is smaller; flips, and crops from 4 reflected pixels
  more on each side (there from 160 to 128 pixels). It is a rule, and `steps_scale` not for it.
  """
  _, steps, warmup, tenths, mixup = next(row for row in HYPERRULE if examples < row[0])
  smaller = 512 / plan.batch
  return training.Recipe(
      steps=max(round(steps * smaller), 1), warmup=round(warmup * smaller), batch=plan.batch,
      learning_rate=0.003 / smaller, schedule='steps', tenths=tenths, nesterov=False,
      mixup=mixup, seed=plan.seed)


def quick(plan):
  """One cheap rule for all tasks, a `zoo.training.Recipe`; `steps_scale` is not for it."""
  steps, rate = QUICK
  return training.Recipe(
      steps=steps, batch=plan.batch, learning_rate=rate, warmup=steps // 10, nesterov=False,
      flip=False, crop=0, seed=plan.seed)


def scaled(steps, plan):
  """So many steps of the full sweep under a plan, at least one."""
  return max(round(steps * plan.steps_scale), 1)


def _as_in_vtab(plan, rate, steps):
  return training.Recipe(
      steps=steps, batch=plan.batch, learning_rate=rate, warmup=steps // 20, schedule='steps',
      nesterov=False, flip=False, crop=0, seed=plan.seed)
