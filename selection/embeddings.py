"""Embeddings of a task's images by the experts of a hub: kept ones first, the others computed.

Experts that share a graph share programs, into which each brings only its weights. A few
programs run at a time, or batches of one program: while one computes, others are checked, read
and scored, and no core waits for the end of a small operation.
Shapes: N images of the task, R of them asked for, F features.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import threading
import time

import numpy as np

from export import graphs
from export import hub
from selection import cache as cache_lib
from selection import candidates as candidates_lib
from selection import embedder

GRAPHS = 4  # whose programs are kept at once
PROGRAMS = 2  # that run at once; of one program so many batches
GROUPS_EACH = 16  # fewer modules than this do not pay for loading another program
LARGE = 1 << 28  # bytes of a module of which only one is held
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
    self._programs = collections.OrderedDict()  # (digest of graph, range) to `_Programs`
    self._lock = threading.Lock()
    self._checked = set()  # paths of modules
    self._graphs = {}  # path of a module to the digest of its graph

  def of(self, candidates, rows, progress=None):
    """Embeds images with each candidate.

    Args:
      candidates: a list of `Candidate`.
      rows: int [R], which of the images.
      progress: a `zoo.progress.Progress` that counts images, or None.

    Yields:
      An `Embedded` for each candidate; those that share an architecture follow each other,
      so that the order is not the given one.
    """
    groups = units(sorted(candidates, key=_architecture))  # programs change seldom
    workers = min(PROGRAMS, max(len(groups) // GROUPS_EACH, 1))
    if any(_weights_size(group[0].module) > LARGE for group in groups):
      workers = 1
    at_once = PROGRAMS // workers
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      ahead = collections.deque()
      for group in itertools.chain(groups, [None] * (workers + 1)):
        if group is not None:
          ahead.append(pool.submit(self._embed, group, rows, at_once))
        if ahead and (group is None or len(ahead) > workers):  # few wait, whatever E is
          for one in ahead.popleft().result():
            if progress is not None:
              progress.advance(len(rows), one.candidate.name)
            yield one

  def _check(self, module):
    """Checks a module before anything of it is used, once."""
    if module.path not in self._checked:
      hub.check(module, self._trust)
      self._checked.add(module.path)

  def _kept(self, candidate, rows):
    if self._cache is None:
      return np.zeros(len(rows), bool), None
    return self._cache.get(_key(candidate), self._digests[candidate.image_size][rows])

  def _embed(self, group, rows, at_once):
    """A list of `Embedded` for candidates of one module, by so many batches at once."""
    start = time.monotonic()
    try:
      self._check(group[0].module)
      kept = [self._kept(candidate, rows) for candidate in group]
      missing = ~np.logical_and.reduce([found for found, _ in kept])
      wanting = [candidate for candidate, (found, _) in zip(group, kept, strict=True)
                 if not found.all()]
      fresh = {}
      if wanting:
        with self._program(group[0]) as program:
          computed = program(self._images[group[0].image_size], rows[missing],
                             [candidate.expert for candidate in wanting], at_once)
        fresh = {one.expert: own for one, own in zip(wanting, computed, strict=True)}
    except (ValueError, OSError) as error:
      each = (time.monotonic() - start) / len(group)
      return [Embedded(candidate, None, 0, each, str(error)) for candidate in group]
    done = []
    for candidate, (found, before) in zip(group, kept, strict=True):
      if candidate.expert not in fresh:
        done.append(Embedded(candidate, before, 0, 0.))
        continue
      own = fresh[candidate.expert]
      if self._cache is not None:
        self._cache.put(_key(candidate), self._digests[candidate.image_size][rows[missing]], own)
      whole = np.empty((len(rows), own.shape[1]), np.float32)
      if before is not None:
        whole[found] = before
      whole[missing] = own
      done.append(Embedded(candidate, whole, int(missing.sum()), 0.))
    each = (time.monotonic() - start) / len(group)
    return [dataclasses.replace(one, seconds=each) for one in done]

  @contextlib.contextmanager
  def _program(self, candidate):
    """Lends a program with the weights of a module."""
    module = candidate.module
    if module.path not in self._graphs:
      self._graphs[module.path] = graphs.digest(module.path) or module.path
    graph = self._graphs[module.path], candidate.input_range
    with self._lock:
      if graph not in self._programs:
        first = embedder.Embedder(module, candidate.input_range)
        self._programs[graph] = _Programs(first, [first])
      own = self._programs[graph]
      self._programs.move_to_end(graph)
      while len(self._programs) > GRAPHS:
        self._programs.popitem(last=False)
      program = own.idle.pop() if own.idle else own.first.twin() or embedder.Embedder(
          module, candidate.input_range)
    try:
      program.use(module)
      yield program
    finally:
      with self._lock:
        own.idle.append(program)


@dataclasses.dataclass(frozen=True)
class _Programs:
  """The programs of one graph: the first that was loaded, and those that wait for work."""
  first: embedder.Embedder
  idle: list[embedder.Embedder]


def _key(candidate):
  return cache_lib.key(candidate.module.metadata['fingerprint'], candidate.expert,
                       candidate.image_size, candidate.input_range)


def _weights_size(module):
  """Bytes of a module's variables on disk."""
  if os.path.isfile(module.path):
    return os.path.getsize(module.path)
  folder = os.path.join(module.path, 'variables')
  return sum(entry.stat().st_size for entry in os.scandir(folder)) if os.path.isdir(
      folder) else 0


def units(candidates):
  """Candidates that are embedded together: lists of those of one module, of at most `PACKED`."""
  found = []
  for _, experts in itertools.groupby(candidates, lambda candidate: candidate.module.path):
    own = list(experts)
    found += [own[first:first + PACKED] for first in range(0, len(own), PACKED)]
  return found


def _architecture(candidate):
  """A text that candidates of one architecture share."""
  metadata = candidate.module.metadata
  return json.dumps([metadata.get('architecture'), metadata.get('adapters')], sort_keys=True)
