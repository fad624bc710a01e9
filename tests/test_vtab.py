"""zoo-vtab: who is chosen, what is trained once, and how processes share it and outlive a kill."""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import mocked_vtab
from benchmarks import regret
from benchmarks import vtab
from benchmarks import vtab_jobs
from benchmarks import vtab_results
from benchmarks import vtab_table
from benchmarks import vtab_tasks
from conftest import forked
from conftest import shapes_task
from conftest import tiny_description
from finetune import sweep
from finetune import tuning
from selection import ranking
from zoo import cli
from zoo import tasks
from zoo import training

SHORT = ('--sweep=fixed', '--steps=2', '--batch=8', '--precision=float32')


def subject(task, drawn=True, name='shapes'):
  return vtab_jobs.Subject(name, name.title(), 'natural', lambda: task, drawn, 'fixed')


def study(work, root, **changes):
  plan = sweep.Plan('fixed', batch=16, learning_rate=0.05, steps=8, precision='float32')
  return vtab_jobs.Study(str(work), dataclasses.replace(plan, **changes.pop('plan', {})), hub=root,
                         **changes)


def run(own, subjects, wanted, seeds=(0,)):
  """(lines by strategy and seed, failures)."""
  wanted = own.strategies(wanted)
  failed = vtab_jobs.work(own, subjects, wanted, seeds)
  places = [vtab_jobs.Place(own, one, seed) for one in subjects for seed in seeds]
  return {(line['strategy'], line['seed']): line
          for line in vtab_results.lines(places, wanted)}, failed


def jobs(folder):
  """The folders below one in which an expert was fine-tuned."""
  return sorted(root for root, _, files in os.walk(folder) if tuning.RESULT in files)


@pytest.fixture(scope='module')
def task():
  return shapes_task(60, 30)


@pytest.fixture(scope='module')
def least_hub(tmp_path_factory):
  """A baseline and an expert of a single block, which compile in no time."""
  from export import publish
  from zoo import backbones
  architecture = backbones.Architecture((1,), 8, 'basic', 4, 'small', 2, 16)
  root = str(tmp_path_factory.mktemp('least'))
  for seed, kind in enumerate(('baseline', 'expert')):
    publish.publish(backbones.build(architecture, seed=seed), tiny_description(kind), root,
                    f'test/{kind}/1')
  return root


@pytest.fixture(scope='module')
def small_hub(tmp_path_factory):
  """A baseline of a single layer, for where none but it is fine-tuned, and that often."""
  from export import import_main
  from export import sources
  folder = tmp_path_factory.mktemp('small')
  _small(folder / 'small.keras')
  import_main.import_module(
      sources.find(str(folder / 'small.keras')), str(folder), 'test/small/1', 'made:1.0.0')
  return str(folder)


def _small(path):
  """Saves a Keras model of a single layer."""
  import keras
  keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3, strides=2),
                    keras.layers.GlobalAveragePooling2D()]).save(path)


@pytest.fixture(scope='module')
def everything(tmp_path_factory, tiny_hub, task):
  """All strategies on one task, in one folder."""
  work = tmp_path_factory.mktemp('everything')
  handles = ('test/expert/1', 'test/packed/1#square')
  lines, failed = run(study(work, tiny_hub, handles=handles), [subject(task)],
                      ['baseline', 'knn', 'ridge', 'hybrid', 'oracle', 'handle'])
  assert not failed
  return work, {strategy: line for (strategy, _), line in lines.items()}


def test_each_strategy_takes_whom_it_says(everything, tiny_hub, task):
  _, lines = everything
  ranked = ranking.rank(task, tiny_hub, proxies=('knn', 'ridge'), seed=0)
  assert lines['baseline']['handle'] == 'test/baseline/1'
  assert lines['handle:test/expert/1']['handle'] == 'test/expert/1'
  assert lines['handle:test/packed/1#square']['name'] == 'square'
  for proxy in ('knn', 'ridge'):
    best = max(ranked.entries, key=lambda entry: entry.scores[proxy].value)
    assert (lines[proxy]['handle'], lines[proxy]['expert']) == (
        best.candidate.handle, best.candidate.expert)
  both = [lines['baseline'], lines['knn']]
  assert lines['hybrid']['val_accuracy'] == max(line['val_accuracy'] for line in both)
  assert lines['oracle']['test_accuracy'] == max(
      line['test_accuracy'] for line in lines.values())
  assert [lines[name]['tuned'] for name in ('baseline', 'knn', 'oracle')] == [1, 1, 4]


def test_an_expert_that_several_strategies_choose_is_trained_once(everything):
  work, _ = everything
  assert len(jobs(work)) == 4  # the baseline, the expert and the two of the packed module


def test_a_line_has_what_is_needed_to_run_it_again(everything, task):
  work, lines = everything
  line = lines['knn']
  assert line['source'] == task.source
  assert line['ids'] == tasks.ids_digest(task, tasks.protocol_1k(task, 0))
  assert (line['protocol'], line['examples'], line['seed']) == ('1k', '48/12 (seed 0)', 0)
  assert line['setting'] in line['tried']
  assert line['versions']['keras']
  assert (line['classes'], line['covered'], line['majority']) == (3, 3, pytest.approx(1 / 3))
  with np.load(work / line['predictions']) as file:
    assert (file['logits'].argmax(1) == file['labels']).mean() == line['test_accuracy']
  assert line['test_examples'] == 30


def test_what_is_done_is_not_done_again_and_strategies_can_be_added(
    tmp_path, least_hub, task, monkeypatch):
  own = study(tmp_path, least_hub)
  run(own, [subject(task)], ['baseline'])
  before = {job: os.stat(os.path.join(job, tuning.RESULT)).st_mtime_ns for job in jobs(tmp_path)}
  run(own, [subject(task)], ['baseline', 'oracle'])
  after = {job: os.stat(os.path.join(job, tuning.RESULT)).st_mtime_ns for job in jobs(tmp_path)}
  assert (len(before), len(after)) == (1, 2)
  assert before.items() <= after.items()
  monkeypatch.setattr(tuning, 'finetune', None)
  monkeypatch.setattr(ranking, 'rank', None)
  lines, failed = run(own, [subject(task)], ['baseline', 'oracle'])
  assert len(lines) == 2
  assert not failed


def test_a_seed_draws_the_examples_of_local_tasks_and_the_order_of_those_of_vtab(
    tmp_path, small_hub, task):
  for drawn in (True, False):
    lines, _ = run(study(tmp_path / str(drawn), small_hub), [subject(task, drawn)], ['baseline'],
                   (0, 1))
    one, two = lines['baseline', 0], lines['baseline', 1]
    assert (one['ids'] == two['ids']) == (not drawn)
    assert (one['examples_digest'] == two['examples_digest']) == (not drawn)
    assert (one['setting']['seed'], two['setting']['seed']) == ((0, 0) if drawn else (0, 1))


def test_the_suite_is_judged_as_the_study_of_regret_judges_it(
    tmp_path, least_hub, task, monkeypatch):
  monkeypatch.setattr(sweep, 'QUICK', (12, 0.03))
  own = study(tmp_path, least_hub, sweep='quick', plan={'batch': regret.BATCH})
  lines, _ = run(own, [subject(task)], ['baseline', 'knn'], (1,))
  rows = regret.judge(task, 1, least_hub, regret.Kept(str(tmp_path / 'kept')),
                      lambda rows: {key for key, _ in rows})
  first = next(row for row in rows if row['first'])
  best = max(rows, key=lambda row: (row['scores']['knn'], row['kind'] == 'baseline'))
  assert lines['baseline', 1]['test_accuracy'] == first['tuned']
  assert lines['knn', 1]['test_accuracy'] == best['tuned']
  assert lines['knn', 1]['handle'] == best['handle']


def test_under_the_full_protocol_all_train_and_the_1000_choose(tmp_path, least_hub):
  big = shapes_task(1200, 30)
  own = study(tmp_path, least_hub, protocol='full', plan={'steps': 2})
  lines, _ = run(own, [subject(big, drawn=False)], ['knn'])
  assert lines['knn', 0]['examples'] == '1080/120 (full)'
  assert lines['knn', 0]['ids'] == tasks.ids_digest(big, tasks.protocol_full(big))
  [name] = [name for name in os.listdir(tmp_path / 'shapes' / 'seed-0') if 'ranking' in name]
  with open(tmp_path / 'shapes' / 'seed-0' / name, encoding='utf-8') as file:
    assert json.load(file)['examples'] == 1000


def test_a_folder_of_other_settings_is_refused(tmp_path, small_hub, task):
  run(study(tmp_path, small_hub), [subject(task)], ['baseline'])
  with pytest.raises(ValueError, match=r'another run: plan\.steps is 8 there and 9 here'):
    run(study(tmp_path, small_hub, plan={'steps': 9}), [subject(task)], ['baseline'])


def test_what_fails_is_told_and_the_rest_goes_on(tmp_path, least_hub, task, monkeypatch):
  def broken():
    raise ValueError('the disk is gone.')

  gone = dataclasses.replace(subject(task, name='gone'), load=broken)
  real = training.Trainer.fit

  def fit(self, stream, recipe, folder=None, what='', *rest):
    if 'circle' in what:
      raise MemoryError('no room.')
    return real(self, stream, recipe, folder, what, *rest)

  monkeypatch.setattr(training.Trainer, 'fit', fit)
  own = study(tmp_path, least_hub)
  lines, failed = run(own, [gone, subject(task)], ['baseline', 'oracle'])
  assert list(lines) == [('baseline', 0)]
  assert failed['Gone', 0, ''] == 'the disk is gone.'
  [reason] = [why for (title, _, _), why in failed.items() if title == 'Shapes']
  assert 'no room' in reason
  monkeypatch.undo()
  # A setting that failed is kept as failed, as in any other fine-tuning.
  lines, failed = run(own, [subject(task)], ['baseline', 'oracle'])
  assert len(failed) == 1


def test_a_task_in_other_hands_is_left_to_them_until_they_are_gone(tmp_path, small_hub, task):
  own = study(tmp_path, small_hub)
  subjects = [subject(task, name='one'), subject(task, name='two')]
  run(own, subjects[:1], ['baseline'])
  [job] = jobs(tmp_path)
  os.remove(os.path.join(job, tuning.RESULT))
  order = []
  with open(os.path.join(job, '.lock'), 'a+', encoding='utf-8') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would
    thread = threading.Thread(
        target=lambda: vtab_jobs.work(own, subjects, ['baseline'], [0],
                                      lambda: order.append(jobs(tmp_path))))
    thread.start()
    while not order:
      time.sleep(0.05)
    assert [path.split(os.sep)[-3] for path in order[0]] == ['two']
    assert thread.is_alive()  # it waits for the first
  thread.join()
  assert len(jobs(tmp_path)) == 2


@pytest.fixture(scope='module')
def mocked(tmp_path_factory):
  """A folder of small prepared copies of all data sets of VTAB."""
  folder = str(tmp_path_factory.mktemp('mocked'))
  mocked_vtab.prepare(folder, examples=20)
  return folder


def test_all_19_tasks_run_end_to_end_with_one_command(mocked, small_hub, tmp_path, console):
  code, out, err = console(
      vtab, f'--data_dir={mocked}', f'--hub={small_hub}', f'--work_dir={tmp_path}/work',
      '--strategy=baseline', *SHORT)
  assert code == 0, err
  lines = vtab_results.read(f'{tmp_path}/work')
  assert [line['task'] for line in lines] == [entry.name for entry in vtab_tasks.VTAB]
  table = vtab_table.rows(lines)
  assert [row.kind for row in table] == [
      *['task'] * 7, 'group', *['task'] * 4, 'group', *['task'] * 8, 'group', 'mean']
  mean = np.mean([line['test_accuracy'] for line in lines])
  assert table[-1].cells['baseline'][0] == pytest.approx(100 * mean)
  assert table[-1].published == 66.37
  for row in table:
    assert row.title in out
  assert 'Flowers102: the training examples have' in out  # 30 of them cannot have 102 classes
  for name in (vtab.REPORT, vtab.CSV, vtab.LATEX):
    assert os.path.getsize(f'{tmp_path}/work/{name}')
  with open(f'{tmp_path}/work/{vtab.REPORT}', encoding='utf-8') as file:
    page = file.read()
  assert all(entry.title in page for entry in vtab_tasks.VTAB)
  assert 'BiT-M R152x4' in page


def test_tasks_without_data_are_listed_first_and_the_rest_runs(
    mocked, small_hub, tmp_path, console):
  (tmp_path / 'some').mkdir()
  os.symlink(f'{mocked}/dtd', tmp_path / 'some' / 'dtd')
  code, out, err = console(
      vtab, f'--data_dir={tmp_path}/some', f'--hub={small_hub}', '--work_dir=work',
      '--strategy=baseline', '--tasks=dtd,resisc45,svhn', *SHORT)
  assert code == 0, err
  told = err.splitlines()
  assert [line.split(' ')[0] for line in told[:2]] == ['Resisc45', 'SVHN']
  assert 'DTD' in out
  assert 'SVHN' not in out
  assert err.endswith('2 tasks are not done, for want of data.\n')


def test_preparing_that_fails_says_why_and_the_rest_runs(
    mocked, small_hub, tmp_path, console, monkeypatch):
  import tensorflow_datasets as tfds

  def down(*_, **__):
    raise OSError('the host is down')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', down)
  (tmp_path / 'some').mkdir()
  os.symlink(f'{mocked}/dtd', tmp_path / 'some' / 'dtd')
  code, out, err = console(
      vtab, f'--data_dir={tmp_path}/some', f'--hub={small_hub}', '--work_dir=work', '--prepare',
      '--strategy=baseline', '--tasks=dtd,svhn', *SHORT)
  assert code == 0, err
  assert 'the host is down' in err.splitlines()[0]
  assert 'DTD' in out


@pytest.mark.parametrize(('arguments', 'code', 'complaint'), [
    (['--tasks=cifar1000'], 1, 'cifar100'),
    (['--tasks=digits', '--strategy=best'], 1, "--strategy=best is none of baseline, knn"),
    (['--tasks=digits', '--strategy=handle'], 1, '--strategy=handle needs --handles.'),
    (['--tasks=digits', '--seeds=a'], 2, "--seeds=a: 'a' is no whole number"),
    (['--tasks=digits', '--devices=multi_worker'], 2, 'start zoo-vtab several times'),
])
def test_wrong_usage_is_one_line(arguments, code, complaint, console):
  found, out, err = console(vtab, *arguments)
  assert (found, out, err.count('\n')) == (code, '', 1)
  assert complaint in err


def zoo_vtab(output, *arguments):
  """Runs zoo-vtab in a process of its own; what it prints goes into a file."""
  with open(output, 'w', encoding='utf-8') as file, contextlib.redirect_stdout(file):
    code = cli.run(vtab.main, vtab.FLAGS, arguments)
  sys.exit(code)


def test_processes_share_a_folder_and_a_killed_one_loses_at_most_its_job(
    mocked, least_hub, tmp_path):
  def child(work, output):
    return forked(
        zoo_vtab, str(tmp_path / output), f'--data_dir={mocked}', f'--hub={least_hub}',
        f'--work_dir={tmp_path}/{work}', '--strategy=knn,oracle', '--tasks=dtd,eurosat',
        '--json', *SHORT[:1], '--steps=30', *SHORT[2:])

  pair = [child('shared', 'first'), child('shared', 'second')]
  alone = child('alone', 'third')
  while not jobs(tmp_path / 'shared'):
    assert all(one.is_alive() for one in pair)
    time.sleep(0.05)
  before = {job: os.stat(os.path.join(job, tuning.RESULT)).st_mtime_ns
            for job in jobs(tmp_path / 'shared')}
  pair[0].kill()
  for one in (*pair, alone):
    one.join()
  assert [one.exitcode for one in (*pair, alone)] == [-signal.SIGKILL, 0, 0]
  for job, when in before.items():  # what was done before the kill was not done again
    assert os.stat(os.path.join(job, tuning.RESULT)).st_mtime_ns == when
  one, two = (json.loads((tmp_path / name).read_text()) for name in ('second', 'third'))
  assert vtab_table.rows(one) == vtab_table.rows(two)
  for mine, other in zip(one, two, strict=True):
    for key in ('task', 'strategy', 'handle', 'expert', 'test_accuracy', 'nll', 'ids',
                'examples_digest', 'predictions'):
      assert mine[key] == other[key]


def test_a_keras_model_is_judged_as_it_is(tmp_path, task):
  path = str(tmp_path / 'small.keras')
  _small(path)
  lines, failed = run(study(tmp_path / 'work', '', handles=(path,)), [subject(task)], ['handle'])
  assert not failed
  line = lines[f'handle:{path}', 0]
  assert (line['handle'], line['name']) == (path, 'small.keras')
  assert 0 <= line['test_accuracy'] <= 1
