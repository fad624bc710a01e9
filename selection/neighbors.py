"""Nearest neighbours under Euclidean distance, exact or with ScaNN.

Both indices have the same two methods: `search(queries, k)` and `others(k)`.
Shapes: N indexed embeddings, Q queries, D features, C candidates of a query, P pairs.
"""

import dataclasses
import functools
import logging
import math

import numpy as np

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 28  # of scores held at once
CACHED_BYTES = 1 << 20  # of differences held at once, so that they stay in a core's cache
SPARE = 8  # more candidates than asked for, so that hardly any search must be repeated
FOLDS = 16  # of a row of scores, of which the least are looked for
FAR = 1e30  # squared, where the spread of the embeddings is 1: float32 may overflow beyond
APPROXIMATE_FROM = 20_000  # below, ScaNN compares with every embedding
ITERATIONS = 10  # of k-means that find ScaNN's leaves and codes
CODES_FROM = 5_000  # embeddings that ScaNN finds its codes from: some 300 for each of 16


def _check(k, most):
  if not 1 <= k <= most:
    raise ValueError(f'k is {k}; it must be in 1..{most}.')


def _floats(embeddings):
  """The embeddings as float32 or float64, not copied where they are that."""
  embeddings = np.asarray(embeddings)
  return embeddings if embeddings.dtype in (np.float32, np.float64) else embeddings.astype(
      np.float64)


def _blocks(number, bytes_each, limit):
  """Slices of range(number) of at most `limit` bytes, or of one."""
  step = max(1, limit // bytes_each)
  return [slice(first, min(first + step, number)) for first in range(0, number, step)]


def _tolerance(dimensions, dtype):
  """e, with which `ExactIndex` bounds distances from matrix products of this dtype.

  A product of D + 1 terms in any order is off by at most n u / (1 - n u), n = D + 1, of the
  sum of its terms' magnitudes (Higham, Accuracy and Stability, section 3.1); rounding the
  centred embeddings and the arithmetic around it take less than another 15 u.
  """
  error = (dimensions + 16) * np.finfo(dtype).eps / 2
  return error / (1 - error)


def _least(scores, count):
  """Columns of the `count` least of every row, in any order: int64 [Q, count].

  The least lie in the `count` classes of columns, equal modulo N / FOLDS, whose minima are
  least: to select among minima takes a small part of the time of selecting among all.
  """
  number = scores.shape[1]
  classes = -(-number // FOLDS)
  if classes + count * FOLDS > number // 2:
    return np.argpartition(scores, count - 1, axis=1)[:, :count]
  minima = scores[:, :classes].copy()
  for first in range(classes, number, classes):
    folded = scores[:, first:first + classes]
    np.minimum(minima[:, :folded.shape[1]], folded, out=minima[:, :folded.shape[1]])
  members = np.argpartition(minima, count - 1, axis=1)[:, :count, None] + classes * np.arange(
      FOLDS)
  members = members.reshape(len(scores), -1)
  values = np.take_along_axis(scores, np.minimum(members, number - 1), axis=1)
  values[members >= number] = np.inf
  chosen = np.argpartition(values, count - 1, axis=1)[:, :count]
  return np.take_along_axis(members, chosen, axis=1)


def _apart(queries, embeddings, rows, columns):
  """Squared distances of pairs, queries[rows] from embeddings[columns]: float64 [P]."""
  apart = np.empty(len(rows))
  for part in _blocks(len(rows), 8 * queries.shape[1], CACHED_BYTES):
    gaps = np.subtract(embeddings[columns[part]], queries[rows[part]], dtype=np.float64)
    apart[part] = np.square(gaps, out=gaps).sum(1)
  return apart


def distances(queries, embeddings, near):
  """Squared distances of each query from some of the embeddings.

  Args:
    queries: [Q, D].
    embeddings: [N, D].
    near: int [Q, C], of which embeddings.

  Returns:
    float64 [Q, C].
  """
  rows = np.repeat(np.arange(len(near)), near.shape[1])
  return _apart(queries, embeddings, rows, near.ravel()).reshape(near.shape)


def _centre(embeddings, mean, scale, out):
  """Writes (embeddings - mean) * scale, computed in float64."""
  for rows in _blocks(len(embeddings), 8 * len(mean), CACHED_BYTES):
    centred = embeddings[rows] - mean
    centred *= scale
    out[rows] = centred


def _without(near, own):
  """Lists [Q, k + 1] without the index `own` of each, or its last where that is not in it."""
  left_out = near == own[:, None]
  left_out[~left_out.any(1), -1] = True  # its duplicates have crowded it out
  return near[~left_out].reshape(len(near), -1)


class ExactIndex:
  """Compares with every embedding; equal distances go by index.

  Distances are sums of squared differences in float64. Which of them to compute is told by a
  float32 matrix product of the centred embeddings that gives, however it is rounded, a lower
  bound of each distance (see `_queries`). The k + 8 of least bound are computed; where the k-th
  nearest of them is nearer than every bound left, no other can be as near. Where it is not,
  an embedding may have k duplicates or more: then the first of those are taken. The rest
  (gaps too fine for float32) have their bounds found again in float64, and all distances that
  these leave open computed.

  Memory: 4 D + 4 bytes an embedding beside the embeddings, which are kept as they are if they
  are float32 or float64; while searching some two BLOCK_BYTES more, and a copy of the
  embeddings where they have such duplicates.

  Args:
    embeddings: [N, D], any float. Must not change while the index is in use.
  """
  exact = True

  def __init__(self, embeddings):
    self._embeddings = _floats(embeddings)
    self._mean = self._embeddings.mean(0, dtype=np.float64)
    # A power of two, so that scaling rounds nothing; then no product overflows in float32.
    spread = np.max(self._embeddings.max(0) - self._embeddings.min(0))
    self._scale = 2. ** -int(np.frexp(spread)[1])
    self._points = self._factors(self._embeddings, np.float32)

  def search(self, queries, k):
    """Finds the k nearest of each query.

    Args:
      queries: [Q, D].
      k: 1..N.

    Returns:
      int64 [Q, k]: indices, nearest first.
    """
    _check(k, len(self._embeddings))
    queries = _floats(queries)
    with np.errstate(over='ignore', invalid='ignore'):  # from FAR queries, searched in float64
      return self._search(queries, self._factors(queries, np.float32), k, None)

  def others(self, k, rows=None):
    """Finds the k nearest of each indexed embedding among the others.

    An embedding is left out of its own list by its index: its duplicates stay.

    Args:
      k: 1..N-1.
      rows: int [Q], of which embeddings; all N unless given.

    Returns:
      int64 [Q, k]: indices, nearest first.
    """
    _check(k, len(self._embeddings) - 1)
    if rows is None:
      return self._search(
          self._embeddings, self._points, k, np.arange(len(self._embeddings)))
    return self._search(self._embeddings[rows], self._points[rows], k, np.asarray(rows))

  def _factors(self, embeddings, dtype):
    """Rows q, centred and scaled, with (1 - 2 e) |q|^2 / 2 as a last column: [n, D + 1]."""
    number, dimensions = embeddings.shape
    factors = np.empty((number, dimensions + 1), dtype)
    _centre(embeddings, self._mean, self._scale, factors[:, :-1])
    squares = np.einsum('nd,nd->n', factors[:, :-1], factors[:, :-1], dtype=np.float64)
    factors[:, -1] = (0.5 - _tolerance(dimensions, dtype)) * squares
    return factors

  def _queries(self, factors):
    """What gives lower bounds of squared distances with `factors` of embeddings.

    For rows p of a query and q of an embedding, and b = (1 - 2 e) |q|^2 / 2,

      |p - q|^2 = |p|^2 + |q|^2 - 2 pq >= (1 - e) |p|^2 + 2 computed(b - pq) - tiny

    as the product is off by at most e (|p||q| + b) <= e (|p|^2 / 2 + |q|^2). Every embedding
    has its own slack so, and an outlier blurs no distance but its own. `tiny` stands for
    products too small for the dtype.

    Args:
      factors: those of the queries.

    Returns:
      (rows of -p and 1 [Q, D + 1], (1 - e) |p|^2 - tiny [Q]).
    """
    error = _tolerance(factors.shape[1] - 1, factors.dtype)
    tiny = 4 * factors.shape[1] * float(np.finfo(factors.dtype).tiny)
    squares = factors[:, -1].astype(np.float64) / (0.5 - error)
    left = -factors
    left[:, -1] = 1
    return left, (1 - error) * squares - tiny

  def _ruled_out(self, bounds, reach, dtype):
    """Whether what has these (scaled) bounds is further than `reach`, rounding included."""
    error = _tolerance(self._embeddings.shape[1], dtype)
    return (1 - error) * bounds > self._scale ** 2 * reach

  def _search(self, queries, factors, k, left_out):
    number = len(self._embeddings)
    count = min(k + SPARE, number - (left_out is not None))
    found = np.empty((len(queries), k), np.int64)
    reach = np.empty(len(queries))  # squared distance of the k-th found
    sure = np.empty(len(queries), bool)
    blocks = _blocks(len(queries), 4 * number, BLOCK_BYTES)
    room = np.empty((max((b.stop - b.start for b in blocks), default=0), number), np.float32)
    for block in blocks:
      left, base = self._queries(factors[block])
      scores = np.matmul(left, self._points.T, out=room[:len(left)])
      if left_out is not None:
        scores[np.arange(len(scores)), left_out[block]] = np.inf
      near = _least(scores, count)
      bounds = base[:, None] + 2. * np.take_along_axis(scores, near, axis=1)
      near, apart = self._nearest(queries[block], near, bounds, k)
      found[block], reach[block] = near, apart[:, -1]
      sure[block] = self._ruled_out(bounds.max(1), reach[block], np.float32) & (base < FAR)
    if count == number - (left_out is not None):
      return found  # nothing was left
    if left_out is not None and (reach[~sure] == 0).any():
      rows, near = self._twins(np.flatnonzero(~sure & (reach == 0)), left_out, k)
      found[rows], sure[rows] = near, True
    again = np.flatnonzero(~sure)
    found[again] = self._search_again(
        queries[again], k, None if left_out is None else left_out[again], reach[again])
    return found

  def _nearest(self, queries, near, bounds, k):
    """The k nearest [Q, k] of candidates [Q, C] with these bounds, and their distances."""
    order = np.argsort(bounds, axis=1)
    near, bounds = (np.take_along_axis(table, order, axis=1) for table in (near, bounds))
    apart = np.full(near.shape, np.inf)
    apart[:, :k] = distances(queries, self._embeddings, near[:, :k])
    # Most of the others need not be computed.
    ruled_out = self._ruled_out(bounds, apart[:, :k].max(1, keepdims=True), np.float32)
    ruled_out[:, :k] = True
    rows, places = np.nonzero(~ruled_out)
    apart[rows, places] = _apart(queries, self._embeddings, rows, near[rows, places])
    order = np.lexsort((near, apart), axis=1)[:, :k]
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(apart, order, axis=1)

  def _twins(self, rows, left_out, k):
    """The rows of which at least k others are identical, and the first k of these by index."""
    keys = np.add(self._embeddings, 0, order='C')  # -0 and 0 would differ in their bytes
    keys = keys.view(np.dtype((np.void, keys[0].nbytes)))[:, 0]
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    rows = rows[sizes[group[left_out[rows]]] > k]
    members = np.argsort(group, kind='stable')
    firsts = np.searchsorted(group[members], group[left_out[rows]])
    near = members[firsts[:, None] + np.arange(k + 1)]
    return rows, _without(near, left_out[rows])

  def _search_again(self, queries, k, left_out, reach):
    """As `_search` in float64, knowing that the k-th nearest is not beyond `reach`."""
    number, dimensions = self._embeddings.shape
    found = np.empty((len(queries), k), np.int64)
    for block in _blocks(len(queries), 32 * number, BLOCK_BYTES):  # a pair may take 32 bytes
      left, base = self._queries(self._factors(queries[block], np.float64))
      open_ = np.empty((len(left), number), bool)
      for columns in _blocks(number, 16 * dimensions, BLOCK_BYTES):
        scores = left @ self._factors(self._embeddings[columns], np.float64).T
        open_[:, columns] = ~self._ruled_out(
            base[:, None] + 2 * scores, reach[block, None], np.float64)
      if left_out is not None:
        open_[np.arange(len(open_)), left_out[block]] = False
      rows, columns = np.nonzero(open_)
      apart = _apart(queries[block], self._embeddings, rows, columns)
      order = np.lexsort((apart, rows))  # stable: equal distances stay in order of index
      firsts = np.searchsorted(rows, np.arange(len(open_)))
      found[block] = columns[order[firsts[:, None] + np.arange(k)]]
    return found


@dataclasses.dataclass(frozen=True)
class ScannSettings:
  """How a `ScannIndex` is built and how far it looks.

  Attributes:
    leaves: of the tree.
    leaves_to_search: for a query.
    block: dimensions that share a code of four bits.
    threshold: cosine to a query from which on codes are meant to be right (anisotropic
      quantisation, arXiv 1908.10396); nan for codes of least squared error.
    reorder: how many candidates are compared again by their float32 distances.
    training_sample: how many embeddings the leaves are found from.
  """
  leaves: int
  leaves_to_search: int
  block: int
  threshold: float
  reorder: int
  training_sample: int


def settings_for(number, dimensions):
  """ScaNN's settings for N embeddings of D features, tuned with `benchmarks/neighbors.py`.

  Leave-one-out accuracy suffers from leaves that are not searched or were found from too few
  embeddings (below 160 a leaf) more than from coarse codes, which only confuse what is about
  as near. Codes of least squared error, since anisotropic ones are for inner products: at 0.2
  they found no more neighbours and took a sixth longer.
  """
  leaves = max(int(0.8 * number ** 0.5), 1)
  return ScannSettings(
      leaves=leaves, leaves_to_search=-(-leaves // 7),
      block=max(round((dimensions / 8) ** 0.5), 1),  # 32 codes for 128, 64 for 512, 128 for 2048
      threshold=math.nan, reorder=100, training_sample=min(number, 160 * leaves))


class ScannIndex:
  """ScaNN (arXiv 1908.10396): a tree, hashed embeddings in its leaves, the best compared again.

  Memory: about 8 D + D / (2 block) bytes an embedding, ScaNN's own copy of them included.

  Args:
    embeddings: [N, D], any float.
    settings: a `ScannSettings`. None is `settings_for(N, D)` from 20,000 embeddings on; below,
      every embedding is compared with.
  """
  exact = False

  def __init__(self, embeddings, settings=None):
    embeddings = _floats(embeddings)
    number, dimensions = embeddings.shape
    self._mean = embeddings.mean(0, dtype=np.float64)
    self._points = self._centred(embeddings)
    if settings is None and number >= APPROXIMATE_FROM:
      settings = settings_for(number, dimensions)
    self.settings = settings
    builder = _scann().scann_ops_pybind.builder(self._points, 10, 'squared_l2')
    if settings is None:
      builder.score_brute_force()
    else:
      builder.tree(settings.leaves, settings.leaves_to_search, settings.training_sample,
                   training_iterations=ITERATIONS)
      builder.score_ah(settings.block, settings.threshold, CODES_FROM,
                       training_iterations=ITERATIONS)
      builder.reorder(settings.reorder)
    self._searcher = builder.build()

  def _centred(self, embeddings):
    centred = np.empty(embeddings.shape, np.float32)
    _centre(embeddings, self._mean, 1, centred)
    return centred

  def search(self, queries, k):
    """As `ExactIndex.search`, nearly."""
    _check(k, len(self._points))
    return self._search(self._centred(_floats(queries)), k)

  def others(self, k):
    """As `ExactIndex.others`, nearly; an embedding is never among its own neighbours."""
    _check(k, len(self._points) - 1)
    near = self._search(self._points, k + 1)
    return _without(near, np.arange(len(near)))

  def _search(self, queries, k):
    reorder = None if self.settings is None else max(self.settings.reorder, k)
    near, apart = self._searcher.search_batched_parallel(queries, k, reorder)
    near = near.astype(np.int64)
    # ScaNN says index 0, NaN apart, where the leaves it has looked into hold fewer than k.
    short = np.flatnonzero(np.isnan(apart).any(1))
    if len(short):
      near[short] = ExactIndex(self._points).search(queries[short], k)
    return near


@functools.cache
def _scann():
  """ScaNN, or None where it cannot be imported, which is said once."""
  try:
    import scann
    return scann
  except Exception as error:  # a wheel built for another TensorFlow raises what it likes
    logger.warning('ScaNN cannot be imported (%s): searching exactly.', error)
    return None


def index(embeddings, method='auto'):
  """The index that suits the number of embeddings.

  Args:
    embeddings: [N, D].
    method: 'exact', 'scann', or 'auto': ScaNN from 20,000 embeddings on, where it can be
      imported, since below that exact search takes less time than building a tree.

  Returns:
    An `ExactIndex` or a `ScannIndex`.
  """
  if method not in ('auto', 'exact', 'scann'):
    raise ValueError(f'method is {method!r}; it must be auto, exact or scann.')
  large = method == 'auto' and len(embeddings) >= APPROXIMATE_FROM
  if (method == 'scann' or large) and _scann() is not None:
    return ScannIndex(embeddings)
  return ExactIndex(embeddings)


def recall(near, embeddings, sample=200, seed=0):
  """Share of the k nearest others that approximate search found, on a random sample.

  What is found instead of a neighbour at the same distance counts as found.

  Args:
    near: int [N, k], of `others(k)` of an approximate index.
    embeddings: [N, D], as indexed.
    sample: rows at most that are searched exactly.
    seed: of the sample.

  Returns:
    A float in 0..1.
  """
  embeddings = _floats(embeddings)
  rows = np.random.default_rng(seed).permutation(len(near))[:sample]
  nearest = ExactIndex(embeddings).others(near.shape[1], rows)
  furthest = distances(embeddings[rows], embeddings, nearest[:, -1:])
  return float((distances(embeddings[rows], embeddings, near[rows]) <= furthest).mean())
