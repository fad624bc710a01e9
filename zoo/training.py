"""The training loop, the same for upstream and downstream.

Shapes: N examples, B batch, H height, W width, C classes.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import time

import keras
import numpy as np

from zoo import atomic
from zoo import progress as progress_lib
from zoo import weights

CHECKPOINT = 'checkpoint.npz'
LOG = 'log.csv'
SECONDS_BETWEEN_CHECKPOINTS = 60
STEPS_BETWEEN_LOGS = 50  # fewer in a short run, so that its curve has some 20 points


class NotFiniteError(ArithmeticError):
  """The loss became NaN or infinite; the message says at which step."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """SGD with momentum, linear warm-up, then cosine or step decay.

  Attributes:
    steps: updates.
    batch: examples an update.
    learning_rate: at the end of the warm-up.
    warmup: steps from zero to the full rate.
    schedule: 'cosine' (to zero) or 'steps' (a tenth at 30, 60 and 90% of the steps).
    momentum: of SGD, in Nesterov's form if `nesterov`.
    weight_decay: decoupled, a step, times the learning rate.
    label_smoothing: share of the target spread over all classes (softmax only).
    loss: 'softmax' (one of C) or 'sigmoid' (each class for itself).
    flip, crop: augmentation, as in `zoo.batches.Batches`.
    seed: of orders and augmentation.
  """
  steps: int
  batch: int = 128
  learning_rate: float = 0.1
  warmup: int = 0
  schedule: str = 'cosine'
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 0.
  label_smoothing: float = 0.
  loss: str = 'softmax'
  flip: bool = True
  crop: int = 4
  seed: int = 0

  def __post_init__(self):
    for name, allowed in (('schedule', ('cosine', 'steps')), ('loss', ('softmax', 'sigmoid'))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name} is {getattr(self, name)!r}; it must be one of {allowed}.')
    for name in ('steps', 'batch', 'learning_rate'):
      if getattr(self, name) <= 0:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be above 0.')


def learning_rate(recipe, step):
  """The learning rate of a recipe at a step (0, 1, ...), a float."""
  if step < recipe.warmup:
    return recipe.learning_rate * (step + 1) / recipe.warmup
  if recipe.schedule == 'steps':
    # In whole numbers, since 0.3 * 10 > 3 in floating point.
    passed = sum(10 * step >= tenths * recipe.steps for tenths in (3, 6, 9))
    return recipe.learning_rate * 0.1 ** passed
  done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
  return recipe.learning_rate * 0.5 * (1 + np.cos(np.pi * min(done, 1.)))


def loss_of(recipe):
  """The Keras loss of a recipe: integer labels [B] or targets [B, C], logits [B, C]."""
  if recipe.loss == 'softmax':
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing)

  def sigmoid(targets, logits):
    # Summed over classes: with many of them, the mean would all but vanish.
    each = keras.losses.binary_crossentropy(targets, logits, from_logits=True)
    return each * logits.shape[-1]

  return sigmoid


class Trainer:
  """A compiled training step of a model, for one run or for the runs of a sweep.

  Compiling takes seconds, so the runs of a sweep share it. They may differ in learning
  rate, steps, warm-up, schedule, augmentation and seed; the rest is part of the compiled
  step.

  Args:
    model: a built Keras model from float32 images [B, H, W, 3] in [0, 1] to logits [B, C],
      with an attribute `classes`, C.
    recipe: a `Recipe`.
  """

  def __init__(self, model, recipe):
    import tensorflow as tf
    self.model = model
    self.recipe = recipe
    optimizer = self._optimizer = keras.optimizers.SGD(
        recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay or None)
    optimizer.build(model.trainable_variables)
    loss_function = loss_of(recipe)

    @tf.function
    def update(images, labels):
      if labels.shape.rank == 1:
        labels = tf.one_hot(labels, model.classes)
      with tf.GradientTape() as tape:
        logits = model(tf.cast(images, tf.float32) / 255., training=True)
        loss = tf.reduce_mean(loss_function(labels, logits))
        total = loss + tf.add_n(model.losses) if model.losses else loss
      gradients = tape.gradient(
          total, model.trainable_variables,
          unconnected_gradients=tf.UnconnectedGradients.ZERO)
      # Dense: of a packed module's stacked weights only one expert's rows have a gradient.
      gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
      optimizer.apply(gradients, model.trainable_variables)
      hits = tf.argmax(logits, -1) == tf.argmax(labels, -1)
      return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    self._update = update

  def fit(self, batches, recipe, work_dir=None, what='training'):
    """Trains the model in place, as `fit` does.

    Args:
      batches: a `zoo.batches.Batches` of the trainer's batch size.
      recipe: a `Recipe` that differs from the trainer's in what may differ.
      work_dir, what: as in `fit`.
    """
    import tensorflow as tf
    free = ('steps', 'learning_rate', 'warmup', 'schedule', 'flip', 'crop', 'seed')
    if dataclasses.replace(self.recipe, **{n: getattr(recipe, n) for n in free}) != recipe:
      raise ValueError(f'the recipe differs from the trainer\'s in more than {", ".join(free)}.')
    for variable in self._optimizer.variables:
      variable.assign(keras.ops.zeros_like(variable))
    first, history, (losses, accuracies) = _restore(work_dir, self.model, self._optimizer)
    image_spec = tf.TensorSpec([recipe.batch, *batches.images.shape[1:]], tf.uint8)
    label_spec = tf.TensorSpec(
        [recipe.batch, *batches.labels.shape[1:]], tf.as_dtype(batches.labels.dtype))
    stream = tf.data.Dataset.from_generator(
        lambda: batches.stream(first, recipe.steps),
        output_signature=(image_spec, label_spec)).prefetch(4)

    log = _Log(work_dir, history)
    saved = time.monotonic()
    start = saved - (history[-1]['seconds'] if history else 0)
    every = min(STEPS_BETWEEN_LOGS, max(recipe.steps // 20, 1))
    with progress_lib.Progress(recipe.steps, what, first) as progress:
      for step, (images, labels) in enumerate(stream, first):
        rate = learning_rate(recipe, step)
        self._optimizer.learning_rate = rate
        loss, accuracy = (float(value) for value in self._update(images, labels))
        if not np.isfinite(loss):
          raise NotFiniteError(
              f'{what}: the loss is {loss} at step {step} (learning rate {rate:.4g}); '
              'use a lower learning rate or a longer warm-up.')
        losses.append(loss)
        accuracies.append(accuracy)
        done = step + 1
        if done % every == 0 or done == recipe.steps:
          log.add({'step': done, 'loss': float(np.mean(losses)),
                   'accuracy': float(np.mean(accuracies)), 'learning_rate': float(rate),
                   'seconds': round(time.monotonic() - start, 2)})
          losses, accuracies = [], []
        if work_dir and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
          _save(work_dir, self.model, self._optimizer, done, log.rows, (losses, accuracies))
          saved = time.monotonic()
        progress.advance(note=f'loss {loss:.3f}')
    log.close()
    return log.rows


def fit(model, batches, recipe, work_dir=None, what='training'):
  """Trains a model in place; goes on from the checkpoint in `work_dir` if there is one.

  Batches depend on seed and step alone, so a resumed run sees what it would have seen.

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
  """
  return Trainer(model, recipe).fit(batches, recipe, work_dir, what)


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


class _Log:
  """The history as rows, as a CSV file and as TensorBoard scalars."""

  def __init__(self, work_dir, rows):
    self.rows = list(rows)
    self._work_dir = work_dir
    if work_dir:
      import tensorflow as tf
      self._writer = tf.summary.create_file_writer(os.path.join(work_dir, 'tensorboard'))

  def add(self, row):
    self.rows.append(row)
    if not self._work_dir:
      return
    import tensorflow as tf
    write_log(self._work_dir, self.rows)
    with self._writer.as_default():
      for name in ('loss', 'accuracy', 'learning_rate'):
        tf.summary.scalar(name, row[name], step=row['step'])

  def close(self):
    if self._work_dir:
      self._writer.close()


def write_log(work_dir, rows):
  """Writes the history of `fit` as log.csv, whole each time: a kill leaves no half line."""
  with atomic.writing(os.path.join(work_dir, LOG)) as file:
    lines = io.TextIOWrapper(file, encoding='utf-8', newline='')
    writer = csv.DictWriter(lines, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    lines.flush()
    lines.detach()


def _save(work_dir, model, optimizer, step, history, recent):
  """Writes the checkpoint; `recent` are the losses and accuracies not yet in a row."""
  state = {f'model/{path}': value for path, value in weights.of(model).items()}
  state |= {f'optimizer/{i}': np.asarray(v) for i, v in enumerate(optimizer.variables)}
  state |= {'step': step, 'history': json.dumps(history), 'recent': np.array(recent)}
  with atomic.writing(os.path.join(work_dir, CHECKPOINT)) as file:
    np.savez(file, **state)


def _restore(work_dir, model, optimizer):
  """Reads the checkpoint, if any; returns its step, history and recent losses."""
  path = work_dir and os.path.join(work_dir, CHECKPOINT)
  if not path or not os.path.exists(path):
    return 0, [], ([], [])
  with np.load(path) as state:
    weights.set_to(model, {
        key.removeprefix('model/'): state[key] for key in state if key.startswith('model/')})
    for i, variable in enumerate(optimizer.variables):
      variable.assign(state[f'optimizer/{i}'])
    losses, accuracies = state['recent'].tolist()
    return int(state['step']), json.loads(str(state['history'])), (losses, accuracies)
