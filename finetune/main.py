"""zoo-finetune: fine-tunes one expert on a task.

Tries the settings of a sweep on 800 examples against 200, trains the best on the 1,000 and
tests it once. Leaves in --work_dir a module that classifies raw images (module/), the test
logits (predictions.npz) and result.json. Killed, the same command goes on.
"""

import json
import os
import sys

from absl import flags

from export import hub
from zoo import cli


# Flags that only some sweeps heed.
OF_SWEEPS = {'learning_rate': ('fixed',), 'steps': ('fixed',), 'trials': ('search',),
             'steps_scale': ('light', 'fixed', 'search')}


def define_plan(values):
  """Adds the flags of a `finetune.sweep.Plan`, but those of `define_run`."""
  flags.DEFINE_enum('sweep', None, ['light', 'hyperrule', 'quick', 'fixed', 'search'],
                    'Settings that are tried: VTAB\'s four (light, the default), BiT\'s one by '
                    'rule, a cheap one (quick, 150 steps), that of --learning_rate and --steps, or '
                    '--trials of Optuna\'s choice (extra search).', flag_values=values)
  flags.DEFINE_string('tune', None, 'What trains beside the new head: whole (the default), head '
                      '(nothing), adapters, or last:N (stages; blocks of a Transformer).',
                      flag_values=values)
  flags.DEFINE_integer('batch', None, 'Examples an update: 512, or 64 without an accelerator.',
                       flag_values=values)
  flags.DEFINE_float('steps_scale', None, 'Factor on the 2,500 and 10,000 steps of the sweeps '
                     'light and search: 1, or 0.02 without an accelerator.', flag_values=values)
  flags.DEFINE_float('learning_rate', None, 'Of the sweep fixed: 0.01.', flag_values=values)
  flags.DEFINE_integer('steps', None, 'Of the sweep fixed: 2,500 times --steps_scale.',
                       flag_values=values)
  flags.DEFINE_integer('trials', None, 'Of the sweep search: 20.', flag_values=values)
  flags.DEFINE_float('stochastic_depth', None, 'Probability with which training leaves out the '
                     'last residual branch, less for earlier ones: 0.', flag_values=values)
  flags.DEFINE_enum('class_weights', None, ['none', 'balanced'], 'Balanced: each class weighs '
                    'inversely to its examples in the loss.', flag_values=values)


def define_run(values):
  """Adds --seed, --strategy and --precision."""
  flags.DEFINE_integer('seed', 0, 'Of the order of examples, and of the search.',
                       lower_bound=0, flag_values=values)
  cli.define_devices(values)


def plan_of(values, seed, strategy):
  """The `finetune.sweep.Plan` of the flags of `define_plan` and --precision."""
  from finetune import sweep
  for name, sweeps in OF_SWEEPS.items():
    if getattr(values, name) is not None and (values.sweep or 'light') not in sweeps:
      raise flags.Error(f'--{name} is of --sweep={" or ".join(sweeps)}.')
  names = ('sweep', 'tune', 'batch', 'steps_scale', 'learning_rate', 'steps', 'trials',
           'stochastic_depth', 'class_weights', 'precision')
  try:
    return sweep.default_plan(seed=seed, strategy=strategy,
                              **{name: getattr(values, name) for name in names})
  except ValueError as error:
    raise flags.Error(str(error)) from None


def default_work_dir(prefix, task):
  """runs/PREFIX-TASK."""
  return os.path.join('runs', f'{prefix}-{cli.file_name(task)}')


FLAGS = cli.new_flags()
cli.define_task(FLAGS)
flags.DEFINE_string('label', 'label', 'TFDS feature that is learnt; one of several labels an image '
                    'is learnt with sigmoids.', flag_values=FLAGS)
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder or URL of the hub.', flag_values=FLAGS)
flags.DEFINE_string('handle', None, 'The module: publisher/name/version of the hub, a folder, a '
                    '.keras file or a URL; HANDLE#EXPERT for an expert of a packed one.',
                    flag_values=FLAGS)
flags.DEFINE_integer('image_size', None, 'Pixels of the images; those of the module if not '
                     'given.', lower_bound=1, flag_values=FLAGS)
cli.define_input_range(FLAGS)
flags.DEFINE_bool('trust', False, 'Load a module whose graph could touch files, sockets or '
                  'Python.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of this run; runs/finetune-TASK if not given.',
                    flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
define_plan(FLAGS)
define_run(FLAGS)
flags.mark_flags_as_required(['handle'], flag_values=FLAGS)


def main(values, command):
  from finetune import metrics
  from finetune import tuning
  result = tuning.finetune(
      values.task, values.handle, values.work_dir or default_work_dir('finetune', values.task),
      plan_of(values, values.seed, values.strategy), values.hub, values.data_dir,
      values.image_size, values.trust, command, label=values.label,
      input_range=values.input_range)
  if values.json:
    print(json.dumps(result))
    return
  name, value = metrics.primary(result)
  low, high = result['interval']
  print(f'{result["task"]}: {metrics.TITLES[name]} {value:.1%} '
        f'(95% interval {low:.1%} to {high:.1%}, {result["test_examples"]} images)\n'
        f'module: {result["module"]}')


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
