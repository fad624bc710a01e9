"""Charts of fine-tuning, as matplotlib figures."""

import numpy as np

COLORS = ('#1b6e53', '#8a8f98')
NAMED_CLASSES = 30  # more names would not fit
COUNTED_CLASSES = 15  # more numbers would not fit


def curves(histories):
  """Loss and accuracy of training batches against steps.

  Args:
    histories: a list of (name, history of `zoo.training.fit`).
  """
  from matplotlib import figure
  shown = figure.Figure(figsize=(7, 2.6), layout='constrained')
  for axes, key, scale, label in zip(
      shown.subplots(1, 2), ('loss', 'accuracy'), (1, 100),
      ('training loss', 'accuracy of training batches, %'), strict=True):
    for (name, history), color in zip(histories, COLORS, strict=False):
      axes.plot([row['step'] for row in history], [scale * row[key] for row in history],
                color=color, label=name)
    axes.set_xlabel('step')
    axes.set_title(label, fontsize=10, loc='left')
    axes.set_ylim(0, None if key == 'loss' else 100)
    axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize=8, loc='lower right')
  return shown


def confusion(counts, names):
  """A confusion matrix.

  Args:
    counts: int [C, C], rows are true classes.
    names: the C class names.
  """
  from matplotlib import figure
  number = len(names)
  named, counted = number <= NAMED_CLASSES, number <= COUNTED_CLASSES
  side = min(2.5 + 0.36 * number, 8) if named else 6
  shown = figure.Figure(figsize=(side + 0.6, side), layout='constrained')
  axes = shown.subplots()
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  image = axes.imshow(100 * shares, cmap='Greens', vmin=0, vmax=100)
  if counted:
    for row, column in np.argwhere(counts):
      axes.text(column, row, counts[row, column], ha='center', va='center', fontsize=8,
                color='white' if shares[row, column] > 0.6 else 'black')
  if named:
    axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(number), names)
  axes.set_xlabel('predicted' if named else 'predicted class, by number')
  axes.set_ylabel('true' if named else 'true class, by number')
  shown.colorbar(image, ax=axes, label='% of the true class', fraction=0.046)
  return shown
