"""Published ViT files load by their names, and the network then computes what ViT does."""

import dataclasses
import json

import numpy as np
import pytest

import test_vit
from export import import_main
from export import metadata
from finetune import tuned
from selection import candidates
from zoo import backbones
from zoo import published
from zoo import vit_weights
from zoo import weights

TINY = test_vit.TINY  # 4 x 4 patches of 4 pixels
QUERY = 'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel'
POSITIONS = 'Transformer/posembed_input/pos_embedding'
IMAGES = np.random.default_rng(1).random((2, 16, 16, 3), np.float32)


def public_shapes(patch, width, depth, heads, mlp_dim, grid, pooling='token', classes=10):
  """Names and shapes of a published file, written down from the description of the format."""
  tokens = int(pooling == 'token')
  shapes = {
      'embedding/kernel': (patch, patch, 3, width), 'embedding/bias': (width,),
      POSITIONS: (1, tokens + grid ** 2, width)}
  if tokens:
    shapes['cls'] = (1, 1, width)
  for i in range(depth):
    scope = f'Transformer/encoderblock_{i}'
    for norm in ('LayerNorm_0', 'LayerNorm_2'):
      shapes[f'{scope}/{norm}/scale'] = shapes[f'{scope}/{norm}/bias'] = (width,)
    attention = f'{scope}/MultiHeadDotProductAttention_1'
    for name in ('query', 'key', 'value'):
      shapes[f'{attention}/{name}/kernel'] = (width, heads, width // heads)
      shapes[f'{attention}/{name}/bias'] = (heads, width // heads)
    shapes[f'{attention}/out/kernel'] = (heads, width // heads, width)
    shapes[f'{attention}/out/bias'] = (width,)
    shapes[f'{scope}/MlpBlock_3/Dense_0/kernel'] = (width, mlp_dim)
    shapes[f'{scope}/MlpBlock_3/Dense_0/bias'] = (mlp_dim,)
    shapes[f'{scope}/MlpBlock_3/Dense_1/kernel'] = (mlp_dim, width)
    shapes[f'{scope}/MlpBlock_3/Dense_1/bias'] = (width,)
  shapes['Transformer/encoder_norm/scale'] = shapes['Transformer/encoder_norm/bias'] = (width,)
  shapes |= {'pre_logits/kernel': (width, width), 'pre_logits/bias': (width,)}
  return shapes | {'head/kernel': (width, classes), 'head/bias': (classes,)}


def shapes_of(a):
  return public_shapes(a.patch, a.width, a.depth, a.heads, a.mlp_dim, a.grid, a.pooling)


def random_arrays(a=TINY, seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.normal(0.1, 0.4, shape).astype(np.float32)
          for name, shape in shapes_of(a).items()}


def saved(folder, arrays):
  path = str(folder / 'ViT.npz')
  np.savez(path, **arrays)
  return path


def test_every_array_of_a_file_but_those_of_its_head_has_its_place(tmp_path):
  # Each array is filled with its own number, which tells where it went.
  shapes = shapes_of(TINY)
  numbers = {name: i for i, name in enumerate(shapes)}
  network = published.network(saved(tmp_path, {
      name: np.full(shape, numbers[name], np.float32) for name, shape in shapes.items()}))
  found = weights.of(network)
  for own, name in (
      ('embedding/cls', 'cls'),
      ('block01/attention_norm/gamma', 'Transformer/encoderblock_0/LayerNorm_0/scale'),
      ('block02/mlp_norm/beta', 'Transformer/encoderblock_1/LayerNorm_2/bias'),
      ('block02/attention/out/kernel',
       'Transformer/encoderblock_1/MultiHeadDotProductAttention_1/out/kernel'),
      ('block01/mlp/dense1/bias', 'Transformer/encoderblock_0/MlpBlock_3/Dense_1/bias'),
      ('norm/gamma', 'Transformer/encoder_norm/scale')):
    assert (found[f'backbone/{own}'] == numbers[name]).all()
  placed = sorted(value.flat[0] for value in found.values())
  assert placed == sorted(n for name, n in numbers.items()
                          if not name.startswith(('head/', 'pre_logits/')))


@pytest.mark.parametrize('changes', [{}, {'pooling': 'mean'}, {'depth': 1, 'heads': 4}])
def test_a_network_is_as_its_file_and_computes_what_vit_does(tmp_path, changes):
  a = dataclasses.replace(TINY, **changes)
  arrays = random_arrays(a)
  network = published.network(saved(tmp_path, arrays))
  assert network.architecture == a
  np.testing.assert_allclose(
      network(IMAGES), test_vit.forward(arrays, IMAGES, a), rtol=1e-4, atol=2e-5)


def test_for_other_images_positions_are_resized_once_and_for_all(tmp_path):
  arrays = random_arrays()
  path = saved(tmp_path, arrays)
  network = published.network(path, image_size=28)
  assert network.architecture == dataclasses.replace(TINY, image_size=28)
  assert weights.of(network)['backbone/embedding/positions'].shape == (1, 1 + 7 ** 2, 8)
  images = np.random.default_rng(2).random((2, 28, 28, 3), np.float32)
  wanted = test_vit.forward(arrays, images, TINY)
  np.testing.assert_allclose(network(images), wanted, rtol=1e-4, atol=2e-5)
  # The same as resizing whenever it is called.
  np.testing.assert_allclose(published.network(path)(images), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('name', ['vit_ti16', 'vit_s16', 'vit_s32', 'vit_b16', 'vit_b32',
                                  'vit_l16'])
def test_a_file_tells_which_of_the_published_networks_it_is(name):
  preset = backbones.preset(name)
  assert vit_weights.architecture(shapes_of(preset)) == preset
  larger = dataclasses.replace(preset, image_size=384)
  assert vit_weights.architecture(shapes_of(larger)) == larger
  assert backbones.name_of(larger) == name


def test_an_import_recognises_the_file_and_the_module_is_fine_tuned_as_our_own(tmp_path, console):
  arrays = random_arrays()
  file = saved(tmp_path, arrays)
  code, out, err = console(import_main, f'--source={file}', f'--hub={tmp_path}/hub',
                           '--image_size=24')
  assert code == 0, err
  assert json.loads(out) == ['imported/ViT/1']
  path = str(tmp_path / 'hub/imported/ViT/1')
  m = metadata.read(path)
  assert m['architecture'] == dataclasses.replace(TINY, image_size=24).to_dict()
  assert (m['kind'], m['image_size'], m['features'], m['imported']['weights']) == (
      'baseline', 24, 8, metadata.fingerprint(file))
  assert (m['imported']['black'], m['imported']['white']) == ([-1] * 3, [1] * 3)
  model = tuned.build(candidates.one(path), 3)
  images = np.random.default_rng(2).random((2, 24, 24, 3), np.float32)
  np.testing.assert_allclose(
      model.body(images), test_vit.forward(arrays, images, TINY), rtol=1e-4, atol=2e-5)
