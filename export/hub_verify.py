"""zoo-hub verify: whether the modules of a hub are whole.

Reads each module of --hub and --handles, checks its files and its graph, loads it and looks for
weights that are not finite. With --key, or --identity and --issuer, it must have been signed so as
well (zoo-publish --sign).
"""

import logging

from absl import flags

from export import hub
from export import hub_main
from export import signing
from zoo import cli

logger = logging.getLogger(__name__)


def verify(module, trust=False, signer=None):
  """Checks a module from its files to its weights.

  Args:
    module: an `export.hub.Module`.
    trust: as in `export.hub.check`.
    signer: the `export.signing.Signer` who must have signed it, or None.

  Raises:
    ValueError: the first thing that is wrong with it.
  """
  import numpy as np
  if signer:
    signing.verify(module.path, signer)
  loaded = hub.load(module, trust)
  for variable in getattr(loaded, 'variables', ()):
    if not np.isfinite(variable.numpy()).all():
      raise ValueError(f'module {module.handle} has weights that are not finite.')


FLAGS = cli.new_flags()
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_string('key', None, 'Public key (PEM) whose signature each must have.',
                    flag_values=FLAGS)
flags.DEFINE_string('identity', None, 'Whose signature by Sigstore each must have, such as a mail '
                    'address.', flag_values=FLAGS)
flags.DEFINE_string('issuer', None, 'URL of who vouches for --identity.', flag_values=FLAGS)


def main(values, command):
  del command
  asked = values.key, values.identity, values.issuer
  signer = signing.Signer(*asked) if any(asked) else None
  modules = hub_main.asked(values)
  wrong = 0
  for module in modules:
    try:
      verify(module, values.trust, signer)
      print(f'{module.handle} is whole' + ' and signed' * bool(signer))
    except ValueError as error:
      wrong += 1
      logger.warning('%s', error)
  if wrong:
    raise ValueError(f'{wrong} of {len(modules)} modules failed.')
  logger.info('%d modules, all whole.', len(modules))
