"""Nearest neighbours under Euclidean distance, exact or with ScaNN.

Both indices have the same two methods: `search(queries, k)` and `others(k)`.
Shapes: N indexed embeddings, Q queries, D features.
"""

import functools
import logging

import numpy as np

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 27  # of distances held at once
SPARE = 8  # more candidates than asked for, so that equal distances are all compared
APPROXIMATE_FROM = 20_000  # below, ScaNN compares with every embedding


def _check(k, most):
  if not 1 <= k <= most:
    raise ValueError(f'k is {k}; it must be in 1..{most}.')


class ExactIndex:
  """Compares with every embedding.

  Candidates come from |a|^2 - 2ab + |b|^2 of centred float64, the order among them from
  |a - b|^2 itself; equal distances go by index. So duplicates are exactly 0 apart. (Of more
  than k + 8 embeddings that are all the same, which are candidates is left open.)

  Args:
    embeddings: [N, D], any float.
  """

  def __init__(self, embeddings):
    embeddings = np.asarray(embeddings, np.float64)
    self._mean = embeddings.mean(0)
    self._points = embeddings - self._mean
    self._squares = np.einsum('nd,nd->n', self._points, self._points)

  def search(self, queries, k):
    """Finds the k nearest of each query.

    Args:
      queries: [Q, D].
      k: 1..N.

    Returns:
      int64 [Q, k]: indices, nearest first.
    """
    _check(k, len(self._points))
    return self._search(np.asarray(queries, np.float64) - self._mean, k, None)

  def others(self, k):
    """Finds the k nearest of each indexed embedding among the others.

    An embedding is left out of its own list by its index: its duplicates stay.

    Args:
      k: 1..N-1.

    Returns:
      int64 [N, k]: indices, nearest first.
    """
    _check(k, len(self._points) - 1)
    return self._search(self._points, k, np.arange(len(self._points)))

  def _search(self, queries, k, left_out):
    number = len(self._points)
    wide = min(k + SPARE, number - (left_out is not None))
    rows = max(1, BLOCK_BYTES // (8 * number))
    found = []
    for first in range(0, len(queries), rows):
      block = queries[first:first + rows]
      scores = self._squares - 2 * (block @ self._points.T)
      if left_out is not None:
        scores[np.arange(len(block)), left_out[first:first + rows]] = np.inf
      near = np.argpartition(scores, wide - 1, axis=1)[:, :wide]
      near.sort(axis=1)
      apart = np.stack([
          np.square(self._points[row] - query).sum(1) for row, query in zip(
              near, block, strict=True)])
      order = np.argsort(apart, axis=1, kind='stable')[:, :k]
      found.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(found)


class ScannIndex:
  """ScaNN (arXiv 1908.10396): brute force when small, else a tree with hashed residuals.

  Args:
    embeddings: [N, D], any float.
  """

  def __init__(self, embeddings):
    scann = _scann()
    self._embeddings = np.asarray(embeddings, np.float32)
    number = len(self._embeddings)
    builder = scann.scann_ops_pybind.builder(self._embeddings, 10, 'squared_l2')
    if number < APPROXIMATE_FROM:
      builder = builder.score_brute_force()
    else:
      # About sqrt(N) leaves, a tenth of them searched, two dimensions a code: the rules of
      # ScaNN's own documentation for data of this size.
      leaves = int(np.sqrt(number))
      builder = builder.tree(
          num_leaves=leaves, num_leaves_to_search=max(leaves // 10, 1),
          training_sample_size=min(number, 250_000)).score_ah(
              2, anisotropic_quantization_threshold=0.2).reorder(100)
    self._searcher = builder.build()

  def search(self, queries, k):
    """As `ExactIndex.search`, nearly."""
    _check(k, len(self._embeddings))
    indices, _ = self._searcher.search_batched(np.asarray(queries, np.float32), k)
    return indices.astype(np.int64)

  def others(self, k):
    """As `ExactIndex.others`, nearly; an embedding is never among its own neighbours."""
    _check(k, len(self._embeddings) - 1)
    near = self.search(self._embeddings, k + 1)
    own = near == np.arange(len(near))[:, None]
    # Where duplicates have crowded an embedding out of its own list, the last one goes.
    own[~own.any(1), -1] = True
    return near[~own].reshape(len(near), k)


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
