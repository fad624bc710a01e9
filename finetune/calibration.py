"""Temperature scaling: confidence that fits accuracy (arXiv 1706.04599, section 4.2).

One number divides all logits. It is fitted on validation examples, and no prediction changes:
only how sure it is. Shapes: N examples, C classes.
"""

import numpy as np

from finetune import metrics

RANGE = (1 / 20, 20)  # of temperatures
PRECISION = 1e-6  # of the logarithm of a temperature


def temperature(logits, labels):
  """The temperature under which labels are likeliest.

  Args:
    logits: [N, C], any float, finite. For labels [N] log-probabilities serve as well: softmax
      does not see what is added to a row. Clip those of an average of probabilities, which may
      be 0, at `finetune.metrics.TINY`.
    labels: int [N] for softmax; 0/1 [N, C] for sigmoids.

  Returns:
    A float in `RANGE`: the T of least mean negative log-likelihood under logits / T, below 1
    where predictions are too timid and above 1 where they are too bold. Where all are right,
    and the colder the better, it is the lower end. 1 if that is as good.

  Raises:
    ValueError: logits are not finite, or labels do not fit them.
  """
  import scipy.optimize
  import scipy.special
  logits = np.asarray(logits, np.float64)
  labels = metrics.check_labels(labels, logits.shape)
  if not np.isfinite(logits).all():
    raise ValueError('logits are not finite: clip probabilities before their logarithm.')

  def loss(log_temperature):
    cooled = logits / np.exp(log_temperature)
    if labels.ndim == 2:
      return -scipy.special.log_expit(np.where(labels, cooled, -cooled)).sum() / len(labels)
    return -scipy.special.log_softmax(cooled, 1)[np.arange(len(labels)), labels].mean()

  # The loss is convex in 1 / T, so that in log T it has one valley, which a search finds.
  found = scipy.optimize.minimize_scalar(
      loss, bounds=np.log(RANGE), method='bounded', options={'xatol': PRECISION})
  return float(np.exp(found.x)) if found.fun < loss(0) else 1.


def scaled(logits, temperature, multi_label=False):
  """Probabilities at a temperature.

  Args:
    logits: as in `temperature`.
    temperature: above 0; the colder, the surer.
    multi_label: whether each class is by itself, a sigmoid; else softmax.

  Returns:
    float64 [N, C].

  Raises:
    ValueError: the temperature is not above 0.
  """
  import scipy.special
  if not temperature > 0:
    raise ValueError(f'temperature is {temperature}; it must be above 0.')
  cooled = np.asarray(logits, np.float64) / temperature
  return scipy.special.expit(cooled) if multi_label else scipy.special.softmax(cooled, 1)
