"""zoo-hub: what is in a hub.

zoo-hub, or zoo-hub list, shows the modules of --hub and --handles. zoo-hub verify says whether they
are whole, and who signed them; zoo-hub diff what two of them differ in; zoo-hub deprecate that a
version should not be used any more. zoo-hub serve offers a hub to others over HTTP, and zoo-hub
site writes its catalogue as files. zoo-hub gc clears caches. Each has a --help of its own.
"""

import json
import sys

from absl import flags

from export import hub
from zoo import cli

COMMANDS = {name: f'export.hub_{name}' for name in (
    'verify', 'serve', 'site', 'deprecate', 'diff', 'gc')} | {'list': 'export.hub_main'}


def asked(values):
  """The modules that --hub and --handles name, as a list of `export.hub.Module`."""
  modules = hub.modules(values.hub) if values.hub else []
  return modules + [hub.resolve(handle, values.hub or hub.EMBEDDED) for handle in values.handles]


def table(modules):
  """Modules as lines of text: handle, kind, parameters, what they know, or why not to use them."""
  lines = [f'{"handle":40} {"kind":10} {"parameters":>11}  knows']
  for module in modules:
    m = module.metadata
    knows = (', '.join(expert['name'] for expert in m['experts']) if m.get('experts')
             else m['slice']['name'] if m.get('slice')
             else f'{len(m["classes"])} {m["predicts"]}' if module.kind == 'predictor' else '')
    parameters = f'{m["parameters"]:,}' if m.get('parameters') else '?'
    if module.deprecated:
      knows = f'deprecated: {module.deprecated}'
    lines.append(f'{module.handle:40} {module.kind:10} {parameters:>11}  {knows}'.rstrip())
  return '\n'.join(lines)


FLAGS = cli.new_flags()
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)


def main(values, command):
  del command
  modules = asked(values)
  if values.json:
    print(json.dumps([{'handle': module.handle, 'deprecated': module.deprecated,
                       **module.metadata} for module in modules]))
  else:
    print(table(modules))


def console():
  """The console script."""
  return cli.run_command(COMMANDS, main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
