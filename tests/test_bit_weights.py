"""Published BiT files load by their names, and the network then computes what BiT does."""

import io
import pathlib
import re

import numpy as np
import pytest

from zoo import adapters
from zoo import backbones
from zoo import bit_weights
from zoo import vit
from zoo import weights

TINY = backbones.Architecture((1, 1), 32, image_size=32)  # 32 groups, as BiT has


def public_shapes(depths, width, classes=10):
  """Names and shapes of a published file, written down from the description of the format."""
  shapes = {'resnet/root_block/standardized_conv2d/kernel': (7, 7, 3, width)}
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
  x = convolve(x, arrays['resnet/root_block/standardized_conv2d/kernel'], strides=2, pad=3)
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
  bit_weights.load(network, path)
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
  bit_weights.load(network, saved(tmp_path, arrays))
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
  network = bit_weights.network(saved(tmp_path, arrays), 19)
  assert network.architecture == backbones.Architecture(depths, width, image_size=19)
  images = np.random.default_rng(1).random((2, 19, 19, 3)).astype(np.float32)
  np.testing.assert_allclose(
      network(images), bit_forward(arrays, images, depths), rtol=1e-3, atol=1e-4)


STEM = 'resnet/root_block/standardized_conv2d/kernel'


@pytest.mark.parametrize('changed, said', [
    ({STEM: None}, f'is no published BiT file: it has no {STEM} of shape'),
    ({STEM: np.zeros((3, 3, 3, 32))}, f'is no published BiT file: it has no {STEM} of shape'),
    ({STEM: np.zeros((7, 7, 3, 8))}, 'is no published BiT file: width 8 is not a multiple of gro'),
    ({STEM: np.zeros((7, 7, 3, 64))}, 'has shape (32,); (64,) is needed'),
    ({'resnet/block2/unit03/a/group_norm/beta': np.zeros(3)}, 'lacks resnet/block2/unit02/a/'),
    ({'resnet/group_norm/beta': np.array([{}])}, 'Object arrays cannot be loaded')])
def test_a_file_whose_arrays_do_not_go_together_is_one_line(tmp_path, changed, said):
  arrays = random_arrays() | changed
  path = saved(tmp_path, {name: value for name, value in arrays.items() if value is not None})
  with pytest.raises(ValueError) as caught:
    bit_weights.network(path)
  assert str(caught.value).startswith(path)
  assert said in str(caught.value)
  assert '\n' not in str(caught.value)


def test_layer_numbers_in_the_names_do_not_matter(tmp_path):
  arrays = random_arrays()
  numbered = {
      re.sub('(standardized_conv2d|group_norm)/', rf'\1_{i}/', name): value
      for i, (name, value) in enumerate(arrays.items())}
  assert not set(numbered) & {n for n in arrays if '/head/' not in n}
  plain, other = backbones.build(TINY), backbones.build(TINY, seed=1)
  bit_weights.load(plain, saved(tmp_path, arrays))
  bit_weights.load(other, saved(tmp_path, numbered))
  for path, value in weights.of(plain).items():
    np.testing.assert_array_equal(value, weights.of(other)[path])


def test_adapters_stay_as_they_are(tmp_path):
  network = backbones.build(TINY, adapters.AdapterConfig(4))
  before = weights.of(network)
  bit_weights.load(network, saved(tmp_path, random_arrays()))
  kept = [p for p, value in weights.of(network).items() if np.array_equal(value, before[p])]
  assert kept == [path for path in before if adapters.is_adapter(path)]
  assert kept


def refused(network, path):
  """The one line that says why a file does not load, after which the network is as it was."""
  before = weights.of(network)
  with pytest.raises(ValueError) as caught:
    bit_weights.load(network, path)
  after = weights.of(network)
  assert all(np.array_equal(before[p], after[p]) for p in before)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_missing_arrays_are_named_a_few_and_counted(tmp_path):
  arrays = random_arrays()
  lacking = {n: v for n, v in arrays.items() if '/block2/' not in n}
  message = refused(backbones.build(TINY), saved(tmp_path, lacking))
  assert 'resnet/block2/unit01/a/' in message
  assert '(10)' in message
  del arrays['resnet/group_norm/beta']
  assert 'lacks resnet/group_norm/beta of' in refused(
      backbones.build(TINY), saved(tmp_path, arrays))


def test_a_wrong_shape_is_named_with_the_one_needed(tmp_path):
  name = 'resnet/block1/unit01/b/standardized_conv2d/kernel'
  path = saved(tmp_path, random_arrays() | {name: np.zeros((3, 3, 32, 31), np.float32)})
  message = refused(backbones.build(TINY), path)
  assert f'{name} has shape (3, 3, 32, 31); (3, 3, 32, 32) is needed' in message


def test_a_deeper_network_does_not_load_in_part(tmp_path):
  path = saved(tmp_path, random_arrays(depths=(2, 1)))
  message = refused(backbones.build(TINY), path)
  assert 'deeper' in message
  assert 'resnet/block1/unit02/' in message


@pytest.mark.parametrize('damage', ['text', 'empty', 'cut', 'changed', 'compressed', 'npy'])
def test_what_is_not_a_whole_npz_file_is_named_as_such(tmp_path, damage):
  path = saved(tmp_path, random_arrays())
  whole, compressed, array = pathlib.Path(path).read_bytes(), io.BytesIO(), io.BytesIO()
  np.savez_compressed(compressed, **random_arrays())
  np.save(array, np.zeros(3))

  def changed(content):
    middle = len(content) // 2
    return content[:middle] + bytes(8) + content[middle + 8:]

  pathlib.Path(path).write_bytes({
      'text': b'<html>404</html>', 'empty': b'', 'cut': whole[:len(whole) // 2],
      'changed': changed(whole), 'compressed': changed(compressed.getvalue()),
      'npy': array.getvalue()}[damage])
  message = refused(backbones.build(TINY), path)
  assert path in message
  assert 'not a whole .npz file' in message


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere\.npz'):
    bit_weights.load(backbones.build(TINY), str(tmp_path / 'nowhere.npz'))


@pytest.mark.parametrize('architecture, said', [
    (backbones.Architecture((1,), 32, stem='small'), 'small stem'),
    (backbones.Architecture((1,), 32, block='basic'), 'basic units'),
    (backbones.Architecture((1,), 32, groups=16), '16 groups'),
    (vit.Architecture(4, 32, 1, 2, 32, 8), 'need a ResNet; this is a ViT.')])
def test_a_backbone_that_is_not_a_bit_is_refused(tmp_path, architecture, said):
  network = backbones.build(architecture)
  assert said in refused(network, saved(tmp_path, random_arrays((1,))))
