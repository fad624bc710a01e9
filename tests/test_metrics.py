"""Metrics: what is reported of predictions, by hand and against other implementations."""

import json

import hypothesis
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import strategies as st

from finetune import metrics


def predictions(seed=0, number=60, classes=4):
  """Probabilities that say something of their labels."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, classes, number)
  logits = random.normal(0, 2, (number, classes)) + np.eye(classes)[labels]
  return scipy.special.softmax(logits, 1), labels


def sightings(seed=0, number=60, classes=4):
  """Probabilities, in steps of 1/20 so that some are equal, of labels of several classes."""
  random = np.random.default_rng(seed)
  labels = (random.random((number, classes)) < 0.3).astype(np.int64)
  logits = random.normal(0, 1, (number, classes)) + 2 * labels
  return np.round(scipy.special.expit(logits) * 20) / 20, labels


# ---- one label


def test_the_interval_is_wilsons():
  probabilities, labels = np.eye(2)[[0] * 8 + [1] * 2], np.zeros(10, np.int64)
  found = metrics.evaluate(probabilities, labels)
  assert found['test_accuracy'] == 0.8
  # (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) for p = 0.8, n = 10, z = 1.96.
  np.testing.assert_allclose(found['interval'], [0.4902, 0.9433], atol=1e-4)
  assert found['confusion'] == [[8, 2], [0, 0]]


def test_figures_by_hand():
  probabilities = np.array([[.5, .25, .25], [.5, .25, .25], [.25, .75, 0], [.75, .25, 0]])
  found = metrics.evaluate(probabilities, [0, 0, 1, 1])
  assert found['test_examples'] == 4
  assert found['confusion'] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
  assert found['test_accuracy'] == 0.75
  assert found['balanced_accuracy'] == (2 / 2 + 1 / 2) / 2  # class 2 does not occur
  # The truth was given 1/2, 1/2, 3/4 and 1/4.
  assert found['nll'] == pytest.approx(np.log([2, 2, 4 / 3, 4]).mean())
  # Two at 1/2, both right; two at 3/4, one of them right.
  assert found['ece'] == pytest.approx((2 * abs(1 / 2 - 1) + 2 * abs(3 / 4 - 1 / 2)) / 4)


def test_a_class_that_is_rare_weighs_as_much_as_a_common_one():
  probabilities, labels = predictions(number=40)
  labels[labels == 2] = 1  # scikit-learn leaves out a class that does not occur, and warns
  found = metrics.evaluate(probabilities, labels)['balanced_accuracy']
  recalls = [(probabilities[labels == i].argmax(1) == i).mean() for i in (0, 1, 3)]
  assert found == pytest.approx(np.mean(recalls))
  always = metrics.evaluate(np.eye(2)[[0] * 10], [0] * 9 + [1])
  assert (always['test_accuracy'], always['balanced_accuracy']) == (0.9, 0.5)


def test_likelihood_agrees_with_scikit_learn():
  probabilities, labels = predictions()
  assert metrics.nll(probabilities, labels) == pytest.approx(
      sklearn.metrics.log_loss(labels, probabilities))


def test_a_truth_that_was_given_nothing_costs_much_but_not_everything():
  most = -np.log(np.finfo(np.float32).tiny)
  assert metrics.nll([[1., 0.], [1., 0.]], [0, 1]) == pytest.approx(most / 2)
  assert metrics.nll([[1., 0.]], [[0, 1]]) == pytest.approx(2 * most)
  found = metrics.evaluate(np.eye(2, dtype=np.float32), [1, 0])
  assert (found['nll'], found['ece']) == (pytest.approx(most), 1)


def test_who_knows_nothing_is_calibrated_and_costs_a_choice_among_the_classes():
  probabilities, labels = np.full((20, 5), 1 / 5), np.arange(20) % 5
  assert metrics.nll(probabilities, labels) == pytest.approx(np.log(5))
  assert metrics.ece(probabilities, labels) == pytest.approx(0)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@hypothesis.settings(max_examples=50)
def test_the_calibration_error_equals_one_counted_bin_by_bin(seed, bins):
  random = np.random.default_rng(seed)
  confidence = random.integers(bins, 2 * bins + 1, 30) / (2 * bins)  # many are just on an edge
  probabilities = np.stack([confidence, 1 - confidence], 1)
  labels = random.integers(0, 2, 30)
  wanted = 0.
  for low, high in zip(range(bins), range(1, bins + 1), strict=True):
    own = (2 * bins * confidence > 2 * low) & (2 * bins * confidence <= 2 * high)
    if own.any():
      wanted += own.sum() / 30 * abs((labels[own] == 0).mean() - confidence[own].mean())
  # 1 / 2 is of class 0 as of class 1, and the first is taken.
  assert metrics.ece(probabilities, labels, bins) == pytest.approx(wanted)


# ---- several labels


def test_average_precision_by_hand():
  probabilities = np.array([[.9, .1, .5], [.8, .1, .5], [.7, .1, .5], [.6, .1, .5]])
  labels = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
  found = metrics.evaluate(probabilities, labels)
  # Class 0: the first of one is right, then two of three; class 1 does not occur; class 2 has
  # equal scores, of which one in four is right.
  assert found['average_precision'] == [pytest.approx((1 + 2 / 3) / 2), None, 0.25]
  assert found['test_map'] == pytest.approx((5 / 6 + 1 / 4) / 2)
  true = [.9, .2, .7, .4] + [.9] * 4 + [.5] * 4
  assert found['nll'] == pytest.approx(-np.log(true).sum() / 4)
  assert found['test_examples'] == 4


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@hypothesis.settings(max_examples=50)
def test_average_precision_agrees_with_scikit_learn_under_any_weights(seed, number):
  probabilities, labels = sightings(seed, number, 1)
  scores, truth = probabilities[:, 0], labels[:, 0]
  weights = np.random.default_rng(seed).integers(0, 3, (4, number))
  found = metrics.average_precision(scores, truth, weights)
  for value, own in zip(found, weights, strict=True):
    if (own * truth).any():
      assert value == pytest.approx(
          sklearn.metrics.average_precision_score(truth, scores, sample_weight=own))
    else:
      assert np.isnan(value)


def test_the_interval_is_as_wide_as_fresh_examples_scatter():
  found = metrics.evaluate(*sightings(0, 200))
  low, high = found['interval']
  assert low < found['test_map'] < high
  scatter = np.std([metrics.evaluate(*sightings(seed, 200))['test_map']
                    for seed in range(1, 81)])
  assert high - low == pytest.approx(2 * 1.96 * scatter, rel=0.3)
  assert metrics.evaluate(*sightings(0, 200)) == found


def test_two_classes_seen_one_by_one_cost_twice_as_much():
  probabilities, labels = predictions(classes=2)
  assert metrics.nll(probabilities, np.eye(2)[labels]) == pytest.approx(
      2 * metrics.nll(probabilities, labels))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('number', [1, 2, 3])
def test_of_very_few_examples_the_interval_is_still_a_number(number):
  probabilities, labels = sightings(1, number)
  labels[0, 0] = 1
  found = metrics.evaluate(probabilities, labels)
  assert 0 < found['interval'][0] <= found['interval'][1] <= 1


# ---- both


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([predictions, sightings]))
@hypothesis.settings(max_examples=30)
def test_neither_the_order_of_examples_nor_that_of_classes_matters(seed, made):
  random = np.random.default_rng(seed)
  probabilities, labels = made(seed, 40)
  rows, columns = random.permutation(40), random.permutation(4)
  moved = labels[rows][:, columns] if labels.ndim == 2 else columns.argsort()[labels[rows]]
  one = metrics.evaluate(probabilities, labels)
  other = metrics.evaluate(probabilities[rows][:, columns], moved)
  for name in set(one) - {'interval', 'confusion', 'average_precision'}:
    assert one[name] == pytest.approx(other[name]), name
  if labels.ndim == 1:
    assert np.array(one['confusion'])[np.ix_(columns, columns)].tolist() == other['confusion']
  else:
    assert [one['average_precision'][i] for i in columns] == pytest.approx(
        other['average_precision'])


@pytest.mark.parametrize(('made', 'name'), [
    (predictions, 'test_accuracy'), (sightings, 'test_map')])
def test_an_evaluation_goes_to_json_and_says_by_what_it_is_compared(made, name):
  found = metrics.evaluate(*made())
  assert json.loads(json.dumps(found)) == found
  assert metrics.primary(found) == (name, found[name])


def test_half_precision_is_computed_in_full():
  probabilities, labels = predictions(number=3000)
  probabilities = probabilities.astype(np.float16)
  wanted = -np.log(probabilities.astype(np.float64)[np.arange(3000), labels]).mean()
  assert metrics.nll(probabilities, labels) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(('probabilities', 'labels', 'complaint'), [
    ([[.5, .5]], [2], r'label 2 is not one of 0\.\.1, the classes'),
    ([[.5, .5]], [-1], 'label -1 is not'),
    ([[.5, .5]], [.5], r'label 0\.5 is not'),
    ([[.5, .2, .3]], [[0, 1, 2]], 'label 2 is not one of 0 and 1'),
    ([[.5, .5]], [0, 1], r'labels \[2\] do not fit outputs \[1, 2\]'),
    ([[.5, .5]], [[0], [1]], r'labels \[2, 1\] do not fit'),
    ([.5, .5], [0, 1], r'of shape \[2\]: they must be \[examples, classes\]'),
    (np.zeros((0, 2)), [], r'of shape \[0, 2\]'),
    ([[np.nan, .5]], [0], 'nan is no probability'),
    ([[3., .5]], [0], r'3\.0 is no probability: give what softmax'),
    ([[-.5, 1.]], [0], r'-0\.5 is no probability'),
    ([[.5, .5]], [[0, 0]], 'no example is of any class'),
])
def test_what_cannot_be_evaluated_is_one_clear_line(probabilities, labels, complaint):
  with pytest.raises(ValueError, match=complaint) as raised:
    metrics.evaluate(probabilities, labels)
  assert '\n' not in str(raised.value)


def test_calibration_error_is_of_one_label():
  with pytest.raises(ValueError, match='one label an example'):
    metrics.ece(*sightings())
