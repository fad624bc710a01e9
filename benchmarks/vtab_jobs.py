"""The work of zoo-vtab: tasks under seeds, the experts chosen there, and their fine-tuning.

What is done lies in WORK_DIR/TASK/seed-SEED: rankings, which experts were chosen, and a folder
for each that is fine-tuned. Each of these is done under a lock that goes with its process, also
when it is killed and, on network file systems, from machine to machine: so any number of
processes share the work by sharing the folder, and a kill loses at most what ran.
"""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable

import numpy as np

from export import hub as hub_lib
from finetune import runs
from finetune import sweep
from finetune import tuning
from selection import candidates
from selection import matching
from selection import proxies
from selection import ranking
from zoo import atomic
from zoo import cli
from zoo import cut_tasks
from zoo import strategies
from zoo import tasks
from zoo import work_dir as work_dirs

logger = logging.getLogger(__name__)

BY_PROXY = (*ranking.PROXIES, *proxies.NAMES, *matching.NAMES)
# Baseline: the one of the most upstream data. Hybrid: it and the best by 1-NN, the better on val.
# Oracle: of all, the best on test. Handle: each of --handles.
STRATEGIES = ('baseline', *BY_PROXY, 'hybrid', 'oracle', 'handle')
EXPECTED = (ValueError, ArithmeticError, MemoryError, OSError)  # of data, modules and training
SECONDS_BETWEEN_LOOKS = 2  # at what other processes do
CHOSEN = 'chosen.json'


@dataclasses.dataclass(frozen=True)
class Subject:
  """A task of a benchmark.

  Attributes:
    name: of its folder.
    title: in tables.
    group: of tasks whose mean is shown.
    load: returns the `zoo.tasks.Task`.
    drawn: whether a seed draws the 1,000 examples. Those of VTAB are fixed: there it is the
      order of the examples in training.
    sweep: of settings, unless another is wanted.
  """
  name: str
  title: str
  group: str
  load: Callable[[], tasks.Task]
  drawn: bool
  sweep: str


@dataclasses.dataclass(frozen=True)
class Study:
  """What is done with every task.

  Attributes:
    work_dir: the folder.
    plan: a `finetune.sweep.Plan`, of precision other than 'auto'; seed and sweep are set for
      each task.
    sweep: of settings, for all tasks; None for that of each `Subject`.
    protocol: '1k' or 'full'; experts are chosen by the 1,000 examples under both.
    hub: folder of the hub, or ''.
    handles: further modules.
    image_size, input_range: of modules that do not say theirs.
    trust: as in `export.hub.check`.
    command: the command line, for the record.
  """
  work_dir: str
  plan: sweep.Plan
  sweep: str | None = None
  protocol: str = '1k'
  hub: str = hub_lib.EMBEDDED
  handles: tuple[str, ...] = ()
  image_size: int | None = None
  input_range: tuple[float, float] | None = None
  trust: bool = False
  command: tuple[str, ...] = ()

  def settle(self):
    """Says in the work directory what it is for, or checks that it is for this.

    Raises:
      ValueError: it is for something else; the message names the difference.
    """
    plan = dataclasses.asdict(self.plan) | {'sweep': self.sweep}
    del plan['seed']
    work_dirs.settle(self.work_dir, {'protocol': self.protocol, 'plan': plan})

  def strategies(self, names):
    """Some of `STRATEGIES` with 'handle' once for each handle, as 'handle:HANDLE'.

    Raises:
      ValueError: there is no such strategy, or nothing for it to choose from.
    """
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
      raise ValueError(f'--strategy={unknown[0]} is none of {", ".join(STRATEGIES)}.')
    if 'handle' in names and not self.handles:
      raise ValueError('--strategy=handle needs --handles.')
    return [own for name in dict.fromkeys(names)
            for own in ([f'handle:{one}' for one in self.handles] if name == 'handle' else [name])]

  @functools.cached_property
  def devices(self):
    """The `tf.distribute.Strategy` of the plan."""
    return strategies.make(self.plan.strategy)

  @property
  def modules(self):
    """The handles without '#EXPERT': all experts of a packed module are candidates."""
    return [handle.partition('#')[0] for handle in self.handles]

  def foreign(self):
    """What is said of modules that do not say it themselves, as keyword arguments."""
    return {'image_size': self.image_size, 'input_range': self.input_range}


class Place:
  """A task under a seed: what is to be done there, and what is done.

  Args:
    study: a `Study`.
    subject: a `Subject`.
    seed: a number.
  """

  def __init__(self, study, subject, seed):
    self.study, self.subject, self.seed = study, subject, seed
    self.folder = os.path.join(study.work_dir, subject.name, f'seed-{seed}')

  @functools.cached_property
  def task(self):
    """The `zoo.tasks.Task`."""
    return self.subject.load()

  @functools.cached_property
  def data(self):
    """The `finetune.runs.Data` of the protocol."""
    if self.study.protocol == 'full':
      return runs.Data(self.task, tasks.protocol_full(self.task))
    return runs.Data(self.task, tasks.protocol_1k(self.task, self._draw))

  @functools.cached_property
  def found(self):
    """(candidates, those left out) of the hub, as `selection.candidates.for_task` gives them."""
    study = self.study
    return candidates.for_task(self.task.source, study.hub, study.modules, **study.foreign())

  @functools.cached_property
  def plan(self):
    """The `finetune.sweep.Plan` of this task and seed."""
    return dataclasses.replace(
        self.study.plan, sweep=self.study.sweep or self.subject.sweep,
        seed=0 if self.subject.drawn else self.seed)

  @functools.cached_property
  def networks(self):
    """The `finetune.tuned.Networks` that the experts share."""
    return runs.networks(self.data, self.plan, self.study.devices, self.study.trust)

  @property
  def _draw(self):
    return self.seed if self.subject.drawn else None

  def chosen(self):
    """What is known of the choice: a JSON-like dict, empty at first; see `choose`."""
    path = os.path.join(self.folder, CHOSEN)
    return atomic.read_json(path) if os.path.exists(path) else {}

  def choose(self, wanted):
    """Chooses by those of some strategies that have not chosen yet.

    Args:
      wanted: of `Study.strategies`.

    Returns:
      A JSON-like dict, also in chosen.json: source (of the task), classes, covered (how many of
      them the training examples have), protocol, ids (digest of the example ids), strategies (of
      each the names of its jobs), candidates (how many there were), left_out and overlaps.

    Raises:
      zoo.work_dir.InUseError: another process is at it.
      ValueError: nothing can be chosen.
    """
    kept = self.chosen()
    if not self._missing(wanted, kept):
      return kept
    self.task.check_one_label('which is no task to choose an expert for.')
    with work_dirs.opened(self.folder, {
        'source': self.task.source, 'protocol': self.data.protocol.name}):
      kept = {'strategies': {}, 'candidates': 0, 'left_out': [], 'overlaps': []} | self.chosen()
      missing = self._missing(wanted, kept)
      if not missing:  # another process was faster
        return kept
      for strategy in missing:
        own = self.by(strategy)
        kept['strategies'][strategy] = [self.job(one) for one in own]
        overlaps = {one.describe() for one in own if self._overlaps(one)}
        kept['overlaps'] = sorted(overlaps.union(kept['overlaps']))
        if not strategy.startswith('handle:'):
          there, left_out = self.found
          kept |= {'candidates': len(there), 'left_out': [one.describe() for one, _ in left_out]}
      kept |= {'source': self.task.source, 'classes': len(self.task.class_names),
               'covered': self._covered(own[0].image_size),
               'protocol': self.data.protocol.name,
               'ids': tasks.ids_digest(self.task, self.data.protocol)}
      atomic.write_json(os.path.join(self.folder, CHOSEN), kept)
    return kept

  def _missing(self, wanted, kept):
    return [strategy for strategy in wanted if strategy not in kept.get('strategies', {})]

  def _overlaps(self, one):
    return bool(one.source) and cut_tasks.same_data(self.task.source, one.source)

  def _covered(self, size):
    """How many classes the training examples have."""
    labels = [self.data.of(part, size).labels for part in ('train', 'val')]
    return len(np.unique(np.concatenate(labels)))

  def by(self, strategy):
    """The candidates that a strategy has fine-tuned."""
    kind, _, handle = strategy.partition(':')
    if kind == 'handle':
      return [candidates.one(handle, self.study.hub, **self.study.foreign())]
    if kind == 'oracle':
      return self.found[0]
    if kind in BY_PROXY:
      return [self._ranked(kind)]
    plain = candidates.plain_baseline(self.found[0])
    if plain is None:
      raise ValueError(f'--strategy={kind}: there is no baseline among the candidates.')
    own = [plain] if kind == 'baseline' else [self._ranked('knn'), plain]
    return list({one.key: one for one in own}.values())

  def _ranked(self, proxy):
    """The best candidate by a proxy; all embed all examples."""
    path = os.path.join(self.folder, f'ranking-{proxy}.json')
    there = {(one.handle, one.expert): one for one in self.found[0]}
    if not os.path.exists(path):
      study = self.study
      ranked = ranking.rank(
          self.task, study.hub, study.modules, proxies=(proxy,), seed=self._draw,
          exhaustive=True, trust=study.trust, **study.foreign())
      atomic.write_json(path, ranked.to_dict())
    ranked = atomic.read_json(path)
    if {(entry['handle'], entry['expert']) for entry in ranked['experts']} != set(there):
      raise ValueError(f'{path} is of other candidates than there are now: name another '
                       '--work_dir.')
    return there[ranked['winner'], ranked['winner_expert']]

  def job(self, one):
    """The name of the folder in which a candidate is fine-tuned."""
    words = one.handle.rstrip('/') + (f'-{one.name}' if one.expert is not None else '')
    return (f'{cli.file_name(words)[-50:]}-{one.module.metadata["fingerprint"][:12]}-'
            f'{one.image_size}px')

  def done(self, job):
    """The result of a job, or None."""
    path = os.path.join(self.folder, job, tuning.RESULT)
    return atomic.read_json(path) if os.path.exists(path) else None

  def run(self, one):
    """Fine-tunes a candidate.

    Raises:
      zoo.work_dir.InUseError: another process is at it.
      ValueError: it cannot be fine-tuned.
    """
    result = tuning.finetune(
        self.task, one, os.path.join(self.folder, self.job(one)), self.plan,
        trust=self.study.trust, command=self.study.command, data=self.data,
        networks=self.networks, publish=False)
    logger.info('%s, seed %d, %s: test accuracy %.1f%%', self.subject.title, self.seed,
                one.describe(), 100 * result['test_accuracy'])


def work(study, subjects, wanted, seeds, report=lambda: None):
  """Does all that is not done yet, sharing it with other processes.

  Args:
    study: a `Study`.
    subjects: a list of `Subject`.
    wanted: of `Study.strategies`.
    seeds: a list of numbers.
    report: called after every task and seed at which something was done.

  Returns:
    A dict from (title, seed, job, '' before there is any) to why it failed, a line each.
  """
  study.settle()
  waiting = [(subject, seed) for subject in subjects for seed in seeds]
  failed, patient = {}, False
  while waiting:
    moved, busy = False, []
    for subject, seed in waiting:
      place = Place(study, subject, seed)
      done, left = _advance(place, wanted, failed, patient)
      moved = moved or done
      if left:
        busy.append((subject, seed))
      if done:
        report()
    if patient and not moved and busy:
      time.sleep(SECONDS_BETWEEN_LOOKS)
    patient, waiting = not moved, busy
  return failed


def _advance(place, wanted, failed, patient):
  """Does what is to do at a place.

  Args:
    place: a `Place`.
    wanted: of `Study.strategies`.
    failed: as `work` returns it, added to.
    patient: False to leave where another process is at work, for there is more to do elsewhere.

  Returns:
    (whether anything was done, whether another process is still at work).
  """
  where = place.subject.title, place.seed
  moved = busy = False
  if (*where, '') in failed:
    return False, False
  try:
    kept = place.choose(wanted)
    jobs = [job for strategy in wanted for job in kept['strategies'][strategy]]
    jobs = [job for job in dict.fromkeys(jobs)
            if not place.done(job) and (*where, job) not in failed]
    there = {place.job(one): one for strategy in wanted for one in place.by(strategy)
             } if jobs else {}
  except work_dirs.InUseError:
    return False, True
  except EXPECTED as error:
    _fail(failed, (*where, ''), error)
    return False, False
  for job in jobs:
    try:
      if job not in there:
        raise ValueError(f'{job} in {place.folder} is of a module that has changed: name another '
                         '--work_dir.')
      place.run(there[job])
      moved = True
    except work_dirs.InUseError:
      busy = True
      if not patient:
        break
    except EXPECTED as error:
      _fail(failed, (*where, job), error)
  return moved, busy


def _fail(failed, where, error):
  """Notes what failed; the rest goes on, for a night's work is not to end at its third task."""
  failed[where] = str(error)
  logger.warning('%s, seed %d: %s', *where[:2], error)
