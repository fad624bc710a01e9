"""Matching: which slice of the upstream data a task is like, without labels or embeddings.

Domain prediction and label matching, the rivals of kNN in arXiv 2009.13239, section 3. A
predictor, a module trained upstream, says of each of the task's images what it might be; an
expert is judged by its slice alone. So the images go through one predictor for each upstream
data set, whatever the number of experts.

Shapes: N images of the task, S slices, L upstream labels.
"""

import dataclasses
import logging
import time

import numpy as np

from selection import candidates as candidates_lib
from selection import fusion
from selection import proxies

NAMES = ('domain', 'labels')

logger = logging.getLogger(__name__)


class Domain:
  """Mean log-probability of an expert's slice over the task's images.

  Less that of chance, -ln S. The paper has one upstream data set at a time, where this changes
  nothing; the subtraction is ours, so that predictors of several can be compared.
  """
  name = 'domain'
  title = 'domain'
  unit = ''
  outcomes = False
  predicts = 'slices'
  made_with = 'zoo-experts --kind=domains and zoo-publish'

  def summary(self, predicted):
    """What all candidates are judged by, of log-probabilities [N, S]: `selection.proxies.means`."""
    return proxies.means(predicted)

  def __call__(self, summary, predictor, candidate):
    """The `selection.proxies.Score` of a candidate.

    Args:
      summary: float64 [1 + R, S], see `summary`.
      predictor: the `export.hub.Module` that predicted.
      candidate: a `selection.candidates.Candidate`.

    Raises:
      ValueError: the predictor does not know its slice.
    """
    node = (candidate.slice or {}).get('node')
    known = [one['node'] for one in predictor.metadata['slices']]
    if node not in known:
      raise _unknown(predictor, candidate)
    value, *replicates = summary[:, known.index(node)] + np.log(len(known))
    return proxies.jackknifed(value, replicates)


class Labels:
  """How near the labels that the upstream classifier sees in the task are to an expert's.

  Minus the Jensen-Shannon divergence, in nats, between the mean predicted distribution and that
  of the upstream images of the expert's slice; of all upstream images for a baseline.
  """
  name = 'labels'
  title = 'labels'
  unit = ''
  outcomes = False
  predicts = 'labels'
  made_with = "zoo-publish --predictor of the baseline's work_dir"

  def summary(self, predicted):
    """As `Domain.summary`, of log-probabilities [N, L]."""
    return proxies.means(np.exp(np.asarray(predicted, np.float64)))

  def __call__(self, summary, predictor, candidate):
    """As `Domain.__call__`, summary float64 [1 + R, L]."""
    classes, upstream = predictor.metadata['classes'], predictor.metadata['upstream']
    own = set(classes if candidate.kind == 'baseline' else
              (candidate.slice or {}).get('classes', ()))
    counts = (dict(zip(upstream['classes'], upstream['counts'], strict=True))
              if upstream.get('counts') else dict.fromkeys(classes, 1))
    images = np.array([counts.get(name, 0) * (name in own) for name in classes], np.float64)
    if not images.any():
      raise _unknown(predictor, candidate)
    value, *replicates = [-jensen_shannon(seen, images / images.sum()) for seen in summary]
    return proxies.jackknifed(value, replicates)


def _unknown(predictor, candidate):
  slice_ = f'its slice, {candidate.slice["name"]}' if candidate.slice else 'a slice of it'
  return ValueError(f'{predictor.handle} does not know {slice_}')


def make(names, k=1, distance='euclidean', method='auto'):
  """The selectors of these names: proxies, means of some, and those of this file.

  Args:
    names: some of `selection.proxies.NAMES` and `NAMES`; of the former also several as one, with
      '+' between.
    k, distance, method: as in `selection.proxies.make`.

  Returns:
    (proxies, matchers, selectors), lists in the order of the names: the proxies that score each
    expert for itself, and what judges, which is a `selection.fusion.Mean` and then its parts
    where names are joined.

  Raises:
    ValueError: as `selection.proxies.make` does; or what cannot be averaged is.
  """
  names = list(names)
  joined = {name: name.split('+') for name in names if '+' in name}
  for name, parts in joined.items():
    if set(parts) & set(NAMES):
      raise ValueError(f'--proxy={name}: only {", ".join(proxies.NAMES)} can be averaged.')
    proxies.check_names(parts, proxies.NAMES)
  proxies.check_names(names, (*proxies.NAMES, *NAMES, *joined))
  single = list(dict.fromkeys(part for name in names for part in joined.get(name, [name])))
  of_labels = [name for name in single if name not in NAMES]
  scorers = proxies.make(of_labels, k, distance, method) if of_labels else []
  matchers = [matcher for matcher in (Domain(), Labels()) if matcher.name in single]
  made = {selector.name: selector for selector in [*scorers, *matchers]}
  selectors = {}
  for name in names:
    parts = [made[part] for part in joined.get(name, [name])]
    if name in joined:
      selectors[name] = fusion.Mean(tuple(parts))
    selectors |= {part.name: part for part in parts}
  return scorers, matchers, list(selectors.values())


def jensen_shannon(one, other):
  """Jensen-Shannon divergence of two distributions [L] in nats, a float in 0..ln 2."""
  import scipy.special
  # Not the square of scipy.spatial.distance.jensenshannon, whose root of a rounding error
  # below 0 is NaN.
  total = one + other  # half of the least number would be 0
  return max(0., float(scipy.special.rel_entr(2 * one, total).sum()
                       + scipy.special.rel_entr(2 * other, total).sum()) / 4)


def predictors(matchers, modules, candidates):
  """The predictor of each matcher for each upstream data set.

  Args:
    matchers: of `make`.
    modules: `export.hub.Module`s, predictors among them.
    candidates: the `Candidate`s to judge.

  Returns:
    A dict from (name of the matcher, source of the upstream data) to a `Candidate` that embeds
    images as log-probabilities. Of several predictors the one with the most outputs is taken,
    then the most accurate one. Sources without one are left out.

  Raises:
    ValueError: a matcher has none for any of the candidates.
  """
  found = {}
  sources = sorted({candidate.source for candidate in candidates} - {None})
  for matcher in matchers:
    able = [candidates_lib.Candidate(module, None, module.metadata['image_size'])
            for module in modules
            if module.kind == 'predictor' and module.metadata['predicts'] == matcher.predicts]
    own = {(matcher.name, one.source): one
           for one in sorted(able, key=_rank) if one.source in sources}
    if not own:
      raise ValueError(f'--proxy={matcher.name} needs a predictor of {matcher.predicts} beside '
                       f'the experts, trained on {" or ".join(sources) or "their upstream data"}, '
                       f'and there is none: make one with {matcher.made_with}.')
    found |= own
  return found


def _rank(predictor):
  """What sorts predictors of the same thing, the best one last."""
  m = predictor.module.metadata
  return len(m['classes']), (m.get('scores') or {}).get('top1', 0), m['version']


@dataclasses.dataclass(frozen=True)
class Match:
  """What matchers say of one candidate.

  Attributes:
    scores: dict from name to `selection.proxies.Score`.
    reasons: dict from the names of those that have no score for it to why, in words.
    seconds: of the predictors, shared among those that they judge.
  """
  scores: dict[str, proxies.Score]
  reasons: dict[str, str]
  seconds: float


def match(matchers, chosen, candidates, source, number):
  """Judges candidates by their slices.

  Args:
    matchers: of `make`.
    chosen: of `predictors`.
    candidates: a list of `Candidate`.
    source: a `selection.embeddings.Embeddings` of the task's images.
    number: N.

  Returns:
    A dict from the key of each candidate to its `Match`.
  """
  scores, reasons, seconds = ({one.key: {} for one in candidates} for _ in range(3))
  for matcher in matchers:
    name = matcher.name
    for upstream in dict.fromkeys(one.source for one in candidates):
      own = [one for one in candidates if one.source == upstream]
      start = time.monotonic()
      try:
        predictor, summary = _summary(matcher, chosen, upstream, source, number)
      except ValueError as error:
        for one in own:
          reasons[one.key][name] = str(error)
        continue
      for one in own:
        try:
          scores[one.key][name] = matcher(summary, predictor, one)
        except ValueError as error:
          reasons[one.key][name] = str(error)
      for one in own:
        seconds[one.key][name] = (time.monotonic() - start) / len(own)
  return {key: Match(scores[key], reasons[key], sum(seconds[key].values())) for key in scores}


def _summary(matcher, chosen, upstream, source, number):
  """The predictor for some upstream data, and what its matcher makes of the task's images.

  Raises:
    ValueError: there is none, or it fails.
  """
  if upstream is None:
    raise ValueError('it does not say its upstream data')
  if (matcher.name, upstream) not in chosen:
    raise ValueError(f'there is no predictor of {matcher.predicts} of {upstream}')
  predictor = chosen[matcher.name, upstream]
  predicted, = source.of([predictor], np.arange(number))
  wanted = len(predictor.module.metadata['classes'])
  if not predicted.error and predicted.embeddings.shape[1] != wanted:
    predicted = dataclasses.replace(predicted, error=f'it has not the {wanted} outputs it names')
  if predicted.error:
    raise ValueError(f'the predictor {predictor.handle} failed: {predicted.error}')
  logger.info('%s: %d of %d images went through %s.', matcher.title, predicted.computed, number,
              predictor.handle)
  return predictor.module, matcher.summary(predicted.embeddings)
