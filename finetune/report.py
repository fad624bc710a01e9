"""report.html: one self-contained page of what `transfer` found."""

import os

import numpy as np

from finetune import charts
from selection import compare
from selection import page
from selection import proxies
from selection import show
from zoo import pixels

EXAMPLES = 18  # of predictions, right and wrong
PICTURE = 72  # pixels they are shown at
# Of settings, shown where any has another than the plain value.
MORE = (('weight decay', 'weight_decay', 0), ('MixUp', 'mixup', 0), ('trained', 'tune', 'whole'))


def write(result, task, networks):
  """Writes the page to `result['report']`.

  Args:
    result: what `finetune.line.transfer` returns.
    task: the `zoo.tasks.Task`.
    networks: dict from role ('winner', and 'baseline' or 'runner_up' if there is one) to what
      `finetune.tuning.finetune` returned.
  """
  ranked, winner = result['ranking'], networks['winner']
  runs = [(role.replace('_', '-'), network) for role, network in networks.items()]
  curves = [(f'{network["name"]} ({role})', network['history']) for role, network in runs]
  tried = [one for _, run in runs for one in run['tried']]
  page.write(
      result['report'], os.path.join(os.path.dirname(__file__), 'report.html.j2'),
      result=result, ranked=ranked, show=show, verdict=show.verdict(ranked),
      ensemble=result['ensemble'],
      runs=runs, more=[(title, key) for title, key, plain in MORE
                       if any(one[key] != plain for one in tried)],
      difference=_difference(winner, runs[1][1]) if len(runs) > 1 else None,
      used=used(result),
      ranking_chart=page.svg(show.chart, ranked), curves=page.svg(charts.curves, curves),
      confusion=page.svg(charts.confusion, np.array(winner['confusion']), task.class_names),
      examples=_examples(task, winner['predictions']), picture=PICTURE)


def used(result):
  """Says whose module is left to use where it is not the winner's; else an empty text."""
  if result['use'] not in ('baseline', 'runner_up'):
    return ''
  return (f'On val the {result["use"].replace("_", "-")} is better by a standard error: the '
          'module that is left to use is its.')


def _difference(winner, other):
  """The paired comparison of the two on the same test images."""
  right = []
  for run in (winner, other):
    with np.load(run['predictions']) as file:
      right.append(proxies.accuracy(file['logits'].argmax(1) == file['labels']))
  return compare.paired(*right)


def _examples(task, predictions):
  """Some test images with their prediction: half of them wrong ones, if there are so many.

  Returns:
    A list of dicts: picture (data URL), truth, guess, probability, right.
  """
  with np.load(predictions) as file:
    logits, labels = file['logits'].astype(np.float64), file['labels']
  guesses = logits.argmax(1)
  random = np.random.default_rng(0)
  wrong, right = (random.permutation(np.flatnonzero((guesses != labels) == flag))
                  for flag in (True, False))
  wrong = wrong[:max(EXAMPLES // 2, EXAMPLES - len(right))]
  chosen = np.sort(np.concatenate([wrong, right[:EXAMPLES - len(wrong)]]))
  # Unreadable test images have no prediction, so that the two are counted alike.
  shown, number = [], 0
  wanted = set(chosen.tolist())
  for image, _ in task.reader('test', range(task.splits['test'])):
    if image is None:
      continue
    if number in wanted:
      odds = np.exp(logits[number] - logits[number].max())
      shown.append({
          'picture': page.data_url(pixels.to_rgb(image), PICTURE),
          'truth': task.class_names[labels[number]],
          'guess': task.class_names[guesses[number]],
          'probability': float(odds.max() / odds.sum()),
          'right': bool(guesses[number] == labels[number])})
    number += 1
    if number > chosen[-1]:
      break
  return sorted(shown, key=lambda example: example['right'])
