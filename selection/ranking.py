"""Ranking the experts of a hub for a task (arXiv 2009.13239, section 3)."""

import dataclasses
import logging
import time

import numpy as np

from export import hub as hub_lib
from selection import candidates as candidates_lib
from selection import compare
from selection import embeddings
from selection import neighbors
from selection import proxies
from zoo import tasks

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
  """What the ranking found of one candidate.

  Attributes:
    candidate: the `selection.candidates.Candidate`.
    scores: proxy name to score, higher is better; empty if dropped.
    stderr: standard error of the kNN score; None if dropped.
    images: how many were embedded.
    seconds: spent on it, loading included.
    dropped: None, or why it has no score.
    correct: bool [N], leave-one-out outcomes; None if dropped.
  """
  candidate: candidates_lib.Candidate
  scores: dict[str, float]
  stderr: float | None
  images: int
  seconds: float
  dropped: str | None = None
  correct: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  def to_dict(self, baseline=None):
    """The entry in the JSON of `zoo-rank`; `baseline` is the entry to compare with."""
    versus = None
    if baseline is not None and not self.dropped:
      versus = compare.paired(self.correct, baseline.correct)
    return {'handle': self.candidate.handle, 'expert': self.candidate.expert,
            'name': self.candidate.name, 'kind': self.candidate.kind, 'scores': self.scores,
            'stderr': self.stderr, 'vs_baseline': versus, 'images': self.images,
            'seconds': round(self.seconds, 3), 'dropped': self.dropped}


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The experts of a hub for a task, best first.

  Attributes:
    task, source: name of the task, and builder and version of its data.
    hub: folder of the hub.
    examples: N, how many labelled examples were used.
    entries: all candidates, best first, the dropped ones last.
    k: neighbours that vote.
    protocol: how the examples were drawn.
    digest: of the examples at the hub's smallest image size, as in
      `zoo.tasks.Examples.digest`.
  """
  task: str
  source: str
  hub: str
  examples: int
  entries: list[Entry]
  k: int
  protocol: str
  digest: str

  @property
  def winner(self):
    """The best `Entry`."""
    return self.entries[0]

  @property
  def baseline(self):
    """The best `Entry` of kind 'baseline', or None where the hub has none."""
    return next((e for e in self.entries
                 if e.candidate.kind == 'baseline' and not e.dropped), None)

  @property
  def beats_baseline(self):
    """Whether the winner is better than the baseline beyond noise (exact McNemar test)."""
    if self.baseline is None:
      return None
    return compare.beats(self.winner.correct, self.baseline.correct)

  @property
  def indistinguishable(self):
    """The entries that the same test cannot tell from the winner."""
    return [e for e in self.entries[1:]
            if not e.dropped and not compare.beats(self.winner.correct, e.correct)]

  def to_dict(self):
    """The JSON of `zoo-rank`."""
    return {
        'task': self.task, 'source': self.source, 'hub': self.hub, 'examples': self.examples,
        'protocol': self.protocol, 'examples_digest': self.digest, 'k': self.k,
        'winner': self.winner.candidate.handle, 'winner_expert': self.winner.candidate.expert,
        'baseline': self.baseline and self.baseline.candidate.handle,
        'beats_baseline': self.beats_baseline,
        'indistinguishable': [[e.candidate.handle, e.candidate.expert]
                              for e in self.indistinguishable],
        'experts': [entry.to_dict(self.baseline) for entry in self.entries]}


def rank(task, hub=hub_lib.EMBEDDED, handles=(), image_size=None, data_dir=None, k=1,
         seed=None, method='auto', trust=False):
  """Ranks experts by leave-one-out kNN accuracy on a task's 1,000 examples.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it.
    hub: folder of the hub, or '' for none.
    handles: further modules, as `export.hub.resolve` takes them.
    image_size: pixels for modules that do not say theirs.
    data_dir: where TFDS finds prepared data sets.
    k: how many neighbours vote.
    seed: draws the examples; None takes the first in stored order.
    method: of neighbour search, as in `selection.neighbors.index`.
    trust: as in `export.hub.check`.

  Returns:
    A `Ranking`. A module that fails is in it as dropped, with the reason.

  Raises:
    ValueError: task or hub cannot be used, there are too few examples for k, or every
      module failed.
  """
  if k < 1:
    raise ValueError(f'k is {k}; it must be 1 or more.')
  if isinstance(task, str):
    task = tasks.load(task, data_dir)
  found = candidates_lib.find(hub, handles, image_size)
  protocol = tasks.protocol_1k(task, seed)
  sizes = sorted({candidate.image_size for candidate in found})
  examples = {size: tasks.read(task, protocol.train, size) + tasks.read(
      task, protocol.val, size) for size in sizes}
  labels = examples[sizes[0]].labels
  if len(labels) <= k:
    raise ValueError(f'task {task.name!r} has {len(labels)} examples but k is {k}: use '
                     f'--k={max(len(labels) - 1, 1)} or less, or more examples.')
  counts = np.bincount(labels, minlength=len(task.class_names))
  alone = [task.class_names[i] for i in np.flatnonzero(counts == 1)]
  if alone:
    logger.warning('%d of the classes of %r have a single example here, which no other can '
                   'classify: %s', len(alone), task.name, ', '.join(alone[:5]))
  entries, embedder = [], None
  for number, candidate in enumerate(found, 1):
    start = time.monotonic()
    try:
      # Experts of a packed module follow each other: it is loaded once.
      if embedder is None or embedder.module is not candidate.module:
        embedder = embeddings.Embedder(candidate.module, trust)
      embedded = embedder(examples[candidate.image_size].images, candidate.expert)
      near = neighbors.index(embedded, method).others(k)
      correct = proxies.leave_one_out_correct(near, labels, k)
      entry = Entry(candidate, {'knn': float(correct.mean())}, proxies.standard_error(correct),
                    len(labels), time.monotonic() - start, correct=correct)
      logger.info('%d/%d %s: kNN %.1f%% ± %.1f', number, len(found), candidate.describe(),
                  100 * entry.scores['knn'], 100 * entry.stderr)
    except (ValueError, OSError) as error:
      entry = Entry(candidate, {}, None, 0, time.monotonic() - start, dropped=str(error))
      logger.warning('%d/%d %s: dropped: %s', number, len(found), candidate.describe(), error)
    entries.append(entry)
  entries.sort(key=lambda e: (
      e.dropped is not None, -e.scores.get('knn', 0.), e.candidate.kind != 'baseline'))
  if entries[0].dropped:
    raise ValueError(f'no module could be used; the first failed so: {entries[0].dropped}')
  return Ranking(task.name, task.source, hub, len(labels), entries, k, protocol.name,
                 examples[sizes[0]].digest())
