"""regret_charts.py: pictures of what `benchmarks.regret` measured.

Reads its JSON lines (files named on the command line) and writes to --out: the gain of every
expert on every task (heatmap.png), what the hub offers to every task and what is chosen
(choice.png), scores against test accuracy (proxy.png), and what rules reach against what they
cost (cost.png).
"""

import collections
import json
import os
import sys

from absl import flags
import numpy as np

from benchmarks import selectors
from zoo import cli

GREEN, GREY = '#1b6e53', '#8a8f98'
SHOWN = 0.9  # a rule is in the picture of cost if it is known in this share of the races
MEASURES = {'tuned': 'fine-tuned', 'probe': 'linear probe'}


def heatmap(found, measure='tuned'):
  """Gain of each expert on the first baseline, in points: rows are tasks, columns experts.

  Args:
    found: as `selectors.races` returns it; a cell is the mean over the draws of a task.
    measure: 'tuned' or 'probe'.
  """
  from matplotlib import figure
  gains = collections.defaultdict(list)
  for (_, task, _), rows in found.items():
    base = next((row[measure] for row in rows if row['first']), None)
    for row in rows:
      if None not in (base, row[measure]):
        gains[task, _label(row)].append(100 * (row[measure] - base))
  tasks = list(dict.fromkeys(task for _, task, _ in found))
  place = {_label(row): (row['source'] or '', row['kind'] != 'baseline', _label(row))
           for rows in found.values() for row in rows}
  experts = sorted({label for _, label in gains}, key=place.get)
  cells = np.full((len(tasks), len(experts)), np.nan)
  for (task, label), values in gains.items():
    cells[tasks.index(task), experts.index(label)] = np.mean(values)
  shown = figure.Figure(figsize=(2.4 + 0.34 * len(experts), 2.2 + 0.28 * len(tasks)),
                        layout='constrained')
  axes = shown.subplots()
  limit = np.nanpercentile(np.abs(cells), 95)
  image = axes.imshow(cells, cmap='PRGn', vmin=-limit, vmax=limit, aspect='auto')
  for i, j in np.argwhere(~np.isnan(cells)):
    points = round(cells[i, j])
    axes.text(j, i, f'{points:+d}' if points else '0', ha='center', va='center', fontsize=6,
              color='white' if abs(cells[i, j]) > 0.7 * limit else 'black')
  axes.set_xticks(range(len(experts)), experts, rotation=90, fontsize=8)
  axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
  axes.set_title(f'points gained on the plain baseline, {MEASURES[measure]}\n'
                 '(blank: trained on the task\'s data, or not measured)', fontsize=10, loc='left')
  shown.colorbar(image, ax=axes, fraction=0.02, extend='both')
  return shown


def _label(row):
  """A short unique name of an expert: that of its module, and its own in a packed one."""
  name = row['handle'].split('/')[-2]
  return name if row['expert'] is None else f'{name}: {row["name"]}'


def choice(found, measure='tuned'):
  """A line a task: the accuracy of every expert that was measured, of the plain baseline and of
  what the default rule chooses; means over the draws."""
  from matplotlib import figure
  reached = selectors.outcomes(found, measure)
  tasks = {}
  for race, rows in found.items():
    tasks.setdefault(race[1], {})[race] = rows
  shown = figure.Figure(figsize=(7, 1.2 + 0.24 * len(tasks)), layout='constrained')
  axes = shown.subplots()

  def mean(values):
    return 100 * np.mean(values) if len(values) else np.nan

  for y, races in enumerate(tasks.values()):
    offered = collections.defaultdict(list)
    for rows in races.values():
      for row in rows:
        if row[measure] is not None:
          offered[_label(row)].append(row[measure])
    known = [mean(own) for own in offered.values() if len(own) == len(races)]
    axes.scatter(known, [y] * len(known), s=12, color=GREY, alpha=0.6, linewidths=0,
                 label='every expert' if not y else None)
    for rule, label, look in (
        ('baseline', 'the plain baseline', {'s': 52, 'facecolors': 'none', 'edgecolors': 'black'}),
        ('1-NN and LogME (the default)', 'the choice', {'s': 22, 'color': GREEN})):
      axes.scatter([mean([reached[rule][race] for race in races if race in reached[rule]])], [y],
                   label=label if not y else None, **look)
  axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
  axes.invert_yaxis()
  axes.grid(axis='y', linewidth=0.3)
  axes.set_axisbelow(True)
  axes.set_xlabel(f'test accuracy, {MEASURES[measure]}, %')
  axes.legend(fontsize=8, frameon=False, ncols=3, loc='lower left', bbox_to_anchor=(0, 1))
  axes.spines[['top', 'right']].set_visible(False)
  return shown


def proxy(found, name='knn', measure='tuned'):
  """A score against the measured accuracy, a panel a task: experts as dots, baselines filled."""
  from matplotlib import figure
  tasks = {}
  for (_, task, seed), rows in found.items():
    if task not in tasks or seed < tasks[task][0]:
      tasks[task] = seed, rows
  columns = 6
  lines = -(-len(tasks) // columns)
  shown = figure.Figure(figsize=(1.75 * columns, 1.6 * lines), layout='constrained')
  panels = shown.subplots(lines, columns, squeeze=False).ravel()
  for axes, (task, (_, rows)) in zip(panels, tasks.items(), strict=False):
    for baseline in (False, True):
      pairs = [(100 * row['scores'][name], 100 * row[measure]) for row in rows
               if row[measure] is not None and (row['kind'] == 'baseline') == baseline]
      if pairs:
        axes.scatter(*zip(*pairs, strict=True), s=14, linewidths=0.8, edgecolors=GREEN,
                     facecolors=GREEN if baseline else 'none')
    axes.set_title(task, fontsize=8, loc='left')
    axes.tick_params(labelsize=6)
    axes.spines[['top', 'right']].set_visible(False)
  for axes in panels[len(tasks):]:
    axes.set_axis_off()
  shown.supxlabel(f'{name}, leave-one-out on 1,000 examples, %', fontsize=9)
  shown.supylabel(f'test accuracy, {MEASURES[measure]}, %', fontsize=9)
  return shown


def cost(found, measure='tuned'):
  """Mean accuracy against mean seconds a task: no choice, choices, all experts fine-tuned."""
  from matplotlib import figure
  reached = selectors.outcomes(found, measure)

  def seconds(part):
    known = [row['seconds'][part] for rows in found.values() for row in rows
             if row['seconds'].get(part)]
    if not known:
      raise ValueError(f'the lines have no seconds of what is {part}.')
    return np.mean(known)

  experts = np.mean([len(rows) for rows in found.values()])
  rank, tune = experts * seconds('embed'), seconds('tuned')
  points = {'baseline': tune, '1-NN (the paper)': rank + tune,
            '1-NN and LogME (the default)': rank + tune,
            'three best by the default': rank + 3 * tune, 'a random expert': tune,
            'the best expert': experts * tune}
  # Where only the promising experts were fine-tuned, some rules are known in a few races alone.
  points = {name: price for name, price in points.items()
            if len(reached[name]) >= SHOWN * len(found)}
  races = set(found).intersection(*(reached[name] for name in points))
  shown = figure.Figure(figsize=(6, 3.4), layout='constrained')
  axes = shown.subplots()
  for name, price in points.items():
    if races:
      y = 100 * np.mean([reached[name][race] for race in races])
      axes.scatter([price], [y], color=GREY if name in ('baseline', 'a random expert') else GREEN)
      axes.annotate(name, (price, y), xytext=(0, 6), textcoords='offset points', ha='center',
                    fontsize=8)
  axes.set_xscale('log')
  axes.margins(x=0.3, y=0.15)
  axes.set_xlabel('seconds a task, two CPU cores')
  axes.set_ylabel(f'mean test accuracy, {MEASURES[measure]}, %')
  axes.spines[['top', 'right']].set_visible(False)
  return shown


FLAGS = cli.new_flags()
flags.DEFINE_list('lines', None, 'Files of JSON lines of benchmarks.regret.', flag_values=FLAGS)
flags.DEFINE_enum('measure', 'tuned', ['tuned', 'probe'], 'Which test accuracy counts.',
                  flag_values=FLAGS)
flags.DEFINE_string('out', None, 'Folder of the pictures.', flag_values=FLAGS)
flags.mark_flags_as_required(['lines', 'out'], flag_values=FLAGS)


def main(values, command):
  del command
  found = selectors.races(selectors.read(values.lines))
  os.makedirs(values.out, exist_ok=True)
  for name, chart in (('heatmap', heatmap), ('choice', choice), ('proxy', proxy), ('cost', cost)):
    path = os.path.join(values.out, f'{name}.png')
    chart(found, measure=values.measure).savefig(path, dpi=110)
    print(json.dumps({'picture': path}))


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
