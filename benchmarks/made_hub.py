"""made_hub.py: a hub of many experts, made of the embedded ones, to measure rankings on.

Each expert is the embedded baseline plus a random mixture of what the embedded experts differ
from it by, plus noise: so some are better for a task than others, as in a real hub, and none is
the same. `--packed` instead makes one packed module of adapter experts on the baseline.
"""

import os
import shutil
import sys

from absl import flags

from zoo import cli

MODULE_JSON = {'publisher': 'made', 'version': 1, 'licence': 'Apache-2.0'}
BASELINE = 'zoo/tiny32-baseline/2'  # of the embedded zoo


def whole(root, number, seed=0):
  """Makes a baseline and `number` - 1 whole experts.

  Args:
    root: folder of the hub, made anew.
    number: modules in all.
    seed: of the mixtures.
  """
  import numpy as np
  import tensorflow as tf

  from export import hub
  from export import metadata
  baseline = hub.resolve(BASELINE)
  start = _weights(baseline)
  steps = [[own - before for own, before in zip(_weights(module), start, strict=True)]
           for module in hub.modules(hub.EMBEDDED) if module.kind == 'expert'
           and module.metadata['parent'] == baseline.metadata['fingerprint']]
  loaded = hub.load(baseline)
  random = np.random.default_rng(seed)
  shutil.rmtree(root, ignore_errors=True)
  for i in range(number):
    shares = random.dirichlet(np.full(len(steps), 0.5)) * random.uniform(0.3, 1.2) * (i > 0)
    noise = 10 ** random.uniform(-2, -0.5) * (i > 0)
    for j, variable in enumerate(loaded.variables):
      mixed = start[j] + sum(share * step[j] for share, step in zip(shares, steps, strict=True))
      variable.assign(mixed + noise * start[j].std() * random.standard_normal(mixed.shape))
    name = 'baseline' if i == 0 else f'expert{i:04}'
    path = os.path.join(root, 'made', name, '1')
    os.makedirs(os.path.join(path, 'variables'))
    # The same graph for all: only the variables are written anew.
    shutil.copy(os.path.join(baseline.path, 'saved_model.pb'), path)
    tf.train.Checkpoint(loaded).write(os.path.join(path, 'variables', 'variables'))
    metadata.write(path, {
        **MODULE_JSON, 'name': name, 'kind': 'expert' if i else 'baseline',
        **{key: baseline.metadata[key] for key in ('image_size', 'features', 'architecture')},
        'slice': {'name': name} if i else None})


def packed(root, number, stages=None, width=32, seed=0):
  """Makes one packed module of `number` adapter experts on the embedded baseline.

  Args:
    root: folder of the hub, made anew.
    number: E.
    stages, width: as in `zoo.adapters.AdapterConfig`.
    seed: of the adapters.
  """
  import numpy as np

  from export import hub
  from export import metadata
  from export import saved_model
  from zoo import adapters
  from zoo import backbones
  from zoo import weights
  baseline = hub.resolve(BASELINE)
  plain = saved_model.restore(baseline.path, baseline.metadata)
  config = adapters.AdapterConfig(width, stages, number)
  network = backbones.build(plain.architecture, config, seed=seed)
  weights.set_to(network, weights.of(plain), partly=True)
  random = np.random.default_rng(seed)
  for variable in network.variables:
    if variable.path.endswith('/up'):
      scale = 10 ** random.uniform(-2.5, -1, (number, 1, 1))
      variable.assign(scale * random.standard_normal(variable.shape))
  shutil.rmtree(root, ignore_errors=True)
  path = os.path.join(root, 'made', 'packed', '1')
  os.makedirs(os.path.dirname(path))
  saved_model.save(network, path)
  metadata.write(path, {
      **MODULE_JSON, 'name': 'packed', 'kind': 'packed',
      'image_size': baseline.metadata['image_size'], 'features': plain.architecture.features,
      'architecture': plain.architecture.to_dict(), 'adapters': config.to_dict(),
      'experts': [{'name': f'expert{i:04}'} for i in range(number)]})


def _weights(module):
  """The variables of a module of ours, a list of float32 arrays in their stored order."""
  import tensorflow as tf
  stored = tf.train.load_checkpoint(os.path.join(module.path, 'variables', 'variables'))
  number = sum(name.startswith('variables/') for name in stored.get_variable_to_shape_map())
  return [stored.get_tensor(f'variables/{i}/.ATTRIBUTES/VARIABLE_VALUE') for i in range(number)]


FLAGS = cli.new_flags()
flags.DEFINE_string('out', 'runs/made_hub', 'Folder of the hub, made anew.', flag_values=FLAGS)
flags.DEFINE_integer('number', 50, 'Experts, the baseline included.', flag_values=FLAGS)
flags.DEFINE_bool('packed', False, 'One packed module of adapters.', flag_values=FLAGS)
flags.DEFINE_list('adapter_stages', [], 'Stages with adapters; all if not given.',
                  flag_values=FLAGS)
flags.DEFINE_integer('seed', 0, 'Of the experts.', flag_values=FLAGS)


def main(values, command):
  del command
  if values.packed:
    packed(values.out, values.number,
           tuple(map(int, values.adapter_stages)) or None, seed=values.seed)
  else:
    whole(values.out, values.number, values.seed)
  print(values.out)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
