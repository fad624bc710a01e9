"""speed.py: images per second of embedding and of fine-tuning, beside their limits.

Embedding by a module is set beside the bare compiled forward pass of the same network. Our
training step, on the module as it is rebuilt and on the module as any other SavedModel, is set
beside a plain Keras `fit` of the same network and a `tf_keras` `fit` of the same module in
`hub.KerasLayer`. All run in turn in one process, several rounds, so that a change of the
machine's speed hits all alike: the ratios count, not the single rates. Prints one JSON line.
"""

import json
import statistics
import sys
import tempfile
import time

from absl import flags

from zoo import cli


def measure(preset, image_size, batch, steps, rounds):
  """Measures the rates.

  Args:
    preset: name of the backbone.
    image_size: pixels.
    batch: examples at once in training.
    steps: batches a round.
    rounds: how often each is measured; the median counts.

  Returns:
    A dict of images_per_second by contender, and of ratios, the medians of the ratios round by
    round: embed_over_forward, and finetune over each of the others.
  """
  from export import metadata
  seconds = in_turn(_contenders(preset, image_size, batch, steps), rounds)

  def rates_over(one, other):
    return round(ratio(seconds[other], seconds[one]), 3)

  return {
      'preset': preset, 'image_size': image_size, 'batch': batch, 'rounds': rounds,
      'images_per_second': {name: round(batch * steps / statistics.median(taken), 1)
                            for name, taken in seconds.items()},
      'embed_over_forward': rates_over('embed', 'forward'),
      **{f'finetune_over_{name}': rates_over('finetune', name)
         for name in seconds if 'fit' in name},
      'foreign_over_hub_fit': rates_over('finetune_foreign', 'hub_fit'),
      'bfloat16_over_float32': rates_over('finetune_bfloat16', 'finetune'),
      'versions': metadata.versions()}


def _contenders(preset, image_size, batch, steps):
  """What is measured, as functions by name; each takes batch * steps images."""
  import keras
  import numpy as np
  import tensorflow as tf
  import tensorflow_hub
  import tf_keras

  from export import hub
  from export import metadata
  from export import saved_model
  from finetune import saved_layer
  from finetune import tuned
  from selection import embedder
  from zoo import backbones
  from zoo import batches
  from zoo import training

  backbone = backbones.build(preset)
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (batch * steps, image_size, image_size, 3)).astype(np.uint8)
  labels = random.integers(0, 10, len(images))
  scaled = images.astype(np.float32) / 255
  with tempfile.TemporaryDirectory() as folder:
    path = f'{folder}/module'
    saved_model.save(backbone, path)
    module = hub.Module(path, path, metadata.read(path))
    embed = embedder.Embedder(module)
    features = backbone.architecture.features
    foreign = tuned.Tuned(saved_layer.SavedLayer(hub.load(module)), features, 10)
    legacy = tf_keras.Sequential([
        tensorflow_hub.KerasLayer(path, trainable=True), tf_keras.layers.Dense(10)])
    legacy.build((None, image_size, image_size, 3))
  recipe = training.Recipe(steps=steps, batch=batch, learning_rate=1e-3, nesterov=False,
                           flip=False, crop=0)
  stream = batches.Batches(images, labels, batch)

  def ours(model):
    trainer = training.Trainer(model, recipe)
    return lambda: trainer.fit(stream, recipe)

  def native(precision):
    return ours(tuned.Tuned(backbones.build(preset, precision=precision), features, 10))

  bare = tf.function(backbone)
  own = embedder.batch_size(image_size)

  def forward():
    for first in range(0, len(scaled), own):
      bare(tf.constant(scaled[first:first + own])).numpy()

  plain = keras.Sequential([backbones.build(preset), keras.layers.Dense(10)])
  plain.compile(keras.optimizers.SGD(1e-3, momentum=0.9),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  legacy.compile(tf_keras.optimizers.SGD(1e-3, momentum=0.9),
                 tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))

  return {
      'forward': forward,
      'embed': lambda: embed(images, np.arange(len(images))),
      'keras_fit': lambda: plain.fit(scaled, labels, batch_size=batch, verbose=0),
      'hub_fit': lambda: legacy.fit(scaled, labels, batch_size=batch, verbose=0),
      'finetune': native('float32'),
      'finetune_foreign': ours(foreign),
      'finetune_bfloat16': native('mixed_bfloat16')}


def in_turn(contenders, rounds):
  """The seconds of each contender in each round, in which all run in turn.

  Args:
    contenders: dict from name to function.
    rounds: how many, after two that are not counted: in them they compile, and find their pace.

  Returns:
    A dict from name to a list of floats.
  """
  for _ in range(2):
    for run in contenders.values():
      run()
  seconds = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, run in contenders.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(seconds, others):
  """The median of the ratios of two contenders' seconds, round by round."""
  return statistics.median(a / b for a, b in zip(seconds, others, strict=True))


FLAGS = cli.new_flags()
flags.DEFINE_string('preset', 'r14w32', 'Name of the backbone.', flag_values=FLAGS)
flags.DEFINE_integer('image_size', 32, 'Pixels.', flag_values=FLAGS)
flags.DEFINE_integer('batch', 125, 'Examples at once in training.', flag_values=FLAGS)
flags.DEFINE_integer('steps', 8, 'Batches a round.', flag_values=FLAGS)
flags.DEFINE_integer('rounds', 7, 'Rounds.', flag_values=FLAGS)


def main(values, command):
  del command
  print(json.dumps(measure(values.preset, values.image_size, values.batch, values.steps,
                           values.rounds)))


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
