"""Tokens find their experts: choices, full experts, priorities and losses, against plain loops."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from zoo import routing


def by_loops(gates, k, slots, priority=False):
  """What V-MoE's section 2.4 and 4 say, token by token.

  Returns:
    (experts [G, S, K], slots [G, S, K] with `slots` where an expert is full).
  """
  groups, tokens, number = gates.shape
  experts = np.argsort(-gates, axis=-1, kind='stable')[..., :k]
  found = np.full((groups, tokens, k), slots)
  for group in range(groups):
    order = range(tokens)
    if priority:
      order = sorted(order, key=lambda token: -gates[group, token].max())
    taken = [0] * number
    for choice in range(k):
      for token in order:
        expert = experts[group, token, choice]
        if taken[expert] < slots:
          found[group, token, choice] = taken[expert]
        taken[expert] += 1
  return experts, found


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def made(seed, *shape):
  return softmax(np.random.default_rng(seed).normal(size=shape))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        st.just(shape), st.integers(1, shape[2]), st.integers(1, shape[1]), st.booleans(),
        st.integers(0, 2 ** 32 - 1)))


@hypothesis.given(SHAPES)
@hypothesis.settings(max_examples=60)
def test_slots_are_given_as_a_loop_over_tokens_gives_them(drawn):
  shape, k, slots, priority, seed = drawn
  gates = made(seed, *shape)
  experts, largest = routing.choose(gates, k)
  routes = routing.assign(experts, largest, shape[2], slots, priority)
  wanted_experts, wanted_slots = by_loops(gates, k, slots, priority)
  np.testing.assert_array_equal(routes.experts, wanted_experts)
  np.testing.assert_array_equal(routes.slots, wanted_slots)
  np.testing.assert_array_equal(
      routes.weights, np.where(wanted_slots < slots, np.take_along_axis(
          gates, wanted_experts, -1), 0))


@hypothesis.given(SHAPES)
@hypothesis.settings(max_examples=40)
def test_dispatch_and_combine_give_each_token_its_experts_sum(drawn):
  shape, k, slots, priority, seed = drawn
  (groups, tokens, number), channels = shape, 3
  gates = made(seed, *shape)
  random = np.random.default_rng(seed)
  x = random.normal(size=(groups, tokens, channels)).astype(np.float32)
  matrices = random.normal(size=(number, channels, channels)).astype(np.float32)
  routes = routing.assign(*routing.choose(gates, k), number, slots, priority)
  held, rows = routing.dispatch(x, routes, number, slots)
  found = routing.combine(np.matmul(held, matrices), rows, routes.weights)
  experts, places = by_loops(gates, k, slots, priority)
  wanted = np.zeros_like(x)
  for group, token, choice in np.ndindex(experts.shape):
    expert = experts[group, token, choice]
    if places[group, token, choice] < slots:
      wanted[group, token] += gates[group, token, expert] * (x[group, token] @ matrices[expert])
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_without_a_limit_tokens_are_sorted_by_expert_and_none_is_lost():
  gates = np.array([[[.9, .1], [.2, .8], [.7, .3], [.6, .4]]], np.float32)
  x = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
  routes = routing.assign(*routing.choose(gates, 1), 2, slots=4)
  held, rows, bounds = routing.pack(x, routes, 2)
  assert np.asarray(held)[:, 0].tolist() == [0, 2, 3, 1]
  assert np.asarray(rows)[0, :, 0].tolist() == [0, 3, 1, 2]
  assert np.asarray(bounds).tolist() == [0, 3, 4]


def test_a_second_choice_never_takes_the_slot_of_a_first_choice():
  # The first token's second choice is the expert that the last token wants first.
  gates = np.array([[[.6, .4], [.3, .7]]], np.float32)
  routes = routing.assign(*routing.choose(gates, 2), 2, slots=1)
  assert np.asarray(routes.slots)[0].tolist() == [[0, 1], [0, 1]]


def test_by_priority_the_surest_tokens_are_served_first():
  gates = np.array([[[.6, .4], [.9, .1], [.7, .3]]], np.float32)
  choices = routing.choose(gates, 1)
  by_place = routing.assign(*choices, 2, slots=2)
  assert np.asarray(by_place.slots)[0, :, 0].tolist() == [0, 1, 2]
  by_gate = routing.assign(*choices, 2, slots=2, priority=True)
  assert np.asarray(by_gate.slots)[0, :, 0].tolist() == [2, 0, 1]
  assert np.asarray(by_gate.weights)[0, :, 0].tolist() == [0, gates[0, 1, 0], gates[0, 2, 0]]


def test_a_gate_that_is_not_a_number_is_never_hidden_by_a_full_expert():
  gates = np.array([[[.6, .4], [np.nan, np.nan]]], np.float32)
  routes = routing.assign(*routing.choose(gates, 1), 2, slots=1)
  assert np.isnan(np.asarray(routes.weights)[0, 1, 0])


@pytest.mark.parametrize('tokens, experts, k, ratio, wanted', [
    (64, 8, 1, 1., 8), (64, 8, 1, 1.05, 9), (2000, 10, 1, 1.05, 210), (64, 8, 2, .5, 8),
    (4, 8, 1, 1., 1), (64, 8, 1, .001, 1), (64, 8, 1, 1e9, 64)])
def test_capacity_is_a_ratio_of_the_equal_share(tokens, experts, k, ratio, wanted):
  import tensorflow as tf
  assert routing.slots_for(tokens, experts, k, ratio) == wanted
  assert int(routing.slots_for(tf.constant(tokens), experts, k, tf.constant(ratio))) == wanted


@pytest.mark.parametrize('ratio', [0., -1., math.nan])
def test_a_capacity_that_is_not_above_0_is_refused_or_leaves_one_slot(ratio):
  import tensorflow as tf
  with pytest.raises(ValueError, match='it must be above 0'):
    routing.slots_for(64, 8, 1, ratio)
  assert int(routing.slots_for(64, 8, 1, tf.constant(ratio))) == 1


def test_importance_is_0_for_equal_sums_and_experts_minus_1_if_one_has_all():
  assert float(routing.importance_loss(np.full((2, 6, 4), .25, np.float32))) == 0
  one_has_all = np.zeros((1, 6, 4), np.float32)
  one_has_all[..., 2] = 1
  # mean 1/4 of the sum s, variance (1 - 1/4) * s^2 / 4
  assert math.isclose(float(routing.importance_loss(one_has_all)), 3, rel_tol=1e-6)


def test_importance_is_of_each_group_and_not_of_all_together():
  one, other = np.zeros((1, 4, 2), np.float32), np.zeros((1, 4, 2), np.float32)
  one[..., 0] = other[..., 1] = 1
  assert float(routing.importance_loss(np.concatenate([one, other]))) == 1
  assert float(routing.importance_loss(np.concatenate([one, other], axis=1))) == 0


@pytest.mark.parametrize('k', [1, 2, 3])
def test_load_is_made_of_the_chance_to_be_chosen_under_new_noise(k):
  random = np.random.default_rng(k)
  logits, deviation = random.normal(size=(2, 7, 3)), 1 / 3
  noisy = logits + deviation * random.normal(size=logits.shape)
  losses = []
  for group in range(2):
    chances = np.zeros((7, 3))
    for token in range(7):
      threshold = sorted(noisy[group, token])[-k]
      for expert in range(3):
        chances[token, expert] = 1 - scipy.stats.norm.cdf(
            (threshold - logits[group, token, expert]) / deviation)
    load = chances.mean(0)
    losses.append((load.std() / load.mean()) ** 2)
  found = routing.load_loss(logits.astype(np.float32), noisy.astype(np.float32), k, deviation)
  assert math.isclose(float(found), np.mean(losses), rel_tol=1e-4)


def test_switchs_loss_is_1_at_balance_and_the_number_of_experts_if_one_takes_all():
  balanced = np.full((1, 4, 4), .1, np.float32) + .6 * np.eye(4, dtype=np.float32)
  assert math.isclose(float(routing.balance_loss(balanced)), 1, rel_tol=1e-6)
  one_has_all = np.zeros((1, 4, 4), np.float32)
  one_has_all[..., 1] = 1
  assert math.isclose(float(routing.balance_loss(one_has_all)), 4, rel_tol=1e-6)


def test_the_z_loss_is_the_mean_squared_logarithm_of_the_sum():
  logits = np.random.default_rng(0).normal(size=(2, 3, 4))
  wanted = np.mean(np.log(np.exp(logits).sum(-1)) ** 2)
  assert math.isclose(float(routing.z_loss(logits.astype(np.float32))), wanted, rel_tol=1e-5)
