"""racing.py: whether a race finds the exhaustive winner, and what it saves.

Every task of the local suite is ranked exhaustively and by races of several confidences, on
several draws of the 1,000 examples. Prints one JSON line a race, and a summary on stderr:
the share of images that were embedded, how often the winner is the exhaustive one or within its
standard error, and how much less its leave-one-out accuracy is. Tasks for which fewer than
three experts may be ranked are passed over.
"""

import dataclasses
import json
import sys

from absl import flags

from export import hub
from zoo import cli

LEAST = 3  # experts in a race


def number(task, root):
  """How many experts of a hub may be ranked for a task: see `candidates.for_task`."""
  from selection import candidates
  from zoo import cut_tasks
  return sum(not (one.source and cut_tasks.same_data(task.source, one.source))
             for one in candidates.find(root))


def read_once(task):
  """The task, of which the same examples are read once and then kept in memory."""
  kept = {}

  def reader(split, indices):
    key = split, tuple(indices)
    if key not in kept:
      kept[key] = list(task.reader(split, indices))
    return kept[key]

  return dataclasses.replace(task, reader=reader)


def compare(task, root, seed, confidences, proxy='knn', cache=None):
  """Races on one task, beside the exhaustive ranking.

  Args:
    task: a `zoo.tasks.Task`.
    root: folder of the hub.
    seed: draws the examples.
    confidences: a list.
    proxy: that ranks, one with outcomes or a mean with such a part.
    cache: as in `selection.ranking.rank`.

  Yields:
    A JSON-like dict for each confidence.
  """
  from selection import ranking
  task = read_once(task)
  how = {'hub': root, 'proxies': [proxy], 'seed': seed, 'cache': cache}
  whole = ranking.rank(task, **how, exhaustive=True)
  scores = {entry.candidate.key: entry.scores[proxy] for entry in whole.entries if entry.scores}
  best = whole.winner.scores[proxy]
  for confidence in confidences:
    raced = ranking.rank(task, **how, exhaustive=False, confidence=confidence)
    found = scores[raced.winner.candidate.key]
    yield {
        'task': task.name, 'seed': seed, 'experts': len(scores), 'examples': whole.examples,
        'proxy': proxy, 'unit': whole.proxies[0].unit, 'confidence': confidence,
        'best': best.value, 'found': found.value,
        'stderr': best.stderr, 'same': raced.winner.candidate.key == whole.winner.candidate.key,
        'within': best.value - found.value <= best.stderr,
        'beats_baseline': whole.beats_baseline,
        'raced_beats_baseline': raced.beats_baseline,
        'share': sum(entry.examples for entry in raced.entries) / (
            len(scores) * whole.examples)}


def summary(lines):
  """Means over the races of one confidence, as text."""
  import numpy as np
  loss = np.array([line['best'] - line['found'] for line in lines])
  unit, scale = ('points', 100) if lines[0]['unit'] == '%' else (lines[0]['unit'], 1)
  return (f'confidence {lines[0]["confidence"]}: {len(lines)} races, '
          f'{np.mean([line["share"] for line in lines]):.0%} of the images, same winner '
          f'{np.mean([line["same"] for line in lines]):.0%}, within one standard error '
          f'{np.mean([line["within"] for line in lines]):.0%}, mean loss '
          f'{scale * loss.mean():.2f} {unit}, largest {scale * loss.max():.1f}')


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_list('tasks', [], 'Names of the suite; all if not given.', flag_values=FLAGS)
flags.DEFINE_integer('seeds', 3, 'Draws of the examples.', flag_values=FLAGS)
flags.DEFINE_list('confidences', ['0.9', '0.95', '0.99'], 'Of the races.',
                  flag_values=FLAGS)
flags.DEFINE_string('proxy', 'knn+logme', 'That ranks: knn, ridge, or a mean with one of them.',
                    flag_values=FLAGS)


def main(values, command):
  del command
  from benchmarks import suite
  lines = []
  for name in values.tasks or [entry.name for entry in suite.SUITE]:
    task = suite.load(name, values.data_dir)
    if number(task, values.hub) < LEAST:
      continue
    for seed in range(values.seeds):
      for line in compare(task, values.hub, seed, [float(c) for c in values.confidences],
                          values.proxy):
        lines.append(line)
        print(json.dumps(line), flush=True)
  for confidence in sorted({line['confidence'] for line in lines}):
    print(summary([line for line in lines if line['confidence'] == confidence]),
          file=sys.stderr)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
