"""Mixtures of tasks: shares by size and temperature, batches as a function of seed and step."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from zoo import mixtures
from zoo import tasks
from zoo import training


def test_at_temperature_1_shares_are_in_proportion_at_infinity_equal():
  np.testing.assert_allclose(mixtures.shares([100, 300]), [.25, .75])
  np.testing.assert_allclose(mixtures.shares([100, 300], math.inf), [.5, .5])
  # 100 ** .5 : 400 ** .5
  np.testing.assert_allclose(mixtures.shares([100, 400], 2.), [1 / 3, 2 / 3])


@hypothesis.given(st.lists(st.integers(1, 10 ** 9), min_size=1, max_size=9), st.floats(.05, 100.))
def test_shares_sum_to_1_and_a_higher_temperature_evens_them(counts, temperature):
  found = mixtures.shares(counts, temperature)
  assert math.isclose(found.sum(), 1)
  assert np.ptp(mixtures.shares(counts, 2 * temperature)) <= np.ptp(found) + 1e-12


def test_a_task_without_examples_is_named():
  with pytest.raises(ValueError, match='task 1 of the mixture has no examples'):
    mixtures.shares([5, 0, 3])


@pytest.mark.parametrize('temperature', [0., -1., math.nan])
def test_a_temperature_is_above_0(temperature):
  with pytest.raises(ValueError, match='must be above 0'):
    mixtures.shares([1], temperature)


def made(*counts, temperature=1., **options):
  """Tasks of 2 classes each, whose images are all the task's number."""
  examples = [tasks.Examples(np.full((count, 4, 4, 3), i, np.uint8), np.arange(count) % 2)
              for i, count in enumerate(counts)]
  recipe = training.Recipe(10, batch=40, crop=0, **options)
  return mixtures.of(examples, [2] * len(counts), recipe, temperature)


def test_labels_of_a_task_follow_those_of_the_tasks_before():
  images, labels = made(30, 10, 20).at(0)
  np.testing.assert_array_equal(images[:, 0, 0, 0], labels // 2)
  assert set(labels) <= set(range(6))


def test_tasks_come_by_their_shares():
  drawn = np.concatenate([made(300, 100).at(step)[1] // 2 for step in range(50)])
  assert abs(drawn.mean() - .25) < 4 * math.sqrt(.25 * .75 / len(drawn))


def test_a_batch_depends_on_seed_and_step_alone():
  one, other = made(9, 5, seed=3), made(9, 5, seed=4)
  for first, second in zip(one.at(7), made(9, 5, seed=3).at(7), strict=True):
    np.testing.assert_array_equal(first, second)
  assert not np.array_equal(one.at(7)[1], one.at(8)[1])
  assert not np.array_equal(one.at(7)[1], other.at(7)[1])
