"""Racing: experts that a growing sample shows to be worse are embedded no further.

A successive halving of the work (Jamieson and Talwalkar, arXiv 1502.07943) in which an expert
leaves only when paired outcomes say with confidence that it is worse than the leader.

The outcomes are the same whichever proxy ranks: not which examples 1-NN and ridge classify
rightly but by how much, which says more on a small sample. Together they foretell the scores on
all examples better than those of the proxy that ranks on the sample (docs/speed.md, "Racing").
Shapes: E experts, N examples, n of a sample of them.
"""

import dataclasses
import statistics

import numpy as np

from selection import candidates
from selection import fusion
from selection import proxies

STEP = 125  # samples are multiples of it, hence whole batches of `selection.embedder`
EACH = 2  # examples a class in the first sample, on the mean: leave-one-out needs another
JUDGES = ('knn', 'ridge')  # names of `judges`


def judges(scorers):
  """Who judges a race: 1-NN, or the kNN of the proxies that are asked for, and ridge.

  Args:
    scorers: of `selection.proxies.make`.

  Returns:
    A list of a `selection.proxies.Knn` and a `selection.proxies.Ridge`, both of which grade.
  """
  knn = next((one for one in scorers if one.name == proxies.Knn.name), proxies.Knn())
  return [dataclasses.replace(knn, graded=True), proxies.Ridge(graded=True)]


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

  Each judge's grades are in standard deviations of their mean over the experts.

  Args:
    scores: a list of E dicts from the name of each judge to its `selection.proxies.Score`.

  Returns:
    float64 [E, n], of which only differences between experts mean something.
  """
  grades = (np.array([one[name].graded for one in scores]) for name in JUDGES)
  return fusion.mean([np.column_stack([own.mean(1), own]) for own in grades])[:, 1:]


def standard_errors(one, leader):
  """How far `one` is behind `leader`: the mean paired difference over its standard error.

  Args:
    one, leader: [n], outcomes on the same examples.

  Returns:
    A float, negative if `one` is ahead; 0 for the same outcomes.
  """
  lead = leader - one
  with np.errstate(divide='ignore'):  # a lead that never varies is beyond any noise
    return float(lead.mean() / (lead.std() / np.sqrt(len(lead)))) if lead.any() else 0.


def behind(found, judged, values, confidence):
  """Who leaves the race.

  Args:
    found: a list of E candidates.
    judged: [E, n], their `outcomes`.
    values: [E], what the proxy that ranks says of them on the sample.
    confidence: in 0.5..1, one-sided, of each expert against the leader.

  Returns:
    A dict from the key of each candidate that leaves to why, in words. The leader stays, so
    does that of the proxy that ranks, and so does the plain baseline, with which the winner is
    compared.
  """
  leader = judged.mean(1).argmax()
  plain = candidates.plain_baseline(found)
  kept = {found[leader].key, found[np.argmax(values)].key, plain and plain.key}
  limit = statistics.NormalDist().inv_cdf(confidence)
  return {one.key: f'{far:.1f} standard errors behind {found[leader].name} by kNN and ridge '
                   f'after {len(own)} examples'
          for one, own in zip(found, judged, strict=True) if one.key not in kept
          and (far := standard_errors(own, judged[leader])) > limit}
