"""What zoo-vtab found: a line for each task, strategy and seed."""

import json
import os

from benchmarks import selectors
from finetune import tuning
from zoo import atomic

LINES = 'results.jsonl'
# Of a job's result, what its line says.
OF_JOB = ('handle', 'expert', 'name', 'fingerprint', 'test_accuracy', 'interval',
          'test_examples', 'balanced_accuracy', 'nll', 'ece', 'temperature', 'calibrated',
          'examples_digest', 'setting', 'tried', 'versions', 'seconds', 'command')


def lines(places, wanted):
  """A line for each place and strategy whose experts are all fine-tuned.

  Args:
    places: a list of `benchmarks.vtab_jobs.Place`.
    wanted: of `Study.strategies`.

  Returns:
    A list of JSON-like dicts: task, title, group, strategy, seed; of the expert that counts what
    `finetune.tuning.finetune` says (`OF_JOB`), val_accuracy, predictions (a path below the work
    directory), majority (share of the commonest class among the test images); protocol ('1k' or
    'full'), examples (how they were drawn); source, ids, classes, covered, candidates, left_out
    and overlaps as in `Place.choose`; tuned, how many experts were fine-tuned for it.
  """
  found = []
  for place in places:
    kept = place.chosen()
    results = {job: place.done(job) for jobs in kept.get('strategies', {}).values()
               for job in jobs}
    for strategy in wanted:
      jobs = kept.get('strategies', {}).get(strategy)
      if jobs and all(results[job] for job in jobs):
        best = _best(strategy, jobs, results)
        found.append(_line(place, strategy, kept, best, results[best], len(jobs)))
  return found


def _best(strategy, jobs, results):
  """Which job counts: of the oracle the best on test, else the best on val."""
  if strategy == 'oracle':
    return max(jobs, key=lambda job: results[job]['test_accuracy'])
  return jobs[tuning.choose([results[job]['setting'] for job in jobs], strategy)]


def _line(place, strategy, kept, job, result, tuned):
  subject = place.subject
  predictions = os.path.join(place.folder, job, os.path.basename(result['predictions']))
  return {
      'task': subject.name, 'title': subject.title, 'group': subject.group,
      'strategy': strategy, 'seed': place.seed, **{key: result[key] for key in OF_JOB},
      'val_accuracy': result['setting']['val_accuracy'],
      'majority': max(map(sum, result['confusion'])) / result['test_examples'],
      'predictions': os.path.relpath(predictions, place.study.work_dir),
      'precision': place.study.plan.precision, 'tuned': tuned,
      'protocol': place.study.protocol, 'examples': kept['protocol'],
      **{key: kept[key] for key in ('source', 'ids', 'classes', 'covered', 'candidates',
                                    'left_out', 'overlaps')}}


def write(path, found):
  """Writes lines as JSON lines; `read` reads them."""
  atomic.write_text(path, ''.join(json.dumps(line) + '\n' for line in found))


def read(path):
  """The lines of a work directory of zoo-vtab, or of one of its files.

  Raises:
    ValueError: there are none.
  """
  file = os.path.join(path, LINES) if os.path.isdir(path) else path
  if not os.path.isfile(file):
    raise ValueError(f'{path} has no results of zoo-vtab: there is no {file}.')
  found = selectors.read([file])
  if not found:
    raise ValueError(f'{file} is empty: no task is done yet.')
  return found
