"""sparse_speed.py: the step time of sparse networks beside the dense one of equal width.

A step is a whole one: forward, losses, backward and update, and the optimizer's update of all
experts. Networks run in turn in one process, several rounds, so that a change of the machine's
speed hits all alike: the ratios count. Prints one JSON line. Besides the steps, `forward` is
inference without a limit on tokens, and `layer` the sparse MLP by itself, forward and backward,
beside the dense one; `parameters` shows what the optimizer has to update.
"""

import dataclasses
import json
import statistics
import sys

from absl import flags

from benchmarks import speed
from zoo import cli


def measure(preset, experts, k, batch, rounds, precision):
  """Measures the ratios.

  Args:
    preset: name of a sparse preset, which is the dense network with 0 experts.
    experts: numbers of experts.
    k: experts a token uses.
    batch: images a step.
    rounds: how often each is measured; medians of ratios round by round count.
    precision: a Keras precision policy.

  Returns:
    A dict with `step_over_dense`, `forward_over_dense` and `layer_over_dense`, each a dict from
    number of experts to the ratio, and seconds of the dense ones and parameters.
  """
  from export import metadata
  from zoo import backbones
  sparse = backbones.preset(preset)
  networks = {'dense': dataclasses.replace(sparse, sparse=None)} | {
      str(number): dataclasses.replace(
          sparse, sparse=dataclasses.replace(sparse.sparse, experts=number, k=k))
      for number in experts}
  made = {name: _runs(architecture, batch, precision) for name, architecture in networks.items()}
  kinds = ('step', 'forward', 'layer')
  seconds = speed.in_turn({
      (what, name): runs[what] for what in kinds for name, (runs, _) in made.items()}, rounds)
  found = {'preset': preset, 'k': k, 'batch': batch, 'rounds': rounds, 'precision': precision,
           'parameters': {name: count for name, (_, count) in made.items()}}
  for what in kinds:
    dense = seconds[what, 'dense']
    found[f'{what}_over_dense'] = {
        name: round(speed.ratio(seconds[what, name], dense), 3)
        for name in made if name != 'dense'}
    found[f'{what}_seconds_dense'] = round(statistics.median(dense), 4)
  return found | {'versions': metadata.versions()}


def _runs(architecture, batch, precision):
  """What is measured of a network, functions by name; and its number of parameters."""
  import numpy as np
  import tensorflow as tf
  from zoo import backbones
  from zoo import batches
  from zoo import classifier
  from zoo import tasks
  from zoo import training
  size, width = architecture.image_size, architecture.width
  backbone = backbones.build(architecture, precision=precision)
  model = classifier.Classifier(backbone, 10)
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
  recipe = training.Recipe(steps=4, batch=batch, learning_rate=1e-3, flip=False, crop=0)
  trainer = training.Trainer(model, recipe)
  stream = batches.of(tasks.Examples(images, np.arange(batch) % 10), recipe)  # made labels
  block = backbone.units[-1]
  tokens = tf.constant(random.normal(size=(batch, architecture.grid ** 2, width)), tf.float32)
  tokens = tf.cast(tokens, backbone.compute_dtype)

  @tf.function
  def layer():
    with tf.GradientTape() as tape:
      tape.watch(tokens)
      out = block.mlp(tokens, **({'training': True} if block.sparse else {}))
      loss = tf.reduce_sum(tf.cast(out, tf.float32) ** 2)
    return tape.gradient(loss, [tokens, *(v.value for v in block.mlp.trainable_variables)],
                         unconnected_gradients=tf.UnconnectedGradients.ZERO)

  return {'step': lambda: trainer.fit(stream, recipe),
          'forward': lambda: trainer.predict(images, batch),
          'layer': layer}, model.count_params()


FLAGS = cli.new_flags()
flags.DEFINE_string('preset', 'vmoe32_d6w128', 'Name of a sparse preset.', flag_values=FLAGS)
flags.DEFINE_list('experts', ['8', '32'], 'Numbers of experts.', flag_values=FLAGS)
flags.DEFINE_integer('k', 1, 'Experts a token uses.', flag_values=FLAGS)
flags.DEFINE_integer('batch', 64, 'Images a step.', flag_values=FLAGS)
flags.DEFINE_integer('rounds', 7, 'Rounds, of 4 steps each.', flag_values=FLAGS)
flags.DEFINE_string('precision', 'float32', 'Keras precision policy.', flag_values=FLAGS)


def main(values, command):
  del command
  print(json.dumps(measure(values.preset, [int(number) for number in values.experts], values.k,
                           values.batch, values.rounds, values.precision)))


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
