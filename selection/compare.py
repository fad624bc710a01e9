"""Whether one expert is better than another on the same examples, beyond noise."""

import numpy as np

from selection import proxies

SIGNIFICANCE = 0.05


def mcnemar(one, other):
  """Exact McNemar test of paired outcomes.

  Only examples on which the two differ tell them apart; under equal experts each is a fair
  coin (McNemar 1947, in its exact binomial form).

  Args:
    one, other: bool [N], whether each got example i right.

  Returns:
    The two-sided p-value, a float in 0..1.
  """
  import scipy.stats
  one, other = np.asarray(one, bool), np.asarray(other, bool)
  gained, lost = int((one & ~other).sum()), int((~one & other).sum())
  if not gained + lost:
    return 1.
  return float(scipy.stats.binomtest(gained, gained + lost).pvalue)


def paired(one, other):
  """How much better `one` is than `other`, with the noise of the difference.

  That noise is less than that of two unrelated scores: what is hard for one expert is hard
  for the other, and cancels.

  Args:
    one, other: `selection.proxies.Score`s of one proxy on the same examples.

  Returns:
    A dict of gain (difference of values), stderr (of gain) and p (two-sided). Where outcomes
    are known p is of the exact McNemar test; else stderr is that of the delete-a-group
    jackknife over the R groups and p of a t-test with R - 1 degrees of freedom.

  Raises:
    ValueError: the scores are of different proxies or different numbers of examples.
  """
  samples = [(one.correct, other.correct), (one.replicates, other.replicates)]
  known = [pair for pair in samples if not any(sample is None for sample in pair)]
  if not known or len(known[0][0]) != len(known[0][1]):
    raise ValueError('the two scores cannot be paired: compare scores of one proxy on the '
                     'same examples.')
  gain = one.value - other.value
  first, second = known[0]
  if first is one.correct:
    difference = np.asarray(first, np.int8) - np.asarray(second, np.int8)
    return {'gain': float(gain), 'stderr': float(difference.std() / np.sqrt(len(difference))),
            'p': mcnemar(first, second)}
  stderr = proxies.jackknife_error(np.asarray(first) - np.asarray(second))
  return {'gain': float(gain), 'stderr': stderr, 'p': _t_test(gain, stderr, len(first) - 1)}


def beats(one, other, tried=1):
  """Whether `one` is better than `other` beyond noise.

  Args:
    one, other: as in `paired`.
    tried: among how many `one` was picked as the best. The more are tried the better the
      best looks by luck, so p times `tried` must be below 0.05 (Bonferroni).

  Returns:
    A bool.
  """
  found = paired(one, other)
  return bool(found['gain'] > 0 and found['p'] * tried < SIGNIFICANCE)


def _t_test(gain, stderr, freedom):
  """Two-sided p-value of a gain, a float; 1 for none at all."""
  import scipy.stats
  if not gain:
    return 1.
  return float(2 * scipy.stats.t.sf(abs(gain) / stderr, freedom)) if stderr else 0.
