"""Modules from the web, kept by URL where TensorFlow Hub's client keeps them.

The protocol is TensorFlow Hub's: URL?tf-hub-format=compressed answers a tar.gz. One process
downloads, the others wait for it. A transfer that breaks off goes on where it was if the server
names what it sends (ETag) and takes ranges. Nothing is kept as a module that
`export.archives` refuses or that is not what its module.json describes.
"""

import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request

from export import archives
from export import clients
from export import kept
from export import manifest
from export import metadata
from zoo import atomic

TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20
_MOST_INDEX = 64 << 20  # bytes; 1,000 modules have half a megabyte


def fetch(url, limits=kept.LIMITS):
  """The folder of the module that a URL serves; without the network once it was fetched.

  Args:
    url: http(s), as `hub.KerasLayer` takes it.
    limits: an `export.archives.Limits`, of the archive and of what is in it.

  Returns:
    A path below $TFHUB_CACHE_DIR (or tfhub_modules in the folder for temporary files), the one
    that TensorFlow Hub's client has for this URL.

  Raises:
    OSError: network or disk; `urllib.error.HTTPError` for an answer such as 404.
    ValueError: what was sent is refused by `export.archives`, is no SavedModel, or its files are
      not those that its SHA256SUMS and its module.json describe. It is fetched anew the next time.
  """
  folder = os.path.join(
      kept.root(), hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest())
  if kept.use(folder):
    return folder
  with kept.locked(folder + '.fetching'):
    if not kept.is_there(folder):
      part = _Part(folder)
      part.download(_compressed(url), limits.size)
      try:
        _unpack(part.path, folder, limits)
      except FileExistsError:
        if not kept.is_there(folder):  # else TensorFlow Hub's client was faster
          raise
      finally:
        part.remove()
  return folder


def listing(root):
  """The modules of a server as its /index.json has them.

  Args:
    root: URL of the server.

  Returns:
    A dict of what it calls their handles, and why each is deprecated, or None.

  Raises:
    OSError: as `export.clients.explained`.
    ValueError: there is no such index.
  """
  url = f'{root.rstrip("/")}/index.json'
  with (clients.explained(root, 'it wants to know who asks'),
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer):
    content = answer.read(_MOST_INDEX)
  try:
    return {one['handle']: one.get('deprecated') for one in json.loads(content)['modules']}
  except (ValueError, TypeError, LookupError, AttributeError):
    raise ValueError(f'{url} is no index of modules.') from None


def _compressed(url):
  """The URL of the archive."""
  parts = urllib.parse.urlsplit(url)
  query = [*urllib.parse.parse_qsl(parts.query), ('tf-hub-format', 'compressed')]
  return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(query)))


def _unpack(archive, folder, limits):
  """Makes an archive a folder if it holds the module that it says it does."""
  with contextlib.suppress(OSError):
    os.rmdir(folder)  # an empty one is none
  with atomic.writing_folder(folder) as temporary:
    archives.extract(archive, temporary, limits)
    try:
      manifest.check(temporary, metadata.read(temporary))
    except ValueError as error:
      raise ValueError(str(error).replace(temporary, 'the archive')) from None


class _Part:
  """What has been downloaded of an archive, and the ETag under which the rest can be had."""

  def __init__(self, folder):
    self.path, self._etag = folder + '.part', folder + '.etag'

  def download(self, url, most):
    """Downloads what is missing.

    Raises:
      OSError: the network or the disk; what has come is kept if the rest can be had.
      ValueError: there is more than `most` bytes.
    """
    try:
      with self._open(url) as answer:
        at = self._start(answer)
        length = answer.headers.get('Content-Length')
        with open(self.path, 'ab') as file:
          while chunk := answer.read(_CHUNK):
            if file.tell() + len(chunk) > most:
              self.remove()
              raise ValueError(f'it is more than {most:,} bytes')
            file.write(chunk)
          if length is not None and file.tell() != at + int(length):
            raise OSError(f'the transfer broke off after {file.tell():,} of '
                          f'{at + int(length):,} bytes')
    except BaseException:
      if not os.path.exists(self._etag):
        self.remove()
      raise

  def _open(self, url):
    """The server's answer, to a request for the rest if there is a part."""
    headers = {}
    with contextlib.suppress(FileNotFoundError):
      at = os.path.getsize(self.path)
      with open(self._etag, encoding='utf-8') as file:
        headers = {'Range': f'bytes={at}-', 'If-Range': file.read()} if at else {}
    try:
      return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
      if error.code != 416:  # there is nothing behind the part: it was whole, or is wrong
        raise
      error.close()
      self.remove()
      return urllib.request.urlopen(url, timeout=TIMEOUT)

  def _start(self, answer):
    """How many bytes the part has that the answer goes on from; else it starts anew."""
    if answer.status == 206:
      at = os.path.getsize(self.path)
      if not answer.headers.get('Content-Range', '').startswith(f'bytes {at}-'):
        self.remove()
        raise OSError('the server sent another range than it was asked for')
      return at
    self.remove()
    etag = answer.headers.get('ETag') or ''
    if etag.startswith('"'):  # a weak one does not promise the same bytes
      atomic.write_text(self._etag, etag)
    return 0

  def remove(self):
    for path in (self._etag, self.path):
      with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
