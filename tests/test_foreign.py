"""Foreign modules: whatever is a function from images to embeddings is ranked and fine-tuned."""

import dataclasses
import hashlib
import io
import json
import os
import tarfile
import urllib.parse

import numpy as np
import pytest
from conftest import answering
from conftest import shapes_task

from export import foreign
from export import graphs
from export import hub
from finetune import main as finetune_main
from finetune import runs
from finetune import saved_layer
from finetune import sweep
from finetune import tuned
from finetune import tuning
from selection import cache
from selection import candidates
from selection import embedder
from selection import embeddings
from selection import rank_main
from selection import ranking
from zoo import batches

PLAN = sweep.Plan('fixed', batch=8, learning_rate=0.05, steps=3, precision='float32')
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
UNIT_IMAGES = IMAGES.astype(np.float32) / 255


@pytest.fixture(scope='module')
def shapes():
  return shapes_task(45, 15)


def _embed(handle, **said):
  """The embeddings of `IMAGES` by the one candidate of a handle, as a ranking has them."""
  found = candidates.find('', [handle], **{'image_size': 16} | said)
  (one,) = embeddings.Embeddings({16: IMAGES}).of(found, np.arange(len(IMAGES)))
  assert one.error is None, one.error
  return one.embeddings


def _trained(network):
  """The trainable variables of a `tuned.Tuned`, before and after one step of gradient descent."""
  import tensorflow as tf
  network.head.kernel.assign(np.random.default_rng(0).normal(size=network.head.kernel.shape))
  before = [np.array(variable) for variable in network.body.trainable_variables]
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(network(UNIT_IMAGES, training=True) ** 2)
  gradients = tape.gradient(loss, [v.value for v in network.body.trainable_variables])
  for variable, gradient in zip(network.body.trainable_variables, gradients, strict=True):
    variable.assign_sub(0.01 * gradient)
  return before, [np.array(variable) for variable in network.body.trainable_variables]


def _all_move(before, after):
  return all(np.abs(new - old).max() > 0 for old, new in zip(before, after, strict=True))


def _classifies_as_trained(result, shapes):
  """Whether the module that was made gives the probabilities that the network was tested with."""
  import scipy.special
  import tensorflow as tf

  from zoo import tasks
  with np.load(result['predictions']) as file:
    logits = file['logits']
  images = tasks.read(shapes, ('test', None), 16).images
  wanted = scipy.special.softmax(logits / result['temperature'], axis=1)
  np.testing.assert_allclose(tf.saved_model.load(result['module'])(images), wanted, atol=1e-5)
  assert np.ptp(wanted) > 0.01
  return True


# Over http.


@pytest.fixture
def web(tmp_path, monkeypatch):
  """Serves bytes by path, as TensorFlow Hub does; (address, dict of what is there)."""
  there = {}

  def answer(request):
    url = urllib.parse.urlparse(request.path)
    found = there.get(url.path)
    if found is None or url.query != 'tf-hub-format=compressed':
      request.send_error(404)
      return
    request.send_response(200)
    request.end_headers()
    request.wfile.write(found)

  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'fetched'))
  with answering(answer) as address:
    yield address, there


def _archive(folder):
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as file:
    file.add(folder, arcname='.')
  return content.getvalue()


def test_a_module_of_a_url_is_ranked_and_fine_tuned_as_from_its_folder(
    web, tiny_hub, shapes, tmp_path):
  address, there = web
  path = os.path.join(tiny_hub, 'test/baseline/1')
  there['/me/baseline/1'] = _archive(path)
  url = f'{address}/me/baseline/1'
  ranked, local = (ranking.rank(shapes, '', [handle]) for handle in (url, path))
  assert ranked.winner.candidate.handle == url
  assert ranked.winner.candidate.kind == 'baseline'
  assert ranked.winner.scores['knn'].value == local.winner.scores['knn'].value
  there.clear()  # it is kept
  data, networks = runs.Data(shapes), tuned.Networks(3)
  results = [tuning.finetune(shapes, handle, str(tmp_path / name), PLAN, data=data,
                             networks=networks)
             for handle, name in ((url, 'web'), (path, 'local'))]
  assert results[0]['handle'] == url
  assert results[0]['history'][-1]['loss'] == results[1]['history'][-1]['loss']
  assert _classifies_as_trained(results[0], shapes)


def test_a_url_that_answers_404_is_one_line(web, console):
  address, _ = web
  code, out, err = console(rank_main, '--hub=', f'--handles={address}/no/such/1')
  assert (code, out) == (1, '')
  assert err == (f'zoo-rank: {address}/no/such/1 could not be fetched (HTTPError: HTTP Error 404: '
                 'Not Found).\n')


@pytest.mark.parametrize('spoil', [lambda whole: whole[:len(whole) // 2],
                                   lambda _: b'<html>Sign in</html>'])
def test_a_damaged_archive_is_one_line_and_is_fetched_anew_the_next_time(
    web, tiny_hub, console, spoil):
  address, there = web
  whole = _archive(os.path.join(tiny_hub, 'test/expert/1'))
  there['/m'] = spoil(whole)
  code, out, err = console(rank_main, '--hub=', f'--handles={address}/m')
  assert (code, out) == (1, '')
  assert err.startswith(f'zoo-rank: {address}/m could not be fetched (RefusedError: ')
  assert 'is damaged or no tar.gz' in err
  assert err.count('\n') == 1
  there['/m'] = whole
  assert hub.resolve(f'{address}/m').kind == 'expert'


@pytest.mark.parametrize('name', ['../stolen', 'a/../../stolen', '/stolen'])
def test_an_archive_writes_nothing_outside_of_its_folder(web, tmp_path, name):
  address, there = web
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as file:
    member = tarfile.TarInfo(name)
    member.size = 4
    file.addfile(member, io.BytesIO(b'evil'))
  there['/m'] = content.getvalue()
  with pytest.raises(ValueError, match=f'^{address}/m '):
    hub.resolve(f'{address}/m')
  written = [path for path in tmp_path.rglob('*') if path.name == 'stolen']
  assert all(path.is_relative_to(tmp_path / 'fetched') for path in written)
  assert all(len(path.relative_to(tmp_path / 'fetched').parts) == 2 for path in written)


def test_an_archive_with_a_link_is_refused(web, tmp_path):
  address, there = web
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as file:
    link = tarfile.TarInfo('variables')
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    file.addfile(link)
  there['/m'] = content.getvalue()
  with pytest.raises(ValueError, match=r'could not be fetched .* is a symbolic link'):
    hub.resolve(f'{address}/m')


def test_what_was_damaged_after_it_was_fetched_names_the_folder_to_remove(
    web, tiny_hub, tmp_path):
  address, there = web
  there['/m'] = _archive(os.path.join(tiny_hub, 'test/expert/1'))
  module = hub.resolve(f'{address}/m')
  with open(os.path.join(module.path, 'saved_model.pb'), 'ab') as file:
    file.write(b'x')
  kept = str(tmp_path / 'fetched')
  with pytest.raises(ValueError, match=f'is damaged: .* Remove {kept}/.* is fetched again'):
    hub.check(hub.resolve(f'{address}/m'))
  os.unlink(os.path.join(module.path, 'saved_model.pb'))
  os.unlink(os.path.join(module.path, 'module.json'))
  with pytest.raises(ValueError, match=f'gave no module .* Remove {kept}/.* is fetched again'):
    hub.resolve(f'{address}/m')


# SavedModels with nothing but a signature.


def _serving(path, seed=0, outputs=('features',), variables=True, pool=True):
  """Saves one with a trainable filter, a trainable scale and a frozen offset."""
  import tensorflow as tf
  random = np.random.default_rng(seed)
  kernel = random.normal(size=(3, 3, 3, 5)).astype(np.float32)
  root = tf.train.Checkpoint()
  if variables:
    root.kernel, root.scale = tf.Variable(kernel), tf.Variable(tf.ones([5]))
    root.offset = tf.Variable(tf.fill([5], 0.5), trainable=False)
  else:
    root.kernel, root.scale, root.offset = kernel, np.ones(5, np.float32), np.float32(0.5)

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name='pixels')])
  def serve(pixels):
    x = tf.nn.conv2d(pixels, root.kernel, 2, 'SAME') * root.scale + root.offset
    x = tf.reduce_mean(x, (1, 2)) if pool else x
    return {name: x * (i + 1) for i, name in enumerate(outputs)}

  tf.saved_model.save(root, str(path), signatures=serve)
  return str(path)


def _served(handle, images, output='features'):
  """What a module with only a signature gives, called as TensorFlow alone would."""
  import tensorflow as tf
  signature = tf.saved_model.load(handle).signatures['serving_default']
  return signature(tf.constant(images))[output].numpy()


def test_a_module_with_only_a_signature_trains_all_of_its_trainable_weights(
    shapes, tmp_path, caplog):
  handle = _serving(tmp_path / 'served')
  network = tuned.build(candidates.one(handle, image_size=16), 3)
  assert {tuple(v.shape) for v in network.body.trainable_variables} == {(3, 3, 3, 5), (5,)}
  assert len(network.body.non_trainable_variables) == 1
  assert _all_move(*_trained(network))
  result = tuning.finetune(shapes, handle, str(tmp_path / 'work'), PLAN, image_size=16)
  assert _classifies_as_trained(result, shapes)
  assert 'only the head is trained' not in caplog.text


def test_modules_with_only_a_signature_share_a_program_and_swap_weights(tmp_path):
  handles = [_serving(tmp_path / f'served{seed}', seed) for seed in range(3)]
  assert len({graphs.digest(handle) for handle in handles}) == 1
  modules = [hub.resolve(handle) for handle in handles]
  first = embedder.Embedder(modules[0])
  for number, program in ((2, first), (1, first), (0, first), (1, first.twin())):
    module = modules[number]
    program.use(module)
    np.testing.assert_allclose(program(IMAGES, np.arange(6))[0],
                               _served(module.path, UNIT_IMAGES), rtol=1e-5)


def test_a_signature_without_variables_trains_its_head_only(tmp_path, caplog):
  handle = _serving(tmp_path / 'served', variables=False)
  network = tuned.build(candidates.one(handle, image_size=16), 3)
  assert network.trainable_variables == network.head.trainable_variables
  assert f'{handle} has no trainable variables: only the head is trained' in caplog.text


def test_of_several_outputs_default_is_the_embedding(tmp_path):
  handle = _serving(tmp_path / 'served', outputs=('a', 'default', 'z'))
  np.testing.assert_allclose(_embed(handle), _served(handle, UNIT_IMAGES, 'default'), rtol=1e-5)


@pytest.mark.parametrize(('made', 'complaint'), [
    ({'outputs': ('logits', 'pooled')}, r'several outputs \(logits, pooled\) and none .*default'),
    ({'pool': False}, r'gives \[N, 8, 8, 5\] where an embedding is \[N, features\]: put pooling'),
])
def test_outputs_that_are_no_embedding_say_what_is_needed(shapes, tmp_path, made, complaint):
  handle = _serving(tmp_path / 'served', **made)
  for failing in (lambda: ranking.rank(shapes, '', [handle], image_size=16),
                  lambda: tuned.build(candidates.one(handle, image_size=16), 3)):
    with pytest.raises(ValueError, match=complaint) as error:
      failing()
    assert f'module {handle}' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('inputs', 'complaint'), [
    ({'a': 'float32', 'b': 'float32'}, r'serving_default takes 2 inputs \(a, b\)'),
    ({'a': 'uint8'}, 'serving_default takes uint8; an image module takes float32'),
    ({}, 'has neither __call__ nor serving_default'),
])
def test_a_saved_model_that_is_no_function_of_images_is_refused(tmp_path, inputs, complaint):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function
  def serve(**images):
    return {'features': tf.reduce_mean(tf.cast(images['a'], tf.float32), (1, 2))}

  signatures = {'serving_default': serve.get_concrete_function(**{
      name: tf.TensorSpec([None, None, None, 3], dtype, name=name)
      for name, dtype in inputs.items()})} if inputs else {}
  tf.saved_model.save(root, str(tmp_path / 'served'), signatures=signatures)
  with pytest.raises(ValueError, match=f'^module .*served: its? .*{complaint}'):
    hub.load(hub.resolve(str(tmp_path / 'served')))


def _tensorflow_1(path, factor):
  """Saves a SavedModel as TensorFlow 1 did: its graph says nothing of objects."""
  import tensorflow as tf
  v1 = tf.compat.v1
  with v1.Graph().as_default(), v1.Session() as session:
    images = v1.placeholder(tf.float32, [None, None, None, 3], name='images')
    kernel = v1.get_variable('kernel', [3, 4], use_resource=True,
                             initializer=v1.ones_initializer())
    features = factor * tf.reduce_mean(images, (1, 2)) @ kernel
    session.run(v1.global_variables_initializer())
    v1.saved_model.simple_save(session, str(path), {'images': images}, {'features': features})
  return str(path)


def test_modules_of_tensorflow_1_share_no_program_and_train(tmp_path):
  one, other = (_tensorflow_1(tmp_path / f'old{factor}', factor) for factor in (2., 3.))
  found = candidates.find('', [one, other], image_size=16)
  both = {one.handle: one_.embeddings for one_ in embeddings.Embeddings({16: IMAGES}).of(
      found, np.arange(6)) for one in [one_.candidate]}
  wanted = UNIT_IMAGES.mean((1, 2)).sum(1, keepdims=True) * np.ones(4)
  np.testing.assert_allclose(both[one], 2 * wanted, rtol=1e-5)
  np.testing.assert_allclose(both[other], 3 * wanted, rtol=1e-5)
  network = tuned.build(found[0], 3)
  assert len(network.body.trainable_variables) == 1
  assert _all_move(*_trained(network))


# Keras models.


def _keras(path, shape=(16, 16, 3), seed=0):
  """Saves a Keras model with dropout, batch norm, a regularised kernel and a frozen layer."""
  import keras
  keras.utils.set_random_seed(seed)
  layers = keras.layers
  frozen = layers.Conv2D(4, 1, name='frozen', trainable=False)
  model = keras.Sequential([
      keras.Input(shape), layers.Conv2D(6, 3, strides=2, kernel_regularizer='l2'),
      layers.BatchNormalization(), frozen, layers.GlobalAveragePooling2D(),
      layers.Dropout(0.5)])
  model.save(path)
  return str(path)


def _keras_by_hand(handle, images):
  import keras
  return keras.models.load_model(handle)(images, training=False).numpy()


def test_a_keras_model_says_its_image_size_and_its_fingerprint_is_that_of_its_file(tmp_path):
  module = hub.resolve(_keras(tmp_path / 'model.keras'))
  assert module.metadata['image_size'] == 16
  assert module.metadata['fingerprint'] == hashlib.sha256(
      (tmp_path / 'model.keras').read_bytes()).hexdigest()
  (found,) = candidates.find('', [module.handle], image_size=99)  # its own word counts
  assert (found.kind, found.image_size, found.name) == ('foreign', 16, 'model.keras')


def test_a_keras_model_for_any_size_needs_one(tmp_path):
  handle = _keras(tmp_path / 'model.keras', (None, None, 3))
  with pytest.raises(ValueError, match='does not say its image size: give --image_size'):
    candidates.find('', [handle])
  np.testing.assert_allclose(_embed(handle), _keras_by_hand(handle, UNIT_IMAGES), atol=1e-5)


def test_keras_models_are_ranked_each_with_its_own_weights(tmp_path):
  handles = [_keras(tmp_path / f'{seed}.keras', seed=seed) for seed in (1, 2)]
  found = candidates.find('', handles)
  for one in embeddings.Embeddings({16: IMAGES}).of(found, np.arange(6)):
    np.testing.assert_allclose(
        one.embeddings, _keras_by_hand(one.candidate.handle, UNIT_IMAGES), atol=1e-5)


def test_a_keras_model_that_is_given_another_size_says_what_it_takes(tmp_path):
  import keras
  image = keras.Input((16, 16, 3))
  keras.Model(image, keras.layers.Flatten()(image)).save(tmp_path / 'model.keras')
  expert = dataclasses.replace(candidates.one(str(tmp_path / 'model.keras')), image_size=32)
  with pytest.raises(ValueError, match=(
      r'fails on images of 32 x 32 pixels \(Input 0 .* expected shape=\(None, 16, 16, 3\), found '
      r'shape=\(1, 32, 32, 3\)\): give the --image_size that it takes\.$')):
    tuned.build(expert, 3)


def test_of_a_keras_model_all_that_is_trainable_trains_and_the_rest_stays(tmp_path):
  network = tuned.build(candidates.one(_keras(tmp_path / 'model.keras')), 3)
  stays = {v.name: np.array(v) for v in network.body.non_trainable_variables}
  assert len(network.body.trainable_variables) == 4  # kernel, bias, gamma, beta
  before, after = _trained(network)
  # The bias before a batch norm has no effect.
  assert sum(np.abs(new - old).max() > 1e-9 for old, new in zip(before, after, strict=True)) >= 3
  changed = [name for name, old in stays.items() if not np.array_equal(
      old, next(v for v in network.body.non_trainable_variables if v.name == name))]
  assert len(changed) == 3  # both moments of the batch norm, and the state of the dropout


def test_a_frozen_network_computes_in_training_what_it_computes_in_testing(tmp_path):
  found = candidates.one(_keras(tmp_path / 'model.keras'))
  for part, alike in (('head', True), ('whole', False)):
    body = tuned.build(found, 3, tune=part).body
    before = [np.array(variable) for variable in body.variables]
    calm, trained = (np.asarray(body(UNIT_IMAGES, training=mode)) for mode in (False, True))
    assert np.array_equal(calm, trained) == alike
    assert all(np.array_equal(old, new) for old, new in zip(
        before, body.variables, strict=True)) == alike


def test_dropout_of_a_keras_model_is_of_training_alone_and_repeats_from_run_to_run(tmp_path):
  module = hub.resolve(_keras(tmp_path / 'model.keras'))
  layer, again = (saved_layer.SavedLayer(hub.load(module)) for _ in range(2))
  calm, trained = layer(UNIT_IMAGES), layer(UNIT_IMAGES, training=True)
  assert (np.asarray(calm) != 0).all()
  assert (np.asarray(trained) == 0).any()
  np.testing.assert_array_equal(trained, again(UNIT_IMAGES, training=True))


def test_a_regularizer_of_a_keras_model_is_part_of_the_loss(tmp_path):
  handle = _keras(tmp_path / 'model.keras')
  import keras
  (wanted,) = keras.models.load_model(handle).losses
  network = tuned.build(candidates.one(handle), 3)
  network(UNIT_IMAGES, training=True)
  np.testing.assert_allclose(network.losses, [wanted], rtol=1e-6)


def test_of_a_keras_model_with_several_outputs_default_is_the_embedding(tmp_path):
  import keras
  image = keras.Input((16, 16, 3))
  pooled = keras.layers.GlobalAveragePooling2D()(image)
  keras.Model(image, {'logits': keras.layers.Dense(2)(pooled), 'default': pooled}).save(
      tmp_path / 'named.keras')
  np.testing.assert_allclose(_embed(str(tmp_path / 'named.keras')), UNIT_IMAGES.mean((1, 2)),
                             rtol=1e-5)
  keras.Model(image, {'logits': keras.layers.Dense(2)(pooled), 'pooled': pooled}).save(
      tmp_path / 'unnamed.keras')
  with pytest.raises(ValueError, match=r'unnamed.keras: it has several outputs \(logits, pooled\)'):
    hub.load(hub.resolve(str(tmp_path / 'unnamed.keras')))


def _two_inputs(path):
  import keras
  images = [keras.Input((16, 16, 3)) for _ in range(2)]
  keras.Model(images, keras.layers.Flatten()(keras.layers.Add()(images))).save(path)


def _truncated(path):
  _keras(path)
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(('make', 'complaint'), [
    (_truncated, 'is truncated or no .keras file.'),
    (lambda path: _keras(path, (16, 16, 1)),
     "takes float32 ['any', 16, 16, 1]; an image module takes float32 [any, size, size, 3]."),
    (lambda path: _keras(path, (16, 20, 3)), "takes float32 ['any', 16, 20, 3]; an image module"),
    (_two_inputs, 'takes 2 inputs; an image module takes one.'),
])
def test_a_keras_file_that_cannot_be_a_module_is_one_line(tmp_path, console, make, complaint):
  path = tmp_path / 'model.keras'
  make(path)
  for binary, flags in ((rank_main, ['--hub=', f'--handles={path}']),
                        (finetune_main, [f'--handle={path}', '--work_dir=work'])):
    code, out, err = console(binary, *flags)
    assert (code, out, err.count('\n')) == (1, '', 1)
    assert f': {path} {complaint}' in err
  assert not os.path.exists('work')


def _lambda(path):
  import keras
  keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Lambda(lambda x: x * 2),
                    keras.layers.Flatten()]).save(path)


def _own_class(path):
  import keras

  class Mine(keras.layers.Layer):
    def call(self, x):
      return 2 * x

  keras.Sequential([keras.Input((16, 16, 3)), Mine(), keras.layers.Flatten()]).save(path)


@pytest.mark.parametrize(('make', 'complaint'), [
    (_lambda, 'it holds Python code, such as a Lambda layer, which is not run: '),
    (_own_class, "Keras cannot load it (Could not locate class 'Mine'."),
])
def test_code_of_a_keras_file_is_not_run(tmp_path, console, make, complaint):
  path = tmp_path / 'model.keras'
  make(path)
  code, out, err = console(rank_main, '--hub=', f'--handles={path}', '--examples=60')
  assert (code, out) == (1, '')
  assert f'module {path}: {complaint}' in err.splitlines()[-1]
  assert len(err.splitlines()[-1]) < 500


def test_a_keras_file_is_not_fetched_from_the_web():
  with pytest.raises(ValueError, match=r'fetch the \.keras file yourself and give its path'):
    hub.resolve('https://example.com/model.keras')


# Devices.


@pytest.mark.parametrize('kind', ['served', 'keras'])
def test_under_a_strategy_of_replicas_a_foreign_module_trains_as_without(shapes, tmp_path, kind):
  import tensorflow as tf
  handle = {'served': _serving, 'keras': lambda path: _keras(f'{path}.keras')}[kind](
      tmp_path / kind)
  expert, data = candidates.one(handle, image_size=16), runs.Data(shapes)
  recipe = dataclasses.replace(sweep.settings(PLAN, 45)[0].recipe, steps=2)
  tested = []
  for strategy in (None, tf.distribute.MirroredStrategy(['CPU:0'])):
    networks = tuned.Networks(3, strategy)
    _, trainer = networks.of(expert, sweep.Setting(recipe))
    trainer.fit(batches.of(data.of('train', 16), recipe, 3), recipe)
    tested.append(trainer.predict(data.of('test', 16).images))
  np.testing.assert_allclose(*tested, atol=1e-5)
  assert np.ptp(tested[0]) > 0.01


# The range of values.


def _reusable(path):
  import tensorflow as tf
  root = tf.train.Checkpoint(scale=tf.Variable(1.))

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    return root.scale * tf.concat([tf.reduce_mean(images, (1, 2)), tf.reduce_max(images, (1, 2))],
                                  1)

  root.__call__, root.variables, root.trainable_variables = call, [root.scale], [root.scale]
  tf.saved_model.save(root, str(path))
  return str(path)


def _of_reusable(images):
  return np.concatenate([images.mean((1, 2)), images.max((1, 2))], 1)


@pytest.mark.parametrize(('kind', 'low', 'high'), [
    ('reusable', 0, 255), ('served', -1, 1), ('keras', 0, 255)])
def test_images_are_scaled_to_the_range_that_a_module_takes(tmp_path, kind, low, high):
  make, compute = {
      'reusable': (_reusable, lambda _, images: _of_reusable(images)),
      'served': (_serving, _served),
      'keras': (lambda path: _keras(f'{path}.keras'), _keras_by_hand)}[kind]
  handle = make(tmp_path / kind)
  wanted = compute(handle, (low + (high - low) * UNIT_IMAGES).astype(np.float32))
  said = {'image_size': 16, 'input_range': (low, high)}
  np.testing.assert_allclose(_embed(handle, **said), wanted, rtol=1e-4, atol=1e-5 * high)
  network = tuned.build(candidates.one(handle, **said), 3)
  np.testing.assert_allclose(network.body(UNIT_IMAGES), wanted, rtol=1e-4, atol=1e-5 * high)


def test_a_module_that_says_its_range_is_taken_at_its_word(tmp_path, tiny_hub):
  handle = _reusable(tmp_path / 'module')
  fingerprint = hub.resolve(handle).metadata['fingerprint']
  (tmp_path / 'module/module.json').write_text(json.dumps({
      'schema': 1, 'publisher': 'me', 'name': 'module', 'version': 1, 'kind': 'expert',
      'image_size': 16, 'features': 6, 'fingerprint': fingerprint, 'input_range': [-1, 1]}))
  wanted = _of_reusable(2 * UNIT_IMAGES - 1)
  for said in (None, (0, 255)):
    np.testing.assert_allclose(_embed(handle, input_range=said), wanted, atol=1e-5)
  for one in candidates.find(tiny_hub, input_range=(0, 255)):  # ours say [0, 1]
    assert one.input_range == foreign.UNIT


def test_a_range_that_is_none_is_named(tmp_path):
  handle = _reusable(tmp_path / 'module')
  for wrong in ((1, 0), (0, 0), (0,), 'ab', (0, float('inf'))):
    with pytest.raises(ValueError, match='it must be two numbers, the lower one first'):
      candidates.one(handle, image_size=16, input_range=wrong)


def test_embeddings_of_another_range_have_another_key_and_the_known_ones_keep_theirs():
  of_unit = hashlib.sha256(json.dumps([cache.FORMAT, 'f', None, 32]).encode()).hexdigest()
  assert cache.key('f', None, 32) == cache.key('f', None, 32, (0, 1)) == of_unit
  keys = {cache.key('f', None, 32, values) for values in ((0., 1.), (0., 255.), (-1., 1.))}
  assert len(keys) == 3


def test_kept_embeddings_are_not_taken_for_those_of_another_range(shapes, tmp_path):
  handle = _reusable(tmp_path / 'module')

  def computed(**said):
    ranked = ranking.rank(shapes, '', [handle], image_size=16, **said)
    return ranked.winner.computed

  assert computed() == 45
  assert computed(input_range=(0, 255)) == 45
  assert computed(input_range=(0., 255.)) == computed() == 0


def test_a_work_dir_is_of_one_range_and_those_of_0_to_1_go_on(shapes, tmp_path):
  expert = candidates.one(_reusable(tmp_path / 'module'), image_size=16)
  data = runs.Data(shapes)
  settings = tuning.settings(data, expert, PLAN)
  assert 'input_range' not in settings
  other = dataclasses.replace(expert, input_range=(0., 255.))
  assert tuning.settings(data, other, PLAN) == settings | {'input_range': [0., 255.]}


def test_a_classifier_made_of_a_keras_model_scales_images_as_in_training(shapes, tmp_path):
  handle = _keras(tmp_path / 'model.keras')
  result = tuning.finetune(shapes, handle, str(tmp_path / 'work'), PLAN, input_range=(-1, 1))
  assert _classifies_as_trained(result, shapes)


@pytest.mark.parametrize('value', ['255', '1,0', '0,255,1', 'low,high', '0,inf', 'nan,1', ''])
def test_a_malformed_range_is_wrong_usage(console, value):
  for binary in (rank_main, finetune_main):
    code, out, err = console(binary, '--handle=x' if binary is finetune_main else '--hub=',
                             f'--input_range={value}')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert f'flag --input_range={value}: give LOW,HIGH, two numbers, the lower one first' in err


# From the command line.


@pytest.mark.parametrize('kind', ['keras', 'served'])
def test_zoo_rank_and_zoo_finetune_take_a_foreign_module(tmp_path, console, kind):
  handle, size = {'keras': lambda: (_keras(tmp_path / 'model.keras'), []),
                  'served': lambda: (_serving(tmp_path / 'served'), ['--image_size=16'])}[kind]()
  code, out, err = console(rank_main, '--hub=', f'--handles={handle}', *size, '--json',
                           '--input_range=-1,1', '--examples=100')
  assert code == 0, err
  (found,) = json.loads(out)['experts']
  assert (found['handle'], found['kind'], found['dropped']) == (handle, 'foreign', None)
  code, out, err = console(
      finetune_main, f'--handle={handle}', *size, '--input_range=-1,1', '--work_dir=work',
      '--sweep=fixed', '--steps=2', '--batch=8', '--json')
  assert code == 0, err
  result = json.loads(out)
  assert (result['handle'], result['test_examples']) == (handle, 797)
  assert os.path.exists(os.path.join(result['module'], 'saved_model.pb'))
