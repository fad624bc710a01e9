"""Vision Transformers: their arithmetic, with every option, and the same line as a ResNet's."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from conftest import shapes_task
from conftest import tiny_description
from export import hub
from export import publish
from export import saved_model
from finetune import tuned
from selection import candidates
from zoo import adapters
from zoo import backbones
from zoo import batches
from zoo import published
from zoo import tasks
from zoo import training
from zoo import vit
from zoo import vit_weights
from zoo import weights

TINY = vit.Architecture(4, 8, 2, 2, 12, 16)
OPTIONS = {
    'token': {}, 'mean': {'pooling': 'mean'}, 'parallel': {'parallel': True},
    'qk_norm': {'qk_norm': True}, 'no_biases': {'biases': False},
    'vit_22b': {'parallel': True, 'qk_norm': True, 'biases': False}}
MODERN = dataclasses.replace(TINY, **OPTIONS['vit_22b'])


def images_of(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def randomised(network, seed=0):
  """The network with all weights drawn anew, so that none is 0 or 1."""
  rng = np.random.default_rng(seed)
  for variable in network.variables:
    variable.assign(rng.normal(0.1, 0.4, variable.shape))
  return network


# A Vision Transformer in numpy, float64, from arrays named as in the published files.


def layer_norm(x, arrays, scope):
  centred = x - x.mean(-1, keepdims=True)
  x = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-6)
  return x * arrays[f'{scope}/scale'] + arrays.get(f'{scope}/bias', 0)


def attend(x, arrays, scope, qk_norm):
  def of(name):
    y = np.tensordot(x, arrays[f'{scope}/{name}/kernel'], 1) + arrays.get(f'{scope}/{name}/bias', 0)
    return layer_norm(y, arrays, f'{scope}/{name}_norm') if qk_norm and name != 'value' else y

  query, key, value = map(of, ('query', 'key', 'value'))
  out = arrays[f'{scope}/out/bias'] + np.zeros_like(x)
  for head in range(query.shape[2]):
    scores = query[:, :, head] @ key[:, :, head].swapaxes(1, 2) / query.shape[3] ** 0.5
    out += (scipy.special.softmax(scores, -1) @ value[:, :, head]
            @ arrays[f'{scope}/out/kernel'][head])
  return out


def mlp(x, arrays, scope):
  x = x @ arrays[f'{scope}/Dense_0/kernel'] + arrays[f'{scope}/Dense_0/bias']
  x = x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3))) / 2
  return x @ arrays[f'{scope}/Dense_1/kernel'] + arrays[f'{scope}/Dense_1/bias']


def forward(arrays, images, a):
  """[B, H, W, 3] in [0, 1] to [B, C] by an architecture."""
  arrays = {name: value.astype(np.float64) for name, value in arrays.items()}
  x = images.astype(np.float64) * 2. - 1.
  missing = [-size % a.patch for size in x.shape[1:3]]  # grey, half of it on each side
  x = np.pad(x, ((0, 0), *((lack // 2, lack - lack // 2) for lack in missing), (0, 0)))
  b, height, width = x.shape[0], x.shape[1] // a.patch, x.shape[2] // a.patch
  x = x.reshape(b, height, a.patch, width, a.patch, 3)
  x = np.einsum('bhpwqc,pqcd->bhwd', x, arrays['embedding/kernel']) + arrays['embedding/bias']
  x = x.reshape(b, height * width, a.width)
  learnt = arrays['Transformer/posembed_input/pos_embedding'][0]
  first = [learnt[:1] + arrays['cls'][0]] if 'cls' in arrays else []
  places = learnt[len(first):].reshape(a.grid, a.grid, a.width)
  places = scipy.ndimage.zoom(places, (height / a.grid, width / a.grid, 1), order=1)
  x = x + places.reshape(height * width, a.width)
  if first:
    x = np.concatenate([np.broadcast_to(first[0], (b, 1, a.width)), x], 1)
  for i in range(a.depth):
    scope = f'Transformer/encoderblock_{i}'
    y = layer_norm(x, arrays, f'{scope}/LayerNorm_0')
    if a.parallel:
      x = x + mlp(y, arrays, f'{scope}/MlpBlock_3') + attend(
          y, arrays, f'{scope}/MultiHeadDotProductAttention_1', a.qk_norm)
      continue
    x = x + attend(y, arrays, f'{scope}/MultiHeadDotProductAttention_1', a.qk_norm)
    x = x + mlp(layer_norm(x, arrays, f'{scope}/LayerNorm_2'), arrays, f'{scope}/MlpBlock_3')
  x = layer_norm(x, arrays, 'Transformer/encoder_norm')
  return x[:, 0] if first else x.mean(1)


def forward_of(network, images):
  """The same of one of our networks."""
  arrays = {published.public_name(vit_weights, path): value
            for path, value in weights.of(network).items()}
  return forward(arrays, images, network.architecture)


# Arithmetic.


@pytest.mark.parametrize('changes', OPTIONS.values(), ids=OPTIONS)
def test_the_network_is_the_formula_with_every_option_at_any_image_size(changes):
  network = randomised(backbones.build(dataclasses.replace(TINY, **changes)))
  for height, width in ((16, 16), (33, 6)):
    images = images_of(3, height, width, 3)
    np.testing.assert_allclose(network(images), forward_of(network, images), rtol=1e-4, atol=2e-5)


def test_an_option_adds_and_takes_away_the_weights_that_it_says():
  def paths(**changes):
    return set(weights.of(backbones.build(dataclasses.replace(TINY, **changes))))

  plain = paths()
  both = {'backbone/block01', 'backbone/block02'}
  assert plain - paths(parallel=True) == {
      f'{one}/mlp_norm/{name}' for one in both for name in ('gamma', 'beta')}
  assert paths(qk_norm=True) - plain == {
      f'{one}/attention/{part}_norm/{name}'
      for one in both for part in ('query', 'key') for name in ('gamma', 'beta')}
  left = {path for path in paths(biases=False) if path.endswith(('/bias', '/beta'))}
  assert left == {'backbone/embedding/bias', *(
      f'{one}/{part}/bias' for one in both for part in ('attention/out', 'mlp/dense0',
                                                        'mlp/dense1'))}
  assert plain - paths(pooling='mean') == {'backbone/embedding/cls'}


# Without head, from the shapes of the published files.
PARAMETERS = {'vit_ti16': 5_524_416, 'vit_s16': 21_665_664, 'vit_s32': 22_493_952,
              'vit_b16': 85_798_656, 'vit_b32': 87_455_232, 'vit_l16': 303_301_632,
              'vit32_d6w64': 307_264, 'vit32_d6w128': 1_204_352, 'vit64_d6w128': 1_222_784}


@pytest.mark.parametrize('name', PARAMETERS)
def test_presets_have_the_published_number_of_parameters(name):
  preset = backbones.preset(name)
  with keras.StatelessScope():  # shapes without values, of one block: all are alike
    network = backbones.build(dataclasses.replace(preset, depth=1))
  sizes = {v.path: int(np.prod(v.shape)) for v in network.variables}
  block = sum(size for path, size in sizes.items() if '/block01/' in path)
  assert sum(sizes.values()) + (preset.depth - 1) * block == PARAMETERS[name]


def test_queries_keys_and_values_start_as_wide_as_glorot_says_and_apart():
  found = weights.of(backbones.build(vit.Architecture(4, 64, 1, 4, 8, 8)))
  kernels = [found[f'backbone/block01/attention/{name}/kernel'].ravel()
             for name in ('query', 'key', 'value', 'out')]
  assert np.std(kernels, axis=1) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
  assert np.abs(np.corrcoef(kernels) - np.eye(4)).max() < 0.1


def test_stochastic_depth_leaves_branches_out_in_training_only_and_keeps_the_mean():
  plain = randomised(backbones.build(TINY))
  deep = backbones.build(TINY, stochastic_depth=0.5)
  weights.set_to(deep, weights.of(plain), partly=True)
  images = images_of(64, 8, 8, 3)
  assert deep.training_matters
  np.testing.assert_array_equal(deep(images), plain(images))
  assert [[drop.rate for drop in unit.drops] for unit in deep.units] == [[0.25] * 2, [0.5] * 2]
  x, last = np.asarray(deep.stem(images)), deep.units[1]
  attended = x + np.asarray(last.attention(last.attention_norm(x)))
  added = np.asarray(last(x, training=True)) - x
  # Half of the images have no attention, and half of those no MLP.
  untouched = np.abs(added).max((1, 2)) == 0
  assert 5 < untouched.sum() < 30  # 16 expected; three and a half standard deviations
  doubled = x + 2 * (attended - x)  # attention alone, scaled
  assert (np.abs(x + added - doubled).max((1, 2)) < 1e-4).any()


# Images of other sizes.


def test_positions_of_another_size_are_those_that_the_published_code_zooms_to():
  positions = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
  for height, width in ((4, 4), (7, 2), (3, 9), (14, 24)):
    ours = np.asarray(vit.resized(positions, height, width))
    wanted = scipy.ndimage.zoom(positions, (height / 4, width / 4, 1), order=1)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    np.testing.assert_array_equal(ours[[0, 0, -1, -1], [0, -1, 0, -1]],
                                  positions[[0, 0, -1, -1], [0, -1, 0, -1]])
  np.testing.assert_array_equal(vit.resized(positions, 1, 1)[0, 0], positions[0, 0])


@pytest.fixture(scope='module')
def network():
  """A tiny network of random weights; do not change it."""
  return randomised(backbones.build(TINY))


def test_a_graph_for_images_of_unknown_size_computes_what_one_for_a_known_size_does(network):
  import tensorflow as tf
  unknown = tf.function(network, input_signature=[tf.TensorSpec([None, None, None, 3])])
  for height, width in ((16, 16), (9, 30), (1, 1)):
    images = images_of(2, height, width, 3)
    np.testing.assert_allclose(unknown(images), network(images), rtol=1e-5, atol=1e-5)


def test_what_a_last_patch_lacks_is_grey(network):
  images = images_of(2, 13, 16, 3)
  filled = np.pad(images, ((0, 0), (1, 2), (0, 0), (0, 0)), constant_values=0.5)
  np.testing.assert_allclose(network(images), network(filled), rtol=1e-5, atol=1e-5)


# As modules.


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
  """A module of two adapter experts of a network with ViT-22B's changes; do not change it."""
  root = str(tmp_path_factory.mktemp('hub'))
  network = backbones.build(MODERN, adapters.AdapterConfig(4, experts=2))
  publish.publish(randomised(network), tiny_description('packed', preset='vit_s16'), root,
                  'test/packed/1')
  return hub.resolve('test/packed', root)


def test_every_weight_of_a_module_trains_through_tensorflow_hub(packed):
  import tensorflow as tf
  import tensorflow_hub
  layer = tensorflow_hub.KerasLayer(packed.path, trainable=True, arguments={'expert': 1})
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(images_of(2, 20, 20, 3), training=True) ** 3)
  gradients = [np.asarray(tf.convert_to_tensor(one))
               for one in tape.gradient(loss, layer.trainable_weights)]
  assert len(gradients) == len(backbones.build(MODERN, adapters.AdapterConfig(4)).variables)
  assert min(np.abs(one).max() for one in gradients) > 1e-4


def test_a_module_is_a_keras_network_again_whole_or_one_expert_of_it(packed):
  images = images_of(3, 21, 16, 3)
  network = saved_model.restore(packed.path, packed.metadata)
  assert isinstance(network, vit.VisionTransformer)
  assert network.architecture == MODERN
  for expert in (0, 1):
    wanted = hub.load(packed)(images, expert=expert)
    np.testing.assert_allclose(network(images, expert=expert), wanted, rtol=1e-4, atol=1e-4)
    alone = saved_model.restore(packed.path, packed.metadata, expert)
    np.testing.assert_allclose(alone(images), wanted, rtol=1e-4, atol=1e-4)


def test_the_card_says_which_family_it_is_of(packed):
  with open(f'{packed.path}/README.md', encoding='utf-8') as file:
    assert '| architecture | vit_s16 (ViT) |' in file.read()


# Fine-tuned.


def test_a_part_is_the_head_the_adapters_or_any_number_of_last_blocks(packed):
  candidate = candidates.one(f'{packed.path}#square')
  assert tuned.Networks(3).parts(candidate) == ['whole', 'head', 'adapters', 'last:1']
  with pytest.raises(ValueError, match=r'\(square\) has 2 stages; use last:2 or less'):
    tuned.check(candidate, 'last:3')
  for tune, trains in (('head', ('head/',)), ('last:1', ('head/', '/block02/', '/norm/')),
                       ('last:2', ('head/', '/block0', '/norm/')),
                       ('adapters', ('head/', '/adapter/')), ('whole', ('',))):
    model = tuned.build(candidate, 3, tune=tune)
    assert [v.path for v in model.trainable_variables] == [
        path for path in weights.of(model) if any(part in path for part in trains)], tune


def test_the_last_block_trains_in_bfloat16_with_stochastic_depth_and_the_rest_stays(packed):
  model = tuned.build(candidates.one(f'{packed.path}#square'), 3, precision='mixed_bfloat16',
                      tune='last:1', stochastic_depth=0.1)
  before = weights.of(model)
  recipe = training.Recipe(steps=3, batch=8, learning_rate=0.05, crop=0)
  examples = tasks.read(shapes_task(16, 3), ('train', None), 16)
  training.fit(model, batches.of(examples, recipe, 3), recipe)
  changed = {path for path, value in weights.of(model).items()
             if not np.array_equal(value, before[path]) and 'seed_generator' not in path}
  assert changed == {v.path for v in model.trainable_variables}
