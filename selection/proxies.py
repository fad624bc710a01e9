"""Proxies: how well frozen embeddings would serve a task, without training."""

import numpy as np


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


def standard_error(correct):
  """Standard error of the mean of outcomes [N], a float."""
  return float(np.std(correct) / np.sqrt(len(correct)))
