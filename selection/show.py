"""A ranking for people: as text and as a chart. Both read the JSON of `zoo-rank`."""

import io

from zoo import atomic
from zoo import cut_tasks

BARS = 30  # more would not be read
ROWS = 60  # of the table
FORMATS = {'%': '.1%', 's.d.': '.2f', '': '.3g'}  # of scores, by their unit


def _key(entry):
  return entry['handle'], entry['expert']


def roles(result):
  """The entries (winner, baseline) of a ranking; the baseline may be None or the winner."""
  winner = result['experts'][0]
  baseline = next((e for e in result['experts']
                   if e['handle'] == result['baseline'] and not e['dropped']), None)
  return winner, baseline


def runner_up(result):
  """The second best entry of a ranking, or None where there is none."""
  return next((entry for entry in result['experts'][1:] if not entry['dropped']), None)


def describe(entry):
  """Handle and, of a packed expert, its name."""
  return entry['handle'] if entry['expert'] is None else f'{entry["handle"]} ({entry["name"]})'


def score(value, proxy):
  """A score as text: shares in percent, anything without a unit with three digits.

  Args:
    value: the score.
    proxy: the entry of `proxies` in the JSON that it is of.
  """
  return f'{value:{FORMATS[proxy["unit"]]}}'


def shown(entry, proxy):
  """The score of an entry as text, '-' where it has none."""
  value = entry['scores'].get(proxy['name'])
  return '-' if value is None else score(value, proxy)


def difference(value, proxy, sign=''):
  """A difference of scores, or its standard error, as text: percentages in points."""
  if proxy['unit'] == '%':
    return f'{100 * value:{sign}.1f}'
  return f'{value:{sign}{FORMATS[proxy["unit"]]}}'


def _judge(proxy):
  """What a proxy ranks by, in words."""
  return f'leave-one-out {proxy["title"]}' if proxy['unit'] == '%' else proxy['title']


def table(result):
  """The ranking as lines of text."""
  main, *others = result['proxies']
  alike = {tuple(key) for key in result['indistinguishable']}
  listed = result['experts'][:ROWS]
  width = max(len(entry['name']) for entry in listed)
  wide = max(7, len(main['title']))
  lines = [f'{"":4} {"expert":{width}} {"kind":9} {main["title"]:>{wide}} {"± s.e.":>7} '
           f'{"gain":>7} {"± s.e.":>7} ' + ''.join(f'{proxy["title"]:>8} ' for proxy in others)
           + f'{"seconds":>7}  module']
  for place, entry in enumerate(listed, 1):
    head = f'{entry["name"]:{width}} {entry["kind"]:9}'
    if main['name'] not in entry['scores']:
      lines.append(f'{"-":>4} {head} dropped: {entry["dropped"]}')
      continue
    versus, gain = entry['vs_baseline'], f'{"":15}'
    if versus and entry['handle'] != result['baseline']:
      gain = (f'{difference(versus["gain"], main, "+"):>7} '
              f'{difference(versus["stderr"], main):>7}')
    lines.append(
        f'{"-" if entry["dropped"] else place:>4} {head} '
        f'{score(entry["scores"][main["name"]], main):>{wide}} '
        f'{score(entry["stderr"], main):>7} {gain} '
        + ''.join(f'{shown(entry, proxy):>8} ' for proxy in others)
        + f'{entry["seconds"]:7.1f}  {entry["handle"]}'
        + ('  (may be as good)' if _key(entry) in alike else '')
        + (f'  ({entry["dropped"]})' if entry['dropped'] else ''))
  if len(result['experts']) > ROWS:
    lines.append(f'     ... and {len(result["experts"]) - ROWS} more (--json has all).')
  return '\n'.join(lines)


def verdict(result):
  """In sentences: who is best, whether that is more than noise, who agrees, who is left out."""
  winner, baseline = roles(result)
  main, *others = result['proxies']
  best = f'Best by {_judge(main)} on {result["examples"]} examples: {describe(winner)}'
  if baseline is None:
    said = f'{best}. There is no baseline to compare with.'
  elif winner is baseline:
    said = f'{best}, which is the baseline.'
  else:
    gain = winner['scores'][main['name']] - baseline['scores'][main['name']]
    noise = 'more than noise' if result['beats_baseline'] else 'which may be noise'
    unit = {'%': ' points', '': ''}.get(main['unit'], f' {main["unit"]}')
    said = (f'{best}, {difference(gain, main, "+")}{unit} on the baseline: {noise} '
            f'(paired test, 5%, for the best of {result["judged"]}).')
  recalls = [entry['recall'] for entry in result['experts'] if entry['recall'] is not None]
  if recalls:
    said += f' ScaNN found {min(recalls):.1%} or more of the nearest neighbours, on samples.'
  for proxy in others:
    tau = result['agreement'][proxy['name']]
    if tau is not None:
      said += f' {proxy["title"]} orders the experts alike to a Kendall tau of {tau:.2f}.'
  if result['left_out']:
    said += f' {left_out(len(result["left_out"]), result["source"])}.'
  return said


def left_out(number, source):
  """Says that a number of candidates is left out of a ranking for a task of this source."""
  return (f'{number} more {"is" if number == 1 else "are"} left out, for having learnt from the '
          f'data set of the task, {cut_tasks.data_set(source)}')


def chart(result):
  """The ranking as a horizontal bar chart, a matplotlib figure.

  Bars are scores of the ranking proxy. They start at the baseline's, which is what an expert
  has to beat, and their error bar is one standard error of the paired difference from it.
  Without a baseline they start at zero.
  """
  from matplotlib import figure
  winner, baseline = roles(result)
  main = result['proxies'][0]
  unit = 100 if main['unit'] == '%' else 1
  entries = [entry for entry in result['experts'] if not entry['dropped']][:BARS]
  drawn = figure.Figure(figsize=(7.5, 1.1 + 0.28 * len(entries)), layout='constrained')
  axes = drawn.subplots()
  start = unit * baseline['scores'][main['name']] if baseline else 0.
  scores = [unit * entry['scores'][main['name']] for entry in entries]
  errors = [unit * (e['vs_baseline']['stderr'] if baseline else e['stderr']) for e in entries]
  colors = ['#1b6e53' if e is winner else '#a9cfc2' for e in entries]
  rows = range(len(entries))
  axes.barh(rows, [value - start for value in scores], left=start, color=colors, height=0.7)
  axes.errorbar(scores, rows, xerr=errors, fmt='none', ecolor='#44484f', elinewidth=1)
  for row, entry in zip(rows, entries, strict=True):
    axes.text(1.01, row, score(entry['scores'][main['name']], main).rstrip('%'), va='center',
              transform=axes.get_yaxis_transform())
  names = [entry['name'] for entry in entries]
  if len(set(names)) < len(names):  # slices of several upstream data sets
    names = [describe(entry) for entry in entries]
  axes.set_yticks(rows, names)
  axes.invert_yaxis()
  label = f'{_judge(main)} on {result["task"]}' + (f', {main["unit"]}' if main['unit'] else '')
  if baseline is not None:
    axes.axvline(start, color='#44484f', linewidth=1)
    label += '\n(bars start at the baseline; ± one standard error of the difference)'
  axes.set_xlabel(label)
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.tick_params(axis='y', length=0)
  return drawn


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
