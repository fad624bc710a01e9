"""Rules that choose an expert: each does what its name says, on races small enough to check."""

import json

import numpy as np
import pytest

from benchmarks import selectors
from conftest import shapes_task
from selection import ranking


def row(name, kind='expert', first=False, probe=0.5, tuned=0.5, versus=None, **scores):
  return {'group': 'natural', 'task': 't', 'seed': 0, 'name': name, 'kind': kind,
          'first': first, 'scores': scores, 'versus': versus or {}, 'probe': probe,
          'tuned': tuned}


def a_race(p=0.5, gain=0.02, stderr=0.01):
  """Two baselines and three experts; by 1-NN `cat` leads, by ridge `dog`; `fox` is the best."""
  versus = {'knn': {'gain': gain, 'stderr': stderr, 'p': p}}
  return [
      row('plain', 'baseline', first=True, tuned=0.60, knn=0.50, ridge=0.50),
      row('other', 'baseline', tuned=0.62, knn=0.52, ridge=0.49),
      row('cat', tuned=0.64, knn=0.56, ridge=0.55, versus=versus),
      row('dog', 'packed', tuned=0.63, knn=0.54, ridge=0.57),
      row('fox', tuned=0.70, knn=0.40, ridge=0.53)]


def names(rows):
  return [one['name'] for one in rows]


def test_each_rule_chooses_what_its_name_says():
  race = a_race()
  assert names(selectors.RULES['baseline'](race)) == ['plain']
  assert names(selectors.RULES['best baseline (1-NN)'](race)) == ['other']
  assert names(selectors.RULES['1-NN (the paper)'](race)) == ['cat']
  assert names(selectors.RULES['ridge'](race)) == ['dog']
  assert names(selectors.RULES['1-NN, adapters'](race)) == ['dog']
  assert names(selectors.RULES['three best by 1-NN'](race)) == ['cat', 'dog', 'other']
  assert names(selectors.RULES['hybrid: 1-NN and baseline'](race)) == ['cat', 'plain']


def test_a_mean_of_proxies_is_that_of_the_ranking(tiny_hub):
  ranked = ranking.rank(shapes_task(90, 30), tiny_hub)
  race = [row(entry.candidate.describe(), entry.candidate.kind,
              knn=entry.scores['knn'].value, logme=entry.scores['logme'].value)
          for entry in ranked.entries]
  assert names(selectors.best_mean(race[::-1], ('knn', 'logme'), 4)) == names(race)
  assert names(selectors.RULES['1-NN and LogME (the default)'](race)) == names(race[:1])
  assert not selectors.best_mean([*race, row('foreign', knn=0.9)], ('knn', 'logme'))


def test_equal_scores_stay_with_the_baseline():
  race = [row('cat', knn=0.5), row('plain', 'baseline', first=True, knn=0.5)]
  assert names(selectors.best(race, 'knn')) == ['plain']


@pytest.mark.parametrize(('p', 'chosen'), [(0.2, 'other'), (0.0124, 'cat')])
def test_a_leader_within_noise_gives_way_to_the_baseline(p, chosen):
  """Four others were tried, so that p must be below 0.05 / 4."""
  assert names(selectors.unless_noise(a_race(p=p), 'knn')) == [chosen]


@pytest.mark.parametrize(('gain', 'chosen'), [(0.01, 'other'), (0.011, 'cat')])
def test_a_leader_within_a_standard_error_gives_way_too(gain, chosen):
  assert names(selectors.unless_close(a_race(gain=gain), 'knn')) == [chosen]


def test_gains_and_regrets_are_means_over_tasks_each_with_the_mean_of_its_draws():
  # `cat` gains 3 and 5 points in the draws of one task, 6 in the one draw of another.
  more = {('t', 0): -0.01, ('t', 1): 0.01, ('u', 0): 0.02}
  races = selectors.races(
      [{**one, 'task': task, 'seed': seed, 'tuned': one['tuned'] + own * (one['name'] == 'cat')}
       for (task, seed), own in more.items() for one in a_race()])
  lines = {line['rule']: line for line in selectors.summary(races)}
  chosen = lines['1-NN (the paper)']  # gains 4 and 6 points; the best gains 10
  mean, half = chosen['gain']['all']
  assert mean == pytest.approx(5)
  assert half == pytest.approx(12.706 * 1.0, rel=1e-3)  # t of one degree of freedom, s.e. 1
  assert chosen['regret'] == pytest.approx(5)
  assert lines['baseline']['gain']['all'] == pytest.approx((0, 0))
  assert lines['the best expert']['regret'] == 0
  assert lines['a random expert']['gain']['all'][0] == pytest.approx(
      100 * (np.mean([0.60, 0.62, 0.65, 0.63, 0.70]) - 0.60))


def test_what_was_not_measured_is_not_made_up():
  race = a_race()
  race[2]['tuned'] = None
  reached = selectors.outcomes(selectors.races(race))
  key = ('natural', 't', 0)
  assert key not in reached['1-NN (the paper)']
  assert key not in reached['a random expert']
  assert reached['the best expert'][key] == 0.70
  assert key not in reached['domain prediction']  # no such score


def test_the_tables_are_made_of_files_of_lines(console, tmp_path):
  path = tmp_path / 'lines.jsonl'
  path.write_text('\n'.join(json.dumps(one) for one in a_race()))
  code, out, _ = console(selectors, f'--lines={path}', '--covered=t')
  assert code == 0
  assert '| 1-NN (the paper) | 1 | +4.0 | +4.0 | +4.0 | 6.0 |' in out
  assert 'Kendall tau of knn' in out
