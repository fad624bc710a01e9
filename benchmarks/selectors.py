"""selectors.py: rules that choose an expert, judged on what `benchmarks.regret` measured.

Reads its JSON lines (files named on the command line) and prints tables in Markdown: for each
rule the test accuracy of what it chooses against the baseline, per group of tasks, and what the
best expert would have given. A race is the experts of one task and one draw of its examples.
"""

import collections
import json
import sys

from absl import flags
import numpy as np

from zoo import cli

DEFAULT = ('knn', 'logme')  # the parts of `selection.ranking.PROXIES`
PROXIES = ('knn', 'knn5', 'cosine', 'ridge', 'logme', 'hscore', 'domain', 'labels')


def best(rows, name, number=1):
  """The best rows by a score; equal ones the baseline first."""
  scored = [row for row in rows if row['scores'].get(name) is not None]
  return sorted(scored, key=lambda row: (-row['scores'][name], row['kind'] != 'baseline'))[:number]


def first_baseline(rows):
  """The baseline of the most upstream data: what one would take without any choice."""
  return [row for row in rows if row['first']]


def best_baseline(rows, name='knn'):
  """The baseline that a proxy prefers."""
  return best([row for row in rows if row['kind'] == 'baseline'], name)


def best_mean(rows, names, number=1):
  """The best by the mean of several scores, each standardised over the rows: `selection.fusion`."""
  from selection import fusion
  if any(row['scores'].get(name) is None for row in rows for name in names):
    return []
  values = fusion.mean([np.array([[row['scores'][name]] for row in rows]) for name in names])[:, 0]

  def place(i):  # as `selection.ranking.best_first`
    row = rows[i]
    return -values[i], -row['scores'][names[0]], row['kind'] != 'baseline'

  return [rows[i] for i in sorted(range(len(rows)), key=place)[:number]]


def unless_noise(rows, name):
  """The best by a proxy if it beats the proxy's best baseline beyond noise, else that one.

  The test is that of `selection.compare.beats`: McNemar, corrected for how many were tried.
  """
  from selection import compare
  chosen = best(rows, name)
  versus = chosen[0]['versus'].get(name) if chosen else None
  if versus and versus['p'] * max(len(rows) - 1, 1) >= compare.SIGNIFICANCE:
    return best_baseline(rows, name)
  return chosen


def unless_close(rows, name, errors=1.):
  """The best by a proxy if it leads the proxy's best baseline by more than some standard
  errors of the paired difference, else that baseline."""
  chosen = best(rows, name)
  versus = chosen[0]['versus'].get(name) if chosen else None
  if versus and versus['gain'] <= errors * versus['stderr']:
    return best_baseline(rows, name)
  return chosen


def of_kind(rows, kind):
  """The baselines and the experts of one kind."""
  return [row for row in rows if row['kind'] in ('baseline', kind)]


# Each rule chooses some rows of a race: one, or several of which the best is taken.
RULES = {
    'baseline': first_baseline,
    'best baseline (1-NN)': best_baseline,
    '1-NN (the paper)': lambda rows: best(rows, 'knn'),
    '1-NN, whole experts': lambda rows: best(of_kind(rows, 'expert'), 'knn'),
    '1-NN, adapters': lambda rows: best(of_kind(rows, 'packed'), 'knn'),
    '5-NN': lambda rows: best(rows, 'knn5'),
    '1-NN, cosine': lambda rows: best(rows, 'cosine'),
    'ridge': lambda rows: best(rows, 'ridge'),
    'LogME': lambda rows: best(rows, 'logme'),
    'H-score': lambda rows: best(rows, 'hscore'),
    '1-NN and LogME (the default)': lambda rows: best_mean(rows, DEFAULT),
    '1-NN and ridge': lambda rows: best_mean(rows, ('knn', 'ridge')),
    '1-NN and H-score': lambda rows: best_mean(rows, ('knn', 'hscore')),
    '1-NN, LogME and H-score': lambda rows: best_mean(rows, ('knn', 'logme', 'hscore')),
    '1-NN, unless noise': lambda rows: unless_noise(rows, 'knn'),
    'ridge, unless noise': lambda rows: unless_noise(rows, 'ridge'),
    '1-NN, unless within 1 s.e.': lambda rows: unless_close(rows, 'knn'),
    'ridge, unless within 1 s.e.': lambda rows: unless_close(rows, 'ridge'),
    'domain prediction': lambda rows: best(rows, 'domain'),
    'label matching': lambda rows: best(rows, 'labels'),
    'hybrid: 1-NN and baseline': lambda rows: best(rows, 'knn') + first_baseline(rows),
    'hybrid: the default and baseline': lambda rows: (
        best_mean(rows, DEFAULT) + first_baseline(rows)),
    'three best by 1-NN': lambda rows: best(rows, 'knn', 3),
    'three best by ridge': lambda rows: best(rows, 'ridge', 3),
    'three best by the default': lambda rows: best_mean(rows, DEFAULT, 3),
}


def read(paths):
  """The JSON lines of some files, a list of dicts."""
  lines = []
  for path in paths:
    with open(path, encoding='utf-8') as file:
      lines += [json.loads(line) for line in file]
  return lines


def races(lines):
  """The rows of each race: a dict from (group, task, seed) to a list of rows."""
  found = collections.defaultdict(list)
  for line in lines:
    found[line['group'], line['task'], line['seed']].append(line)
  return dict(found)


def outcomes(found, measure='tuned'):
  """What every rule reaches in every race.

  Args:
    found: as `races` returns it.
    measure: 'tuned' or 'probe', the test accuracy that counts.

  Returns:
    A dict from the name of a rule to one from race to accuracy; with 'a random expert' (the
    mean, where all experts were measured) and 'the best expert' (of those measured) among
    the rules. A rule has no accuracy in a race where it chooses nothing, or what it chooses
    was not measured.
  """
  result = {name: {} for name in [*RULES, 'a random expert', 'the best expert']}
  for race, rows in found.items():
    for name, rule in RULES.items():
      values = [row[measure] for row in rule(rows)]
      if values and None not in values:
        result[name][race] = max(values)
    values = [row[measure] for row in rows if row[measure] is not None]
    if len(values) == len(rows):
      result['a random expert'][race] = float(np.mean(values))
    if values:
      result['the best expert'][race] = max(values)
  return result


def interval(values):
  """Mean and half its 95% interval over tasks.

  Draws of a task are not independent, so that each task counts with the mean of its draws; what
  the interval says is how far other tasks like these may be from the mean (Student's t).

  Args:
    values: dict from race to a number.

  Returns:
    (mean, half width); the width is None with a single task.
  """
  of_task = collections.defaultdict(list)
  for (_, task, _), value in values.items():
    of_task[task].append(value)
  return spread([np.mean(own) for own in of_task.values()])


def spread(values):
  """Mean of independent values and half its 95% interval (Student's t); None of one value."""
  import scipy.stats
  if len(values) < 2:
    return float(np.mean(values)), None
  half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
  return float(np.mean(values)), float(half)


def agreement(found, name, measure='tuned'):
  """Kendall's tau of a score with the measured accuracy, mean over races; None if unknown."""
  from selection import proxies
  taus = []
  for rows in found.values():
    pairs = [(row['scores'][name], row[measure]) for row in rows
             if row['scores'].get(name) is not None and row[measure] is not None]
    if len(pairs) > 2:
      taus.append(proxies.kendall(*zip(*pairs, strict=True)))
  taus = [tau for tau in taus if tau is not None]
  return float(np.mean(taus)) if taus else None


def summary(found, measure='tuned', covered=None):
  """For each rule: gains on the baseline by group, and the regret.

  Args:
    found: as `races` returns it.
    measure: as in `outcomes`.
    covered: names of tasks that make a group of their own, or None.

  Returns:
    A list of JSON-like dicts: rule, races, gain (by group name to [mean, half width] in points,
    'all' among them), regret (mean points below the best expert).
  """
  reached = outcomes(found, measure)
  groups = {group: [race for race in found if race[0] == group] for group, _, _ in found}
  if covered:
    groups['covered'] = [race for race in found if race[1] in covered]
  groups['all'] = list(found)
  lines = []
  for rule, values in reached.items():
    shared = [race for race in values if race in reached['baseline']]
    if not shared:
      continue
    gains = {race: 100 * (values[race] - reached['baseline'][race]) for race in shared}
    missed = {race: 100 * (reached['the best expert'][race] - values[race]) for race in shared}
    lines.append({
        'rule': rule, 'races': len(shared), 'regret': interval(missed)[0],
        'gain': {group: interval({race: gains[race] for race in own if race in gains})
                 for group, own in groups.items() if any(race in gains for race in own)}})
  return lines


def table(lines):
  """The summary in Markdown."""
  groups = list(lines[0]['gain'])

  def cell(line, group):
    if group not in line['gain']:
      return '-'
    mean, half = line['gain'][group]
    return f'{mean:+.1f}' + (f' ± {half:.1f}' if half is not None else '')

  rows = [f'| rule | races | {" | ".join(groups)} | regret |',
          '|---' + '|---:' * (len(groups) + 2) + '|']
  rows += [f'| {line["rule"]} | {line["races"]} | '
           f'{" | ".join(cell(line, group) for group in groups)} | {line["regret"]:.1f} |'
           for line in lines]
  return '\n'.join(rows)


FLAGS = cli.new_flags()
flags.DEFINE_list('lines', None, 'Files of JSON lines of benchmarks.regret.', flag_values=FLAGS)
flags.DEFINE_enum('measure', 'tuned', ['tuned', 'probe'], 'Which test accuracy counts.',
                  flag_values=FLAGS)
flags.DEFINE_list('covered', [], 'Tasks whose domain a slice covers, as a group of their own.',
                  flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
flags.mark_flags_as_required(['lines'], flag_values=FLAGS)


def main(values, command):
  del command
  found = races(read(values.lines))
  result = summary(found, values.measure, values.covered)
  if values.json:
    print(json.dumps(result))
    return
  print(table(result))
  print()
  for name in PROXIES:
    tau = agreement(found, name, values.measure)
    if tau is not None:
      print(f'Kendall tau of {name} with the test accuracy: {tau:.2f}')


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
