"""Published BiT files load by their names, and the network then computes what BiT does."""

import re

import numpy as np
import pytest

from zoo import backbones
from zoo import bit_weights
from zoo import published
from zoo import weights

STEM = 'resnet/root_block/standardized_conv2d/kernel'
TINY = backbones.Architecture((1, 1), 32, image_size=32)  # 32 groups, as BiT has


def public_shapes(depths, width, classes=10):
  """Names and shapes of a published file, written down from the description of the format."""
  shapes = {STEM: (7, 7, 3, width)}
  channels = width
  for block, depth in enumerate(depths, 1):
    inner = width * 2 ** (block - 1)
    for unit in range(1, depth + 1):
      scope = f'resnet/block{block}/unit{unit:02d}'
      for letter, size, inputs, outputs in (
          ('a', 1, channels, inner), ('b', 3, inner, inner), ('c', 1, inner, 4 * inner)):
        shapes[f'{scope}/{letter}/group_norm/gamma'] = (inputs,)
        shapes[f'{scope}/{letter}/group_norm/beta'] = (inputs,)
        shapes[f'{scope}/{letter}/standardized_conv2d/kernel'] = (size, size, inputs, outputs)
      if unit == 1:
        shapes[f'{scope}/a/proj/standardized_conv2d/kernel'] = (1, 1, channels, 4 * inner)
      channels = 4 * inner
  shapes['resnet/group_norm/gamma'] = shapes['resnet/group_norm/beta'] = (channels,)
  shapes['resnet/head/conv2d/kernel'] = (1, 1, channels, classes)
  shapes['resnet/head/conv2d/bias'] = (classes,)
  return shapes


def random_arrays(depths=TINY.depths, width=TINY.width, seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.normal(0.1, 0.5, shape).astype(np.float32)
          for name, shape in public_shapes(depths, width).items()}


def saved(folder, arrays):
  path = str(folder / 'BiT.npz')
  np.savez(path, **arrays)
  return path


def convolve(x, kernel, strides=1, pad=0):
  kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows[:, ::strides, ::strides], kernel)


def norm_and_relu(x, arrays, scope):
  b, h, w, c = x.shape
  grouped = x.reshape(b, h, w, 32, c // 32)
  mean = grouped.mean((1, 2, 4), keepdims=True)
  variance = grouped.var((1, 2, 4), keepdims=True)
  x = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
  return np.maximum(
      x * arrays[f'{scope}/group_norm/gamma'] + arrays[f'{scope}/group_norm/beta'], 0.)


def bit_forward(arrays, images, depths):
  """BiT in numpy, float64, straight from a file's arrays: [B, H, W, 3] in [0, 1] to [B, F]."""
  arrays = {name: value.astype(np.float64) for name, value in arrays.items()}
  x = images.astype(np.float64) * 2. - 1.
  x = convolve(x, arrays[STEM], strides=2, pad=3)
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  x = windows[:, ::2, ::2].max((-2, -1))
  for block, depth in enumerate(depths, 1):
    for unit in range(1, depth + 1):
      scope = f'resnet/block{block}/unit{unit:02d}'
      strides = 2 if block > 1 and unit == 1 else 1
      y = norm_and_relu(x, arrays, f'{scope}/a')
      if unit == 1:
        x = convolve(y, arrays[f'{scope}/a/proj/standardized_conv2d/kernel'], strides)
      y = convolve(y, arrays[f'{scope}/a/standardized_conv2d/kernel'])
      y = norm_and_relu(y, arrays, f'{scope}/b')
      y = convolve(y, arrays[f'{scope}/b/standardized_conv2d/kernel'], strides, pad=1)
      y = norm_and_relu(y, arrays, f'{scope}/c')
      x = x + convolve(y, arrays[f'{scope}/c/standardized_conv2d/kernel'])
  return norm_and_relu(x, arrays, 'resnet').mean((1, 2))


def test_a_file_like_the_published_r50x1_loads_array_by_array(tmp_path):
  # Each array is filled with its own number, which tells where it went.
  shapes = public_shapes((3, 4, 6, 3), 64)
  numbers = {name: i for i, name in enumerate(shapes)}
  path = saved(tmp_path, {
      name: np.full(shape, numbers[name], np.float32) for name, shape in shapes.items()})
  network = backbones.build('r50x1')
  published.load(network, path)
  assert sum(np.prod(s) for n, s in shapes.items() if '/head/' not in n) == network.count_params()
  found = weights.of(network)
  for own, name in (
      ('stem/kernel', 'root_block/standardized_conv2d/kernel'),
      ('stage1_unit01/a_proj/kernel', 'block1/unit01/a/proj/standardized_conv2d/kernel'),
      ('stage3_unit06/b_norm/beta', 'block3/unit06/b/group_norm/beta'),
      ('stage4_unit03/c_conv/kernel', 'block4/unit03/c/standardized_conv2d/kernel'),
      ('norm/gamma', 'group_norm/gamma')):
    assert (found[f'backbone/{own}'] == numbers[f'resnet/{name}']).all()
  placed = sorted(value.flat[0] for value in found.values())
  assert placed == sorted(n for name, n in numbers.items() if '/head/' not in name)


@pytest.mark.parametrize('depths, size', [((1, 1), 32), ((2, 1), 19)])
def test_a_loaded_network_computes_what_bit_does(tmp_path, depths, size):
  arrays = random_arrays(depths)
  network = backbones.build(backbones.Architecture(depths, 32, image_size=size))
  published.load(network, saved(tmp_path, arrays))
  images = np.random.default_rng(1).random((2, size, size, 3)).astype(np.float32)
  np.testing.assert_allclose(
      network(images), bit_forward(arrays, images, depths), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', ['r50x1', 'r101x1', 'r50x3', 'r152x4'])
def test_a_file_tells_which_of_the_published_networks_it_is(name):
  preset = backbones.preset(name)
  assert bit_weights.architecture(public_shapes(preset.depths, preset.width)) == preset


@pytest.mark.parametrize('depths, width', [((2, 1), 32), ((1, 1), 64)])
def test_a_network_is_as_deep_and_as_wide_as_its_file(tmp_path, depths, width):
  arrays = random_arrays(depths, width)
  network = published.network(saved(tmp_path, arrays), 19)
  assert network.architecture == backbones.Architecture(depths, width, image_size=19)
  images = np.random.default_rng(1).random((2, 19, 19, 3)).astype(np.float32)
  np.testing.assert_allclose(
      network(images), bit_forward(arrays, images, depths), rtol=1e-3, atol=1e-4)


def test_layer_numbers_in_the_names_do_not_matter(tmp_path):
  arrays = random_arrays()
  numbered = {
      re.sub('(standardized_conv2d|group_norm)/', rf'\1_{i}/', name): value
      for i, (name, value) in enumerate(arrays.items())}
  assert not set(numbered) & {n for n in arrays if '/head/' not in n}
  plain, other = backbones.build(TINY), backbones.build(TINY, seed=1)
  published.load(plain, saved(tmp_path, arrays))
  published.load(other, saved(tmp_path, numbered))
  for path, value in weights.of(plain).items():
    np.testing.assert_array_equal(value, weights.of(other)[path])
