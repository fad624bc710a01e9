"""Deprecated versions: they stay what they are, and say why nobody should start from them.

Published files never change, so the reasons lie beside the versions: ROOT/publisher/name/
deprecated.json, an object of version: reason.
"""

import os

from zoo import atomic

FILE = 'deprecated.json'
LONGEST = 300  # characters of a reason


def reasons(root, publisher, name):
  """The reasons of a module's deprecated versions, {version: reason}.

  Raises:
    ValueError: deprecated.json is damaged.
  """
  path = os.path.join(root, publisher, name, FILE)
  try:
    return parse(atomic.read_json(path), path)
  except FileNotFoundError:
    return {}


def parse(found, path):
  """`reasons`, of what the file at a path holds."""
  if not isinstance(found, dict) or not all(
      isinstance(reason, str) and reason for reason in found.values()):
    raise ValueError(f'{path} is not an object of versions and reasons.')
  return found


def reason(root, handle):
  """Why publisher/name/version is deprecated, or None. Raises as `reasons`."""
  publisher, name, version = handle.split('/')
  return reasons(root, publisher, name).get(version)


def deprecate(root, handle, why):
  """Deprecates a module of a hub, or takes that back.

  Args:
    root: folder of the hub.
    handle: publisher/name/version of a module that is there.
    why: the reason, one line; '' takes the deprecation back.

  Raises:
    ValueError: the reason is too long or more than a line, or as `reasons`.
  """
  if len(why) > LONGEST or not why.isprintable():
    raise ValueError(f'the reason must be one line of at most {LONGEST} characters.')
  publisher, name, version = handle.split('/')
  kept = {key: value for key, value in reasons(root, publisher, name).items() if key != version}
  path = os.path.join(root, publisher, name, FILE)
  if why or kept:
    atomic.write_json(path, kept | ({version: why} if why else {}))
  elif os.path.exists(path):
    os.unlink(path)
