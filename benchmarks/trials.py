"""trials.py: what trained networks are worth to tasks by linear probe, without any test split.

For each folder of a zoo-pretrain or an expert, or module, and each task: the accuracy of a
linear probe on its frozen embeddings, trained on 1,000 examples of the task's 'train' and tested
on others of it, for several draws, in points beyond that of the first one named. So recipes can
be chosen while the test splits, by which benchmarks.regret judges, stay unseen. Prints one JSON
line each.
"""

import json
import os
import sys

from absl import flags

from zoo import cli

TASKS = ('mammals', 'invertebrates', 'vehicles', 'household', 'outdoor', 'plants')
EXAMPLES = 1000
TESTED = 4000  # at most


def opened(path):
  """A network, and what is known of it.

  Args:
    path: folder of a finished zoo-pretrain or of one expert, or a handle.

  Returns:
    (function of float32 images [B, H, W, 3] in [0, 1] to [B, F], a JSON-like dict).
  """
  import tensorflow as tf

  from export import hub
  from export import trained
  from zoo import pretrain
  if os.path.exists(os.path.join(path, pretrain.RESULT)):
    (run,) = trained.runs(path)
    result = run[1]
    model = trained.packed([run]) if result.get('adapters') else trained.network(*run)
  else:
    module = hub.resolve(path)
    result, model = module.metadata, hub.load(module)
  known = {key: result[key] for key in ('kind', 'preset', 'image_size', 'adapters', 'scores',
                                        'cost', 'command') if result.get(key)}
  if result.get('slice'):
    known['slice'] = result['slice']['name']
  return tf.function(model), {'path': path, **known}


def accuracies(network, examples, draws):
  """Test accuracies of linear probes.

  Args:
    network: as `opened` gives it.
    examples: a list of `zoo.tasks.Examples`, one a task.
    draws: how many.

  Returns:
    float64 [tasks, draws].
  """
  import numpy as np
  import threadpoolctl

  from benchmarks import regret
  from zoo import training

  def probe(embeddings, labels, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = order[:EXAMPLES], order[EXAMPLES:EXAMPLES + TESTED]
    return regret.probe(embeddings[train], labels[train], embeddings[test], labels[test])

  found = np.empty((len(examples), draws))
  with threadpoolctl.threadpool_limits(1, 'blas'):
    for row, own in zip(found, examples, strict=True):
      embeddings = training.predict(network, own.images)
      row[:] = [probe(embeddings, own.labels, seed) for seed in range(draws)]
  return found


def measure(paths, tasks=TASKS, draws=5, data_dir=None):
  """Compares networks with the first one.

  Args:
    paths: as `opened` takes them.
    tasks: names of tasks of the local suite.
    draws: of the examples; two or more.
    data_dir: where TFDS finds the tasks.

  Yields:
    A JSON-like dict of each: what `opened` knows, and by task 'accuracy' (percent), 'gain' on the
    first network (points) and the gain's 'stderr' over the draws.

  Raises:
    ValueError: there is no such network or task.
  """
  import numpy as np

  from benchmarks import suite
  from zoo import tasks as tasks_lib
  loaded = [suite.load(name, data_dir) for name in tasks]
  examples, first = {}, None
  for path in paths:
    network, known = opened(path)
    size = known['image_size']
    if size not in examples:
      examples[size] = [tasks_lib.read(task, ('train', None), size) for task in loaded]
    found = 100 * accuracies(network, examples[size], draws)
    first = found if first is None else first
    columns = {'accuracy': found.mean(1), 'gain': (found - first).mean(1),
               'stderr': (found - first).std(1, ddof=1) / np.sqrt(draws)}
    yield known | {key: {name: round(float(value), 2)
                         for name, value in zip(tasks, values, strict=True)}
                   for key, values in columns.items()}


FLAGS = cli.new_flags()
flags.DEFINE_list('networks', None, 'Folders or handles; the first is what the others are compared '
                  'with.', flag_values=FLAGS)
flags.DEFINE_list('tasks', list(TASKS), 'Of the local suite.', flag_values=FLAGS)
flags.DEFINE_integer('draws', 5, 'Of the examples.', lower_bound=2, flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds the tasks.', flag_values=FLAGS)
flags.mark_flags_as_required(['networks'], flag_values=FLAGS)


def main(values, command):
  del command
  for line in measure(values.networks, values.tasks, values.draws, values.data_dir):
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
