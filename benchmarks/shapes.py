"""Structured tasks, drawn here: where a shape is, which way it points, how many there are.

VTAB has such tasks of dSprites (location, orientation) and CLEVR (count); these need no
download and no more than 32 pixels. Colours, sizes, backgrounds, other turns and places, and
the lines in the background tell nothing of the label. TFDS prepares each task on first use,
the same on any machine.
"""

import fcntl
import functools
import os
import typing

import numpy as np
from PIL import Image
from PIL import ImageDraw

from zoo import tasks

SIZE = 32  # pixels
FINER = 4  # drawn so much larger and averaged: edges are smooth, places finer than a pixel
SPLITS = {'train': 3200, 'test': 2000}
CLASSES = {
    'location': [f'column {i}' for i in range(16)],  # from the left
    'orientation': [f'{45 * i} degrees' for i in range(8)],  # clockwise from the right
    'count': [f'{i}' for i in range(3, 11)]}


def _ring(corners, inner=1.):
  """A regular polygon [corners, 2] in the unit circle; every other corner at `inner`."""
  angles = np.arange(corners) * (2 * np.pi / corners)
  radii = np.where(np.arange(corners) % 2, inner, 1.)[:, None]
  return radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


# Outlines [P, 2], x to the right and y down, within the unit circle.
PLAIN = (_ring(24), _ring(4), _ring(3), _ring(10, 0.5))  # disc, square, triangle, star
POINTED = (  # to the right, and no turn looks like another: arrow, wedge, drop, half disc
    np.array([(1, 0), (0, 0.8), (0, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0, -0.3), (0, -0.8)]),
    np.array([(1, 0), (-0.7, 0.6), (-0.7, -0.6)]),
    np.concatenate([[(1, 0)], (-0.4, 0) + 0.6 * _ring(24)[4:21]]),
    (-0.4, 0) + 0.9 * np.roll(_ring(24), 6, axis=0)[:13])


def draw(name, label, random):
  """One picture.

  Args:
    name: 'location', 'orientation' or 'count'.
    label: index into CLASSES[name].
    random: a `numpy.random.Generator`, for all that the label leaves open.

  Returns:
    uint8 [32, 32, 3].
  """
  ground = random.integers(0, 256, 3)
  clouds = np.clip(ground + random.integers(-40, 41, (3, 3, 3)), 0, 255).astype(np.uint8)
  image = Image.fromarray(clouds).resize((SIZE * FINER,) * 2, Image.Resampling.BILINEAR)
  canvas = ImageDraw.Draw(image)
  for _ in range(random.integers(0, 5)):
    canvas.line(random.integers(0, SIZE * FINER, 4).tolist(),
                tuple(random.integers(0, 256, 3).tolist()), FINER)
  for outline, radius, centre, turn in PLACED[name](label, random):
    turned = outline @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    corners = FINER * (centre + radius * turned)
    canvas.polygon([tuple(corner) for corner in corners], _unlike(ground, random))
  return np.asarray(image.reduce(FINER))


# Each yields (outline, radius, centre, turn) of every shape of a picture, in pixels.


def _location(label, random):
  radius = random.uniform(3, 5)
  # Columns of 1.375 pixels, with a gap between one and the next.
  x = 5 + (SIZE - 10) / 16 * (label + random.uniform(0.15, 0.85))
  yield _any(PLAIN, random), radius, (x, random.uniform(5, SIZE - 5)), _any_turn(random)


def _orientation(label, random):
  radius = random.uniform(7, 11)
  turn = np.pi / 4 * (label + random.uniform(-0.35, 0.35))
  yield _any(POINTED, random), radius, random.uniform(radius, SIZE - radius, 2), turn


def _count(label, random):
  radii = random.uniform(1.8, 3.4, label + 3)
  for radius, centre in zip(radii, _apart(radii, random), strict=True):
    yield _any(PLAIN, random), radius, centre, _any_turn(random)


PLACED = {'location': _location, 'orientation': _orientation, 'count': _count}


def _any(outlines, random):
  return outlines[random.integers(len(outlines))]


def _any_turn(random):
  return random.uniform(0, 2 * np.pi)


def _unlike(ground, random):
  """A colour that stands out from the ground."""
  while True:
    color = random.integers(0, 256, 3)
    if np.abs(color - ground).sum() > 200:
      return tuple(color.tolist())


def _apart(radii, random):
  """Centres [K, 2] of discs, radii [K], half a pixel or more from each other."""
  centres, tries = [], 0
  while len(centres) < len(radii):
    radius = radii[len(centres)]
    centre = random.uniform(radius, SIZE - radius, 2)
    if all(np.hypot(*(centre - other)) > radius + reach + 0.5
           for other, reach in zip(centres, radii, strict=False)):
      centres.append(centre)
    tries += 1
    if tries % 200 == 0:  # no room is left for the next: begin again
      centres = []
  return np.array(centres)


@functools.cache
def builder_class():
  """The TFDS builder 'shapes' with a config for each task; TFDS knows it once it is made."""
  import tensorflow_datasets as tfds

  class Shapes(tfds.core.GeneratorBasedBuilder):
    """Shapes drawn at random, as many of each class."""

    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS: typing.ClassVar = [tfds.core.BuilderConfig(name=name) for name in CLASSES]

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, supervised_keys=('image', 'label'),
          features=tfds.features.FeaturesDict({
              'image': tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format='png'),
              'label': tfds.features.ClassLabel(names=CLASSES[self.builder_config.name])}))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
      name = self.builder_config.name
      for i in range(SPLITS[split]):
        label = i % len(CLASSES[name])
        random = np.random.default_rng((list(CLASSES).index(name), split == 'test', i))
        yield i, {'image': Image.fromarray(draw(name, label, random)), 'label': label}

  return Shapes


def load(name, data_dir):
  """A structured task, prepared if need be.

  Args:
    name: 'location', 'orientation' or 'count'.
    data_dir: folder in which TFDS keeps it; made if need be.

  Returns:
    A `zoo.tasks.Task`.
  """
  builder_class()
  os.makedirs(data_dir, exist_ok=True)
  with open(os.path.join(data_dir, '.shapes.lock'), 'w', encoding='utf-8') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, then finds it prepared
    return tasks.load(f'shapes/{name}', data_dir)
