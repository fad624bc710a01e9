"""zoo-experts: trains one expert for each slice of a baseline's upstream data.

Slices come from a label tree (--hierarchy, a JSON file of synsets, or --coarse_label, a
TFDS feature). Each expert starts from the baseline and lies in a folder of its own below
--work_dir; those that are done are skipped. A table on stdout compares expert and baseline
on the held-out examples of the slice. --list only shows the slices. --kind=domains trains the
network of domain prediction instead, from images to the same slices; it needs no recipe.
"""

import dataclasses
import json
import math
import os
import sys

from absl import flags

from zoo import cli
from zoo import pretrain


def train_experts(baseline_dir, work_dir, tree, recipe, kind='whole', adapter_width=32,
                  adapter_stages=None, min_examples=4000, max_overlap=0.8, only=(),
                  data_dir=None, precision='float32', epochs=None, strategy='default',
                  command=()):
  """Trains the experts of a baseline, one after the other.

  Args:
    baseline_dir: a finished work_dir of `zoo.pretrain.pretrain`.
    work_dir: folder for the experts, one sub-folder each.
    tree: a `zoo.hierarchy.Hierarchy` over the upstream classes.
    recipe: a `zoo.training.Recipe` for each expert.
    kind: 'whole' trains every weight, 'adapter' residual adapters on the frozen baseline.
    adapter_width, adapter_stages: as in `zoo.adapters.AdapterConfig`.
    min_examples, max_overlap: as in `zoo.slices.slices`.
    only: names of slices to train; all if empty.
    data_dir: where TFDS finds the upstream data.
    precision, strategy: as in `zoo.pretrain.pretrain`.
    epochs: passes over the images of a slice, instead of the recipe's steps: larger slices
      train longer. None for the same steps for all.
    command: the command line, for the record.

  Returns:
    A list of JSON-like dicts, one an expert, each also in its folder's result.json.
  """
  from zoo import precision as precisions
  from zoo import strategies
  from zoo import tasks
  from zoo import work_dir as work_dirs

  devices = strategies.make(strategy)  # before all other use of TensorFlow
  precision = precisions.best() if precision == 'auto' else precision
  baseline = pretrain.read_result(baseline_dir, ['baseline'])
  data = pretrain.upstream_task(baseline, data_dir)
  wanted = find_slices(baseline, tree, min_examples, max_overlap, only)
  settings = {'baseline': os.path.abspath(baseline_dir), 'baseline_settings':
              baseline['settings'], 'kind': kind, 'precision': precision,
              'adapter': [adapter_width, adapter_stages] if kind == 'adapter' else None}
  results, arrays = [], None
  for i, one in enumerate(wanted):
    folder = os.path.join(work_dir, one.name)
    if epochs:
      recipe = dataclasses.replace(recipe, steps=math.ceil(epochs * one.examples / recipe.batch))
    own = {'slice': {'node': one.node, 'classes': list(one.classes)},
           'recipe': recipe.to_dict()}
    with work_dirs.opened(folder, settings | own, strategies.is_chief(devices)):
      if os.path.exists(os.path.join(folder, pretrain.RESULT)):
        results.append(pretrain.read_result(folder))
        continue
      if arrays is None:  # read once, and only if there is something to train
        size = baseline['image_size']
        arrays = [tasks.read(data, (split, None), size) for split in ('train', 'test')]
      results.append(_train_one(
          baseline_dir, baseline, one, arrays, folder, recipe, kind, adapter_width,
          adapter_stages, precision, devices, command, f'{one.name} ({i + 1}/{len(wanted)}): step'))
  return results


def find_slices(baseline, tree, min_examples, max_overlap, only=()):
  """The slices of a baseline's upstream data, or those of them that `only` names.

  Args:
    baseline: the result of `zoo.pretrain.pretrain`.
    tree, min_examples, max_overlap: as in `zoo.slices.slices`.
    only: names of slices; all if empty.

  Raises:
    ValueError: none qualifies, or a name is not among them.
  """
  from zoo import slices
  upstream = baseline['upstream']
  counts = dict(zip(upstream['classes'], upstream['counts'], strict=True))
  found = slices.slices(tree, counts, min_examples, max_overlap)
  names = [one.name for one in found]
  unknown = sorted(set(only) - set(names))
  if unknown:
    raise ValueError(f'no slice {unknown[0]!r}; there are {", ".join(names)}.')
  if not found:
    raise ValueError(f'no node has {min_examples} examples: use a lower --min_examples.')
  return [one for one in found if not only or one.name in only]


def _train_one(baseline_dir, baseline, one, arrays, folder, recipe, kind, adapter_width,
               adapter_stages, precision, devices, command, what):
  """Trains one expert from the baseline; returns and writes its result."""
  import numpy as np
  from zoo import adapters
  from zoo import atomic
  from zoo import backbones
  from zoo import batches
  from zoo import checkpoint
  from zoo import classifier
  from zoo import strategies
  from zoo import training
  from zoo import weights

  # The head keeps the columns of the slice's classes, so that step 0 is the baseline.
  all_classes = baseline['upstream']['classes']
  columns = np.array([all_classes.index(name) for name in one.classes])
  values = weights.load(os.path.join(baseline_dir, pretrain.WEIGHTS))
  values['head/kernel'] = values['head/kernel'][:, columns]
  values['head/bias'] = values['head/bias'][columns]
  config = (adapters.AdapterConfig(adapter_width, adapter_stages)
            if kind == 'adapter' else None)
  with devices.scope():
    backbone = backbones.build(
        backbones.architecture_of(baseline['architecture']), config, precision, recipe.seed)
    model = classifier.Classifier(backbone, len(columns), recipe.loss)
    weights.set_to(model, values, partly=config is not None)
    if config is not None:
      adapters.freeze_all_but_adapters(backbone)
    trainer = training.Trainer(model, recipe)

  train, held_out = (_of_classes(examples, columns) for examples in arrays)
  before = pretrain.top_accuracy(trainer.predict(held_out.images), held_out.labels, 1)
  history = trainer.fit(batches.of(train, recipe, len(columns)), recipe, folder, what)
  after = pretrain.top_accuracy(trainer.predict(held_out.images), held_out.labels, 1)
  result = {
      'kind': 'expert', 'preset': baseline['preset'],
      'architecture': baseline['architecture'], 'image_size': baseline['image_size'],
      'adapters': config and config.to_dict(), 'slice': one.to_dict(),
      'upstream': {**baseline['upstream'], 'examples': len(train),
                   'classes': list(one.classes),
                   'counts': np.bincount(train.labels).tolist()},
      'scores': {'slice_top1': after, 'baseline_slice_top1': before,
                 'held_out_examples': len(held_out),
                 'training_batches_top1': history[-1]['accuracy']},
      'cost': pretrain.cost(history, recipe),
      'seed': recipe.seed, 'command': list(command)}
  if strategies.is_chief(devices):
    weights.save(os.path.join(folder, pretrain.WEIGHTS), weights.of(model))
    atomic.write_json(os.path.join(folder, pretrain.RESULT), result)
    checkpoint.remove(folder)
  return result


def _of_classes(examples, columns):
  """The examples of some classes, relabelled 0, 1, ... in the order of `columns`."""
  import numpy as np
  from zoo import tasks
  chosen = np.isin(examples.labels, columns)
  renumbered = np.full(columns.max() + 1, -1)
  renumbered[columns] = np.arange(len(columns))
  return tasks.Examples(examples.images[chosen], renumbered[examples.labels[chosen]])


def table(results):
  """The results as lines of text: slice, examples, seconds, accuracy of both on the slice."""
  lines = [f'{"slice":24} {"examples":>8} {"seconds":>8} {"baseline":>9} {"expert":>7}']
  for result in results:
    scores = result['scores']
    lines.append(
        f'{result["slice"]["name"]:24} {result["slice"]["examples"]:8} '
        f'{result["cost"]["seconds"]:8.0f} {scores["baseline_slice_top1"]:9.1%} '
        f'{scores["slice_top1"]:7.1%}')
  return '\n'.join(lines)


FLAGS = cli.new_flags()
flags.DEFINE_string('baseline', None, 'work_dir of a finished zoo-pretrain.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of the experts.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('hierarchy', None, 'JSON file of the label tree.', flag_values=FLAGS)
flags.DEFINE_string('coarse_label', None, 'TFDS feature whose classes group the labels.',
                    flag_values=FLAGS)
flags.DEFINE_enum('kind', 'whole', ['whole', 'adapter', 'domains'],
                  'Train every weight, or adapters on the frozen baseline; or, instead of experts, '
                  'a head on it that predicts from which slice an image is.', flag_values=FLAGS)
flags.DEFINE_integer('adapter_width', 32, 'Channels of an adapter.', flag_values=FLAGS)
flags.DEFINE_list('adapter_stages', None, 'Stages that have adapters (0, 1, ...); all if not '
                  'given.', flag_values=FLAGS)
flags.DEFINE_integer('min_examples', 4000, 'Least examples of a slice.', flag_values=FLAGS)
flags.DEFINE_float('max_overlap', 0.8, 'Nested slices that share more than this are one.',
                   flag_values=FLAGS)
flags.DEFINE_list('slices', [], 'Only these slices.', flag_values=FLAGS)
flags.DEFINE_bool('list', False, 'Show the slices and stop.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
flags.DEFINE_integer('steps', 1500, 'Updates of each expert.', flag_values=FLAGS)
flags.DEFINE_float('epochs', None, 'Passes over the images of each slice, instead of --steps.',
                   lower_bound=0., flag_values=FLAGS)
pretrain.define_recipe(FLAGS, learning_rate=0.02, warmup=100, label_smoothing=0.)
flags.mark_flags_as_required(['baseline', 'work_dir'], flag_values=FLAGS)


def main(values, command):
  from zoo import hierarchy
  from zoo import slices
  if (values.hierarchy is None) == (values.coarse_label is None):
    raise flags.Error('give either --hierarchy or --coarse_label')
  baseline = pretrain.read_result(values.baseline, ['baseline'])
  if values.hierarchy:
    tree = hierarchy.from_json(values.hierarchy)
  else:
    from zoo import tfds_tasks
    tree = hierarchy.from_coarse(tfds_tasks.coarse_labels(
        baseline['upstream']['task'], values.data_dir, baseline['settings']['label'],
        values.coarse_label))
  found = find_slices(baseline, tree, values.min_examples, values.max_overlap, values.slices)
  if values.list:
    print(json.dumps([one.to_dict() for one in found]) if values.json else slices.table(found))
    return
  if values.kind == 'domains':
    from zoo import domains
    print(json.dumps(domains.train(
        values.baseline, baseline, found, values.work_dir, values.data_dir, command)['scores']))
    return
  stages = values.adapter_stages and [int(stage) for stage in values.adapter_stages]
  results = train_experts(
      values.baseline, values.work_dir, tree, pretrain.recipe_of(values, values.steps),
      values.kind, values.adapter_width, stages, values.min_examples, values.max_overlap,
      values.slices, values.data_dir, values.precision, values.epochs,
      values.strategy, command)
  print(json.dumps(results) if values.json else table(results))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
