"""The page of `zoo-rank --explain`: what an expert separates that the baseline does not."""

import os

from selection import explain
from selection import page

CLASSES = 15  # in the chart, from either end
NAME = 32  # characters of a class name there
GAINED = 24  # images
LOST = 8
PICTURE = 72  # pixels of an image; of a neighbour, two thirds
TEMPLATE = os.path.join(os.path.dirname(__file__), 'explain.html.j2')


def write(path, explanation, standing='', command=()):
  """Writes the page, whole or not at all.

  Args:
    path: an .html file.
    explanation: a `selection.explain.Explanation`.
    standing: how the expert ranks, in words.
    command: the command line that made it, a list of strings.
  """
  found = explanation.difference
  names = explanation.sample.class_names
  page.write(
      path, TEMPLATE, explanation=explanation, difference=found, names=names,
      expert=explanation.expert.describe(), baseline=explanation.baseline.describe(),
      standing=standing, command=command, picture=PICTURE, neighbors=explain.SHOWN,
      chart=page.svg(chart, found.classes, names),
      gained=_examples(explanation, found.gained[:GAINED]),
      lost=_examples(explanation, found.lost[:LOST]))


def chart(classes, names):
  """The gain of each class as a bar with its standard error, a matplotlib figure.

  Args:
    classes: `selection.explain.ClassGain`s, greatest gain first. Of many, no more than
      `CLASSES` that gain and as many that lose are shown.
    names: all class names of the task.
  """
  from matplotlib import figure
  rows = list(classes)
  if len(classes) > 2 * CLASSES:
    rows = [*(one for one in classes[:CLASSES] if one.gain > 0), None,
            *(one for one in classes[-CLASSES:] if one.gain < 0)]
  shown = figure.Figure(figsize=(7.5, 1 + 0.24 * len(rows)), layout='constrained')
  axes = shown.subplots()
  labels = []
  for row, one in enumerate(rows):
    if one is None:
      labels.append(f'({len(classes) - len(rows) + 1} classes between)')
      continue
    name = names[one.label]
    labels.append(f'{name if len(name) <= NAME else name[:NAME - 1] + "…"} ({one.examples})')
    axes.barh(row, 100 * one.gain, height=0.7, color='#1b6e53' if one.gain > 0 else '#a3372f')
    axes.errorbar(100 * one.gain, row, xerr=100 * one.stderr, ecolor='#44484f', elinewidth=1)
    axes.text(1.01, row, f'{100 * one.baseline:.0f} → {100 * one.expert:.0f}', va='center',
              fontsize=8, transform=axes.get_yaxis_transform())
  axes.set_yticks(range(len(rows)), labels, fontsize=8)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.axvline(0, color='#44484f', linewidth=1)
  axes.set_xlabel('recall of the expert less that of the baseline, points\n'
                  '(± one standard error; in brackets, how many images)')
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.tick_params(axis='y', length=0)
  return shown


def _examples(explanation, rows):
  """Images with their neighbours, for the page.

  Returns:
    A list of dicts: picture (data URL), name (of the class), and sides, (title, right,
    neighbours) of expert and baseline; a neighbour has picture, name and same (class).
  """
  names, labels = explanation.sample.class_names, explanation.sample.labels
  # As the networks see them; of two sizes the larger one.
  images = explanation.sample.images[max(explanation.sample.images)]
  found = explanation.difference

  def shown(row, size):
    return {'picture': page.data_url(images[row], size), 'name': names[labels[row]]}

  sides = [('expert', found.expert.correct, explanation.near),
           ('baseline', found.baseline.correct, explanation.baseline_near)]
  return [shown(row, PICTURE) | {'sides': [
      {'title': title, 'right': bool(correct[row]), 'neighbors': [
          shown(other, 2 * PICTURE // 3) | {'same': bool(labels[other] == labels[row])}
          for other in near[row][:explain.SHOWN]]}
      for title, correct, near in sides]} for row in rows]
