"""zoo-hub: what is in a hub, and whether it is whole.

--action=list shows the modules of --hub and --handles; --action=verify reads each, checks its
fingerprint and its graph, loads it and looks for weights that are not finite.
"""

import json
import logging
import sys

from absl import flags

from export import hub
from zoo import cli


logger = logging.getLogger(__name__)


def verify(module, trust=False):
  """Checks a module from its files to its weights.

  Args:
    module: an `export.hub.Module`.
    trust: as in `export.hub.check`.

  Raises:
    ValueError: the first thing that is wrong with it.
  """
  import numpy as np
  loaded = hub.load(module, trust)
  for variable in getattr(loaded, 'variables', ()):
    if not np.isfinite(variable.numpy()).all():
      raise ValueError(f'module {module.handle} has weights that are not finite.')


def table(modules):
  """Modules as lines of text: handle, kind, parameters, what they know."""
  lines = [f'{"handle":40} {"kind":10} {"parameters":>11}  knows']
  for module in modules:
    m = module.metadata
    knows = (', '.join(expert['name'] for expert in m['experts']) if m.get('experts')
             else m['slice']['name'] if m.get('slice')
             else f'{len(m["classes"])} {m["predicts"]}' if module.kind == 'predictor' else '')
    parameters = f'{m["parameters"]:,}' if m.get('parameters') else '?'
    lines.append(f'{module.handle:40} {module.kind:10} {parameters:>11}  {knows}')
  return '\n'.join(lines)


FLAGS = cli.new_flags()
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_enum('action', 'list', ['list', 'verify'], 'What to do.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command):
  del command
  modules = hub.modules(values.hub) if values.hub else []
  modules += [hub.resolve(handle, values.hub or hub.EMBEDDED) for handle in values.handles]
  if values.json:
    print(json.dumps([{'handle': module.handle, **module.metadata} for module in modules]))
  else:
    print(table(modules))
  if values.action == 'verify':
    wrong = 0
    for module in modules:
      try:
        verify(module, values.trust)
      except ValueError as error:
        wrong += 1
        logger.warning('%s', error)
    if wrong:
      raise ValueError(f'{wrong} of {len(modules)} modules failed.')
    logger.info('%d modules, all whole.', len(modules))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
