"""Image models that others saved, called as TensorFlow Hub's common image API has it.

A module answers `obj(images, training=False)` for float32 [B, H, W, 3] in [0, 1] with float32
[B, F], and has `variables` and `trainable_variables`. A Reusable SavedModel for such images is
that already. A SavedModel with only signatures, a Keras model in a .keras file, and what takes
values of another range become a `Model`, which is.
"""

import json
import math
import os
import re
import zipfile

from zoo import cli

UNIT = (0., 1.)  # the values of images in the API
KERAS = '.keras'
_SIGNATURE = 'serving_default'


class UnusableError(ValueError):
  """Why it is no image module; the message goes on from 'module NAME: '."""


class Model:
  """What was loaded, as a function of images in [0, 1].

  Args:
    function: of float32 [B, H, W, 3] in the model's own range, and of `training`.
    root: the TensorFlow object whose variables these are.
    variables, trainable_variables: lists of `tf.Variable`.
    input_range: (low, high) of the model's own images.
    regularization_losses: functions without arguments.
  """

  def __init__(self, function, root, variables, trainable_variables, input_range=UNIT,
               regularization_losses=()):
    self.root = root
    self.variables, self.trainable_variables = list(variables), list(trainable_variables)
    self.regularization_losses = list(regularization_losses)
    self._function = function
    self._low, self._high = input_range

  def __call__(self, images, training=False, **arguments):
    if (self._low, self._high) != UNIT:
      images = self._low + (self._high - self._low) * images
    return self._function(images, training, **arguments)


def call(loaded, images, training, **arguments):
  """Calls a module, with `training` if it takes that: the API makes it optional.

  Args:
    loaded: what `load` returns.
    images: float32 tensor [B, H, W, 3] in [0, 1].
    training: a Python bool; the two values were traced apart.
    **arguments: further ones, such as `expert`.

  Returns:
    What the module returns, [B, F].
  """
  if _takes_training(loaded.__call__):
    arguments['training'] = training
  return loaded(images, **arguments)


def _takes_training(function):
  """Whether any trace of a loaded function has an argument `training`."""
  traces = getattr(function, 'concrete_functions', ())
  return not traces or any(
      'training' in trace.function_type.parameters for trace in traces)


def root(loaded):
  """The TensorFlow object that holds the variables of what `load` returned."""
  return loaded.root if isinstance(loaded, Model) else loaded


def reason(error):
  """The line of an error's message that says why a call failed."""
  # Keras writes it in bold, and what the layer was called with behind it.
  bold = re.search(r'\x1b\[1m(.*?)\x1b\[0m', str(error), re.DOTALL)
  return cli.last_line(bold.group(1) if bold else error)


def features(name, shape):
  """F of what a network gives, which must be embeddings [N, F].

  Args:
    name: of the network, for messages.
    shape: of what it gives.

  Raises:
    ValueError: it is something else.
  """
  if len(shape) != 2:
    raise ValueError(f'{name} gives [{", ".join(map(str, ("N", *shape[1:])))}] where an embedding '
                     f'is [N, features]{": put pooling behind it" if len(shape) > 2 else ""}.')
  return int(shape[1])


def value_range(said):
  """A range of values as (low, high), two floats.

  Raises:
    ValueError: it is none.
  """
  try:
    low, high = map(float, said)
  except (TypeError, ValueError):
    low = high = math.nan
  if not -math.inf < low < high < math.inf:
    raise ValueError(f'input_range is {said!r}; it must be two numbers, the lower one first.')
  return low, high


def load(path, input_range=UNIT):
  """Loads a module; the object of `tf.saved_model.load` itself where that is what it should be.

  Args:
    path: folder of a SavedModel, or a .keras file.
    input_range: (low, high), values of the images that the model itself takes.

  Returns:
    A callable with `variables` and `trainable_variables`, if it has any, that takes images in
    [0, 1]: see the head of this file.

  Raises:
    UnusableError: it is no function from images to one output, or holds Python code.
    Exception: of many kinds, where TensorFlow cannot load a SavedModel.
  """
  if os.path.isfile(path):
    return _of_file(path, input_range)
  import tensorflow as tf
  loaded = tf.saved_model.load(path)
  if not callable(loaded):
    return _of_signature(loaded, input_range)
  return loaded if input_range == UNIT else of_reusable(loaded, input_range)


def of_reusable(loaded, input_range=UNIT):
  """The `Model` of what `tf.saved_model.load` made of a Reusable SavedModel.

  Args:
    loaded: a callable with, if it is to train, `variables` and `trainable_variables`.
    input_range: (low, high) of the model's own images.
  """
  return Model(lambda images, training, **arguments: call(loaded, images, training, **arguments),
               loaded, getattr(loaded, 'variables', ()),
               getattr(loaded, 'trainable_variables', ()), input_range,
               getattr(loaded, 'regularization_losses', ()))


def _of_signature(loaded, input_range):
  """The `Model` of a SavedModel that was saved for serving; it trains as it serves."""
  import tensorflow as tf
  if _SIGNATURE not in loaded.signatures:
    raise UnusableError(f'it has neither __call__ nor {_SIGNATURE}.')
  signature = loaded.signatures[_SIGNATURE]
  inputs = signature.structured_input_signature[1]
  if len(inputs) != 1:
    raise UnusableError(f'its {_SIGNATURE} takes {len(inputs)} inputs '
                        f'({", ".join(sorted(inputs))}); an image module takes one.')
  ((name, spec),) = inputs.items()
  if spec.dtype != tf.float32:
    raise UnusableError(f'its {_SIGNATURE} takes {spec.dtype.name}; an image module takes '
                        'float32 [N, height, width, 3].')
  _only(signature.structured_outputs)
  return Model(lambda images, training: _only(signature(**{name: images})), loaded,
               signature.variables, signature.trainable_variables, input_range)


def _of_file(path, input_range):
  """The `Model` of a .keras file, read in Keras' safe mode, which runs no code of the file."""
  import keras
  try:
    model = keras.models.load_model(path, compile=False, safe_mode=True)
  except Exception as error:  # Keras' own, of many kinds
    raise UnusableError(_not_loaded(error)) from None
  return of_keras(model, input_range)


def of_keras(model, input_range=UNIT):
  """The `Model` of a Keras model.

  Args:
    model: a `keras.Model` from images to an embedding.
    input_range: (low, high) of the model's own images.

  Raises:
    UnusableError: it has several outputs, and none is named 'default'.
  """
  import tensorflow as tf
  if getattr(model, 'inputs', None):  # else it says its outputs only when it is called
    _only(model.compute_output_spec(model.inputs[0]), getattr(model, 'output_names', None))

  def function(images, training):
    return _only(model(images, training=training), getattr(model, 'output_names', None))

  for number, variable in enumerate(model.variables):
    if variable.path.endswith('seed_generator_state'):  # not in the file: else drawn anew each time
      variable.assign([number, 0])
  variables = [variable.value for variable in model.variables]
  return Model(
      function, tf.train.Checkpoint(variables=variables), variables,
      [variable.value for variable in model.trainable_variables], input_range,
      [lambda own=variable: own.regularizer(own) for variable in model.trainable_variables
       if getattr(variable, 'regularizer', None)])


def _not_loaded(error):
  """Why Keras does not load a file, without the configuration of the whole model."""
  text = str(error)
  if 'safe_mode' in text:
    return ('it holds Python code, such as a Lambda layer, which is not run: build it of other '
            'layers, or make a SavedModel of it with model.export().')
  text = text.split('Exception encountered:')[-1].split('Full object config')[0]
  return f'Keras cannot load it ({" ".join(text.split())}).'


def _only(outputs, names=None):
  """The output that is the embedding, of a tensor, a list of them or a dict by name.

  Raises:
    UnusableError: there are several, and none is named 'default'.
  """
  if isinstance(outputs, (list, tuple)):
    outputs = dict(zip(names or map(str, range(len(outputs))), outputs, strict=True))
  if not isinstance(outputs, dict):
    return outputs
  if 'default' not in outputs and len(outputs) > 1:
    raise UnusableError(f'it has several outputs ({", ".join(sorted(outputs))}) and none of them '
                        "is named 'default': save it with the embedding alone.")
  return outputs.get('default', next(iter(outputs.values())))


def keras_image_size(path):
  """Height and width that the model of a .keras file takes; nothing of it is run.

  Args:
    path: the file.

  Returns:
    Pixels, or None where it takes any size.

  Raises:
    ValueError: it is no whole .keras file, or its input is not one batch of square RGB images.
  """
  try:
    with zipfile.ZipFile(path) as file:
      inputs = _inputs(json.loads(file.read('config.json')))
  except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError):
    raise ValueError(f'{path} is truncated or no {KERAS} file.') from None
  if len(inputs) > 1:
    raise ValueError(f'{path} takes {len(inputs)} inputs; an image module takes one.')
  if not inputs:  # a class of somebody's own; what it takes is seen when it is called
    return None
  shape, dtype = inputs[0]
  if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or 'float' not in dtype:
    raise ValueError(f'{path} takes {dtype} {[size or "any" for size in shape]}; an image module '
                     'takes float32 [any, size, size, 3].')
  return shape[1]


def _inputs(config):
  """(shape, dtype) of each input of a model, given as config.json."""
  inner = config['config']
  found = [(layer['config']['batch_shape'], layer['config']['dtype'])
           for layer in inner.get('layers', ()) if layer['class_name'] == 'InputLayer']
  shape = inner.get('build_input_shape') or config.get('build_config', {}).get('input_shape')
  return found or ([(shape, 'float32')] if shape else [])
