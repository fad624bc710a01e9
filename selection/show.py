"""A ranking for people: as text and as a chart. Both read the JSON of `zoo-rank`."""

import io

from zoo import atomic

BARS = 30  # more would not be read


def _key(entry):
  return entry['handle'], entry['expert']


def _roles(result):
  """(winner, baseline or None) among the entries of a ranking."""
  winner = result['experts'][0]
  baseline = next((e for e in result['experts']
                   if e['handle'] == result['baseline'] and not e['dropped']), None)
  return winner, baseline


def describe(entry):
  """Handle and, of a packed expert, its name."""
  return entry['handle'] if entry['expert'] is None else f'{entry["handle"]} ({entry["name"]})'


def table(result):
  """The ranking as lines of text."""
  alike = {tuple(key) for key in result['indistinguishable']}
  width = max(len(entry['name']) for entry in result['experts'])
  lines = [f'{"":4} {"expert":{width}} {"kind":9} {"kNN":>6} {"± s.e.":>7} {"seconds":>7}  '
           'module']
  for place, entry in enumerate(result['experts'], 1):
    head = f'{entry["name"]:{width}} {entry["kind"]:9}'
    if entry['dropped']:
      lines.append(f'{"-":>4} {head} dropped: {entry["dropped"]}')
      continue
    lines.append(
        f'{place:4} {head} {entry["scores"]["knn"]:6.1%} {entry["stderr"]:7.1%} '
        f'{entry["seconds"]:7.1f}  {entry["handle"]}'
        + ('  (may be as good)' if _key(entry) in alike else ''))
  return '\n'.join(lines)


def verdict(result):
  """One sentence: who is best, and whether that is more than noise."""
  winner, baseline = _roles(result)
  best = f'Best by leave-one-out kNN on {result["examples"]} examples: {describe(winner)}'
  if baseline is None:
    return f'{best}. The hub has no baseline to compare with.'
  if winner is baseline:
    return f'{best}, which is the baseline.'
  gain = 100 * (winner['scores']['knn'] - baseline['scores']['knn'])
  noise = ('more than noise' if result['beats_baseline'] else 'which may be noise')
  return f'{best}, {gain:+.1f} points on the baseline: {noise} (exact McNemar test, 5%).'


def chart(result):
  """The ranking as a horizontal bar chart, a matplotlib figure.

  Bars are leave-one-out kNN accuracies with one standard error; the axis starts near the
  worst, since experts of one baseline differ by a few points. A line marks the baseline.
  """
  from matplotlib import figure
  winner, baseline = _roles(result)
  entries = [entry for entry in result['experts'] if not entry['dropped']][:BARS]
  shown = figure.Figure(figsize=(7, 0.9 + 0.3 * len(entries)), layout='constrained')
  axes = shown.subplots()
  scores = [100 * entry['scores']['knn'] for entry in entries]
  errors = [100 * entry['stderr'] for entry in entries]
  colors = ['#1b6e53' if e is winner else '#8a8f98' if e is baseline else '#a9cfc2'
            for e in entries]
  labels = [entry['name'] + (' (whole)' if entry['kind'] == 'expert' else '')
            for entry in entries]
  axes.barh(range(len(entries)), scores, xerr=errors, color=colors, height=0.72,
            error_kw={'ecolor': '#44484f', 'elinewidth': 1})
  axes.set_yticks(range(len(entries)), labels)
  axes.invert_yaxis()
  low = min(s - 2 * e for s, e in zip(scores, errors, strict=True))
  high = max(s + 2 * e for s, e in zip(scores, errors, strict=True))
  axes.set_xlim(max(low - 1, 0), min(high + 1, 100))
  if baseline is not None:
    axes.axvline(100 * baseline['scores']['knn'], color='#44484f', linewidth=1, linestyle=':')
  axes.set_xlabel(f'leave-one-out kNN accuracy on {result["task"]}, %, ± one standard error')
  for side in ('top', 'right', 'left'):
    axes.spines[side].set_visible(False)
  axes.tick_params(axis='y', length=0)
  return shown


def save_chart(result, path):
  """Writes the chart; the ending of `path` (.png, .svg, .pdf) gives the format."""
  buffer = io.BytesIO()
  chart(result).savefig(buffer, format=path.rsplit('.', 1)[-1], dpi=150)
  with atomic.writing(path) as file:
    file.write(buffer.getvalue())
