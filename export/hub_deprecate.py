"""zoo-hub deprecate: says why a published version should not be used any more.

zoo-hub deprecate HANDLE --reason='...' --hub=DIR. The version stays as it is and can be used; the
reason is shown wherever it is, rankings of the hub leave it out unless --handles names it, and
publisher/name and publisher/name/latest mean the newest version that is not deprecated.
--reason= (empty) takes it back.
"""

from absl import flags

from export import deprecation
from export import hub
from zoo import cli

WORDS = ('HANDLE',)
FLAGS = cli.new_flags()
flags.DEFINE_string('hub', None, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('reason', None, 'Why, in one line.', flag_values=FLAGS)
flags.mark_flags_as_required(['hub', 'reason'], flag_values=FLAGS)


def main(values, command, handle):
  del command
  hub.split_handle(handle)
  if handle not in hub.handles(values.hub):
    raise ValueError(f'no module {handle!r} is in --hub={values.hub}.')
  deprecation.deprecate(values.hub, handle, values.reason)
  print(f'{handle} is deprecated: {values.reason}' if values.reason
        else f'{handle} is not deprecated.')
