"""zoo-transfer: finds the best expert for a task and fine-tunes it.

Ranks the experts of a hub by what their frozen embeddings say of the task's 1,000 examples, as
zoo-rank does, fine-tunes the best one and, under the same rule, the baseline (or, where they are
one, the second best), and writes result.json, report.html and a module that classifies raw
images into --work_dir. Without flags: the embedded zoo on handwritten digits. Started again, it
goes on.
"""

import json
import os
import sys

from absl import flags

from export import hub
from finetune import main as finetune_main
from selection import rank_main
from zoo import cli

FLAGS = cli.new_flags()
cli.define_task(FLAGS)
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_string('work_dir', None, 'Folder of this run; runs/transfer-TASK if not given.',
                    flag_values=FLAGS)
rank_main.define_proxy(FLAGS)
flags.DEFINE_integer('k', 1, 'Neighbours that vote in knn.', flag_values=FLAGS)
flags.DEFINE_integer('ensemble', 0, 'Make an ensemble of so many of the best experts.',
                     lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum('ensemble_kind', 'experts', ['experts', 'hyper', 'heads'],
                  'Of the best experts; or, to compare, of the best one alone under as many '
                  'settings drawn at random, or with as many random heads.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
finetune_main.define_plan(FLAGS)
finetune_main.define_run(FLAGS)


def main(values, command):
  from finetune import line
  from selection import show
  work_dir = values.work_dir or finetune_main.default_work_dir('transfer', values.task)
  result = line.transfer(
      values.task, values.hub, work_dir, values.handles, values.image_size, values.data_dir,
      finetune_main.plan_of(values, values.seed, values.strategy), values.k, values.ensemble,
      values.ensemble_kind, values.trust, command, values.input_range, values.proxy)
  if values.json:
    print(json.dumps(result))
    return
  print(show.table(result['ranking']))
  print(show.verdict(result['ranking']), end='\n\n')
  print(line.table(result), end='\n\n')
  for name, path in (('report', result['report']), ('module', result['module']),
                     ('result', os.path.join(work_dir, line.RESULT))):
    print(f'{name}: {path}')


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
