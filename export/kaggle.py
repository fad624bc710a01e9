"""Modules on Kaggle Models: kaggle://owner/model/framework/variation/version.

Kaggle counts the versions itself. kagglehub keeps what it downloads in a cache of its own, from
which it goes on after an interruption.
"""

import contextlib
import re
import shutil
import sys

from export import clients
from export import kept

_HANDLE = re.compile(r'kaggle://((?:[A-Za-z0-9][\w.-]*/){3}[A-Za-z0-9][\w.-]*)(?:/([0-9]+))?',
                     re.ASCII)
_BELOW = 'tensorFlow2/default'  # framework and variation of what we publish
_PAGE = 100


def address(root, handle):
  """The URL of publisher/name/version, or of publisher/name."""
  if root != 'kaggle://':
    raise ValueError(f'{root}: as a hub, Kaggle is kaggle://, and the publisher its owner.')
  publisher, name, *version = handle.split('/')
  return '/'.join([f'kaggle://{publisher}', name, _BELOW, *version])


def fixed(url):
  """Whether a URL names a version."""
  return _split(url)[1] is not None


def look(url):
  """The `export.kept.Source` of a version, or of the newest.

  Raises:
    OSError: as `export.clients.explained`.
    ValueError: Kaggle knows no such framework.
  """
  with _client() as (_, models):
    from kagglesdk.models.types import model_api_service as requests
    variation, version = _split(url)
    version = version or _newest(models, variation)
    if not version:
      raise FileNotFoundError(f'{url} has no version')
    asked = _about(requests.ApiListModelInstanceVersionFilesRequest(), variation)
    asked.version_number, asked.page_size = version, _PAGE
    files = {}
    while len(files) <= kept.LIMITS.members:
      answer = models.list_model_instance_version_files(asked)
      files |= {file.name: file.size for file in answer.files}
      asked.page_token = answer.next_page_token
      if not asked.page_token:
        break

  def download(name, target, work):
    del work
    with _client() as (kagglehub, _):
      shutil.copyfile(kagglehub.model_download(f'{variation}/{version}', name), target)

  return kept.Source(files, f'kaggle://{variation}/{version}', download)


def taken(url):
  """Whether there is such a version.

  Raises:
    ValueError: there is none, but it would not be the next.
  """
  variation, version = _split(url)
  try:
    with _client() as (_, models):
      newest = _newest(models, variation)
  except (FileNotFoundError, PermissionError):  # it says the one for the other
    newest = 0
  if version > newest + 1:
    raise ValueError(f'{url}: Kaggle counts versions itself, and the next is {newest + 1}: '
                     f'use --version={newest + 1}.')
  return version <= newest


def upload(folder, url):
  """Makes the folder of a module the next version. Raises as `export.clients.explained`."""
  variation, _ = _split(url)
  with _client() as (kagglehub, _):
    kagglehub.model_upload(variation, folder)


def _newest(models, variation):
  """The number of the newest version."""
  from kagglesdk.models.types import model_api_service as requests
  return models.get_model_instance(
      _about(requests.ApiGetModelInstanceRequest(), variation)).version_number


def _about(request, variation):
  """A request about a variation."""
  from kagglehub import handle
  parsed = handle.parse_model_handle(variation)
  request.owner_slug, request.model_slug = parsed.owner, parsed.model
  request.framework, request.instance_slug = parsed.framework_enum(), parsed.variation
  return request


def _split(url):
  """(owner/model/framework/variation, version or None) of a URL."""
  match = _HANDLE.fullmatch(url)
  if not match:
    raise ValueError(f'{url!r} must be kaggle://owner/model/framework/variation, perhaps with '
                     '/version.')
  return match[1], match[2] and int(match[2])


@contextlib.contextmanager
def _client():
  """kagglehub, and the client of its that asks about models."""
  with (clients.explained('Kaggle', 'set KAGGLE_API_TOKEN to a token that may'),
        contextlib.redirect_stdout(sys.stderr)):  # it says much, and our stdout is for results
    try:
      import kagglehub
      from kagglehub import clients as kagglehub_clients
    except ImportError:
      raise clients.missing('kaggle', 'kagglehub', 'kaggle') from None
    with kagglehub_clients.build_kaggle_client() as client:
      yield kagglehub, client.models.model_api_client
