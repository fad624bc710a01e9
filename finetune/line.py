"""The whole line: rank a hub for a task, fine-tune the winner and the baseline, report."""

import dataclasses
import logging
import math
import os
import time

from export import foreign
from export import hub as hub_lib
from export import metadata
from finetune import ensembles
from finetune import report
from finetune import runs
from finetune import sweep
from finetune import tuned
from finetune import tuning
from selection import candidates
from selection import matching
from selection import ranking
from selection import show
from zoo import atomic
from zoo import strategies
from zoo import tasks
from zoo import work_dir as work_dirs

logger = logging.getLogger(__name__)

RANKING = 'ranking.json'
RESULT = 'result.json'
REPORT = 'report.html'


def transfer(task, hub=hub_lib.EMBEDDED, work_dir='runs/transfer', handles=(),
             image_size=None, data_dir=None, plan=None, k=1, members=0, kind='experts',
             trust=False, command=(), input_range=None, proxies=ranking.PROXIES):
  """Ranks the experts of a hub for a task, fine-tunes the best and the baseline, and reports.

  Both are fine-tuned under the same plan, so that the gain of the choice can be seen; where the
  best is the baseline, the second best is fine-tuned beside it. Every
  phase is kept in `work_dir`: the same call goes on after a kill and answers at once when
  all is done.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it.
    hub: folder of the hub, or '' for none.
    work_dir: folder of this run; several workers share it.
    handles, image_size, data_dir, k, trust, input_range, proxies: as in
      `selection.ranking.rank`.
    plan: a `finetune.sweep.Plan`; None for the light sweep as suits the machine.
    members: how many of the best experts an ensemble is made of; 0 for no ensemble.
    kind: of the ensemble, as in `finetune.ensembles.ensemble`.
    command: the command line, for the record.

  Returns:
    A JSON-like dict, also in work_dir/result.json: task, winner, baseline and runner_up (handle,
    expert, test_accuracy, interval, ...; baseline None if the hub has none, runner_up None
    unless the winner is the baseline), ensemble (None, or what `finetune.ensembles.ensemble`
    returns), ranking, use ('winner'; 'ensemble' where there is one; 'baseline' or 'runner_up'
    where that is better than the winner on val beyond noise), module (path of that one's),
    report (path), seconds by phase, versions.
  """
  matching.make(proxies, k)  # unknown ones are said before anything is done
  plan = plan or sweep.default_plan()
  strategy = strategies.make(plan.strategy)  # before all other use of TensorFlow
  if isinstance(task, str):
    task = tasks.load(task, data_dir)
  task.check_one_label(ranking.UNRANKED)
  work_dir = os.path.abspath(work_dir)  # results name files that are found from anywhere
  found, _ = candidates.for_task(task.source, hub, handles, image_size, input_range)
  for one in found:
    tuned.check(one, plan.tune)
  chief = strategies.is_chief(strategy)
  with work_dirs.opened(work_dir, _settings(task, found, plan, k, proxies), chief):
    done = os.path.join(work_dir, RESULT)
    kept = atomic.read_json(done) if os.path.exists(done) else {}
    wanted = [members, kind] if members else None
    if kept and wanted in (None, kept['ensemble'] and kept['ensemble']['wanted']):
      return kept
    ranking_path = os.path.join(work_dir, RANKING)
    if chief:
      _keep(ranking_path, lambda: ranking.rank(
          task, hub, handles, image_size, data_dir, proxies, k, trust=trust,
          input_range=input_range).to_dict())
    strategies.barrier(strategy)
    ranked = atomic.read_json(ranking_path)
    logger.info('%s', show.verdict(ranked))
    data = runs.Data(task)
    networks = runs.networks(data, plan, strategy, trust)

    def of(entry):
      return next(c for c in found if (c.handle, c.expert) == (entry['handle'], entry['expert']))

    def tune(entry, folder):
      result = tuning.finetune(task, of(entry), os.path.join(work_dir, folder), plan,
                               trust=trust, command=command, data=data, networks=networks)
      logger.info('%s: test accuracy %.1f%%', show.describe(entry),
                  100 * result['test_accuracy'])
      return result

    best, plain = show.roles(ranked)
    rivals = {'runner_up': show.runner_up(ranked)} if plain is best else {'baseline': plain}
    entries = {'winner': best} | {role: entry for role, entry in rivals.items() if entry}
    fine_tuned = {role: tune(entry, role) for role, entry in entries.items()}
    together = None
    if members:
      chosen = [of(entry) for entry in ranked['experts'] if not entry['dropped']][:members]
      together = ensembles.ensemble(
          task, chosen, os.path.join(work_dir, f'ensemble-{kind}-{members}'), plan, kind,
          trust=trust, command=command, data=data, networks=networks,
          done={of(entry).key: os.path.join(work_dir, role)
                for role, entry in entries.items()}) | {'wanted': wanted}
    result = {
        'task': task.name, 'source': task.source,
        **_outcome(ranked, fine_tuned, together, len(data.protocol.val[1])),
        'report': os.path.join(work_dir, REPORT), 'versions': metadata.versions(),
        'command': list(command)}
    if chief:
      report.write(result, task, fine_tuned)
      atomic.write_json(done, result)
    return result


def _settings(task, found, plan, k, proxies):
  """What a work_dir is of: the same call goes on in it, another is refused."""
  settings = {
      'task': task.name, 'source': task.source, 'k': k, 'proxies': list(proxies),
      'plan': dataclasses.asdict(plan),
      'modules': {c.handle: [c.module.metadata['fingerprint'], c.image_size] for c in found}}
  ranges = {c.handle: list(c.input_range) for c in found if c.input_range != foreign.UNIT}
  return settings | ({'input_range': ranges} if ranges else {})


def best_on_val(networks, examples):
  """The role to use: 'winner', or that of another one better on val by a standard error.

  A ranking sees what networks know, not what they learn when all their weights train: of unlike
  ones the small may rank first and the large end far better. To ask for more would cost more
  there than it gives among networks that are alike (docs/zoo.md).

  Args:
    networks: dict from role to what `finetune.tuning.finetune` returned; 'winner' is one, and
      there is at most one other.
    examples: how many val has.
  """
  for role, network in networks.items():
    if role != 'winner' and 'val_accuracy' in network['setting']:
      ours, other = (networks[one]['setting']['val_accuracy'] for one in ('winner', role))
      error = math.sqrt((ours * (1 - ours) + other * (1 - other)) / examples)
      if other - ours > error:
        return role
  return 'winner'


def _outcome(ranked, networks, together, examples):
  """What result.json says of the phases: the ranking, who was fine-tuned, and the ensemble."""
  short = {role: _short(network) for role, network in networks.items()}
  baseline = short.get('baseline', short['winner'] if ranked['baseline'] else None)
  use = 'ensemble' if together else best_on_val(networks, examples)
  return {
      'protocol': ranked['protocol'], 'winner': short['winner'], 'baseline': baseline,
      'runner_up': short.get('runner_up'), 'ensemble': together, 'ranking': ranked, 'use': use,
      'module': (together or networks[use])['module'],
      'seconds': {
          'rank': ranked['seconds'], 'ensemble': together['seconds'] if together else 0,
          **{role: networks[role]['seconds'] if role in networks else 0
             for role in ('winner', 'baseline', 'runner_up')}}}


def _keep(path, make):
  """Writes the JSON that `make` returns to `path`, with its seconds, unless it is there."""
  if not os.path.exists(path):
    start = time.monotonic()
    made = make()
    atomic.write_json(path, {**made, 'seconds': round(time.monotonic() - start, 1)})


def _short(result):
  """What result.json says of one fine-tuned expert; the rest is in its own folder."""
  return {key: result[key] for key in (
      'handle', 'expert', 'name', 'fingerprint', 'test_accuracy', 'interval',
      'test_examples', 'balanced_accuracy', 'nll', 'ece', 'temperature', 'calibrated', 'setting',
      'module', 'predictions', 'seconds')}


def table(result):
  """The outcome as lines of text."""
  rows = [('winner', result['winner'])]
  if result['runner_up']:
    rows.append(('runner-up', result['runner_up']))
  elif result['baseline'] and result['baseline'] != result['winner']:
    rows.append(('baseline', result['baseline']))
  lines = [f'{"":9} {"expert":24} {"test":>6} {"95% interval":>16}  setting']
  for role, one in rows:
    low, high = one['interval']
    setting = one['setting']
    lines.append(
        f'{role:9} {one["name"]:24} {one["test_accuracy"]:6.1%} {low:7.1%} - {high:6.1%}  '
        f'learning rate {setting["learning_rate"]:g}, {setting["steps"]} steps of '
        f'{setting["batch"]}')
  if result['baseline'] == result['winner']:
    lines.append('The baseline is the winner.')
  if len(rows) == 2:
    (_, winner), (role, other) = rows
    gain = 100 * (winner['test_accuracy'] - other['test_accuracy'])
    lines.append(f'The winner gains {gain:+.1f} points on the {role}.')
    lines += filter(None, [report.used(result)])
  if result['ensemble']:
    lines += ['', ensembles.table(result['ensemble'])]
  return '\n'.join(lines)
