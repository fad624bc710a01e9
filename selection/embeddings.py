"""Embeddings of a task's images by the experts of a hub: kept ones first, the others computed.

Of experts that share a graph one is loaded and compiled; the others bring only their weights.
While one computes, the next is checked and what is kept of it is read.
Shapes: N images of the task, R of them asked for, F features.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import time

import numpy as np

from export import graphs
from export import hub
from selection import cache as cache_lib
from selection import candidates as candidates_lib
from selection import embedder

PROGRAMS = 4  # compiled graphs kept at once
PACKED = 64  # experts of a packed module embedded at once, which bounds memory


@dataclasses.dataclass(frozen=True)
class Embedded:
  """The embeddings of one candidate.

  Attributes:
    candidate: the `selection.candidates.Candidate`.
    embeddings: float32 [R, F]; None if it failed.
    computed: how many of the R images went through the network; the others were kept.
    seconds: spent on it, loading included.
    error: why it failed, or None.
  """
  candidate: candidates_lib.Candidate
  embeddings: np.ndarray | None
  computed: int
  seconds: float
  error: str | None = None


class Embeddings:
  """Embeds the images of one task.

  Args:
    images: dict from image size to uint8 [N, size, size, 3].
    cache: a `selection.cache.Cache`, or None to keep nothing.
    trust: as in `export.hub.check`.
  """

  def __init__(self, images, cache=None, trust=False):
    self._images = images
    self._digests = {size: cache_lib.image_digests(own) for size, own in images.items()
                     } if cache is not None else {}
    self._cache = cache
    self._trust = trust
    self._programs = collections.OrderedDict()  # digest of the graph to Embedder

  def of(self, candidates, rows, progress=None):
    """Embeds images with each candidate.

    Args:
      candidates: a list of `Candidate`.
      rows: int [R], which of the images.
      progress: a `zoo.progress.Progress` that counts images, or None.

    Yields:
      An `Embedded` for each candidate, as they are done; those that share a graph follow
      each other, so that the order is not the given one.
    """
    groups = _groups(candidates)
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
      ahead = reader.submit(self._prepare, groups[0], rows) if groups else None
      for i, group in enumerate(groups):
        start = time.monotonic()
        prepared = ahead.result()
        if i + 1 < len(groups):
          ahead = reader.submit(self._prepare, groups[i + 1], rows)
        done = list(self._embed(group, rows, prepared))
        each = (time.monotonic() - start) / len(group)
        for one in done:
          if progress is not None:
            progress.advance(len(rows), one.candidate.name)
          yield dataclasses.replace(one, seconds=each)

  def _prepare(self, group, rows):
    """Checks a group's module and reads what is kept of it.

    Returns:
      (kept, graph): for each candidate (found [R], embeddings or None), and the digest of
      the module's graph if anything has to be computed. Or an exception.
    """
    module = group[0].module
    try:
      hub.check(module, self._trust)
      kept = [self._kept(candidate, rows) for candidate in group]
      missing = any(not found.all() for found, _ in kept)
      return kept, (graphs.digest(module.path) or module.path) if missing else None
    except (ValueError, OSError) as error:
      return error

  def _kept(self, candidate, rows):
    if self._cache is None:
      return np.zeros(len(rows), bool), None
    return self._cache.get(_key(candidate), self._digests[candidate.image_size][rows])

  def _embed(self, group, rows, prepared):
    if isinstance(prepared, Exception):
      for candidate in group:
        yield Embedded(candidate, None, 0, 0., str(prepared))
      return
    kept, graph = prepared
    missing = ~np.logical_and.reduce([found for found, _ in kept])
    wanting = [candidate for candidate, (found, _) in zip(group, kept, strict=True)
               if not found.all()]
    fresh = {}
    if wanting:
      try:
        program = self._program(graph, group[0].module)
        computed = program(self._images[group[0].image_size], rows[missing],
                           [candidate.expert for candidate in wanting])
      except ValueError as error:
        for candidate in group:
          yield Embedded(candidate, None, 0, 0., str(error))
        return
      fresh = {candidate.expert: own for candidate, own in zip(wanting, computed, strict=True)}
    for candidate, (found, embeddings) in zip(group, kept, strict=True):
      if candidate.expert not in fresh:
        yield Embedded(candidate, embeddings, 0, 0.)
        continue
      own = fresh[candidate.expert]
      if self._cache is not None:
        self._cache.put(_key(candidate), self._digests[candidate.image_size][rows[missing]], own)
      whole = np.empty((len(rows), own.shape[1]), np.float32)
      if embeddings is not None:
        whole[found] = embeddings
      whole[missing] = own
      yield Embedded(candidate, whole, int(missing.sum()), 0.)

  def _program(self, graph, module):
    """The compiled graph with the weights of `module`."""
    if graph in self._programs:
      self._programs.move_to_end(graph)
      self._programs[graph].use(module)
    else:
      self._programs[graph] = embedder.Embedder(module)
      while len(self._programs) > PROGRAMS:
        self._programs.popitem(last=False)
    return self._programs[graph]


def _key(candidate):
  return cache_lib.key(candidate.module.metadata['fingerprint'], candidate.expert,
                       candidate.image_size)


def _groups(candidates):
  """Candidates of one module together, and modules of one architecture after each other."""
  def architecture(candidate):
    metadata = candidate.module.metadata
    return json.dumps([metadata.get('architecture'), metadata.get('adapters')], sort_keys=True)

  found = []
  for _, experts in itertools.groupby(
      sorted(candidates, key=architecture), lambda candidate: candidate.module.path):
    own = list(experts)
    found += [own[first:first + PACKED] for first in range(0, len(own), PACKED)]
  return found
