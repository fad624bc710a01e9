"""Modules on Hugging Face's Hub: hf://user/name@revision.

The versions of a module are tags, v1 for version 1, and never change; branches do. Without a
revision it is the branch main, which has the version that was published last.
"""

import os
import re
import sys

from export import archives
from export import clients
from export import kept

_HANDLE = re.compile(r'hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?',
                     re.ASCII)
_VERSION = re.compile(r'v[0-9]+')
_COMMIT = re.compile(r'[0-9a-f]{40}')
_KEPT = '.gitattributes'  # says which files are large; the Hub's own


def address(root, handle):
  """The URL of publisher/name/version, or of publisher/name."""
  if root != 'hf://':
    raise ValueError(f'{root}: as a hub, Hugging Face is hf://, and the publisher its user.')
  publisher, name, *version = handle.split('/')
  return f'hf://{publisher}/{name}' + ''.join(f'@v{number}' for number in version)


def fixed(url):
  """Whether a URL names a version or a commit."""
  _, revision = _split(url)
  return bool(_VERSION.fullmatch(revision) or _COMMIT.fullmatch(revision))


def look(url):
  """The `export.kept.Source` of a repository. Raises as `export.clients.explained`."""
  repository, revision = _split(url)
  client = _client()
  with _explained():
    info = client.HfApi().model_info(repository, revision=revision, files_metadata=True)

  def download(name, target, work):
    with _explained():  # goes on by itself if the transfer breaks off
      client.hf_hub_download(repository, name, revision=info.sha, local_dir=work)
    os.replace(os.path.join(work, name), target)

  return kept.Source({file.rfilename: file.size or 0 for file in info.siblings},
                     f'hf://{repository}@{info.sha}', download)


def taken(url):
  """Whether there is such a version."""
  repository, revision = _split(url)
  try:
    with _explained():
      refs = _client().HfApi().list_repo_refs(repository)
  except FileNotFoundError:
    return False
  return revision in {tag.name for tag in refs.tags}


def upload(folder, url):
  """Makes the folder of a module the content of a repository, in one commit, and tags it.

  Raises:
    FileExistsError: somebody else was faster.
    OSError: as `export.clients.explained`.
  """
  repository, revision = _split(url)
  client = _client()
  api = client.HfApi()
  with _explained():
    api.create_repo(repository, exist_ok=True)
    head = api.model_info(repository)
    files = [name for name, _ in archives.files(folder)
             if os.path.isfile(os.path.join(folder, name))]
    gone = {file.rfilename for file in head.siblings} - {*files, _KEPT}
    commit = api.create_commit(
        repository, [*(client.CommitOperationAdd(name, os.path.join(folder, name))
                       for name in files),
                     *map(client.CommitOperationDelete, sorted(gone))],
        commit_message=f'Version {revision[1:]}', parent_commit=head.sha)
    try:
      api.create_tag(repository, tag=revision, revision=commit.oid)
    except client.errors.HfHubHTTPError as error:
      if error.response.status_code == 409:
        raise FileExistsError(f'{url} is there by now') from error
      raise


def _split(url):
  """(user/name, revision) of a URL."""
  match = _HANDLE.fullmatch(url)
  if not match or '..' in url:
    raise ValueError(f'{url!r} must be hf://user/name or hf://user/name@revision.')
  return match[1], match[2] or 'main'


def _client():
  try:
    import huggingface_hub
    from huggingface_hub import utils
  except ImportError:
    raise clients.missing('hf', 'huggingface_hub', 'huggingface') from None
  if not sys.stderr.isatty():
    utils.disable_progress_bars()
  return huggingface_hub


def _explained():
  return clients.explained('Hugging Face', 'set HF_TOKEN to a token that may, or run hf auth login')
