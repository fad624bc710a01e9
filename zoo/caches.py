"""Where what can be made or fetched again is kept."""

import os

VARIABLE = 'EXPERT_ZOO_CACHE'


def folder(name):
  """The folder of a cache: below $EXPERT_ZOO_CACHE, or in the user's folder for caches.

  Args:
    name: of the cache, such as 'embeddings'.
  """
  caches = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
  own = os.environ.get(VARIABLE) or os.path.join(caches, 'expert-zoo')
  return os.path.expanduser(os.path.join(own, name))
