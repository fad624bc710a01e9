"""The head of domain prediction: from features to slices that overlap."""

import numpy as np
import pytest
import scipy.special

from zoo import domains


def test_images_are_drawn_from_all_slices_alike_and_from_all_images_of_a_slice():
  counts = {'car': 20, 'cat': 10, 'dog': 10, 'owl': 30, 'tree': 9}
  found = domains.targets([('cat', 'dog', 'owl'), ('cat', 'dog'), ('car', 'cat')], counts)
  # One of three slices, of 50, 20 and 30 images.
  np.testing.assert_allclose(3 * found, [
      [0, 0, 1 / 30], [1 / 50, 1 / 20, 1 / 30], [1 / 50, 1 / 20, 0], [1 / 50, 0, 0], [0, 0, 0]])
  np.testing.assert_allclose(np.array(list(counts.values())) @ found, 1 / 3)


def _examples(number=600, features=5, slices=3):
  """Features of quite different scales, one of them never on, and weights that sum to 1."""
  random = np.random.default_rng(0)
  points = random.normal(3, 1, (number, features)) * 10. ** np.arange(-2, features - 2)
  points[:, 1] = 0
  centers = random.normal(0, 1, (features, slices)) / points.std(0).clip(1e-9)[:, None]
  aims = np.exp((points - points.mean(0)) @ centers + random.normal(0, 1, (number, slices)))
  aims /= aims.sum()
  return points.astype(np.float32), aims.astype(np.float32)


def test_the_head_is_where_the_gradient_of_the_penalised_cross_entropy_vanishes(monkeypatch):
  monkeypatch.setattr(domains, 'CLOSE', 1e-10)
  points, aims = _examples()
  kernel, bias = domains.fit_head(points, aims, penalty=1e-2)
  points, kernel = points.astype(np.float64), kernel.astype(np.float64)
  apart = aims.sum(1, keepdims=True) * scipy.special.softmax(
      points @ kernel + bias, axis=1) - aims
  spread = points.std(0)
  standard = (points - points.mean(0)) / np.where(spread > 0, spread, 1)
  gradient = standard.T @ apart + 1e-2 * kernel * spread[:, None]
  assert np.abs(gradient).max() < 1e-4
  assert np.abs(apart.sum(0)).max() < 1e-4
  assert not kernel[1].any()  # the feature that is never on


def test_of_slices_that_do_not_overlap_it_is_scikit_learns_logistic_regression(monkeypatch):
  import sklearn.linear_model
  points, aims = _examples()
  monkeypatch.setattr(domains, 'CLOSE', 1e-10)
  labels = aims.argmax(1)
  kernel, bias = domains.fit_head(
      points, np.eye(3, dtype=np.float32)[labels] / len(labels), penalty=1e-2)
  spread = points.std(0)
  standard = (points - points.mean(0)) / np.where(spread > 0, spread, 1)
  known = sklearn.linear_model.LogisticRegression(
      C=1 / (1e-2 * len(points)), tol=1e-8, max_iter=1000).fit(standard, labels)
  np.testing.assert_allclose(scipy.special.softmax(points @ kernel + bias, axis=1),
                             known.predict_proba(standard), atol=2e-3)


def test_scores_by_hand():
  logits = np.log([[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
  found = domains.scores(logits, np.array([[0, 1, 0], [0, 1, 2]]))
  assert found == pytest.approx({
      'top1': 3 / 4, 'held_out_examples': 2,
      'cross_entropy': -(np.log(0.4) + np.log(0.2) + 2 * np.log(0.6)) / 4,
      'least_cross_entropy': (np.log(3) + 2 * np.log(3 / 2)) / 4})


def test_a_prediction_that_knows_the_class_is_perfect_and_prefers_the_smaller_slice():
  aims = domains.targets([('a', 'b'), ('a', 'b', 'c', 'd')], dict.fromkeys('abcd', 5))
  images = np.repeat(np.arange(4), 5)
  kernel, bias = domains.fit_head(np.eye(4, dtype=np.float32)[images], aims[images])
  probable = scipy.special.softmax(kernel + bias, axis=1)
  np.testing.assert_allclose(probable[:2], [[2 / 3, 1 / 3]] * 2, atol=1e-2)
  np.testing.assert_allclose(probable[2:], [[0, 1]] * 2, atol=1e-2)
  found = domains.scores((kernel + bias)[images], aims[images])
  assert found['top1'] == pytest.approx(1)
  assert found['cross_entropy'] == pytest.approx(found['least_cross_entropy'], abs=1e-2)
