"""The budgeted search: within its ranges, by val alone, the same after a kill."""

import dataclasses
import glob
import json
import math
import os
import sys
import types

import numpy as np
import pytest

from conftest import shapes_task
from finetune import main
from finetune import runs
from finetune import sweep
from finetune import tuned
from finetune import tuning
from selection import candidates

optuna = pytest.importorskip('optuna')
PLAN = sweep.Plan('search', batch=16, steps_scale=0.004, trials=12, precision='float32')
PARTS = ['whole', 'head', 'adapters', 'last:1']


class Made:
  """Stands in for a `finetune.runs.Run`: figures are a function of the setting, at once.

  Args:
    folder: where what was tried is kept, as a run keeps it.
    figure: function of a setting and of the share of steps that are done, in 0..1.
    killed: the number of the trial before which it is killed.
  """

  def __init__(self, folder, figure, killed=None):
    self.data = types.SimpleNamespace(task=types.SimpleNamespace(multi_label=False))
    self.candidate = types.SimpleNamespace(name='made')
    self.trained, self._killed = [], killed
    self._folder, self._figure = folder, figure
    os.makedirs(folder, exist_ok=True)

  def parts(self):
    return PARTS

  def attempt(self, setting, number, what, report=None):
    path = os.path.join(self._folder, f'tried-{number}.json')
    if os.path.exists(path):
      with open(path, encoding='utf-8') as file:
        return json.load(file)
    if number == self._killed:
      raise KeyboardInterrupt
    self.trained.append(number)
    curve, error = [], None
    try:
      for quarter in (1, 2, 3):
        curve.append([quarter, self._figure(setting, quarter / 4)])
        report(*curve[-1])
    except runs.Stopped as stopped:
      error = str(stopped)
    one = setting.to_dict() | {
        'number': number, 'curve': curve, 'error': error,
        'val_accuracy': None if error else self._figure(setting, 1),
        'val_loss': None if error else 1.}
    with open(path, 'w', encoding='utf-8') as file:
      json.dump(one, file)
    return one


def _hill(setting, done):
  """Best at a learning rate of 0.03, whatever else; nearer its end, higher."""
  return done * math.exp(-abs(math.log(setting.recipe.learning_rate / 0.03)))


def _search(folder, plan=PLAN, figure=_hill, killed=None):
  from finetune import search
  run = Made(str(folder), figure, killed)
  return run, *search.search(run, plan)


def test_settings_are_within_their_ranges_and_of_every_kind(tmp_path):
  _, settings, _ = _search(tmp_path, dataclasses.replace(PLAN, trials=60))
  for setting in settings:
    recipe = setting.recipe
    assert sweep.RATE_RANGE[0] <= recipe.learning_rate <= sweep.RATE_RANGE[1]
    assert sweep.DECAY_RANGE[0] <= recipe.weight_decay <= sweep.DECAY_RANGE[1]
    assert recipe.batch == 16
  assert {setting.recipe.steps for setting in settings} == {10, 40}
  assert {setting.recipe.mixup for setting in settings} == set(sweep.MIXUPS)
  assert {setting.tune for setting in settings} == set(PARTS)


def test_a_part_that_was_asked_for_is_not_searched(tmp_path):
  _, settings, _ = _search(tmp_path, dataclasses.replace(PLAN, tune='head'))
  assert {setting.tune for setting in settings} == {'head'}


def test_the_search_learns_from_its_trials(tmp_path):
  _, settings, _ = _search(tmp_path, dataclasses.replace(PLAN, trials=40))
  distance = [abs(math.log(setting.recipe.learning_rate / 0.03)) for setting in settings]
  assert np.median(distance[20:]) < np.median(distance[:5])


def test_a_trial_below_the_median_is_stopped_noted_and_never_chosen(tmp_path):
  _, _, tried = _search(tmp_path, dataclasses.replace(PLAN, trials=30))
  stopped = [one for one in tried if one['error']]
  assert 3 < len(stopped) < 25
  assert not any(one['error'] for one in tried[:5])  # no median yet
  for one in stopped:
    number = one['number']
    quarter, figure = one['curve'][-1]
    # At this quarter, of those that came through before.
    others = [dict(map(tuple, other['curve']))[quarter]
              for other in tried[:number] if not other['error']]
    assert figure < np.median(others)
    assert one['error'].startswith(f'stopped after {quarter}/4 of its steps: ')
  best = tried[tuning.choose(tried, 'made')]
  assert best['val_accuracy'] == max(one['val_accuracy'] for one in tried if not one['error'])


def test_a_search_that_was_killed_goes_on_with_the_same_trials(tmp_path):
  plan = dataclasses.replace(PLAN, trials=30)
  run, settings, tried = _search(tmp_path / 'whole', plan)
  assert run.trained == list(range(30))
  assert any(one['error'] for one in tried[20:])  # what was reported matters to the end
  for number in (3, 17):
    with pytest.raises(KeyboardInterrupt):
      _search(tmp_path / 'killed', plan, killed=number)
  run, *again = _search(tmp_path / 'killed', plan)
  assert run.trained == list(range(17, 30))
  assert again == [settings, tried]


def test_another_seed_searches_elsewhere_however_large_it_is(tmp_path):
  found = [_search(tmp_path / str(seed), dataclasses.replace(PLAN, seed=seed))[1]
           for seed in (0, 1, 10**9)]
  rates = {setting.recipe.learning_rate for settings in found for setting in settings}
  assert len(rates) == 3 * PLAN.trials


def test_without_optuna_it_is_one_line_before_anything_is_done(monkeypatch, console):
  monkeypatch.setitem(sys.modules, 'optuna', None)  # as if it were not installed
  code, out, err = console(main, '--handle=test/nothing', '--sweep=search', '--work_dir=work')
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert '--sweep=search needs Optuna: pip install "expert-zoo[search]".' in err
  assert not os.path.exists('work')


def test_a_real_search_chooses_by_val_reads_test_at_the_end_and_goes_on(tiny_hub, tmp_path):
  task, read = shapes_task(60, 30), []

  def reader(split, indices):
    # What was tried by the time that a split is read.
    read.append((split, len(glob.glob(f'{tmp_path}/work/tried-*.json'))))
    yield from task.reader(split, indices)

  watched = dataclasses.replace(task, reader=reader)
  plan = dataclasses.replace(PLAN, tune='head', trials=8)
  work = tmp_path / 'work'
  networks = tuned.Networks(3)
  result = tuning.finetune(watched, 'test/baseline', str(work), plan, tiny_hub, networks=networks)
  assert [tried for split, tried in read if split == 'test'] == [8]
  tried = result['tried']
  assert result['setting'] == tried[tuning.choose(tried, '')]
  assert result['setting']['error'] is None
  for one in tried:
    assert [quarter for quarter, _ in one['curve']] == list(range(1, 1 + len(one['curve'])))
    assert len(one['curve']) == 3 or one['error']
  # As after a kill: the last trials are not there.
  for number in (6, 7):
    (work / f'tried-{number}.json').unlink()
  run = runs.Run(runs.Data(task), candidates.one('test/baseline', tiny_hub), networks, str(work))
  _, again = tuning.swept(run, plan)
  assert again[:6] == tried[:6]
  for one, other in zip(again[6:], tried[6:], strict=True):
    assert one | {'seconds': 0} == other | {'seconds': 0}
