"""zoo-vtab compare: whether one result is better than another, task by task and over all.

zoo-vtab compare A B takes two work directories of zoo-vtab, or their results.jsonl, each with
'#STRATEGY' behind it if it has several: runs/vtab#knn runs/vtab#baseline. It pairs the
predictions that were kept on the same test images and seeds: the difference of each task with a
bootstrap interval, and over tasks their mean and a sign test.
"""

import dataclasses
import json
import os

from absl import flags

from zoo import cli

DRAWS = 10_000  # of the bootstrap
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Paired:
  """A task, by both.

  Attributes:
    title: of the task.
    one, other: test accuracies, means over seeds.
    low, high: 95% interval of the difference one - other.
    seeds: that both have.
  """
  title: str
  one: float
  other: float
  low: float
  high: float
  seeds: tuple[int, ...]

  @property
  def gain(self):
    """The difference of the two."""
    return self.one - self.other


def load(name):
  """The lines of one strategy.

  Args:
    name: of a folder or file, as `benchmarks.vtab_results.read` takes it, with '#STRATEGY'.

  Returns:
    A dict from (title, seed) to a line whose predictions are a path that can be opened.

  Raises:
    ValueError: there is no such strategy, or several to choose from.
  """
  from benchmarks import vtab_results
  path, _, strategy = name.partition('#')
  found = vtab_results.read(path)
  there = list(dict.fromkeys(line['strategy'] for line in found))
  if strategy not in (there if strategy or len(there) > 1 else ['']):
    problem = f'has no strategy {strategy!r}' if strategy else 'has several strategies'
    raise ValueError(f'{path} {problem}: give {path}#STRATEGY, one of {", ".join(there)}.')
  root = path if os.path.isdir(path) else os.path.dirname(path)
  return {(line['title'], line['seed']): {
      **line, 'predictions': os.path.join(root, line['predictions'])}
          for line in found if strategy in ('', line['strategy'])}


def compare(one, other, seed=0):
  """Pairs two results.

  Args:
    one, other: as `load` returns them.
    seed: of the bootstrap.

  Returns:
    A list of `Paired`, one for each task that both have under some seed.

  Raises:
    ValueError: they share no task, or their test images differ.
  """
  import numpy as np
  shared = [key for key in one if key in other]
  if not shared:
    raise ValueError('the two have no task and seed in common.')
  random = np.random.default_rng(seed)
  found = []
  for title in dict.fromkeys(title for title, _ in shared):
    seeds = tuple(own for name, own in shared if name == title)
    first, second = _right([one[title, own] for own in seeds] + [other[title, own] for own in seeds]
                           ).reshape(2, len(seeds), -1).mean(1)
    low, high = bootstrap(first - second, random)
    found.append(Paired(title, float(first.mean()), float(second.mean()), low, high, seeds))
  return found


def _right(lines):
  """Whether each of N test images is classified right by each of some lines, [lines, N].

  Raises:
    ValueError: predictions are not there, or of other images.
  """
  import numpy as np
  rows, truth = [], None
  for line in lines:
    if not os.path.exists(line['predictions']):
      raise ValueError(f'{line["title"]}: there are no predictions {line["predictions"]}.')
    with np.load(line['predictions']) as file:
      logits, labels = file['logits'], file['labels']
    truth = labels if truth is None else truth
    if not np.array_equal(labels, truth):
      raise ValueError(f'{line["title"]}: the test labels of the two are not the same, so that '
                       'their predictions cannot be paired (data: '
                       f'{lines[0]["source"]} and {line["source"]}).')
    rows.append(logits.argmax(1) == labels)
  return np.array(rows)


def bootstrap(differences, random, draws=DRAWS):
  """95% percentile interval of a mean under resampling of the examples.

  Args:
    differences: float [N], few different values: a draw is one of their counts.
    random: a numpy generator.
    draws: how many.

  Returns:
    (low, high).
  """
  import numpy as np
  values, counts = np.unique(differences, return_counts=True)
  number = len(differences)
  means = random.multinomial(number, counts / number, draws) @ values / number
  return tuple(float(end) for end in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


def sign_test(gains):
  """Two-sided p-value that as many tasks gain as lose; ties tell nothing."""
  import scipy.stats
  wins, losses = (sum(gain * sign > 0 for gain in gains) for sign in (1, -1))
  return float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.


def summary(pairs):
  """Over all tasks: a JSON-like dict of tasks, gain (mean), wins, losses, ties, p (sign test)."""
  gains = [pair.gain for pair in pairs]
  return {'tasks': len(pairs), 'gain': sum(gains) / len(gains),
          'wins': sum(gain > 0 for gain in gains), 'losses': sum(gain < 0 for gain in gains),
          'ties': sum(gain == 0 for gain in gains), 'p': sign_test(gains)}


def table(pairs, names):
  """The pairs and their summary as lines of text."""
  width = max(len(pair.title) for pair in pairs)
  lines = [f'A: {names[0]}', f'B: {names[1]}', '',
           f'{"":{width}}  {"A":>6}  {"B":>6}  {"A - B":>6}  {"95% interval":>15}  seeds']
  for pair in pairs:
    mark = '*' if pair.low > 0 or pair.high < 0 else ' '
    lines.append(
        f'{pair.title:{width}}  {100 * pair.one:6.1f}  {100 * pair.other:6.1f}  '
        f'{100 * pair.gain:+6.1f}{mark} {100 * pair.low:+6.1f} to {100 * pair.high:+5.1f}  '
        f'{", ".join(map(str, pair.seeds))}')
  whole = summary(pairs)
  lines.append(
      f'\nOver {whole["tasks"]} tasks A gains {100 * whole["gain"]:+.2f} points on the mean; it is '
      f'better on {whole["wins"]}, worse on {whole["losses"]}, equal on {whole["ties"]} '
      f'(sign test, p = {whole["p"]:.2g}).\n* the interval, of {DRAWS:,} bootstrap samples of the '
      'test images, is all on one side of 0.')
  return '\n'.join(lines)


WORDS = ('A', 'B')
FLAGS = cli.new_flags()
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command, one, other):
  del command
  pairs = compare(load(one), load(other))
  if values.json:
    print(json.dumps({'a': one, 'b': other, 'all': summary(pairs), 'tasks': [
        {**dataclasses.asdict(pair), 'gain': pair.gain} for pair in pairs]}))
    return
  print(table(pairs, (one, other)))
