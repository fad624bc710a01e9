"""Ensembles of fine-tuned experts ("Deep ensembles for low-data transfer learning", 2010.06866).

The best few experts are each fine-tuned under all settings of a sweep; members are chosen
greedily, with replacement, by the cross-entropy of their average on val; those chosen train
again on all examples, and their probabilities are averaged. Shapes: N examples, C classes.
"""

import collections
import dataclasses
import os
import time

import numpy as np

from finetune import calibration
from finetune import greedy
from finetune import metrics
from finetune import predictor
from finetune import runs
from finetune import sweep
from finetune import tuning
from zoo import atomic
from zoo import cli
from zoo import strategies
from zoo import work_dir as work_dirs

KINDS = ('experts', 'hyper', 'heads')
RESULT = 'result.json'
TIMED = 256  # images by which the speed of a module is measured

# One fine-tuning that may become a member; `name` tells its run from the others.
_Attempt = collections.namedtuple('_Attempt', 'name run setting tried')


def ensemble(task, found, work_dir, plan=None, kind='experts', size=greedy.SIZE, bags=0,
             trust=False, command=(), done=None, data=None, networks=None):
  """Fine-tunes experts and makes an ensemble of the best settings.

  Args:
    task: a `zoo.tasks.Task`.
    found: K `selection.candidates.Candidate`s, best first, as a ranking has them.
    work_dir: folder of this run; it goes on there after a kill.
    plan: a `finetune.sweep.Plan`; its sweep has S settings.
    kind: whence the K * S runs come: 'experts', the K experts under all settings; or a rival of
      the paper, from the first expert alone: 'hyper', under settings drawn at random, or
      'heads', under its best setting with other random heads and orders of examples.
    size, bags: as in `finetune.greedy.select`.
    trust: as in `export.hub.check`.
    command: the command line, for the record.
    done: dict from the key of a candidate to the work_dir where `finetune.tuning.finetune` has
      done it under the same plan; what is there is not done again.
    data, networks: as in `finetune.tuning.finetune`.

  Returns:
    A JSON-like dict, also in work_dir/result.json: what `finetune.metrics.evaluate` says of
    the test split; temperature and calibrated; val (the same of the val examples by which
    members were chosen: how much better it looks there than on test is the price of
    choosing); members (handle, expert, name, setting, count, test figures, module); tried (how
    many there were to choose from); single (the first expert, by its best setting);
    images_per_second of both; module, predictions, seconds.

  Raises:
    ValueError: every setting of the first expert failed, or kind is unknown.
  """
  if kind not in KINDS:
    raise ValueError(f'--ensemble_kind={kind} is none of {", ".join(KINDS)}.')
  plan = plan or sweep.default_plan()
  strategy = networks.strategy if networks else strategies.make(plan.strategy)
  data = data or runs.Data(task)
  networks = networks or runs.networks(data, plan, strategy, trust)
  work_dir = os.path.abspath(work_dir)
  described = {'kind': kind, 'size': size, 'bags': bags,
               'runs': [tuning.settings(data, one, plan) for one in found]}
  with work_dirs.opened(work_dir, described, networks.chief):
    path = os.path.join(work_dir, RESULT)
    if os.path.exists(path):
      return atomic.read_json(path)
    start = time.monotonic()
    pool, first = _pool(kind, data, found, plan, networks, work_dir, done or {})
    working = [one for one in pool if one.tried['error'] is None]
    labels = first.run.tried(first.tried['number'])[1]
    on_val = [_probabilities(one.run.tried(one.tried['number'])[0], data) for one in working]
    counts = greedy.select(on_val, labels, size, bags, plan.seed).counts
    val = greedy.average(on_val, counts)

    members = []
    for one, count in zip(working, counts.tolist(), strict=True):
      if count:
        members.append(_finished(one, work_dir, command) | {'count': count})
    single = _finished(first, work_dir, command)
    test = []
    for member in members:
      with np.load(member['predictions']) as file:
        test.append(_probabilities(file['logits'], data))
        test_labels = file['labels']
    weights = [member['count'] for member in members]
    average = greedy.average(test, weights)
    temperature = runs.calibrated(_logits(val, data), labels)
    result = {
        'task': task.name, 'source': task.source, 'protocol': data.protocol.name, 'kind': kind,
        **runs.evaluated(average, _logits(average, data), test_labels, temperature),
        'val': _figures(metrics.evaluate(val, labels)), 'tried': len(pool),
        'members': [_figures(member) | {key: member[key] for key in (
            'handle', 'expert', 'name', 'setting', 'count', 'module')} for member in members],
        'single': _figures(single) | {key: single[key] for key in (
            'handle', 'expert', 'name', 'setting', 'temperature', 'calibrated', 'interval',
            'module', 'predictions')},
        'versions': single['versions'], 'command': list(command),
        'module': os.path.join(work_dir, runs.MODULE),
        'predictions': os.path.join(work_dir, runs.PREDICTIONS)}
    if networks.chief:
      with atomic.writing(result['predictions']) as file:
        np.savez_compressed(file, probabilities=average.astype(np.float32), labels=test_labels)
      predictor.save_average(
          [member['module'] for member in members], weights, result['module'],
          lambda path: _describe(path, task, result), temperature, task.multi_label)
      result['images_per_second'] = _rates(result, data, found[0].image_size)
      result['seconds'] = round(time.monotonic() - start, 1)
      atomic.write_json(path, result)
    strategies.barrier(strategy)
    return atomic.read_json(path)


def table(result):
  """An ensemble beside the single expert, as lines of text."""
  name = 'test_map' if 'test_map' in result else 'test_accuracy'
  lines = [f'{"":24} {"test":>6} {"NLL":>6} {"NLL at T":>8} {"images/s":>8}']
  for what, one in ((f'ensemble of {len(result["members"])}', result),
                    (f'{result["single"]["name"]} alone', result['single'])):
    speed = result['images_per_second']['ensemble' if one is result else 'single']
    lines.append(f'{what:24} {one[name]:6.1%} {one["nll"]:6.3f} {one["calibrated"]["nll"]:8.3f} '
                 f'{speed:8.0f}')
  lines.append('Members: ' + ', '.join(
      f'{member["count"]} x {member["name"]} (learning rate '
      f'{member["setting"]["learning_rate"]:.2g}, {member["setting"]["steps"]} steps)'
      for member in result['members']) + f', chosen from {result["tried"]}.')
  return '\n'.join(lines)


def _pool(kind, data, found, plan, networks, work_dir, done):
  """All attempts, and the one that is the first expert's best."""

  def attempts(i):
    name = f'{i + 1}-{cli.file_name(found[i].describe())}'
    run = runs.Run(data, found[i], networks,
                   done.get(found[i].key) or os.path.join(work_dir, 'runs', name))
    return [_Attempt(name, run, *pair) for pair in zip(*tuning.swept(run, plan), strict=True)]

  pool = attempts(0)
  first = pool[tuning.choose([one.tried for one in pool], found[0].describe())]
  number = len(found) * len(pool)
  if kind == 'experts':
    return pool + [one for i in range(1, len(found)) for one in attempts(i)], first
  if kind == 'hyper':
    others = sweep.drawn(plan, number, data.task.multi_label)
  else:
    setting = first.setting
    others = [dataclasses.replace(
        setting, head_seed=i, recipe=dataclasses.replace(setting.recipe, seed=i))
        for i in range(1, number + 1)]
  run = runs.Run(data, found[0], networks, os.path.join(work_dir, 'runs', kind))
  return [_Attempt(kind, run, setting, run.attempt(setting, i, f'{kind} {i + 1}/{number}'))
          for i, setting in enumerate(others)], first


def _finished(one, work_dir, command):
  """The result of training an attempt in full, kept."""
  # Perhaps it is what its run found best, and is done.
  path = os.path.join(one.run.folder, RESULT)
  if os.path.exists(path) and (result := atomic.read_json(path))['setting'] == one.tried:
    return result
  name = f'{one.name}-{one.tried["number"]}'
  folder = os.path.join(work_dir, 'members', name)
  path = os.path.join(folder, RESULT)
  if os.path.exists(path):
    return atomic.read_json(path)
  result = one.run.finish(one.setting, one.tried, folder, f'member {name}', command)
  one.run.write(path, result)
  return result


def _figures(evaluation):
  """The single numbers of an evaluation."""
  return {key: evaluation[key] for key in (
      'test_accuracy', 'test_map', 'balanced_accuracy', 'nll', 'ece') if key in evaluation}


def _probabilities(logits, data):
  return calibration.scaled(logits, 1., data.task.multi_label)


def _logits(probabilities, data):
  """What gives these probabilities, up to a constant a row where they are of one label."""
  tiny = metrics.TINY
  if data.task.multi_label:
    return (np.log(np.maximum(probabilities, tiny))
            - np.log(np.maximum(1 - probabilities, tiny)))
  return np.log(np.maximum(probabilities, tiny))


def _describe(path, task, result):
  from export import manifest
  from export import metadata
  own = [metadata.read(member['module']) for member in result['members']]
  licences = {one['licence'] for one in own}
  manifest.seal(path, runs.described(task, result, result['command']) | {
      'image_size': max(one['image_size'] for one in own), 'temperature': result['temperature'],
      'licence': licences.pop() if len(licences) == 1 else None,
      'members': [{key: member[key] for key in ('handle', 'expert', 'name', 'count', 'setting')}
                  for member in result['members']]})


def _rates(result, data, size):
  """Images a second of the module and of the single one's, in turns, the best of three."""
  import tensorflow as tf
  images = data.of('val', size).images
  images = np.resize(images, (TIMED, *images.shape[1:]))
  modules = {name: tf.saved_model.load(path) for name, path in (
      ('ensemble', result['module']), ('single', result['single']['module']))}
  best = dict.fromkeys(modules, float('inf'))
  for _ in range(4):  # the first traces and allocates, and is the slowest
    for name, module in modules.items():
      start = time.perf_counter()
      module(images).numpy()
      best[name] = min(best[name], time.perf_counter() - start)
  return {name: round(TIMED / seconds, 1) for name, seconds in best.items()}
