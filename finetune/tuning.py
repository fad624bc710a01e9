"""Fine-tuning one expert on one task."""

import dataclasses
import logging
import os
import time

from export import foreign
from export import hub as hub_lib
from finetune import runs
from finetune import sweep
from finetune import tuned
from selection import candidates
from zoo import atomic
from zoo import strategies
from zoo import tasks
from zoo import training
from zoo import work_dir as work_dirs

logger = logging.getLogger(__name__)

RESULT = 'result.json'


def finetune(task, expert, work_dir, plan=None, hub=hub_lib.EMBEDDED, data_dir=None,
             image_size=None, trust=False, command=(), label='label', data=None, networks=None,
             publish=True, input_range=None):
  """Fine-tunes an expert with a new head; chooses by val, tests once.

  Every setting of the plan's sweep trains on 800 examples and is judged on 200; the best
  trains again on the 1,000 and is tested on the whole test split, read only then. The
  temperature that fits its confidence comes from val.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it. Tasks with several labels
      an image train sigmoids and are judged by mean average precision.
    expert: a `selection.candidates.Candidate`, or a handle as `selection.candidates.one`
      takes it.
    work_dir: folder of this run; it goes on there after a kill. Several workers share it.
    plan: a `finetune.sweep.Plan`; None for the light sweep as suits the machine.
    hub: folder of the hub that the handle is looked up in.
    data_dir: where TFDS finds prepared data sets.
    image_size: pixels of the images; None for those of the module.
    trust: as in `export.hub.check`.
    command: the command line, for the record.
    label: as in `zoo.tasks.load`.
    data: a `finetune.runs.Data` of this task, to share what is read.
    networks: a `finetune.tuned.Networks` for this task and plan, to share what is compiled.
    publish: whether to make a module of the network.
    input_range: (low, high), values of the images if the handle's module does not say them.

  Returns:
    A JSON-like dict, also in work_dir/result.json: handle, expert, name, what
    `finetune.metrics.evaluate` says of the test split, temperature, calibrated (nll and ece at
    it), setting, tried, history (of the last training), module (None without) and predictions
    (paths), seconds. Beside it runs.jsonl has a line on what the training cost.

  Raises:
    ValueError: task or module cannot be used, or every setting failed.
    zoo.preemption.Preempted: a signal came; the same call goes on.
  """
  plan = plan or sweep.default_plan()
  # First of all, since that of several workers must come before any use of TensorFlow.
  strategy = networks.strategy if networks else strategies.make(plan.strategy)
  if isinstance(task, str):
    task = tasks.load(task, data_dir, label)
  candidate = expert
  if isinstance(expert, str):
    candidate = candidates.one(expert, hub, image_size, input_range)
  if image_size:
    candidate = dataclasses.replace(candidate, image_size=image_size)
  tuned.check(candidate, plan.tune)
  work_dir = os.path.abspath(work_dir)  # results name files that are found from anywhere
  data = data or runs.Data(task)
  networks = networks or runs.networks(data, plan, strategy, trust)
  with work_dirs.opened(work_dir, settings(data, candidate, plan), networks.chief):
    done = os.path.join(work_dir, RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    start = time.monotonic()
    run = runs.Run(data, candidate, networks, work_dir)
    chosen, tried = swept(run, plan)
    result = _finished(run, chosen, tried, command, publish)
    result |= {'tried': tried, 'seconds': round(time.monotonic() - start, 1)}
    run.write(done, result)
    return result


def _finished(run, chosen, tried, command, publish):
  """What `Run.finish` says of the best setting, or of the next best if that diverges now."""
  what = f'{run.candidate.name}: final training'
  for i in ranked(tried, run.candidate.describe()):
    try:
      return run.finish(chosen[i], tried[i], run.folder, what, command, publish)
    except training.NotFiniteError as error:
      logger.warning('%s (%s): %s The next best setting is tried.', what, chosen[i].describe(),
                     error)
  raise ValueError(f'{run.candidate.describe()}: every setting diverged in the final training.')


def settings(data, candidate, plan):
  """What tells one run from another, for `zoo.work_dir.opened`."""
  found = {
      'task': data.task.name, 'source': data.task.source, 'protocol': data.protocol.name,
      'module': candidate.module.metadata['fingerprint'], 'expert': candidate.expert,
      'image_size': candidate.image_size, 'plan': dataclasses.asdict(plan)}
  if candidate.input_range != foreign.UNIT:
    found['input_range'] = list(candidate.input_range)
  return found


def swept(run, plan):
  """Tries the settings of a plan.

  Args:
    run: a `finetune.runs.Run`.
    plan: a `finetune.sweep.Plan`.

  Returns:
    (settings, tried): a list of `finetune.sweep.Setting`, and of what `Run.attempt` says of
    each.
  """
  task = run.data.task
  if plan.sweep == 'search':
    from finetune import search
    return search.search(run, plan)
  chosen = sweep.settings(plan, len(run.data.protocol.train[1]), task.multi_label)
  return chosen, [
      run.attempt(setting, i, f'{run.candidate.name}: setting {i + 1}/{len(chosen)}')
      for i, setting in enumerate(chosen)]


def choose(tried, what):
  """The index of the best of what `Run.attempt` said; see `ranked`."""
  return ranked(tried, what)[0]


def ranked(tried, what):
  """Indices of what `Run.attempt` said and did not fail, best first: by accuracy or MAP, loss.

  Raises:
    ValueError: all failed.
  """
  working = [i for i, one in enumerate(tried) if one['error'] is None]
  if not working:
    raise ValueError(f'{what}: every setting failed; the first so: {tried[0]["error"]}')
  return sorted(working, key=lambda i: (-figure(tried[i]), tried[i]['val_loss']))


def figure(tried):
  """Accuracy or MAP on val of what `Run.attempt` said."""
  return tried['val_map'] if 'val_map' in tried else tried['val_accuracy']
