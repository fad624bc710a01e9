"""The training loop, the same upstream and downstream, on one device or many.

Keras' own `fit` does not run under `MultiWorkerMirroredStrategy`; this loop runs under every
strategy, and gives the same losses under each. Its steps are compiled by TensorFlow
(`zoo.tf_steps`) or, where Keras' backend is JAX, by that (`zoo.jax_steps`).

Shapes: N examples, B batch of all replicas together, H height, W width, C classes, S steps of
one call.
"""

import contextlib
import dataclasses
import logging
import time

import keras
import numpy as np

from zoo import checkpoint
from zoo import preemption
from zoo import progress as progress_lib
from zoo import strategies
from zoo import train_log

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 60
SECONDS_OF_A_CALL = 0.5  # of the compiled loop, after which Python looks at signals and clocks
STEPS_BETWEEN_LOGS = 50  # fewer in a short run, so that its curve has some 20 points
FREE = ('learning_rate', 'warmup', 'schedule', 'tenths', 'flip', 'crop', 'cutout', 'mixup',
        'seed')


class NotFiniteError(ArithmeticError):
  """The loss became NaN or infinite; the message says at which step."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """SGD with momentum or Adam, linear warm-up, then cosine or step decay.

  Attributes:
    steps: updates.
    batch: examples an update.
    learning_rate: at the end of the warm-up.
    warmup: steps from zero to the full rate.
    schedule: 'cosine' (to zero) or 'steps' (a tenth after each of `tenths` of the steps).
    tenths: whole numbers; after 30, 60 and 90% if not given.
    optimizer: 'sgd' or 'adam'.
    momentum: of SGD, in Nesterov's form if `nesterov`.
    weight_decay: decoupled, a step, times the learning rate.
    label_smoothing: share of the target spread over all classes (softmax only).
    loss: 'softmax' (one of C) or 'sigmoid' (each class for itself).
    flip, crop, cutout, mixup: augmentation, as in `zoo.batches.Batches`.
    seed: of orders and augmentation.
  """
  steps: int
  batch: int = 128
  learning_rate: float = 0.1
  warmup: int = 0
  schedule: str = 'cosine'
  tenths: tuple[int, ...] = (3, 6, 9)
  optimizer: str = 'sgd'
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 0.
  label_smoothing: float = 0.
  loss: str = 'softmax'
  flip: bool = True
  crop: int = 4
  cutout: int = 0
  mixup: float = 0.
  seed: int = 0

  def __post_init__(self):
    for name, allowed in (('schedule', ('cosine', 'steps')), ('optimizer', ('sgd', 'adam')),
                          ('loss', ('softmax', 'sigmoid'))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name} is {getattr(self, name)!r}; it must be one of {allowed}.')
    for name in ('steps', 'batch', 'learning_rate'):
      if getattr(self, name) <= 0:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be above 0.')

  def to_dict(self):
    """The fields; those that came later only where they are set, so that older runs go on."""
    later = ('cutout',)
    return {name: value for name, value in dataclasses.asdict(self).items()
            if value or name not in later}


def compiled(recipe):
  """A recipe without what may differ between the runs of a `Trainer`, which share one step.

  That is steps, `FREE`, and how much weight decay there is where there is any.
  """
  plain = Recipe(1)
  return dataclasses.replace(recipe, steps=1, weight_decay=float(recipe.weight_decay > 0),
                             **{name: getattr(plain, name) for name in FREE})


def learning_rate(recipe, step):
  """The learning rate of a recipe at a step (0, 1, ...), a float."""
  if step < recipe.warmup:
    return recipe.learning_rate * (step + 1) / recipe.warmup
  if recipe.schedule == 'steps':
    # In whole numbers, since 0.3 * 10 > 3 in floating point.
    passed = sum(10 * step >= tenths * recipe.steps for tenths in recipe.tenths)
    return recipe.learning_rate * 0.1 ** passed
  done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
  return recipe.learning_rate * 0.5 * (1 + np.cos(np.pi * min(done, 1.)))


def loss_of(recipe, class_weights=None):
  """The loss of each example: a function of targets [B, C] and logits [B, C] to [B].

  Args:
    recipe: a `Recipe`.
    class_weights: floats [C], or None for ones: factors on the losses of the examples of
      each class ('softmax'), or on what each class adds to every example's ('sigmoid').
  """
  def softmax(targets, logits):
    losses = keras.losses.categorical_crossentropy(
        targets, logits, from_logits=True, label_smoothing=recipe.label_smoothing)
    return losses if class_weights is None else losses * keras.ops.matmul(targets, class_weights)

  def sigmoid(targets, logits):
    # Summed over classes: with many of them, the mean would all but vanish.
    losses = keras.ops.binary_crossentropy(targets, logits, from_logits=True)
    return keras.ops.sum(losses if class_weights is None else losses * class_weights, -1)

  return softmax if recipe.loss == 'softmax' else sigmoid


class Objective:
  """What a training step makes smaller.

  Args:
    model, recipe, class_weights, forward: as of `Trainer`.
  """

  def __init__(self, model, recipe, class_weights=None, forward=None):
    self.model = model
    self._batch = recipe.batch
    self._losses_of = loss_of(recipe, class_weights)
    self._forward = forward or (lambda images, labels: model(images, training=True))

  def __call__(self, images, labels, share):
    """Of a part of a batch: (the scalar to make smaller, sums of loss and hits [2]).

    Args:
      images: uint8 [P, H, W, 3].
      labels: integers [P], or float32 [P, C].
      share: of the losses that are the model's own.
    """
    ops = keras.ops
    if len(labels.shape) == 1:
      labels = ops.one_hot(labels, self.model.classes)
    logits = self._forward(ops.cast(images, 'float32') / 255., labels)
    loss = ops.sum(self._losses_of(labels, logits)) / self._batch
    total = loss + share * sum(self.model.losses)
    # The likeliest class is right if no other has more of the label.
    own = ops.take_along_axis(labels, ops.argmax(logits, -1)[:, None], -1)[:, 0]
    hits = ops.cast(own >= ops.max(labels, -1), 'float32')
    return total, ops.stack([loss, ops.sum(hits) / self._batch])


class Trainer:
  """A compiled training step of a model, for one run or for the runs of a sweep.

  Compiling takes seconds, so the runs of a sweep share it, if their recipes are the same when
  `compiled`.

  Make model and trainer in the scope of a strategy (`zoo.strategies.make`) to train under it.
  Each replica takes an equal part of every batch. If a step does not fit into memory, half as
  many images are computed at once, and then again, and their gradients are summed.

  Args:
    model: a built Keras model from float32 images [B, H, W, 3] in [0, 1] to logits [B, C],
      with an attribute `classes`, C.
    recipe: a `Recipe`.
    class_weights: as in `loss_of`.
    forward: the training step's logits [B, C], if they depend on more than images: a function of
      images and labels [B, C].

  Raises:
    ValueError: the batch does not split evenly over the replicas, or Keras' backend has no such
      precision.
  """

  def __init__(self, model, recipe, class_weights=None, forward=None):
    self.model = model
    self.recipe = recipe
    self.strategy = strategies.current()
    replicas = self.strategy.num_replicas_in_sync
    if recipe.batch % replicas:
      below = recipe.batch - recipe.batch % replicas
      raise ValueError(f'a batch of {recipe.batch} does not split evenly over {replicas} replicas: '
                       f'use --batch={f"{below} or " if below else ""}{below + replicas}.')
    optimizer = keras.optimizers.Adam(recipe.learning_rate) if recipe.optimizer == 'adam' else (
        keras.optimizers.SGD(
            recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov))
    self._weight_decay = None
    if recipe.weight_decay:  # a variable, so that the runs of a sweep may differ
      optimizer.weight_decay = self._weight_decay = keras.Variable(
          recipe.weight_decay, trainable=False, dtype='float32', aggregation='only_first_replica')
    if any(layer.compute_dtype == 'float16'
           for layer in model._flatten_layers()):  # pylint: disable=protected-access
      if keras.backend.backend() != 'tensorflow':
        raise ValueError('mixed_float16 trains with TensorFlow only: use mixed_bfloat16.')
      # Its smallest number is 6e-8: gradients need scaling.
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    self._optimizer = optimizer
    self._fresh = [np.asarray(variable) for variable in optimizer.variables]
    weights = None if class_weights is None else np.asarray(class_weights, np.float32)
    self._steps = _steps().Steps(
        Objective(model, recipe, weights, forward), optimizer, recipe.batch, STEPS_BETWEEN_LOGS)
    self._outputs = self.outputs()

  def fit(self, batches, recipe, work_dir=None, what='training', watch=None, measure=None):
    """Trains the model in place, as `fit` does.

    Args:
      batches: a `zoo.batches.Batches` of the trainer's batch size.
      recipe: a `Recipe` that is the trainer's when `compiled`.
      work_dir, what: as in `fit`.
      watch: called with every row of the log, if given.
      measure: called for every row, if given, for a dict of further columns.
    """
    if compiled(recipe) != compiled(self.recipe):
      raise ValueError('the recipe differs from the trainer\'s in more than steps, '
                       f'{", ".join(FREE)}: make another trainer.')
    start = [np.asarray(variable) for variable in self.model.variables]
    while True:
      try:
        return self._fit(batches, recipe, work_dir, what, watch, measure)
      except _steps().OutOfMemoryError:
        if self._steps.at_once == 1:
          raise MemoryError(f'{what}: not even a single image at a time fits into memory: use '
                            'a smaller network or image size.') from None
        self._steps.halve()
        logger.warning('%s: out of memory; going on with %d images at once, and the sum of the '
                       'gradients.', what, self._steps.at_once)
        for variable, value in zip(self.model.variables, start, strict=True):
          variable.assign(value)

  def _fit(self, batches, recipe, work_dir, what, watch, measure):
    chief = strategies.is_chief(self.strategy)
    for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
      variable.assign(value)
    if self._weight_decay is not None:
      self._weight_decay.assign(recipe.weight_decay)
    step, history, recent = checkpoint.restore(work_dir, self.model, self._optimizer)
    if np.ptp(strategies.of_all(self.strategy, [step])):
      raise ValueError(f'{what}: the workers went on from different steps, this one from {step}: '
                       'give all the same --work_dir, in a folder that they share.')
    log = train_log.Log(work_dir if chief else None, history)
    saved = time.monotonic()
    start = saved - (history[-1]['seconds'] if history else 0)
    every = min(STEPS_BETWEEN_LOGS, max(recipe.steps // 20, 1))
    stream = self._steps.stream(batches, step, recipe.steps)
    pace = 1

    def save():
      if work_dir and chief:
        checkpoint.save(work_dir, self.model, self._optimizer, step, log.rows, recent)

    with progress_lib.Progress(recipe.steps, what, step) as progress, (
        preemption.noticed()) as notice:
      while step < recipe.steps:
        count = min(pace, every - step % every, recipe.steps - step)
        rates = [float(learning_rate(recipe, step + i)) for i in range(count)]
        began = time.monotonic()
        found = self._steps.run(stream, rates)
        slow = time.monotonic() - began > SECONDS_OF_A_CALL
        losses, accuracies = found.T.tolist()
        if not np.isfinite(losses).all():
          bad = int(np.argmin(np.isfinite(losses)))
          raise NotFiniteError(
              f'{what}: the loss is {losses[bad]} at step {step + bad} (learning rate '
              f'{rates[bad]:.4g}); use a lower learning rate or a longer warm-up.')
        recent = [recent[0] + losses, recent[1] + accuracies]
        step += count
        if step % every == 0 or step == recipe.steps:
          log.add({'step': step, 'loss': float(np.mean(recent[0])),
                   'accuracy': float(np.mean(recent[1])), 'learning_rate': rates[-1],
                   'seconds': round(time.monotonic() - start, 2),
                   **(measure() if measure else {})})
          recent = [[], []]
          if watch is not None:
            watch(log.rows[-1])
        # Every process must take the same steps, so what one hears or measures goes for all.
        asked, slow = strategies.of_all(self.strategy, [bool(notice.asked), slow]).any(0)
        pace = max(pace // 2, 1) if slow else min(2 * pace, STEPS_BETWEEN_LOGS)
        if asked:
          save()
          kept = 'the same command goes on there' if work_dir else 'nothing is kept'
          raise preemption.Preempted(f'{what}: stopped at step {step}; {kept}.')
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
          save()
          saved = time.monotonic()
        progress.advance(count, note=f'loss {losses[-1]:.3f}')
    log.close()
    return log.rows

  def outputs(self, **arguments):
    """The model as `sharded`, with further arguments of its call."""
    return sharded(self.model, self.strategy, **arguments)

  def predict(self, images, batch=256, what=''):
    """The model's logits, by all replicas together; every process gets all of them.

    Args:
      images, what: as in `predict`.
      batch: examples at once on each replica.

    Returns:
      float32 [N, C], each example seen once.
    """
    return predict(self._outputs, images, batch * self.strategy.num_replicas_in_sync, what)


def fit(model, batches, recipe, work_dir=None, what='training'):
  """Trains a model in place; goes on from the checkpoint in `work_dir` if there is one.

  Batches depend on seed and step alone, so a resumed run sees what it would have seen. A
  signal to stop (SIGTERM, SIGINT) is answered within a second or a step, with a checkpoint.

  Args:
    model: as in `Trainer`.
    batches: a `zoo.batches.Batches`.
    recipe: a `Recipe`.
    work_dir: where checkpoint, CSV log and TensorBoard events go; None for nowhere.
    what: name of the run in the progress display.

  Returns:
    A list of dicts, one every 50 steps or oftener and at the last: step, loss (mean since
    the one before), accuracy (of the training batches), learning_rate, seconds (of
    training).

  Raises:
    NotFiniteError: the loss is NaN or infinite.
    zoo.preemption.Preempted: a signal came; the checkpoint is written.
    MemoryError: not even one image at a time fits.
  """
  return Trainer(model, recipe).fit(batches, recipe, work_dir, what)


def sharded(model, strategy, **arguments):
  """A compiled function of float32 images [B, H, W, 3] to outputs [B, ...], for `predict`.

  Args:
    model: a Keras model of the strategy's scope. Each replica computes a part of the images, each
      image is seen once, and every process gets all outputs.
    strategy: a strategy.
    arguments: of the model's call, beside images.
  """
  return _steps().sharded(model, strategy, **arguments)


def _steps():
  """The module of steps for Keras' backend."""
  if keras.backend.backend() == 'jax':
    from zoo import jax_steps
    return jax_steps
  from zoo import tf_steps
  return tf_steps


def predict(function, images, batch=256, what=''):
  """Applies a function to images batch by batch.

  Args:
    function: from float32 images [B, H, W, 3] in [0, 1] to a tensor [B, ...]; a model, or
      a compiled function. It sees full batches only, so that it is traced once: the last
      one is filled up with zeros, whose outputs are dropped.
    images: uint8 [N, H, W, 3].
    batch: B.
    what: shown as progress, if given.

  Returns:
    float32 [N, ...].
  """
  batch = min(batch, len(images))
  outputs = []
  shown = progress_lib.Progress(len(images), what) if what else contextlib.nullcontext()
  with shown as progress:
    for first in range(0, len(images), batch):
      piece = images[first:first + batch]
      full = np.zeros((batch, *images.shape[1:]), np.float32)
      np.divide(piece, 255., out=full[:len(piece)])
      outputs.append(np.asarray(function(full), np.float32)[:len(piece)])
      if progress is not None:
        progress.advance(len(piece))
  return np.concatenate(outputs)
