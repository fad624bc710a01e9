"""zoo-rank: ranks the experts of a hub for a task.

Each expert embeds the task's 1,000 examples; leave-one-out nearest-neighbour accuracy and LogME, on
the mean, say how well it would serve (--proxy=knn: the former alone, as in the paper). Nothing is
trained. Modules that have learnt from the task's own data set are left out. With --proxy=domain or
labels no expert is loaded: a predictor of the hub says which slice of the upstream data the task is
like. Embeddings are kept (--cache): another proxy or k needs no network, a new expert only that
expert. In a large hub, experts that a part of the examples shows to be worse are embedded no
further (--confidence, --exhaustive). The table goes to stdout, with --json an object for programs,
with --chart a picture to a file. --explain writes a page of the classes and images in which the
winner, or --expert, and the baseline differ. With --runner a hub of thousands is ranked on the
workers of Apache Beam (Dataflow, Flink, Spark, or processes of this machine): the same ranking, and
one that was stopped goes on from --work_dir.
"""

import json
import logging
import sys

from absl import flags

from export import hub
from zoo import cli

logger = logging.getLogger(__name__)


def define_proxy(values):
  """Adds --proxy, a list."""
  flags.DEFINE_list(
      'proxy', ['knn+logme'], 'What ranks, and what is shown beside it: knn, ridge (both '
      'leave-one-out accuracies), logme, hscore, or the mean of some, joined by +; and by the '
      'slices of the experts alone, domain (prediction) and labels (matching).', flag_values=values)


FLAGS = cli.new_flags()
cli.define_task(FLAGS)
cli.define_hub(FLAGS, hub.EMBEDDED)
define_proxy(FLAGS)
flags.DEFINE_integer('k', 1, 'Neighbours that vote in knn.', flag_values=FLAGS)
flags.DEFINE_enum('distance', 'euclidean', ['euclidean', 'cosine'], 'Of neighbours in knn.',
                  flag_values=FLAGS)
flags.DEFINE_integer('examples', 1000, 'Labelled examples to use: the 1,000 of the protocol, or so '
                     'many of the training split; 0 for all of it.', flag_values=FLAGS)
flags.DEFINE_integer('seed', None, 'Draws the examples; the first in stored order if not given.',
                     flag_values=FLAGS)
flags.DEFINE_enum('neighbors', 'auto', ['auto', 'exact', 'scann'],
                  'How neighbours are searched; auto takes ScaNN from 20,000 examples on.',
                  flag_values=FLAGS)
flags.DEFINE_float('confidence', 0.95, 'With which an expert must be worse than the leader to be '
                   'embedded no further.', flag_values=FLAGS)
flags.DEFINE_bool('exhaustive', None, 'Embed every example with every expert; fewer than 40 '
                  'experts are embedded so anyway.', flag_values=FLAGS)
flags.DEFINE_string('cache', None, 'Folder where embeddings are kept, in the home directory if '
                    'not given; empty for none.', flag_values=FLAGS)
flags.DEFINE_bool('json', False, 'Print JSON.', flag_values=FLAGS)
flags.DEFINE_string('chart', None, 'Write a bar chart to this .png, .svg or .pdf.',
                    flag_values=FLAGS)
flags.DEFINE_string('explain', None, 'Write a page to this .html: the classes and images that an '
                    'expert and the baseline tell apart differently.', flag_values=FLAGS)
flags.DEFINE_string('expert', None, 'Whom to explain, HANDLE or, of a packed module, '
                    'HANDLE#EXPERT; the winner if not given.', flag_values=FLAGS)
flags.DEFINE_string('runner', None, 'Score the experts on a runner of Apache Beam (pip install '
                    "'expert-zoo[beam]'): DirectRunner is this machine, DataflowRunner, "
                    'FlinkRunner and SparkRunner are others.', flag_values=FLAGS)
flags.DEFINE_list('beam_args', [], 'Options of the runner, such as --direct_num_workers=2,'
                  '--direct_running_mode=multi_processing.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', None, 'Folder of a --runner that all its workers can write, or a '
                    'gs:// path; what is there already is not computed again.', flag_values=FLAGS)


def _workers(values):
  """The `selection.distributed.Workers` of --runner, or None."""
  if not values.runner:
    if values.work_dir or values.beam_args:
      raise flags.Error('--work_dir and --beam_args belong to a runner: give --runner too')
    return None
  if not values.work_dir:
    raise flags.Error('--runner keeps results in a folder of all its workers: give --work_dir')
  from selection import distributed
  return distributed.Workers(values.runner, values.work_dir, values.beam_args)


def main(values, command):
  if values.expert and not values.explain:
    raise flags.Error('--expert says whom --explain explains: give --explain=PAGE.html too')
  workers = _workers(values)
  from selection import explain
  from selection import explain_page
  from selection import page
  from selection import ranking
  from selection import show
  from zoo import tasks
  task = tasks.load(values.task, values.data_dir)
  # Before the work, not after.
  if values.chart:
    show.check_chart_path(values.chart)
  if values.explain:
    page.check_path('--explain', values.explain)
    expert = explain.check(task, values.expert, values.hub, values.handles, values.image_size)
  how = {'k': values.k, 'distance': values.distance, 'seed': values.seed,
         'examples': values.examples, 'method': values.neighbors, 'cache': values.cache,
         'trust': values.trust}
  ranked = ranking.rank(
      task, values.hub, values.handles, values.image_size, proxies=values.proxy,
      confidence=values.confidence, exhaustive=values.exhaustive,
      workers=workers, input_range=values.input_range, **how)
  result = ranked.to_dict()
  print(json.dumps(result) if values.json else f'{show.table(result)}\n{show.verdict(result)}')
  if values.chart:
    show.save_chart(result, values.chart)
  if values.explain:
    expert, baseline, standing = explain.pair(ranked, expert)
    explain_page.write(values.explain, explain.explain(task, expert, baseline, **how),
                       standing, command)
    logger.info('%s: %s (%s) against %s.', values.explain, expert.describe(), standing,
                baseline.describe())


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
