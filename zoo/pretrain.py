"""zoo-pretrain: trains a baseline on an upstream data set.

Leaves weights.npz, log.csv, TensorBoard events and result.json in --work_dir, from which
zoo-experts starts and zoo-publish makes a module. Started again, it goes on.
"""

import json
import os
import sys

from absl import flags

from zoo import cli

WEIGHTS = 'weights.npz'
RESULT = 'result.json'


def pretrain(task, preset, recipe, work_dir, data_dir=None, label='label', image_size=None,
             precision='float32', strategy='default', command=(), sparse=None, upcycle=None,
             hierarchy=None):
  """Trains a classifier from scratch, or goes on with it.

  The log of a sparse network has the load of each expert, the share of dropped tokens and the
  entropy of gates as well; routing.png shows which classes go to which experts.

  Args:
    task: name of the upstream task, as `zoo.tasks.load` takes it.
    preset: name of a backbone preset.
    recipe: a `zoo.training.Recipe`.
    work_dir: folder of this run.
    data_dir, label: as in `zoo.tasks.load`.
    image_size: pixels; None for the preset's.
    precision: a Keras precision policy, or 'auto' for `zoo.precision.best()`.
    strategy: as `zoo.strategies.make` takes it; several workers share work_dir.
    command: the command line, for the record.
    sparse: dict of changes to the `zoo.sparse.SparseConfig` of a sparse preset.
    upcycle: folder of a finished run of the same network without experts, whose weights a sparse
      one starts from, head included if the classes are the same.
    hierarchy: path of a JSON label tree, whose slices routing_slices.png shows.

  Returns:
    A JSON-like dict, also in work_dir/result.json: architecture, upstream, scores (top-1
    and top-5 on the test split, or on 'validation' where there is no other), seconds; of a
    sparse network routing, as `zoo.expert_load.write` returns it.

  Raises:
    ValueError: there is no such preset, task or change, or nothing to upcycle.
  """
  from zoo import atomic
  from zoo import backbones
  from zoo import batches
  from zoo import checkpoint
  from zoo import classifier
  from zoo import hierarchy as hierarchies
  from zoo import precision as precisions
  from zoo import sparse_training
  from zoo import strategies
  from zoo import tasks
  from zoo import training
  from zoo import weights
  from zoo import work_dir as work_dirs

  devices = strategies.make(strategy)  # before all other use of TensorFlow
  chief = strategies.is_chief(devices)
  precision = precisions.best() if precision == 'auto' else precision
  architecture = sparse_training.architecture_of(preset, image_size, sparse)
  image_size = architecture.image_size
  tree = hierarchies.from_json(hierarchy) if hierarchy else None
  start = sparse_training.upcycled(
      upcycle, read_result(upcycle), weights.load(os.path.join(upcycle, WEIGHTS)),
      architecture) if upcycle else {}
  data = tasks.load(task, data_dir, label)
  data.check_one_label('but a baseline learns one: name another task or --label.')
  settings = {
      'task': task, 'source': data.source, 'label': label, 'preset': preset,
      'image_size': image_size, 'precision': precision, 'recipe': recipe.to_dict()}
  if sparse or upcycle:
    settings |= {'sparse': sparse, 'upcycle': upcycle}
  with work_dirs.opened(work_dir, settings, chief):
    done = os.path.join(work_dir, RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    examples = tasks.read(data, ('train', None), image_size)
    with devices.scope():
      backbone = backbones.build(architecture, precision=precision, seed=recipe.seed)
      model = classifier.Classifier(backbone, len(data.class_names), recipe.loss)
      if len(start.get('head/bias', ())) != len(data.class_names):
        start = {path: value for path, value in start.items() if not path.startswith('head/')}
      weights.set_to(model, start, partly=True)
      trainer = training.Trainer(model, recipe)
    routing = sparse_training.Routing(backbone, data.class_names) if backbone.sparse else None
    history = trainer.fit(batches.of(examples, recipe, len(data.class_names)), recipe, work_dir,
                          f'{preset} on {task}: step',
                          measure=routing and routing.of_log(examples))
    if chief:
      weights.save(os.path.join(work_dir, WEIGHTS), weights.of(model))
    held_out = tasks.read(data, ('test', None), image_size)
    logits = trainer.predict(held_out.images)
    result = {
        'kind': 'baseline', 'preset': preset, 'architecture': architecture.to_dict(),
        'image_size': image_size,
        'upstream': _upstream(task, data, examples),
        'scores': {'top1': top_accuracy(logits, held_out.labels, 1),
                   'top5': top_accuracy(logits, held_out.labels, 5),
                   'held_out_examples': len(held_out),
                   'training_batches_top1': history[-1]['accuracy']},
        **record(history, recipe, settings, command)}
    if routing and chief:
      result['routing'] = routing.write(work_dir, held_out, tree, result['upstream']['counts'])
    if chief:
      atomic.write_json(done, result)
      checkpoint.remove(work_dir)
    return result


def top_accuracy(logits, labels, k):
  """Share of examples whose label is among the k highest of logits [N, C]; a float."""
  import numpy as np
  k = min(k, logits.shape[1])
  best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
  return float(np.mean((best == np.asarray(labels)[:, None]).any(1)))


def read_result(folder, kinds=('baseline', 'expert')):
  """The result.json of a finished training run.

  Args:
    folder: its work_dir.
    kinds: which kinds of run will do.

  Raises:
    ValueError: there is none, or it is of another kind.
  """
  from zoo import atomic
  try:
    result = atomic.read_json(os.path.join(folder, RESULT))
  except FileNotFoundError:
    raise ValueError(f'{folder} is not the folder of a finished training run '
                     f'(it has no {RESULT}).') from None
  if result.get('kind') not in kinds:
    raise ValueError(f'{folder} is not the folder of a finished {" or ".join(kinds)}.')
  return result


def _upstream(task, data, examples):
  """What result.json says of the upstream data: of a `zoo.tasks.Task` and its training images."""
  import numpy as np
  names = list(data.class_names)
  return {'task': task, 'source': data.source, 'split': 'train', 'examples': len(examples),
          'classes': names, 'counts': np.bincount(examples.labels, minlength=len(names)).tolist()}


def record(history, recipe, settings, command):
  """What result.json says of any run: cost (as `cost`), settings, seed and command."""
  return {'cost': cost(history, recipe),
          'settings': json.loads(json.dumps(settings)),  # as it reads back
          'seed': recipe.seed, 'command': list(command)}


def cost(history, recipe):
  """What a run of `zoo.training.fit` cost: seconds, images and device, for module.json."""
  return {'seconds': history[-1]['seconds'], 'images': recipe.steps * recipe.batch,
          'device': device()}


def device():
  """What computes here, in words."""
  import keras
  found = keras.distribution.list_devices()  # of the fastest kind there is
  kind = found[0].partition(':')[0].upper()
  return f'CPU, {os.cpu_count()} cores' if kind == 'CPU' else f'{len(found)} {kind}'


def upstream_task(baseline, data_dir=None):
  """The `zoo.tasks.Task` that a baseline was trained on.

  Args:
    baseline: the result of `pretrain`.
    data_dir: where TFDS finds it.

  Raises:
    ValueError: it cannot be loaded, or is another version than it was.
  """
  from zoo import tasks
  upstream = baseline['upstream']
  data = tasks.load(upstream['task'], data_dir, baseline['settings']['label'])
  if data.source != upstream['source']:
    raise ValueError(f'the baseline was trained on {upstream["source"]}, but '
                     f'{upstream["task"]!r} is {data.source} here: check --data_dir.')
  return data


def define_recipe(values, **defaults):
  """Adds the flags of a `zoo.training.Recipe` other than its steps, with these defaults."""
  flags.DEFINE_integer('batch', 128, 'Examples an update.', flag_values=values)
  flags.DEFINE_enum('optimizer', defaults.get('optimizer', 'sgd'), ['sgd', 'adam'],
                    'SGD is with Nesterov momentum 0.9; Transformers learn faster with Adam, '
                    'whose learning rates are near 0.001.', flag_values=values)
  flags.DEFINE_float('learning_rate', defaults['learning_rate'], 'After warm-up.',
                     flag_values=values)
  flags.DEFINE_integer('warmup', defaults['warmup'], 'Steps of linear warm-up.',
                       flag_values=values)
  flags.DEFINE_float('weight_decay', 0., 'Decoupled, times the learning rate.',
                     flag_values=values)
  flags.DEFINE_float('label_smoothing', defaults['label_smoothing'],
                     'Share of the target that goes to all classes.', flag_values=values)
  flags.DEFINE_enum('loss', 'softmax', ['softmax', 'sigmoid'],
                    'One of C classes, or each class for itself.', flag_values=values)
  flags.DEFINE_bool('flip', True, 'Mirror images at random.', flag_values=values)
  flags.DEFINE_integer('crop', 4, 'Pixels of reflection padding for random crops.',
                       flag_values=values)
  flags.DEFINE_integer('cutout', 0, 'Side in pixels of a grey square on each image.',
                       lower_bound=0, flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of weights, orders and augmentation.', flag_values=values)
  flags.DEFINE_float('mixup', 0., 'Alpha of MixUp.', flag_values=values)
  cli.define_devices(values)


def recipe_of(values, steps):
  """The `zoo.training.Recipe` that the flags of `define_recipe` ask for."""
  from zoo import training
  names = ('batch', 'optimizer', 'learning_rate', 'warmup', 'weight_decay', 'label_smoothing',
           'loss', 'flip', 'crop', 'cutout', 'mixup', 'seed')
  return training.Recipe(steps=steps, **{name: values[name].value for name in names})


FLAGS = cli.new_flags()
cli.define_task(FLAGS, default=None)
flags.DEFINE_string('label', 'label', 'The TFDS feature that is the label.', flag_values=FLAGS)
flags.DEFINE_string('preset', 'r14w32', 'Name of the backbone.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of this run.', flag_values=FLAGS)
flags.DEFINE_integer('steps', None, 'Updates.', flag_values=FLAGS)
flags.DEFINE_integer('image_size', None, "Pixels; the preset's if not given.",
                     flag_values=FLAGS)
flags.DEFINE_list('sparse', [], "Changes to a sparse preset's layers, such as "
                  'experts=32,k=2,capacity=1.5,priority=true; see zoo.sparse.SparseConfig.',
                  flag_values=FLAGS)
flags.DEFINE_string('upcycle', None, 'Folder of a finished run of the same network without '
                    'experts, to start a sparse one from.', flag_values=FLAGS)
flags.DEFINE_string('hierarchy', None, 'JSON file of the label tree, to show which slices go to '
                    'which experts.', flag_values=FLAGS)
define_recipe(FLAGS, learning_rate=0.5, warmup=500, label_smoothing=0.1)
flags.mark_flags_as_required(['task', 'work_dir', 'steps'], flag_values=FLAGS)


def main(values, command):
  from zoo import sparse_training
  result = pretrain(
      values.task, values.preset, recipe_of(values, values.steps), values.work_dir,
      values.data_dir, values.label, values.image_size, values.precision, values.strategy,
      command, sparse_training.changes(values.sparse), values.upcycle, values.hierarchy)
  print(json.dumps(result['scores']))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
