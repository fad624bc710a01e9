"""A module that was not built by us as a Keras 3 layer that trains.

`tensorflow_hub.KerasLayer` is a Keras 2 layer and cannot go into a Keras 3 model;
`keras.layers.TFSMLayer` calls one endpoint and passes no `training`. This layer does both.
"""

import keras
import numpy as np

from export import foreign


class SavedLayer(keras.layers.Layer):
  """Calls a loaded module and gives Keras its variables.

  Args:
    loaded: what `export.hub.load` returns: a callable with, if it is to train, `variables` and
      `trainable_variables`.
    expert: index of the expert in a packed module, or None.
  """

  def __init__(self, loaded, expert=None, **kwargs):
    import tensorflow as tf
    super().__init__(autocast=False, **kwargs)
    self.loaded = foreign.root(loaded)  # what a classifier made of this layer is saved with
    self._module = loaded
    self._arguments = {} if expert is None else {'expert': tf.constant(expert, tf.int32)}
    trainable = {id(variable) for variable in getattr(loaded, 'trainable_variables', ())}
    for i, variable in enumerate(getattr(loaded, 'variables', ())):
      wrapped = keras.Variable(
          np.zeros(variable.shape, variable.dtype.as_numpy_dtype), dtype=variable.dtype.name,
          trainable=id(variable) in trainable, autocast=False, name=f'variable_{i}')
      wrapped._value = variable  # the module's own variable, not a copy
      self._track_variable(wrapped)
    self.built = True

  def call(self, images, training=False):
    """float32 [B, H, W, 3] in [0, 1] to the module's output, [B, F]."""
    for loss in getattr(self._module, 'regularization_losses', ()):
      self.add_loss(loss())
    # Frozen, it is the function that it was: its norms do not take the statistics of a batch.
    return foreign.call(self._module, images, bool(training) and self.trainable,
                        **self._arguments)

