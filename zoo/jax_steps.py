"""Training steps in JAX, on one device or with batches spread over several.

It trains where there is no TensorFlow. Arrays stay in the model's variables between calls.

Shapes: B batch, H height, W width, S steps of one call.
"""

import collections
from concurrent import futures

import jax
import keras
import numpy as np

from zoo import jit

AHEAD = 4  # batches that are made at once, in threads, as each depends on its step alone


class OutOfMemoryError(MemoryError):
  """A step did not fit into memory."""


class Steps:
  """The compiled step of a `zoo.training.Trainer`, on the devices in whose scope it is made.

  Args:
    objective: a `zoo.training.Objective`.
    optimizer: built.
    batch: B.
    most: not needed here; steps of a call, at most.

  Attributes:
    at_once: images that are computed at once.
  """

  def __init__(self, objective, optimizer, batch, most):
    del most
    model = objective.model
    self._objective, self._optimizer, self._batch = objective, optimizer, batch
    self._devices = keras.distribution.distribution()
    self._trained = model.trainable_variables
    # Optimizers keep their own; what else a model has are states, such as those of random layers.
    self._others = [*model.non_trainable_variables, *optimizer.variables]
    self.at_once = batch
    self._step = self._compiled()

  def halve(self):
    """From now on half as many images are computed at once, and their gradients summed.

    As parts must be alike, it is the next lower divisor of the batch.
    """
    self.at_once = next(size for size in range(-(-self.at_once // 2), 0, -1)
                        if self._batch % size == 0)
    self._step = self._compiled()

  def run(self, stream, rates):
    """Loss and accuracy, float32 [S, 2], of the next S batches at learning rates [S]."""
    values = [[variable.value for variable in own] for own in (self._trained, self._others)]
    rows = []
    try:
      for rate in rates:
        images, labels = (self._spread(array) for array in next(stream))
        *values, row = self._step(*values, images, labels, np.float32(rate))
        rows.append(row)
      rows = np.stack(rows)  # waits for all of them
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' in str(error):
        raise OutOfMemoryError(str(error)) from None
      raise
    for own, new in zip((self._trained, self._others), values, strict=True):
      for variable, value in zip(own, new, strict=True):
        variable.assign(value)
    return rows

  def _compiled(self):
    objective, optimizer = self._objective, self._optimizer
    trained, others, parts = self._trained, self._others, self._batch // self.at_once

    def scope_of(values, states):
      """In which the variables have these values."""
      return keras.StatelessScope(list(zip(
          [*trained, *others], [*values, *states], strict=True)), collect_losses=True)

    def loss(values, states, images, labels):
      with scope_of(values, states) as scope:
        total, sums = objective(images, labels, 1 / parts)
      return total, ([scope.get_current_value(variable) for variable in others], sums)

    def gradients_of(values, states, images, labels):
      (_, (states, sums)), gradients = jax.value_and_grad(loss, has_aux=True)(
          values, states, images, labels)
      return states, gradients, sums

    def in_parts(values, states, images, labels):
      def add(carry, part):
        states, gradients, sums = carry
        states, more, others = gradients_of(values, states, *part)
        return (states, [a + b for a, b in zip(gradients, more, strict=True)], sums + others), None

      start = states, [jax.numpy.zeros_like(value) for value in values], jax.numpy.zeros(2)
      return jax.lax.scan(add, start, [
          array.reshape(parts, -1, *array.shape[1:]) for array in (images, labels)])[0]

    def step(values, states, images, labels, rate):
      states, gradients, sums = (gradients_of if parts == 1 else in_parts)(
          values, states, images, labels)
      with scope_of(values, states) as scope:
        optimizer.learning_rate = rate
        optimizer.apply(gradients, trained)
      return *([scope.get_current_value(variable) for variable in own]
               for own in (trained, others)), sums

    return jax.jit(step, donate_argnums=(0, 1))

  def _spread(self, array):
    if self._devices is None:
      return array
    layout = self._devices.get_data_layout(array.shape)
    return jax.device_put(array, layout.backend_layout)

  def stream(self, batches, first, last):
    """The `zoo.batches.Batches` of steps first .. last - 1, made while the device computes."""
    with futures.ThreadPoolExecutor(AHEAD) as makers:
      coming = collections.deque()
      for step in range(first, last + AHEAD):
        if step < last:
          coming.append(makers.submit(batches.at, step))
        if step >= first + AHEAD:
          yield coming.popleft().result()


def sharded(model, strategy, **arguments):
  """A compiled function of float32 images [B, H, W, 3] to the model's outputs [B, ...].

  Arguments of the model's call beside images are fixed.
  """
  del strategy  # the model's variables are where they are
  return jit.jit(lambda images: model(images, training=False, **arguments), model)
