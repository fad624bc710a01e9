"""Embeddings of images by the experts of a hub.

Shapes: N images, H height, W width, F features.
"""

import numpy as np

from export import hub
from zoo import cli
from zoo import training


def call(loaded, images, training, **arguments):
  """Calls a Reusable SavedModel, with `training` if it takes that: the API makes it optional.

  Args:
    loaded: an object of `tf.saved_model.load` with `__call__`.
    images: float32 tensor [B, H, W, 3].
    training: a Python bool; the two values were traced apart.
    **arguments: further ones, such as `expert`.

  Returns:
    What the module returns, [B, F].
  """
  if _takes_training(loaded.__call__):
    arguments['training'] = training
  return loaded(images, **arguments)


def check(module, embeddings):
  """Raises ValueError unless what a module gave is [N, F] and finite."""
  if embeddings.ndim != 2:
    raise ValueError(f'module {module.handle} gives shape {("N", *embeddings.shape[1:])} '
                     'where an embedding is [N, features].')
  if not np.isfinite(embeddings).all():
    raise ValueError(f'module {module.handle} gives embeddings that are not finite.')


def _takes_training(function):
  """Whether any trace of a loaded function has an argument `training`."""
  traces = getattr(function, 'concrete_functions', ())
  return not traces or any(
      'training' in trace.function_type.parameters for trace in traces)


class Embedder:
  """A loaded module as a function from images to embeddings.

  Args:
    module: an `export.hub.Module`.
    trust: as in `export.hub.check`.

  Raises:
    ValueError: the module is damaged, not trusted, or no image module.
  """

  def __init__(self, module, trust=False):
    import tensorflow as tf
    self.module = module
    loaded = hub.load(module, trust)
    if callable(loaded):
      self._function = tf.function(
          lambda images, **arguments: call(loaded, images, False, **arguments))
    elif 'serving_default' in loaded.signatures:
      signature = loaded.signatures['serving_default']
      arguments = signature.structured_input_signature[1]
      if len(arguments) != 1:
        raise ValueError(f'module {module.handle}: its serving_default takes '
                         f'{len(arguments)} inputs; an image module takes one.')
      name = next(iter(arguments))

      def serve(images):
        outputs = signature(**{name: images})
        return outputs.get('default', next(iter(outputs.values())))

      self._function = tf.function(serve)
    else:
      raise ValueError(f'module {module.handle} has neither __call__ nor serving_default.')
    self._loaded = loaded  # a function alone would not keep the variables alive

  def __call__(self, images, expert=None, batch=256, what=''):
    """Embeds images.

    Args:
      images: uint8 [N, H, W, 3].
      expert: index of the expert in a packed module.
      batch: images at once.
      what: shown as progress, if given.

    Returns:
      float32 [N, F].

    Raises:
      ValueError: the module fails on them, or answers with another shape or with values
        that are not finite.
    """
    import tensorflow as tf
    arguments = {} if expert is None else {'expert': tf.constant(expert, tf.int32)}
    try:
      embeddings = training.predict(
          lambda piece: self._function(tf.constant(piece), **arguments), images, batch, what)
    except (tf.errors.OpError, ValueError, TypeError) as error:
      raise ValueError(f'module {self.module.handle} fails on images of shape '
                       f'{images.shape[1:]}: {cli.last_line(error)}') from None
    check(self.module, embeddings)
    return embeddings
