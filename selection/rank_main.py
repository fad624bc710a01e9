"""zoo-rank: ranks the experts of a hub for a task.

Each expert embeds the task's 1,000 examples; leave-one-out nearest-neighbour accuracy says
how well it would serve. Nothing is trained. The table goes to stdout, with --json an object
for programs, with --chart a picture to a file.
"""

import json
import sys

from absl import flags

from export import hub
from zoo import cli

FLAGS = cli.new_flags()
cli.define_task(FLAGS)
cli.define_hub(FLAGS, hub.EMBEDDED)
flags.DEFINE_integer('k', 1, 'Neighbours that vote.', flag_values=FLAGS)
flags.DEFINE_integer('seed', None, 'Draws the 1,000 examples; the first in stored order if not '
                     'given.', flag_values=FLAGS)
flags.DEFINE_enum('neighbors', 'auto', ['auto', 'exact', 'scann'],
                  'How neighbours are searched; auto takes ScaNN from 20,000 examples on.',
                  flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
flags.DEFINE_string('chart', None, 'Write a bar chart to this .png, .svg or .pdf.',
                    flag_values=FLAGS)


def main(values, command):
  del command
  from selection import ranking
  from selection import show
  if values.chart:
    show.check_chart_path(values.chart)  # before the work, not after
  result = ranking.rank(
      values.task, values.hub, values.handles, values.image_size, values.data_dir, values.k,
      values.seed, values.neighbors, values.trust).to_dict()
  print(json.dumps(result) if values.json else f'{show.table(result)}\n{show.verdict(result)}')
  if values.chart:
    show.save_chart(result, values.chart)


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
