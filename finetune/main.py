"""zoo-finetune: fine-tunes one expert on a task.

Tries the light sweep on 800 examples against 200, trains the best setting on the 1,000 and
tests it once. Leaves in --work_dir a module that classifies raw images (module/), the test
logits (predictions.npz) and result.json.
"""

import json
import os
import sys

from absl import flags

from export import hub
from zoo import cli


def define_budget(values):
  """Adds --batch, --steps_scale and --seed."""
  flags.DEFINE_integer('batch', None, 'Examples an update: 512, or 64 without an accelerator.',
                       flag_values=values)
  flags.DEFINE_float('steps_scale', None, 'Factor on the 2,500 and 10,000 steps of the sweep: 1, '
                     'or 0.02 without an accelerator.', flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the order of examples.', flag_values=values)


def budget_of(values):
  """The `finetune.sweep.Budget` of the flags of `define_budget`."""
  from finetune import sweep
  default = sweep.default_budget()
  budget = sweep.Budget(default.batch if values.batch is None else values.batch,
                        default.steps_scale if values.steps_scale is None
                        else values.steps_scale)
  if budget.batch < 1 or budget.steps_scale <= 0:
    raise flags.Error('--batch and --steps_scale must be above 0')
  return budget


def default_work_dir(prefix, task):
  """runs/PREFIX-TASK."""
  return os.path.join('runs', f'{prefix}-{cli.file_name(task)}')


FLAGS = cli.new_flags()
cli.define_task(FLAGS)
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('handle', None, 'The module: publisher/name/version of the hub, a folder or a '
                    'URL; HANDLE#EXPERT for an expert of a packed one.', flag_values=FLAGS)
flags.DEFINE_integer('image_size', None, 'Pixels, for a module that does not say its own.',
                     flag_values=FLAGS)
flags.DEFINE_bool('trust', False, 'Load a module whose graph could touch files, sockets or '
                  'Python.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of this run; runs/finetune-TASK if not given.',
                    flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
define_budget(FLAGS)
flags.mark_flags_as_required(['handle'], flag_values=FLAGS)


def main(values, command):
  from finetune import tuning
  result = tuning.finetune(
      values.task, values.handle, values.work_dir or default_work_dir('finetune', values.task),
      values.hub, values.data_dir, values.image_size, budget_of(values), values.seed,
      values.trust, command)
  if values.json:
    print(json.dumps(result))
    return
  low, high = result['interval']
  print(f'{result["task"]}: test accuracy {result["test_accuracy"]:.1%} '
        f'(95% interval {low:.1%} to {high:.1%}, {result["test_examples"]} images)\n'
        f'module: {result["module"]}')


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
