"""Compiled functions of a model, by TensorFlow or JAX, whichever Keras computes with."""

import keras


def jit(call, model):
  """Compiles a function that uses a model, whose variables may change between calls.

  Args:
    call: a function of arrays.
    model: a built Keras model or layer, all of whose variables `call` may read; none is changed.

  Returns:
    A function of such arrays.
  """
  if keras.backend.backend() != 'jax':
    import tensorflow as tf
    return tf.function(call, reduce_retracing=True)
  import jax
  variables = model.variables

  @jax.jit
  def compiled(values, *arrays):
    with keras.StatelessScope(list(zip(variables, values, strict=True))):
      return call(*arrays)

  return lambda *arrays: compiled([variable.value for variable in variables], *arrays)
