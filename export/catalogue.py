"""What the catalogue of a hub says: its modules, where they come from, the tree of their slices."""

import math

UNKNOWN = 'not stated'  # upstream data
_MUST_BE = {str: 'text', dict: 'an object', list: 'a list', float: 'a finite number'}
# Scores of a whole module by key of `scores`; the first one that is there sorts it.
_SCORES = {'top1': 'top-1', 'top5': 'top-5', 'test_accuracy': 'test accuracy',
           'test_map': 'test mean average precision'}


def entry(module, size):
  """A module as the pages show it.

  Args:
    module: an `export.hub.Module` whose handle is publisher/name/version.
    size: bytes of its files.

  Returns:
    A dict. Values are text that UTF-8 can write, finite numbers, lists and dicts of such, or None
    where module.json says nothing: handle, publisher, kind, size; fingerprint, parent, preset,
    licence, predicts, argument (text); parameters, features, image_size, outputs, seed (numbers);
    upstream (dict of source, split, examples); experts (names); slices (dicts of name, node,
    classes, examples: of an expert one, of a packed module one an expert); bars (dicts of name,
    value and baseline, shares for its chart); score (the share it is sorted by), gain (over the
    baseline, a share) and score_of (words); cost (dict of seconds, images, device); command (list
    of text) and input_range.

  Raises:
    ValueError: module.json holds something else where text, a number, a list or an object
      must be.
  """
  m = module.metadata
  if _get(m, 'fingerprint', str) is None:
    raise ValueError(_wrong('fingerprint', None, str))
  experts = _objects(m, 'experts')
  own = _get(m, 'slice', dict)
  tasks = _objects(m, 'tasks')
  slices = [_slice(own)] if own else [] if tasks else [
      _slice(_get(expert, 'slice', dict) or {}, _get(expert, 'name', str)) for expert in experts]
  bars = [bar for expert in experts
          for bar in _bars(_get(expert, 'scores', dict) or {}, _get(expert, 'name', str))[:1]]
  bars = bars or [{'name': _get(task, 'name', str), 'value': _get(task, 'top1', float),
                   'baseline': None} for task in tasks]
  bars = bars or _bars(_get(m, 'scores', dict) or {}, slices[0]['name'] if own else None)
  sorting = bars if experts or tasks else bars[:1]
  gains = [bar['value'] - bar['baseline'] for bar in sorting if bar['baseline'] is not None]
  score_of = ((f'mean top-1 of {len(bars)} tasks' if tasks else
               f'mean top-1 of {len(bars)} experts, each on its slice' if experts else
               'top-1 on its slice' if own else bars[0]['name']) if bars else None)
  upstream, cost = _get(m, 'upstream', dict), _get(m, 'cost', dict)
  return {
      'handle': module.handle, 'publisher': module.handle.split('/')[0], 'kind': module.kind,
      'size': size,
      **{key: _get(m, key, str) for key in (
          'fingerprint', 'parent', 'preset', 'licence', 'predicts', 'argument')},
      **{key: _get(m, key, float) for key in ('parameters', 'features', 'image_size', 'seed')},
      'outputs': len(_get(m, 'classes', list) or ()),
      'upstream': upstream and {
          'source': _get(upstream, 'source', str), 'split': _get(upstream, 'split', str),
          'examples': _get(upstream, 'examples', float)},
      'experts': [_get(expert, 'name', str) or 'unnamed' for expert in experts],
      'slices': slices, 'bars': bars,
      'score': _mean([bar['value'] for bar in sorting]), 'gain': _mean(gains),
      'score_of': score_of,
      'cost': cost and {'seconds': _get(cost, 'seconds', float),
                        'images': _get(cost, 'images', float),
                        'device': _get(cost, 'device', str)},
      'command': _texts(m, 'command'),
      'input_range': [_number('input_range', one)
                      for one in _get(m, 'input_range', list) or (0, 1)]}


def source(one):
  """The upstream data of an entry, as text."""
  return (one['upstream'] or {}).get('source') or UNKNOWN


def facts(one):
  """An entry in words, for two of them side by side.

  Returns:
    A list of (what, text), the same of every entry in the same order; '' for what is not known.
  """
  upstream, cost = one['upstream'] or {}, one['cost'] or {}
  return [
      ('kind', one['kind']),
      ('deprecated', one['deprecated'] or ''),
      ('slice' if not one['experts'] else 'experts', _joined(
          f'{part["name"]} ({len(part["classes"])} classes)' for part in one['slices'])),
      ('upstream data', _joined([
          upstream.get('source'), upstream.get('split') and f'split {upstream["split"]}',
          _counted(upstream.get('examples'), 'images')])),
      ('score', f'{100 * one["score"]:.1f}%: {one["score_of"]}'
       if one['score'] is not None else ''),
      ('gain over the baseline', f'{100 * one["gain"]:+.1f} points'
       if one['gain'] is not None else ''),
      ('size', size_text(one['size'])),
      ('parameters', _counted(one['parameters'])),
      ('architecture', one['preset'] or ''),
      ('images', '{0:,} x {0:,}'.format(one['image_size']) if one['image_size'] else ''),
      ('outputs', _counted(one['features'])),
      ('training', _joined([
          _counted(cost.get('seconds') and round(cost['seconds']), 's'),
          _counted(cost.get('images'), 'images'), cost.get('device')])),
      ('seed', '' if one['seed'] is None else str(one['seed'])),
      ('licence', one['licence'] or 'not stated'),
      ('baseline', (one['parent'] or '')[:16]),
      ('fingerprint', (one['fingerprint'] or '')[:16])]


def knows(one):
  """What an entry's module knows, in a few words."""
  if one['experts']:
    return f'{len(one["experts"])} {"tasks" if one["argument"] == "task" else "experts"}'
  if one['slices']:
    return one['slices'][0]['name']
  return f'{one["outputs"]} {one["predicts"]}' if one['predicts'] else ''


def size_text(size):
  """Bytes in words: '1.3 MB'."""
  for unit in ('bytes', 'kB', 'MB'):
    if size < 1000:
      return f'{size:.3g} {unit}'
    size /= 1000
  return f'{size:,.3g} GB'


def kin(entries):
  """Who is whose parent in a hub: {fingerprint: entry}, {fingerprint: entries made from it}."""
  known, made = {}, {}
  for one in entries:
    known.setdefault(one['fingerprint'], one)
    if one['parent'] != one['fingerprint']:
      made.setdefault(one['parent'], []).append(one)
  return known, made


def provenance(one, known):
  """The way back from a module to the network that it started from.

  Args:
    one: an entry.
    known: the entries of its hub by fingerprint, as `kin` gives them.

  Returns:
    (list of entries, fingerprint): those it comes from, the first one first, and the parent of
    the first if that is not in the hub, else None. A circle, which only a false parent makes,
    ends where it closes.
  """
  chain, seen, parent = [], {one['fingerprint']}, one['parent']
  while parent in known and parent not in seen:
    seen.add(parent)
    chain.insert(0, known[parent])
    parent = known[parent]['parent']
  return chain, parent if parent not in known else None


def slice_tree(entries):
  """The slices of all modules as a tree, below the data that they are slices of.

  A slice lies below another one of the same upstream data if that has all its classes and
  more: where both are nodes of a label tree, this is the tree's own order. Below several, it
  is shown below the innermost, and belongs to all.

  Args:
    entries: of a hub.

  Returns:
    (nodes, under): nodes in the order of a tree that is open everywhere, dicts of level (from
    1), name, key (names it in a link), children, position (from 1) and siblings (numbers), and
    modules (how many belong to it); and for each entry the list of the places in `nodes` that
    it belongs to.
  """
  sources, bits = {}, {}
  for row, one in enumerate(entries):
    rows, slices = sources.setdefault(source(one), ([], {}))
    rows.append(row)
    for part in one['slices']:
      kept = slices.setdefault(part['node'] or part['name'], {
          'name': part['name'], 'classes': 0, 'rows': set(), 'all_rows': set()})
      for label in part['classes']:  # sets as the bits of a number: many are compared
        kept['classes'] |= 1 << bits.setdefault(label, len(bits))
      kept['rows'].add(row)
      kept['all_rows'].add(row)
  nodes, under = [], [[] for _ in entries]

  def add(level, name, key, siblings, position, below, rows):
    for row in sorted(rows):
      under[row].append(len(nodes))
    nodes.append({'level': level, 'name': name, 'key': key, 'siblings': siblings,
                  'position': position, 'children': below, 'modules': len(set(rows))})

  for place, (name, (rows, slices)) in enumerate(sorted(sources.items())):
    classes = {one: kept['classes'] for one, kept in slices.items()}
    above = {one: [other for other, more in classes.items() if own and own & more == own != more]
             for one, own in classes.items()}
    below = {}
    for one in sorted(slices, key=lambda one: (slices[one]['name'], one)):
      inmost = max(above[one], key=lambda other: (len(above[other]), other), default=None)
      below.setdefault(inmost, []).append(one)
      for other in above[one]:
        slices[other]['all_rows'] |= slices[one]['rows']
    tops = below.get(None, [])
    add(1, name, name, len(sources), place + 1, len(tops), rows)
    # A stack and no recursion: a hub may nest as it likes.
    stack = [(2, one, len(tops), i + 1) for i, one in enumerate(tops)][::-1]
    while stack:
      level, one, siblings, position = stack.pop()
      inner = below.get(one, [])
      add(level, slices[one]['name'], f'{name}#{one}', siblings, position, len(inner),
          slices[one]['all_rows'])
      stack += [(level + 1, child, len(inner), i + 1) for i, child in enumerate(inner)][::-1]
  return nodes, under


def _slice(values, name=None):
  return {'name': name or _get(values, 'name', str) or 'unnamed',
          'node': _get(values, 'node', str), 'classes': _texts(values, 'classes'),
          'examples': _get(values, 'examples', float)}


def _bars(scores, name):
  """The bars of a network's scores; `name` is its slice."""
  value = _get(scores, 'slice_top1', float)
  if value is not None:
    return [{'name': name or 'its slice', 'value': value,
             'baseline': _get(scores, 'baseline_slice_top1', float)}]
  return [{'name': title, 'value': _get(scores, key, float), 'baseline': None}
          for key, title in _SCORES.items() if scores.get(key) is not None]


def _mean(values):
  return sum(values) / len(values) if values else None


def _joined(parts):
  return ', '.join(part for part in parts if part)


def _counted(number, unit=''):
  return '' if number is None else f'{number:,} {unit}'.strip()


def _get(values, key, kind):
  """What an object of JSON has under a key, None if nothing. Raises ValueError: another kind."""
  value = values.get(key)
  if value is None:
    return None
  if kind is float:
    return _number(key, value)
  if not isinstance(value, kind):
    raise ValueError(_wrong(key, value, kind))
  return _writable(value) if kind is str else value


def _number(key, value):
  if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
    raise ValueError(_wrong(key, value, float))
  return value


def _wrong(key, value, kind):
  return f'module.json: {key} is {value!r:.60}; it must be {_MUST_BE[kind]}.'


def _objects(values, key):
  found = _get(values, key, list) or []
  for one in found:
    if not isinstance(one, dict):
      raise ValueError(_wrong(key, one, dict))
  return found


def _texts(values, key):
  found = _get(values, key, list) or []
  for one in found:
    if not isinstance(one, str):
      raise ValueError(_wrong(key, one, str))
  return [_writable(one) for one in found]


def _writable(text):
  """The text, half surrogate pairs, which JSON can name and no file can hold, as '?'."""
  return text.encode('utf-8', 'replace').decode()
