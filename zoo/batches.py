"""Training batches as a pure function of seed and step, so that a killed run goes on exactly.

Shapes: N examples, B batch, H height, W width, C classes.
"""

import dataclasses

import numpy as np

GREY = 128  # the middle of the range, which networks see as zero


@dataclasses.dataclass(frozen=True)
class Batches:
  """An endless stream of shuffled and augmented batches over arrays in memory.

  Each pass has its own order, and passes follow each other without a gap, so no example
  is dropped at a seam.

  Attributes:
    images: uint8 [N, H, W, 3].
    labels: integers [N], or float32 [N, classes] for soft or several labels.
    batch: B; may exceed N.
    seed: chooses orders and augmentations.
    flip: mirror each image left to right with probability one half.
    crop: pixels of reflection padding from which a random H x W window is cut; 0 for none.
    cutout: side in pixels of a grey square on each image (Cutout, arXiv 1708.04552); its centre is
      any pixel, so that it may reach over a border; 0 for none.
    mixup: alpha of MixUp (arXiv 1710.09412): a batch is averaged with itself in reverse order,
      labels too, by shares from Beta(alpha, alpha), as in big_transfer; 0 for none.
    classes: C; needed for MixUp of integer labels, which become [B, C].
  """
  images: np.ndarray
  labels: np.ndarray
  batch: int
  seed: int = 0
  flip: bool = False
  crop: int = 0
  cutout: int = 0
  mixup: float = 0.
  classes: int | None = None

  def __post_init__(self):
    if not len(self.images):
      raise ValueError('there is no training example.')
    if len(self.images) != len(self.labels):
      raise ValueError(f'{len(self.images)} images but {len(self.labels)} labels.')
    # numpy reflects as often as needed, but a 1-pixel side has nothing to reflect.
    if self.crop and min(self.images.shape[1:3]) < 2:
      object.__setattr__(self, 'crop', 0)

  def at(self, step):
    """The batch of a step (0, 1, ...): uint8 [B, H, W, 3] and labels [B, ...]."""
    chosen = self._chosen(step)
    images = self.images[chosen]
    random = np.random.default_rng((self.seed, 1, step))
    if self.flip:
      mirrored = random.random(self.batch) < 0.5
      images[mirrored] = images[mirrored, :, ::-1]
    if self.crop:
      images = self._crop(images, random)
    if self.cutout:
      self._cut_out(images, random)
    labels = self.labels[chosen]
    return self._mixed(images, labels, random) if self.mixup else (images, labels)

  def stream(self, first, last):
    """Yields the batches of steps first .. last - 1."""
    for step in range(first, last):
      yield self.at(step)

  def _chosen(self, step):
    """Indices [B] of the examples of a step."""
    number = len(self.images)
    first, last = step * self.batch, (step + 1) * self.batch
    return np.concatenate([
        self._order(epoch)[max(first - epoch * number, 0):last - epoch * number]
        for epoch in range(first // number, (last - 1) // number + 1)])

  def _mixed(self, images, labels, random):
    if labels.ndim == 1:
      labels = np.eye(self.classes, dtype=np.float32)[labels]
    share = np.float32(random.beta(self.mixup, self.mixup))
    # To whole numbers again: an error of at most 1/510 of the range.
    return (np.rint(share * images + (1 - share) * images[::-1]).astype(np.uint8),
            share * labels + (1 - share) * labels[::-1])

  def _order(self, epoch):
    return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.images))

  def _crop(self, images, random):
    pad = ((0, 0), (self.crop, self.crop), (self.crop, self.crop), (0, 0))
    padded = np.pad(images, pad, mode='reflect')
    height, width = images.shape[1:3]
    corners = random.integers(0, 2 * self.crop + 1, (len(images), 2))
    return np.stack([
        image[y:y + height, x:x + width] for image, (y, x) in zip(padded, corners, strict=True)])

  def _cut_out(self, images, random):
    def covered(length):  # [B, length]
      first = random.integers(0, length, (len(images), 1)) - self.cutout // 2
      place = np.arange(length)
      return (first <= place) & (place < first + self.cutout)

    rows, columns = (covered(length) for length in images.shape[1:3])
    images[rows[:, :, None] & columns[:, None]] = GREY


def of(examples, recipe, classes=None):
  """The batches that a `zoo.training.Recipe` makes of `zoo.tasks.Examples` of C classes."""
  return Batches(examples.images, examples.labels, recipe.batch, recipe.seed, recipe.flip,
                 recipe.crop, recipe.cutout, recipe.mixup, classes)
