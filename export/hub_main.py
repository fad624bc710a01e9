"""zoo-hub: what is in a hub, and whether it is whole.

--action=list shows the modules of --hub; --action=verify reads each, checks its fingerprint
and its graph, loads it and looks for weights that are not finite.
"""

import json
import sys

from absl import flags

from export import hub
from zoo import cli


def verify(module):
  """Checks a module from its files to its weights.

  Args:
    module: an `export.hub.Module`.

  Raises:
    ValueError: the first thing that is wrong with it.
  """
  import numpy as np
  loaded = hub.load(module)
  for variable in getattr(loaded, 'variables', ()):
    if not np.isfinite(variable.numpy()).all():
      raise ValueError(f'module {module.handle} has weights that are not finite.')


def table(modules):
  """Modules as lines of text: handle, kind, parameters, what they know."""
  lines = [f'{"handle":40} {"kind":10} {"parameters":>11}  knows']
  for module in modules:
    m = module.metadata
    knows = (', '.join(expert['name'] for expert in m['experts']) if m.get('experts')
             else m['slice']['name'] if m.get('slice') else 'everything')
    parameters = f'{m["parameters"]:,}' if m.get('parameters') else '?'
    lines.append(f'{module.handle:40} {module.kind:10} {parameters:>11}  {knows}')
  return '\n'.join(lines)


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_enum('action', 'list', ['list', 'verify'], 'What to do.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command):
  del command
  modules = hub.modules(values.hub)
  if values.action == 'verify':
    for module in modules:
      verify(module)
  if values.json:
    print(json.dumps([{'handle': module.handle, **module.metadata} for module in modules]))
  else:
    print(table(modules))
    if values.action == 'verify':
      print(f'{len(modules)} modules, all whole.')


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
