"""What an import starts from: a network of others, and how it wants its images.

B images of H x W pixels, F features.
"""

import dataclasses

import numpy as np

_PROBES = 64  # images of one pixel


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How a network wants its images: a scaling of each channel, perhaps in another order.

  Attributes:
    black, white: what it takes for 0 and 1, three numbers each in its own order.
    channels: that order, 'RGB' or 'BGR'.
  """
  black: tuple[float, float, float]
  white: tuple[float, float, float]
  channels: str = 'RGB'

  def __call__(self, images):
    """float32 [B, H, W, 3] in [0, 1], RGB, as the network takes them."""
    if self.channels == 'BGR':
      images = images[..., ::-1]
    black = np.array(self.black, np.float32)
    return black + (np.array(self.white, np.float32) - black) * images


@dataclasses.dataclass(frozen=True)
class Source:
  """A network to import.

  Attributes:
    name: what it was asked for as.
    model: an `export.foreign.Model` of images as the network itself takes them; or a
      `zoo.backbones.Backbone`, which prepares them itself.
    preprocessing: what makes them of images in [0, 1].
    compute: what it gives for float32 [B, H, W, 3] in [0, 1], by a way that does not use
      `preprocessing` and so proves it.
    image_size: H and W it is for, in pixels.
    weights: SHA-256 of the file or SavedModel that its weights come from; None: random.
    upstream: what it was trained on, as in module.json; None if unknown.
    licence: of the weights, '' if unknown.
    any_size: whether it may be given others; if it can, is tried.
    record: what module.json says besides of where it comes from.
  """
  name: str
  model: object
  preprocessing: Preprocessing
  compute: object
  image_size: int
  weights: str | None
  upstream: dict | None = None
  licence: str = ''
  any_size: bool = True
  record: dict = dataclasses.field(default_factory=dict)


def of_range(values):
  """(`Preprocessing`, the same in NumPy) of images of a range of values."""
  low, high = values
  return (Preprocessing((low,) * 3, (high,) * 3),
          lambda images: (low + (high - low) * images.astype(np.float64)).astype(np.float32))


def scaling_of(function, name):
  """The `Preprocessing` that a function does, found by trying it on images.

  Args:
    function: of float32 [B, H, W, 3] in [0, 1], RGB, to the same shape.
    name: what to call it in an error.

  Raises:
    ValueError: it is no scaling of each channel by itself.
  """
  basis = np.concatenate([np.zeros((1, 1, 1, 3)), np.eye(3)[:, None, None]]).astype(np.float32)
  black, *ends = np.asarray(function(basis), np.float64)[:, 0, 0]
  changes = np.stack(ends) - black  # [from R, G and B, to each of its channels]
  channels = 'RGB' if np.abs(np.diag(changes)).min() > 0 else 'BGR'
  white = black + changes.sum(0)
  found = Preprocessing(tuple(map(float, black)), tuple(map(float, white)), channels)
  images = np.random.default_rng(0).random((_PROBES, 1, 1, 3), np.float32)
  error = np.abs(found(images) - np.asarray(function(images))).max()
  if not error <= 1e-6 * max(1., np.abs([black, white]).max()):
    raise ValueError(f'{name} prepares images by more than a scaling of each channel, which '
                     'cannot be put into a module.')
  return found
