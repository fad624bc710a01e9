"""sparse_tasks.py: several tasks in one network, or the selected expert for each alone?

Networks of equal inference cost start from one Vision Transformer that was pretrained upstream:
its experts on slices of the upstream data, of which 1-NN selects one a task, trained alone; the
dense network on all tasks together; and sparse ones of 8 experts, upcycled from it, with a gate for
all tasks (shared) or a gate each (task). Per task all see equally many images, under one recipe.

Three questions, each for several draws of the examples: *few*, tasks with 100 and with 1,000
examples; *unseen*, tasks that the networks were not trained on, fine-tuned from them, of the task
gates from the one that 1-NN selects; *unrelated*, the tasks of *few* with others beside them.
Prints one JSON line a network, task and draw; `--table` makes the table of docs/sparse.md of them.

Every run is kept in --work_dir: a killed one goes on.
"""

import json
import os
import statistics
import sys

from absl import flags

from benchmarks import suite
from zoo import cli

SEEN = ('mammals', 'invertebrates', 'vehicles', 'household', 'plants', 'outdoor')
UNRELATED = ('gtsrb', 'mnist', 'rsscn7', 'sign-digits')
UNSEEN = ('fish', 'reptiles', 'caltech97', 'dtd10')
DENSE, SPARSE = 'vit32_d6w64', 'vmoe32_d6w64'
NETWORKS = {'dense': (DENSE, 'shared'), 'shared': (SPARSE, 'shared'), 'task': (SPARSE, 'task')}
COLORS = ('#8a8f98', '#d08a2e', '#1b6e53')
QUESTIONS = ('few-100', 'few-1000', 'unrelated', 'unseen')
# Updates a task: some six and thirty passes over 1,000 and 100 examples.
STEPS = {100: 50, 1000: 100}


class Study:
  """The runs of one draw.

  Args:
    baseline, experts: folders of finished zoo-pretrain and zoo-experts, the latter of all experts.
    work_dir: folder of the runs.
    seed: draws the examples, and is the recipe's.
    data_dir: where TFDS finds the prepared data sets.
    batch, learning_rate, precision: of all runs, with Adam.
  """

  def __init__(self, baseline, experts, work_dir, seed, data_dir, batch=64, learning_rate=1e-3,
               precision='mixed_bfloat16'):
    from zoo import backbones
    self._runs = {'baseline': baseline} | {
        name: os.path.join(experts, name) for name in sorted(os.listdir(experts))
        if os.path.isdir(os.path.join(experts, name))}
    self._work_dir, self._seed, self._data_dir = work_dir, seed, data_dir
    self._batch, self._learning_rate = batch, learning_rate
    self._precision = precision
    self._size = backbones.preset(DENSE).image_size
    self._drawn = {}

  def task(self, name, count):
    """A task of the suite with so many training examples, drawn by the seed."""
    if (name, count) not in self._drawn:
      import numpy as np
      from zoo import tasks
      whole = suite.load(name, self._data_dir)
      number = whole.splits['train']
      chosen = np.sort(np.random.default_rng(self._seed).permutation(number)[:count])
      parts = {part: tasks.read(whole, (part, rows), self._size)
               for part, rows in (('train', chosen), ('test', None))}
      self._drawn[name, count] = tasks.from_arrays(
          name, whole.class_names, **{part: (own.images, own.labels)
                                      for part, own in parts.items()})
    return self._drawn[name, count]

  def together(self, network, names, count):
    """Trains a network on tasks: `zoo.multitask.multitask`'s result, and its folder."""
    return self._train(network, names, count, self._runs['baseline'], len(names))

  def alone(self, name, count):
    """Trains the expert that 1-NN selects on a task: (name of the expert, test accuracy)."""
    task = self.task(name, count)
    chosen = self._selected(task, {run: (folder, None) for run, folder in self._runs.items()})
    result, _ = self._train('dense', [name], count, self._runs[chosen], 1, chosen)
    return chosen, result['tasks'][0]['top1']

  def after(self, network, names, count, unseen):
    """Fine-tunes a network that was trained on other tasks: (whose gates, test accuracy)."""
    _, folder = self.together(network, names, count)
    gate = None
    if network == 'task':
      gate = self._selected(self.task(unseen, count), {
          name: (folder, i) for i, name in enumerate(names)})
    start = folder if gate is None else f'{folder}#{gate}'
    result, _ = self._train(network, [unseen], count, start, 1, f'after-{len(names)}')
    return gate, result['tasks'][0]['top1']

  def _train(self, network, names, count, start, steps, label='together'):
    from zoo import multitask
    from zoo import training
    preset, gate = NETWORKS[network]
    folder = os.path.join(
        self._work_dir, f'{network}-{label}-{"+".join(names)}-{count}-{self._seed}')
    steps *= STEPS[count]
    recipe = training.Recipe(
        steps, self._batch, self._learning_rate, steps // 10, optimizer='adam', seed=self._seed)
    result = multitask.multitask(
        [self.task(name, count) for name in names], preset, recipe, folder, gate=gate,
        baseline=start, precision=self._precision)
    return result, folder

  def _selected(self, task, runs):
    """The name among `runs`, of (folder, task or None), with the best leave-one-out 1-NN."""
    from export import trained
    from selection import proxies
    from zoo import pretrain
    from zoo import tasks
    from zoo import training
    train = tasks.read(task, ('train', None), self._size)
    found = {}
    for name, (folder, number) in runs.items():
      network = trained.network(
          folder, pretrain.read_result(folder, ('baseline', 'expert', 'multitask')))
      options = {} if number is None else {'expert': number}
      embeddings = training.predict(
          lambda images, network=network, options=options: network(images, **options),
          train.images)
      found[name] = proxies.Knn()(embeddings, train.labels).value
    return max(found, key=found.get)


def rows(study, question, seed):
  """The lines of one question and draw: dicts of question, seed, network, task, top1, chosen."""
  def line(network, task, top1, chosen=None):
    return {'question': question, 'seed': seed, 'network': network, 'task': task, 'top1': top1,
            'chosen': chosen}

  count = 100 if question == 'few-100' else 1000
  if question == 'unseen':
    for task in UNSEEN:
      yield line('alone', task, *reversed(study.alone(task, count)))
      for network in NETWORKS:
        yield line(network, task, *reversed(study.after(network, SEEN, count, task)))
    return
  names = SEEN + (UNRELATED if question == 'unrelated' else ())
  for task in names:
    yield line('alone', task, *reversed(study.alone(task, count)))
  for network in NETWORKS:
    result, _ = study.together(network, names, count)
    for task in result['tasks']:
      yield line(network, task['name'], task['top1'])


def groups(lines):
  """Mean accuracies, in percent: a dict from question to one from network to one from task.

  Of *unrelated* the tasks that *few* has, too, and the others are groups of their own.
  """
  found = {}
  for line in lines:
    name = line['question']
    if name == 'unrelated':
      name += ': the same tasks' if line['task'] in SEEN else ': the others'
    own = found.setdefault(name, {}).setdefault(line['network'], {})
    own.setdefault(line['task'], []).append(100 * line['top1'])
  return {name: {network: {task: statistics.mean(values) for task, values in sorted(of.items())}
                 for network, of in networks.items()} for name, networks in found.items()}


def gains(own, network):
  """Points of a network above `alone`, a float for each task."""
  return [value - own['alone'][task] for task, value in own[network].items()]


def table(lines):
  """A Markdown table: mean accuracy by question and network, and the difference to `alone`.

  Intervals are of 95%, over tasks, each the mean over its draws.
  """
  from benchmarks import selectors
  networks = ('alone', *NETWORKS)
  shown = ['| | ' + ' | '.join(networks) + ' |', '|---|' + '---:|' * len(networks)]
  for name, own in groups(lines).items():
    cells = []
    for network in networks:
      cell = f'{statistics.mean(own[network].values()):.1f}'
      if network != 'alone':
        mean, half = selectors.spread(gains(own, network))
        cell += f' ({mean:+.1f}' + (f' ± {half:.1f})' if half is not None else ')')
      cells.append(cell)
    shown.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(shown)


def chart(lines):
  """The same as a matplotlib figure: a dot a task, and means with their intervals."""
  from benchmarks import selectors
  from matplotlib import figure
  found = groups(lines)
  drawn = figure.Figure(figsize=(7, 0.9 + 0.75 * len(found)), layout='constrained')
  axes = drawn.subplots()
  axes.axvline(0, color='#44484f', linewidth=1)
  for row, own in enumerate(found.values()):
    for place, (network, color) in enumerate(zip(NETWORKS, COLORS, strict=False)):
      y, points = row + 0.22 * (place - 1), gains(own, network)
      mean, half = selectors.spread(points)
      axes.scatter(points, [y] * len(points), color=color, alpha=0.35, s=14, linewidths=0)
      axes.errorbar([mean], [y], xerr=half and [half], color=color, fmt='o', markersize=5,
                    capsize=2, label=None if row else network)
  axes.set_yticks(range(len(found)), list(found))
  axes.invert_yaxis()
  axes.set_xlabel('points above the selected expert, fine-tuned alone')
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.tick_params(axis='y', length=0)
  axes.legend(frameon=False, loc='lower right')
  return drawn


FLAGS = cli.new_flags()
flags.DEFINE_string('baseline', 'runs/vit/baseline', f'Folder of a finished zoo-pretrain of '
                    f'{DENSE}.', flag_values=FLAGS)
flags.DEFINE_string('experts', 'runs/vit/experts', 'Folder of its finished zoo-experts.',
                    flag_values=FLAGS)
flags.DEFINE_string('work_dir', 'runs/sparse-tasks', 'Folder of the runs.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_multi_enum('question', list(QUESTIONS), QUESTIONS, 'Only these.', flag_values=FLAGS)
cli.define_seeds(FLAGS, [0, 1, 2], 'Draws of the examples.')
flags.DEFINE_string('table', None, 'Instead: a file of such lines, of which the table is made.',
                    flag_values=FLAGS)
flags.DEFINE_string('chart', None, 'Of --table: write a picture of it to this .png.',
                    flag_values=FLAGS)


def main(values, command):
  del command
  if values.table:
    with open(values.table, encoding='utf-8') as file:
      lines = [json.loads(line) for line in file]
    print(table(lines))
    if values.chart:
      chart(lines).savefig(values.chart, dpi=110)
    return
  for seed in values.seeds:
    study = Study(values.baseline, values.experts, values.work_dir, seed, values.data_dir)
    for question in values.question:
      for line in rows(study, question, seed):
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
