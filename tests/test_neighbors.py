"""Neighbours: exact means exact at any scale and with any number of twins; ScaNN nearly so."""

import dataclasses
import json
import os
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks import neighbors as benchmark
from selection import neighbors

INDICES = [neighbors.ExactIndex, neighbors.ScannIndex]


def brute_force(points, k, queries=None):
  """The k nearest of each query, or of each point among the others, one by one."""
  points = np.asarray(points, np.float64)
  found = []
  for i, query in enumerate(points if queries is None else np.asarray(queries, np.float64)):
    apart = np.square(points - query).sum(1)
    order = [j for j in np.argsort(apart, kind='stable') if queries is not None or j != i]
    found.append(order[:k])
  return np.array(found)


def clusters(number, dimensions, seed=0):
  """40 balls of embeddings, and which ball each is of."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, 40, number)
  points = random.normal(size=(40, dimensions))[labels]
  return points + 0.3 * random.normal(size=points.shape), labels


@pytest.fixture
def searched_again(monkeypatch):
  """Counts, in a list, the rows that a float32 product could not settle."""
  counts, original = [], neighbors.ExactIndex._search_again

  def counting(self, queries, *arguments):
    counts.append(len(queries))
    return original(self, queries, *arguments)

  monkeypatch.setattr(neighbors.ExactIndex, '_search_again', counting)
  return counts


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
@pytest.mark.parametrize('index', INDICES)
def test_an_index_finds_what_comparing_one_by_one_finds(index, dtype):
  random = np.random.default_rng(0)
  points = random.normal(size=(200, 12)).astype(dtype)
  queries = random.normal(size=(30, 12)).astype(dtype)
  built = index(points)
  np.testing.assert_array_equal(built.others(5), brute_force(points, 5))
  np.testing.assert_array_equal(built.search(queries, 5), brute_force(points, 5, queries))


@pytest.mark.parametrize('index', INDICES)
def test_a_duplicate_may_vote_for_its_twin_but_never_for_itself(index):
  points = np.array([[0., 0.], [0., 0.], [0., 0.], [5., 5.]])
  near = index(points).others(1)[:, 0]
  assert all(near[i] != i for i in range(4))
  assert set(near[:3]) <= {0, 1, 2}


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_twins_come_in_order_of_index_however_many_there_are(dtype, searched_again):
  # 50 twins of each of 4: more than the candidates of a float32 product could hold.
  points = np.tile(np.eye(4, dtype=dtype), (50, 1))
  near = neighbors.ExactIndex(points).others(3)
  assert near[:6].tolist() == [[4, 8, 12], [5, 9, 13], [6, 10, 14], [7, 11, 15],
                               [0, 8, 12], [1, 9, 13]]
  np.testing.assert_array_equal(near, brute_force(points, 3))
  # Which zeros are negative, and the order in memory, change nothing.
  points[::7] = np.where(points[::7] == 0, -0., points[::7])
  np.testing.assert_array_equal(neighbors.ExactIndex(np.asfortranarray(points)).others(3), near)
  assert searched_again == [0, 0]  # twins need no distances


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
@hypothesis.settings(max_examples=60)
def test_ties_go_by_index_on_any_grid(seed, k, values):
  # Whole numbers, few of them: many duplicates and many equal distances, all without rounding.
  random = np.random.default_rng(seed)
  points = random.integers(0, values, (int(random.integers(k + 1, 120)), 3))
  queries = random.integers(0, values + 1, (10, 3))
  built = neighbors.ExactIndex(points)
  np.testing.assert_array_equal(built.others(k), brute_force(points, k))
  np.testing.assert_array_equal(built.search(queries, k), brute_force(points, k, queries))


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(-40, 40), st.integers(0, 12))
@hypothesis.settings(max_examples=60)
def test_exact_is_exact_at_any_scale_and_any_distance_from_the_origin(seed, scale, away):
  random = np.random.default_rng(seed)
  points = 10. ** scale * (random.normal(size=(60, 7)) + 10. ** away * random.normal(size=7))
  queries = points[:5] + 10. ** (scale - 1) * random.normal(size=(5, 7))
  built = neighbors.ExactIndex(points)
  np.testing.assert_array_equal(built.others(4), brute_force(points, 4))
  np.testing.assert_array_equal(built.search(queries, 4), brute_force(points, 4, queries))


def test_float32_embeddings_are_compared_in_float64():
  points = np.array([[1e-9], [-1], [1]], np.float32)  # in float32 both others are 1 away
  assert neighbors.ExactIndex(points).others(1)[0] == 2


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('away', [1e10, 1e25, 1e45])
def test_queries_from_far_away_find_what_float64_tells_apart(away):
  random = np.random.default_rng(0)
  points, queries = random.normal(size=(80, 3)), away * random.normal(size=(5, 3))
  np.testing.assert_array_equal(
      neighbors.ExactIndex(points).search(queries, 4), brute_force(points, 4, queries))


def test_gaps_too_fine_for_float32_are_told_apart(searched_again):
  # Two tight groups far from each other: no centre is near both.
  random = np.random.default_rng(0)
  points = 1e-4 * random.normal(size=(120, 6)) + np.repeat([[-1e3], [1e3]], 60, axis=0)
  np.testing.assert_array_equal(neighbors.ExactIndex(points).others(3), brute_force(points, 3))
  assert searched_again == [120]


def test_float32_settles_ordinary_embeddings(searched_again):
  points, _ = clusters(2000, 64)
  neighbors.ExactIndex(points.astype(np.float32)).others(5)
  assert searched_again == [0]


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
@hypothesis.settings(max_examples=30)
def test_bounds_are_below_the_distances_and_close_to_them(seed, dtype):
  random = np.random.default_rng(seed)
  points = random.normal(size=(50, 40)) * 10. ** random.integers(-3, 4, (50, 1))
  built = neighbors.ExactIndex(points)
  factors = built._factors(points, dtype)
  left, base = built._queries(factors)
  bounds = base[:, None] + 2. * (left @ factors.T)
  apart = built._scale ** 2 * np.square(points[:, None] - points).sum(2)
  assert (bounds <= apart).all()
  centred = built._scale ** 2 * np.square(points - points.mean(0)).sum(1)
  slack = 400 * np.finfo(dtype).eps * (centred[:, None] + centred)
  assert (bounds >= apart - slack).all()


def test_an_embedding_far_out_does_not_blur_the_others(searched_again):
  points, _ = clusters(1000, 16)
  points[7] *= 1e3
  np.testing.assert_array_equal(neighbors.ExactIndex(points).others(2), brute_force(points, 2))
  assert searched_again[0] < 10


@pytest.mark.parametrize('columns', [16, 100, 160, 161, 1000])
def test_the_least_scores_are_found_though_only_minima_are_sorted(columns):
  random = np.random.default_rng(0)
  scores = random.normal(size=(30, columns)).astype(np.float32)
  scores[:, 7], scores[:, -1] = -200, -100  # the last folds over nothing that would be 7's
  near = np.sort(neighbors._least(scores, 3), axis=1)
  np.testing.assert_array_equal(near, np.sort(np.argsort(scores, axis=1)[:, :3], axis=1))


def test_blocks_do_not_change_the_result(monkeypatch):
  random = np.random.default_rng(0)
  points = np.concatenate([random.normal(size=(40, 4)), np.ones((30, 4))])
  whole = neighbors.ExactIndex(points).others(3)
  monkeypatch.setattr(neighbors, 'BLOCK_BYTES', 4 * 70 * 7)  # seven rows at a time
  monkeypatch.setattr(neighbors, 'CACHED_BYTES', 100)  # three pairs at a time
  np.testing.assert_array_equal(neighbors.ExactIndex(points).others(3), whole)


def test_some_rows_can_be_asked_for_alone():
  points = np.tile(np.random.default_rng(0).normal(size=(20, 4)), (2, 1))
  built = neighbors.ExactIndex(points)
  np.testing.assert_array_equal(built.others(3, [25, 3]), built.others(3)[[25, 3]])


@pytest.mark.parametrize('k', [0, 4, -1])
def test_k_must_leave_one_out(k):
  for index in INDICES:
    with pytest.raises(ValueError, match=rf'k is {k}; it must be in 1..3'):
      index(np.eye(4)).others(k)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=20)
def test_turning_moving_and_scaling_embeddings_changes_no_neighbour(seed):
  random = np.random.default_rng(seed)
  points = random.normal(size=(30, 5))
  turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
  moved = 3.5 * points @ turn + random.normal(size=5)
  np.testing.assert_array_equal(
      neighbors.ExactIndex(points).others(4), neighbors.ExactIndex(moved).others(4))


def test_scann_with_a_tree_agrees_nearly(monkeypatch):
  monkeypatch.setattr(neighbors, 'APPROXIMATE_FROM', 2000)
  points, labels = clusters(3000, 16)
  points += 1e5  # float32 sees little of the embeddings unless they are centred
  near = neighbors.ScannIndex(points).others(1)
  assert (near != np.arange(3000)[:, None]).all()
  assert neighbors.recall(near, points) > 0.9
  exact = neighbors.ExactIndex(points).others(1)
  assert abs((labels[near] == labels[exact]).mean() - 1) < 0.01


def test_scann_follows_the_settings_it_is_given():
  points, _ = clusters(1500, 16)
  rule = neighbors.settings_for(*points.shape)
  one, all_ = (
      neighbors.recall(neighbors.ScannIndex(points, settings).others(3), points, 1500)
      for settings in (dataclasses.replace(rule, leaves_to_search=1),
                       dataclasses.replace(rule, leaves_to_search=rule.leaves)))
  assert one < 0.95 < all_


def test_scann_looks_everywhere_where_its_leaves_hold_too_few():
  points, _ = clusters(300, 8)
  settings = neighbors.ScannSettings(
      leaves=100, leaves_to_search=1, block=2, threshold=0.2, reorder=10, training_sample=300)
  near = neighbors.ScannIndex(points, settings).others(60)
  assert all(len(set(row)) == 60 for row in near.tolist())
  assert neighbors.recall(near, points) > 0.9


def test_scann_needs_no_exact_search_to_find_more_than_it_reorders(monkeypatch):
  points, _ = clusters(300, 8)
  settings = neighbors.ScannSettings(
      leaves=5, leaves_to_search=5, block=2, threshold=0.2, reorder=10, training_sample=300)
  wanted = neighbors.ExactIndex(points).others(60)
  monkeypatch.delattr(neighbors, 'ExactIndex')
  near = neighbors.ScannIndex(points, settings).others(60)
  assert np.mean([np.isin(*pair).mean() for pair in zip(near, wanted, strict=True)]) > 0.7


@pytest.mark.parametrize('number', [20_000, 100_000, 1_000_000])
@pytest.mark.parametrize('dimensions', [32, 512, 2048])
def test_settings_are_ones_that_scann_takes(number, dimensions):
  settings = neighbors.settings_for(number, dimensions)
  assert 1 <= settings.leaves_to_search <= settings.leaves <= settings.training_sample <= number
  assert settings.block <= dimensions


def test_recall_by_hand():
  points = np.array([[0.], [1.], [3.], [3.], [6.]])
  exact = np.array([[1, 2], [0, 2], [3, 1], [2, 1], [2, 3]])
  assert neighbors.recall(exact, points) == 1
  other = exact.copy()
  other[1] = [3, 0]  # 3 is as far from 1 as 2 is
  assert neighbors.recall(other, points) == 1
  other[0] = [4, 1]  # one of two
  other[4] = [0, 1]  # none of two
  assert neighbors.recall(other, points) == pytest.approx(0.7)
  assert neighbors.recall(other, points, sample=1) in (0, 0.5, 1)


def test_twenty_thousand_embeddings_are_searched_by_scann(monkeypatch):
  monkeypatch.setattr(neighbors, 'APPROXIMATE_FROM', 100)
  points, _ = clusters(100, 4)
  assert isinstance(neighbors.index(points), neighbors.ScannIndex)
  assert isinstance(neighbors.index(points[1:]), neighbors.ExactIndex)
  assert isinstance(neighbors.index(points, 'exact'), neighbors.ExactIndex)
  assert isinstance(neighbors.index(points[1:], 'scann'), neighbors.ScannIndex)
  with pytest.raises(ValueError, match="method is 'best'; it must be auto, exact or scann"):
    neighbors.index(points, 'best')


def test_without_scann_search_is_exact_and_says_so(monkeypatch, caplog):
  monkeypatch.setitem(sys.modules, 'scann', None)  # as a failed import does
  neighbors._scann.cache_clear()
  assert isinstance(neighbors.index(np.eye(3), 'scann'), neighbors.ExactIndex)
  neighbors._scann.cache_clear()
  assert 'ScaNN cannot be imported' in caplog.text


def test_the_benchmark_sets_every_contender_beside_exact_search(console):
  code, out, _ = console(benchmark, '--numbers=400', '--dimensions=64', '--rounds=1')
  assert code == 0
  found = json.loads(out)
  assert {'exact', 'scann', 'sklearn'} <= set(found)
  for name in ('exact', 'sklearn'):
    assert found[name]['seconds'] > 0
    assert (found[name]['recall'], found[name]['points']) == (1, 0)
  assert found['exact']['times_exact'] == 1
  scann = found['scann']
  assert scann['recall'] < 1
  assert scann['points'] == pytest.approx(100 * (scann['accuracy'] - found['exact']['accuracy']))
  assert abs(scann['recall_on_sample'] - scann['recall']) < 0.15


def test_the_benchmark_leaves_out_what_memory_cannot_hold(monkeypatch):
  monkeypatch.setattr(os, 'sysconf', lambda name: 1 << 12)  # 16 MiB
  found = benchmark.measure(1000, 512, rounds=1)
  assert found['skipped'] == '523 MiB needed, 16 MiB free'
  assert 'exact' not in found


def test_what_the_benchmark_searches_looks_like_embeddings():
  embeddings, labels = benchmark.made(4000, 256)
  assert embeddings.dtype == np.float32
  assert embeddings.min() == 0  # as after ReLU
  shares = np.linalg.eigvalsh(np.cov(embeddings.T))
  assert 15 < shares.sum() ** 2 / np.square(shares).sum() < 60  # noise would have 256
  nearest = neighbors.ExactIndex(embeddings).others(1)[:, 0]
  assert 0.5 < (labels[nearest] == labels).mean() < 0.9
