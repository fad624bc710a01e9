"""Racing: experts that cannot win are embedded no further, and the winner is the same."""

import types

import hypothesis
import numpy as np
import pytest
from conftest import shapes_task
from hypothesis import strategies as st

from selection import proxies
from selection import race
from selection import ranking
from selection import show


@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
@hypothesis.settings(max_examples=50)
def test_every_beginning_of_the_order_has_the_classes_in_proportion(labels):
  labels = np.array(labels)
  order = race.order(labels)
  assert sorted(order) == list(range(len(labels)))
  for size in range(1, len(labels) + 1):
    for label in np.unique(labels):
      share = (labels == label).mean() * size
      assert abs((labels[order[:size]] == label).sum() - share) <= 1 + (
          labels == label).mean() * 1 + 1e-9 + len(np.unique(labels)) / 2


def test_samples_double_up_to_all_examples():
  assert race.samples(1000, 10) == [125, 250, 500, 1000]
  assert race.samples(1000, 97) == [250, 500, 1000]
  assert race.samples(800, 2) == [125, 250, 500, 800]
  assert race.samples(100, 2) == [100]


def test_the_first_sample_has_two_examples_a_class_and_as_many_neighbours_as_vote():
  for classes in (2, 62, 63, 200):
    assert race.samples(10_000, classes)[0] >= 2 * classes
  assert race.samples(1000, 2, k=124) == [125, 250, 500, 1000]
  assert race.samples(1000, 2, k=125) == [250, 500, 1000]  # 125 have 124 others


def test_the_bound_is_above_the_truth_as_often_as_it_says():
  random = np.random.default_rng(0)
  covered = []
  for _ in range(2000):
    leader = random.random(250) < 0.6
    one = np.where(random.random(250) < 0.3, random.random(250) < 0.45, leader)
    # Where they differ, which is 30% of the time, one is right 45% and the leader 60%.
    covered.append(race.upper_bound(one, leader, 0.9) > 0.3 * (0.45 - 0.6))
  assert 0.88 < np.mean(covered) < 0.94


def test_experts_that_agree_on_a_small_sample_are_not_taken_for_the_same():
  right = np.array([True] * 60 + [False] * 65)
  assert race.upper_bound(right, right, 0.9) > 0
  assert race.upper_bound(np.tile(right, 8), np.tile(right, 8), 0.9) < race.upper_bound(
      right, right, 0.9)


@hypothesis.given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
@hypothesis.settings(max_examples=50)
def test_both_judges_count_alike_and_their_order_does_not_matter(pairs):
  knn, ridge = np.array(pairs).T
  found = race.outcomes({'knn': proxies.accuracy(knn), 'ridge': proxies.accuracy(ridge)})
  assert found.tolist() == [(int(a) + int(b)) / 2 for a, b in pairs]
  swapped = {'ridge': proxies.accuracy(knn), 'knn': proxies.accuracy(ridge)}
  assert found.tolist() == race.outcomes(swapped).tolist()


def test_two_judges_that_err_apart_tell_experts_apart_where_one_cannot():
  place = np.arange(125)
  leader = {'knn': place % 5 < 3, 'ridge': place % 5 > 1}  # each right of 60%
  other = {'knn': (place + 1) % 10 < 5, 'ridge': place % 10 > 4}  # of 50%

  def bound(judged):
    return race.upper_bound(judged(other), judged(leader), 0.95)

  def both(outcomes):
    return race.outcomes({name: proxies.accuracy(own) for name, own in outcomes.items()})

  assert bound(both) < min(bound(lambda own: own['knn']), bound(lambda own: own['ridge']))


def _expert(name, kind='expert', images=0):
  module = types.SimpleNamespace(metadata={'upstream': {'examples': images}})
  return types.SimpleNamespace(key=name, name=name, kind=kind, module=module)


def test_who_is_far_behind_leaves_and_leaders_and_baseline_stay():
  leader = np.arange(250) % 10 < 8
  close = np.roll(leader, 1)  # as good, on other examples
  far = leader & (np.arange(250) % 3 == 0)
  leaving = race.behind(
      [(_expert('leader'), leader, 0.7), (_expert('close'), close, 0.6),
       (_expert('far'), far, 0.6), (_expert('first of the proxy that ranks'), far, 0.8),
       (_expert('poor baseline', 'baseline'), far & (np.arange(250) % 2 == 0), 0.1),
       (_expert('baseline', 'baseline', 9), far, 0.2)], 0.9, 1000)
  assert set(leaving) == {'far', 'poor baseline'}
  assert leaving['far'] == '53.2 points behind leader by kNN and ridge after 250 examples'


@pytest.fixture(scope='module')
def shapes():
  return shapes_task(500, 60)


@pytest.mark.parametrize('proxy', race.JUDGES)
def test_a_race_gives_finishers_the_scores_they_have_without_it(shapes, tiny_hub, proxy):
  whole = ranking.rank(shapes, tiny_hub, proxies=[proxy], exhaustive=True)
  raced = ranking.rank(shapes, tiny_hub, proxies=[proxy], exhaustive=False, confidence=0.6)
  scores = {e.candidate.key: e.scores[proxy].value for e in whole.entries}
  finished = [e for e in raced.entries if not e.dropped]
  left = [e for e in raced.entries if e.dropped]
  assert left, 'the experts of the tiny hub are unlike enough for one to leave'
  for entry in finished:
    assert entry.scores[proxy].value == scores[entry.candidate.key]
    assert entry.examples == 500
  for entry in left:
    assert entry.examples < 500
    assert 'points behind' in entry.dropped
    assert list(entry.scores) == [proxy], 'only what was asked for is shown'
  best = max(scores.values())
  assert raced.winner.scores[proxy].value >= best - raced.winner.scores[proxy].stderr
  assert raced.baseline is not None
  assert (raced.confidence, whole.confidence) == (0.6, None)


def test_finishers_are_ranked_by_the_mean_of_proxies_among_themselves(shapes, tiny_hub):
  raced = ranking.rank(shapes, tiny_hub, exhaustive=False, confidence=0.6)
  finished = [e for e in raced.entries if not e.dropped]
  left = [e for e in raced.entries if e.dropped]
  assert left and raced.judged == 4, 'the winner is the best of those that left, too'
  mean = raced.proxies[0]
  assert mean([e.scores for e in finished]) == [e.scores[mean.name] for e in finished]
  assert all(list(e.scores) == ['knn'] for e in left)
  result = raced.to_dict()
  assert show.table(result).count('points behind') == len(left)


def test_what_one_round_embedded_the_next_does_not_embed_again(shapes, tiny_hub):
  for cache in ('', None):  # a cache for the race alone, and the usual one
    raced = ranking.rank(shapes, tiny_hub, exhaustive=False, cache=cache)
    assert all(e.computed == e.examples for e in raced.entries)
  again = ranking.rank(shapes, tiny_hub, exhaustive=False)
  assert all(e.computed == 0 for e in again.entries)


def test_more_neighbours_may_vote_than_the_smallest_sample_has(shapes, tiny_hub):
  raced = ranking.rank(shapes, tiny_hub, exhaustive=False, k=130)
  assert all(entry.scores and entry.examples >= 250 for entry in raced.entries)


def test_few_experts_do_not_race(shapes, tiny_hub, monkeypatch):
  assert ranking.rank(shapes, tiny_hub).confidence is None
  monkeypatch.setattr(ranking, 'RACE_FROM', 2)
  assert ranking.rank(shapes, tiny_hub).confidence == ranking.CONFIDENCE


def test_a_proxy_without_outcomes_cannot_race(shapes, tiny_hub, monkeypatch):
  with pytest.raises(ValueError, match='logme has no outcomes to race on: rank by knn or ridge'):
    ranking.rank(shapes, tiny_hub, proxies=['logme'], exhaustive=False)
  monkeypatch.setattr(ranking, 'RACE_FROM', 2)
  assert ranking.rank(shapes, tiny_hub, proxies=['logme']).confidence is None


def test_confidence_is_a_probability(shapes, tiny_hub):
  with pytest.raises(ValueError, match=r'confidence is 95; it must be at least 0\.5 and below 1'):
    ranking.rank(shapes, tiny_hub, confidence=95)
