"""The life of a module: new versions, deprecation, differences, and what is kept of it."""

import json
import os
import pathlib
import shutil
import time

import numpy as np
import pytest
from conftest import tiny_backbone
from conftest import tiny_description

from export import caches
from export import deprecation
from export import diff
from export import fetch
from export import hub
from export import hub_deprecate
from export import hub_diff
from export import hub_gc
from export import hub_main
from export import publish
from export import server
from selection import cache as cache_lib
from selection import candidates


@pytest.fixture
def root(tiny_hub, tmp_path):
  """A hub in which test/expert has the versions 1, 2 and 10."""
  root = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, root)
  for version in '2', '10':
    shutil.copytree(f'{root}/test/expert/1', f'{root}/test/expert/{version}')
  return root


def _deprecate(console, root, handle, reason):
  return console(hub_deprecate, handle, f'--reason={reason}', f'--hub={root}')


# Versions.


def test_latest_is_the_newest_version_that_is_not_deprecated(root, console):
  for handle in ('test/expert', 'test/expert/latest'):
    assert hub.resolve(handle, root).handle == 'test/expert/10'
  _deprecate(console, root, 'test/expert/10', 'trained on the test split')
  for handle in ('test/expert', 'test/expert/latest'):
    assert hub.resolve(handle, root).handle == 'test/expert/2'
  for version in '1', '2':
    _deprecate(console, root, f'test/expert/{version}', 'old')
  assert hub.resolve('test/expert', root).handle == 'test/expert/10'


def test_a_reason_is_shown_wherever_the_module_is(root, console, caplog):
  before = sorted((path, path.stat().st_mtime_ns)
                  for path in pathlib.Path(root, 'test/expert/2').rglob('*'))
  deprecation.deprecate(root, 'test/expert/2', 'trained on the test split')
  module = hub.resolve('test/expert/2', root)
  assert module.deprecated == 'trained on the test split'
  hub.check(module)  # it can still be used
  assert 'test/expert/2 is deprecated: trained on the test split' in caplog.text
  out = console(hub_main, f'--hub={root}')[1]
  assert 'deprecated: trained on the test split' in next(
      line for line in out.splitlines() if line.startswith('test/expert/2 '))
  listed = json.loads(console(hub_main, f'--hub={root}', '--json')[1])
  assert [m['handle'] for m in listed if m['deprecated']] == ['test/expert/2']
  assert before == sorted((path, path.stat().st_mtime_ns)
                          for path in pathlib.Path(root, 'test/expert/2').rglob('*'))


def test_a_deprecated_module_is_no_candidate_unless_it_is_named(root, caplog):
  deprecation.deprecate(root, 'test/expert/1', 'worse than 2')
  handles = [one.handle for one in candidates.find(root)]
  assert 'test/expert/1' not in handles
  assert 'test/expert/2' in handles
  assert 'test/expert/1 is left out, being deprecated: worse than 2' in caplog.text
  assert 'test/expert/1' in [one.handle for one in candidates.find(root, ['test/expert/1'])]


def test_a_deprecation_can_be_taken_back(root, console):
  assert _deprecate(console, root, 'test/expert/1', 'wrong')[:2] == (
      0, 'test/expert/1 is deprecated: wrong\n')
  _deprecate(console, root, 'test/expert/2', 'wrong, too')
  assert _deprecate(console, root, 'test/expert/1', '')[1] == 'test/expert/1 is not deprecated.\n'
  assert [m.handle for m in hub.modules(root) if m.deprecated] == ['test/expert/2']
  _deprecate(console, root, 'test/expert/2', '')
  assert not os.path.exists(f'{root}/test/expert/deprecated.json')


@pytest.mark.parametrize(('handle', 'reason', 'complaint'), [
    ('test/expert/3', 'x', "no module 'test/expert/3'"), ('test/expert', 'x', 'is not a handle'),
    ('../../1', 'x', 'is not a handle'), ('test/expert/1', 'x' * 301, 'at most 300 characters'),
    ('test/expert/1', 'two\nlines', 'one line')])
def test_what_cannot_be_deprecated_is_said(root, console, handle, reason, complaint):
  code, out, err = _deprecate(console, root, handle, reason)
  assert (code, out) == (1, '')
  assert complaint in err
  assert not list(pathlib.Path(root).rglob('deprecated.json'))


@pytest.mark.parametrize('content', ['', '[]', '{"1": 1}', '{"1": ""}', '{"1": "x"'])
def test_a_damaged_list_of_reasons_is_named(root, content):
  path = pathlib.Path(root, 'test/expert/deprecated.json')
  path.write_text(content)
  with pytest.raises(ValueError, match=r'test/expert/deprecated\.json is not'):
    hub.modules(root)


# Differences.


@pytest.fixture(scope='module')
def related(tmp_path_factory):
  """A baseline, and its twin with one weight doubled and all of another layer 0."""
  root = str(tmp_path_factory.mktemp('related'))
  backbone = tiny_backbone(0)
  publish.publish(backbone, tiny_description('baseline'), root, 'test/one/1')
  first, last = backbone.variables[0], backbone.variables[-1]
  first.assign(2 * first.numpy())
  last.assign(np.zeros(last.shape))
  publish.publish(backbone, tiny_description('baseline', seed=7, licence='MIT'), root, 'test/two/1')
  publish.publish(tiny_backbone(0, experts=2), tiny_description('packed'), root, 'test/packed/1')
  return root


def _found(root, one, other):
  return hub_diff.compare(*(hub.resolve(f'test/{name}/1', root) for name in (one, other)))


def test_a_module_does_not_differ_from_itself(related):
  found = _found(related, 'one', 'one')
  assert found['said'] == found['not_in_both'] == []
  assert found['same_program']
  assert {layer['change'] for layer in found['layers'] if layer['norms'][0]} == {0.}


def test_layers_are_compared_by_the_norm_of_their_change(related):
  found = _found(related, 'one', 'two')
  assert found['same_program']
  assert {one['key']: (one['A'], one['B']) for one in found['said']} == {
      'licence': ('Apache-2.0', 'MIT'), 'seed': (0, 7)}
  backbone = tiny_backbone(0)
  first, last = (variable.path.split('/', 1)[1] for variable in
                 (backbone.variables[0], backbone.variables[-1]))
  layers = {layer['name']: layer for layer in found['layers']}
  changed = {name for name, layer in layers.items() if layer['change']}
  assert changed <= {first.rpartition('/')[0], last.rpartition('/')[0]}
  layer = layers[first.rpartition('/')[0]]
  assert layer['change'] == pytest.approx(1)
  assert layer['norms'][1] == pytest.approx(2 * layer['norms'][0])
  assert sum(layer['size'] for layer in layers.values()) == backbone.count_params()


def test_norms_are_those_of_all_weights_of_a_layer():
  one = {'a/kernel': np.array([[3., 0]]), 'a/bias': np.array([4.]), 'b': np.zeros(2),
         'c': np.ones(2)}
  other = {'a/kernel': np.array([[3., 12]]), 'a/bias': np.array([4.]), 'b': np.ones(2),
           'c': np.ones(3), 'd': np.ones(1)}
  layers, alone = diff.layers(one, other)
  assert layers == [diff.Layer('a', 3, (5., 13.), 12 / 5), diff.Layer('b', 2, (0., 2 ** .5), None)]
  assert alone == ['c', 'd']


def test_another_program_is_told_by_its_operations(related):
  found = _found(related, 'one', 'packed')
  assert not found['same_program']
  assert any(count[1] > count[0] for count in found['operations'].values())
  assert all('adapter' in name for name in found['not_in_both'])
  assert found['not_in_both']


def test_zoo_hub_diff_says_it_in_words_and_in_json(related, console):
  code, out, _ = console(hub_diff, 'test/one/1', 'test/two', f'--hub={related}')
  assert code == 0
  assert '  licence: Apache-2.0 -> MIT\n' in out
  assert 'program: the same' in out
  assert '100.0%' in out
  out = console(hub_diff, 'test/one/1', 'test/two', f'--hub={related}', '--json')[1]
  assert json.loads(out) == json.loads(json.dumps(_found(related, 'one', 'two')))


# What is kept.


@pytest.fixture
def kept(tiny_hub, tmp_path, monkeypatch):
  """Caches of which each has an entry used now and one used 40 days ago."""
  monkeypatch.setenv('EXPERT_ZOO_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'fetched'))
  embeddings = cache_lib.opened()
  for i, fill in enumerate((0, 1)):
    digests = cache_lib.image_digests(np.full((3, 2, 2, 3), fill, np.uint8))
    embeddings.put(cache_lib.key(str(i), None, 32), digests[:1], np.ones((1, 4), np.float32))
  with server.running(tiny_hub) as url:
    for name in 'expert', 'baseline':
      fetch.fetch(f'{url}/test/{name}/1')
  (tmp_path / 'fetched' / 'another').mkdir()
  then = time.time() - 40 * 24 * 3600
  for cache in hub_gc.ALL:
    assert len(caches.entries(cache)) == 2
    os.utime(caches.entries(cache)[0].path, (then, then))
  return tmp_path


def test_gc_removes_what_was_not_used_for_long_and_nothing_else(kept, console):
  code, out, _ = console(hub_gc, '--dry_run')
  assert code == 0
  assert out.count('would remove 1,') == 3
  old = [caches.entries(cache)[0].path for cache in hub_gc.ALL]
  out = console(hub_gc)[1]
  assert out.count('removed 1,') == 3
  assert [len(caches.entries(cache)) for cache in hub_gc.ALL] == [1, 1, 1]
  assert not any(map(os.path.exists, old))
  assert (kept / 'fetched' / 'another').is_dir()  # no module of ours


def test_gc_of_0_days_empties_the_caches_it_is_told_to(kept, console):
  console(hub_gc, '--days=0', '--cache=archives', '--cache=modules')
  assert [len(caches.entries(cache)) for cache in hub_gc.ALL] == [2, 0, 0]


def test_gc_leaves_a_module_that_is_being_fetched(kept):
  import fcntl
  [old, new] = caches.entries(caches.MODULES)
  with open(old.path + '.fetching', 'a', encoding='utf-8') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert caches.collect(caches.MODULES, 0) == [new]
  assert os.path.isdir(old.path)


def test_gc_removes_parts_of_transfers_that_nobody_went_on_with(tmp_path, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path))
  by_url, by_content = tmp_path / ('a' * 40 + '.part'), tmp_path / 'contents' / ('b' * 64 + '.part')
  by_url.write_bytes(bytes(10))
  (tmp_path / ('a' * 40 + '.etag')).write_text('"x"')
  (by_content / 'files').mkdir(parents=True)
  (by_content / 'files' / 'saved_model.pb').write_bytes(bytes(20))
  assert sum(entry.size for entry in caches.entries(caches.MODULES)) == 30
  assert len(caches.collect(caches.MODULES, 0)) == 2
  assert not list(tmp_path.rglob('*.part'))
  assert not list(tmp_path.rglob('*.etag'))


def test_a_fetched_module_that_is_used_again_is_not_old(tiny_hub, tmp_path, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path))
  with server.running(tiny_hub) as url:
    path = fetch.fetch(f'{url}/test/expert/1')
    os.utime(path, (0, 0))
    fetch.fetch(f'{url}/test/expert/1')
  assert caches.collect(caches.MODULES, 1) == []


def test_gc_of_nothing_is_no_error(tmp_path, monkeypatch, console):
  monkeypatch.setenv('EXPERT_ZOO_CACHE', str(tmp_path / 'none'))
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'neither'))
  assert console(hub_gc)[0] == 0
