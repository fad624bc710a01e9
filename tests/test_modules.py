"""Modules: what we publish, anyone with TensorFlow Hub loads, trusts and trains."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from conftest import as_foreign
from conftest import redescribe
from conftest import tiny_backbone
from conftest import tiny_description
from export import hub
from export import hub_main
from export import hub_verify
from export import metadata
from export import publish
from export import safety
from export import saved_model

IMAGES = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)


def _copy(tiny_hub, tmp_path, handle='test/baseline/1'):
  """A copy of a module to spoil."""
  path = tmp_path / 'hub' / handle
  shutil.copytree(os.path.join(tiny_hub, handle), path)
  return str(tmp_path / 'hub'), path


def test_stock_tensorflow_hub_computes_what_the_keras_network_does(tiny_hub):
  import tensorflow_hub
  for handle, backbone in (('test/baseline/1', tiny_backbone(0)),
                           ('test/expert/1', tiny_backbone(1))):
    layer = tensorflow_hub.KerasLayer(os.path.join(tiny_hub, handle))
    np.testing.assert_allclose(layer(IMAGES), backbone(IMAGES), atol=1e-5)


def test_a_packed_module_takes_its_expert_as_an_argument(tiny_hub):
  import tensorflow_hub
  backbone = tiny_backbone(2, experts=2)
  path = os.path.join(tiny_hub, 'test/packed/1')
  outputs = []
  for expert in (0, 1):
    layer = tensorflow_hub.KerasLayer(path, arguments={'expert': expert})
    np.testing.assert_allclose(layer(IMAGES), backbone(IMAGES, expert=expert), atol=1e-5)
    outputs.append(layer(IMAGES).numpy())
  assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
  plain = tensorflow_hub.KerasLayer(path)  # without the argument it is the first
  np.testing.assert_allclose(plain(IMAGES), outputs[0], atol=1e-6)


def test_any_image_size_and_any_batch_will_do(tiny_hub):
  import tensorflow as tf
  loaded = tf.saved_model.load(os.path.join(tiny_hub, 'test/baseline/1'))
  for shape in ((1, 1, 1, 3), (2, 33, 7, 3), (5, 64, 64, 3)):
    assert loaded(tf.zeros(shape)).shape == (shape[0], 16)


def test_the_serving_signature_gives_the_same_embeddings(tiny_hub):
  import tensorflow as tf
  loaded = tf.saved_model.load(os.path.join(tiny_hub, 'test/baseline/1'))
  served = loaded.signatures['serving_default'](images=tf.constant(IMAGES))['default']
  np.testing.assert_array_equal(served, loaded(IMAGES))


def test_a_module_can_be_made_a_keras_network_again(tiny_hub):
  for handle in ('test/baseline/1', 'test/packed/1'):
    module = hub.resolve(handle, tiny_hub)
    backbone = saved_model.restore(module.path, module.metadata)
    np.testing.assert_allclose(
        backbone(IMAGES), hub.load(module)(IMAGES), atol=1e-5)


def test_module_json_and_card_say_what_it_is(tiny_hub):
  module = hub.resolve('test/packed/1', tiny_hub)
  m = module.metadata
  assert (m['publisher'], m['name'], m['version'], m['kind']) == ('test', 'packed', 1, 'packed')
  assert m['fingerprint'] == metadata.fingerprint(module.path)
  assert [expert['name'] for expert in m['experts']] == ['circle', 'square']
  with open(os.path.join(module.path, 'README.md'), encoding='utf-8') as file:
    card = file.read()
  for words in ('# test/packed/1', '| 1 | square | 2 | 20 | 40.0% | 50.0% |', 'hub.KerasLayer'):
    assert words in card


def test_a_hub_lists_its_modules_and_finds_the_newest_version(tiny_hub, tmp_path):
  assert [module.handle for module in hub.modules(tiny_hub)] == [
      'test/baseline/1', 'test/expert/1', 'test/packed/1']
  root, path = _copy(tiny_hub, tmp_path)
  shutil.copytree(path, path.parent / '10')
  shutil.copytree(path, path.parent / '9')
  assert hub.resolve('test/baseline', root).handle == 'test/baseline/10'


def test_a_published_version_never_changes(tiny_hub):
  with pytest.raises(ValueError, match='a published version never changes: use --version=2'):
    publish.publish(tiny_backbone(5), tiny_description('baseline'), tiny_hub,
                    'test/baseline/1')


@pytest.mark.parametrize('handle', [
    'a/b', 'a/b/c', '../b/1', 'a/../1', 'a/b/../../1', '/a/b/1', 'a//1', 'a/.b/1', 'a\\b/c/1'])
def test_a_handle_cannot_leave_the_hub(handle, tmp_path):
  with pytest.raises(ValueError, match=r'is not a handle|no module'):
    hub.split_handle(handle)
  with pytest.raises(ValueError, match='no module'):
    hub.resolve(handle, str(tmp_path))


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
  def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    publish.publish(tiny_backbone(), tiny_description('baseline'), str(tmp_path / 'hub'),
                    'test/new/1')
  assert not (tmp_path / 'hub').exists()


def test_a_failure_leaves_what_others_have_published_meanwhile(tmp_path):
  from zoo import atomic
  with pytest.raises(OSError, match='full'), atomic.writing_folder(tmp_path / 'hub/a/b/1'):
    with atomic.writing_folder(tmp_path / 'hub/a/b/2') as path, open(f'{path}/x', 'w') as file:
      file.write('another process')
    raise OSError('full')
  assert (tmp_path / 'hub/a/b/2/x').read_text() == 'another process'
  assert os.listdir(tmp_path / 'hub/a/b') == ['2']


def test_weights_that_are_not_finite_are_not_published(tmp_path):
  backbone = tiny_backbone()
  backbone.variables[0].assign(np.full(backbone.variables[0].shape, np.nan))
  with pytest.raises(ValueError, match='not finite; nothing is published'):
    publish.publish(backbone, tiny_description('baseline'), str(tmp_path / 'hub'), 'test/new/1')
  assert not (tmp_path / 'hub').exists()


def test_a_module_that_computes_something_else_is_not_published(tmp_path, monkeypatch):
  save = saved_model.save
  monkeypatch.setattr(saved_model, 'save', lambda _, path: save(tiny_backbone(7), path))
  with pytest.raises(ValueError, match='differs from its network'):
    publish.publish(tiny_backbone(0), tiny_description('baseline'), str(tmp_path / 'hub'),
                    'test/new/1')
  assert not (tmp_path / 'hub').exists()


@pytest.mark.parametrize('file', ['saved_model.pb', 'variables/variables.data-00000-of-00001'])
def test_a_truncated_module_is_refused(tiny_hub, tmp_path, file):
  root, path = _copy(tiny_hub, tmp_path)
  with open(path / file, 'r+b') as content:
    content.truncate(1000)
  with pytest.raises(ValueError, match='test/baseline/1 is damaged'):
    hub.load(hub.resolve('test/baseline/1', root))


def test_a_truncated_foreign_module_is_refused_too(tiny_hub, tmp_path):
  _, path = _copy(tiny_hub, tmp_path)
  as_foreign(path)
  with open(path / 'saved_model.pb', 'r+b') as content:
    content.truncate(1000)
  with pytest.raises(ValueError, match='truncated or no SavedModel'):
    hub.load(hub.resolve(str(path)))


def _read(tf):
  return tf.strings.length(tf.io.read_file('/etc/hostname'))


def _write(tf):
  tf.io.write_file('stolen', 'x')
  return 1


def _python(tf):
  return tf.numpy_function(lambda: np.int32(1), [], tf.int32)


def _eager_python(tf):
  return tf.py_function(lambda: 1, [], tf.int32)


@pytest.mark.parametrize('where', ['at the top', 'in a function', 'in a branch of a loop'])
@pytest.mark.parametrize(('operation', 'reach'), [
    ('ReadFile', _read), ('WriteFile', _write), ('PyFunc', _python),
    ('EagerPyFunc', _eager_python)])
def test_a_graph_that_reaches_out_is_refused_and_named_unless_trusted(
    tmp_path, console, operation, reach, where):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function
  def inner():
    return tf.ensure_shape(reach(tf), [])

  def looped():
    return tf.while_loop(lambda i: i < 1, lambda i: tf.cond(
        i > 5, lambda: inner() + i, lambda: i + 1), [0])[0]

  body = {'at the top': lambda: reach(tf), 'in a function': inner,
          'in a branch of a loop': looped}[where]

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    return tf.reduce_mean(images, (1, 2)) + tf.cast(body(), tf.float32)

  root.__call__ = call
  path = str(tmp_path / 'spy')
  tf.saved_model.save(root, path)
  assert safety.ops_reaching_out(path) == [operation]
  with pytest.raises(ValueError, match=rf'could touch more than tensors \({operation}\)'):
    hub.load(hub.resolve(path))
  assert callable(hub.load(hub.resolve(path), trust=True))
  for trust, code in ('--notrust', 1), ('--trust', 0):
    assert console(hub_verify, '--hub=', f'--handles={path}', trust)[0] == code


def test_writing_a_checkpoint_from_the_model_is_reaching_out(tmp_path):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    tf.raw_ops.SaveV2(prefix=str(tmp_path / 'stolen'), tensor_names=['images'],
                      shape_and_slices=[''], tensors=[images])
    return tf.reduce_mean(images, (1, 2))

  root.__call__ = call
  tf.saved_model.save(root, str(tmp_path / 'spy'))
  assert safety.ops_reaching_out(str(tmp_path / 'spy')) == ['SaveV2']


def test_our_own_modules_reach_for_nothing(tiny_hub):
  for module in hub.modules(tiny_hub):
    assert safety.ops_reaching_out(module.path) == []


@pytest.mark.parametrize(('spoil', 'complaint'), [
    (lambda m: m.pop('kind'), 'lacks kind'),
    (lambda m: m.update(schema=99), 'update it'),
    (lambda m: m.update(image_size='32'), 'must be a whole number'),
    (lambda m: m.update(experts=[{}]), 'needs a name'),
    (lambda m: m.update(kind='wonder'), "kind 'wonder'"),
])
def test_a_wrong_module_json_is_named(tiny_hub, tmp_path, spoil, complaint):
  root, path = _copy(tiny_hub, tmp_path)
  redescribe(path, spoil)
  with pytest.raises(ValueError, match=complaint):
    hub.modules(root)


def test_unknown_keys_of_module_json_are_kept(tiny_hub, tmp_path):
  root, path = _copy(tiny_hub, tmp_path)
  redescribe(path, lambda m: m.update(mood='fine'))
  assert hub.resolve('test/baseline', root).metadata['mood'] == 'fine'


def test_a_half_written_module_is_not_listed(tiny_hub, tmp_path):
  root, path = _copy(tiny_hub, tmp_path)
  path.rename(path.parent / '.writing-abc')
  with pytest.raises(ValueError, match='has no module'):
    hub.modules(root)


def test_zoo_hub_lists_and_verifies(tiny_hub, console):
  code, out, err = console(hub_verify, f'--hub={tiny_hub}')
  assert code == 0
  assert 'test/packed/1 is whole' in out
  assert '3 modules, all whole.' in err
  code, out, _ = console(hub_main, f'--hub={tiny_hub}')
  assert 'test/packed/1 ' in out
  code, out, _ = console(hub_main, f'--hub={tiny_hub}', '--json')
  assert [m['kind'] for m in json.loads(out)] == ['baseline', 'expert', 'packed']


def test_zoo_hub_verify_names_every_damaged_module(tiny_hub, tmp_path, console):
  root, path = _copy(tiny_hub, tmp_path)
  _copy(tiny_hub, tmp_path, 'test/expert/1')
  with open(path / 'saved_model.pb', 'ab') as content:
    content.write(b'x')
  code, _, err = console(hub_verify, f'--hub={root}')
  assert code == 1
  assert 'module test/baseline/1 is damaged' in err
  assert err.endswith('zoo-hub verify: 1 of 2 modules failed.\n')
