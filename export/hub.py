"""The hub: a folder of modules ROOT/publisher/name/version, and how handles name them."""

import concurrent.futures
import dataclasses
import errno
import logging
import os
import re

import zoo
from export import deprecation
from export import foreign
from export import kept
from export import manifest
from export import metadata
from export import safety
from export import stores
from zoo import cli

logger = logging.getLogger(__name__)

EMBEDDED = os.path.join(os.path.dirname(zoo.__file__), 'modules')
LATEST = 'latest'  # in the place of a version
_AT_ONCE = 8  # modules that are fetched
_PART = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.\-]*')


@dataclasses.dataclass(frozen=True)
class Module:
  """A module on disk.

  Attributes:
    handle: what the user calls it: publisher/name/version, a path or a URL.
    path: its folder, or its .keras file.
    metadata: module.json, as `export.metadata.read` gives it.
    deprecated: why it should not be used any more, or None.
  """
  handle: str
  path: str
  metadata: dict
  deprecated: str | None = None

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
    root: folder of the hub; or its URL, of all of whose modules those that are not here yet are
      fetched.

  Returns:
    A list of `Module`. Folders that start with a dot are being written and not listed.

  Raises:
    ValueError: the root is no folder or holds no module, a module.json is wrong, or a module
      cannot be fetched.
  """
  root = stores.local(root)
  if stores.elsewhere(root):
    return _all_elsewhere(root)
  if not os.path.isdir(root):
    raise ValueError(f'--hub={root} is not a folder.')
  found = [_listed(root, handle) for handle in handles(root)]
  if not found:
    raise ValueError(f'--hub={root} has no module: a module is a folder '
                     'publisher/name/version with a saved_model.pb.')
  return found


def _all_elsewhere(root):
  """`modules`, of a URL; those of the same content once."""
  try:
    listed = stores.listing(root)
  except Exception as error:  # of the network, of many kinds
    raise _unfetched(root, error) from None
  for handle in listed:
    split_handle(handle)
  if not listed:
    raise ValueError(f'--hub={root} has no module.')
  with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    found = list(pool.map(lambda handle: _fetched(
        stores.address(root, handle), handle, listed[handle]), sorted(listed)))
  return list({module.path: module for module in reversed(found)}.values())[::-1]


def _listed(root, handle):
  """The module of a hub's folder."""
  path = os.path.join(root, handle)
  return Module(handle, path, metadata.read(path), deprecation.reason(root, handle))


def handles(root, links=True):
  """The handles of a hub's modules, sorted, whatever their module.json says.

  Args:
    root: folder of the hub.
    links: whether folders may be links.

  Returns:
    A list of publisher/name/version; folders without a saved_model.pb are left out.
  """
  found = ['']
  for _ in range(3):
    found = [f'{above}{entry}/' for above in found
             for entry in _folders(os.path.join(root, above), links)]
  return sorted(handle[:-1] for handle in found
                if os.path.exists(os.path.join(root, handle, 'saved_model.pb')))


def newest(root, publisher, name, links=True):
  """The newest version of a module that is not deprecated; if all are, the newest.

  Args:
    root: folder of the hub.
    publisher, name: of the module.
    links: as in `handles`.

  Returns:
    The version as text; None if there is none.

  Raises:
    ValueError: as `export.deprecation.reasons`.
  """
  if not (_PART.fullmatch(publisher) and _PART.fullmatch(name)):
    return None
  above = os.path.join(root, publisher)
  path = os.path.join(above, name)
  if not links and (os.path.islink(above) or os.path.islink(path)):
    return None
  versions = [version for version in _folders(path, links) if version.isdigit()]
  old = deprecation.reasons(root, publisher, name) if versions else ()
  return max(versions, key=lambda version: (version not in old, int(version)), default=None)


def _folders(path, links):
  """The folders in a folder whose names can be part of a handle; none if there is no such."""
  try:
    entries = os.listdir(path)
  except OSError as error:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
      return []
    raise
  return [entry for entry in entries
          if _PART.fullmatch(entry) and os.path.isdir(os.path.join(path, entry))
          and (links or not os.path.islink(os.path.join(path, entry)))]


def resolve(handle, root=EMBEDDED):
  """Finds the module that a handle names.

  Args:
    handle: publisher/name/version in the hub; publisher/name or publisher/name/latest for its
      newest version; a path of a SavedModel or of a .keras file; or a URL of a module
      elsewhere (`export.stores`), which is fetched and kept.
    root: folder or URL of the hub.

  Returns:
    A `Module`.

  Raises:
    ValueError: there is no such module, or it cannot be fetched.
  """
  handle, root = stores.local(handle), stores.local(root)
  if stores.elsewhere(handle):
    return _fetched(handle, handle)
  # The hub comes first: a folder below the present one must not stand in for its modules.
  parts = handle.split('/')
  if parts[2:] == [LATEST]:
    parts.pop()
  named = len(parts) in (2, 3) and all(map(_PART.fullmatch, parts))
  if named and stores.elsewhere(root):
    return _of_hub_elsewhere(root, '/'.join(parts))
  if len(parts) == 2:
    parts[2:] = [newest(root, *parts) or LATEST]
  if named and os.path.isdir(os.path.join(root, *parts)):
    return _listed(root, '/'.join(parts))
  if not os.path.isdir(handle) and not (
      handle.endswith(foreign.KERAS) and os.path.isfile(handle)):
    raise ValueError(f'no module {handle!r}: it is neither in {root} nor a folder or '
                     f'{foreign.KERAS} file.')
  path = os.path.abspath(handle)
  return Module(handle, path, metadata.read(path))


def _of_hub_elsewhere(root, handle):
  """The module publisher/name/version, or the newest publisher/name, of a hub at a URL."""
  try:
    find = stores.newest if handle.count('/') == 1 else stores.address
    url = find(root, handle)
  except Exception as error:  # of the network, of many kinds
    raise _unfetched(f'{handle} of {root}', error) from None
  module = _fetched(url, handle)
  if find is stores.newest and 'version' in module.metadata:
    return dataclasses.replace(module, handle=f'{handle}/{module.metadata["version"]}')
  return module


def _fetched(url, handle, deprecated=None):
  """The module of a URL, from the cache if it is there."""
  if url.endswith(foreign.KERAS):
    raise ValueError(f'{url}: fetch the {foreign.KERAS} file yourself and give its path.')
  try:
    path = stores.fetch(url)
  except Exception as error:  # network, archive, disk: whatever these raise
    raise _unfetched(url, error) from None
  try:
    return Module(handle, path, metadata.read(path), deprecated)
  except ValueError as error:
    raise ValueError(f'{url} gave no module ({error}) {_again(path)}') from None


def _unfetched(url, error):
  return ValueError(f'{url} could not be fetched ({type(error).__name__}: '
                    f'{cli.last_line(error).rstrip(".")}).')


def _again(path):
  """What to do about a fetched folder that is not what it should be: it would be used again."""
  return f'Remove {path} and it is fetched again.'


def check(module, trust=False):
  """Checks a module before it is loaded.

  Args:
    module: a `Module`.
    trust: load it even if its graph reaches files, sockets or Python.

  Raises:
    ValueError: it is damaged (graph and weights are not those of its module.json, or its files
      not those of its SHA256SUMS), or it reaches out and `trust` is false.
  """
  if module.deprecated:
    logger.warning('%s is deprecated: %s', module.handle, module.deprecated)
  try:
    manifest.check(module.path, module.metadata)
  except ValueError as error:
    again = (_again(module.path) if kept.holds(module.path)
             else 'Fetch or publish it again.')
    raise ValueError(f'module {module.handle} is damaged: {error}. {again}') from None
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
