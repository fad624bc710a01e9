"""The results of zoo-vtab as a table: text, CSV and LaTeX."""

import csv
import dataclasses
import io

import numpy as np

from benchmarks import selectors
from benchmarks import vtab_published
from benchmarks import vtab_tasks

MAJORITY = 'majority'
BY_TASK = next(row for row in vtab_published.PUBLISHED if row.tasks)  # the one with each task


@dataclasses.dataclass(frozen=True)
class Row:
  """A task, or the mean over several.

  Attributes:
    title: in the first column.
    kind: 'task', 'group' or 'mean'.
    group: of the task or mean; '' of the mean over all.
    cells: by column (mean over seeds, half its 95% interval or None), in percent.
    published: of `BY_TASK` in percent, or None.
  """
  title: str
  kind: str
  group: str
  cells: dict[str, tuple[float, float | None]]
  published: float | None


def columns(found):
  """The strategies of some lines, in their order, then the share of the commonest class."""
  return [*dict.fromkeys(line['strategy'] for line in found), MAJORITY]


def rows(found):
  """The table of some lines.

  A mean is over the tasks that every strategy has under every seed, so that strategies are
  compared on the same ones; its interval is over seeds.

  Args:
    found: as `benchmarks.vtab_results.lines` returns them.

  Returns:
    A list of `Row`: those of each group followed by its mean, then the mean over all. Those of
    VTAB-1k have `BY_TASK` beside them, means those of all its tasks.
  """
  names = columns(found)
  values = {}
  for line in found:
    values[line['title'], line['strategy'], line['seed']] = 100 * line['test_accuracy']
    values[line['title'], MAJORITY, line['seed']] = 100 * line['majority']
  groups = {}
  for line in found:
    groups.setdefault(line['group'], {})[line['title']] = None
  seeds = sorted({line['seed'] for line in found})

  published = found[0]['protocol'] == BY_TASK.protocol

  def beside(value, titles, group=None):
    there = {entry.title for entry in vtab_tasks.VTAB if group in (None, entry.group)}
    return value if published and set(titles) == there else None

  def whole(titles):
    return [title for title in titles
            if all((title, name, seed) in values for name in names for seed in seeds)]

  def cells(titles, own):
    """Mean over tasks, then over those of the seeds that have all of them."""
    result = {}
    for name in own if titles else ():
      means = [np.mean([values[title, name, seed] for title in titles]) for seed in seeds
               if all((title, name, seed) in values for title in titles)]
      if means:
        result[name] = selectors.spread(means)
    return result

  table, everything = [], []
  for group, titles in groups.items():
    table += [Row(title, 'task', group, cells([title], names),
                  BY_TASK.tasks.get(title) if published else None) for title in titles]
    table.append(Row(
        f'{group} ({_number(whole(titles), titles)})', 'group', group, cells(whole(titles), names),
        beside(BY_TASK.groups.get(group), whole(titles), group)))
    everything += titles
  table.append(Row(
      f'mean ({_number(whole(everything), everything)})', 'mean', '',
      cells(whole(everything), names), beside(BY_TASK.mean, whole(everything))))
  return table


def _number(some, everything):
  """How many tasks a mean is of, in words."""
  whole = f'{len(everything)} task' + 's' * (len(everything) > 1)
  return whole if len(some) == len(everything) else f'{len(some)} of {whole}'


def _cell(row, name):
  if name not in row.cells:
    return '-'
  mean, half = row.cells[name]
  return f'{mean:.1f}' + (f' ± {half:.1f}' if half is not None and name != MAJORITY else '')


def _published(row):
  return '-' if row.published is None else f'{row.published:.1f}'


def _texts(table, names):
  """The head and the body of a table, as lists of texts."""
  beside = [f'{BY_TASK.name} (published)'] if any(row.published for row in table) else []
  head = ['', *names, *beside]
  body = [[row.title, *(_cell(row, name) for name in names), *([_published(row)] * bool(beside))]
          for row in table]
  return head, body


def text(table, names):
  """The table as lines of text."""
  head, body = _texts(table, names)
  widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
  lines = []
  for row, cells in zip([None, *table], [head, *body], strict=True):
    line = '  '.join([f'{cells[0]:{widths[0]}}', *(
        f'{cell:>{width}}' for cell, width in zip(cells[1:], widths[1:], strict=True))])
    lines.append(line.rstrip())
    if row is None or row.kind != 'task':
      lines.append('-' * len(line))
  return '\n'.join(lines[:-1])


def csv_text(table, names):
  """The table as CSV: title, kind and group, of each column mean and half interval, published."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(['title', 'kind', 'group', *(
      word for name in names for word in (name, f'{name} ±')), f'{BY_TASK.name} (published)'])
  for row in table:
    cells = [row.cells.get(name, (None, None)) for name in names]
    writer.writerow([row.title, row.kind, row.group, *(
        '' if value is None else f'{value:.4f}' for cell in cells for value in cell),
                     '' if row.published is None else row.published])
  return buffer.getvalue()


def latex(table, names):
  """The table for LaTeX with the package booktabs."""
  head, body = _texts(table, names)
  lines = [r'% needs \usepackage{booktabs}',
           r'\begin{tabular}{l' + 'r' * (len(head) - 1) + '}', r'\toprule',
           ' & '.join(map(_escaped, head)) + r' \\', r'\midrule']
  for row, cells in zip(table, body, strict=True):
    words = [_escaped(cell) for cell in cells]
    if row.kind != 'task':
      words = [rf'\textbf{{{word}}}' for word in words]
    lines.append(' & '.join(words) + r' \\')
    if row.kind == 'group':
      lines.append(r'\midrule')
  return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', ''])


def _escaped(word):
  for mark in '\\{}&%$#_':
    word = word.replace(mark, {'\\': r'\textbackslash '}.get(mark, '\\' + mark))
  return word.replace('±', r'$\pm$').replace('~', r'\textasciitilde ').replace('^', r'\^{}')
