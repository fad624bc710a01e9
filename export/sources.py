"""Other people's networks, each as it was saved: what `zoo-import` makes modules of.

B images of H x W pixels, F features.
"""

import dataclasses
import difflib
import inspect
import os
import sys
import warnings

import numpy as np

from export import foreign
from export import hub
from export import metadata
from zoo import cli

EFFICIENTNET_LITE0 = 'efficientnet-lite0'
APPLICATIONS = 'keras_applications:'
NO_WEIGHTS = 'none'
_PIXELS = 128  # of EfficientNet-Lite0, if nothing is said: small tasks' images are no larger
_PROBES = 64  # images of one pixel
# Of the moving averages of batch norms. Those of long training (0.99 and more) lag behind a
# fine-tuning of some hundred steps, after which they are what is tested (cf. arXiv 1805.08974).
_MOMENTUM = 0.9


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
    model: an `export.foreign.Model` of images as the network itself takes them.
    preprocessing: what makes them of images in [0, 1].
    compute: what it gives for float32 [B, H, W, 3] in [0, 1], by a way that does not use
      `preprocessing` and so proves it.
    image_size: H and W it is for, in pixels.
    weights: SHA-256 of the file or SavedModel that its weights come from; None: random.
    upstream: what it was trained on, as in module.json; None if unknown.
    licence: of the weights, '' if unknown.
  """
  name: str
  model: foreign.Model
  preprocessing: Preprocessing
  compute: object
  image_size: int
  weights: str | None
  upstream: dict | None = None
  licence: str = ''


def find(name, image_size=None, input_range=None, weights=None, trust=False):
  """Loads a network of others.

  Args:
    name: 'efficientnet-lite0'; 'keras_applications:NAME'; a .keras file; or the folder of a
      SavedModel with `__call__` or a signature serving_default.
    image_size: pixels, where the source does not say them.
    input_range: (low, high) of the images that a .keras file or SavedModel takes, where it does
      not say it; None for [0, 1].
    weights: file of a keras_applications network's weights, or 'none' for random ones.
    trust: load a SavedModel whose graph reaches files, sockets or Python.

  Returns:
    A `Source`.

  Raises:
    ValueError: there is no such source, it is damaged or lacks something, or something is said
      that it says itself.
  """
  if weights is not None and not name.startswith(APPLICATIONS):
    raise ValueError(f'{name} has its own weights: leave out --weights.')
  if input_range and (name == EFFICIENTNET_LITE0 or name.startswith(APPLICATIONS)):
    raise ValueError(f'{name} says the range of its images: leave out --input_range.')
  if name == EFFICIENTNET_LITE0:
    return _efficientnet_lite0(image_size or _PIXELS)
  if name.startswith(APPLICATIONS):
    return _application(name, weights, image_size)
  return _saved(name, image_size, input_range, trust)


def _of_range(values):
  """(`Preprocessing`, the same in NumPy) of images of a range of values."""
  low, high = values
  return (Preprocessing((low,) * 3, (high,) * 3),
          lambda images: (low + (high - low) * images.astype(np.float64)).astype(np.float32))


def _efficientnet_lite0(image_size):
  from zoo import efficientnet_lite
  model = foreign.of_keras(following(efficientnet_lite.pretrained()))
  preprocessing, _ = _of_range(efficientnet_lite.INPUT_RANGE)
  return Source(
      EFFICIENTNET_LITE0, model, preprocessing,
      lambda images: model((255 * images - 127) / 128), image_size, efficientnet_lite.SHA256,
      efficientnet_lite.UPSTREAM, efficientnet_lite.LICENCE)


def following(network):
  """A Keras model, after its batch norms were made to follow a short training; in place."""
  import keras
  for layer in network.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.momentum = _MOMENTUM
  return network


def _application(whole, weights, image_size):
  """A network of keras.applications without its classifier, averaged over height and width."""
  import keras
  name = whole.removeprefix(APPLICATIONS)
  known = [key for key in dir(keras.applications) if key[0].isupper()]
  if name not in known:
    near = difflib.get_close_matches(name, known, 3) or known[:5]
    raise ValueError(f'keras.applications has no network {name!r} (there is {", ".join(near)}, '
                     '...).')
  if weights is None:
    raise ValueError(f'{whole} needs the file of its weights without the classifier, as nothing '
                     f'is downloaded: give --weights=PATH, or --weights={NO_WEIGHTS} for random '
                     'ones.')
  if weights != NO_WEIGHTS and not os.path.isfile(weights):
    raise ValueError(f'--weights={weights} is not a file.')
  if not image_size:
    raise ValueError(f'{whole} does not say its image size: give --image_size.')
  build = getattr(keras.applications, name)
  try:
    # Where a stride halves an odd size such a network pads otherwise than where it is even: the
    # size is part of the network.
    network = build(weights=None, include_top=False, pooling='avg',
                    input_shape=(image_size, image_size, 3))
  except ValueError as error:
    raise ValueError(f'{whole}: {cli.last_line(error)}') from None
  if weights != NO_WEIGHTS:
    _read(network, weights, name)
  model = foreign.of_keras(following(network))
  # Beside each network stands the function that its makers prepared images with, of 0 to 255.
  prepare = sys.modules[inspect.unwrap(build).__module__].preprocess_input

  def prepared(images):
    return prepare(255 * images.astype(np.float32))

  return Source(whole, model, scaling_of(prepared, name), lambda images: model(prepared(images)),
                image_size, None if weights == NO_WEIGHTS else metadata.fingerprint(weights))


def _read(network, path, name):
  """Loads all weights of a Keras network from a file.

  Raises:
    ValueError: the file lacks some, or has them in other shapes.
  """
  # Keras leaves what it does not find as it was, with no more than a warning: it would show.
  for variable in network.weights:
    variable.assign(np.full(variable.shape, np.nan))
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      network.load_weights(path)
    reason = f'it lacks {_unset(network)}' if _unset(network) else None
  except Exception as error:  # of Keras or h5py, of many kinds
    reason = str(error).strip().splitlines()[0].split('. ')[0]  # further on it lists all layers
  if reason:
    raise ValueError(f'{path} does not hold the weights of {name} without its classifier '
                     f'({reason}).')


def _unset(network):
  """The path of a variable that was not read, or None."""
  return next((v.path for v in network.weights if np.isnan(np.asarray(v)).any()), None)


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


def _saved(name, image_size, input_range, trust):
  """A .keras file or a SavedModel."""
  if not os.path.exists(name):
    raise ValueError(f'--source={name} is none of {EFFICIENTNET_LITE0}, {APPLICATIONS}NAME, a '
                     f'{foreign.KERAS} file and the folder of a SavedModel.')
  if os.path.isfile(name) and not name.endswith(foreign.KERAS):
    raise ValueError(f'{name} is neither a {foreign.KERAS} file nor the folder of a SavedModel.')
  module = hub.Module(name, os.path.abspath(name), metadata.read(name))
  said = module.metadata
  if module.kind != 'foreign':
    raise ValueError(f'{name} is a module of kind {module.kind!r} already: give it to --handles, '
                     'or copy its folder into the hub.')
  if image_size and said['image_size'] not in (None, image_size):
    raise ValueError(f'{name} takes images of {said["image_size"]} pixels: leave out '
                     '--image_size.')
  size = said['image_size'] or image_size
  if not size:
    raise ValueError(f'{name} does not say its image size: give --image_size.')
  loaded = hub.load(module, trust)
  model = loaded if isinstance(loaded, foreign.Model) else foreign.of_reusable(loaded)
  preprocessing, scaled = _of_range(
      foreign.value_range(said.get('input_range') or input_range or foreign.UNIT))
  return Source(os.path.basename(module.path), model, preprocessing,
                lambda images: model(scaled(images)), size, said['fingerprint'],
                said.get('upstream'), said.get('licence') or '')
