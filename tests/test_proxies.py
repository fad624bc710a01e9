"""Proxies: what embeddings are worth to a task, and whether one is better than another."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from selection import compare
from selection import neighbors
from selection import proxies

SHAPES = [(60, 7), (60, 60), (40, 90)]  # more, as many, and fewer examples than features


def task(seed=0, number=60, features=7, classes=4, spread=1.):
  """Embeddings that say something of their labels, away from the origin and correlated."""
  random = np.random.default_rng(seed)
  labels = np.concatenate([np.arange(classes), random.integers(0, classes, number - classes)])
  labels = random.permutation(labels)
  centres = random.normal(size=(classes, features))
  points = centres[labels] + spread * random.normal(size=(number, features))
  return points @ random.normal(size=(features, features)) + random.normal(size=features), labels


def one_hot(labels):
  return (labels[:, None] == np.unique(labels)).astype(np.float64)


# ---- kNN


def test_votes_by_hand():
  near = np.array([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 0, 1]])
  labels = np.array([0, 0, 1, 1])
  # k=1: the nearest of 0 is 1 (same), of 1 is 0 (same), of 2 is 3 (same), of 3 is 2 (same).
  assert proxies.leave_one_out_correct(near, labels, 1).tolist() == [True] * 4
  # k=3: 0 sees 0,1,1; 1 sees 0,1,1; 2 sees 1,0,0; 3 sees 1,0,0.
  assert proxies.leave_one_out_correct(near, labels, 3).tolist() == [False] * 4
  # k=2: ties go to the nearest.
  assert proxies.leave_one_out_correct(near, labels, 2).tolist() == [True] * 4


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@hypothesis.settings(max_examples=30)
def test_votes_equal_a_count_one_by_one(seed, k):
  random = np.random.default_rng(seed)
  points, labels = random.normal(size=(25, 3)), random.integers(0, 3, 25)
  near = neighbors.ExactIndex(points).others(6)
  wanted = []
  for i in range(25):
    votes = labels[near[i, :k]].tolist()
    wanted.append(max(votes, key=lambda v: (votes.count(v), -votes.index(v))) == labels[i])
  assert proxies.leave_one_out_correct(near, labels, k).tolist() == wanted


def test_margins_by_hand():
  points, labels = np.array([[0.], [1.], [3.], [4.]]), np.array([0, 0, 1, 0])
  near = neighbors.ExactIndex(points).others(3)
  # 0: own at 1, other at 9. 1: own at 1, other at 4. 3: other at 1, own at 9. The point at 3 is
  # alone: its class is taken to be as far as the last, at 9, and another is at 1.
  assert proxies.leave_one_out_margins(near, points, labels).tolist() == pytest.approx(
      [(9 - 1) / 10, (4 - 1) / 5, (1 - 9) / 10, (1 - 9) / 10])
  # Of 1 the two nearest, at 1 and 4, are known.
  assert proxies.leave_one_out_margins(near[:, :2], points, labels)[1] == pytest.approx(3 / 5)
  assert proxies.leave_one_out_margins(near, np.zeros((4, 1)), labels).tolist() == [0] * 4


@pytest.mark.parametrize('distance', proxies.DISTANCES)
def test_the_margin_says_by_its_sign_what_the_nearest_says_and_scale_does_not_matter(distance):
  points, labels = task(3, number=150)
  proxy = proxies.Knn(distance=distance, graded=True)
  score = proxy(points, labels)
  assert ((score.graded > 0) == score.correct).all()
  assert np.abs(score.graded).max() <= 1
  np.testing.assert_allclose(proxy(7 * points, labels).graded, score.graded, rtol=1e-6)
  plain = proxies.Knn(distance=distance)(points, labels)
  assert (plain.value, plain.graded) == (score.value, None)
  # Margins by all the others, not by the ten nearest: as large or larger, of the same sign.
  placed = points / (np.linalg.norm(points, axis=1, keepdims=True) if distance == 'cosine' else 1)
  every = proxies.leave_one_out_margins(proxy.others(points, 149), placed, labels)
  assert (np.sign(every) == np.sign(score.graded)).all()
  assert (np.abs(every) >= np.abs(score.graded) - 1e-9).all()


def test_the_standard_error_is_that_of_a_coin():
  correct = np.array([True] * 30 + [False] * 10)
  assert proxies.standard_error(correct) == pytest.approx((0.75 * 0.25 / 40) ** 0.5)
  score = proxies.accuracy(correct)
  assert (score.value, score.stderr) == (0.75, proxies.standard_error(correct))
  assert score.correct.tolist() == correct.tolist()


@pytest.mark.parametrize('distance', ['euclidean', 'cosine'])
def test_knn_is_right_where_the_nearest_other_is_of_the_same_class(distance):
  points, labels = task()
  apart = np.zeros((60, 60))
  for i in range(60):
    for j in range(60):
      if distance == 'euclidean':
        apart[i, j] = np.linalg.norm(points[i] - points[j])
      else:
        apart[i, j] = 1 - points[i] @ points[j] / (
            np.linalg.norm(points[i]) * np.linalg.norm(points[j]))
  np.fill_diagonal(apart, np.inf)
  score = proxies.Knn(1, distance)(points, labels)
  wanted = labels[apart.argmin(1)] == labels
  assert score.correct.tolist() == wanted.tolist()
  assert score.value == pytest.approx(wanted.mean())
  assert 0.2 < score.value < 1


def test_cosine_sees_directions_where_euclidean_sees_lengths():
  points = np.array([[1., 0.], [100., 1.], [0., 1.], [1., 100.], [0., 0.], [0., 0.]])
  labels = np.array([0, 0, 1, 1, 2, 2])
  assert proxies.Knn(1, 'cosine')(points, labels).correct.all()
  # The two near the origin have a zero as their nearest, all others one of their own.
  assert proxies.Knn()(points, labels).correct.tolist() == [False, True] * 2 + [True] * 2


# ---- ridge


@pytest.mark.parametrize(('number', 'features'), SHAPES)
@pytest.mark.parametrize('penalty', [proxies.PENALTIES[0], 0.1, proxies.PENALTIES[-1]])
def test_leaving_one_out_in_closed_form_equals_as_many_fits(number, features, penalty):
  points, labels = task(1, number, features)
  targets = one_hot(labels)
  penalty *= np.square(points - points.mean(0)).sum() / min(number, features)
  wanted = np.zeros_like(targets)
  for i in range(number):
    kept = np.delete(np.arange(number), i)
    mean, target_mean = points[kept].mean(0), targets[kept].mean(0)
    # Penalised least squares as plain least squares with rows added, by another solver.
    rows = np.concatenate([points[kept] - mean, penalty ** 0.5 * np.eye(features)])
    right = np.concatenate([targets[kept] - target_mean, np.zeros((features, 4))])
    weights = np.linalg.lstsq(rows, right)[0]
    wanted[i] = target_mean + (points[i] - mean) @ weights
  found = proxies.leave_one_out_ridge(points, labels, penalty)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
  np.testing.assert_allclose(found.sum(1), 1, atol=1e-10)


def test_ridge_by_hand():
  # Without 0 the line through (1, 0), (2, 1), (3, 1) has mean (2, 2/3), slope 1 / (2 + 1).
  found = proxies.leave_one_out_ridge([[0.], [1.], [2.], [3.]], [0, 0, 1, 1], 1.)
  assert found[0].tolist() == pytest.approx([1., 0.])
  # Without 1 the line through (0, 0), (2, 1), (3, 1): mean (5/3, 2/3), slope (5/3) / (14/3 + 1).
  assert found[1, 1] == pytest.approx(2 / 3 - 2 / 3 * 5 / 17)


def test_ridge_takes_the_penalty_with_the_least_squared_error():
  for spread in (0.1, 1., 10.):
    points, labels = task(2, spread=spread)
    targets = one_hot(labels)
    scale = np.linalg.eigvalsh(np.cov(points.T, ddof=0) * 60).mean()
    tried = [proxies.leave_one_out_ridge(points, labels, scale * p) for p in proxies.PENALTIES]
    best = min(tried, key=lambda predicted: np.square(predicted - targets).sum())
    score = proxies.Ridge(graded=True)(points, labels)
    np.testing.assert_allclose(score.graded, -np.square(best - targets).sum(1), rtol=1e-9)
    # Beside the features' part stand the frequencies of all, not of all but the left-out.
    best = best + (targets - targets.mean(0)) / 59
    assert score.correct.tolist() == (best.argmax(1) == targets.argmax(1)).tolist()
    assert score.value == score.correct.mean()
    assert proxies.Ridge()(points, labels).graded is None, 'kept only where they are asked for'


def test_ridge_tells_apart_what_a_line_can():
  random = np.random.default_rng(0)
  points, labels = random.normal(size=(100, 10)), np.arange(100) % 2
  points[:, 3] += 20 * labels
  assert proxies.Ridge()(points, labels).value == 1


@pytest.mark.parametrize('classes', [2, 20])
def test_ridge_is_right_by_chance_where_embeddings_say_nothing(classes):
  # Plain leave-one-out is wrong of nearly all: the left-out's class is the rarest of those left.
  random = np.random.default_rng(0)
  labels = np.arange(400) % classes
  values = [proxies.Ridge()(random.normal(size=(400, 10)), labels).value for _ in range(20)]
  assert np.mean(values) == pytest.approx(1 / classes, abs=0.02)
  assert proxies.Ridge()(np.full((400, 10), 0.1), labels).value == 1 / classes
  often = proxies.Ridge()(np.full((400, 10), 0.1), np.arange(400) % 10 == 0)
  assert often.value == 0.9


def test_ridge_wants_a_penalty():
  with pytest.raises(ValueError, match=r'penalty is 0; it must be above 0'):
    proxies.leave_one_out_ridge(np.eye(3), [0, 1, 1], 0)


# ---- LogME


def log_normal(y, points, alpha, beta):
  """ln N(y; 0, I / beta + F F' / alpha), straight from its definition."""
  covariance = np.eye(len(y)) / beta + points @ points.T / alpha
  return -0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1]
                 + y @ np.linalg.solve(covariance, y))


def published_fixed_point(y, points):
  """Algorithm 1 of arXiv 2102.11005, run on until nothing moves: alpha and beta."""
  u, s, _ = np.linalg.svd(points, full_matrices=False)
  sigma, x2 = s ** 2, (u.T @ y) ** 2
  rest = max(y @ y - x2.sum(), 0)
  alpha = beta = 1.
  for _ in range(500):
    t = alpha / beta
    gamma = (sigma / (sigma + t)).sum()
    m2 = (sigma * x2 / (t + sigma) ** 2).sum()
    e2 = (x2 / (1 + sigma / t) ** 2).sum() + rest
    alpha, beta = gamma / m2, (len(y) - gamma) / e2
  return alpha, beta


@pytest.mark.parametrize(('number', 'features'), [(100, 12), (60, 60), (50, 150)])
def test_logme_is_the_exact_marginal_likelihood_at_its_fixed_point(number, features):
  points, labels = task(3, number, features, classes=3, spread=2.)
  found = proxies.log_evidence(points, one_hot(labels))
  wanted = [log_normal(y, points, *published_fixed_point(y, points)) for y in one_hot(labels).T]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert proxies.LogME()(points, labels).value == pytest.approx(
      np.mean(wanted) / number, rel=1e-6)


def test_logme_counts_the_directions_without_data():
  # One example, two features: y ~ N(0, 1/beta + 4/alpha), at most at variance y^2 = 1. The
  # public code forgets ln alpha of the feature that the example says nothing of.
  assert proxies.log_evidence([[2., 0.]], [[1.]])[0] == pytest.approx(
      -0.5 * np.log(2 * np.pi) - 0.5)


@pytest.mark.parametrize(('number', 'features'), [(100, 12), (50, 150)])
def test_no_other_alpha_and_beta_give_more_evidence(number, features):
  points, labels = task(4, number, features, classes=3, spread=2.)
  y = one_hot(labels)[:, 0]
  found = proxies.log_evidence(points, y[:, None])[0]
  alpha, beta = published_fixed_point(y, points)
  assert found == pytest.approx(log_normal(y, points, alpha, beta), rel=1e-9)
  for one in np.exp([-3, -1, -0.1, 0, 0.1, 1, 3]):
    for other in np.exp([-3, -1, -0.1, 0, 0.1, 1, 3]):
      assert log_normal(y, points, alpha * one, beta * other) <= found + 1e-9


def test_of_several_maxima_the_greatest_is_taken_whatever_the_unit_of_embeddings():
  # Five strong features and twenty weak ones, an example each, and ten examples without any:
  # either alpha suits the strong and the weak are noise, or it suits the weak. The published
  # iteration starts from alpha = beta = 1 and ends in one or the other as the unit has it.
  points = np.diag([1e3] * 5 + [1.] * 20 + [0.] * 10)
  y = np.array([1.] * 25 + [0.1] * 10)
  reached = [log_normal(y, unit * points, *published_fixed_point(y, unit * points))
             for unit in (1., 1e-4)]
  assert reached[0] + 5 < reached[1]
  for unit in (1., 1e-4):
    assert proxies.log_evidence(unit * points, y[:, None])[0] == pytest.approx(reached[1])


def test_logme_of_embeddings_that_say_nothing_is_that_of_noise_alone():
  # y ~ N(0, I / beta), greatest at beta = N / |y|^2.
  labels = np.array([0] * 30 + [1] * 10)
  noise = [-20 * (np.log(2 * np.pi * np.e * count / 40)) for count in (30, 10)]
  assert proxies.LogME()(np.zeros((40, 5)), labels).value == pytest.approx(np.mean(noise) / 40)
  # Orthogonal to the targets: alpha would rise without end.
  points = np.zeros((40, 1))
  points[:2, 0] = points[30:32, 0] = 1, -1
  np.testing.assert_allclose(proxies.log_evidence(points, one_hot(labels)), noise, rtol=1e-7)


@pytest.mark.parametrize('make', [
    one_hot,                                                       # a perfect fit
    lambda labels: 1e6 * np.repeat(one_hot(labels), 40, axis=1),   # one with N < D, rank 3
    lambda labels: np.ones((30, 4)),                               # the same everywhere
    lambda labels: np.zeros((30, 4)),
    lambda labels: np.arange(30.)[:, None] * [[1, 2, 3]],          # rank 1
    lambda labels: np.eye(30),                                     # as many features
    lambda labels: 1e-20 * task(0, 30, 50)[0],
    lambda labels: np.where(np.arange(30)[:, None] == 3, 100, 0.1) * np.ones((30, 4)),
    lambda labels: np.where(np.arange(30)[:, None] == 3, 100, 0.1) * np.ones((30, 40)),
], ids=['perfect', 'perfect-wide', 'constant', 'zero', 'rank-1', 'identity', 'tiny', 'outlier',
        'outlier-wide'])
@pytest.mark.parametrize('name', proxies.NAMES)
def test_degenerate_embeddings_still_get_a_finite_score(name, make):
  labels = np.array([0] * 17 + [1] * 12 + [2])  # of the last class there is one example
  proxy, = proxies.make([name])
  with np.errstate(all='raise', under='ignore'):
    score = proxy(make(labels), labels)
  assert np.isfinite([score.value, score.stderr]).all()
  if score.replicates is not None:
    assert np.isfinite(score.replicates).all()


def test_a_perfect_fit_has_much_evidence_but_bounded():
  labels = np.arange(50) % 2
  points = one_hot(labels)
  points[0] += 1e-3  # explains all but a thousandth
  nearly = proxies.LogME()(points, labels).value
  perfect = proxies.LogME()(one_hot(labels), labels).value
  assert 5 < nearly < perfect < 10


# ---- H-score


@pytest.mark.parametrize(('number', 'features'), [*SHAPES, (30, 1)])
def test_h_score_is_its_definition_with_the_covariance_of_scikit_learn(number, features):
  import sklearn.covariance
  points, labels = task(5, number, features)
  covariance, shrinkage = sklearn.covariance.ledoit_wolf(points)
  between = np.zeros((features, features))
  for label in range(4):
    gap = points[labels == label].mean(0) - points.mean(0)
    between += (labels == label).mean() * np.outer(gap, gap)
  wanted = (1 - shrinkage) * np.trace(np.linalg.solve(covariance, between))
  assert proxies.HScore()(points, labels).value == pytest.approx(wanted, rel=1e-9)
  assert 0 < shrinkage < 1 or features == 1


def test_h_score_by_hand():
  # One feature is not shrunk: variance between classes 4, of all 4 + 1.
  assert proxies.HScore()([[1.], [3.], [5.], [7.]], [0, 0, 1, 1]).value == pytest.approx(4 / 5)
  assert proxies.HScore()(np.full((4, 3), 0.1), [0, 0, 1, 1]).value == 0
  # Of two examples nothing is shrunk either: all the variance there is lies between classes.
  for features in (2, 3):
    assert proxies.HScore()([[0.] * features, [1.] * features], [0, 1]).value == pytest.approx(1)


# ---- noise


@pytest.mark.parametrize(('number', 'features'), [(63, 7), (40, 90)])
@pytest.mark.parametrize('name', ['logme', 'hscore'])
def test_replicates_equal_the_proxy_on_what_is_left(name, number, features):
  points, labels = task(6, number, features, classes=5)
  labels[labels == 4] = 0
  labels[7] = 4  # the only one of its class: without its group there is a class less
  proxy, = proxies.make([name])
  score = proxy(points, labels)
  wanted = [proxy(points[kept], labels[kept]).value
            for kept in (np.arange(number) % 10 != g for g in range(10))]
  np.testing.assert_allclose(score.replicates, wanted, rtol=1e-8)
  deviation = wanted - np.mean(wanted)
  assert score.stderr == pytest.approx((9 / 10 * np.square(deviation).sum()) ** 0.5)


def test_the_jackknife_of_a_mean_is_the_standard_error_of_a_mean():
  values = np.random.default_rng(0).normal(size=30)
  without = [np.delete(values, i).mean() for i in range(30)]
  assert proxies.jackknife_error(without) == pytest.approx(np.std(values, ddof=1) / 30 ** 0.5)


@pytest.mark.parametrize('name', ['logme', 'hscore'])
def test_the_jackknife_finds_the_spread_over_fresh_samples(name):
  proxy, = proxies.make([name])
  random = np.random.default_rng(0)
  centres = random.normal(size=(3, 4))
  scores = []
  for _ in range(60):
    labels = random.integers(0, 3, 150)
    scores.append(proxy(centres[labels] + 1.5 * random.normal(size=(150, 4)), labels))
  spread = np.std([score.value for score in scores])
  stated = np.mean([score.stderr ** 2 for score in scores]) ** 0.5
  assert 0.7 < stated / spread < 1.5


def test_few_examples_make_as_many_groups():
  points, labels = task(7, 6, 2, 2)
  assert len(proxies.LogME()(points, labels).replicates) == 6
  assert [g.tolist() for g in proxies.leave_groups_out(12)][:3] == [[0, 10], [1, 11], [2]]


# ---- invariances


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from(SHAPES),
                  st.sampled_from(proxies.NAMES))
@hypothesis.settings(max_examples=25)
def test_order_rotation_scale_and_names_of_classes_change_no_score(seed, shape, name):
  random = np.random.default_rng(seed)
  points, labels = task(seed, *shape)
  features = shape[1]
  turn, _ = np.linalg.qr(random.normal(size=(features, features)))
  order, names = random.permutation(len(labels)), random.permutation(9)
  proxy, = proxies.make([name], k=3)
  score = proxy(points, labels)
  for changed in (proxy(points[order], labels[order]), proxy(points @ turn, labels),
                  proxy(1e-3 * points, labels), proxy(1e3 * points, labels),
                  proxy(points, names[labels])):
    assert changed.value == pytest.approx(score.value, rel=1e-6, abs=1e-6)
  if proxy.outcomes:
    moved = proxy(points @ turn + random.normal(size=features), labels)
    assert moved.correct.tolist() == score.correct.tolist()
    assert proxy(points[order], labels[order]).correct.tolist() == score.correct[order].tolist()


@pytest.mark.parametrize('name', ['knn', 'ridge', 'logme'])
@pytest.mark.parametrize('features', [30, 100])
def test_directions_without_data_change_no_score(name, features):
  # A mean eigenvalue that counted them, or only those that rounding leaves above 0, would.
  proxy, = proxies.make([name])
  for seed in range(10):
    random = np.random.default_rng(seed)
    points, labels = task(seed, spread=3.)
    turn, _ = np.linalg.qr(random.normal(size=(features, features)))
    padded = np.pad(points, [(0, 0), (0, features - 7)]) @ turn
    assert proxy(padded, labels).value == pytest.approx(proxy(points, labels).value, rel=1e-6)


@pytest.mark.parametrize('name', proxies.NAMES)
def test_float32_and_lists_are_taken_and_nothing_is_written_into(name):
  points, labels = task(8)
  points = points.astype(np.float32)
  proxy, = proxies.make([name])
  before = points.copy()
  points.setflags(write=False)
  score = proxy(points, labels)
  np.testing.assert_array_equal(points, before)
  assert score.value == proxy(points.astype(np.float64), labels.tolist()).value
  assert (score.correct is not None) == proxy.outcomes
  assert (score.replicates is not None) != proxy.outcomes


@pytest.mark.parametrize('name', proxies.NAMES)
def test_better_embeddings_get_a_better_score(name):
  proxy, = proxies.make([name])
  good, labels = task(9, 200, 10, spread=0.5)
  bad, _ = task(9, 200, 10, spread=4.)
  assert proxy(good, labels).value > proxy(bad, labels).value
  assert compare.beats(proxy(good, labels), proxy(bad, labels))


# ---- which proxies there are


def test_proxies_are_made_by_name_in_the_order_given():
  made = proxies.make(['logme', 'knn', 'hscore', 'ridge'], k=5, distance='cosine')
  assert [proxy.name for proxy in made] == ['logme', 'knn', 'hscore', 'ridge']
  assert [proxy.title for proxy in made] == ['LogME', '5-NN (cosine)', 'H-score', 'ridge']
  assert [proxy.unit for proxy in made] == ['', '%', '', '%']
  assert [proxy.outcomes for proxy in made] == [False, True, False, True]
  assert made[1] == proxies.Knn(5, 'cosine', 'auto')


@pytest.mark.parametrize(('names', 'settings', 'complaint'), [
    ([], {}, 'no proxy: give one or more of knn, ridge, logme, hscore.'),
    (['knn', 'leep'], {}, "unknown proxy 'leep': it must be one of knn, ridge, logme, hscore."),
    (['knn', 'ridge', 'knn'], {}, "proxy 'knn' is given twice: give each once."),
    (['knn'], {'k': 0}, 'k is 0; it must be 1 or more.'),
    (['knn'], {'distance': 'l1'}, "distance is 'l1'; it must be euclidean or cosine."),
])
def test_what_cannot_be_made_is_said_in_one_line(names, settings, complaint):
  with pytest.raises(ValueError) as error:
    proxies.make(names, **settings)
  assert str(error.value) == complaint


@pytest.mark.parametrize('name', proxies.NAMES)
def test_examples_and_labels_must_go_together(name):
  proxy, = proxies.make([name])
  with pytest.raises(ValueError, match=r'^4 .* but 3 labels\.$'):
    proxy(np.eye(4), [0, 1, 1])
  with pytest.raises(ValueError):
    proxy(np.eye(1), [0])


def test_agreement_of_two_proxies(recwarn):
  # Of six pairs five are in the same order and one is not.
  assert proxies.kendall([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.3]) == pytest.approx(4 / 6)
  assert proxies.kendall([1, 2, 3], [3, 4, 9]) == pytest.approx(1)
  # Of three pairs two are in the same order and one is a tie in the second only.
  assert proxies.kendall([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / 6 ** 0.5)
  assert proxies.kendall([1, 2, 3], [5, 5, 5]) is None
  assert proxies.kendall([1, np.nan, 3], [1, 2, 3]) is None
  assert proxies.kendall([1], [1]) is None
  assert proxies.kendall([], []) is None
  assert not recwarn.list


# ---- comparing


def test_mcnemar_by_hand():
  # Nine examples only one gets right, one only the other: 2 * (1 + 10) / 2^10.
  one = np.array([True] * 9 + [False] + [True] * 90)
  other = np.array([False] * 9 + [True] + [True] * 90)
  assert compare.mcnemar(one, other) == pytest.approx(22 / 1024)
  assert compare.mcnemar(one, one) == 1
  one, other = proxies.accuracy(one), proxies.accuracy(other)
  assert compare.beats(one, other)
  assert not compare.beats(other, one)
  found = compare.paired(one, other)
  assert found['gain'] == pytest.approx(0.08)
  difference = [1] * 9 + [-1] + [0] * 90
  assert found['stderr'] == pytest.approx(np.std(difference) / 10)
  assert found['p'] == pytest.approx(22 / 1024)


def test_the_best_of_many_must_be_better_by_more():
  one = proxies.accuracy([True] * 9 + [False] + [True] * 90)
  other = proxies.accuracy([False] * 9 + [True] + [True] * 90)
  assert compare.beats(one, other, tried=2)      # p = 0.0215 of 0.05 / 2
  assert not compare.beats(one, other, tried=3)  # of 0.05 / 3


@pytest.mark.parametrize('name', ['logme', 'hscore'])
def test_scores_without_outcomes_are_compared_group_by_group(name):
  import scipy.stats
  proxy, = proxies.make([name])
  points, labels = task(10, 90, 6)
  noisy = points + 1.5 * np.random.default_rng(0).normal(size=points.shape)
  differences = [proxy(points[kept], labels[kept]).value - proxy(noisy[kept], labels[kept]).value
                 for kept in (np.arange(90) % 10 != g for g in range(10))]
  one, other = proxy(points, labels), proxy(noisy, labels)
  found = compare.paired(one, other)
  assert found['gain'] == pytest.approx(one.value - other.value)
  stderr = (9 / 10 * np.square(differences - np.mean(differences)).sum()) ** 0.5
  assert found['stderr'] == pytest.approx(stderr, rel=1e-6)
  # A t-test of ten differences about the gain is one of pseudo-values with its mean there.
  pseudo = found['gain'] - 9 * (differences - np.mean(differences))
  assert found['p'] == pytest.approx(scipy.stats.ttest_1samp(pseudo, 0).pvalue, rel=1e-6)
  assert compare.beats(one, other) == (found['p'] < 0.05)
  assert not compare.beats(other, one)


def test_on_means_the_jackknife_and_the_outcomes_tell_the_same():
  random = np.random.default_rng(0)
  ratios, close = [], []
  for _ in range(200):
    one, other = random.random(400) < 0.75, random.random(400) < 0.7
    outcomes = compare.paired(proxies.accuracy(one), proxies.accuracy(other))
    grouped = compare.paired(*(
        proxies.Score(float(right.mean()), 0., replicates=np.array([
            np.delete(right, group).mean() for group in proxies.leave_groups_out(400)]))
        for right in (one, other)))
    assert grouped['gain'] == pytest.approx(outcomes['gain'])
    ratios.append((grouped['stderr'] / outcomes['stderr']) ** 2)
    close.append((grouped['p'] < 0.05) == (outcomes['p'] < 0.05))
  assert np.mean(ratios) == pytest.approx(1, abs=0.1)
  assert np.mean(close) > 0.8


@pytest.mark.parametrize('name', proxies.NAMES)
def test_an_expert_does_not_beat_itself(name):
  proxy, = proxies.make([name])
  score = proxy(*task(11))
  assert compare.paired(score, score) == {'gain': 0, 'stderr': 0, 'p': 1}
  assert not compare.beats(score, score)


@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from(['ridge', 'logme']))
@hypothesis.settings(max_examples=20)
def test_the_other_way_round_only_the_sign_changes(seed, name):
  proxy, = proxies.make([name])
  points, labels = task(seed)
  one, other = proxy(points, labels), proxy(points[:, :4], labels)
  there, back = compare.paired(one, other), compare.paired(other, one)
  assert back == {'gain': -there['gain'], 'stderr': pytest.approx(there['stderr']),
                  'p': pytest.approx(there['p'])}


def test_a_gain_without_any_noise_is_certain():
  one, other = (proxies.Score(value, 0., replicates=np.full(10, value)) for value in (2., 1.))
  assert compare.paired(one, other) == {'gain': 1, 'stderr': 0, 'p': 0}
  assert compare.beats(one, other, tried=1000)


def test_scores_of_different_proxies_or_examples_cannot_be_paired():
  points, labels = task(12)
  knn, logme = (proxy(points, labels) for proxy in proxies.make(['knn', 'logme']))
  for other in (logme, proxies.Knn()(points[:50], labels[:50])):
    with pytest.raises(ValueError, match='compare scores of one proxy on the same examples'):
      compare.paired(knn, other)
