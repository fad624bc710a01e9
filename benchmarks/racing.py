"""racing.py: whether a race finds the exhaustive winner, and what it saves.

Every task of the local suite is ranked exhaustively and by races of several confidences, on
several draws of the 1,000 examples. Prints one JSON line a race, and a summary on stderr:
the share of images that were embedded, how often the winner is the exhaustive one, and how much
less its leave-one-out accuracy is (in its standard errors too).
"""

import json
import sys

from absl import flags

from export import hub
from zoo import cli


def compare(task, root, seed, confidences, cache=None):
  """Races on one task, beside the exhaustive ranking.

  Args:
    task: a `zoo.tasks.Task`.
    root: folder of the hub.
    seed: draws the examples.
    confidences: a list.
    cache: as in `selection.ranking.rank`.

  Yields:
    A JSON-like dict for each confidence.
  """
  from selection import ranking
  whole = ranking.rank(task, root, seed=seed, exhaustive=True, cache=cache)
  scores = {entry.candidate.key: entry.scores['knn'] for entry in whole.entries if entry.scores}
  best = whole.winner.scores['knn']
  for confidence in confidences:
    raced = ranking.rank(task, root, seed=seed, exhaustive=False, confidence=confidence,
                         cache=cache)
    found = scores[raced.winner.candidate.key]
    yield {
        'task': task.name, 'seed': seed, 'experts': len(scores), 'examples': whole.examples,
        'confidence': confidence, 'best': best.value, 'found': found.value,
        'stderr': best.stderr, 'same': raced.winner.candidate.key == whole.winner.candidate.key,
        'beats_baseline': whole.beats_baseline,
        'raced_beats_baseline': raced.beats_baseline,
        'share': sum(entry.examples for entry in raced.entries) / (
            len(scores) * whole.examples)}


def summary(lines):
  """Means over the races of one confidence, as text."""
  import numpy as np
  loss = np.array([line['best'] - line['found'] for line in lines])
  error = np.array([line['stderr'] for line in lines])
  return (f'confidence {lines[0]["confidence"]}: {len(lines)} races, '
          f'{np.mean([line["share"] for line in lines]):.0%} of the images, same winner '
          f'{np.mean([line["same"] for line in lines]):.0%}, within one standard error '
          f'{np.mean(loss <= error):.0%}, mean loss {100 * loss.mean():.2f} points, '
          f'largest {100 * loss.max():.1f}')


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_list('tasks', [], 'Names of the suite; all if not given.', flag_values=FLAGS)
flags.DEFINE_integer('seeds', 3, 'Draws of the examples.', flag_values=FLAGS)
flags.DEFINE_list('confidences', ['0.8', '0.9', '0.95'], 'Of the races.', flag_values=FLAGS)


def main(values, command):
  del command
  from benchmarks import suite
  lines = []
  for name in values.tasks or [entry.name for entry in suite.SUITE]:
    task = suite.load(name, values.data_dir)
    for seed in range(values.seeds):
      for line in compare(task, values.hub, seed, [float(c) for c in values.confidences]):
        lines.append(line)
        print(json.dumps(line), flush=True)
  for confidence in sorted({line['confidence'] for line in lines}):
    print(summary([line for line in lines if line['confidence'] == confidence]),
          file=sys.stderr)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
