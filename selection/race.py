"""Racing: experts that a growing sample shows to be worse are embedded no further.

A successive halving of the work (Jamieson and Talwalkar, arXiv 1502.07943) in which an expert
leaves only when the paired outcomes say with confidence that it is no better than the leader
by more than a margin: the standard error with which the whole sample could tell.

The outcomes are the mean of two judges', whichever of them ranks: on a small sample 1-NN is noisy
and orders experts otherwise than on a large one, ridge errs on other examples and in another
way, and their mean says more of either on all examples than it does alone (docs/speed.md).
Shapes: N examples, n of a sample of them.
"""

import statistics

import numpy as np

from selection import candidates

STEP = 125  # samples are multiples of it, hence whole batches of `selection.embedder`
EACH = 2  # examples a class in the first sample, on the mean: leave-one-out needs another
JUDGES = ('knn', 'ridge')  # names of `selection.proxies`; those with outcomes


def order(labels):
  """An order of the examples whose every beginning has the classes in proportion.

  Args:
    labels: int [N].

  Returns:
    int [N], a permutation; the same for the same labels.
  """
  labels = np.asarray(labels)
  random = np.random.default_rng(0)
  place = np.empty(len(labels))
  for label in np.unique(labels):
    own = np.flatnonzero(labels == label)
    place[random.permutation(own)] = (np.arange(len(own)) + random.random()) / len(own)
  return np.argsort(place, kind='stable')


def samples(examples, classes, k=1):
  """Sizes of the samples, each twice the last, up to all N examples.

  Args:
    examples: N.
    classes: how many of them have examples.
    k: neighbours that vote, of whom the first sample has more.

  Returns:
    A list of int, increasing; the last is N.
  """
  sizes, size = [], STEP * -(-max(EACH * classes, k + 1) // STEP)
  while size <= 0.75 * examples:  # a last step of less would hardly save anything
    sizes.append(size)
    size *= 2
  return [*sizes, examples]


def outcomes(scores):
  """How right the judges were of each example, on the mean.

  Args:
    scores: a dict from the name of each judge to its `selection.proxies.Score`.

  Returns:
    float64 [n], each 0, 0.5 or 1.
  """
  return np.mean([scores[name].correct for name in JUDGES], axis=0)


def upper_bound(one, leader, confidence):
  """How much better `one` could be than `leader`, at most, with this confidence.

  The normal bound of the mean paired difference, with one more example counted as differing,
  so that experts that agree on a small sample are not taken for the same.

  Args:
    one, leader: [n], outcomes on the same examples, each in 0..1.
    confidence: in 0.5..1, one-sided.

  Returns:
    A difference of accuracies, a float.
  """
  difference = np.asarray(one, np.float64) - np.asarray(leader, np.float64)
  variance = (np.square(difference).sum() + 1) / len(difference) - difference.mean() ** 2
  return float(difference.mean()
               + statistics.NormalDist().inv_cdf(confidence) * np.sqrt(
                   variance / len(difference)))


def behind(judged, confidence, examples):
  """Who leaves the race.

  Args:
    judged: a list of (candidate, [n], score): outcomes on the sample, each in 0..1, and the
      value there of the proxy that ranks.
    confidence: as in `upper_bound`.
    examples: N, which the whole race has.

  Returns:
    A dict from the key of each candidate that leaves to why, in words. The leader stays, so
    does that of the proxy that ranks, and so does the plain baseline, with which the winner is
    compared.
  """
  def accuracy(entry):
    return entry[1].mean()

  leader, leading, _ = max(judged, key=accuracy)
  first = max(judged, key=lambda entry: entry[2])
  plain = candidates.plain_baseline([candidate for candidate, _, _ in judged]) or leader
  kept = {leader.key, first[0].key, plain.key}
  margin = np.sqrt(leading.mean() * (1 - leading.mean()) / examples)
  return {candidate.key: f'{100 * (leading.mean() - own.mean()):.1f} points behind '
                         f'{leader.name} by kNN and ridge after {len(own)} examples'
          for candidate, own, _ in judged if candidate.key not in kept
          and upper_bound(own, leading, confidence) < margin}
