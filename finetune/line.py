"""The whole line: rank a hub for a task, fine-tune the winner and the baseline, report."""

import logging
import os
import time

from export import hub as hub_lib
from export import metadata
from finetune import report
from finetune import sweep
from finetune import tuning
from selection import candidates
from selection import ranking
from selection import show
from zoo import atomic
from zoo import tasks
from zoo import work_dir as work_dirs

logger = logging.getLogger(__name__)

RANKING = 'ranking.json'
RESULT = 'result.json'
REPORT = 'report.html'


def transfer(task, hub=hub_lib.EMBEDDED, work_dir='runs/transfer', handles=(),
             image_size=None, data_dir=None, budget=None, k=1, seed=0, trust=False, command=()):
  """Ranks the experts of a hub for a task, fine-tunes the best and the baseline, and reports.

  Both are fine-tuned under the same rule, so that the gain of the choice can be seen. Every
  phase is kept in `work_dir`: the same call goes on after a kill and answers at once when
  all is done.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it.
    hub: folder of the hub, or '' for none.
    work_dir: folder of this run.
    handles, image_size, data_dir, k, trust: as in `selection.ranking.rank`.
    budget, seed: as in `finetune.tuning.finetune`.
    command: the command line, for the record.

  Returns:
    A JSON-like dict, also in work_dir/result.json: task, winner and baseline (handle,
    expert, test_accuracy, interval, ...; baseline None if the hub has none), ranking,
    module (path of the winner's), report (path), seconds by phase, versions.
  """
  if isinstance(task, str):
    task = tasks.load(task, data_dir)
  work_dir = os.path.abspath(work_dir)  # results name files that are found from anywhere
  budget = budget or sweep.default_budget()
  found, _ = candidates.for_task(task.source, hub, handles, image_size)
  settings = {
      'task': task.name, 'source': task.source, 'k': k, 'seed': seed,
      'batch': budget.batch, 'steps_scale': budget.steps_scale,
      'modules': {c.handle: [c.module.metadata['fingerprint'], c.image_size] for c in found}}
  with work_dirs.opened(work_dir, settings):
    done = os.path.join(work_dir, RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    ranked = _kept(os.path.join(work_dir, RANKING), lambda: ranking.rank(
        task, hub, handles, image_size, data_dir, k=k, trust=trust).to_dict())
    logger.info('%s', show.verdict(ranked))

    def tune(entry, folder):
      candidate = next(c for c in found
                       if (c.handle, c.expert) == (entry['handle'], entry['expert']))
      result = tuning.finetune(task, candidate, os.path.join(work_dir, folder), budget=budget,
                               seed=seed, trust=trust, command=command)
      logger.info('%s: test accuracy %.1f%%', show.describe(entry),
                  100 * result['test_accuracy'])
      return result

    best, plain = show.roles(ranked)
    winner = tune(best, 'winner')
    same = plain is best
    baseline = winner if same else plain and tune(plain, 'baseline')
    result = {
        'task': task.name, 'source': task.source, 'protocol': ranked['protocol'],
        'winner': _short(winner), 'baseline': baseline and _short(baseline),
        'ranking': ranked, 'module': winner['module'],
        'report': os.path.join(work_dir, REPORT),
        'seconds': {
            'rank': ranked['seconds'], 'winner': winner['seconds'],
            'baseline': 0 if same or not baseline else baseline['seconds']},
        'versions': metadata.versions(), 'command': list(command)}
    report.write(result, task, winner, baseline)
    atomic.write_json(done, result)
    return result


def _kept(path, make):
  """The JSON at `path`, made if it is not there yet."""
  if not os.path.exists(path):
    start = time.monotonic()
    made = make()
    atomic.write_json(path, {**made, 'seconds': round(time.monotonic() - start, 1)})
  return atomic.read_json(path)


def _short(result):
  """What result.json says of one fine-tuned expert; the rest is in its own folder."""
  return {key: result[key] for key in (
      'handle', 'expert', 'name', 'fingerprint', 'test_accuracy', 'interval',
      'test_examples', 'setting', 'module', 'predictions', 'seconds')}


def table(result):
  """The outcome as lines of text."""
  rows = [('winner', result['winner'])]
  if result['baseline'] and result['baseline'] != result['winner']:
    rows.append(('baseline', result['baseline']))
  lines = [f'{"":9} {"expert":24} {"test":>6} {"95% interval":>16}  setting']
  for role, one in rows:
    low, high = one['interval']
    setting = one['setting']
    lines.append(
        f'{role:9} {one["name"]:24} {one["test_accuracy"]:6.1%} {low:7.1%} - {high:6.1%}  '
        f'learning rate {setting["learning_rate"]:g}, {setting["steps"]} steps of '
        f'{setting["batch"]}')
  if len(rows) == 2:
    gain = 100 * (rows[0][1]['test_accuracy'] - rows[1][1]['test_accuracy'])
    lines.append(f'The winner gains {gain:+.1f} points on the baseline.')
  elif result['baseline']:
    lines.append('The baseline is the winner.')
  return '\n'.join(lines)
