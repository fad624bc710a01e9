"""Greedy ensemble selection: each step is the best there is, and none makes it worse."""

import itertools

import hypothesis
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st

from finetune import greedy
from finetune import metrics

SEEDS = st.integers(0, 2**32 - 1)
KINDS = pytest.mark.parametrize('multi_label', [False, True])


def pool(seed=0, candidates=5, number=40, classes=3, multi_label=False):
  """Candidates that are each right in their own way, float64 [M, N, C], and labels."""
  random = np.random.default_rng(seed)
  shape = candidates, number, classes
  if multi_label:
    labels = random.integers(0, 2, shape[1:])
    return scipy.special.expit(random.normal(2 * labels - 1, 2, shape)), labels
  labels = random.integers(0, classes, number)
  return scipy.special.softmax(random.normal(np.eye(classes)[labels], 2, shape), -1), labels


def loss(probabilities, labels, counts):
  """Cross-entropy of an ensemble, from its definition."""
  mean = np.average(probabilities, axis=0, weights=counts)
  if labels.ndim == 2:
    return -(labels * np.log(mean) + (1 - labels) * np.log(1 - mean)).sum(1).mean()
  return -np.log(mean[np.arange(len(labels)), labels]).mean()


# ---- one search


def test_members_by_hand():
  # What three candidates give to the truth of two examples. Alone they cost, as products,
  # .9 * .1 = .09, .2 * .8 = .16 and .3 * .3 = .09: candidate 1 is first. With it the others
  # average .55 * .45 = .2475 and .25 * .55: candidate 0 joins. Then another 0 would make
  # (2/3) * (1/3) = .2222, another 1 .4333 * .5667 = .2456 and 2 .4667 * .4: none is better.
  true = np.array([[.9, .1], [.2, .8], [.3, .3]])
  found = greedy.select(np.stack([true, 1 - true], 2), [0, 0])
  assert found.counts.tolist() == [1, 1, 0]
  assert found.counts.dtype == np.int64
  assert found.traces == [pytest.approx([-np.log(.16) / 2, -np.log(.2475) / 2])]


def test_a_better_candidate_is_taken_more_often():
  # With weight w of candidate 0 the product is (.1 + .8 w)(.8 - .5 w), greatest at w = .7375.
  # Weights 1, 1/2, 2/3 and 3/4 give .27, .275, .2956 and .2975; 4/5 and 3/5 give less again.
  true = np.array([[.9, .3], [.1, .8]])
  found = greedy.select(np.stack([true, 1 - true], 2), [0, 0], size=100)
  assert found.counts.tolist() == [3, 1]
  np.testing.assert_allclose(
      np.exp(np.multiply(-2, found.traces[0])), [.27, .275, .2956, .2975], atol=1e-4)


@KINDS
@hypothesis.given(SEEDS)
@hypothesis.settings(max_examples=20)
def test_the_cross_entropy_falls_with_each_member_and_is_that_of_the_average(multi_label, seed):
  probabilities, labels = pool(seed, 8, multi_label=multi_label)
  found = greedy.select(probabilities, labels)
  trace, = found.traces
  assert len(trace) == found.counts.sum() <= greedy.SIZE
  assert (np.diff(trace) < 0).all()
  assert trace[0] == pytest.approx(min(metrics.nll(one, labels) for one in probabilities))
  ensemble = greedy.average(probabilities, found.counts)
  assert trace[-1] == pytest.approx(metrics.nll(ensemble, labels))


@KINDS
@hypothesis.given(SEEDS)
@hypothesis.settings(max_examples=10)
def test_each_step_is_the_best_of_all_ensembles_with_one_member_more(multi_label, seed):
  probabilities, labels = pool(seed, 3, 12, multi_label=multi_label)
  losses = {counts: loss(probabilities, labels, counts)
            for counts in itertools.product(range(5), repeat=3) if 1 <= sum(counts) <= 4}
  steps = [tuple(greedy.select(probabilities, labels, size).counts.tolist())
           for size in range(1, 5)]
  for before, after in zip([(0, 0, 0), *steps], steps, strict=False):
    larger = [counts for counts in losses if sum(counts) == sum(before) + 1
              and np.greater_equal(counts, before).all()]
    best = min(larger, key=losses.get, default=None)  # the empty one may always grow
    ended = best is None or (any(before) and losses[best] >= losses[before])
    assert after == (before if ended else best)


def test_a_pool_of_one_gives_itself():
  probabilities, labels = pool(candidates=1)
  found = greedy.select(probabilities, labels)
  assert found.counts.tolist() == [1]
  np.testing.assert_array_equal(greedy.average(probabilities, found.counts), probabilities[0])


@hypothesis.given(SEEDS, st.integers(2, 4))
@hypothesis.settings(max_examples=20)
def test_copies_of_candidates_gain_nothing_and_the_first_of_them_is_taken(seed, copies):
  probabilities, labels = pool(seed)
  alone = greedy.select(probabilities, labels)
  found = greedy.select(np.concatenate([probabilities] * copies), labels)
  assert found.counts.tolist() == alone.counts.tolist() + [0] * 5 * (copies - 1)
  assert found.traces == alone.traces


def test_of_candidates_that_are_equal_but_for_rounding_the_first_is_taken():
  random = np.random.default_rng(0)
  for _ in range(20):
    true = random.permuted(np.tile(random.random(50), (6, 1)), axis=1)  # sums in other orders
    found = greedy.select(np.stack([true, 1 - true], 2), [0] * 50, size=1)
    assert found.counts.tolist() == [1, 0, 0, 0, 0, 0]


@KINDS
@hypothesis.given(SEEDS)
@hypothesis.settings(max_examples=20)
def test_who_is_a_member_does_not_depend_on_any_order(multi_label, seed):
  probabilities, labels = pool(seed, multi_label=multi_label)
  random = np.random.default_rng(seed)
  candidates, examples = random.permutation(5), random.permutation(40)
  found = greedy.select(probabilities, labels)
  moved = greedy.select(probabilities[candidates][:, examples], labels[examples])
  assert moved.counts.tolist() == found.counts[candidates].tolist()
  assert moved.traces == [pytest.approx(found.traces[0])]


def test_a_candidate_that_is_surely_wrong_once_can_still_join():
  # Alone it would cost all; in an average its 0 is made good by the others.
  true = np.array([[.5, .5, .5, .5], [1., 1., 1., 0.]])
  found = greedy.select(np.stack([true, 1 - true], 2), [0] * 4, size=2)
  assert found.counts.tolist() == [1, 1]
  assert found.traces[0][1] == pytest.approx(-np.log(.75 ** 3 * .25) / 4)


def test_candidates_may_be_of_any_precision():
  probabilities, labels = pool()
  halves = [one.astype(np.float16) for one in probabilities]
  wanted = greedy.select([half.astype(np.float64) for half in halves], labels)
  found = greedy.select(halves, labels)
  assert (found.counts.tolist(), found.traces) == (wanted.counts.tolist(), wanted.traces)
  assert greedy.average(halves, found.counts).dtype == np.float64


# ---- bags


def test_bags_are_searches_among_random_halves():
  probabilities, labels = pool(candidates=30)
  previous, chosen = np.zeros(30, np.int64), []
  for bags in range(1, 41):
    found = greedy.select(probabilities, labels, 5, bags, seed=1)
    own = found.counts - previous  # more bags begin with the same ones
    assert len(found.traces) == bags
    assert own.sum() == len(found.traces[-1]) <= 5
    chosen.append(own > 0)
    previous = found.counts
  alone = np.array([metrics.nll(one, labels) for one in probabilities])
  # Each begins with the best alone of its half: in half of the bags that is the best of all.
  best = np.array(chosen)[:, alone.argmin()]
  assert best.mean() == pytest.approx(0.5, abs=0.2)
  starts = np.array([trace[0] for trace in found.traces])
  assert np.isclose(starts, alone.min()).tolist() == best.tolist()


def test_the_same_seed_gives_the_same_bags():
  probabilities, labels = pool(candidates=12)
  counts = [greedy.select(probabilities, labels, bags=10, seed=seed).counts.tolist()
            for seed in (0, 0, 1)]
  assert counts[0] == counts[1] != counts[2]


def test_no_bag_is_empty():
  probabilities, labels = pool(candidates=1)
  assert greedy.select(probabilities, labels, bags=20).counts.tolist() == [20]


def test_bags_overfit_less():
  # Many candidates that are equally good, a few examples to choose by, many to be tested by.
  losses = []
  for seed in range(10):
    probabilities, labels = pool(seed, 60, 1020)
    for bags in (0, 20):
      found = greedy.select(probabilities[:, :20], labels[:20], bags=bags)
      losses.append(metrics.nll(greedy.average(probabilities, found.counts)[20:], labels[20:]))
  plain, bagged = np.reshape(losses, (10, 2)).mean(0)
  assert bagged < plain - 0.01


# ---- average


@hypothesis.given(st.lists(st.integers(0, 5), min_size=5, max_size=5).filter(any))
@hypothesis.settings(max_examples=20)
def test_the_average_is_weighted_by_counts(counts):
  probabilities, _ = pool()
  np.testing.assert_allclose(greedy.average(probabilities, counts),
                             np.average(probabilities, axis=0, weights=counts))


def test_who_is_no_member_need_not_predict():
  probabilities, _ = pool(candidates=2)
  np.testing.assert_array_equal(
      greedy.average([None, probabilities[1]], np.array([0, 3])), probabilities[1])


# ---- bad input


@pytest.mark.parametrize(('probabilities', 'labels', 'size', 'complaint'), [
    ([], [0], 1, 'no candidates: an ensemble needs one'),
    ([[[.5, .5]]], [0], 0, 'size is 0; it must be 1 or more'),
    ([[[.5, .5]], [[.2, .3, .5]]], [0], 1,
     r'candidate 1 has probabilities \[1, 3\] but candidate 0 \[1, 2\]'),
    ([[[.5, .5]], [[.5, np.nan]]], [0], 1, 'candidate 1: nan is no probability'),
    ([[[.5, .5]], [[1.5, -.5]]], [0], 1, r'candidate 1: 1\.5 is no probability'),
    ([[[.5, .5]]], [2], 1, r'label 2 is not one of 0\.\.1'),
    ([[[.5, .5]]], [0, 0], 1, r'labels \[2\] do not fit outputs \[1, 2\]'),
])
def test_what_cannot_be_chosen_from_is_one_clear_line(probabilities, labels, size, complaint):
  with pytest.raises(ValueError, match=complaint) as raised:
    greedy.select(probabilities, labels, size)
  assert '\n' not in str(raised.value)


def test_an_ensemble_has_members():
  probabilities, _ = pool(candidates=2)
  with pytest.raises(ValueError, match='no members'):
    greedy.average(probabilities, [0, 0])
  with pytest.raises(ValueError, match='shorter'):
    greedy.average(probabilities, [1])
