"""Training steps in TensorFlow, under any of its distribution strategies.

Shapes: B batch of all replicas together, H height, W width, S steps of one call.
"""

import keras
import numpy as np
import tensorflow as tf

from zoo import strategies

OutOfMemoryError = tf.errors.ResourceExhaustedError


class Steps:
  """The compiled step of a `zoo.training.Trainer`, under the strategy in whose scope it is made.

  Each replica takes an equal part of every batch.

  Args:
    objective: a `zoo.training.Objective`.
    optimizer: built.
    batch: B.
    most: steps of a call, at most.

  Attributes:
    at_once: images of a replica that are computed at once.
  """

  def __init__(self, objective, optimizer, batch, most):
    self.strategy = tf.distribute.get_strategy()
    self._objective, self._optimizer, self._most = objective, optimizer, most
    self._size = self.at_once = batch // self.strategy.num_replicas_in_sync
    self._run = self._compiled()

  def halve(self):
    """From now on half as many images are computed at once, and their gradients summed."""
    self.at_once = -(-self.at_once // 2)
    self._run = self._compiled()

  def run(self, stream, rates):
    """Loss and accuracy, float32 [S, 2], of the next S batches at learning rates [S]."""
    padded = rates + [0.] * (self._most - len(rates))
    return self._run(stream, tf.constant(padded), tf.constant(len(rates))).numpy()

  def _compiled(self):
    objective, optimizer, strategy = self._objective, self._optimizer, self.strategy
    variables, at_once, size = objective.model.trainable_variables, self.at_once, self._size
    parts = -(-size // at_once)
    share = 1 / strategy.num_replicas_in_sync / parts
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def gradients_of(images, labels):
      """Of the part's share of the batch's loss; with sums of loss and hits, [2]."""
      with tf.GradientTape() as tape:
        total, sums = objective(images, labels, share)
        if scaled:
          total = optimizer.scale_loss(total)
      gradients = tape.gradient(
          total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
      # Dense: of a packed module's stacked weights only one expert's rows have a gradient.
      return [tf.convert_to_tensor(gradient) for gradient in gradients], sums

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
      if scaled:
        # Where one replica overflows, all must leave the step out.
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        context = tf.distribute.get_replica_context()
        bad = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.float32)) > 0
        gradients = [tf.where(bad, np.nan, g) for g in gradients]
      optimizer.apply(gradients, variables)
      return sums

    @tf.function
    def run(batches, rates, steps):
      rows = tf.TensorArray(tf.float32, self._most, element_shape=[2])
      for i in tf.range(steps):
        optimizer.learning_rate = rates[i]
        each = strategy.run(replica, next(batches))
        rows = rows.write(i, strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None))
      return rows.stack()[:steps]

    return run

  def stream(self, batches, first, last):
    """The `zoo.batches.Batches` of steps first .. last - 1, each replica's part for itself."""
    replicas, size = self.strategy.num_replicas_in_sync, self._size
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


def sharded(model, strategy, **arguments):
  """A compiled function of float32 images [B, H, W, 3] to the model's outputs [B, ...].

  Each replica computes a part of the images, each image is seen once, and every process gets
  all outputs. The model must be of the strategy's scope; arguments of its call beside images are
  fixed.
  """
  replicas = strategy.num_replicas_in_sync

  @tf.function
  def outputs(parts):
    each = strategy.run(lambda images: model(images, training=False, **arguments), (parts,))
    return strategy.gather(each, axis=0)

  def spread(images):
    rest = -len(images) % replicas
    parts = np.concatenate([images, images[:1].repeat(rest, 0)]) if rest else images
    return outputs(strategies.to_replicas(strategy, parts))[:len(images)]

  return spread
