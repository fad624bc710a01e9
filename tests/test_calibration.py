"""Temperature scaling: confidence comes to fit, and no prediction changes."""

import hypothesis
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st

from finetune import calibration
from finetune import metrics

SEEDS = st.integers(0, 2**32 - 1)


def drawn(temperature, number, multi_label=False, seed=0):
  """Logits that would be right at a temperature, and labels drawn accordingly."""
  random = np.random.default_rng(seed)
  logits = random.normal(0, 3, (number, 4))
  if multi_label:
    labels = random.random(logits.shape) < scipy.special.expit(logits / temperature)
    return logits, labels.astype(np.int64)
  # The greatest of logits with Gumbel noise is drawn by softmax.
  return logits, (logits / temperature + random.gumbel(size=logits.shape)).argmax(1)


def test_temperatures_by_hand():
  # Three of four are right, so that 3/4 = e^a / (1 + e^a), a = ln 3, is the sureness to have.
  logits = np.array([[2 * np.log(3), 0]] * 4)
  assert calibration.temperature(logits, [0, 0, 0, 1]) == pytest.approx(2, rel=1e-5)
  assert calibration.temperature(logits / 6, [0, 0, 0, 1]) == pytest.approx(1 / 3, rel=1e-5)
  np.testing.assert_allclose(calibration.scaled(logits, 2), [[3 / 4, 1 / 4]] * 4)
  # And for each class by itself.
  alone = logits[:, :1]
  assert calibration.temperature(alone, [[1], [1], [1], [0]]) == pytest.approx(2, rel=1e-5)
  np.testing.assert_allclose(calibration.scaled(alone, 2, True), [[3 / 4]] * 4)


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('true', [0.4, 1., 5.])
def test_the_temperature_by_which_labels_were_drawn_is_found(true, multi_label):
  logits, labels = drawn(true, 20_000, multi_label)
  assert calibration.temperature(logits, labels) == pytest.approx(true, rel=0.05)


@hypothesis.given(SEEDS, st.floats(0.1, 10), st.booleans())
@hypothesis.settings(max_examples=20)
def test_no_temperature_of_a_fine_grid_makes_labels_likelier(seed, true, multi_label):
  logits, labels = drawn(true, 30, multi_label, seed)

  def loss(temperature):
    return metrics.nll(calibration.scaled(logits, temperature, multi_label), labels)

  found = loss(calibration.temperature(logits, labels))
  assert found <= min(map(loss, np.geomspace(*calibration.RANGE, 200))) + 1e-7
  assert found <= loss(1)


@hypothesis.given(SEEDS, st.floats(-100, 100))
@hypothesis.settings(max_examples=20)
def test_what_is_added_to_a_row_does_not_matter_so_log_probabilities_serve(seed, shift):
  logits, labels = drawn(2., 50, seed=seed)
  wanted = calibration.temperature(logits, labels)
  shifts = shift * np.random.default_rng(seed).normal(size=(50, 1))
  for same in (logits + shifts, scipy.special.log_softmax(logits, 1)):
    assert calibration.temperature(same, labels) == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(
        calibration.scaled(same, wanted), calibration.scaled(logits, wanted), rtol=1e-9)


@hypothesis.given(SEEDS, st.floats(1.5, 4))
@hypothesis.settings(max_examples=20)
def test_logits_so_many_times_as_bold_are_cooled_so_many_times(seed, factor):
  logits, labels = drawn(1., 200, seed=seed)
  assert calibration.temperature(factor * logits, labels) == pytest.approx(
      factor * calibration.temperature(logits, labels), rel=1e-4)


@hypothesis.given(SEEDS, st.floats(*calibration.RANGE))
@hypothesis.settings(max_examples=30)
def test_no_prediction_changes(seed, temperature):
  logits = np.random.default_rng(seed).normal(0, 5, (40, 6))
  softmax = calibration.scaled(logits, temperature)
  assert softmax.argmax(1).tolist() == logits.argmax(1).tolist()
  np.testing.assert_allclose(softmax.sum(1), 1)
  sigmoid = calibration.scaled(logits, temperature, multi_label=True)
  assert ((sigmoid > 0.5) == (logits > 0)).all()


def test_it_serves_examples_that_it_has_not_seen():
  logits, labels = drawn(3., 4000)
  fitted = calibration.temperature(logits[:2000], labels[:2000])
  before, after = (metrics.evaluate(calibration.scaled(logits[2000:], t), labels[2000:])
                   for t in (1, fitted))
  assert before['ece'] > 0.1
  assert after['ece'] < 0.04
  assert after['nll'] < before['nll']
  assert after['confusion'] == before['confusion']


def test_where_all_are_right_the_temperature_stops_at_its_least():
  timid = np.log([[0.6, 0.4]] * 10)
  assert calibration.temperature(timid, [0] * 10) == pytest.approx(1 / 20, rel=1e-4)
  assert calibration.temperature(-timid, [0] * 10) == pytest.approx(20, rel=1e-4)


def test_where_nothing_is_gained_the_temperature_stays():
  assert calibration.temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 1
  assert calibration.temperature(1e6 * np.eye(3), [0, 1, 2]) == 1  # as sure as can be


@pytest.mark.parametrize(('call', 'complaint'), [
    (lambda: calibration.temperature([[-np.inf, 0.]], [1]), 'clip probabilities before'),
    (lambda: calibration.temperature([[0., 1.]], [2]), r'label 2 is not one of 0\.\.1'),
    (lambda: calibration.temperature([[0., 1.]], [0, 1]), r'labels \[2\] do not fit'),
    (lambda: calibration.scaled([[0., 1.]], 0), 'temperature is 0; it must be above 0'),
])
def test_what_cannot_be_calibrated_is_one_clear_line(call, complaint):
  with pytest.raises(ValueError, match=complaint) as raised:
    call()
  assert '\n' not in str(raised.value)
