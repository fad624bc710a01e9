"""zoo-hub gc: clears the caches of what has not been used for long.

They are: embeddings of images, which rankings keep; archives, which zoo-hub serve packed; and
modules that were fetched from elsewhere, without which they cannot be loaded offline. No hub is
touched.
"""

from absl import flags

from export import caches
from zoo import cli

ALL = (caches.EMBEDDINGS, caches.ARCHIVES, caches.MODULES)
FLAGS = cli.new_flags()
flags.DEFINE_integer('days', 30, 'Remove what has not been used for so many days; 0 for all.',
                     lower_bound=0, flag_values=FLAGS)
flags.DEFINE_multi_enum('cache', list(ALL), list(ALL), 'Which; may be given more than once.',
                        flag_values=FLAGS)
flags.DEFINE_bool('dry_run', False, 'Remove nothing.', flag_values=FLAGS)


def main(values, command):
  del command
  for cache in dict.fromkeys(values.cache):
    there = caches.entries(cache)
    gone = caches.collect(cache, values.days, values.dry_run)
    print(f'{cache:10} {len(there):6,} entries, {_size(there):>9}; '
          f'{"would remove" if values.dry_run else "removed"} {len(gone):,}, {_size(gone)} '
          f'({caches.folder(cache)})')


def _size(entries):
  return f'{sum(entry.size for entry in entries) / 1e6:,.1f} MB'
