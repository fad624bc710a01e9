"""Other people's networks, each as it was saved: what `zoo-import` makes modules of."""

import os

from export import foreign
from export import hub
from export import imported
from export import keras_sources
from export import metadata

EFFICIENTNET_LITE0 = 'efficientnet-lite0'
NPZ = '.npz'
_PIXELS = 128  # of EfficientNet-Lite0, if nothing is said: small tasks' images are no larger


def find(name, image_size=None, input_range=None, weights=None, trust=False):
  """Loads a network of others.

  Args:
    name: 'efficientnet-lite0'; 'keras_applications:NAME'; 'keras_hub:PRESET'; a .npz file of
      BiT or ViT; a .keras file; or the folder of a SavedModel with `__call__` or a signature
      serving_default.
    image_size: pixels, where the source does not say them.
    input_range: (low, high) of the images that a .keras file, SavedModel or preset takes, where
      it does not say it; None for [0, 1], which a preset must say too.
    weights: file of a keras_applications network's weights; of that and a preset, 'none' for
      random ones.
    trust: load a SavedModel whose graph reaches files, sockets or Python.

  Returns:
    An `export.imported.Source`.

  Raises:
    ValueError: there is no such source, it is damaged or lacks something, or something is said
      that it says itself.
  """
  application = name.startswith(keras_sources.APPLICATIONS)
  preset = name.startswith(keras_sources.KERAS_HUB)
  published = name.endswith(NPZ) and os.path.isfile(name)
  if weights is not None and not application and not (
      preset and weights == keras_sources.NO_WEIGHTS):
    raise ValueError(f'{name} has its own weights: leave out --weights.')
  if input_range and (name == EFFICIENTNET_LITE0 or application or published):
    raise ValueError(f'{name} says the range of its images: leave out --input_range.')
  if name == EFFICIENTNET_LITE0:
    return _efficientnet_lite0(image_size or _PIXELS)
  if application:
    return keras_sources.application(name, weights, image_size)
  if preset:
    return keras_sources.preset(name, weights, image_size, input_range)
  if published:
    return _published(name, image_size)
  return _saved(name, image_size, input_range, trust)


def _efficientnet_lite0(image_size):
  from zoo import efficientnet_lite
  model = foreign.of_keras(keras_sources.following(efficientnet_lite.pretrained()))
  preprocessing, _ = imported.of_range(efficientnet_lite.INPUT_RANGE)
  return imported.Source(
      EFFICIENTNET_LITE0, model, preprocessing,
      lambda images: model((255 * images - 127) / 128), image_size, efficientnet_lite.SHA256,
      efficientnet_lite.UPSTREAM, efficientnet_lite.LICENCE)


def _published(path, image_size):
  """A published file of BiT or ViT, as our own network of the same layers."""
  from zoo import backbone
  from zoo import published
  network = published.network(path, image_size)
  preprocessing, _ = imported.of_range(backbone.INPUT_RANGE)
  return imported.Source(os.path.basename(path), network, preprocessing, network,
                         network.architecture.image_size, metadata.fingerprint(path))


def _saved(name, image_size, input_range, trust):
  """A .keras file or a SavedModel."""
  if not os.path.exists(name):
    raise ValueError(f'--source={name} is none of {EFFICIENTNET_LITE0}, '
                     f'{keras_sources.APPLICATIONS}NAME, {keras_sources.KERAS_HUB}PRESET, a {NPZ} '
                     f'file of BiT or ViT, a {foreign.KERAS} file and the folder of a SavedModel.')
  if os.path.isfile(name) and not name.endswith(foreign.KERAS):
    raise ValueError(f'{name} is neither a {foreign.KERAS} nor a {NPZ} file nor the folder of a '
                     'SavedModel.')
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
  preprocessing, scaled = imported.of_range(
      foreign.value_range(said.get('input_range') or input_range or foreign.UNIT))
  return imported.Source(
      os.path.basename(module.path), model, preprocessing, lambda images: model(scaled(images)),
      size, said['fingerprint'], said.get('upstream'), said.get('licence') or '')
