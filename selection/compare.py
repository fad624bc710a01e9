"""Whether one expert is better than another on the same examples, beyond noise."""

import numpy as np

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
  """How much better `one` is than `other`, both bool [N], with its noise.

  Returns:
    A dict of gain (difference of accuracies), stderr (of the mean paired difference, which
    is less than that of two unrelated accuracies) and p (exact McNemar test).
  """
  difference = np.asarray(one, np.int8) - np.asarray(other, np.int8)
  return {'gain': float(difference.mean()),
          'stderr': float(difference.std() / np.sqrt(len(difference))),
          'p': mcnemar(one, other)}


def beats(one, other):
  """Whether `one` is right more often than `other`, with p below 0.05; bool [N] each."""
  return bool(np.mean(one) > np.mean(other) and mcnemar(one, other) < SIGNIFICANCE)
