"""Hubs in buckets: published, listed, loaded, offline; half an upload is none."""

import importlib
import os
import shutil

import numpy as np
import pytest
from conftest import answering
from conftest import as_foreign
from conftest import redescribe
from conftest import tiny_backbone
from conftest import tiny_description
from stand_ins import S3
from stand_ins import Gcs

from export import buckets
from export import hub
from export import hub_main
from export import manifest
from export import publish
from selection import candidates

fsspec = pytest.importorskip('fsspec')

IMAGES = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """The folder of what is kept; the buckets in memory are empty."""
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'kept'))
  fsspec.filesystem('memory').store.clear()
  fsspec.filesystem('memory').pseudo_dirs[:] = ['']
  return tmp_path / 'kept'


@pytest.fixture
def s3(monkeypatch):
  """S3 at an address on loopback, while the test runs."""
  pytest.importorskip('s3fs')
  for name, value in (('ACCESS_KEY_ID', 'me'), ('SECRET_ACCESS_KEY', 'x'), ('MAX_ATTEMPTS', '1'),
                      ('DEFAULT_REGION', 'us-east-1'), ('EC2_METADATA_DISABLED', 'true')):
    monkeypatch.setenv(f'AWS_{name}', value)
  import s3fs
  monkeypatch.setattr(s3fs.S3FileSystem, 'retries', 1)
  stand_in = S3()
  with answering(stand_in.answer) as url:
    monkeypatch.setenv('AWS_ENDPOINT_URL', url)
    s3fs.S3FileSystem.clear_instance_cache()
    yield stand_in
  s3fs.S3FileSystem.clear_instance_cache()


def _unplug(monkeypatch):
  """Nothing answers for S3 any more."""
  monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9')
  fsspec.get_filesystem_class('s3').clear_instance_cache()


def _put(tiny_hub, root, handle='test/expert/1'):
  return publish.publish_module(hub.resolve(handle, tiny_hub), root)


def test_what_is_published_to_a_bucket_is_loaded_from_it_and_then_without_it(
    tiny_hub, s3, console, monkeypatch):
  import tensorflow_hub
  root = 's3://models/our/hub'
  for handle in ('test/expert/1', 'test/packed/1'):
    code, out, err = console(publish, f'--hub={root}', f'--module={tiny_hub}/{handle}')
    assert (code, out, err) == (0, f'["{handle}"]\n', '')
  assert hub.resolve(f'{root}/test/expert/1').kind == 'expert'
  modules = hub.modules(root)
  assert [module.handle for module in modules] == ['test/expert/1', 'test/packed/1']
  assert hub.resolve('test/packed', root).path == modules[1].path
  np.testing.assert_array_equal(
      tensorflow_hub.KerasLayer(modules[0].path)(IMAGES),
      hub.load(hub.resolve('test/expert/1', tiny_hub))(IMAGES))
  _unplug(monkeypatch)
  assert hub.resolve('test/expert/1', root) == modules[0]
  code, out, err = console(hub_main, f'--hub={root}')
  assert code == 0 and 'test/expert/1' in out and 'test/packed/1' in out
  assert len(err.splitlines()) == 1
  assert err.startswith(f'what {root} has: s3://models cannot be reached (')
  assert err.endswith('); taking what it was the last time.\n')
  assert [c.describe() for c in candidates.find(root)] == [
      'test/expert/1', 'test/packed/1 (circle)', 'test/packed/1 (square)']


@pytest.fixture
def gcs(monkeypatch):
  """Google's storage at an address on loopback, while the test runs."""
  gcsfs = pytest.importorskip('gcsfs')
  stand_in = Gcs()
  with answering(stand_in.answer) as url:
    monkeypatch.setitem(fsspec.config.conf, 'gs', {'token': 'anon', 'endpoint_url': url})
    # The other class of gcsfs asks for the kind of a bucket by gRPC, with TLS.
    monkeypatch.setitem(importlib.import_module('fsspec.registry')._registry, 'gs',
                        gcsfs.core.GCSFileSystem)
    yield stand_in
  gcsfs.core.GCSFileSystem.clear_instance_cache()


def test_google_s_buckets_do_as_well(tiny_hub, gcs, console):
  root = 'gs://models/hub'
  _put(tiny_hub, root)
  module, = hub.modules(root)
  assert module == hub.resolve('test/expert', root)
  hub.check(module)
  with pytest.raises(ValueError, match='is in gs://models/hub already'):
    _put(tiny_hub, root)
  gcs.refuses = 403
  code, _, err = console(publish, f'--hub={root}', f'--module={tiny_hub}/test/packed/1')
  assert code == 1 and err.startswith('zoo-publish: gs://models refuses (')
  assert err.endswith('): set GOOGLE_APPLICATION_CREDENTIALS to the file of an account that may\n')


def test_a_trained_network_is_published_to_a_bucket_as_into_a_folder(tiny_hub):
  where = publish.publish(tiny_backbone(1), tiny_description('expert'), 'memory://hub', 'me/m/2')
  assert where == 'memory://hub/me/m/2'
  module = hub.resolve('me/m', 'memory://hub')
  assert module.metadata['version'] == 2
  np.testing.assert_allclose(hub.load(module)(IMAGES), tiny_backbone(1)(IMAGES), atol=1e-5)
  with pytest.raises(ValueError, match=r'me/m/2 is in memory://hub already.*--version=3'):
    publish.publish(tiny_backbone(1), tiny_description('expert'), 'memory://hub', 'me/m/2')


def test_an_upload_that_is_killed_is_no_module_and_the_next_try_makes_one(tiny_hub, monkeypatch):
  memory = type(fsspec.filesystem('memory'))
  whole = memory.put_file

  def killed(self, source, target, **more):
    if target.endswith('saved_model.pb'):
      raise KeyboardInterrupt
    whole(self, source, target, **more)

  monkeypatch.setattr(memory, 'put_file', killed)
  with pytest.raises(KeyboardInterrupt):
    _put(tiny_hub, 'memory://hub')
  there = [name.split('/test/expert/1/')[1] for name in fsspec.filesystem('memory').find('/hub')]
  assert {*there, 'saved_model.pb'} == {*manifest.read(f'{tiny_hub}/test/expert/1'), manifest.FILE}
  with pytest.raises(ValueError, match='has no module'):
    hub.modules('memory://hub')
  with pytest.raises(ValueError, match=r'could not be fetched .*has no saved_model\.pb'):
    hub.resolve('test/expert/1', 'memory://hub')
  monkeypatch.setattr(memory, 'put_file', whole)
  assert _put(tiny_hub, 'memory://hub') == 'test/expert/1'
  hub.check(hub.resolve('test/expert', 'memory://hub'))


@pytest.mark.parametrize('scheme', ['s3', 'gs'])
def test_of_two_who_publish_the_same_version_one_is_told_so(
    tiny_hub, s3, gcs, monkeypatch, scheme):
  monkeypatch.setattr(buckets, 'taken', lambda url: False)  # both have looked
  _put(tiny_hub, f'{scheme}://models/hub')
  with pytest.raises(ValueError, match=r'is in .*://models/hub already.*use --version=2'):
    _put(tiny_hub, f'{scheme}://models/hub')


def test_the_newest_version_is_one_that_is_not_deprecated(tiny_hub):
  memory = fsspec.filesystem('memory')
  for version in (9, 10, 11):
    shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), 'copy', dirs_exist_ok=True)
    redescribe('copy', lambda m, version=version: m.update(version=version))
    publish.publish_module(hub.resolve('./copy'), 'memory://hub')
  assert hub.resolve('memory://hub/test/expert').metadata['version'] == 11
  memory.pipe('/hub/test/expert/deprecated.json', b'{"11": "worse than 10"}')
  assert hub.resolve('test/expert/latest', 'memory://hub').metadata['version'] == 10
  assert {module.handle: module.deprecated for module in hub.modules('memory://hub')} == {
      'test/expert/9': None, 'test/expert/10': None, 'test/expert/11': 'worse than 10'}


def test_a_transfer_that_breaks_off_goes_on_where_it_was(tiny_hub, s3, monkeypatch):
  _put(tiny_hub, 's3://models/hub')
  monkeypatch.setattr(buckets, '_BLOCK', 1000)
  s3.breaks = 2000
  with pytest.raises(ValueError, match='could not be fetched'):
    hub.resolve('test/expert/1', 's3://models/hub')
  s3.asked.clear()
  s3.breaks = None
  hub.check(hub.resolve('test/expert/1', 's3://models/hub'))
  assert min(int(asked[6:].split('-')[0]) for method, name, asked in s3.asked
             if method == 'GET' and name.endswith('saved_model.pb')) >= 1000


def test_a_byte_that_flipped_in_the_bucket_is_refused(tiny_hub, here):
  _put(tiny_hub, 'memory://hub')
  memory = fsspec.filesystem('memory')
  name = '/hub/test/expert/1/saved_model.pb'
  content = memory.cat_file(name)
  memory.pipe(name, content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(ValueError, match=r"could not be fetched .*'saved_model.pb' was changed"):
    hub.resolve('test/expert/1', 'memory://hub')
  assert [path.name.split('.')[-1] for path in (here / 'contents').iterdir()] == ['fetching']


@pytest.mark.parametrize('name', ['../../../stolen', '/etc/stolen', 'variables/../../stolen'])
def test_an_object_whose_name_leaves_the_folder_is_refused(s3, here, name):
  s3.objects = {'models/m/1/saved_model.pb': b'x', f'models/m/1/{name}': b'x',
                f'models/m/1/{manifest.FILE}': f'{"0" * 64}  {name}\n'.encode()}
  with pytest.raises(ValueError, match='leaves the folder'):
    hub.resolve('s3://models/m/1')
  assert not list(here.parent.rglob('stolen'))


def test_what_goes_wrong_is_said_in_one_line(tiny_hub, s3, console, monkeypatch):
  module = f'--module={tiny_hub}/test/expert/1'
  s3.refuses = 403
  code, out, err = console(publish, '--hub=s3://models/hub', module)
  assert (code, out) == (1, '')
  assert err == ('zoo-publish: s3://models refuses (Forbidden): set AWS_ACCESS_KEY_ID and '
                 'AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to an account that may '
                 '(FSSPEC_S3_ANON=true for a public bucket)\n')
  s3.refuses = None
  code, _, err = console(hub_main, '--hub=', '--handles=s3://models/none/1')
  assert (code, err) == (1, 'zoo-hub: s3://models/none/1 could not be fetched (FileNotFoundError: '
                         'nothing is at s3://models/none/1).\n')
  code, _, err = console(publish, '--hub=nowhere://models', module)
  assert code == 1 and 'fsspec knows no nowhere://' in err
  code, _, err = console(publish, '--hub=http://localhost', module)
  assert code == 1 and 'a hub is read over http, not written' in err
  _unplug(monkeypatch)
  code, _, err = console(hub_main, '--hub=s3://models/hub')
  assert (code, len(err.splitlines())) == (1, 1)
  assert 'could not be fetched (ConnectionError: s3://models cannot be reached' in err


def test_a_module_is_published_under_the_name_that_it_says(tiny_hub, tmp_path, console):
  code, _, err = console(publish, '--hub=memory://hub', f'--module={tiny_hub}/test/expert/1',
                         '--publisher=me')
  assert code == 1 and "has the publisher 'test', and is published as it is" in err
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), tmp_path / 'foreign')
  as_foreign(tmp_path / 'foreign')
  code, _, err = console(publish, '--hub=memory://hub', f'--module={tmp_path}/foreign')
  assert code == 1 and 'make a module of it with zoo-import' in err


def test_a_file_url_is_a_folder(tiny_hub, tmp_path):
  _put(tiny_hub, f'file://{tmp_path}/hub')
  assert hub.modules(f'file://{tmp_path}/hub') == hub.modules(str(tmp_path / 'hub'))
  assert hub.resolve(f'file://{tmp_path}/hub/test/expert/1').path == (
      f'{tmp_path}/hub/test/expert/1')
