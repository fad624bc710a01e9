"""The weights of a Keras model as a dict from variable path to array, and as a file."""

import zipfile
import zlib

import numpy as np

from zoo import atomic


def learned(model):
  """The variables of a model other than the states of its random layers."""
  return [v for v in model.variables if not v.path.endswith('seed_generator_state')]


def states(model):
  """The variables of a model that are states of its random layers."""
  return [v for v in model.variables if v.path.endswith('seed_generator_state')]


def of(model):
  """A dict from the path of each learned variable to its value, a float32 array (mostly)."""
  return {variable.path: np.asarray(variable) for variable in learned(model)}


def set_to(model, values, partly=False):
  """Assigns values to the learned variables of the same paths.

  Args:
    model: a built Keras model.
    values: dict from path to array. Further entries are ignored.
    partly: whether the model may have variables that `values` lacks; they stay.

  Raises:
    ValueError: an array is missing or has another shape; the message names it.
  """
  missing = [v.path for v in learned(model) if v.path not in values]
  if missing and not partly:
    raise ValueError(f'{len(missing)} arrays are missing: {", ".join(missing[:5])}'
                     f'{", ..." if len(missing) > 5 else ""}.')
  for variable in learned(model):
    if variable.path in values:
      value = values[variable.path]
      if tuple(value.shape) != tuple(variable.shape):
        raise ValueError(f'{variable.path} has shape {tuple(value.shape)}; '
                         f'{tuple(variable.shape)} is needed.')
      variable.assign(value)


def take(model, path, found, name_of, is_part):
  """Gives a model the weights of a file that names them otherwise.

  Args:
    model: a built Keras model.
    path: of the file, for messages.
    found: its content, a dict from name to array. What is neither named nor a part is ignored.
    name_of: function from the path of a variable to its name in the file; None for a variable
      that no file has, which stays as it is.
    is_part: function of a name: whether an array of this name is part of such a model, which
      therefore must have it.

  Raises:
    ValueError: arrays are missing, are more than the model has variables, or have other shapes.
      The model is then as it was.
  """
  shapes = {v.path: tuple(v.shape) for v in model.variables if name_of(v.path)}
  names = {name_of(own): own for own in shapes}
  missing = [name for name in names if name not in found]
  if missing:
    raise ValueError(f'{path} lacks {_few(missing)} of the {len(names)} arrays of this network.')
  # Without this, the weights of a deeper network would load in part, without a word.
  rest = [name for name in found if is_part(name) and name not in names]
  if rest:
    raise ValueError(f'{path} is of a deeper network than this one: it also has {_few(rest)}.')
  for name, own in names.items():
    if found[name].shape != shapes[own]:
      raise ValueError(f'{path}: {name} has shape {found[name].shape}; {shapes[own]} is needed.')
  set_to(model, {own: found[name] for name, own in names.items()}, partly=True)


def _few(names):
  """The first names and, if there are more, how many there are in all."""
  return ', '.join(names[:3]) + (f', ... ({len(names)})' if len(names) > 3 else '')


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
