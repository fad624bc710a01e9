"""ensembles.py: what an ensemble of the best experts gains on the best expert alone.

On tasks of the local suite, for several draws of their 1,000 examples: the hub is ranked by
1-NN, and ensembles of the best experts are made as zoo-transfer --ensemble makes them, beside
the paper's rivals from the best expert alone, each from equally many fine-tuned networks.
Prints one JSON line a task, draw and kind on stdout, and on stderr a table of mean
differences with 95% intervals over tasks. All is kept in --work_dir: a killed run
goes on.
"""

import json
import os
import shutil
import sys

from absl import flags

from benchmarks import selectors
from benchmarks import suite
from export import hub
from zoo import cli

FIGURES = ('test_accuracy', 'nll', 'ece')


def judge(name, task, seed, root, members, kinds, plan, folder):
  """Makes the ensembles of one draw of a task.

  Args:
    name: of the task in the suite.
    task: a `zoo.tasks.Task`.
    seed: draws the 1,000 examples.
    root: folder of the hub.
    members: how many experts are fine-tuned.
    kinds: of `finetune.ensembles.KINDS`.
    plan: a `finetune.sweep.Plan`.
    folder: where all is kept.

  Yields:
    A JSON-like dict for each kind: task, seed, kind, ensemble and single (each test_accuracy,
    nll, ece and `calibrated` of them), val (accuracy, nll and ece there), members (names and
    counts), tried, images_per_second.
  """
  from finetune import ensembles
  from finetune import runs
  from selection import ranking
  from zoo import atomic
  from zoo import strategies
  from zoo import tasks
  data = networks = found = None
  for kind in kinds:
    kept = os.path.join(folder, f'{kind}.json')
    if not os.path.exists(kept):
      if data is None:
        data = runs.Data(task, tasks.protocol_1k(task, seed))
        networks = runs.networks(data, plan, strategies.make())
        ranked = ranking.rank(task, root, seed=seed, proxies=('knn',))
        found = [entry.candidate for entry in ranked.entries[:members] if not entry.dropped]
      made = ensembles.ensemble(
          task, found, os.path.join(folder, kind), plan, kind, data=data, networks=networks,
          done={found[0].key: os.path.join(folder, 'first')})
      atomic.write_json(kept, {
          'task': name, 'seed': seed, 'kind': kind,
          **{name: {**{key: one[key] for key in FIGURES}, 'calibrated': one['calibrated']}
             for name, one in (('ensemble', made), ('single', made['single']))},
          'val': made['val'], 'tried': made['tried'],
          'members': [[one['name'], one['handle'], one['count']] for one in made['members']],
          'images_per_second': made['images_per_second'], 'seconds': made['seconds']})
      shutil.rmtree(os.path.join(folder, kind), ignore_errors=True)
    yield atomic.read_json(kept)
  shutil.rmtree(os.path.join(folder, 'first'), ignore_errors=True)


def table(rows):
  """Mean gain of each kind on the single expert, with 95% intervals, as lines of text."""
  import numpy as np

  def gain(own, get, factor=1):
    mean, half = selectors.interval({
        ('', row['task'], row['seed']): factor * (get(row['ensemble']) - get(row['single']))
        for row in own})
    return f'{mean:+.3f} ± {half or np.nan:.3f}'

  lines = [f'{"kind":8} {"draws":>5} {"accuracy, points":>18} {"NLL":>18} {"ECE, points":>18} '
           f'{"NLL, both at T":>18} {"networks":>8} {"images/s":>8}']
  for kind in dict.fromkeys(row['kind'] for row in rows):
    own = [row for row in rows if row['kind'] == kind]
    lines.append(
        f'{kind:8} {len(own):5} {gain(own, lambda one: one["test_accuracy"], 100):>18} '
        f'{gain(own, lambda one: one["nll"]):>18} {gain(own, lambda one: one["ece"], 100):>18} '
        f'{gain(own, lambda one: one["calibrated"]["nll"]):>18} '
        f'{np.mean([len(row["members"]) for row in own]):8.1f} '
        + format(np.mean([row["images_per_second"]["ensemble"]
                          / row["images_per_second"]["single"] for row in own]), '7.0%'))
  return '\n'.join(lines)


FLAGS = cli.new_flags()
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', 'runs/ensembles', 'Folder of what is kept.', flag_values=FLAGS)
flags.DEFINE_list('tasks', [], 'Of the suite; all if empty.', flag_values=FLAGS)
cli.define_seeds(FLAGS, [0, 1, 2], 'Draws of the 1,000 examples.')
flags.DEFINE_integer('members', 5, 'Experts that are fine-tuned.', flag_values=FLAGS)
flags.DEFINE_list('kinds', ['experts', 'hyper', 'heads'], 'Of ensembles.', flag_values=FLAGS)
flags.DEFINE_float('steps_scale', 0.02, 'As in zoo-transfer.', flag_values=FLAGS)
flags.DEFINE_integer('batch', 64, 'As in zoo-transfer.', flag_values=FLAGS)


def main(values, command):
  from finetune import sweep
  del command
  plan = sweep.Plan(batch=values.batch, steps_scale=values.steps_scale)
  rows = []
  for seed in values.seeds:
    for entry in suite.tasks():
      if values.tasks and entry.name not in values.tasks:
        continue
      folder = os.path.join(values.work_dir, f'{entry.name}-{seed}')
      for row in judge(entry.name, suite.load(entry.name, values.data_dir), seed, values.hub,
                       values.members, values.kinds, plan, folder):
        rows.append(row)
        print(json.dumps(row), flush=True)
  print(table(rows), file=sys.stderr)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
