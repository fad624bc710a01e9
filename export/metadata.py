"""module.json: what a module is, where it came from, and the digest that proves it whole."""

import hashlib
import os

from export import foreign
from zoo import atomic
from zoo import digests

FILE = 'module.json'
SCHEMA = 1
KINDS = ('baseline', 'expert', 'packed', 'multitask', 'predictor', 'finetuned', 'foreign')
PREDICTS = ('slices', 'labels')  # what a predictor gives log-probabilities of
REQUIRED = ('schema', 'publisher', 'name', 'version', 'kind', 'image_size', 'features',
            'fingerprint')


def fingerprint(path):
  """SHA-256 over the graph and the weights of a SavedModel, as hexadecimal digits.

  Args:
    path: folder of the SavedModel; or a file, of which it is the SHA-256.

  Raises:
    ValueError: it has no saved_model.pb or no variables.
  """
  if os.path.isfile(path):
    return digests.of_file(path)
  names = ['saved_model.pb']
  variables = os.path.join(path, 'variables')
  if not os.path.isfile(os.path.join(path, names[0])):
    raise ValueError(f'{path} is not a SavedModel: it has no saved_model.pb.')
  if os.path.isdir(variables):
    names += [os.path.join('variables', name) for name in sorted(os.listdir(variables))]
  digest = hashlib.sha256()
  for name in names:
    digest.update(f'{name}\0{os.path.getsize(os.path.join(path, name))}\0'.encode())
    with open(os.path.join(path, name), 'rb') as file:
      while chunk := file.read(1 << 20):
        digest.update(chunk)
  return digest.hexdigest()


def write(path, values):
  """Adds schema and fingerprint to a module's description and writes its module.json."""
  atomic.write_json(os.path.join(path, FILE),
                    {'schema': SCHEMA, **values, 'fingerprint': fingerprint(path)})


def read(path):
  """The description of a module.

  Args:
    path: folder of the module, or a .keras file.

  Returns:
    The content of module.json, unknown keys kept; for a SavedModel without one and for a
    .keras file a description of kind 'foreign' with the fingerprint, the image size if a .keras
    file says it, and no more.

  Raises:
    ValueError: the folder is no SavedModel, module.json lacks what it must have, or as
      `export.foreign.keras_image_size`.
  """
  unknown = {'schema': SCHEMA, 'kind': 'foreign', 'image_size': None, 'features': None}
  if os.path.isfile(path):
    return unknown | {'image_size': foreign.keras_image_size(path),
                      'fingerprint': fingerprint(path)}
  try:
    values = atomic.read_json(os.path.join(path, FILE))
  except FileNotFoundError:
    return unknown | {'fingerprint': fingerprint(path)}
  if not isinstance(values, dict):
    raise ValueError(f'{os.path.join(path, FILE)} is not a JSON object.')
  missing = [key for key in REQUIRED if key not in values]
  if missing:
    raise ValueError(f'{os.path.join(path, FILE)} lacks {", ".join(missing)}.')
  for key in ('schema', 'version', 'image_size'):
    if not isinstance(values[key], int):
      raise ValueError(f'{os.path.join(path, FILE)}: {key} is {values[key]!r}; it must be a '
                       'whole number.')
  if values.get('input_range') is not None:
    try:
      foreign.value_range(values['input_range'])
    except ValueError as error:
      raise ValueError(f'{os.path.join(path, FILE)}: {error}') from None
  if not all(isinstance(expert, dict) and 'name' in expert
             for expert in values.get('experts') or ()):
    raise ValueError(f'{os.path.join(path, FILE)}: every entry of experts needs a name.')
  if values['schema'] > SCHEMA:
    raise ValueError(f'{os.path.join(path, FILE)} has schema {values["schema"]}; this version '
                     f'reads up to {SCHEMA}: update it.')
  if values['kind'] not in KINDS:
    raise ValueError(f'{os.path.join(path, FILE)} has kind {values["kind"]!r}; '
                     f'it must be one of {", ".join(KINDS)}.')
  if values['kind'] == 'predictor':
    _check_predictor(path, values)
  return values


def _check_predictor(path, values):
  """Raises ValueError unless a predictor says what its outputs are."""
  names, slices = values.get('classes'), values.get('slices') or ()
  if values.get('predicts') not in PREDICTS or not names:
    raise ValueError(f'{os.path.join(path, FILE)}: a predictor needs predicts '
                     f'({" or ".join(PREDICTS)}) and classes, the names of its outputs.')
  if values['predicts'] == 'slices' and (
      len(slices) != len(names) or not all('node' in one for one in slices)):
    raise ValueError(f'{os.path.join(path, FILE)}: slices must say the node of each of the '
                     f'{len(names)} classes.')


def versions():
  """The versions of the libraries that shape a result, as a dict."""
  import importlib.metadata
  names = ('tensorflow', 'keras', 'tensorflow-hub', 'tensorflow-datasets', 'numpy', 'scann')
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
