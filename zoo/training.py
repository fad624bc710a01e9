"""The training loop, the same upstream and downstream, on one device or many.

Keras' own `fit` does not run under `MultiWorkerMirroredStrategy`; this loop runs under every
strategy, and gives the same losses under each.

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
FREE = ('learning_rate', 'warmup', 'schedule', 'tenths', 'flip', 'crop', 'mixup', 'seed')


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
    flip, crop, mixup: augmentation, as in `zoo.batches.Batches`.
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
    ValueError: the batch does not split evenly over the replicas.
  """

  def __init__(self, model, recipe, class_weights=None, forward=None):
    import tensorflow as tf
    self.model = model
    self._forward = forward or (lambda images, labels: model(images, training=True))
    self.recipe = recipe
    self.strategy = tf.distribute.get_strategy()
    replicas = self.strategy.num_replicas_in_sync
    if recipe.batch % replicas:
      below = recipe.batch - recipe.batch % replicas
      raise ValueError(f'a batch of {recipe.batch} does not split evenly over {replicas} replicas: '
                       f'use --batch={f"{below} or " if below else ""}{below + replicas}.')
    self._class_weights = None if class_weights is None else np.asarray(class_weights, np.float32)
    optimizer = keras.optimizers.Adam(recipe.learning_rate) if recipe.optimizer == 'adam' else (
        keras.optimizers.SGD(
            recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov))
    if recipe.weight_decay:  # a variable, so that the runs of a sweep may differ
      optimizer.weight_decay = self._weight_decay = tf.Variable(
          recipe.weight_decay, trainable=False, dtype=tf.float32,
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    self._half = any(layer.compute_dtype == 'float16'
                     for layer in model._flatten_layers())  # pylint: disable=protected-access
    if self._half:  # its smallest number is 6e-8: gradients need scaling
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    self._optimizer = optimizer
    self._fresh = [np.asarray(variable) for variable in optimizer.variables]
    self._at_once = recipe.batch // replicas  # images of one replica
    self._update = self._compiled()
    self._outputs = self.outputs()

  def _compiled(self):
    """The compiled loop over some steps; see `update`."""
    import tensorflow as tf
    model, optimizer, strategy, recipe = self.model, self._optimizer, self.strategy, self.recipe
    variables, at_once = model.trainable_variables, self._at_once
    losses_of = loss_of(recipe, self._class_weights)
    size = recipe.batch // strategy.num_replicas_in_sync
    parts = -(-size // at_once)
    share = 1 / strategy.num_replicas_in_sync / parts

    def gradients_of(images, labels):
      """Of the part's share of the batch's loss; with sums of loss and hits, [2]."""
      if labels.shape.rank == 1:
        labels = tf.one_hot(labels, model.classes)
      with tf.GradientTape() as tape:
        logits = self._forward(tf.cast(images, tf.float32) / 255., labels)
        loss = tf.reduce_sum(losses_of(labels, logits)) / recipe.batch
        total = loss + share * tf.add_n(model.losses) if model.losses else loss
        if self._half:
          total = optimizer.scale_loss(total)
      gradients = tape.gradient(
          total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
      # Dense: of a packed module's stacked weights only one expert's rows have a gradient.
      gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
      # The likeliest class is right if no other has more of the label.
      own = tf.gather(labels, tf.argmax(logits, -1), batch_dims=1)
      hits = tf.cast(own >= tf.reduce_max(labels, -1), tf.float32)
      return gradients, tf.stack([loss, tf.reduce_sum(hits) / recipe.batch])

    def in_parts(images, labels):
      def add(first, gradients, sums):
        next_one = first + at_once
        more, others = gradients_of(images[first:next_one], labels[first:next_one])
        return next_one, [a + b for a, b in zip(gradients, more, strict=True)], sums + others

      start = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
      _, gradients, sums = tf.while_loop(
          lambda first, *_: first < size, add, (0, start, tf.zeros(2)),
          parallel_iterations=1)  # the next part only when the memory of the last is free
      return gradients, sums

    def replica(images, labels):
      gradients, sums = (gradients_of if parts == 1 else in_parts)(images, labels)
      if self._half:
        # Where one replica overflows, all must leave the step out.
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        context = tf.distribute.get_replica_context()
        bad = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.float32)) > 0
        gradients = [tf.where(bad, np.nan, g) for g in gradients]
      optimizer.apply(gradients, variables)
      return sums

    @tf.function
    def update(batches, rates, steps):
      """Loss and accuracy [S, 2] of the next `steps` batches, at these learning rates."""
      rows = tf.TensorArray(tf.float32, STEPS_BETWEEN_LOGS, element_shape=[2])
      for i in tf.range(steps):
        optimizer.learning_rate = rates[i]
        each = strategy.run(replica, next(batches))
        rows = rows.write(i, strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None))
      return rows.stack()[:steps]

    return update

  def fit(self, batches, recipe, work_dir=None, what='training', watch=None, measure=None):
    """Trains the model in place, as `fit` does.

    Args:
      batches: a `zoo.batches.Batches` of the trainer's batch size.
      recipe: a `Recipe` that is the trainer's when `compiled`.
      work_dir, what: as in `fit`.
      watch: called with every row of the log, if given.
      measure: called for every row, if given, for a dict of further columns.
    """
    import tensorflow as tf
    if compiled(recipe) != compiled(self.recipe):
      raise ValueError('the recipe differs from the trainer\'s in more than steps, '
                       f'{", ".join(FREE)}: make another trainer.')
    if self.recipe.weight_decay:
      self._weight_decay.assign(recipe.weight_decay)
    start = [np.asarray(variable) for variable in self.model.variables]
    while True:
      try:
        return self._fit(batches, recipe, work_dir, what, watch, measure)
      except tf.errors.ResourceExhaustedError:
        if self._at_once == 1:
          raise MemoryError(f'{what}: not even a single image at a time fits into memory: use '
                            'a smaller network or image size.') from None
        self._at_once = -(-self._at_once // 2)
        logger.warning('%s: out of memory; going on with %d images at once, and the sum of the '
                       'gradients.', what, self._at_once)
        self._update = self._compiled()
        for variable, value in zip(self.model.variables, start, strict=True):
          variable.assign(value)

  def _fit(self, batches, recipe, work_dir, what, watch, measure):
    import tensorflow as tf
    chief = strategies.is_chief(self.strategy)
    for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
      variable.assign(value)
    step, history, recent = checkpoint.restore(work_dir, self.model, self._optimizer)
    if np.ptp(strategies.of_all(self.strategy, [step])):
      raise ValueError(f'{what}: the workers went on from different steps, this one from {step}: '
                       'give all the same --work_dir, in a folder that they share.')
    log = train_log.Log(work_dir if chief else None, history)
    saved = time.monotonic()
    start = saved - (history[-1]['seconds'] if history else 0)
    every = min(STEPS_BETWEEN_LOGS, max(recipe.steps // 20, 1))
    stream, rates = self._stream(batches, step, recipe.steps), np.zeros(
        STEPS_BETWEEN_LOGS, np.float32)
    pace = 1

    def save():
      if work_dir and chief:
        checkpoint.save(work_dir, self.model, self._optimizer, step, log.rows, recent)

    with progress_lib.Progress(recipe.steps, what, step) as progress, (
        preemption.noticed()) as notice:
      while step < recipe.steps:
        count = min(pace, every - step % every, recipe.steps - step)
        rates[:count] = [learning_rate(recipe, step + i) for i in range(count)]
        began = time.monotonic()
        found = self._update(stream, tf.constant(rates), tf.constant(count)).numpy()
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
                   'accuracy': float(np.mean(recent[1])), 'learning_rate': float(rates[count - 1]),
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

  def _stream(self, batches, first, last):
    """The batches of steps first .. last - 1, each replica's part for itself."""
    import tensorflow as tf
    replicas = self.strategy.num_replicas_in_sync
    size = batches.batch // replicas
    images, labels = batches.at(first) if first < last else batches.at(0)
    signature = tuple(tf.TensorSpec([size, *array.shape[1:]], array.dtype)
                      for array in (images, labels))

    def of_worker(context):
      own = replicas // context.num_input_pipelines
      mine = range(context.input_pipeline_id * own, (context.input_pipeline_id + 1) * own)

      def parts():
        for images, labels in batches.stream(first, last):
          for i in mine:
            yield images[i * size:(i + 1) * size], labels[i * size:(i + 1) * size]

      return tf.data.Dataset.from_generator(parts, output_signature=signature).prefetch(4 * own)

    return iter(self.strategy.distribute_datasets_from_function(of_worker))

  def outputs(self, **arguments):
    """The model as `sharded`, with further arguments of its call."""
    return sharded(lambda images, training: self.model(images, training=training, **arguments),
                   self.strategy)

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


def sharded(model, strategy):
  """A function of float32 images [B, H, W, 3] to the model's outputs [B, ...], for `predict`.

  Each replica computes a part of the images, each image is seen once, and every process gets
  all outputs. The model must be of the strategy's scope.
  """
  import tensorflow as tf
  replicas = strategy.num_replicas_in_sync

  @tf.function
  def outputs(parts):
    each = strategy.run(lambda images: model(images, training=False), (parts,))
    return strategy.gather(each, axis=0)

  def spread(images):
    rest = -len(images) % replicas
    parts = np.concatenate([images, images[:1].repeat(rest, 0)]) if rest else images
    return outputs(strategies.to_replicas(strategy, parts))[:len(images)]

  return spread


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
