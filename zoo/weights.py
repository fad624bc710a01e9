"""The weights of a Keras model as a dict from variable path to array, and as a file."""

import zipfile
import zlib

import numpy as np

from zoo import atomic


def learned(model):
  """The variables of a model other than the states of its random layers."""
  return [v for v in model.variables if not v.path.endswith('seed_generator_state')]


def of(model):
  """A dict from the path of each variable to its value, a float32 array (mostly)."""
  return {variable.path: np.asarray(variable) for variable in model.variables}


def set_to(model, values, partly=False):
  """Assigns values to the variables of the same paths.

  Args:
    model: a built Keras model.
    values: dict from path to array. Further entries are ignored.
    partly: whether the model may have variables that `values` lacks; they stay.

  Raises:
    ValueError: an array is missing or has another shape; the message names it.
  """
  missing = [v.path for v in model.variables if v.path not in values]
  if missing and not partly:
    raise ValueError(f'{len(missing)} arrays are missing: {", ".join(missing[:5])}'
                     f'{", ..." if len(missing) > 5 else ""}.')
  for variable in model.variables:
    if variable.path in values:
      value = values[variable.path]
      if tuple(value.shape) != tuple(variable.shape):
        raise ValueError(f'{variable.path} has shape {tuple(value.shape)}; '
                         f'{tuple(variable.shape)} is needed.')
      variable.assign(value)


def save(path, values):
  """Writes such a dict as an .npz file, atomically."""
  with atomic.writing(path) as file:
    np.savez(file, **values)


def load(path):
  """Reads an .npz file into such a dict.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not an .npz file, or is damaged.
  """
  try:
    file = np.load(path, allow_pickle=False)
    if isinstance(file, np.ndarray):
      raise ValueError('it is a single array')
    with file:
      return dict(file)
  # RuntimeError: a damaged header may claim encryption or an unknown compression.
  except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
    raise ValueError(f'{path} is not a whole .npz file ({error}).') from None
