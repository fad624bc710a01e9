"""zoo-hub verify: whether the modules of a hub are whole.

Reads each module of --hub and --handles, checks its fingerprint and its graph, loads it and looks
for weights that are not finite.
"""

import logging

from export import hub
from export import hub_main
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


FLAGS = cli.new_flags()
cli.define_hub(FLAGS, hub.EMBEDDED)


def main(values, command):
  del command
  modules = hub_main.asked(values)
  wrong = 0
  for module in modules:
    try:
      verify(module, values.trust)
      print(f'{module.handle} is whole')
    except ValueError as error:
      wrong += 1
      logger.warning('%s', error)
  if wrong:
    raise ValueError(f'{wrong} of {len(modules)} modules failed.')
  logger.info('%d modules, all whole.', len(modules))
