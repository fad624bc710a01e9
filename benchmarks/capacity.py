"""capacity.py: accuracy against cost when the experts of a sparse network take fewer tokens.

A finished zoo-pretrain run of a sparse preset is tested under several capacity ratios, with batch
priority routing and without (arXiv 2106.05974, section 4). Prints one JSON line a ratio and
order: top1, its standard error, what is lost against no limit with the standard error of these
paired outcomes, the share of dropped choices, and cost, the multiply-adds of an image beside those
of the dense network; `--chart` draws the curves of such lines.
"""

import dataclasses
import json
import os
import sys

from absl import flags

from zoo import cli

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.75, 1., 1.5, 2.)


def curve(work_dir, data_dir=None, ratios=RATIOS, batch=256):
  """Tests a network.

  Args:
    work_dir: folder of the run.
    data_dir: as in `zoo.tasks.load`.
    ratios: capacity ratios; without a limit is tested as well.
    batch: images whose tokens compete.

  Returns:
    A list of dicts: capacity (None without a limit), priority, top1, stderr, lost, lost_stderr,
    dropped, cost.
  """
  import numpy as np
  from zoo import backbones
  from zoo import classifier
  from zoo import expert_load
  from zoo import pretrain
  from zoo import tasks
  from zoo import training
  from zoo import weights
  result = pretrain.read_result(work_dir, ['baseline'])
  task = pretrain.upstream_task(result, data_dir)
  held_out = tasks.read(task, ('test', None), result['image_size'])
  values = weights.load(os.path.join(work_dir, pretrain.WEIGHTS))
  described = backbones.architecture_of(result['architecture'])
  found, without_limit = [], None
  for priority in (False, True):
    architecture = dataclasses.replace(
        described, sparse=dataclasses.replace(described.sparse, priority=priority))
    model = classifier.Classifier(backbones.build(architecture), len(task.class_names))
    weights.set_to(model, values)
    for ratio in (None, *ratios):
      if ratio is None and priority:
        continue  # nobody is turned away
      logits = training.predict(_limited(model, ratio), held_out.images, batch)
      right = np.argmax(logits, -1) == held_out.labels
      if ratio is None:
        without_limit = right
      lost = without_limit.astype(float) - right
      dropped = 0. if ratio is None else float(expert_load.Meter(
          model.backbone, held_out.images, held_out.labels, len(task.class_names),
          capacity=ratio, batch=batch).measure().dropped.mean())
      found.append({
          'capacity': ratio, 'priority': priority, 'top1': float(right.mean()),
          'stderr': float(right.std() / len(right) ** 0.5), 'lost': float(lost.mean()),
          'lost_stderr': float(lost.std() / len(lost) ** 0.5), 'dropped': dropped,
          'cost': cost(architecture, ratio)})
  return found


def _limited(model, ratio):
  """The model as a function of images, whose experts have a capacity ratio."""
  from zoo import jit
  options = {} if ratio is None else {'capacity': ratio}
  return jit.jit(lambda images: model.head(model.backbone(images, **options)), model)


def cost(architecture, ratio=None):
  """Multiply-adds of an image beside those of the network with dense MLPs, a float.

  Slots that nobody has cost as much as others do, so that a ratio's cost is that of its slots.

  Args:
    architecture: a `zoo.vit.Architecture` with sparse layers.
    ratio: capacity ratio; None without a limit.
  """
  a, s = architecture, architecture.sparse
  tokens = a.grid ** 2 + (a.pooling == 'token')
  mlp = 2 * tokens * a.width * a.mlp_dim
  attention = tokens * (4 * a.width ** 2 + 2 * tokens * a.width)
  dense = a.grid ** 2 * a.patch ** 2 * 3 * a.width + a.depth * (attention + mlp)
  gate = tokens * a.width * s.experts
  slots = s.k * (1. if ratio is None else min(ratio, s.experts / s.k))
  return (dense + len(s.blocks) * (gate + (slots - 1) * mlp)) / dense


def chart(lines, path):
  """Draws top-1 against cost, with and without priority, as a picture at `path`.

  Bars are standard errors of the paired difference to no limit.
  """
  from matplotlib import figure
  drawn = figure.Figure(figsize=(6, 4), layout='constrained')
  axis = drawn.subplots()
  for priority, label in ((True, 'batch priority routing'), (False, 'in order of place')):
    own = sorted((line for line in lines if line['capacity'] and line['priority'] == priority),
                 key=lambda line: line['cost'])
    axis.errorbar([line['cost'] for line in own], [100 * line['top1'] for line in own],
                  [100 * line['lost_stderr'] for line in own], marker='o', capsize=2, label=label)
    for line in own if priority else ():
      axis.annotate(f'{line["capacity"]:g}', (line['cost'], 100 * line['top1']), fontsize=7,
                    xytext=(-4, 4), textcoords='offset points', ha='right')
  full = next(line for line in lines if line['capacity'] is None)
  axis.axhline(100 * full['top1'], color='grey', linestyle=':', label='without a limit')
  axis.set_xlabel('multiply-adds of an image, dense network = 1\n(beside points: capacity ratio)')
  axis.set_ylabel('top-1, %')
  axis.legend()
  drawn.savefig(path, dpi=120)


FLAGS = cli.new_flags()
flags.DEFINE_string('work_dir', None, 'Folder of a finished zoo-pretrain of a sparse preset.',
                    flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('chart', None, 'Also draw the curves, into this PNG file.', flag_values=FLAGS)
flags.mark_flag_as_required('work_dir', flag_values=FLAGS)


def main(values, command):
  del command
  lines = curve(values.work_dir, values.data_dir)
  for line in lines:
    print(json.dumps(line))
  if values.chart:
    chart(lines, values.chart)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
