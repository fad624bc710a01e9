"""zoo-vtab: VTAB-1k, or the local suite, from choosing experts to tested accuracies.

For every task, seed and strategy: experts are ranked by the 1,000 examples, each that a strategy
chooses is fine-tuned (settings tried on 800 and judged on 200, the best trained on all 1,000) and
tested on the whole test split. Strategies: baseline (the one of the most upstream data); the best
by a proxy: knn (the paper's rule), knn+logme (as zoo-rank), ridge, logme, hscore, domain, labels;
hybrid (baseline and knn, the better on val), oracle (all of the hub, the best on test), handle
(each of --handles).

All is kept in --work_dir: the same command goes on after a kill, and run several times at once,
on one machine or on many that share the folder, it shares the work. results.jsonl has a line a
task, strategy and seed; table.csv, table.tex and report.html are made of them.

zoo-vtab compare A B pairs the predictions of two results (see zoo-vtab compare --help).
"""

import functools
import json
import logging
import os
import sys

from absl import flags

from export import hub
from finetune import main as finetune_main
from zoo import atomic
from zoo import cli

logger = logging.getLogger(__name__)

REPORT, CSV, LATEX = 'report.html', 'table.csv', 'table.tex'


def vtab(names, wanted, seeds, study, data_dir=None, prepare=False):
  """Runs tasks, or goes on with them.

  Args:
    names: tasks of VTAB or of the local suite, their groups, 'all' for the 19 or 'suite' for
      all of the suite.
    wanted: of `benchmarks.vtab_jobs.STRATEGIES`.
    seeds: a list of numbers. They draw the examples of the suite's tasks; those of VTAB are
      fixed, and a seed is the order in which they are trained on.
    study: a `benchmarks.vtab_jobs.Study`.
    data_dir: where TFDS finds prepared data sets.
    prepare: whether TFDS downloads and prepares those that it does not find.

  Returns:
    (lines, missing, failed): as `benchmarks.vtab_results.lines` and `benchmarks.vtab_jobs.work`
    return them; missing is a list of (title, why) of tasks without data.

  Raises:
    ValueError: no task can be run, or the work directory is for something else.
  """
  from benchmarks import vtab_jobs
  from benchmarks import vtab_report
  from benchmarks import vtab_results
  from benchmarks import vtab_table
  subjects, missing = _subjects(names, data_dir, prepare)
  for title, why in missing:
    logger.warning('%s is not done: %s', title, why)
  if not subjects:
    raise ValueError(f'none of {len(missing)} tasks has its data.')
  wanted = study.strategies(wanted)
  places = [vtab_jobs.Place(study, subject, seed) for subject in subjects for seed in seeds]
  found = []

  def report():
    found[:] = vtab_results.lines(places, wanted)
    if not found:
      return
    table, columns = vtab_table.rows(found), vtab_table.columns(found)
    vtab_results.write(os.path.join(study.work_dir, vtab_results.LINES), found)
    atomic.write_text(os.path.join(study.work_dir, CSV), vtab_table.csv_text(table, columns))
    atomic.write_text(os.path.join(study.work_dir, LATEX), vtab_table.latex(table, columns))

  failed = vtab_jobs.work(study, subjects, wanted, seeds, report)
  report()
  if found:
    vtab_report.write(os.path.join(study.work_dir, REPORT), found, missing, failed)
  return found, missing, failed


def _subjects(names, data_dir, prepare):
  """(the `benchmarks.vtab_jobs.Subject`s of some names, (title, why) of those without data)."""
  from benchmarks import suite
  from benchmarks import vtab_jobs
  from benchmarks import vtab_tasks
  subjects, missing = [], []
  local = {entry.name: entry for entry in suite.tasks()}
  for name in names:
    if name == 'suite' or name in local:
      subjects += [vtab_jobs.Subject(
          entry.name, entry.name, entry.group,
          functools.partial(suite.load, entry.name, data_dir), True, 'quick')
                   for entry in (local.values() if name == 'suite' else [local[name]])]
      continue
    for entry in vtab_tasks.entries([name]):
      load = functools.partial(vtab_tasks.load, entry.name, data_dir)
      why = vtab_tasks.check(entry, data_dir)
      if why and prepare:
        try:
          load()
          why = None
        except ValueError as error:
          why = str(error)
      if why:
        missing.append((entry.title, why))
      else:
        subjects.append(vtab_jobs.Subject(
            entry.name, entry.title, entry.group, load, False, 'light'))
  there = {subject.name: subject for subject in subjects}.values()
  return sorted(there, key=lambda subject: vtab_tasks.GROUPS.index(subject.group)), missing


FLAGS = cli.new_flags()
flags.DEFINE_list('tasks', ['all'], 'Tasks: all (the 19 of VTAB), natural, specialized or '
                  'structured (of VTAB), suite (the local one), or names of either.',
                  flag_values=FLAGS)
flags.DEFINE_list('strategy', ['baseline', 'knn'], 'How experts are chosen; see above.',
                  flag_values=FLAGS)
flags.DEFINE_enum('protocol', '1k', ['1k', 'full'], 'Train on 1,000 examples, or on all. Experts '
                  'are chosen by the 1,000 under both.', flag_values=FLAGS)
cli.define_seeds(FLAGS, [0], "Of the examples of the local suite's tasks; of the order of VTAB's, "
                 'which are fixed.')
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_bool('prepare', False, 'Have TFDS download and prepare first what it does not find.',
                  flag_values=FLAGS)
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_string('work_dir', os.path.join('runs', 'vtab'), 'Folder that all processes of this '
                    'run share.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print the lines as JSON.', flag_values=FLAGS)
finetune_main.define_plan(FLAGS)
cli.define_devices(FLAGS, 'devices')


def main(values, command):
  from benchmarks import vtab_jobs
  from benchmarks import vtab_report
  from benchmarks import vtab_table
  plan = finetune_main.plan_of(values, 0, values.devices)
  if plan.strategy == 'multi_worker':
    raise flags.Error('--devices=multi_worker: start zoo-vtab several times on one --work_dir '
                      'instead, and they share the tasks')
  study = vtab_jobs.Study(
      os.path.abspath(values.work_dir), plan, values.sweep, values.protocol, values.hub,
      tuple(values.handles), values.image_size, values.input_range, values.trust, tuple(command))
  found, missing, failed = vtab(values.tasks, values.strategy, values.seeds, study, values.data_dir,
                                values.prepare)
  if values.json:
    print(json.dumps(found))
  elif found:
    print(vtab_table.text(vtab_table.rows(found), vtab_table.columns(found)))
    for line in vtab_report.warnings(found):
      print(line)
    print(f'report: {os.path.join(study.work_dir, REPORT)}')
  if failed:
    raise ValueError(f'{len(failed)} of the jobs failed, the first so: '
                     f'{next(iter(failed.values()))}')
  if missing:
    logger.warning('%d tasks are not done, for want of data.', len(missing))


def console():
  """The console script."""
  return cli.run_command({'compare': 'benchmarks.vtab_compare'}, main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
