"""Proxies: how well frozen embeddings would serve a task, without training.

A proxy is called with embeddings and labels and returns a `Score`. It has a `name`, a `title`
and a `unit` for tables, and `outcomes`: whether its score says which examples it got right.
Shapes: N examples, D features, C classes, R groups of examples. All is computed in float64,
with the smaller of the Gram matrices F'F [D, D] and FF' [N, N].
"""

import dataclasses

import numpy as np

from selection import neighbors

NAMES = ('knn', 'ridge', 'logme', 'hscore')
DISTANCES = ('euclidean', 'cosine')
GROUPS = 10  # of the jackknife
GRADED_BY = 10  # neighbours by which 1-NN's margins are known
PENALTIES = 10 ** np.arange(-4, 3.1, 0.5)  # of ridge, in mean eigenvalues
TINY = 1e-12  # of the largest eigenvalue: smaller ones are rounding
SPAN = np.log(1e8)  # of alpha / beta in LogME, either way from the mean eigenvalue
STEP = 0.5  # between the values of ln(alpha / beta) from which its maximum is sought


@dataclasses.dataclass(frozen=True)
class Score:
  """What a proxy says of one expert's embeddings.

  Attributes:
    value: higher is better; comparable between experts on the same examples.
    stderr: standard error of value.
    correct: bool [N], which examples were classified correctly when left out; None for a
      proxy that does not classify.
    graded: float64 [N], how right it was of each example left out, higher is better; None unless
      it was asked for, of a proxy that can say so.
    replicates: float [R], value without each group of examples (see `leave_groups_out`);
      None where `correct` says more.
    recall: share of the nearest neighbours that approximate search found, on a sample; None
      where search was exact.
  """
  value: float
  stderr: float
  correct: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
  graded: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
  replicates: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
  recall: float | None = None

  def jackknife(self):
    """The value, then those without each group of examples: float64 [1 + R]."""
    if self.correct is not None:
      return means(self.correct)
    return np.array([self.value, *self.replicates])


def make(names, k=1, distance='euclidean', method='auto'):
  """The proxies of these names.

  Args:
    names: some of `NAMES`.
    k, distance, method: of kNN, see `Knn`.

  Returns:
    A list of proxies, in the order of the names.

  Raises:
    ValueError: no name, an unknown or repeated one, k below 1, or an unknown distance.
  """
  names = list(names)
  check_names(names, NAMES)
  if k < 1:
    raise ValueError(f'k is {k}; it must be 1 or more.')
  if distance not in DISTANCES:
    raise ValueError(f'distance is {distance!r}; it must be {" or ".join(DISTANCES)}.')
  built = {proxy.name: proxy for proxy in (Knn(k, distance, method), Ridge(), LogME(), HScore())}
  return [built[name] for name in names]


def check_names(names, known):
  """Raises ValueError unless there are names, each of them known and given once."""
  if not names:
    raise ValueError(f'no proxy: give one or more of {", ".join(known)}.')
  for i, name in enumerate(names):
    if name not in known:
      raise ValueError(f'unknown proxy {name!r}: it must be one of {", ".join(known)}.')
    if name in names[:i]:
      raise ValueError(f'proxy {name!r} is given twice: give each once.')


def kendall(one, other):
  """Agreement of two proxies: Kendall's tau-b of their values over the same experts.

  Args:
    one, other: float [E] each.

  Returns:
    A float in -1..1, 1 for the same order; None where it is undefined: fewer than two
    experts, one proxy that says the same of all, or a value that is NaN.
  """
  import scipy.stats
  if len(one) < 2:
    return None  # of which scipy would warn
  tau = scipy.stats.kendalltau(one, other).statistic
  return None if np.isnan(tau) else float(tau)


def accuracy(correct):
  """The `Score` of outcomes, bool [N]: their mean."""
  correct = np.asarray(correct, bool)
  return Score(float(correct.mean()), standard_error(correct), correct)


def standard_error(correct):
  """Standard error of the mean of outcomes [N], a float."""
  return float(np.std(correct) / np.sqrt(len(correct)))


@dataclasses.dataclass(frozen=True)
class Knn:
  """Leave-one-out accuracy of the k nearest (arXiv 2009.13239, section 3).

  Attributes:
    k: how many neighbours vote, 1..N-1.
    distance: 'euclidean', or 'cosine': Euclidean between embeddings scaled to unit length,
      which have the same nearest. Embeddings of zeros stay zeros.
    method: of neighbour search, as in `selection.neighbors.index`.
    graded: whether the `Score` grades each example, by `leave_one_out_margins`.
  """
  k: int = 1
  distance: str = 'euclidean'
  method: str = 'auto'
  graded: bool = False
  name = 'knn'
  unit = '%'
  outcomes = True

  @property
  def title(self):
    return f'{self.k}-NN' + (' (cosine)' if self.distance == 'cosine' else '')

  def __call__(self, embeddings, labels):
    embeddings = self._placed(embeddings)
    index = neighbors.index(embeddings, self.method)
    near = index.others(max(self.k, min(GRADED_BY, len(labels) - 1)) if self.graded else self.k)
    recall = None if index.exact else neighbors.recall(near, embeddings)
    graded = leave_one_out_margins(near, embeddings, labels) if self.graded else None
    score = accuracy(leave_one_out_correct(near, labels, self.k))
    return dataclasses.replace(score, graded=graded, recall=recall)

  def others(self, embeddings, count):
    """The nearest others of each embedding.

    Args:
      embeddings: [N, D], any float.
      count: 1..N-1.

    Returns:
      int64 [N, count]: indices, nearest first.
    """
    return neighbors.index(self._placed(embeddings), self.method).others(count)

  def _placed(self, embeddings):
    """The embeddings between which Euclidean distance is meant."""
    if self.distance == 'euclidean':
      return embeddings
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)


def leave_one_out_correct(neighbors, labels, k=1):
  """Which examples their nearest others classify correctly.

  Args:
    neighbors: int [N, M], M >= k; row i holds the indices of i's nearest examples, nearest
      first, without i itself.
    labels: int [N], class of each example.
    k: how many neighbours vote; among the classes with most votes the nearest wins.

  Returns:
    bool [N]. Its mean is the proxy of section 3 of arXiv 2009.13239; paired over experts
    it says which of two is better (see `selection.compare`).

  Raises:
    ValueError: k is below 1 or above M, or the lengths differ.
  """
  neighbors, labels = np.asarray(neighbors), np.asarray(labels)
  if len(neighbors) != len(labels):
    raise ValueError(f'{len(neighbors)} rows of neighbours but {len(labels)} labels.')
  if not 1 <= k <= neighbors.shape[1]:
    raise ValueError(f'k is {k}; it must be in 1..{neighbors.shape[1]}.')
  votes = labels[neighbors[:, :k]]
  # votes[i, j] wins by its count; argmax takes the first, hence the nearest, of equals.
  counts = (votes[:, :, None] == votes[:, None, :]).sum(2)
  chosen = votes[np.arange(len(votes)), counts.argmax(1)]
  return chosen == labels


def leave_one_out_margins(near, embeddings, labels):
  """By what margin 1-NN classifies each example: its sign says whether rightly.

  The relative distance of Sato and Yamada ("Generalized learning vector quantization", 1995):
  (b - a) / (b + a), where a is the squared distance to the nearest other of the same class and
  b that to the nearest of another class. What is not among the neighbours is taken to be as far
  as the last of them.

  Args:
    near: int [N, M], row i the nearest others of i, nearest first.
    embeddings: float32 or float64 [N, D].
    labels: int64 [N], class of each example.

  Returns:
    float64 [N], in -1..1.
  """
  squares = neighbors.distances(embeddings, embeddings, near)
  same = labels[near] == labels[:, None]
  own, other = (np.where(which, squares, squares[:, -1:]).min(1) for which in (same, ~same))
  return (other - own) / np.maximum(other + own, np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Ridge:
  """Leave-one-out accuracy of a linear classifier: ridge regression on one-hot targets.

  Of `PENALTIES` times the mean eigenvalue of the centred Gram matrix, the one with the least
  leave-one-out squared error is taken. Class frequencies, from which the features' part
  departs, are those of all examples: without its own label each example's class looks rarer
  than it is, and embeddings that say nothing would be wrong of every example in balanced
  classes, where they should be right by chance.

  Attributes:
    graded: whether the `Score` grades each example, by minus the squared error of what is
      predicted of its one-hot target.
  """
  graded: bool = False
  name = 'ridge'
  title = 'ridge'
  unit = '%'
  outcomes = True

  def __call__(self, embeddings, labels):
    points, targets = _checked(embeddings, labels)
    scale, apart, fit = _ridge(points, targets)

    def errors(penalty):
      fitted, own = fit(penalty)
      fitted -= apart
      return np.einsum('nc,nc->n', fitted, fitted) / np.square(1 - 1 / len(own) - own)

    penalty, least = min(((one, errors(one)) for one in scale * PENALTIES),
                         key=lambda tried: tried[1].sum())
    decided = targets.mean(0) + _added(apart, *fit(penalty))
    score = accuracy(decided.argmax(1) == targets.argmax(1))
    return dataclasses.replace(score, graded=-least) if self.graded else score


def leave_one_out_ridge(embeddings, labels, penalty):
  """What ridge regression, with an unpenalised intercept, predicts of each example left out.

  In closed form: with H the matrix that takes targets to fitted values, the error at a
  left-out example is its fitted error over 1 - H_ii (Allen 1974).

  Args:
    embeddings: [N, D], any float.
    labels: int [N].
    penalty: above 0, on the squared weights beside the sum of squared errors.

  Returns:
    float64 [N, C]: of the C distinct labels in increasing order, the predicted one-hot
    targets. Each row sums to 1.

  Raises:
    ValueError: penalty is not above 0, the lengths differ, or there is one example only.
  """
  if not penalty > 0:
    raise ValueError(f'penalty is {penalty}; it must be above 0.')
  points, targets = _checked(embeddings, labels)
  _, apart, fit = _ridge(points, targets)
  others = targets.mean(0) - apart / (len(points) - 1)  # mean of the others' targets
  return others + _added(apart, *fit(penalty))


def _ridge(points, targets):
  """Prepares ridge regression with an intercept.

  Returns:
    The mean eigenvalue that is not 0 (or 1), the targets less their mean [N, C], and a
    function from penalty to what is fitted to these [N, C] and H_ii - 1/N [N].
  """
  points = _centred(points)
  # One eigendecomposition serves every penalty: FF' = QQ', where the columns of Q are
  # orthogonal with the eigenvalues as squared lengths, so H = 11'/N + Q(Q'Q + penalty)^-1 Q'.
  primal = points.shape[1] <= len(points)
  values, vectors = _eigen(points.T @ points if primal else points @ points.T)
  columns = points @ vectors if primal else vectors * np.sqrt(values)
  apart = targets - targets.mean(0)
  squares, cross = np.square(columns), columns.T @ apart

  def fit(penalty):
    weights = 1 / (values + penalty)
    return columns @ (weights[:, None] * cross), squares @ weights

  return values.mean() if len(values) else 1., apart, fit


def _added(apart, fitted, own):
  """What the features add to the mean of the others' targets in a leave-one-out prediction.

  That is N / (N - 1) apart - (apart - fitted) / (1 - 1/N - own), in a form that is exactly 0
  where the features say nothing, so that rounding decides nothing.
  """
  number = len(apart)
  return ((fitted - (number / (number - 1) * own)[:, None] * apart)
          / (1 - 1 / number - own)[:, None])


class LogME:
  """Log evidence of a Bayesian linear model, a class and an example (arXiv 2102.11005).

  The mean over the classes of `log_evidence` over N. Only classes with an example count.
  """
  name = 'logme'
  title = 'LogME'
  unit = ''
  outcomes = False

  def __call__(self, embeddings, labels):
    points, targets = _checked(embeddings, labels)
    value, *replicates = (_log_evidence(*sample).mean() / sample[-1]
                          for sample in _projections(points, targets))
    return jackknifed(value, replicates)


def log_evidence(embeddings, targets):
  """The greatest log evidence of a Bayesian linear model with Gaussian prior and noise.

  With weights of variance 1 / alpha and noise of variance 1 / beta it is
  ln N(y; 0, I / beta + FF' / alpha); here of the alpha and beta that make it greatest, the
  fixed point of arXiv 2102.11005, algorithm 1. Embeddings are not centred, as there.

  Args:
    embeddings: F, [N, D], any float.
    targets: y, [N, C], none of the columns all 0.

  Returns:
    float64 [C]. Where y is an exact linear function of fewer features than examples the
    evidence has no bound: alpha / beta is kept from falling below some 1e-8 mean
    eigenvalues of FF'.
  """
  points, targets = np.asarray(embeddings, np.float64), np.asarray(targets, np.float64)
  return _log_evidence(*next(_projections(points, targets)))


def _projections(points, targets):
  """Yields what `_log_evidence` takes, of all examples and then without each group."""
  number, features = points.shape
  if features <= number:
    gram, cross, squares = points.T @ points, points.T @ targets, np.square(targets).sum(0)
    yield *_project(gram, cross, True), squares, number
    for group in leave_groups_out(number):
      part, known = points[group], targets[group]
      less = squares - np.square(known).sum(0)
      yield (*_project(gram - part.T @ part, (cross - part.T @ known)[:, less > 0], True),
             less[less > 0], number - len(group))
    return
  gram = points @ points.T
  yield *_project(gram, targets, False), np.square(targets).sum(0), number
  for group in leave_groups_out(number):
    kept = np.delete(np.arange(number), group)
    known = targets[kept]
    known = known[:, known.any(0)]
    yield (*_project(gram[np.ix_(kept, kept)], known, False), np.square(known).sum(0),
           len(kept))


def _project(gram, cross, primal):
  """Eigenvalues [K] of FF' that are not 0 and squared projections [K, C] on their vectors.

  Args:
    gram: F'F and cross: F'y if primal, else FF' and y.
  """
  values, vectors = _eigen(gram)
  along = np.square(vectors.T @ cross)
  return values, along / values[:, None] if primal else along


def _log_evidence(values, along, squares, number):
  """The greatest log evidence [C] of N examples; see `log_evidence`.

  With t = alpha / beta and q(t) = y'(I + FF'/t)^-1 y, the best beta is N / q, and what is
  left is a function of t alone,
    -N/2 ln(2 pi e q / N) - 1/2 sum_k ln(1 + value_k / t).
  Its stationary points are the fixed points of the published iteration; the terms in ln alpha
  of the D - K directions without data, which its public code lacks for N < D, cancel.

  Args:
    values: [K], eigenvalues of FF' above 0.
    along: [K, C], squared lengths of each y along their eigenvectors.
    squares: [C], squared lengths of each y.
    number: N.
  """
  # Out of reach of F; with as many directions as examples nothing is, except by rounding.
  rest = np.maximum(squares - along.sum(0), 0) if len(values) < number else 0 * squares

  def evidence(q, spread):
    return -number / 2 * np.log(2 * np.pi * np.e * q / number) - spread / 2

  # The best of a grid that all classes share, then Newton's steps in u = ln t. The bounds keep
  # beta finite where the fit is perfect (t falls to 0) and end the climb where F says nothing
  # of y (t rises without end, the evidence hardly).
  middle = np.log(values.mean()) if len(values) else 0.
  grid = middle + np.arange(-SPAN, SPAN + STEP / 2, STEP)
  ratio = values[:, None] / np.exp(grid)
  coarse = evidence(rest[:, None] + along.T @ (1 / (1 + ratio)), np.log1p(ratio).sum(0))
  start = grid[coarse.argmax(1)]
  u = start
  for _ in range(4):
    fit = 1 / (1 + np.exp(u) / values[:, None])  # value / (value + t)
    slack = fit * (1 - fit)
    q = rest + (along * (1 - fit)).sum(0)
    moved = (along * slack).sum(0)  # dq/du
    slope = fit.sum(0) - number * moved / q
    bend = -slack.sum(0) - number * (
        (along * slack * (2 * fit - 1)).sum(0) / q - np.square(moved / q))
    step = np.divide(-slope, bend, out=np.zeros_like(u), where=bend < 0)
    u = np.clip(u + step, start - STEP, start + STEP)
  ratio = values[:, None] / np.exp(u)
  return evidence(rest + (along / (1 + ratio)).sum(0), np.log1p(ratio).sum(0))


class HScore:
  """Regularised H-score (arXiv 2110.06893): the variance between classes, whitened.

  (1 - s) tr(cov_s(F)^-1 cov(E[F | y])), where cov_s shrinks the covariance by s towards a
  multiple of the identity as Ledoit and Wolf do. Both covariances divide by N (public code
  divides the second by N - 1).
  """
  name = 'hscore'
  title = 'H-score'
  unit = ''
  outcomes = False

  def __call__(self, embeddings, labels):
    points, targets = _checked(embeddings, labels)
    value, *replicates = (
        _h_score(*sample) for sample in _moments(_centred(points), targets))
    return jackknifed(value, replicates)


def _moments(points, targets):
  """Yields what `_h_score` takes, of all examples and then without each group."""
  number, features = points.shape
  primal = features <= number
  gram = points.T @ points if primal else points @ points.T
  sums = targets.T @ points if primal else None
  counts, squares = targets.sum(0), np.square(points).sum(1)
  for group in [np.arange(0), *leave_groups_out(number)]:
    kept = np.delete(np.arange(number), group)
    part, known = points[group], targets[group]
    present = counts > known.sum(0)
    less = (counts - known.sum(0))[present]
    if primal:
      mean = -part.sum(0) / len(kept)  # of those left: all together are centred
      spread = (gram - part.T @ part) / len(kept) - np.outer(mean, mean)
      lengths = (squares - 2 * points @ mean + mean @ mean)[kept]
      means = (sums - known.T @ part)[present] / less[:, None] - mean
      yield spread, lengths, means, means, less, features
    else:
      inner = gram[np.ix_(kept, kept)]
      inner = inner - inner.mean(0)
      inner = inner - inner.mean(1, keepdims=True)
      averages = (targets[kept][:, present] / less).T
      yield inner / len(kept), np.diag(inner), averages @ inner, averages, less, features


def _h_score(spread, lengths, left, right, counts, features):
  """Regularised H-score from second moments.

  Args:
    spread: [K, K], the centred F'F / N, or FF' / N, which has the same eigenvalues.
    lengths: [N], squared lengths of the centred embeddings.
    left, right: [C, K], whose products through the inverse are those of the class means: the
      means themselves, or, for FF', weights of the examples with and without FF' applied.
    counts: [C], examples of each class.
    features: D.
  """
  trace = lengths.mean()
  if trace <= 0:
    return 0.
  # Ledoit and Wolf 2004, as sklearn.covariance.ledoit_wolf_shrinkage has it.
  size = np.vdot(spread, spread)
  error = (np.square(lengths).mean() - size) / len(lengths)
  apart = size - trace ** 2 / features
  shrinkage = np.clip(error / apart, 0, 1) if apart > TINY * size else 0.
  if shrinkage > TINY:
    shrunk = (1 - shrinkage) * spread + shrinkage * trace / features * np.eye(len(spread))
    solved = np.linalg.solve(shrunk, right.T)
  else:  # of two examples, or of one feature
    solved = np.linalg.pinv(spread, rcond=TINY, hermitian=True) @ right.T
  return float((1 - shrinkage) * counts / counts.sum() @ np.einsum('ck,kc->c', left, solved))


def leave_groups_out(number):
  """The groups of examples that the jackknife leaves out in turn.

  The same for any two experts on the same examples, so that their replicates are paired.
  Examples should be in no order that has to do with their labels: where classes come round
  at the period of the groups, whole classes are left out and the noise looks greater than
  it is.

  Args:
    number: N.

  Returns:
    A list of R int arrays, R = min(N, 10): example i is in group i % R.
  """
  return [np.arange(first, number, GROUPS) for first in range(min(number, GROUPS))]


def means(values):
  """The mean over all examples, then those without each group of the jackknife.

  Args:
    values: [N, ...], any float or bool.

  Returns:
    float64 [1 + R, ...].
  """
  values = np.asarray(values, np.float64)
  return np.stack([values.mean(0)] + [
      np.delete(values, group, axis=0).mean(0) for group in leave_groups_out(len(values))])


def jackknife_error(replicates):
  """Standard error of a statistic from its values [R] without each of R equal groups."""
  return float(np.std(replicates) * np.sqrt(len(replicates) - 1))


def jackknifed(value, replicates):
  """The `Score` of a value with those without each group."""
  return Score(float(value), jackknife_error(replicates), replicates=np.array(replicates))


def _checked(embeddings, labels):
  """Embeddings as float64 [N, D] and labels as one-hot float64 [N, C] of the C distinct."""
  points = np.asarray(embeddings, np.float64)
  _, classes = np.unique(labels, return_inverse=True)
  if len(points) != len(classes):
    raise ValueError(f'{len(points)} embeddings but {len(classes)} labels.')
  if len(points) < 2:
    raise ValueError('one example cannot be left out of one: give two or more.')
  return points, np.eye(classes.max() + 1)[classes]


def _centred(points):
  """Less their mean; a constant feature becomes exactly 0, which a mean alone may miss."""
  points = points - points[0]
  return points - points.mean(0)


def _eigen(gram):
  """Eigenvalues [K] that are not 0, increasing, and their vectors [., K]."""
  values, vectors = np.linalg.eigh(gram)
  first = np.searchsorted(values, TINY * max(values[-1], 0), 'right')
  return values[first:], vectors[:, first:]
