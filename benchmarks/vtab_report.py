"""report.html of zoo-vtab: the table, a chart a group, warnings, and what was chosen."""

import os

from benchmarks import vtab_published
from benchmarks import vtab_table
from benchmarks import vtab_tasks
from selection import page

COLORS = ('#1b6e53', '#8a8f98', '#d08c3f', '#4a6fa5', '#a3372f', '#7b5ea7', '#b5b04a')
GREY = '#22262b'


def write(path, found, missing, failed):
  """Writes the page.

  Args:
    path: where it goes.
    found: as `benchmarks.vtab_results.lines` returns them.
    missing: (title, why) of the tasks whose data are not there.
    failed: as `benchmarks.vtab_jobs.work` returns it.
  """
  table = vtab_table.rows(found)
  of_vtab = {entry.title for entry in vtab_tasks.VTAB} & {line['title'] for line in found}
  page.write(
      path, os.path.join(os.path.dirname(__file__), 'vtab.html.j2'), table=table,
      columns=vtab_table.columns(found), beside=vtab_table.BY_TASK.name,
      published=[row for row in vtab_published.PUBLISHED
                 if of_vtab and row.protocol == found[0]['protocol']], found=found,
      seeds=sorted({line['seed'] for line in found}),
      missing=missing, failed=failed, warnings=warnings(found),
      chart=page.svg(chart, found, table))


def warnings(found):
  """What makes a result less than it seems, a line each."""
  said = []
  for line in found:
    if line['covered'] < line['classes']:
      said.append(f'{line["title"]}: the training examples have {line["covered"]} of the '
                  f'{line["classes"]} classes.')
    if line['left_out']:
      said.append(f'{line["title"]}: {len(line["left_out"])} of '
                  f'{line["candidates"] + len(line["left_out"])} experts have learnt from its data '
                  'set and are no candidates.')
    said += [f'{line["title"]}: {name} has learnt from its data set.' for name in line['overlaps']
             if line['strategy'].startswith('handle:')]
  return list(dict.fromkeys(said))


def chart(found, table):
  """Test accuracies by task, a panel a group, a bar a strategy.

  Whiskers are 95% intervals over seeds; a line across marks the share of the commonest class,
  a diamond what is published.

  Args:
    found: as `benchmarks.vtab_results.lines` returns them.
    table: their `vtab_table.rows`.
  """
  from matplotlib import figure
  names = vtab_table.columns(found)[:-1]
  groups = list(dict.fromkeys(row.group for row in table if row.kind == 'task'))
  tasks = {group: [row for row in table if row.kind == 'task' and row.group == group]
           for group in groups}
  bars = sum(map(len, tasks.values())) * (len(names) + 1)
  shown = figure.Figure(figsize=(min(2.5 + 0.12 * bars, 10.), 3.4), layout='constrained')
  panels = shown.subplots(1, len(groups), squeeze=False, sharey=True,
                          width_ratios=[max(len(tasks[group]), 2) for group in groups])[0]
  width = 0.8 / len(names)
  for axes, group in zip(panels, groups, strict=True):
    own = tasks[group]
    for i, name in enumerate(names):
      cells = [(x, *row.cells[name]) for x, row in enumerate(own) if name in row.cells]
      places = [x + (i - (len(names) - 1) / 2) * width for x, _, _ in cells]
      axes.bar(places, [mean for _, mean, _ in cells], 0.92 * width,
               color=COLORS[i % len(COLORS)], label=name)
      for place, (_, mean, half) in zip(places, cells, strict=True):
        if half:
          axes.errorbar(place, mean, half, color=GREY, linewidth=1)
    for x, row in enumerate(own):
      floor = row.cells[vtab_table.MAJORITY][0] if vtab_table.MAJORITY in row.cells else None
      if floor is not None:
        axes.plot([x - 0.45, x + 0.45], [floor, floor], color=GREY, linewidth=1,
                  label='commonest class' if x == 0 else None)
    marked = [(x, row.published) for x, row in enumerate(own) if row.published is not None]
    if marked:
      axes.scatter(*zip(*marked, strict=True), marker='D', s=16, color='black', zorder=3,
                   label=f'{vtab_table.BY_TASK.name} (published)')
    axes.set_xticks(range(len(own)), [row.title for row in own], rotation=60, ha='right',
                    rotation_mode='anchor', fontsize=8)
    axes.set_title(group, fontsize=10, loc='left')
    axes.set_ylim(0, 100)
    axes.spines[['top', 'right']].set_visible(False)
  panels[0].set_ylabel('test accuracy, %')
  marks = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
  order = sorted(marks, key=lambda label: label not in names)
  shown.legend([marks[label] for label in order], order, frameon=False, fontsize=8,
               loc='outside upper right', ncols=len(order))
  return shown
