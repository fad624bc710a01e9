"""What an expert separates that the baseline does not: class by class and image by image.

Shapes: N examples, M neighbours of each, C classes that have examples.
"""

import dataclasses
import os

import numpy as np

from export import hub as hub_lib
from selection import cache as cache_lib
from selection import candidates as candidates_lib
from selection import compare
from selection import embeddings as embeddings_lib
from selection import proxies
from selection import race
from selection import ranking
from selection import show
from zoo import progress as progress_lib

SHOWN = 3  # neighbours of an image


@dataclasses.dataclass(frozen=True)
class ClassGain:
  """How much of one class each of two experts gets right.

  Attributes:
    label: of the class.
    examples: n, how many it has.
    expert, baseline: recalls, the shares of them that each gets right.
    gain: expert less baseline.
    stderr: standard error of gain, paired: of the mean of n differences of outcomes.
  """
  label: int
  examples: int
  expert: float
  baseline: float
  gain: float
  stderr: float


@dataclasses.dataclass(frozen=True)
class Difference:
  """Where two experts differ on the same examples.

  Attributes:
    expert, baseline: the `selection.proxies.Score` of each.
    gain, stderr: of expert over baseline, paired, over all examples.
    classes: the C `ClassGain`s, greatest gain first.
    gained: int [G], examples that only the expert gets right: one of each class, then a
      second one, and so on, the classes with the greatest gain first.
    lost: int [L], those that only the baseline gets right: likewise, the greatest loss first.
  """
  expert: proxies.Score
  baseline: proxies.Score
  gain: float
  stderr: float
  classes: list[ClassGain]
  gained: np.ndarray
  lost: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explanation:
  """What an expert sees in a task that the baseline does not.

  Attributes:
    task, source: name of the task, and builder and version of its data.
    expert, baseline: the `selection.candidates.Candidate`s.
    sample: the `selection.ranking.Sample` of N examples.
    proxy: the `selection.proxies.Knn` that judges.
    near, baseline_near: int [N, M], each example's nearest others under each of the two.
    difference: the `Difference` that these make.
  """
  task: str
  source: str
  expert: candidates_lib.Candidate
  baseline: candidates_lib.Candidate
  sample: ranking.Sample
  proxy: proxies.Knn
  near: np.ndarray
  baseline_near: np.ndarray
  difference: Difference


def difference(near, baseline_near, labels, k=1):
  """Compares two experts by the neighbours that they give the same examples.

  Args:
    near, baseline_near: int [N, M], M >= k: of each example the nearest others under the
      expert and under the baseline, nearest first.
    labels: int [N].
    k: how many neighbours vote.

  Returns:
    A `Difference`. Its gain is that of the proxy of arXiv 2009.13239, section 3, and the mean
    of the classes' gains, weighted by their examples.

  Raises:
    ValueError: as `selection.proxies.leave_one_out_correct` does.
  """
  labels = np.asarray(labels)
  correct, known = (proxies.leave_one_out_correct(own, labels, k)
                    for own in (near, baseline_near))
  classes = []
  for label in np.unique(labels):
    own = labels == label
    one, other = proxies.accuracy(correct[own]), proxies.accuracy(known[own])
    versus = compare.paired(one, other)
    classes.append(ClassGain(int(label), int(own.sum()), one.value, other.value,
                             versus['gain'], versus['stderr']))
  # Of classes with the same gain, the one where more images say so comes nearer to the end.
  classes.sort(key=lambda c: (-c.gain, -np.sign(c.gain) * c.examples, c.label))
  order = [c.label for c in classes]
  one, other = proxies.accuracy(correct), proxies.accuracy(known)
  versus = compare.paired(one, other)
  return Difference(one, other, versus['gain'], versus['stderr'], classes,
                    _by_turns(np.flatnonzero(correct & ~known), labels, order),
                    _by_turns(np.flatnonzero(known & ~correct), labels, order[::-1]))


def _by_turns(rows, labels, order):
  """Examples sorted so that classes take turns, in the given order of labels."""
  place, taken, keys = {label: i for i, label in enumerate(order)}, {}, []
  for label in labels[rows].tolist():
    taken[label] = taken.get(label, 0) + 1
    keys.append((taken[label], place[label]))
  return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def check(task, expert=None, hub=hub_lib.EMBEDDED, handles=(), image_size=None):
  """Finds before a ranking what could not be explained after it.

  Args:
    task: a `zoo.tasks.Task`.
    expert: 'HANDLE' or 'HANDLE#EXPERT', as `selection.candidates.one` takes it, or None.
    hub, handles, image_size: as in `selection.ranking.rank`.

  Returns:
    The `Candidate` that `expert` names, None without one.

  Raises:
    ValueError: there is no baseline, nothing beside it, or `expert` names a baseline or
      nothing that will be ranked.
  """
  found, left_out = candidates_lib.for_task(task.source, hub, handles, image_size)
  if all(candidate.kind != 'baseline' for candidate in found):
    raise ValueError('there is no baseline to explain an expert against: add the handle of '
                     'one to --handles' + (', of other upstream data than those of the task.'
                                           if left_out else '.'))
  if all(candidate.kind == 'baseline' for candidate in found):
    raise ValueError('there is nothing but the baseline: no expert to explain.')
  if expert is None:
    return None

  def same(candidate):
    return os.path.realpath(candidate.module.path), candidate.expert

  named = candidates_lib.one(expert, hub, image_size)
  if named.kind == 'baseline':
    raise ValueError(f'--expert={expert} is a baseline, against which experts are explained: '
                     'name another one.')
  chosen = [candidate for candidate in found if same(candidate) == same(named)]
  reasons = [reason for one, reason in left_out if same(one) == same(named)]
  if reasons:
    raise ValueError(f'--expert={expert} is left out of this ranking: {reasons[0]}.')
  if not chosen:
    raise ValueError(f'--expert={expert} is not among the modules to rank: add it to --handles.')
  return chosen[0]


def pair(ranked, expert=None):
  """Whom to explain, against whom.

  Args:
    ranked: a `selection.ranking.Ranking`.
    expert: one of its `Candidate`s; the best that is no baseline if None.

  Returns:
    (expert, baseline, standing): two `Candidate`s, and how the first one ranks, in words.

  Raises:
    ValueError: one of the two could not be used.
  """
  # One that the ranking proxy does not judge can be explained against well.
  baseline = candidates_lib.plain_baseline([e.candidate for e in ranked.entries if e.examples])
  if baseline is None:
    dropped = next(e.dropped for e in ranked.entries if e.candidate.kind == 'baseline')
    raise ValueError(f'no expert can be explained: the baseline was dropped: {dropped}')
  experts = [e for e in ranked.entries if e.candidate.kind != 'baseline']
  entry = next(e for e in experts if expert is None or e.candidate.key == expert.key)
  if not entry.examples:  # one that left the race can be explained well
    raise ValueError(f'{entry.candidate.describe()} cannot be explained, as it was dropped: '
                     f'{entry.dropped}')
  place = ranked.entries.index(entry) + 1
  if ranked.proxies[0].name not in entry.scores:
    standing = f'not ranked, as {entry.dropped}'
  elif entry.dropped:
    standing = f'left the race, {entry.dropped}'
  elif place == 1:
    standing = f'the best of {len(ranked.entries)}'
  elif expert is None and ranked.winner.candidate is baseline:
    standing = f'the best beside the baseline, which itself is the best of {len(ranked.entries)}'
  else:
    standing = f'number {place} of {len(ranked.entries)}'
  if ranked.left_out:
    standing += f'; {show.left_out(len(ranked.left_out), ranked.source)}'
  return entry.candidate, baseline, standing


def explain(task, expert, baseline, k=1, distance='euclidean', seed=None,
            examples=ranking.EXAMPLES, method='auto', cache=None, trust=False):
  """Embeds a task with an expert and with the baseline, and finds where they differ.

  Args:
    task: a `zoo.tasks.Task`.
    expert, baseline: `selection.candidates.Candidate`s.
    k, distance, seed, examples, method, cache, trust: as in `selection.ranking.rank`. After a
      ranking with the same ones nothing is embedded again.

  Returns:
    An `Explanation`.

  Raises:
    ValueError: one of the two fails, or there are too few examples for k.
  """
  proxy = proxies.make(['knn'], k, distance, method)[0]
  drawn = ranking.sample(task, [expert.image_size, baseline.image_size], examples, seed)
  source = embeddings_lib.Embeddings(drawn.images, cache_lib.opened(cache), trust)
  rows = race.order(drawn.labels)  # as they are ranked: the same batches, the same last digits
  stored = np.argsort(rows)
  count = min(max(k, SHOWN), max(k, len(rows) - 1))
  near = {}
  with progress_lib.Progress(2 * len(rows), 'explaining: images') as progress:
    for one in source.of([expert, baseline], rows, progress):
      if one.error:
        raise ValueError(f'{one.candidate.describe()} cannot be explained: {one.error}')
      near[one.candidate.key] = proxy.others(one.embeddings[stored], count)
  both = near[expert.key], near[baseline.key]
  return Explanation(task.name, task.source, expert, baseline, drawn, proxy, *both,
                     difference(*both, drawn.labels, k))
