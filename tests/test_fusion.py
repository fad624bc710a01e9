"""Fusion: several proxies rank as one, by the mean of what they say."""

import re
import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from conftest import shapes_task
from selection import compare
from selection import fusion
from selection import matching
from selection import proxies
from selection import ranking
from selection import show

KNN, LOGME = proxies.make(['knn', 'logme'])
MEAN = fusion.Mean((KNN, LOGME))


def scores(knn, logme):
  """Of each expert by both; the noise is made up."""
  return [{'knn': proxies.Score(a, 0, replicates=np.full(10, a)),
           'logme': proxies.Score(b, 0, replicates=np.full(10, b))}
          for a, b in zip(knn, logme, strict=True)]


def values(knn, logme):
  return [score.value for score in MEAN(scores(knn, logme))]


def test_a_score_is_in_standard_deviations_over_the_experts():
  # By hand: 1, 2, 3 have a deviation of sqrt(2/3); 10, 10, 40 of sqrt(200), about 20.
  one, other = 1 / np.sqrt(2 / 3), 10 / np.sqrt(200)
  assert values([1, 2, 3], [10, 10, 40]) == pytest.approx(
      [(-one - other) / 2, -other / 2, (one + 2 * other) / 2])
  assert (MEAN.name, MEAN.title, MEAN.unit) == ('knn+logme', '1-NN+LogME', 's.d.')


def test_a_proxy_that_says_the_same_of_all_says_nothing():
  assert values([0.5, 0.5, 0.5], [1, 2, 3]) == pytest.approx(
      [-np.sqrt(1.5) / 2, 0, np.sqrt(1.5) / 2])
  assert values([0.5], [-1.]) == [0]


@hypothesis.given(st.lists(st.tuples(st.integers(0, 100), st.integers(-9, 9)), min_size=2,
                           max_size=9),
                  st.floats(0.1, 50), st.floats(-5, 5))
def test_the_scale_of_a_proxy_plays_no_part(pairs, scale, shift):
  knn, logme = np.array(pairs, float).T
  moved = values(scale * knn + shift, logme)
  if np.ptp(knn):
    assert moved == pytest.approx(values(knn, logme), abs=1e-6)
  assert np.mean(moved) == pytest.approx(0, abs=1e-9)


def test_noise_is_that_of_both():
  # Outcomes and embeddings of two experts; the jackknife of the mean, computed the long way.
  rng, labels = np.random.default_rng(0), np.arange(60) % 3
  points = [rng.normal(size=(60, 4)) + own * np.eye(4)[labels] for own in (1, 2)]
  found = [{part.name: part(one, labels) for part in MEAN.parts} for one in points]
  first, second = MEAN(found)
  spread = {name: np.std([one[name].value for one in found]) for name in ('knn', 'logme')}

  def without(one, group):
    right = np.delete(one['knn'].correct, proxies.leave_groups_out(60)[group]).mean()
    return right / spread['knn'] / 2 + one['logme'].replicates[group] / spread['logme'] / 2

  gains = [without(found[1], group) - without(found[0], group) for group in range(10)]
  versus = compare.paired(second, first)
  assert versus['stderr'] == pytest.approx(np.std(gains) * 3)
  assert versus['gain'] == pytest.approx(second.value - first.value) and versus['gain'] > 0


def test_of_two_experts_on_which_two_proxies_disagree_the_first_one_decides():
  assert values([0.3, 0.5], [-1.3, -7.7]) == [0, 0]
  kinds = ('baseline', 'expert')

  def order(name):
    mean = fusion.Mean((KNN, LOGME) if name == 'knn' else (LOGME, KNN))
    found = [ranking.Entry(types.SimpleNamespace(kind=kind), own | {mean.name: one}, 9, 9, 0.)
             for kind, own, one in zip(kinds, scores([0.3, 0.5], [-1.3, -7.7]),
                                       mean(scores([0.3, 0.5], [-1.3, -7.7])), strict=True)]
    return [entry.candidate.kind for entry in ranking.best_first(found, mean)]

  assert order('knn') == ['expert', 'baseline'] and order('logme') == ['baseline', 'expert']


def test_it_ranks_by_default_and_its_parts_are_shown(tiny_hub):
  shapes = shapes_task(90, 60)
  ranked = ranking.rank(shapes, tiny_hub)
  result = ranked.to_dict()
  assert [proxy['name'] for proxy in result['proxies']] == ['knn+logme', 'knn', 'logme']
  parts = [[entry['scores'][name] for entry in result['experts']] for name in ('knn', 'logme')]
  together = [entry['scores']['knn+logme'] for entry in result['experts']]
  assert together == pytest.approx(values(*parts)) and together == sorted(together)[::-1]
  # What the parts say is what they say alone.
  alone = ranking.rank(shapes, tiny_hub, proxies=['knn', 'logme'])
  for entry in ranked.entries:
    own, = (e for e in alone.entries if e.candidate == entry.candidate)
    assert own.scores['logme'] == entry.scores['logme']
  said = show.verdict(result)
  assert f'Best by 1-NN+LogME on {ranked.examples} examples' in said
  lines = show.table(result).splitlines()
  assert all(title in lines[0] for title in ('1-NN+LogME', ' 1-NN ', ' LogME '))
  assert b's.d.' in show.render(show.chart, result)


def test_a_mean_can_be_shown_beside_what_ranks(tiny_hub):
  shapes = shapes_task(90, 60)
  ranked = ranking.rank(shapes, tiny_hub, proxies=['ridge', 'knn+hscore'])
  assert [proxy.name for proxy in ranked.proxies] == ['ridge', 'knn+hscore', 'knn', 'hscore']
  found = [entry.scores['ridge'].value for entry in ranked.entries]
  assert found == sorted(found)[::-1] and set(ranked.agreement) == {'knn+hscore', 'knn', 'hscore'}


@pytest.mark.parametrize('names, words', [
    (['knn+leep'], "unknown proxy 'leep': it must be one of knn, ridge, logme, hscore."),
    (['knn+knn'], "proxy 'knn' is given twice"),
    (['knn+'], "unknown proxy ''"),
    (['knn+logme', 'knn+logme'], "proxy 'knn+logme' is given twice"),
    (['knn+domain'], '--proxy=knn+domain: only knn, ridge, logme, hscore can be averaged.')])
def test_names_that_make_no_mean_are_one_line(names, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    matching.make(names)
