"""zoo-hub diff: what two modules differ in.

zoo-hub diff A B compares what they say of themselves (module.json), their programs, and their
weights, by the norm of each layer and of its change. No program is loaded for that.
"""

import dataclasses
import json
import os

from absl import flags

from export import diff
from export import graphs
from export import hub
from zoo import cli

WORDS = ('A', 'B')
_WIDTH = 60  # characters of a value that is shown


def compare(one, other):
  """The differences of two `export.hub.Module`s, as a dict that JSON can have.

  Raises:
    ValueError: one is damaged, or a .keras file.
  """
  for module in (one, other):
    hub.check(module, trust=True)  # nothing of it is run
    if not os.path.isdir(module.path):
      raise ValueError(f'{module.handle} is no SavedModel: make it one with zoo-import.')
  digests = [graphs.digest(module.path) for module in (one, other)]
  counts = [diff.operations(module.path) for module in (one, other)]
  layers, alone = diff.layers(*(diff.weights(module.path) for module in (one, other)))
  return {
      'said': [{'key': key, 'A': a, 'B': b} for key, a, b in diff.said(one.metadata,
                                                                       other.metadata)],
      'same_program': None not in digests and len(set(digests)) == 1,
      'operations': {name: [count[name] for count in counts] for name in sorted(
          {*counts[0], *counts[1]}) if counts[0][name] != counts[1][name]},
      'layers': [dataclasses.asdict(layer) for layer in layers], 'not_in_both': alone}


def text(found):
  """What `compare` found, for people."""
  lines = ['module.json:'] + [
      f'  {one["key"]}: {_short(one["A"])} -> {_short(one["B"])}' for one in found['said']]
  if found['same_program']:
    lines += ['', 'program: the same']
  else:
    lines += ['', 'program: another'] + [
        f'  {name}: {a} -> {b}' for name, (a, b) in found['operations'].items()]
  lines += ['', f'{"weights":44} {"numbers":>10} {"norm A":>10} {"norm B":>10} {"change":>8}']
  for layer in found['layers']:
    a, b = layer['norms']
    change = '' if layer['change'] is None else f'{layer["change"]:8.1%}'
    lines.append(f'{layer["name"]:44} {layer["size"]:10,} {a:10.4g} {b:10.4g} {change:>8}')
  lines += [f'{name}: not in both, or of other shapes' for name in found['not_in_both']]
  return '\n'.join(lines)


def _short(value):
  if isinstance(value, list) and len(str(value)) > _WIDTH:
    return f'{len(value)} values'
  shown = '-' if value is None else str(value)
  return shown if len(shown) <= _WIDTH else shown[:_WIDTH - 3] + '...'


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command, one, other):
  del command
  found = compare(*(hub.resolve(handle, values.hub) for handle in (one, other)))
  print(json.dumps(found) if values.json else text(found))
