"""The study of regret: every expert is judged on every task, once, and nothing twice."""

import dataclasses
import json

import numpy as np
import pytest
import sklearn.linear_model

from benchmarks import regret
from benchmarks import regret_charts
from benchmarks import selectors
from conftest import shapes_task
from finetune import fixed
from finetune import sweep
from selection import proxies
from selection import ranking


@pytest.fixture(scope='module')
def task():
  return shapes_task(60, 30)


@pytest.fixture(scope='module', autouse=True)
def short():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sweep, 'QUICK', (3, 0.03))
    patch.setattr(regret, 'BATCH', 16)
    yield


def judge(task, root, folder, which='all'):
  return regret.judge(task, 0, root, regret.Kept(str(folder)),
                      lambda rows: regret.to_tune(rows, which, best=1))


@pytest.fixture(scope='module')
def judged(task, tiny_hub, tmp_path_factory):
  """(what is said of all experts, the folder where it is kept)."""
  folder = tmp_path_factory.mktemp('kept')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('EXPERT_ZOO_CACHE', str(tmp_path_factory.mktemp('cache')))
    return judge(task, tiny_hub, folder), folder


def test_scores_are_those_of_the_ranking_and_accuracies_are_on_the_test_split(
    task, tiny_hub, judged):
  rows, _ = judged
  ranked = ranking.rank(task, tiny_hub, proxies=('knn', 'ridge'), seed=0)
  wanted = {(e.candidate.handle, e.candidate.expert): e for e in ranked.entries}
  assert len(rows) == len(wanted) == 4
  for row in rows:
    entry = wanted[row['handle'], row['expert']]
    assert row['scores']['knn'] == entry.scores['knn'].value
    assert row['scores']['ridge'] == pytest.approx(entry.scores['ridge'].value)
    assert row['tuned'] * 30 == pytest.approx(round(row['tuned'] * 30))
    assert row['probe'] * 30 == pytest.approx(round(row['probe'] * 30))
  best = max((row for row in rows if row['kind'] == 'baseline'),
             key=lambda row: row['scores']['knn'])
  for row in rows:
    assert row['versus']['knn']['gain'] == pytest.approx(
        row['scores']['knn'] - best['scores']['knn'])
  assert [row['first'] for row in rows].count(True) == 1


def test_what_is_kept_is_not_done_again(task, tiny_hub, judged, monkeypatch):
  before, folder = judged

  def never(found, *_, **__):
    assert not found
    return []

  monkeypatch.setattr(fixed, 'finetune_each', never)
  monkeypatch.setattr(regret, 'probe', never)
  assert judge(task, tiny_hub, folder) == before


def test_experts_that_learnt_from_the_task_are_left_out(task, tiny_hub, tmp_path):
  own = dataclasses.replace(task, source='made:2.0.0[label=a|b]')
  with pytest.raises(ValueError, match='left out'):
    judge(own, tiny_hub, tmp_path / 'kept')


def test_only_the_promising_are_fine_tuned_when_so_asked(task, tiny_hub, tmp_path):
  rows = judge(task, tiny_hub, tmp_path / 'kept', which='chosen')
  done = [row for row in rows if row['tuned'] is not None]
  assert 0 < len(done) <= len(rows)
  assert not any(row['tuned'] for row in judge(task, tiny_hub, tmp_path / 'other', 'none'))
  assert max(rows, key=lambda row: row['probe'])['tuned'] is not None
  assert all(row['tuned'] is not None for row in rows if row['kind'] == 'baseline')
  assert max(rows, key=lambda row: row['scores']['ridge'])['tuned'] is not None


def test_the_linear_probe_is_ridge_on_standardised_embeddings():
  random = np.random.default_rng(0)
  labels = np.arange(90) % 3
  embeddings = random.normal(size=(90, 5)) * [1, 10, 100, 1, 1] + labels[:, None]
  train, test = slice(0, 60), slice(60, 90)
  found = regret.probe(embeddings[train], labels[train], embeddings[test], labels[test])
  mean, scale = embeddings[train].mean(0), embeddings[train].std(0)
  scaled = (embeddings - mean) / scale
  wanted = max(
      (sklearn.linear_model.RidgeClassifierCV([a]).fit(scaled[train], labels[train])
       for a in regret.PENALTIES), key=lambda model: model.best_score_)
  assert found == wanted.score(scaled[test], labels[test])


def test_outcomes_survive_being_kept_as_text():
  correct = np.random.default_rng(0).random(1001) < 0.5
  np.testing.assert_array_equal(regret.unhex(regret._hex(correct)), correct)
  assert proxies.accuracy(correct).correct is not None


def test_pictures_are_drawn_of_the_lines(judged, tmp_path, console):
  rows = [{'group': 'natural', **row} for row in judged[0]]
  path = tmp_path / 'lines.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  code, out, err = console(regret_charts, f'--lines={path}', f'--out={tmp_path / "out"}')
  assert code == 0, err
  assert len(out.splitlines()) == 4
  assert sorted(one.name for one in (tmp_path / 'out').iterdir()) == [
      'choice.png', 'cost.png', 'heatmap.png', 'proxy.png']
  assert len(selectors.races(rows)) == 1
