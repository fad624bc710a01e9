"""The hub: a folder of modules ROOT/publisher/name/version, and how handles name them."""

import dataclasses
import os
import re

import zoo
from export import foreign
from export import metadata
from export import safety
from zoo import cli

EMBEDDED = os.path.join(os.path.dirname(zoo.__file__), 'modules')
_WEB = ('http://', 'https://')
_PART = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.\-]*')


@dataclasses.dataclass(frozen=True)
class Module:
  """A module on disk.

  Attributes:
    handle: what the user calls it: publisher/name/version, a path or a URL.
    path: its folder, or its .keras file.
    metadata: module.json, as `export.metadata.read` gives it.
  """
  handle: str
  path: str
  metadata: dict

  @property
  def kind(self):
    """One of `export.metadata.KINDS`."""
    return self.metadata['kind']


def split_handle(handle):
  """Splits 'publisher/name/version' and checks that it can only name a module.

  Raises:
    ValueError: it has another form.
  """
  parts = handle.split('/')
  if len(parts) != 3 or not all(map(_PART.fullmatch, parts)) or not parts[2].isdigit():
    raise ValueError(f'{handle!r} is not a handle: it must be publisher/name/version of '
                     'letters, digits, "_", "-" and ".", the version a whole number.')
  return parts


def modules(root):
  """The modules of a hub, sorted by handle.

  Args:
    root: folder of the hub.

  Returns:
    A list of `Module`. Folders that start with a dot are being written and not listed.

  Raises:
    ValueError: the root is no folder or holds no module, or a module.json is wrong.
  """
  if not os.path.isdir(root):
    raise ValueError(f'--hub={root} is not a folder.')
  found = []
  for publisher, name, version in _three_levels(root):
    path = os.path.join(root, publisher, name, version)
    if os.path.exists(os.path.join(path, 'saved_model.pb')):
      found.append(Module(f'{publisher}/{name}/{version}', path, metadata.read(path)))
  if not found:
    raise ValueError(f'--hub={root} has no module: a module is a folder '
                     'publisher/name/version with a saved_model.pb.')
  return sorted(found, key=lambda module: module.handle)


def _three_levels(root, parts=()):
  if len(parts) == 3:
    yield parts
    return
  for entry in sorted(os.listdir(os.path.join(root, *parts))):
    if _PART.fullmatch(entry) and os.path.isdir(os.path.join(root, *parts, entry)):
      yield from _three_levels(root, (*parts, entry))


def resolve(handle, root=EMBEDDED):
  """Finds the module that a handle names.

  Args:
    handle: publisher/name/version in the hub; publisher/name for its newest version; a
      path of a SavedModel or of a .keras file; or an http(s) URL of an archive of a SavedModel,
      which TensorFlow Hub fetches and caches.
    root: folder of the hub.

  Returns:
    A `Module`.

  Raises:
    ValueError: there is no such module.
  """
  if handle.startswith(_WEB):
    return _fetched(handle)
  # The hub comes first: a folder below the present one must not stand in for its modules.
  parts = handle.split('/')
  if len(parts) == 2 and all(map(_PART.fullmatch, parts)):
    folder = os.path.join(root, *parts)
    found = [v for v in os.listdir(folder) if v.isdigit()] if os.path.isdir(folder) else []
    if found:
      parts.append(max(found, key=int))
  path = os.path.join(root, *parts)
  if len(parts) == 3 and all(map(_PART.fullmatch, parts)) and os.path.isdir(path):
    return Module('/'.join(parts), path, metadata.read(path))
  if not os.path.isdir(handle) and not (
      handle.endswith(foreign.KERAS) and os.path.isfile(handle)):
    raise ValueError(f'no module {handle!r}: it is neither in {root} nor a folder or '
                     f'{foreign.KERAS} file.')
  path = os.path.abspath(handle)
  return Module(handle, path, metadata.read(path))


def _fetched(url):
  """The module of a URL, from TensorFlow Hub's cache if it is there."""
  if url.endswith(foreign.KERAS):
    raise ValueError(f'{url}: fetch the {foreign.KERAS} file yourself and give its path.')
  import tensorflow_hub
  try:
    # Refuses archives with links, or with members outside of their folder.
    path = tensorflow_hub.resolve(url)
  except Exception as error:  # network, archive, disk: whatever the client raises
    raise ValueError(f'{url} could not be fetched ({type(error).__name__}: {error}).') from None
  try:
    return Module(url, path, metadata.read(path))
  except ValueError as error:
    raise ValueError(f'{url} gave no module ({error}) {_again(path)}') from None


def _again(path):
  """What to do about a fetched folder that is not what it should be: it would be used again."""
  return f'Remove {path} and it is fetched again.'


def check(module, trust=False):
  """Checks a module before it is loaded.

  Args:
    module: a `Module`.
    trust: load it even if its graph reaches files, sockets or Python.

  Raises:
    ValueError: it is damaged (graph and weights are not those of its module.json), or it
      reaches out and `trust` is false.
  """
  there = metadata.fingerprint(module.path)
  if there != module.metadata['fingerprint']:
    again = (_again(module.path) if module.handle.startswith(_WEB)
             else 'Fetch or publish it again.')
    raise ValueError(f'module {module.handle} is damaged: its files are not those that '
                     f'module.json describes. {again}')
  if not trust and os.path.isdir(module.path):  # Keras looks through its files itself
    reaching = safety.ops_reaching_out(module.path)
    if reaching:
      raise ValueError(
          f'module {module.handle} could touch more than tensors ({", ".join(reaching)}): '
          'say --trust if you know where it comes from.')


def load(module, trust=False, checked=False, input_range=foreign.UNIT):
  """Checks and loads a module.

  Args:
    module: a `Module`.
    trust: as in `check`.
    checked: `check` has passed it already.
    input_range: (low, high), values of the images that the module itself takes.

  Returns:
    A function of images in [0, 1], as `export.foreign.load` gives it; that of a module of ours
    is the object of `tf.saved_model.load`.

  Raises:
    ValueError: as `check` does, it cannot be loaded, or it is no image module.
  """
  if not checked:
    check(module, trust)
  try:
    return foreign.load(module.path, input_range)
  except foreign.UnusableError as error:
    raise ValueError(f'module {module.handle}: {error}') from None
  except Exception as error:  # TensorFlow's own, of many kinds
    raise ValueError(f'module {module.handle} cannot be loaded '
                     f'({type(error).__name__}: {cli.last_line(error)}).') from None
