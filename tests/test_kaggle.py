"""Modules on Kaggle Models, whose client downloads and uploads."""

import os
import sys

import numpy as np
import pytest
from conftest import answering
from conftest import put_version
from stand_ins import Kaggle

from export import hub
from export import hub_main
from export import metadata
from export import publish

pytest.importorskip('kagglehub')

HANDLE = 'kaggle://test/expert/tensorFlow2/default'
IMAGES = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)


@pytest.fixture
def kaggle(here, tmp_path, monkeypatch):
  """Kaggle at an address on loopback, while the test runs."""
  monkeypatch.setenv('KAGGLE_API_TOKEN', 'mine')
  monkeypatch.setenv('KAGGLEHUB_CACHE', str(tmp_path / 'theirs'))
  monkeypatch.setenv('KAGGLE_API_ENVIRONMENT', 'LOCALHOST')
  # It looks for the module of every frame of the stack, which takes seconds where many are loaded.
  monkeypatch.setattr('kagglehub.clients.get_user_agent', lambda: 'kagglehub')
  stand_in = Kaggle()
  with answering(stand_in.answer) as stand_in.url:
    _point(monkeypatch, stand_in.url)
    yield stand_in


def _point(monkeypatch, url):
  """Makes the client ask a server at a URL."""
  from kagglesdk import kaggle_env
  monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, url)


def test_what_is_published_there_is_loaded_from_there_and_then_without_it(
    tiny_hub, kaggle, console, monkeypatch):
  import tensorflow_hub
  code, out, _ = console(publish, '--hub=kaggle://', f'--module={tiny_hub}/test/expert/1')
  assert (code, out) == (0, '["test/expert/1"]\n')
  module = hub.resolve(f'{HANDLE}/1')
  assert module.metadata == metadata.read(os.path.join(tiny_hub, 'test/expert/1'))
  np.testing.assert_array_equal(
      tensorflow_hub.KerasLayer(module.path)(IMAGES),
      hub.load(hub.resolve('test/expert/1', tiny_hub))(IMAGES))
  assert hub.resolve(HANDLE).path == module.path
  assert hub.resolve('test/expert/1', 'kaggle://').path == module.path
  asked = len(kaggle.asked)
  _point(monkeypatch, 'http://127.0.0.1:9')
  assert hub.resolve(f'{HANDLE}/1') == module
  code, _, err = console(hub_main, '--hub=', f'--handles={HANDLE}')
  assert (code, len(err.splitlines())) == (0, 1)
  assert err.startswith(f'{HANDLE}: Kaggle cannot be reached (')
  assert len(kaggle.asked) == asked


def test_kaggle_counts_the_versions(tiny_hub, kaggle):
  with pytest.raises(ValueError, match=r'the next is 1: use --version=1'):
    put_version(tiny_hub, 'kaggle://', 2)
  put_version(tiny_hub, 'kaggle://')
  with pytest.raises(ValueError, match=r'test/expert/1 is in kaggle:// already.*--version=2'):
    put_version(tiny_hub, 'kaggle://')
  put_version(tiny_hub, 'kaggle://', 2)
  assert hub.resolve(HANDLE).metadata['version'] == 2
  assert hub.resolve(f'{HANDLE}/1').metadata['version'] == 1


def test_a_transfer_that_breaks_off_goes_on_where_it_was(tiny_hub, kaggle, monkeypatch):
  put_version(tiny_hub, 'kaggle://')
  monkeypatch.setattr('kagglehub.clients.CHUNK_SIZE', 10)
  kaggle.breaks = [None, None, 50]  # of SHA256SUMS, and then of the second file
  with pytest.raises(ValueError, match='could not be fetched'):
    hub.resolve(f'{HANDLE}/1')
  kaggle.asked.clear()
  hub.check(hub.resolve(f'{HANDLE}/1'))
  assert 'bytes=50-' in [asked for _, _, asked in kaggle.asked]


def test_a_byte_that_flipped_there_is_refused_and_nothing_of_it_stays(tiny_hub, kaggle, here):
  put_version(tiny_hub, 'kaggle://')
  files, = kaggle.versions.values()
  files[0]['saved_model.pb'] = files[0]['saved_model.pb'][:-1] + b'?'
  with pytest.raises(ValueError, match=r"could not be fetched .*'saved_model.pb' was changed"):
    hub.resolve(HANDLE)
  assert [path.name.split('.')[-1] for path in (here / 'contents').iterdir()] == ['fetching']


@pytest.mark.parametrize('name', ['../../../stolen', '/etc/stolen', 'variables/../../stolen'])
def test_a_file_whose_name_leaves_the_folder_is_refused(kaggle, here, name):
  sums = f'{"0" * 64}  {name}\n'.encode()
  for files in ({name: b'x', 'SHA256SUMS': sums}, {f'variables/../{name}': b'x'}):
    kaggle.versions['test/expert/default'] = [{'saved_model.pb': b'x', **files}]
    with pytest.raises(ValueError, match=r'could not be fetched \(RefusedError: the name'):
      hub.resolve(HANDLE)
  assert not list(here.parent.rglob('stolen'))


def test_of_a_strangers_model_the_saved_model_is_fetched(tiny_hub, kaggle):
  put_version(tiny_hub, 'kaggle://')
  files, = kaggle.versions['test/expert/default']
  for name in ('SHA256SUMS', 'module.json', 'README.md'):
    del files[name]
  module = hub.resolve(f'{HANDLE}/1')
  assert module.kind == 'foreign'
  assert hub.load(module)(IMAGES).shape == (2, 16)


def test_what_goes_wrong_is_said_in_one_line(tiny_hub, kaggle, console, monkeypatch):
  for handle, complaint in (
      (HANDLE, 'FileNotFoundError: Kaggle has no such thing, or hides it ('),
      ('kaggle://test/expert', 'must be kaggle://owner/model/framework/variation, perhaps'),
      ('kaggle://../../tensorFlow2/default/1', 'must be kaggle://owner/model/framework')):
    code, _, err = console(hub_main, '--hub=', f'--handles={handle}')
    assert (code, len(err.splitlines())) == (1, 1)
    assert complaint in err
  kaggle.refuses = 401
  code, out, err = console(publish, '--hub=kaggle://', f'--module={tiny_hub}/test/expert/1')
  assert (code, out) == (1, '')
  assert err.startswith('zoo-publish: Kaggle refuses (')
  assert err.endswith('): set KAGGLE_API_TOKEN to a token that may\n')
  monkeypatch.setitem(sys.modules, 'kagglehub', None)
  code, _, err = console(hub_main, '--hub=', f'--handles={HANDLE}')
  assert code == 1 and 'pip install "expert-zoo[kaggle]"' in err
