"""Where modules can be besides folders, by the scheme of a URL.

  http://, https://   a server of TensorFlow Hub's protocol, to read only (`export.fetch`)
  hf://               Hugging Face's Hub (`export.hugging_face`)
  kaggle://           Kaggle Models (`export.kaggle`)
  any other           buckets (`export.buckets`); file:// is a folder

Each place is a module with the same functions: fixed, look, taken and upload; those whose URLs
are not ROOT/publisher/name/version, also address; those that can say what they have, listing.
"""

import contextlib
import os
import re
import tempfile

from export import buckets
from export import fetch as web
from export import hugging_face
from export import kaggle
from export import kept
from zoo import atomic
from zoo import cli

_URL = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://')
_FILE = 'file://'
_PLACES = {'http': web, 'https': web, 'hf': hugging_face, 'kaggle': kaggle}


def local(text):
  """The path that a file:// URL names; other text as it is."""
  return text.removeprefix(_FILE) or os.sep if text.startswith(_FILE) else text


def elsewhere(text):
  """Whether text is a URL of something that is no folder here."""
  return bool(_URL.match(local(text)))


def _place(url):
  return _PLACES.get(_URL.match(url)[1].lower(), buckets)


def address(root, handle):
  """The path or URL of publisher/name/version, or of publisher/name, in a hub.

  Args:
    root: folder or URL of the hub.
    handle: what the caller has checked to be one.

  Raises:
    ValueError: the root is no URL of a hub.
  """
  root = local(root)
  if not elsewhere(root):
    return os.path.join(root, handle)
  place = _place(root)
  if hasattr(place, 'address'):
    return place.address(root, handle)
  return f'{root.rstrip("/")}/{handle}'


def fetch(url, limits=kept.LIMITS):
  """The folder of the module that a URL names, which is fetched unless it is kept.

  Args:
    url: of a module elsewhere.
    limits: an `export.archives.Limits`.

  Raises:
    OSError: network, disk, or who asks may not; see `export.clients.explained`.
    ValueError: it is no URL of a module, or as `export.kept.module`.
  """
  place = _place(url)
  if place is web:
    return web.fetch(url, limits)
  return kept.module(url, place.fixed(url), lambda: place.look(url), limits)


def listing(root):
  """The modules of a hub elsewhere, or without network those of last time.

  Args:
    root: URL of the hub.

  Returns:
    A dict of what it calls the handles of its modules, and why each is deprecated, or None.

  Raises:
    ValueError: such a place cannot say what it has.
    OSError: as `export.clients.explained`.
  """
  place = _place(root)
  if not hasattr(place, 'listing'):
    raise ValueError(f'--hub={root} cannot be listed: name its modules one by one, with --hub= '
                     'and --handles=.')
  return kept.looked_up(f'what {root} has', lambda: place.listing(root))


def newest(root, handle):
  """The URL of the newest version of publisher/name in a hub elsewhere; most places find it."""
  if _place(root) is not web:
    return address(root, handle)
  versions = [(why is None, int(one.split('/')[-1])) for one, why in listing(root).items()
              if re.fullmatch(re.escape(handle) + '/[0-9]+', one)]
  if not versions:
    raise FileNotFoundError(f'{root} has no {handle}')
  return address(root, f'{handle}/{max(versions)[1]}')


def taken(root, handle):
  """Whether a hub has a module publisher/name/version; such a handle never changes."""
  where = address(root, handle)
  return _writable(where).taken(where) if elsewhere(where) else os.path.exists(where)


@contextlib.contextmanager
def publishing(root, handle):
  """A folder to write a module into, which is in a hub when the block ends without an error.

  Args:
    root: folder or URL of the hub.
    handle: publisher/name/version.

  Yields:
    The path of an empty folder. If the block raises, it goes.

  Raises:
    ValueError: the version is there already, or the hub is read-only.
    OSError: as `export.clients.explained`. A module that was not uploaded to its end is none.
  """
  where = address(root, handle)
  there = ValueError(f'{handle} is in {root} already, and a published version never changes: '
                     f'use --version={int(handle.split("/")[-1]) + 1}.')
  if taken(root, handle):
    raise there
  if not elsewhere(where):
    with atomic.writing_folder(where) as folder:
      yield folder
    return
  with tempfile.TemporaryDirectory(prefix='publishing-') as folder:
    yield folder
    try:
      _writable(where).upload(folder, where)
    except FileExistsError:  # somebody else was faster
      raise there from None
    except (OSError, ValueError):
      raise
    except Exception as error:  # a client's own, of many kinds
      raise OSError(f'{where} could not be published ({type(error).__name__}: '
                    f'{cli.last_line(error)})') from error


def _writable(url):
  place = _place(url)
  if place is web:
    raise ValueError(f'{url}: a hub is read over http, not written: publish into its folder.')
  return place
