"""Backbones: BiT's sizes and arithmetic; of all families any image size, and descriptions."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest

from zoo import adapters
from zoo import backbones
from zoo import layers
from zoo import vit
from zoo import weights

TINY_BIT = backbones.Architecture((1, 1), 8, 'bottleneck', 4, image_size=16)
TINY_SMALL = backbones.Architecture((1, 1), 8, 'basic', 4, 'small', 2, 16)
TINY_VIT = vit.Architecture(4, 8, 2, 2, 16, 16)


def images_of(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


# Without head; computed in PAPERS section 7 from the published files' shapes.
PARAMETERS = {
    'r50x1': 23_500_352, 'r101x1': 42_492_480, 'r50x3': 211_174_080, 'r152x4': 928_340_224}


@functools.cache
def narrow_arrays(depths):
  """The arrays, by path, of a BiT network of width 32."""
  return weights.of(backbones.build(backbones.Architecture(depths, 32)))


@pytest.mark.parametrize('name', PARAMETERS)
def test_published_presets_have_the_published_number_of_parameters(name):
  # Gigabytes are not needed to count: a network of width 32 has the same arrays, with every
  # channel axis `times` as short. Scale and offset have one such axis, a kernel has two; but
  # the stem's kernel only one, since red, green and blue stay three.
  preset = backbones.preset(name)
  times = preset.width // 32
  count = 0
  for path, value in narrow_arrays(preset.depths).items():
    axes = 1 if value.ndim == 1 or path == 'backbone/stem/kernel' else 2
    count += value.size * times ** axes
  assert count == PARAMETERS[name]
  assert preset == backbones.Architecture(preset.depths, preset.width)  # BiT's stem and units
  assert preset.features == 2048 * preset.width // 64


@pytest.mark.parametrize('name', backbones.PRESETS)
def test_a_preset_is_known_by_its_layers_at_any_image_size(name):
  preset = backbones.preset(name)
  assert backbones.name_of(dataclasses.replace(preset, image_size=48)) == name
  assert backbones.name_of(dataclasses.replace(preset, width=5 * preset.width)) is None


def test_group_norm_is_that_of_keras():
  rng = np.random.default_rng(0)
  x = rng.normal(3., 2., (2, 5, 7, 12)).astype(np.float32)
  gamma, beta = rng.normal(size=(2, 12)).astype(np.float32)
  reference = keras.layers.GroupNormalization(groups=4, epsilon=1e-5)
  reference.build(x.shape)
  reference.gamma.assign(gamma)
  reference.beta.assign(beta)
  ours = layers.group_norm(x, gamma, beta, groups=4)
  np.testing.assert_allclose(ours, reference(x), rtol=1e-4, atol=1e-4)


def test_group_norm_of_a_constant_image_is_the_offset():
  x = np.full((1, 4, 4, 8), 7., np.float32)
  beta = np.arange(8, dtype=np.float32)
  y = layers.group_norm(x, np.ones(8, np.float32), beta, groups=2)
  np.testing.assert_allclose(y, np.broadcast_to(beta, x.shape), atol=0.05)


def convolve(x, kernel, strides):
  """Standardised convolution in float64: x [B, H, W, C], kernel [k, k, C, O]."""
  x, kernel = x.astype(np.float64), kernel.astype(np.float64)
  mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
  kernel = (kernel - mean) / np.sqrt(variance + 1e-10)
  size = len(kernel)
  pad = (size - 1) // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows[:, ::strides, ::strides], kernel)


@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize('strides', [1, 2])
@pytest.mark.parametrize('height, width', [(8, 8), (9, 6), (1, 1)])
def test_standardized_convolution_is_the_formula_with_even_padding(size, strides, height, width):
  x = images_of(2, height, width, 3)
  layer = layers.StandardizedConv2D(5, size, strides)
  ours = layer(x)
  # The scale of he_normal must not matter, and a mean must not either.
  np.testing.assert_allclose(
      ours, convolve(x, np.asarray(layer.kernel), strides), rtol=1e-4, atol=1e-4)
  layer.kernel.assign(np.asarray(layer.kernel) * 3. + 1.)
  np.testing.assert_allclose(layer(x), ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('architecture', [TINY_BIT, TINY_SMALL, TINY_VIT],
                         ids=['bit', 'small', 'vit'])
@pytest.mark.parametrize('height, width', [(1, 1), (1, 5), (2, 2), (33, 20)])
def test_images_of_any_size_give_finite_embeddings(architecture, height, width):
  network = backbones.build(architecture)
  embeddings = np.asarray(network(images_of(3, height, width, 3)))
  assert embeddings.shape == (3, architecture.features)
  assert embeddings.dtype == np.float32
  assert np.isfinite(embeddings).all()


def test_an_image_is_embedded_the_same_in_any_company():
  network = backbones.build('r8w16')
  images = images_of(5, 16, 16, 3)
  np.testing.assert_allclose(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


def test_the_seed_alone_chooses_the_initial_weights():
  one, same, other = (weights.of(backbones.build(TINY_SMALL, seed=s)) for s in (1, 1, 2))
  assert all(np.array_equal(one[path], same[path]) for path in one)
  assert not np.array_equal(one['backbone/stem/kernel'], other['backbone/stem/kernel'])


@pytest.mark.parametrize('name', backbones.PRESETS)
def test_an_architecture_survives_json(name):
  architecture = backbones.preset(name)
  assert backbones.architecture_of(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_a_description_without_a_family_is_of_a_resnet_and_an_unknown_family_is_named():
  # The embedded zoo is described so.
  assert backbones.architecture_of({'depths': [1, 1], 'width': 32}) == backbones.Architecture(
      (1, 1), 32)
  assert 'family' not in TINY_BIT.to_dict()
  with pytest.raises(ValueError, match=r"family 'MLP-Mixer' are not known .* update it"):
    backbones.architecture_of({**TINY_VIT.to_dict(), 'family': 'MLP-Mixer'})


def test_an_unknown_preset_is_an_error_that_names_those_there_are():
  with pytest.raises(ValueError, match=r"'r51x1'.* r50x1, .*r14w32"):
    backbones.build('r51x1')


@pytest.mark.parametrize('tiny, wrong, said', [
    (TINY_BIT, {'block': 'dense'}, "block is 'dense'"), (TINY_BIT, {'stem': None}, 'stem is None'),
    (TINY_BIT, {'stem_stride': 3}, 'stem_stride is 3'),
    (TINY_BIT, {'depths': ()}, r'depths is \(\)'), (TINY_BIT, {'depths': (2, 0)}, 'depths is'),
    (TINY_BIT, {'width': 10}, 'width 10 .* groups 4'),
    (TINY_VIT, {'width': 9}, 'width 9 is not a multiple of heads 2'),
    (TINY_VIT, {'patch': 0}, 'patch is 0; it must be 1 or more'),
    (TINY_VIT, {'pooling': 'max'}, "pooling is 'max'"),
    (TINY_VIT, {'family': 'ResNet'}, "family is 'ResNet'")])
def test_an_impossible_architecture_is_an_error_that_names_the_field(tiny, wrong, said):
  with pytest.raises(ValueError, match=said):
    dataclasses.replace(tiny, **wrong)


@pytest.mark.parametrize('preset', ['r8w16', 'vit32_d6w64'])
def test_bfloat16_embeddings_are_close_and_leave_the_global_precision_alone(preset):
  images = images_of(4, 32, 32, 3)
  exact = backbones.build(preset, seed=3)
  rounded = backbones.build(preset, precision='mixed_bfloat16', seed=3)
  assert keras.config.dtype_policy().name == 'float32'
  assert {v.dtype for v in rounded.variables} == {'float32'}
  one, other = np.asarray(exact(images)), np.asarray(rounded(images))
  assert other.dtype == np.float32
  error = np.linalg.norm(one - other) / np.linalg.norm(one)
  assert 0 < error < 0.02  # 0 would mean that nothing was computed in bfloat16


@pytest.mark.parametrize('tiny', [TINY_BIT, TINY_VIT], ids=['bit', 'vit'])
def test_a_backbone_rebuilt_from_its_config_takes_the_weights_of_the_first(tiny):
  config = adapters.AdapterConfig(4, stages=(1,), experts=2)
  network = backbones.build(tiny, config)
  for _ in range(2):  # a second one in the same process must get the same variable paths too
    read = json.loads(json.dumps(network.get_config()))
    again = type(network).from_config(read)
    assert (again.architecture, again.adapters) == (tiny, config)
    images = images_of(2, 16, 16, 3)
    again(images)
    weights.set_to(again, weights.of(network))
    np.testing.assert_array_equal(again(images, expert=1), network(images, expert=1))


def test_stochastic_depth_leaves_branches_out_in_training_only_and_keeps_the_mean():
  images = np.random.default_rng(0).random((64, 8, 8, 3), np.float32)
  plain = backbones.build(TINY_SMALL)
  deep = backbones.build(TINY_SMALL, stochastic_depth=0.5)
  weights.set_to(deep, weights.of(plain), partly=True)
  assert not plain.training_matters
  assert deep.training_matters
  np.testing.assert_array_equal(deep(images), plain(images))
  first, last = deep.units
  assert (first.drop.rate, last.drop.rate) == (0.25, 0.5)
  x = np.asarray(deep.stem(images))
  branch = np.asarray(first(x)) - x  # the first unit's shortcut is its input
  added = np.asarray(first(x, training=True)) - x
  out = np.abs(added).max((1, 2, 3)) == 0
  np.testing.assert_allclose(added[~out], branch[~out] / 0.75, atol=1e-5)
  assert 4 < out.sum() < 28  # 16 expected of 64; three and a half standard deviations
