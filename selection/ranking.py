"""Ranking the experts of a hub for a task (arXiv 2009.13239, section 3)."""

import contextlib
import dataclasses
import functools
import logging
import tempfile

import numpy as np
import threadpoolctl

from export import hub as hub_lib
from selection import cache as cache_lib
from selection import candidates as candidates_lib
from selection import compare
from selection import embeddings as embeddings_lib
from selection import fusion
from selection import matching
from selection import proxies as proxies_lib
from selection import race
from zoo import cut_tasks
from zoo import progress as progress_lib
from zoo import tasks

logger = logging.getLogger(__name__)

EXAMPLES = 1000
PROXIES = ('knn+logme',)  # less regret than 1-NN alone, see docs/experts.md
RACE_FROM = 40  # candidates; so few are embedded in seconds, and all are worth seeing whole
CONFIDENCE = 0.95
MANY = 5000  # examples, from which linear algebra runs in several threads
UNRANKED = ('but experts are ranked by one: choose an expert yourself and give it to zoo-finetune '
            '--handle.')


@dataclasses.dataclass(frozen=True)
class Entry:
  """What the ranking found of one candidate.

  Attributes:
    candidate: the `selection.candidates.Candidate`.
    scores: proxy name to `selection.proxies.Score`; empty if it failed. Those of
      `selection.matching` are only there where its slice is known. Who left the race has that of
      the proxy it was seen by, on its examples.
    examples: how many examples it was judged by; 0 if it failed.
    computed: how many of them went through its network; the others were kept, or not needed.
    seconds: spent on it, loading included, and its share of the predictor's time.
    dropped: None; or why it failed; or what it was behind when it left the race; or why the
      proxy that ranks has no score for it.
  """
  candidate: candidates_lib.Candidate
  scores: dict[str, proxies_lib.Score]
  examples: int
  computed: int
  seconds: float
  dropped: str | None = None

  def to_dict(self, main, baseline=None):
    """The entry in the JSON of `zoo-rank`.

    Args:
      main: name of the proxy that ranks.
      baseline: the `Entry` to compare with, or None.
    """
    versus = None
    if baseline is not None and not self.dropped:
      versus = compare.paired(self.scores[main], baseline.scores[main])
    return {'handle': self.candidate.handle, 'expert': self.candidate.expert,
            'name': self.candidate.name, 'kind': self.candidate.kind,
            'scores': {name: score.value for name, score in self.scores.items()},
            'stderr': self.scores[main].stderr if main in self.scores else None,
            'recall': self.scores['knn'].recall if 'knn' in self.scores else None,
            'vs_baseline': versus, 'images': self.examples, 'computed': self.computed,
            'seconds': round(self.seconds, 3), 'dropped': self.dropped}


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The experts of a hub for a task, best first.

  Attributes:
    task, source: name of the task, and builder and version of its data.
    hub: folder of the hub.
    examples: N, how many labelled examples were used.
    entries: all candidates, best first; then those that left the race, those without a score.
    left_out: (`Candidate`, reason) of those that are not judged, see
      `selection.candidates.for_task`.
    proxies: the selectors of `selection.matching.make`; the first one ranks.
    k, distance: of the kNN proxy.
    confidence: with which experts left the race; None if all embedded all examples.
    protocol: how the examples were drawn.
    digest: of the examples at the hub's smallest image size, as in
      `zoo.tasks.Examples.digest`.
  """
  task: str
  source: str
  hub: str
  examples: int
  entries: list[Entry]
  left_out: list[tuple[candidates_lib.Candidate, str]]
  proxies: tuple
  k: int
  distance: str
  confidence: float | None
  protocol: str
  digest: str

  @property
  def winner(self):
    """The best `Entry`."""
    return self.entries[0]

  @functools.cached_property
  def baseline(self):
    """The `Entry` of the plain baseline (`candidates.plain_baseline`), or None without any.

    Not the baseline that the proxies prefer: on frozen embeddings a small network may look better
    than a large one that learns more when it is fine-tuned (docs/zoo.md).
    """
    judged = [e for e in self.entries if not e.dropped]
    plain = candidates_lib.plain_baseline([e.candidate for e in judged])
    return next((e for e in judged if e.candidate is plain), None)

  @property
  def beats_baseline(self):
    """Whether the winner is better than the baseline beyond noise; None without a baseline.

    The winner was picked among all: the p-value is multiplied by how many there were.
    """
    if self.baseline is None:
      return None
    return self._beats(self.winner, self.baseline)

  @property
  def indistinguishable(self):
    """The entries that the same test cannot tell from the winner."""
    return [e for e in self.entries[1:] if not e.dropped and not self._beats(self.winner, e)]

  @functools.cached_property
  def judged(self):
    """How many candidates the winner is the best of, those that left the race included."""
    main = self.proxies[0].name
    return sum(main in entry.scores or 0 < entry.examples < self.examples
               for entry in self.entries)

  def _beats(self, one, other):
    main = self.proxies[0].name
    return compare.beats(one.scores[main], other.scores[main], max(self.judged - 1, 1))

  @property
  def agreement(self):
    """Kendall's tau of the ranking proxy with each other one, over what both have judged."""
    main, *others = (proxy.name for proxy in self.proxies)

    def tau(other):
      both = [(entry.scores[main].value, entry.scores[other].value) for entry in self.entries
              if not entry.dropped and other in entry.scores]
      return proxies_lib.kendall(*np.reshape(both, (-1, 2)).T)

    return {name: tau(name) for name in others}

  def to_dict(self):
    """The JSON of `zoo-rank`."""
    return {
        'task': self.task, 'source': self.source, 'hub': self.hub, 'examples': self.examples,
        'protocol': self.protocol, 'examples_digest': self.digest,
        'proxies': [{'name': p.name, 'title': p.title, 'unit': p.unit} for p in self.proxies],
        'agreement': self.agreement, 'k': self.k,
        'distance': self.distance, 'confidence': self.confidence,
        'winner': self.winner.candidate.handle, 'winner_expert': self.winner.candidate.expert,
        'baseline': self.baseline and self.baseline.candidate.handle,
        'judged': self.judged, 'beats_baseline': self.beats_baseline,
        'indistinguishable': [[e.candidate.handle, e.candidate.expert]
                              for e in self.indistinguishable],
        'experts': [entry.to_dict(self.proxies[0].name, self.baseline) for entry in self.entries],
        'left_out': [{'handle': one.handle, 'expert': one.expert, 'reason': reason}
                     for one, reason in self.left_out]}


@dataclasses.dataclass(frozen=True)
class Sample:
  """The labelled examples by which a task is judged.

  Attributes:
    images: dict from image size to uint8 [N, size, size, 3].
    labels: int64 [N].
    class_names: of the task.
    protocol: how the examples were drawn.
    digest: as in `Ranking`.
  """
  images: dict[int, np.ndarray]
  labels: np.ndarray
  class_names: tuple[str, ...]
  protocol: str
  digest: str


def sample(task, image_sizes, examples=EXAMPLES, seed=None):
  """Reads the examples of a task once, resized to each of some sizes.

  Args:
    task: a `zoo.tasks.Task`.
    image_sizes: iterable of pixels.
    examples: how many; the 1,000 of the protocol, or that many of 'train', 0 for all of it.
    seed: draws them; None takes the first in stored order.

  Returns:
    A `Sample`.

  Raises:
    ValueError: images have several labels, or as `zoo.tasks.read_sizes`.
  """
  task.check_one_label(UNRANKED)
  if examples == EXAMPLES:
    protocol = tasks.protocol_1k(task, seed)
    parts, name = [protocol.train, protocol.val], protocol.name
  else:
    rows = np.arange(task.splits['train'])
    if seed is not None:
      rows = np.random.default_rng((seed, len(rows))).permutation(rows)
    rows = np.sort(rows[:examples or None])
    parts, name = [('train', rows)], f'{len(rows)} of train'
    name += ' (first)' if seed is None else f' (seed {seed})'
  sizes = sorted(set(image_sizes))
  read = tasks.read_sizes(task, parts, sizes)
  labels = read[sizes[0]].labels
  counts = np.bincount(labels, minlength=len(task.class_names))
  alone = [task.class_names[i] for i in np.flatnonzero(counts == 1)]
  if alone:
    logger.warning('%d of the classes of %r have a single example here, which no other can '
                   'classify: %s', len(alone), task.name, ', '.join(alone[:5]))
  return Sample({size: own.images for size, own in read.items()}, labels, task.class_names,
                name, read[sizes[0]].digest())


def rank(task, hub=hub_lib.EMBEDDED, handles=(), image_size=None, data_dir=None,
         proxies=PROXIES, k=1, distance='euclidean', seed=None, examples=EXAMPLES,
         method='auto', confidence=CONFIDENCE, exhaustive=None, cache=None, trust=False,
         workers=None, input_range=None):
  """Ranks experts by how well they would serve a task: by frozen embeddings, or by slice.

  Candidates whose upstream data are of the task's own data set are left out.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it.
    hub: folder of the hub, or '' for none.
    handles: further modules, as `export.hub.resolve` takes them.
    image_size: pixels for modules that do not say theirs.
    data_dir: where TFDS finds prepared data sets.
    proxies: as `selection.matching.make` takes them; the first one ranks, the others are
      shown. With those of `selection.matching.NAMES` alone no expert is loaded.
    k, distance: of the kNN proxy: how many neighbours vote, 'euclidean' or 'cosine'.
    seed: draws the examples; None takes the first in stored order.
    examples: how many, as in `sample`.
    method: of neighbour search, as in `selection.neighbors.index`.
    confidence: with which an expert must be worse than the leader to leave the race, 0.5 to 1.
    exhaustive: embed all examples with every expert. None does so for few experts, and for
      proxies that have no outcomes to race on.
    cache: folder where embeddings are kept, '' for none; None is
      `zoo.caches.folder('embeddings')`.
    trust: as in `export.hub.check`.
    workers: a `selection.distributed.Workers` that scores the experts, each on all examples;
      None scores them in this process.
    input_range: values of the images of modules that do not say theirs, as in
      `selection.candidates.find`.

  Returns:
    A `Ranking`. A module that fails is in it as dropped, with the reason.

  Raises:
    ValueError: task or hub cannot be used, its images have several labels, all is left out,
      there are too few examples for k, no predictor for a proxy that needs one, or every
      module failed.
  """
  scorers, matchers, selectors = matching.make(proxies, k, distance, method)
  main = selectors[0]
  _check_asked(confidence, exhaustive, workers, proxies, scorers)
  if isinstance(task, str):
    task = tasks.load(task, data_dir)
  task.check_one_label(UNRANKED)
  found, left_out = candidates_lib.for_task(
      task.source, hub, handles, image_size, input_range)
  if left_out:
    logger.info('%d of %d candidates are left out, for having learnt from the data set of the '
                'task, %s.', len(left_out), len(found) + len(left_out),
                cut_tasks.data_set(task.source))
  chosen = matching.predictors(
      matchers, candidates_lib.modules(hub, handles), found) if matchers else {}
  drawn = sample(task, [one.image_size for one in [*found, *chosen.values()]], examples, seed)
  if len(drawn.labels) <= k:
    raise ValueError(f'task {task.name!r} has {len(drawn.labels)} examples but k is {k}: use '
                     f'--k={max(len(drawn.labels) - 1, 1)} or less, or more examples.')
  if exhaustive is None:
    exhaustive = bool(workers) or len(found) < RACE_FROM or not main.outcomes
  elif not exhaustive and not main.outcomes:
    raise ValueError(f'{main.name} has no outcomes to race on: rank by knn or ridge, '
                     'or say --exhaustive.')
  confidence = None if exhaustive else confidence
  with contextlib.ExitStack() as stack:
    if cache == '' and not exhaustive:  # one round goes on from what the last one embedded
      cache = stack.enter_context(tempfile.TemporaryDirectory())
    source = embeddings_lib.Embeddings(drawn.images, cache_lib.opened(cache), trust)
    if workers:
      settings = {'names': [scorer.name for scorer in scorers], 'k': k, 'distance': distance,
                  'method': method}
      entries = workers.entries(found, drawn, settings, cache, trust)
    elif scorers:
      entries = _race(found, source, scorers, drawn.labels, confidence)
    else:
      entries = [Entry(candidate, {}, len(drawn.labels), 0, 0.) for candidate in found]
    if matchers:
      entries = _matched(entries, matchers, chosen, source, main.name, len(drawn.labels))
  for mean in selectors:
    if isinstance(mean, fusion.Mean):
      entries = _averaged(entries, mean)
  return Ranking(task.name, task.source, hub, len(drawn.labels), best_first(entries, main),
                 left_out, tuple(selectors), k, distance, confidence, drawn.protocol, drawn.digest)


def _check_asked(confidence, exhaustive, workers, proxies, scorers):
  """Raises ValueError for what `rank` is asked that does not go together."""
  if not 0.5 <= confidence < 1:
    raise ValueError(f'confidence is {confidence}; it must be at least 0.5 and below 1.')
  if workers and exhaustive is False:
    raise ValueError('--runner embeds every example with every expert: leave out '
                     '--noexhaustive.')
  if workers and not scorers:
    raise ValueError(f'--proxy={",".join(proxies)} loads no expert and needs no workers: leave '
                     'out --runner.')


def best_first(entries, main):
  """Entries in the order of `Ranking`, by the proxy `main`, and by its first part if it is a mean.

  Equal ones come as they came, but the baseline first.

  Raises:
    ValueError: all were dropped.
  """
  names = [main.name] + [part.name for part in getattr(main, 'parts', ())[:1]]
  ranked = sorted(entries, key=lambda e: (
      e.dropped is not None, main.name not in e.scores, -e.examples,
      [-e.scores[name].value if name in e.scores else 0. for name in names],
      e.candidate.kind != 'baseline'))
  if ranked[0].dropped:
    raise ValueError(f'no module could be used; the first failed so: {ranked[0].dropped}')
  return ranked


def _matched(entries, matchers, chosen, source, main, number):
  """Entries with the scores of matchers; whom `main`, if it is one, cannot judge is dropped."""
  judged = [entry.candidate for entry in entries if entry.examples]
  found = matching.match(matchers, chosen, judged, source, number)

  def added(entry, one):
    return dataclasses.replace(
        entry, scores=entry.scores | one.scores, seconds=entry.seconds + one.seconds,
        dropped=entry.dropped or one.reasons.get(main))

  return [added(entry, found[entry.candidate.key]) if entry.examples else entry
          for entry in entries]


def _averaged(entries, mean):
  """Entries with the scores of a `selection.fusion.Mean`, where they have seen all examples."""
  whole = [entry for entry in entries if not entry.dropped]
  if not whole:
    return entries
  averaged = {entry.candidate.key: score
              for entry, score in zip(whole, mean([e.scores for e in whole]), strict=True)}
  return [dataclasses.replace(entry, scores={mean.name: averaged[entry.candidate.key],
                                             **entry.scores})
          if entry.candidate.key in averaged else entry for entry in entries]


def score(found, source, scorers, labels, rows, progress=None):
  """Scores candidates on some of the examples, each as soon as it is embedded.

  Args:
    found: a list of `Candidate`.
    source: a `selection.embeddings.Embeddings`.
    scorers: of `selection.proxies.make`.
    labels: int64 [N].
    rows: int [R]: the examples, embedded in this order.
    progress: a `zoo.progress.Progress` of images, or None.

  Yields:
    An `Entry` for each candidate.
  """
  stored = np.argsort(rows)  # ties among neighbours go by stored order
  # For so few examples further threads would cost more than they give, and take cores from
  # the networks.
  linear_algebra = threadpoolctl.ThreadpoolController().select(user_api='blas')
  threads = 1 if len(rows) < MANY else None
  for one in source.of(found, rows, progress):
    scores, error = {}, one.error
    if not error:
      try:
        with linear_algebra.limit(limits=threads):
          scores = {scorer.name: scorer(one.embeddings[stored], labels[rows[stored]])
                    for scorer in scorers}
      except (ValueError, np.linalg.LinAlgError) as failure:
        error = str(failure)
    if error:
      logger.warning('%s: dropped: %s', one.candidate.describe(), error)
    yield Entry(one.candidate, scores if not error else {}, len(rows) if not error else 0,
                one.computed, one.seconds, error)


def _race(found, source, scorers, labels, confidence):
  """Entries of all candidates; those that cannot win are not embedded further.

  Without a confidence there is one round of all examples.
  """
  judges = race.judges(scorers)
  sizes = [len(labels)]
  if confidence is not None:
    sizes = race.samples(len(labels), len(np.unique(labels)), judges[0].k)
  beginning = race.order(labels)
  main = next((one for one in scorers if one.outcomes), scorers[0]).name
  done, running, spent = [], list(found), {}
  for number, size in enumerate(sizes, 1):
    last = size == len(labels)
    what = 'images' if len(sizes) == 1 else f'round {number}/{len(sizes)}: images'
    with progress_lib.Progress(len(running) * size, what) as progress:
      entries = []
      for entry in score(running, source, scorers if last else judges, labels, beginning[:size],
                         progress):
        # What an entry cost is the sum over its rounds.
        key = entry.candidate.key
        computed, seconds = spent.get(key, (0, 0.))
        spent[key] = computed + entry.computed, seconds + entry.seconds
        entries.append(dataclasses.replace(entry, computed=spent[key][0], seconds=spent[key][1]))
    done += [entry for entry in entries if last or entry.dropped]
    entries = [entry for entry in entries if not entry.dropped]
    if last or not entries:
      break
    behind = race.behind([e.candidate for e in entries], race.outcomes([e.scores for e in entries]),
                         [e.scores[main].value for e in entries], confidence)
    done += [dataclasses.replace(e, dropped=behind[e.candidate.key],
                                 scores={main: e.scores[main]})
             for e in entries if e.candidate.key in behind]
    running = [e.candidate for e in entries if e.candidate.key not in behind]
    if number > 1 or behind:
      logger.info('%d of %d experts go on after %d examples.', len(running), len(entries), size)
  # In the order of the hub, so that equal scores are ranked the same whichever came first.
  place = {candidate.key: i for i, candidate in enumerate(found)}
  return sorted(done, key=lambda entry: place[entry.candidate.key])
