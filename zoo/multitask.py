"""zoo-multitask: trains one network on several tasks at once.

Every task has a head of its own, and with a sparse preset the tasks share experts: by one gate
for all, by a gate each, or by a vector each that is added to the gate's input. Leaves weights.npz,
log.csv, TensorBoard events and result.json in --work_dir, of which zoo-publish makes a module with
an argument `task`. Started again, it goes on.
"""

import json
import os
import sys

from absl import flags

from zoo import cli
from zoo import pretrain


def multitask(tasks, preset, recipe, work_dir, data_dir=None, gate='shared', examples=None,
              temperature=1., baseline=None, sparse=None, image_size=None, precision='float32',
              strategy='default', command=()):
  """Trains a network on several tasks, or goes on with it.

  The gates for tasks are those of arXiv 2204.07689.

  Args:
    tasks: `zoo.tasks.Task`s, or names as `zoo.tasks.load` takes them.
    preset: name of a backbone preset.
    recipe: a `zoo.training.Recipe`; softmax, without label smoothing and MixUp, which would mix
      tasks.
    work_dir: folder of this run.
    data_dir: as in `zoo.tasks.load`.
    gate: of a sparse preset, as in `zoo.sparse.SparseConfig`.
    examples: how many of the first examples of each task's 'train' are used: an int for all, or
      a list of one a task; None for all there are.
    temperature: of the mixture, as in `zoo.mixtures.shares`.
    baseline: folder of a finished zoo-pretrain, zoo-experts or zoo-multitask of the same network
      to start from, whose dense weights are upcycled if the preset is sparse. 'FOLDER#TASK'
      starts a network for one task from the gates of a task that the other knows. None starts
      from scratch.
    sparse: dict of changes to the `zoo.sparse.SparseConfig` of a sparse preset.
    image_size, precision, strategy, command: as in `zoo.pretrain.pretrain`.

  Returns:
    A JSON-like dict, also in work_dir/result.json: kind ('multitask'), architecture, upstream,
    tasks (name, source, examples, classes, share, and top1 on the test split, of each), scores,
    cost; of a sparse network routing, by tasks.

  Raises:
    ValueError: a task is there twice, has several labels or no examples; or what is asked for
      does not go together.
  """
  import numpy as np
  from zoo import atomic
  from zoo import backbones
  from zoo import checkpoint
  from zoo import classifier
  from zoo import mixtures
  from zoo import precision as precisions
  from zoo import sparse_training
  from zoo import strategies
  from zoo import tasks as tasks_lib
  from zoo import training
  from zoo import weights
  from zoo import work_dir as work_dirs

  devices = strategies.make(strategy)  # before all other use of TensorFlow
  chief = strategies.is_chief(devices)
  precision = precisions.best() if precision == 'auto' else precision
  for field in ('label_smoothing', 'mixup'):
    if getattr(recipe, field) or recipe.loss != 'softmax':
      raise ValueError(f'{field}, or another loss than softmax, would mix the classes of tasks.')
  loaded = _loaded(tasks, data_dir)
  names = [task.name for task in loaded]
  counts = _counts(examples, names)
  changed = (sparse or {}) | (
      {'gate': gate, 'tasks': len(names)} if gate != 'shared' else {})
  architecture = sparse_training.architecture_of(preset, image_size, changed)
  image_size = architecture.image_size
  start = _start(baseline, architecture) if baseline else {}
  settings = {
      'tasks': names, 'sources': [task.source for task in loaded], 'preset': preset, 'gate': gate,
      'examples': counts, 'temperature': str(temperature), 'baseline': baseline, 'sparse': sparse,
      'image_size': image_size, 'precision': precision, 'recipe': recipe.to_dict()}
  with work_dirs.opened(work_dir, settings, chief):
    done = os.path.join(work_dir, pretrain.RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    train = [_first(task, count, image_size) for task, count in zip(loaded, counts, strict=True)]
    sizes = [len(task.class_names) for task in loaded]
    stream = mixtures.of(train, sizes, recipe, temperature)
    with devices.scope():
      backbone = backbones.build(architecture, precision=precision, seed=recipe.seed)
      weights.set_to(backbone, start, partly=True)
      model = classifier.MultiTask(backbone, sizes)
      trainer = training.Trainer(model, recipe, forward=model.of_labels)
    # Tasks take the place of classes.
    routing = sparse_training.Routing(backbone, names) if backbone.sparse else None
    history = trainer.fit(
        stream, recipe, work_dir, f'{preset} on {len(names)} tasks: step',
        measure=routing and routing.of_log(_by_task(train), by_task=True))
    if chief:
      weights.save(os.path.join(work_dir, pretrain.WEIGHTS), weights.of(model))
    held_out = [tasks_lib.read(task, ('test', None), image_size) for task in loaded]
    top1 = [_top1(trainer, model, number, own) for number, own in enumerate(held_out)]
    result = {
        'kind': 'multitask', 'preset': preset, 'architecture': architecture.to_dict(),
        'image_size': image_size,
        'tasks': [{'name': task.name, 'source': task.source, 'examples': len(own),
                   'classes': list(task.class_names), 'share': float(share), 'top1': score}
                  for task, own, share, score in zip(
                      loaded, train, stream.shares, top1, strict=True)],
        'upstream': {'task': ', '.join(names), 'split': 'train', 'examples': sum(map(len, train)),
                     'source': ', '.join(settings['sources']), 'sources': settings['sources']},
        'scores': {'mean_top1': float(np.mean(top1)),
                   'held_out_examples': sum(map(len, held_out)),
                   'training_batches_top1': history[-1]['accuracy']},
        **pretrain.record(history, recipe, settings, command)}
    if routing and chief:
      result['routing'] = routing.write(work_dir, _by_task(held_out), by_task=True)
    if chief:
      atomic.write_json(done, result)
      checkpoint.remove(work_dir)
    return result


def _top1(trainer, model, number, examples):
  """Accuracy on one task, among its own classes."""
  import numpy as np
  from zoo import training
  logits = training.predict(trainer.outputs(task=number), examples.images)
  return pretrain.top_accuracy(
      logits[:, np.flatnonzero(model.task_of_class == number)], examples.labels, 1)


def _loaded(tasks, data_dir):
  """The `zoo.tasks.Task`s, each there once and of one label an image."""
  from zoo import tasks as tasks_lib
  loaded = [tasks_lib.load(task, data_dir) if isinstance(task, str) else task for task in tasks]
  names = [task.name for task in loaded]
  for task in loaded:
    if names.count(task.name) > 1:
      raise ValueError(f'task {task.name!r} is there twice: name each once.')
    task.check_one_label('but zoo-multitask learns one: leave it out.')
  return loaded


def _by_task(several):
  """The examples of tasks together, labelled with the tasks."""
  import numpy as np
  from zoo import tasks as tasks_lib
  return tasks_lib.Examples(
      np.concatenate([own.images for own in several]),
      np.repeat(np.arange(len(several)), [len(own) for own in several]))


def _counts(examples, names):
  """The number of training examples of each task, or None for all there are."""
  if examples is None or isinstance(examples, int):
    return [examples] * len(names)
  if len(examples) not in (1, len(names)):
    raise ValueError(f'--examples has {len(examples)} numbers for {len(names)} tasks: give one, '
                     'or one a task.')
  return list(examples) * (len(names) if len(examples) == 1 else 1)


def _first(task, count, image_size):
  """The first examples of a task's 'train'."""
  import numpy as np
  from zoo import tasks
  there = task.splits['train']
  if not there or (count is not None and count < 1):
    raise ValueError(f'task {task.name!r} would have no training examples: leave it out.')
  if count is not None and count > there:
    raise ValueError(f'task {task.name!r} has {there} training examples, not the {count} of '
                     '--examples.')
  return tasks.read(task, ('train', np.arange(count or there)), image_size)


def _start(baseline, architecture):
  """The weights to start a network from, as `multitask` says."""
  from zoo import backbones
  from zoo import sparse
  from zoo import sparse_training
  from zoo import weights
  folder, _, task = baseline.partition('#')
  result = pretrain.read_result(folder, ('baseline', 'expert', 'multitask'))
  values = weights.load(os.path.join(folder, pretrain.WEIGHTS))
  there = backbones.architecture_of(result['architecture'])
  if getattr(architecture, 'sparse', None) and not getattr(there, 'sparse', None):
    return sparse_training.upcycled(folder, result, values, architecture)
  if task:
    names = [one['name'] for one in result.get('tasks', ())]
    if task not in names:
      raise ValueError(f'--baseline={baseline}: {folder} knows no task {task!r}; it knows '
                       f'{", ".join(names) or "none"}.')
    there, number = there.of_one_task(), names.index(task)
    values = {path: value[number:number + 1] if sparse.is_of_task(path) else value
              for path, value in values.items()}
  if there != architecture:
    raise ValueError(f'--baseline={baseline} is of another network than this preset and gate.')
  return values


FLAGS = cli.new_flags()
flags.DEFINE_list('tasks', None, 'What to learn, each as zoo-rank --task takes it.',
                  flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('preset', 'vmoe32_d6w64', 'Name of the backbone; one without experts is shared '
                    'whole by the tasks.', flag_values=FLAGS)
flags.DEFINE_enum('gate', 'shared', ['shared', 'task', 'embedding'],
                  'One gate for all tasks; a gate each; or a vector each, which is added to the '
                  "gate's input.", flag_values=FLAGS)
flags.DEFINE_list('sparse', [], 'As of zoo-pretrain.', flag_values=FLAGS)
flags.DEFINE_list('examples', None, 'Training examples of each task: one number for all, or one '
                  'a task; all if not given.', flag_values=FLAGS)
flags.DEFINE_float('temperature', 1., 'Shares of tasks in the mixture are their examples to the '
                   'power 1/temperature: 1 for in proportion, inf for equal.', flag_values=FLAGS)
flags.DEFINE_string('baseline', None, 'Folder of a finished zoo-pretrain, zoo-experts or '
                    'zoo-multitask to start from; a dense network is upcycled if the preset is '
                    'sparse. FOLDER#TASK: from the gates of that task, for one task.',
                    flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of this run.', flag_values=FLAGS)
flags.DEFINE_integer('steps', None, 'Updates.', flag_values=FLAGS)
flags.DEFINE_integer('image_size', None, "Pixels; the preset's if not given.", flag_values=FLAGS)
pretrain.define_recipe(FLAGS, learning_rate=0.001, warmup=100, label_smoothing=0.,
                       optimizer='adam')
flags.mark_flags_as_required(['tasks', 'work_dir', 'steps'], flag_values=FLAGS)


def main(values, command):
  from zoo import sparse_training
  try:
    examples = values.examples and [int(number) for number in values.examples]
  except ValueError as error:
    raise ValueError(f'--examples: {error}.') from None
  result = multitask(
      values.tasks, values.preset, pretrain.recipe_of(values, values.steps), values.work_dir,
      values.data_dir, values.gate, examples, values.temperature, values.baseline,
      sparse_training.changes(values.sparse), values.image_size, values.precision,
      values.strategy, command)
  print(json.dumps({task['name']: task['top1'] for task in result['tasks']}))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
