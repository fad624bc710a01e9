"""Which models to average: greedy ensemble selection with replacement.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models" (ICML
2004), with cross-entropy as in "Deep ensembles for low-data transfer learning" (arXiv
2010.06866). Shapes: M candidates, N examples, C classes; labels as in `finetune.metrics`.
"""

import dataclasses

import numpy as np

from finetune import metrics

SIZE = 15  # beyond which what is fitted is more and more the noise of the validation examples
KEPT = 0.5  # probability with which a bag has a candidate (section 2.3)
ROUNDING = 1e-12  # nats by which equal ensembles may differ


@dataclasses.dataclass(frozen=True)
class Selection:
  """An ensemble.

  Attributes:
    counts: int64 [M], how often each candidate is a member: its weight in the average.
    traces: of each bag, or of the one search without bags, the cross-entropy after each
      member, in nats an example.
  """
  counts: np.ndarray
  traces: list[list[float]]


def select(probabilities, labels, size=SIZE, bags=0, seed=0):
  """Chooses the members of an ensemble by its cross-entropy on validation examples.

  The first member is the best candidate alone. Each further one is that whose average with the
  members so far has the least cross-entropy; it may be one of them, and so gain weight. It
  ends when none lowers it.

  Many candidates and few examples overfit: some pair looks good by luck. With bags, the search
  is among a random half of the candidates, again and again, and all members are taken
  together, so that what only a lucky partner recommends weighs little (section 2.3). Such an
  ensemble may be worse on these examples than that without bags, or than the best candidate.

  Args:
    probabilities: [M, N, C], any float, or M arrays [N, C]: softmax, or sigmoids for 0/1
      labels.
    labels: int [N], or 0/1 [N, C].
    size: most members, of each bag.
    bags: how many; 0 for one search among all candidates.
    seed: of the bags. More bags of one seed begin with the same ones.

  Returns:
    A `Selection`. Of candidates that are equally good the earlier is taken.

  Raises:
    ValueError: size is below 1, there is no candidate, shapes differ, or probabilities or
      labels are not such.
  """
  if size < 1:
    raise ValueError(f'size is {size}; it must be 1 or more.')
  likelihoods = _likelihoods(probabilities, labels)
  everyone = np.arange(len(likelihoods))
  random = np.random.default_rng(seed)
  pools = [_half(everyone, random) for _ in range(bags)] or [everyone]
  members, traces = [], []
  for pool in pools:
    chosen, trace = _climb(likelihoods[pool], len(labels), size)
    members.extend(pool[chosen])
    traces.append(trace)
  return Selection(np.bincount(members, minlength=len(everyone)), traces)


def average(probabilities, counts):
  """Probabilities of an ensemble.

  Args:
    probabilities: M arrays [N, C], any float; of candidates that count 0, anything.
    counts: [M], at least 0, as `Selection` has them.

  Returns:
    float64 [N, C].

  Raises:
    ValueError: the numbers of candidates differ, or all count 0.
  """
  if not np.any(counts):
    raise ValueError('the ensemble has no members: a count must be above 0.')
  weights = counts / np.sum(counts)
  return sum(weight * np.asarray(one, np.float64) for one, weight in zip(
      probabilities, weights, strict=True) if weight)


def _likelihoods(probabilities, labels):
  """What each candidate gives to the truth, float64 [M, N], or [M, N * C] of 0/1 labels.

  No more is needed: the likelihoods of an ensemble are the averages of its members'.
  """
  shapes = [np.shape(one) for one in probabilities]
  if not shapes:
    raise ValueError('no candidates: an ensemble needs one or more.')
  rows = []
  for i, one in enumerate(probabilities):
    if shapes[i] != shapes[0]:
      raise ValueError(f'candidate {i} has probabilities {list(shapes[i])} but candidate 0 '
                       f'{list(shapes[0])}: give all the same examples and classes.')
    try:
      rows.append(metrics.likelihoods(one, labels).ravel())
    except ValueError as error:
      raise ValueError(f'candidate {i}: {error}') from error
  return np.stack(rows)


def _half(everyone, random):
  """A random half of the candidates: each with probability `KEPT`, but at least one."""
  while True:
    kept = random.random(len(everyone)) < KEPT
    if kept.any():
      return everyone[kept]


def _climb(likelihoods, number, size):
  """Members in the order in which they join, and the cross-entropy of N after each."""
  members, trace, total = [], [], 0.
  while len(members) < size:
    averages = (total + likelihoods) / (len(members) + 1)
    losses = metrics.surprise(averages).sum(1) / number
    best = int((losses <= losses.min() + ROUNDING).argmax())  # the first of equals
    if trace and losses[best] >= trace[-1] - ROUNDING:
      break
    members.append(best)
    trace.append(float(losses[best]))
    total = total + likelihoods[best]
  return members, trace
