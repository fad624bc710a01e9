"""Modules in buckets: gs://, s3:// and whatever else fsspec knows.

A hub in a bucket is laid out as one in a folder: ROOT/publisher/name/version. Its saved_model.pb
is the last file that is uploaded, and without it there is no module: one that was interrupted is
none, and the next try overwrites it.
"""

import json
import os
import posixpath
import re

from export import archives
from export import clients
from export import deprecation
from export import kept

_GRAPH = 'saved_model.pb'
_BLOCK = 8 << 20  # bytes of a request; what breaks off goes on behind the last whole one
_MOST_JSON = 1 << 20  # bytes of a deprecated.json
_LOGINS = {
    'gs': 'set GOOGLE_APPLICATION_CREDENTIALS to the file of an account that may',
    's3': 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to an account that may '
          '(FSSPEC_S3_ANON=true for a public bucket)'}


def fixed(url):
  """Whether a URL names one version; a version never changes."""
  return posixpath.basename(url.rstrip('/')).isdigit()


def look(url):
  """The `export.kept.Source` of a module, or of the newest version of one.

  Args:
    url: of the folder of a SavedModel; or of the folder of its versions, of which the newest is
      taken that is not deprecated.

  Raises:
    OSError: as `export.clients.explained`.
    ValueError: the URL is none of fsspec's, or the bucket's names are not those of files.
  """
  with _explained(url):
    system, path = _opened(url)
    if not fixed(url) and not _has(system, path):
      path = _newest(system, path)
    found = {name[len(path) + 1:]: entry
             for name, entry in system.find(path, detail=True).items()}
  if not found:
    raise FileNotFoundError(f'nothing is at {url}')

  def download(name, target, work):
    del work
    size = found[name]['size']
    with (_explained(url), open(target, 'ab', 0) as out,
          system.open(f'{path}/{name}', 'rb', block_size=_BLOCK) as stream):
      stream.seek(out.tell())
      while chunk := stream.read(min(_BLOCK, size - out.tell())):
        out.write(chunk)

  state = json.dumps([system.unstrip_protocol(path), sorted(
      (name, *(str(entry.get(key)) for key in ('size', 'ETag', 'etag', 'created', 'mtime')))
      for name, entry in found.items())])
  return kept.Source({name: entry['size'] for name, entry in found.items()}, state, download)


def listing(root):
  """The modules of a hub: dict of publisher/name/version and why it is deprecated, or None."""
  with _explained(root):
    system, path = _opened(root)
    names = [name[len(path) + 1:] for name in system.find(path)]
    handles = sorted(match[1] for match in map(
        re.compile(rf'([^/]+/[^/]+/\d+)/{re.escape(_GRAPH)}').fullmatch, names) if match)
    reasons = {posixpath.dirname(name): _reasons(system, f'{path}/{name}') for name in names
               if re.fullmatch(rf'[^/]+/[^/]+/{re.escape(deprecation.FILE)}', name)}
  return {handle: reasons.get(posixpath.dirname(handle), {}).get(posixpath.basename(handle))
          for handle in handles}


def taken(url):
  """Whether there is a module."""
  with _explained(url):
    system, path = _opened(url)
    return _has(system, path)


def upload(folder, url):
  """Uploads the folder of a module.

  Raises:
    FileExistsError: somebody else was faster.
    OSError: as `export.clients.explained`.
  """
  with _explained(url):
    system, path = _opened(url)
    names = [name for name, _ in archives.files(folder)
             if name != _GRAPH and os.path.isfile(os.path.join(folder, name))]
    for name in names:
      system.put_file(os.path.join(folder, name), f'{path}/{name}')
    system.put_file(os.path.join(folder, _GRAPH), f'{path}/{_GRAPH}', mode='create')


def _opened(url):
  """The file system of a URL, and the path in it."""
  import fsspec
  scheme = url.partition('://')[0]
  if '::' in url or scheme not in fsspec.available_protocols():
    raise ValueError(f'{url}: fsspec knows no {scheme}://, the places of modules are folders, '
                     'http(s)://, hf://, kaggle:// and buckets such as gs:// and s3://.')
  try:
    system, path = fsspec.url_to_fs(url.rstrip('/'))
  except ImportError:
    raise clients.missing(scheme, "fsspec's client", 'buckets') from None
  system.invalidate_cache()  # it keeps listings, and others publish
  return system, path.rstrip('/')


def _explained(url):
  scheme = url.partition('://')[0]
  return clients.explained(
      f'{scheme}://{url.partition("://")[2].partition("/")[0]}',
      _LOGINS.get('gs' if scheme == 'gcs' else scheme, 'log in as its client wants it'))


def _has(system, path):
  """Whether there is a module; `exists` would say no where one may not look."""
  try:
    system.info(f'{path}/{_GRAPH}')
    return True
  except FileNotFoundError:
    return False


def _newest(system, path):
  versions = [posixpath.basename(entry.rstrip('/')) for entry in system.ls(path, detail=False)]
  versions = [version for version in versions
              if version.isdigit() and _has(system, f'{path}/{version}')]
  if not versions:
    raise FileNotFoundError(f'{path} is no module and has no versions of one')
  old = _reasons(system, f'{path}/{deprecation.FILE}')
  return f'{path}/' + max(versions, key=lambda version: (version not in old, int(version)))


def _reasons(system, path):
  """What a deprecated.json says, which need not be there."""
  try:
    return deprecation.parse(json.loads(system.cat_file(path, 0, _MOST_JSON)), path)
  except FileNotFoundError:
    return {}
