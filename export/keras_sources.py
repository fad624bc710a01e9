"""Networks of keras.applications and backbones of KerasHub, as sources of an import.

B images of H x W pixels, T tokens, C channels, F features.
"""

import contextlib
import difflib
import importlib.util
import inspect
import os
import sys
import warnings

import numpy as np

from export import foreign
from export import imported
from export import metadata
from zoo import cli

APPLICATIONS = 'keras_applications:'
KERAS_HUB = 'keras_hub:'
NO_WEIGHTS = 'none'
# Of the moving averages of batch norms. Those of long training (0.99 and more) lag behind a
# fine-tuning of some hundred steps, after which they are what is tested (cf. arXiv 1805.08974).
_MOMENTUM = 0.9
_WEIGHTS = 'model.weights.h5'  # of a preset


def following(network):
  """A Keras model, after its batch norms were made to follow a short training; in place."""
  import keras
  for layer in network._flatten_layers():  # those inside of others too
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.momentum = _MOMENTUM
  return network


def _unknown(library, kind, name, known):
  """The error of a name that a library does not have."""
  near = difflib.get_close_matches(name, known, 3) or sorted(known)[:5]
  return ValueError(f'{library} has no {kind} {name!r} (there is {", ".join(near)}, ...).')


def application(whole, weights, image_size):
  """A network of keras.applications without its classifier, averaged over height and width.

  Args:
    whole: 'keras_applications:NAME'.
    weights, image_size: as in `export.sources.find`.

  Returns:
    An `export.imported.Source`.

  Raises:
    ValueError: as `export.sources.find`.
  """
  import keras
  name = whole.removeprefix(APPLICATIONS)
  known = [key for key in dir(keras.applications) if key[0].isupper()]
  if name not in known:
    raise _unknown('keras.applications', 'network', name, known)
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
    _read(network, weights, f'{name} without its classifier')
  model = foreign.of_keras(following(network))
  # Beside each network stands the function that its makers prepared images with, of 0 to 255.
  prepare = sys.modules[inspect.unwrap(build).__module__].preprocess_input

  def prepared(images):
    return prepare(255 * images.astype(np.float32))

  return imported.Source(
      whole, model, imported.scaling_of(prepared, name), lambda images: model(prepared(images)),
      image_size, None if weights == NO_WEIGHTS else metadata.fingerprint(weights))


def preset(whole, weights, image_size, input_range):
  """An image backbone of KerasHub, pooled to one embedding for each image.

  It is prepared for by the image converter that is part of the preset, at a size where that
  resizes nothing.

  Args:
    whole: 'keras_hub:PRESET' of whatever KerasHub's own from_preset takes: a name that it
      knows or an address, which it downloads, or the folder of a preset.
    weights: 'none' for random ones, else None.
    image_size: pixels, where the preset does not say them, or others that its network takes.
    input_range: (low, high), where the preset has no image converter.

  Returns:
    An `export.imported.Source`; its record says how it is pooled, and how the converter would
    resize.

  Raises:
    ValueError: as `export.sources.find`.
  """
  if importlib.util.find_spec('keras_hub') is None:
    raise ValueError(f"{whole} needs KerasHub: pip install 'expert-zoo[keras-hub]'.")
  import keras
  import keras_hub
  from keras_hub.src.utils import preset_utils  # where its files are; nothing public says that
  name = whole.removeprefix(KERAS_HUB)
  if os.path.isdir(name):
    whole = KERAS_HUB + os.path.basename(os.path.abspath(name))
  elif '://' not in name and name not in keras_hub.models.Backbone.presets:
    raise _unknown('KerasHub', 'preset', name, keras_hub.models.Backbone.presets)

  def load(owner, *arguments, **keywords):
    try:
      return owner.from_preset(name, *arguments, dtype='float32', **keywords)
    except FileNotFoundError:
      raise
    except Exception as error:  # of KerasHub, Keras and the network, of many kinds
      raise ValueError(f'{whole} cannot be loaded ({cli.last_line(error)}).') from None

  network = load(keras_hub.models.Backbone, False)
  own = _own_size(network, whole)
  if own and image_size and image_size != own:
    network = load(keras_hub.models.Backbone, False, image_shape=(image_size, image_size, 3))
  digest = None
  if weights != NO_WEIGHTS:
    try:
      path = preset_utils.get_file(name, _WEIGHTS)
    except FileNotFoundError:
      raise ValueError(f'{whole} has no {_WEIGHTS}, where KerasHub saves the weights of a '
                       'network of less than 10 GB.') from None
    _read(network, path, f'{whole} for images of {image_size or own or "any"} pixels')
    digest = metadata.fingerprint(path)

  converter = None
  with contextlib.suppress(FileNotFoundError):
    converter = load(keras_hub.layers.ImageConverter)
  size = image_size or own or (converter and converter.image_size and converter.image_size[0])
  if not size:
    raise ValueError(f'{whole} does not say its image size: give --image_size.')
  if converter and input_range:
    raise ValueError(f'{whole} says the range of its images: leave out --input_range.')
  if not converter and not input_range:
    raise ValueError(f'{whole} does not say how its images are prepared: give --input_range.')
  if converter:
    converter.image_size = None  # it is tried on single pixels

    def prepared(images):
      return np.asarray(converter(255 * images.astype(np.float32)))

    preprocessing = imported.scaling_of(prepared, whole)
    converter.image_size = (size, size)
  else:
    preprocessing, prepared = imported.of_range(input_range)

  pool, pooling = _pooling(following(network), size, whole)
  inputs = network.inputs[0]
  record = {'pooling': pooling} | (
      {'interpolation': converter.interpolation} if converter else {})
  return imported.Source(
      whole, foreign.of_keras(keras.Model(inputs, pool(_called(network, inputs)))), preprocessing,
      lambda images: pool(_called(network, prepared(images))), size, digest,
      any_size=inputs.shape[1] is None, record=record)


def _called(network, images):
  """What a backbone gives for images, which some take by name."""
  import keras
  return network(keras.tree.map_structure(lambda _: images, network.input))


def _own_size(network, name):
  """Height and width that a backbone takes, None for any.

  Raises:
    ValueError: it takes something else than images.
  """
  shapes = [tuple(tensor.shape[1:]) for tensor in network.inputs]
  if len(shapes) == 1 and len(shapes[0]) == 3:
    height, width, channels = shapes[0]
    if height == width and channels == 3:
      return height
  raise ValueError(f'{name} takes {", ".join(str(["N", *one]) for one in shapes)}; an image '
                   'module takes [N, size, size, 3] alone.')


def _pooling(network, size, name):
  """A function from what a backbone gives to [B, F], and what to call it.

  Tokens [B, T, F] that outnumber the patches begin with that of the class (ViT, DeiT, DINO),
  which pools already; others, and feature maps [B, H, W, C], are averaged. Of several feature
  maps the coarsest counts.

  Raises:
    ValueError: it gives something else.
  """
  import keras
  from keras import ops
  outputs = _called(network, keras.KerasTensor((1, size, size, 3)))
  maps = outputs if isinstance(outputs, dict) else {'': outputs}
  shapes = {key: tuple(getattr(value, 'shape', ())) for key, value in maps.items()}
  ranks = {len(shape) for shape in shapes.values()}
  if ranks == {4}:
    last = min(shapes, key=lambda key: shapes[key][1] * shapes[key][2])
    return ((lambda value: ops.mean(value[last] if last else value, (1, 2))),
            'mean over height and width' + (f' of {last}' if last else ''))
  if len(shapes) == 1 and ranks == {3}:
    patch = getattr(network, 'patch_size', None)
    patches = patch and np.prod(size // np.broadcast_to(patch, 2))
    if patches and shapes[''][1] > patches:
      return (lambda value: value[:, 0]), 'class token'
    return (lambda value: ops.mean(value, 1)), 'mean of the tokens'
  if len(shapes) == 1 and ranks == {2}:
    return (lambda value: value), 'none'
  raise ValueError(f'{name} gives {", ".join(str(list(one)) for one in shapes.values())}: neither '
                   'feature maps nor tokens, of which an embedding could be made.')


def _read(network, path, name):
  """Loads all weights of a Keras network from a file.

  Raises:
    ValueError: the file lacks some, or has them in other shapes.
  """
  # Keras leaves what it does not find as it was, with no more than a warning: it would show.
  for variable in network.weights:
    if 'float' in variable.dtype:
      variable.assign(np.full(variable.shape, np.nan))
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      network.load_weights(path)
    reason = f'it lacks {_unset(network)}' if _unset(network) else None
  except Exception as error:  # of Keras or h5py, of many kinds
    reason = str(error).strip().splitlines()[0].split('. ')[0]  # further on it lists all layers
  if reason:
    raise ValueError(f'{path} does not hold the weights of {name} ({reason}).')


def _unset(network):
  """The path of a variable that was not read, or None."""
  return next((v.path for v in network.weights if np.isnan(np.asarray(v)).any()), None)
