"""Modules on Hugging Face's Hub: one commit and a tag each, and a card that its pages show."""

import os
import sys

import numpy as np
import pytest
from conftest import answering
from conftest import put_version
from conftest import started
from stand_ins import HuggingFace

from export import hub
from export import hub_main
from export import metadata
from export import publish

huggingface_hub = pytest.importorskip('huggingface_hub')

IMAGES = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)


@pytest.fixture
def hugging_face(here, tmp_path, monkeypatch):
  """The Hub at an address on loopback, while the test runs."""
  from huggingface_hub import constants
  from huggingface_hub import file_download
  monkeypatch.setenv('HF_TOKEN', 'hf_mine')
  monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'theirs'))
  monkeypatch.setattr(file_download.time, 'sleep', lambda seconds: None)
  stand_in = HuggingFace()
  with answering(stand_in.answer) as stand_in.url:
    _point(monkeypatch, stand_in.url)
    yield stand_in


def _point(monkeypatch, url):
  """Makes the client, which reads HF_ENDPOINT only once, ask a server at a URL."""
  from huggingface_hub import constants
  monkeypatch.setattr(constants, 'ENDPOINT', url)
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE',
                      url + '/{repo_id}/resolve/{revision}/{filename}')


def test_what_is_published_there_is_loaded_from_there_and_then_without_it(
    tiny_hub, hugging_face, console, monkeypatch):
  import tensorflow_hub
  code, out, err = console(publish, '--hub=hf://', f'--module={tiny_hub}/test/expert/1')
  assert (code, out, err) == (0, '["test/expert/1"]\n', '')
  module = hub.resolve('hf://test/expert@v1')
  assert module.metadata == metadata.read(os.path.join(tiny_hub, 'test/expert/1'))
  assert sorted(os.listdir(module.path)) == sorted(os.listdir(f'{tiny_hub}/test/expert/1'))
  np.testing.assert_array_equal(
      tensorflow_hub.KerasLayer(module.path)(IMAGES),
      hub.load(hub.resolve('test/expert/1', tiny_hub))(IMAGES))
  assert hub.resolve('hf://test/expert').path == module.path  # main is the newest
  assert hub.resolve('test/expert/1', 'hf://').path == module.path
  asked = len(hugging_face.asked)
  _point(monkeypatch, 'http://127.0.0.1:9')
  assert hub.resolve('hf://test/expert@v1') == module
  code, out, err = console(hub_main, '--hub=', '--handles=hf://test/expert')
  assert (code, len(err.splitlines())) == (0, 1)
  assert err.startswith('hf://test/expert: Hugging Face cannot be reached (')
  assert len(hugging_face.asked) == asked


def test_a_version_is_one_commit_of_just_its_files_and_a_tag(tiny_hub, hugging_face):
  put_version(tiny_hub, 'hf://')
  hugging_face.commits['test/expert'][-1]['variables/old'] = b'x'
  put_version(tiny_hub, 'hf://', 2)
  _, first, second = hugging_face.commits['test/expert']
  assert hugging_face.tags == {('test/expert', 'v1'): 1, ('test/expert', 'v2'): 2}
  assert set(first) - set(second) == {'variables/old'} and '.gitattributes' in second
  assert hub.resolve('hf://test/expert@v1').metadata['version'] == 1
  assert hub.resolve('hf://test/expert').metadata['version'] == 2
  with pytest.raises(ValueError, match=r'test/expert/2 is in hf:// already.*--version=3'):
    put_version(tiny_hub, 'hf://', 2)


def test_a_publication_that_is_cut_short_is_no_version_and_the_next_try_makes_one(
    tiny_hub, hugging_face, monkeypatch):
  monkeypatch.setattr('huggingface_hub.utils._http.time.sleep', lambda seconds: None)
  for fails in ('/commit/', '/tag/'):
    hugging_face.fails = fails
    with pytest.raises(ConnectionError, match='Hugging Face cannot be reached'):
      put_version(tiny_hub, 'hf://')
    assert not hugging_face.tags
  hugging_face.fails = None
  put_version(tiny_hub, 'hf://')
  assert hub.resolve('hf://test/expert@v1').kind == 'expert'


def test_the_card_is_one_that_the_hub_reads(tiny_hub, hugging_face):
  put_version(tiny_hub, 'hf://')
  card = huggingface_hub.ModelCard(
      hugging_face.commits['test/expert'][-1]['README.md'].decode())
  assert card.data.license == 'apache-2.0'
  assert card.data.pipeline_tag == 'image-feature-extraction'
  result, = card.data.eval_results
  assert (result.dataset_type, result.dataset_name, result.metric_type, result.metric_value) == (
      'made', 'made:1.0.0, circle', 'accuracy', 0.5)


def test_a_transfer_that_breaks_off_goes_on_where_it_was(tiny_hub, hugging_face, monkeypatch):
  put_version(tiny_hub, 'hf://')
  monkeypatch.setattr('huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE', 10)
  hugging_face.asked.clear()
  hugging_face.breaks = [None, None, 50]  # of SHA256SUMS, and then of the second file
  hub.check(hub.resolve('hf://test/expert@v1'))
  assert [asked for _, _, asked in hugging_face.asked if asked] == ['bytes=50-']


def test_after_a_server_that_died_only_what_is_missing_is_fetched(tiny_hub, hugging_face):
  put_version(tiny_hub, 'hf://')
  hugging_face.breaks = [None, None] + [0] * 50
  with pytest.raises(ValueError, match=r'hf://test/expert@v1 could not be fetched \(Connection'):
    hub.resolve('hf://test/expert@v1')
  hugging_face.breaks = []
  got = {name for method, name, _ in hugging_face.asked if method == 'GET'}
  hugging_face.asked.clear()
  hub.check(hub.resolve('hf://test/expert@v1'))
  again = {name for method, name, _ in hugging_face.asked if method == 'GET'}
  assert len(got & again) == 2  # SHA256SUMS, and the one that broke off
  assert len(got | again) == len(hugging_face.commits['test/expert'][-1]) - 1


def test_a_byte_that_flipped_there_is_refused_and_nothing_of_it_stays(
    tiny_hub, hugging_face, here):
  put_version(tiny_hub, 'hf://')
  files = hugging_face.commits['test/expert'][-1]
  files['saved_model.pb'] = files['saved_model.pb'][:-1] + b'?'
  with pytest.raises(ValueError, match=r"could not be fetched .*'saved_model.pb' was changed"):
    hub.resolve('hf://test/expert')
  assert [path.name.split('.')[-1] for path in (here / 'contents').iterdir()] == ['fetching']


@pytest.mark.parametrize('name', ['../stolen', '/etc/stolen', 'variables/../../stolen', 'C:/x'])
def test_a_file_whose_name_leaves_the_folder_is_refused(hugging_face, here, name):
  sums = f'{"0" * 64}  {name}\n'.encode()
  for files in ({name: b'x', 'SHA256SUMS': sums}, {f'variables/../{name}': b'x'}):
    hugging_face.commits['test/expert'] = [{'saved_model.pb': b'x', **files}]
    with pytest.raises(ValueError, match=r'could not be fetched \(RefusedError: the name'):
      hub.resolve('hf://test/expert')
  assert not list(here.parent.rglob('stolen'))


_FETCH = """
from export import hub
print('ready', flush=True)
input()
print(hub.resolve('hf://test/expert@v1').path)
"""


def test_processes_that_want_the_same_get_one_download(tiny_hub, hugging_face):
  put_version(tiny_hub, 'hf://')
  hugging_face.asked.clear()
  paths = started(2, _FETCH, HF_ENDPOINT=hugging_face.url, HF_HUB_DISABLE_XET='1')()
  assert metadata.read(paths.pop())['name'] == 'expert' and not paths
  got = [name for method, name, _ in hugging_face.asked if method == 'GET']
  assert got.count('saved_model.pb') == 1


def test_what_goes_wrong_is_said_in_one_line(tiny_hub, hugging_face, console):
  module = f'--module={tiny_hub}/test/expert/1'
  for handle, complaint in (
      ('hf://test/none', 'FileNotFoundError: Hugging Face has no such thing, or hides it ('),
      ('hf://test', 'must be hf://user/name or'), ('hf://a/../b', 'must be hf://user/name or')):
    code, _, err = console(hub_main, '--hub=', f'--handles={handle}')
    assert (code, len(err.splitlines())) == (1, 1)
    assert complaint in err
  hugging_face.refuses = 403
  code, out, err = console(publish, '--hub=hf://', module)
  assert (code, out, len(err.splitlines())) == (1, '', 1)
  assert err.startswith('zoo-publish: Hugging Face refuses (')
  assert err.endswith('): set HF_TOKEN to a token that may, or run hf auth login\n')
  code, _, err = console(hub_main, '--hub=hf://')
  assert code == 1 and '--hub=hf:// cannot be listed: name its modules one by one' in err


def test_without_the_client_one_line_says_how_to_get_it(console, monkeypatch, here):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  code, _, err = console(hub_main, '--hub=', '--handles=hf://a/b')
  assert code == 1 and 'pip install "expert-zoo[huggingface]"' in err
