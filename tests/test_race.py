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


def test_an_expert_as_good_as_the_leader_leaves_as_seldom_as_the_confidence_says():
  random = np.random.default_rng(0)
  left = []
  for _ in range(2000):
    leader, one = random.random((2, 250)) < 0.6
    left.append(race.standard_errors(one.astype(float), leader.astype(float)) > 1.2816)
  assert 0.08 < np.mean(left) < 0.12  # a one-sided confidence of 0.9


def test_who_does_as_the_leader_does_is_not_behind():
  outcomes = np.array([0., 1., 1.])
  assert race.standard_errors(outcomes, outcomes) == 0
  assert race.standard_errors(outcomes, np.array([0., 1., 0.])) == pytest.approx(
      -(1 / 3) / (np.std([0, 0, 1]) / np.sqrt(3)))


def judged(knn, ridge):
  """What the judges say of an expert, by their grades of each example."""
  return {'knn': proxies.Score(0., 0., graded=np.array(knn)),
          'ridge': proxies.Score(0., 0., graded=np.array(ridge))}


@st.composite
def several(draw):
  """What the judges say of some experts on the same examples."""
  number = draw(st.integers(2, 20))
  grades = st.lists(st.floats(-1, 1), min_size=number, max_size=number)
  scores = draw(st.lists(st.builds(judged, grades, grades), min_size=2, max_size=5))
  for name in race.JUDGES:  # a scale that rounding alone makes is none
    hypothesis.assume(np.ptp([one[name].graded.mean() for one in scores]) > 1e-6)
  return scores


@hypothesis.given(several(), st.floats(0.1, 10))
@hypothesis.settings(max_examples=50)
def test_both_judges_count_alike_whatever_the_scale_of_their_grades(scores, scale):
  found = race.outcomes(scores)
  swapped = race.outcomes([judged(scale * one['ridge'].graded, one['knn'].graded)
                           for one in scores])
  np.testing.assert_allclose(found - found[0], swapped - swapped[0], atol=1e-6)


def test_a_judge_that_says_the_same_of_all_decides_nothing():
  grades = np.linspace(-1, 1, 8)
  assert np.ptp(race.outcomes([judged(grades, grades), judged(grades, grades)]), axis=0).max() == 0
  nearer = race.outcomes([judged(grades, grades), judged(grades, grades / 2 + 0.6)])
  assert race.standard_errors(*nearer) > 0


def test_grades_tell_experts_apart_that_are_right_of_the_same_examples():
  labels = np.arange(120) % 2
  random = np.random.default_rng(0)
  noise = random.normal(size=(120, 8))
  points = [np.column_stack([apart * labels, noise / 4]) for apart in (4., 3.)]
  near, far = ({one.name: one(own, labels) for one in race.judges([])} for own in points)
  for name in race.JUDGES:
    assert near[name].value == far[name].value == 1
  assert race.standard_errors(*race.outcomes([far, near])) > 1.645


def _expert(name, kind='expert', images=0):
  module = types.SimpleNamespace(metadata={'upstream': {'examples': images}})
  return types.SimpleNamespace(key=name, name=name, kind=kind, module=module)


def test_who_is_far_behind_leaves_and_leaders_and_baseline_stay():
  leader = np.arange(250) % 10 < 8
  close = np.roll(leader, 1)  # as good, on other examples
  far = leader & (np.arange(250) % 3 == 0)
  found = [_expert('leader'), _expert('close'), _expert('far'),
           _expert('first of the proxy that ranks'), _expert('poor baseline', 'baseline'),
           _expert('baseline', 'baseline', 9)]
  outcomes = np.array([leader, close, far, far, far & (np.arange(250) % 2 == 0), far], float)
  leaving = race.behind(found, outcomes, [0.7, 0.6, 0.6, 0.8, 0.1, 0.2], 0.9)
  assert set(leaving) == {'far', 'poor baseline'}
  assert leaving['far'] == '16.9 standard errors behind leader by kNN and ridge after 250 examples'


@pytest.fixture(scope='module')
def shapes():
  return shapes_task(500, 60)


@pytest.mark.parametrize('proxy', ['knn', 'ridge'])
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
    assert 'standard errors behind' in entry.dropped
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
  assert show.table(result).count('standard errors behind') == len(left)


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
