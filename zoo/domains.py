"""Domain prediction: which slices of the upstream data an image is like (arXiv 2009.13239).

The expert-prediction network of section 3 there: the body is the baseline's, frozen; its linear
head is trained upstream, from images to the slice that each was drawn from. Slices overlap, and
all are drawn from alike: an image of a small slice and of a large one around it more probably
came from the small one. Were images drawn from all upstream data instead, with the slices that
hold one equally probable, a slice would never be less probable than any slice inside it.

Shapes: N images, F features, C upstream classes, S slices.
"""

import os
import time

import numpy as np

PENALTY = 1e-6  # on squared weights of standardised features: little, but one optimum only
STEPS = 300  # of L-BFGS, at most
CLOSE = 1e-5  # relative gain of a step at which it stops: held-out scores move no more by then


def train(baseline_dir, baseline, found, work_dir, data_dir=None, command=()):
  """Trains the network that predicts slices, or finds it trained.

  Args:
    baseline_dir: a finished work_dir of `zoo.pretrain.pretrain`.
    baseline: its result.
    found: the S `zoo.slices.Slice`s, two or more.
    work_dir: folder of this run.
    data_dir: where TFDS finds the upstream data.
    command: the command line, for the record.

  Returns:
    A JSON-like dict, also in work_dir/result.json: kind 'predictor', predicts 'slices', classes
    (the names of the S outputs in order), slices (what each is), scores (see `scores`), cost.

  Raises:
    ValueError: there are fewer than two slices, other upstream data, or work_dir is in use for
      something else.
  """
  from zoo import atomic
  from zoo import backbones
  from zoo import jit
  from zoo import pretrain
  from zoo import weights
  from zoo import work_dir as work_dirs

  if len(found) < 2:
    raise ValueError('there is one slice only, of which nothing can be told apart: use a lower '
                     '--min_examples, or name more --slices.')
  if any(os.path.exists(os.path.join(work_dir, one.name, pretrain.RESULT)) for one in found):
    raise ValueError(f'--work_dir={work_dir} holds experts: name another folder for '
                     '--kind=domains.')
  settings = {'kind': 'domains', 'baseline': os.path.abspath(baseline_dir),
              'baseline_settings': baseline['settings'],
              'slices': [[one.node, list(one.classes)] for one in found]}
  with work_dirs.opened(work_dir, settings):
    done = os.path.join(work_dir, pretrain.RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    data = pretrain.upstream_task(baseline, data_dir)
    start = time.monotonic()
    backbone = backbones.build(backbones.architecture_of(baseline['architecture']))
    values = weights.load(os.path.join(baseline_dir, pretrain.WEIGHTS))
    weights.set_to(backbone, values)
    embed = jit.jit(backbone, backbone)
    upstream = baseline['upstream']
    wanted = targets([one.classes for one in found],
                     dict(zip(upstream['classes'], upstream['counts'], strict=True)))
    (features, aims), (others, truth) = (
        _embedded(embed, data, split, baseline['image_size'], wanted)
        for split in ('train', 'test'))
    kernel, bias = fit_head(features, aims)
    weights.save(os.path.join(work_dir, pretrain.WEIGHTS),
                 values | {'head/kernel': kernel, 'head/bias': bias})
    result = {
        'kind': 'predictor', 'predicts': 'slices', 'preset': baseline['preset'],
        'architecture': baseline['architecture'], 'image_size': baseline['image_size'],
        'classes': [one.name for one in found], 'slices': [one.to_dict() for one in found],
        'upstream': upstream, 'scores': scores(others @ kernel + bias, truth),
        'cost': {'seconds': round(time.monotonic() - start, 2), 'images': len(features),
                 'device': pretrain.device()},
        'seed': baseline['seed'], 'command': list(command)}
    atomic.write_json(done, result)
    return result


def targets(slices, counts):
  """How probable it is to draw one image of a class from a slice, all slices drawn from alike.

  Args:
    slices: of each of the S slices the classes in it.
    counts: dict from each of the C classes to its number of images.

  Returns:
    float32 [C, S]: over all images they sum to 1. A row of zeros is a class in no slice.
  """
  inside = np.array([[name in own for own in map(set, slices)] for name in counts], np.float64)
  images = np.array(list(counts.values()), np.float64) @ inside
  return (inside / images / len(images)).astype(np.float32)


def _embedded(embed, data, split, image_size, wanted):
  """Features [N, F] and targets [N, S] of the images of a split that are in any slice."""
  from zoo import tasks
  from zoo import training
  examples = tasks.read(data, (split, None), image_size)
  chosen = wanted.any(1)[examples.labels]
  return (training.predict(embed, examples.images[chosen], what=f'features of {split}'),
          wanted[examples.labels[chosen]])


def fit_head(features, aims, penalty=PENALTY):
  """Softmax regression on weighted targets: the least cross-entropy, by L-BFGS.

  The problem is convex, so that there is no learning rate and no seed.

  Args:
    features: float32 [N, F].
    aims: float32 [N, S], the weight of each image as one of each slice; all sum to 1.
    penalty: half of it times the squared weights, of features scaled to mean 0 and variance 1,
      is added to the cross-entropy.

  Returns:
    (kernel, bias), float32 [F, S] and [S]: log-probabilities are log_softmax(features @ kernel
    + bias).
  """
  import scipy.optimize
  center, spread = features.mean(0), features.std(0)
  spread = np.where(spread > 0, spread, 1)  # a feature that is never on
  points = (features - center) / spread
  shape, shares = (points.shape[1], aims.shape[1]), aims.sum(1, keepdims=True)

  def loss(flat):
    kernel, bias = _unpacked(flat, shape)
    logits = points @ kernel.astype(np.float32) + bias.astype(np.float32)
    top = logits.max(1, keepdims=True)
    odds = np.exp(logits - top)
    total = odds.sum(1, keepdims=True)
    value = (shares * (top + np.log(total))).sum(dtype=np.float64) - (
        aims * logits).sum(dtype=np.float64)
    apart = odds * (shares / total) - aims
    gradient = np.concatenate([(points.T @ apart + penalty * kernel).ravel(), apart.sum(0)])
    return value + penalty / 2 * np.square(kernel).sum(), gradient.astype(np.float64)

  found = scipy.optimize.minimize(loss, np.zeros((shape[0] + 1) * shape[1]), jac=True,
                                  method='L-BFGS-B', options={'maxiter': STEPS, 'ftol': CLOSE})
  kernel, bias = _unpacked(found.x, shape)
  kernel = kernel / spread[:, None]
  return kernel.astype(np.float32), (bias - center @ kernel).astype(np.float32)


def _unpacked(flat, shape):
  return flat[:-shape[1]].reshape(shape), flat[-shape[1]:]


def scores(logits, aims):
  """How well slices are predicted.

  Args:
    logits: [N, S].
    aims: [N, S], as in `fit_head`, up to a factor.

  Returns:
    A dict of floats, means over images drawn from all slices alike: top1 (whether the likeliest
    slice holds the image), cross_entropy and least_cross_entropy (what a perfect prediction
    would have, as slices overlap) in nats; and held_out_examples, N.
  """
  import scipy.special
  said = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
  aims = np.asarray(aims, np.float64) / np.sum(aims, dtype=np.float64)
  shares = aims.sum(1)
  held = aims[np.arange(len(aims)), said.argmax(1)] > 0
  return {'top1': float(shares @ held), 'cross_entropy': float(-(aims * said).sum()),
          'least_cross_entropy': float((scipy.special.entr(aims).sum(1)
                                        - scipy.special.entr(shares)).sum()),
          'held_out_examples': len(aims)}
