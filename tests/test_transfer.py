"""The main job: rank, fine-tune winner and baseline, report; kill it, and it goes on."""

import contextlib
import html.parser
import io
import json
import os
import shutil
import signal
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from conftest import draw_shape
from conftest import forked
from conftest import redescribe
from export import hub
from finetune import line
from finetune import sweep
from finetune import transfer_main
from finetune import tuning
from zoo import checkpoint
from zoo import cli
from zoo import tasks
from zoo import training

SMALL = ('--batch=16', '--steps_scale=0.004')
EVIL = '<img src=x onerror=alert(1)> $1_$'  # the name of a class


class _Page(html.parser.HTMLParser):
  """Collects what a page would fetch, its words, and its tables as lists of rows of texts."""

  def __init__(self, path):
    super().__init__()
    self.fetched, self.words, self.tables, self._cell = [], [], [], False
    with open(path, encoding='utf-8') as file:
      self.text = file.read()
    self.feed(self.text)

  def handle_starttag(self, tag, attrs):
    self.fetched += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')
      self._cell = True

  def handle_endtag(self, tag):
    self._cell = self._cell and tag not in ('td', 'th')

  def handle_data(self, data):
    self.words += data.split()
    if self._cell:
      self.tables[-1][-1][-1] += data


def child(flags, number, said):
  """Runs the binary and kills it when it has written so many checkpoints.

  Args:
    flags: of the binary.
    number: of checkpoints.
    said: file for what it says on stderr.
  """
  training.SECONDS_BETWEEN_CHECKPOINTS = 0
  saved, save = [], checkpoint.save

  def save_and_die(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == number:
      os.kill(os.getpid(), signal.SIGKILL)

  checkpoint.save = save_and_die
  with open(said, 'w', buffering=1, encoding='utf-8') as file, contextlib.redirect_stderr(file):
    sys.exit(cli.run(transfer_main.main, transfer_main.FLAGS, flags))


def _killed(process, said):
  """What a `child` said on stderr until it was killed."""
  process.join(300)
  err = said.read_text()
  assert process.exitcode == -signal.SIGKILL, err
  return err


def _run(flags):
  """(exit code, stdout, stderr) of the binary in this process."""
  with (contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err):
    code = cli.run(transfer_main.main, transfer_main.FLAGS, flags)
  return code, out.getvalue(), err.getvalue()


def _times(folder):
  """When every file below a folder was written, but for locks."""
  return {os.path.join(where, name): os.stat(os.path.join(where, name)).st_mtime_ns
          for where, _, names in os.walk(folder) for name in names if name != '.lock'}


@pytest.fixture(scope='module')
def job(tiny_hub, tmp_path_factory):
  """A job that is disturbed while it runs, killed, and started again; see the tests."""
  folder = tmp_path_factory.mktemp('job')
  random = np.random.default_rng(0)
  for kind, name in (('cross', EVIL), ('square', 'square'), ('stripes', 'stripes')):
    (folder / 'pictures' / name).mkdir(parents=True)
    for i in range(20):
      Image.fromarray(draw_shape(kind, random)).save(folder / 'pictures' / name / f'{i}.png')
  work = str(folder / 'work')
  found = types.SimpleNamespace(
      work=work, task=f'folder:{folder}/pictures',
      flags=[f'--hub={tiny_hub}', f'--task=folder:{folder}/pictures', f'--work_dir={work}',
             '--precision=float32', *SMALL])
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('EXPERT_ZOO_CACHE', str(folder / 'cache'))
    said = folder / 'said'
    # Of 10 steps, each with a checkpoint, and 40 by twos.
    process = forked(child, found.flags, 15, str(said))
    while not os.path.exists(f'{work}/settings.json'):
      assert process.is_alive(), said.read_text()
      time.sleep(0.05)
    found.child, found.meanwhile = process.pid, _run(found.flags)
    _killed(process, said)
    found.first_kill = _times(work)
    found.step = _step(f'{work}/winner/trying-1')
    found.went_on = _killed(forked(child, found.flags, 17 + 10 + 21 + 6, str(said)), said)
    found.second_kill = _times(work)
    found.last_step = _step(f'{work}/winner/final')
    found.outcome = _run(found.flags)
    found.done = _times(work)
    yield found


def _step(folder):
  with np.load(f'{folder}/checkpoint.npz') as file:
    return int(file['step'])


def _result(job):
  with open(f'{job.work}/result.json', encoding='utf-8') as file:
    return json.load(file)


def test_a_work_dir_in_use_says_by_whom(job):
  code, out, err = job.meanwhile
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert f'work is in use by process {job.child}' in err


def test_killed_in_the_sweep_and_in_the_last_training_it_goes_on_where_it_was(job):
  code, out, err = job.outcome
  assert code == 0, err
  assert 'work/report.html' in out
  assert job.step == 8
  assert 0 < job.last_step < 40
  for said in (job.went_on, err):
    assert 'Going on in ' in said
  for kill, there, missing in (
      (job.first_kill, ('ranking.json', 'winner/tried-0.json'), 'winner/tried-1.json'),
      (job.second_kill, ('winner/tried-1.json', 'winner/tried-3.json'), 'winner/result.json')):
    for name in there:  # nothing was done twice
      assert kill[f'{job.work}/{name}'] == job.done[f'{job.work}/{name}']
    assert f'{job.work}/{missing}' not in kill


def test_killed_it_ends_to_the_bit_as_if_unbroken(job, tiny_hub, tmp_path):
  plan = sweep.Plan(batch=16, steps_scale=0.004, precision='float32')
  winner = _result(job)['winner']
  handle = winner['handle'] + ('' if winner['expert'] is None else f'#{winner["expert"]}')
  unbroken = tuning.finetune(job.task, handle, str(tmp_path / 'work'), plan, tiny_hub)
  with open(f'{job.work}/winner/result.json', encoding='utf-8') as file:
    broken = json.load(file)
  for name in ('tried-1.npz', 'tried-3.npz', 'predictions.npz'):
    with np.load(tmp_path / 'work' / name) as one, np.load(f'{job.work}/winner/{name}') as other:
      np.testing.assert_array_equal(one['logits'], other['logits'])
  histories = [[{key: row[key] for key in ('step', 'loss', 'accuracy', 'learning_rate')}
                for row in result['history']] for result in (unbroken, broken)]
  assert histories[0] == histories[1]


def test_the_main_job_leaves_files_that_a_person_would_open(job):
  _, out, _ = job.outcome
  for words in ('Best by 1-NN+LogME', 'winner', 'work/report.html'):
    assert words in out
  result = _result(job)
  for role in ('winner', 'baseline'):
    assert {'handle', 'expert', 'test_accuracy', 'interval', 'nll', 'ece'} <= set(result[role])
  assert result['baseline']['handle'] == 'test/baseline/1'
  assert result['winner']['handle'] == result['ranking']['winner']
  assert result['winner'] == result['baseline'], 'so that there is a runner-up'
  assert result['runner_up']['handle'] == result['ranking']['experts'][1]['handle']
  assert len(result['ranking']['experts']) == 4
  assert result['ensemble'] is None
  assert result['use'] in ('winner', 'runner_up')
  assert result['module'] == result[result['use']]['module']
  assert os.path.exists(os.path.join(result['module'], 'saved_model.pb'))
  assert {'tensorflow', 'keras'} <= set(result['versions'])

  page = _Page(result['report'])
  assert page.text.count('<svg') == 3  # ranking, curves, confusion
  assert all(link.startswith(('data:', '#')) for link in page.fetched)  # self-contained
  assert {'test/packed/1', '(circle)', '(square)', 'Confusion'} <= set(page.words)
  assert 'Ensemble' not in page.words
  assert ('the module that is left to use is its' in page.text) == (result['use'] == 'runner_up')
  winner = result['winner']
  assert f'(NLL) is {winner["nll"]:.3f} nats' in page.text
  assert f'(ECE) {winner["ece"]:.1%}' in page.text


def test_another_than_the_winner_is_kept_where_it_is_better_on_val_by_a_standard_error():
  def kept(winner, other, role='baseline', examples=200, measure='val_accuracy'):
    return line.best_on_val({'winner': {'setting': {measure: winner}},
                             role: {'setting': {measure: other}}}, examples)

  assert kept(0.2, 0.5) == 'baseline'
  assert kept(0.2, 0.5, 'runner_up') == 'runner_up'
  assert kept(0.5, 0.2) == 'winner'
  assert kept(0.50, 0.54) == 'winner'  # a standard error is 0.05
  assert kept(0.50, 0.56) == 'baseline'
  assert kept(0.50, 0.54, examples=2000) == 'baseline'
  assert kept(0.98, 0.985) == 'winner'
  assert kept(0.1, 0.9, measure='val_map') == 'winner'
  assert line.best_on_val({'winner': {'setting': {'val_accuracy': 0.5}}}, 200) == 'winner'


def test_class_names_cannot_write_into_the_page(job):
  assert EVIL in tasks.load(job.task).class_names
  page = _Page(_result(job)['report'])
  assert '<img src=x' not in page.text


def test_the_same_command_answers_at_once(job, monkeypatch):
  monkeypatch.setattr(training, 'Trainer', None)
  code, again, _ = _run(job.flags)
  assert (code, again) == (0, job.outcome[1])
  assert _times(job.work) == job.done


def test_an_ensemble_is_added_to_a_finished_job(job, monkeypatch):
  trained = []
  fit = training.Trainer.fit

  def noted(self, batches, recipe, work_dir=None, what='training', watch=None):
    trained.append(what)
    return fit(self, batches, recipe, work_dir, what, watch)

  monkeypatch.setattr(training.Trainer, 'fit', noted)
  before = _result(job)
  code, out, err = _run([*job.flags, '--ensemble=3'])
  assert code == 0, err
  now = _times(job.work)
  kept = {path for path in job.done if '/winner/' in path or '/runner_up/' in path}
  assert len(kept) > 20
  assert {path: now[path] for path in kept} == {path: job.done[path] for path in kept}
  result = _result(job)
  ensemble = result['ensemble']
  best = {(one['handle'], one['expert']) for one in result['ranking']['experts'][:3]}
  done = {(result[role]['handle'], result[role]['expert']) for role in ('winner', 'runner_up')}
  assert len([what for what in trained if ': setting ' in what]) == 4 * len(best - done)
  assert {(one['handle'], one['expert']) for one in ensemble['members']} <= best
  assert (ensemble['kind'], ensemble['tried']) == ('experts', 12)
  for key in ('handle', 'test_accuracy', 'nll', 'ece', 'temperature', 'calibrated', 'module'):
    assert ensemble['single'][key] == result['winner'][key] == before['winner'][key]
  for role in ('baseline', 'runner_up'):
    assert result[role] == before[role]
  assert result['module'] == ensemble['module'] != result['winner']['module']
  assert os.path.exists(os.path.join(result['module'], 'saved_model.pb'))

  # Text, JSON and page say the same.
  number = len(ensemble['members'])
  assert f'ensemble of {number}' in out
  assert f'{ensemble["test_accuracy"]:6.1%} {ensemble["nll"]:6.3f}' in out
  printed = json.loads(_run([*job.flags, '--ensemble=3', '--json'])[1])
  assert printed == result
  *_, figures, members = _Page(result['report']).tables
  rates = ensemble['images_per_second']
  assert figures[1:] == [
      [name, f'{one["test_accuracy"]:.1%}',
       f'{100 * one["interval"][0]:.1f} to {one["interval"][1]:.1%}', f'{one["nll"]:.3f}',
       f'{one["calibrated"]["nll"]:.3f}', f'{one["ece"]:.1%}', f'{one["calibrated"]["ece"]:.1%}',
       f'{one["temperature"]:.2f}', f'{speed:.0f}']
      for name, one, speed in (
          (f'ensemble of {number}', ensemble, rates['ensemble']),
          (f'{ensemble["single"]["name"]} alone', ensemble['single'], rates['single']))]
  assert [row[:4] for row in members[1:]] == [
      [one['name'], str(one['count']), f'{one["setting"]["learning_rate"]:.3g}',
       str(one['setting']['steps'])] for one in ensemble['members']]

  # Without the flag it is not taken away.
  assert _result(job) == json.loads(_run([*job.flags, '--json'])[1])


def test_modules_that_have_learnt_from_the_tasks_data_set_are_not_fine_tuned(
    tiny_hub, picture_folder, console):
  shutil.copytree(tiny_hub, 'hub')
  for module in hub.modules('hub'):
    source = tasks.load(f'folder:{picture_folder}').source
    redescribe(module.path, lambda m: m.update(upstream={'source': source}))  # noqa: B023
  code, out, err = console(transfer_main, '--hub=hub', f'--task=folder:{picture_folder}',
                           '--work_dir=work')
  assert (code, out) == (1, '')
  assert 'all 4 candidates are left out' in err
  assert not os.path.exists('work')


def test_a_work_dir_of_another_task_is_refused(tiny_hub, picture_folder, console):
  from zoo import work_dir
  with work_dir.opened('work', {'task': 'digits'}):
    pass
  code, out, err = console(transfer_main, f'--hub={tiny_hub}',
                           f'--task=folder:{picture_folder}', '--work_dir=work', *SMALL)
  assert (code, out) == (1, '')
  assert 'belongs to another run' in err
  assert err.count('\n') == 1


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--task=no_such_task'], "unknown task 'no_such_task'"),
    (['--hub=/nowhere'], '--hub=/nowhere is not a folder'),
    (['--work_dir=/dev/null'], '--work_dir=/dev/null is a file'),
    (['--proxy=leep'], "unknown proxy 'leep'"),
])
def test_bad_input_is_one_line(tiny_hub, console, flags, complaint):
  code, out, err = console(transfer_main, f'--hub={tiny_hub}', *flags)
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-transfer: ')
  assert err.count('\n') == 1
