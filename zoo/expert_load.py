"""What the experts of sparse layers get to do: how many tokens, and of which classes.

Shapes: N images, L sparse layers, E experts, C classes.
"""

import dataclasses
import io
import os

import numpy as np
from keras import ops

from zoo import atomic
from zoo import jit

BATCH = 64
FILE = 'routing.json'
CHART = 'routing.png'
SLICES_CHART = 'routing_slices.png'


@dataclasses.dataclass(frozen=True)
class Load:
  """Where the tokens of some images went.

  Attributes:
    layers: the names of the L blocks.
    by_class: float [L, C, E], of the choices that tokens of a class made, the share of each
      expert; nan for a class without images.
    shares: float [L, E], the same of all tokens.
    dropped: float [L], the share of choices that found their expert full.
    entropy: float [L], the mean entropy of gates, in units of log(E): 1 if all are equal.
  """
  layers: tuple[str, ...]
  by_class: np.ndarray
  shares: np.ndarray
  dropped: np.ndarray
  entropy: np.ndarray

  def columns(self):
    """As a row of a log: dict from names such as 'load/block04/7' to floats."""
    found = {}
    for i, layer in enumerate(self.layers):
      found |= {f'dropped/{layer}': float(self.dropped[i]),
                f'entropy/{layer}': float(self.entropy[i])}
      found |= {f'load/{layer}/{expert}': float(share)
                for expert, share in enumerate(self.shares[i])}
    return found


class Meter:
  """Measures a sparse backbone's `Load`; compiled once.

  Args:
    backbone: a built `zoo.backbone.Backbone` with sparse layers.
    images: uint8 [N, H, W, 3].
    labels: int [N], their classes.
    classes: C.
    task: int, or int [N], for gates that know tasks.
    capacity: the ratio; None for that of training.
    batch: images at once, whose tokens compete.
  """

  def __init__(self, backbone, images, labels, classes, task=0, capacity=None, batch=BATCH):
    self._batch = batch
    self._images, self._labels, self._classes = images, np.asarray(labels), classes
    self._tasks = np.broadcast_to(np.asarray(task, np.int32), len(images))
    blocks = [unit for unit in backbone.units if unit.sparse]
    self._layers = tuple(block.name for block in blocks)
    self._experts = backbone.architecture.sparse.experts
    capacity = backbone.architecture.sparse.capacity if capacity is None else capacity

    def routes(images, tasks):
      backbone(ops.cast(images, 'float32') / 255., expert=tasks, capacity=capacity)
      found = []
      for block in blocks:
        gates, its = block.mlp.gates, block.mlp.routes
        count = ops.shape(images)[0]
        entropy = -ops.sum(gates * ops.log(ops.maximum(gates, 1e-20)), -1)
        found.append((ops.reshape(its.experts, (count, -1)), ops.reshape(
            its.weights == 0, (count, -1)), ops.mean(entropy)))
      return found

    self._routes = jit.jit(routes, backbone)

  def measure(self):
    """The `Load` now."""
    layers, number = len(self._layers), self._experts
    counts = np.zeros((layers, self._classes, number))
    dropped, entropy, total = np.zeros(layers), np.zeros(layers), len(self._images)
    for first in range(0, total, self._batch):
      piece = slice(first, first + self._batch)
      labels = self._labels[piece]
      for i, (experts, full, uncertain) in enumerate(
          self._routes(self._images[piece], self._tasks[piece])):
        np.add.at(counts[i], (labels[:, None], np.asarray(experts)), 1)
        share = len(labels) / total
        dropped[i] += share * np.asarray(full).mean()
        entropy[i] += share * float(uncertain)
    with np.errstate(invalid='ignore'):
      by_class = counts / counts.sum(-1, keepdims=True)
    sums = counts.sum(1)
    return Load(self._layers, by_class, sums / sums.sum(-1, keepdims=True), dropped,
                entropy / max(np.log(number), 1e-20))


def write(load, names, work_dir, slices=()):
  """Writes routing.json, and the heat maps routing.png and, with slices, routing_slices.png.

  Args:
    load: a `Load`.
    names: of the C classes.
    work_dir: the folder.
    slices: `zoo.slices.Slice`s of these classes.

  Returns:
    A JSON-like dict: layers, shares, dropped, entropy.
  """
  summary = {'layers': list(load.layers), 'shares': load.shares.tolist(),
             'dropped': load.dropped.tolist(), 'entropy': load.entropy.tolist()}
  atomic.write_json(os.path.join(work_dir, FILE), {
      **summary, 'classes': list(names),
      'by_class': [[None if np.isnan(row).any() else row.tolist() for row in layer]
                   for layer in load.by_class]})
  with atomic.writing(os.path.join(work_dir, CHART)) as file:
    file.write(chart(load.layers, load.by_class, names))
  if slices:
    rows = [[list(names).index(name) for name in one.classes] for one in slices]
    by_slice = np.stack([np.nanmean(load.by_class[:, row], axis=1) for row in rows], axis=1)
    with atomic.writing(os.path.join(work_dir, SLICES_CHART)) as file:
      file.write(chart(load.layers, by_slice, [one.name for one in slices]))
  return summary


def chart(layers, shares, names):
  """A heat map of which classes go to which experts, a panel a layer.

  Rows are sorted by the expert that has most of them in the last layer.

  Args:
    layers: the L names.
    shares: float [L, C, E].
    names: the C names.

  Returns:
    bytes of a PNG file.
  """
  from matplotlib import figure
  number, classes, experts = shares.shape
  last = np.nan_to_num(shares[-1])
  order = np.lexsort((-last.max(-1), last.argmax(-1)))
  shown = figure.Figure(layout='constrained', figsize=(
      1.6 + number * (0.6 + 0.28 * experts), 1.2 + 0.14 * classes))
  axes = shown.subplots(1, number, squeeze=False, sharey=True)[0]
  for axis, layer, own in zip(axes, layers, shares, strict=True):
    image = axis.imshow(own[order], aspect='auto', vmin=0, vmax=np.nanmax(shares))
    axis.set_title(layer, fontsize=9)
    axis.set_xlabel('expert', fontsize=8)
    axis.set_xticks(range(experts))
    axis.set_yticks(range(classes), [names[i] for i in order])
    axis.tick_params(labelsize=6)
  bar = shown.colorbar(image, ax=axes, aspect=40)
  bar.set_label("share of a row's tokens", fontsize=8)
  bar.ax.tick_params(labelsize=6)
  file = io.BytesIO()
  shown.savefig(file, format='png', dpi=110)
  return file.getvalue()
