"""How well probabilities fit labels.

Shapes: N examples, C classes. Labels are int [N], the class of each example, or 0/1 [N, C]
where an example may be of any number of classes (multi-label). Probabilities are [N, C], in
rows that sum to 1, or, for multi-label, each that of one class being there. Both are checked:
functions raise ValueError where they do not fit. All is computed in float64.
"""

import numpy as np

TINY = float(np.finfo(np.float32).tiny)  # what a likelihood of 0 is taken for: 87.3 nats
ROUNDING = 1e-6  # by which float32 probabilities may exceed 1
DRAWS = 200  # of the bootstrap
TITLES = {'test_accuracy': 'test accuracy', 'test_map': 'mean average precision on test'}


def evaluate(probabilities, labels):
  """All that is reported of predictions.

  Args:
    probabilities: [N, C], any float.
    labels: int [N], or 0/1 [N, C].

  Returns:
    A JSON-like dict. Of one label an example: test_accuracy, interval (95%, Wilson),
    test_examples, balanced_accuracy (mean recall of the classes that occur), nll, ece and
    confusion, a C x C list of counts whose rows are true classes. Of several: test_map (mean
    average precision of the classes that occur), interval (95%, between percentiles of
    `DRAWS` bootstrap samples of the examples, always the same), test_examples,
    average_precision (a list of C, None where the class does not occur) and nll.

  Raises:
    ValueError: also for 0/1 labels that are all 0.
  """
  probabilities, labels = _checked(probabilities, labels)
  figures = _of_several if labels.ndim == 2 else _of_one
  return figures(probabilities, labels)


def primary(evaluation):
  """The figure by which evaluations are compared, as (its name, its value); higher is better."""
  name = 'test_map' if 'test_map' in evaluation else 'test_accuracy'
  return name, evaluation[name]


def nll(probabilities, labels):
  """Mean negative log-likelihood of an example, in nats, also called cross-entropy.

  Args:
    probabilities: [N, C], any float.
    labels: int [N], or 0/1 [N, C]: then the sum of the C binary cross-entropies.

  Returns:
    A float, finite also where a true class was given 0 (see `surprise`).
  """
  return float(surprise(likelihoods(probabilities, labels)).sum() / len(labels))


def likelihoods(probabilities, labels):
  """The probability given to what is true.

  They are affine in the probabilities: those of an average are the average of those.

  Args:
    probabilities: [N, C], any float.
    labels: int [N], or 0/1 [N, C].

  Returns:
    float64 [N], or [N, C] of 0/1 labels: of each class, that it is there or not, as it is.
  """
  probabilities, labels = _checked(probabilities, labels)
  if labels.ndim == 2:
    return np.where(labels, probabilities, 1 - probabilities)
  return probabilities[np.arange(len(labels)), labels]


def surprise(likelihoods):
  """Negative logarithm of likelihoods of any shape, in nats; 0 counts as `TINY`."""
  return -np.log(np.maximum(likelihoods, TINY))


def ece(probabilities, labels, bins=15):
  """Expected calibration error (arXiv 1706.04599, section 2).

  Examples are binned by the probability of their likeliest class, bin b of B being
  ((b - 1) / B, b / B]; in each, the share that is right should be the mean probability.

  Args:
    probabilities: [N, C], any float.
    labels: int [N].
    bins: B.

  Returns:
    A float in 0..1: the difference of the two, averaged over examples.
  """
  probabilities, labels = _checked(probabilities, labels)
  if labels.ndim == 2:
    raise ValueError('the calibration error is of one label an example: give labels [N].')
  excess = probabilities.max(1) - (probabilities.argmax(1) == labels)
  # Inner edges only, so that probabilities of 0 and of rounding above 1 are in a bin too.
  own = np.digitize(probabilities.max(1), np.arange(1, bins) / bins, right=True)
  return float(np.abs(np.bincount(own, excess)).sum() / len(labels))


def average_precision(scores, truth, weights):
  """Average precision of one class under many weights of the examples.

  Precision at the score of each example of the class, averaged over these; examples of equal
  score come together. That of scikit-learn, which takes one weighting at a time.

  Args:
    scores: [N], higher where the class is likelier.
    truth: 0/1 [N].
    weights: [S, N], at least 0.

  Returns:
    float64 [S], NaN where no example of the class has weight.
  """
  order = np.argsort(-scores)
  last = np.append(np.diff(scores[order]) != 0, True)  # of those of equal score
  weights = weights[:, order]
  seen = weights.cumsum(1)[:, last]
  right = (weights * truth[order]).cumsum(1)[:, last]
  gained = np.diff(right, prepend=0)
  # Where nothing is gained nothing need be seen; where nothing is right, 0 / 0 is meant.
  precision = np.divide(right, seen, out=np.zeros(seen.shape), where=seen > 0)
  with np.errstate(invalid='ignore'):
    return (gained * precision).sum(1) / right[:, -1]


def check_labels(labels, shape):
  """Labels as an int64 array that fits outputs of a shape.

  Args:
    labels: int [N], or 0/1 [N, C]; any dtype that holds these values.
    shape: (N, C).

  Returns:
    int64 [N] or [N, C].

  Raises:
    ValueError: shapes do not fit, there is nothing, or a label is none of C classes (of 0/1).
  """
  labels, shape = np.asarray(labels), tuple(shape)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(f'outputs are of shape {list(shape)}: they must be [examples, classes].')
  if labels.shape not in (shape[:1], shape):
    raise ValueError(f'labels {list(labels.shape)} do not fit outputs {list(shape)}: they must '
                     'be [examples], or 0/1 [examples, classes].')
  known = np.isin(labels, np.arange(shape[1] if labels.ndim == 1 else 2))
  if not known.all():
    raise ValueError(f'label {labels[~known][0]} is not one of ' + (
        f'0..{shape[1] - 1}, the classes.' if labels.ndim == 1 else '0 and 1.'))
  return labels.astype(np.int64)


def _checked(probabilities, labels):
  """Both as float64 and int64 arrays that fit each other."""
  probabilities = np.asarray(probabilities, np.float64)
  labels = check_labels(labels, probabilities.shape)
  fine = (probabilities >= 0) & (probabilities <= 1 + ROUNDING)  # false of NaN too
  if not fine.all():
    raise ValueError(f'{probabilities[~fine][0]} is no probability: give what softmax or '
                     'sigmoid made of logits, finite and in 0..1.')
  return probabilities, labels


def _of_one(probabilities, labels):
  """`evaluate` of labels [N]."""
  import scipy.stats
  number, classes = probabilities.shape
  predicted = probabilities.argmax(1)
  confusion = np.bincount(labels * classes + predicted, minlength=classes ** 2)
  confusion = confusion.reshape(classes, classes)
  hits, examples = confusion.diagonal(), confusion.sum(1)
  interval = scipy.stats.binomtest(int(hits.sum()), number).proportion_ci(method='wilson')
  return {'test_accuracy': int(hits.sum()) / number,
          'interval': [float(interval.low), float(interval.high)],
          'test_examples': number,
          'balanced_accuracy': float((hits[examples > 0] / examples[examples > 0]).mean()),
          'nll': nll(probabilities, labels),
          'ece': ece(probabilities, labels),
          'confusion': confusion.tolist()}


def _of_several(probabilities, labels):
  """`evaluate` of labels [N, C]."""
  if not labels.any():
    raise ValueError('no example is of any class: average precision needs one that is.')
  number, classes = labels.shape
  # A bootstrap sample is how often it has each example; the first is the examples themselves.
  samples = np.random.default_rng(0).multinomial(number, [1 / number] * number, DRAWS)
  samples = np.concatenate([np.ones((1, number), np.int64), samples])
  samples = samples[(samples @ labels).any(1)]  # of very few examples, some have no class
  occurring = np.flatnonzero(labels.any(0))
  precisions = np.stack([average_precision(probabilities[:, i], labels[:, i], samples)
                         for i in occurring])
  found = dict(zip(occurring.tolist(), precisions[:, 0].tolist(), strict=True))
  means = np.nanmean(precisions, 0)
  return {'test_map': float(means[0]),
          'interval': np.percentile(means[1:], [2.5, 97.5]).tolist(),
          'test_examples': number,
          'average_precision': [found.get(i) for i in range(classes)],
          'nll': nll(probabilities, labels)}
