"""A ranking for people: as text and as a chart. Both read the JSON of `zoo-rank`."""

import io

from zoo import atomic

BARS = 30  # more would not be read


def _key(entry):
  return entry['handle'], entry['expert']


def roles(result):
  """The entries (winner, baseline) of a ranking; the baseline may be None or the winner."""
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
  lines = [f'{"":4} {"expert":{width}} {"kind":9} {"kNN":>6} {"± s.e.":>7} {"gain":>6} '
           f'{"± s.e.":>7} {"seconds":>7}  module']
  for place, entry in enumerate(result['experts'], 1):
    head = f'{entry["name"]:{width}} {entry["kind"]:9}'
    if entry['dropped']:
      lines.append(f'{"-":>4} {head} dropped: {entry["dropped"]}')
      continue
    versus, gain = entry['vs_baseline'], f'{"":14}'
    if versus and entry['handle'] != result['baseline']:
      gain = f'{100 * versus["gain"]:+6.1f} {100 * versus["stderr"]:7.1f}'
    lines.append(
        f'{place:4} {head} {entry["scores"]["knn"]:6.1%} {entry["stderr"]:7.1%} {gain} '
        f'{entry["seconds"]:7.1f}  {entry["handle"]}'
        + ('  (may be as good)' if _key(entry) in alike else ''))
  return '\n'.join(lines)


def verdict(result):
  """One sentence: who is best, and whether that is more than noise."""
  winner, baseline = roles(result)
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

  Bars are leave-one-out kNN accuracies. They start at the baseline's, which is what an
  expert has to beat, and their error bar is one standard error of the paired difference
  from it. Without a baseline they start at zero.
  """
  from matplotlib import figure
  winner, baseline = roles(result)
  entries = [entry for entry in result['experts'] if not entry['dropped']][:BARS]
  shown = figure.Figure(figsize=(7.5, 1.1 + 0.28 * len(entries)), layout='constrained')
  axes = shown.subplots()
  start = 100 * baseline['scores']['knn'] if baseline else 0.
  scores = [100 * entry['scores']['knn'] for entry in entries]
  errors = [100 * (e['vs_baseline']['stderr'] if baseline else e['stderr']) for e in entries]
  colors = ['#1b6e53' if e is winner else '#a9cfc2' for e in entries]
  rows = range(len(entries))
  axes.barh(rows, [score - start for score in scores], left=start, color=colors, height=0.7)
  axes.errorbar(scores, rows, xerr=errors, fmt='none', ecolor='#44484f', elinewidth=1)
  for row, score in zip(rows, scores, strict=True):
    axes.text(1.01, row, f'{score:.1f}', va='center', transform=axes.get_yaxis_transform())
  axes.set_yticks(rows, [e['name'] + (' (whole)' if e['kind'] == 'expert' else '')
                         for e in entries])
  axes.invert_yaxis()
  label = f'leave-one-out kNN accuracy on {result["task"]}, %'
  if baseline is not None:
    axes.axvline(start, color='#44484f', linewidth=1)
    label += '\n(bars start at the baseline; ± one standard error of the difference)'
  axes.set_xlabel(label)
  for side in ('top', 'right', 'left'):
    axes.spines[side].set_visible(False)
  axes.tick_params(axis='y', length=0)
  return shown


def render(draw, *arguments, kind='svg'):
  """Draws a figure and gives it as bytes.

  Args:
    draw: function that returns a matplotlib figure.
    *arguments: of that function.
    kind: 'svg', 'png' or 'pdf'.
  """
  import matplotlib
  buffer = io.BytesIO()
  # Class names are text: a dollar in one starts no formula, and the page's fonts draw them.
  with matplotlib.rc_context({'text.parse_math': False, 'svg.fonttype': 'none'}):
    draw(*arguments).savefig(buffer, format=kind, dpi=150)
  return buffer.getvalue()


def check_chart_path(path):
  """Raises ValueError unless `path` ends in .png, .svg or .pdf."""
  if not path.endswith(('.png', '.svg', '.pdf')):
    raise ValueError(f'--chart={path} must end in .png, .svg or .pdf.')


def save_chart(result, path):
  """Writes the chart; the ending of `path` (.png, .svg, .pdf) gives the format."""
  check_chart_path(path)
  with atomic.writing(path) as file:
    file.write(render(chart, result, kind=path.rsplit('.', 1)[-1]))
