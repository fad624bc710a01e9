"""Several proxies as one: the mean of what they say, on a common scale.

Proxies err in different ways: 1-NN is noisy but sees a class of any shape, LogME sees linear
separation alone but hardly any noise. Their mean leaves less regret than 1-NN, and no more than
LogME beyond noise (docs/experts.md, "What selection gains"). On the common scale a score is in
standard deviations over the experts of the ranking, above their mean; in retrieval this is fusion
of standardised scores.

Shapes: E experts, R groups of examples.
"""

import dataclasses

import numpy as np

from selection import proxies


@dataclasses.dataclass(frozen=True)
class Mean:
  """The mean of some proxies.

  Unlike a proxy it judges the experts of a ranking together, by what its parts say of them.

  Attributes:
    parts: of `selection.proxies.make`, two or more.
  """
  parts: tuple
  unit = 's.d.'

  @property
  def name(self):
    return '+'.join(part.name for part in self.parts)

  @property
  def title(self):
    return '+'.join(part.title for part in self.parts)

  @property
  def outcomes(self):
    """Whether there is a part by which experts can race."""
    return any(part.outcomes for part in self.parts)

  def __call__(self, scores):
    """Judges experts.

    Args:
      scores: a list of E dicts from the name of each part to its `selection.proxies.Score`, all on
        the same examples.

    Returns:
      A list of E `Score`s. Their noise is that of the jackknife, for which the scale is taken
      as known.
    """
    together = mean([np.array([one[part.name].jackknife() for one in scores])
                     for part in self.parts])
    return [proxies.jackknifed(value, rest) for value, *rest in together]


def mean(several):
  """The mean of some proxies' values, each [E, 1 + R], on the common scale: float64 [E, 1 + R]."""
  # Of two experts on which two parts disagree it is exactly 0, and the first part decides.
  return np.round(np.mean([standardized(values) for values in several], axis=0), 12)


def standardized(values):
  """Values [E, 1 + R] less the mean of the first column, in standard deviations of that column.

  R may be 0. Where the column says the same of all experts it says nothing: 0.
  """
  first = values[:, 0]
  return (values - first.mean()) / first.std() if np.ptp(first) else 0 * values
