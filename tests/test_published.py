"""Published files of every family: loaded by their names, whole or not at all."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest

import test_bit_weights
import test_vit_weights
from test_bit_weights import STEM
from test_vit_weights import POSITIONS
from test_vit_weights import QUERY
from zoo import adapters
from zoo import backbones
from zoo import published
from zoo import sparse
from zoo import vit
from zoo import weights

BIT, VIT = test_bit_weights.TINY, test_vit_weights.TINY


@pytest.fixture(params=[test_bit_weights, test_vit_weights], ids=['BiT', 'ViT'])
def family(request):
  """The file of the tests of a family: TINY, random_arrays, saved."""
  return request.param


def refused(network, path):
  """The one line that says why a file does not load, after which the network is as it was."""
  before = weights.of(network)
  with pytest.raises(ValueError) as caught:
    published.load(network, path)
  after = weights.of(network)
  assert all(np.array_equal(before[p], after[p]) for p in before)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_adapters_stay_as_they_are(tmp_path, family):
  network = backbones.build(family.TINY, adapters.AdapterConfig(4))
  before = weights.of(network)
  published.load(network, family.saved(tmp_path, family.random_arrays()))
  kept = [p for p, value in weights.of(network).items() if np.array_equal(value, before[p])]
  assert kept == [path for path in before if adapters.is_adapter(path)]
  assert kept


@pytest.mark.parametrize(('family', 'changed', 'said'), [
    (test_bit_weights, changed, said) for changed, said in [
        ({STEM: None}, f'is no published BiT file: it has no {STEM} of shape'),
        ({STEM: np.zeros((3, 3, 3, 32))}, f'is no published BiT file: it has no {STEM} of shape'),
        ({STEM: np.zeros((7, 7, 3, 8))},
         'is no published BiT file: width 8 is not a multiple of gro'),
        ({STEM: np.zeros((7, 7, 3, 64))}, 'has shape (32,); (64,) is needed'),
        ({'resnet/block2/unit03/a/group_norm/beta': np.zeros(3)},
         'lacks resnet/block2/unit02/a/'),
        ({'resnet/group_norm/beta': np.array([{}])}, 'Object arrays cannot be loaded')]] + [
    (test_vit_weights, changed, said) for changed, said in [
        ({'embedding/kernel': np.zeros((1, 1, 1024, 8))},
         'is no published ViT file: it has no embedding/kernel of shape [P, P, 3, C].'),
        ({QUERY: None}, f'is no published ViT file: it has no {QUERY} of shape [C, N, D].'),
        ({QUERY: np.zeros((8, 3, 2))},
         'is no published ViT file: width 8 is not a multiple of heads'),
        ({POSITIONS: np.zeros((1, 15, 8))},
         f'{POSITIONS} has shape (1, 15, 8); (1, 10, 8) is needed.'),
        ({'cls': np.zeros((1, 8))}, 'cls has shape (1, 8); (1, 1, 8) is needed.'),
        ({'Transformer/encoderblock_1/LayerNorm_2/bias': None},
         'lacks Transformer/encoderblock_1/LayerNorm_2/bias of the 38 arrays of this network.'),
        ({'Transformer/encoderblock_0/LayerNorm_3/bias': np.zeros(8)},
         'also has Transformer/encoderblock_0/LayerNorm_3/bias.')]])
def test_a_file_whose_arrays_do_not_go_together_is_one_line(tmp_path, family, changed, said):
  arrays = family.random_arrays() | changed
  path = family.saved(
      tmp_path, {name: value for name, value in arrays.items() if value is not None})
  with pytest.raises(ValueError) as caught:
    published.network(path)
  assert str(caught.value).startswith(path)
  assert said in str(caught.value)
  assert '\n' not in str(caught.value)


VIT_22B = "need a Vision Transformer without ViT-22B's changes and sparse layers."


@pytest.mark.parametrize(('family', 'architecture', 'said'), [
    (test_bit_weights, backbones.Architecture((1,), 32, stem='small'), 'small stem'),
    (test_bit_weights, backbones.Architecture((1,), 32, block='basic'), 'basic units'),
    (test_bit_weights, backbones.Architecture((1,), 32, groups=16), '16 groups'),
    (test_bit_weights, vit.Architecture(4, 32, 1, 2, 32, 8), 'need a ResNet; this is a ViT.'),
    (test_vit_weights, dataclasses.replace(VIT, parallel=True), VIT_22B),
    (test_vit_weights, dataclasses.replace(VIT, qk_norm=True), VIT_22B),
    (test_vit_weights, dataclasses.replace(VIT, biases=False), VIT_22B),
    (test_vit_weights, dataclasses.replace(VIT, sparse=sparse.SparseConfig((0,))), VIT_22B),
    (test_vit_weights, backbones.Architecture((1, 1), 8, 'basic', 4, 'small', 2, 16), VIT_22B)])
def test_a_network_that_no_file_of_the_family_is_of_is_refused(
    tmp_path, family, architecture, said):
  network = backbones.build(architecture)
  assert said in refused(network, family.saved(tmp_path, family.random_arrays()))


def test_missing_arrays_are_named_a_few_and_counted(tmp_path):
  arrays = test_bit_weights.random_arrays()
  lacking = {n: v for n, v in arrays.items() if '/block2/' not in n}
  message = refused(backbones.build(BIT), test_bit_weights.saved(tmp_path, lacking))
  assert 'resnet/block2/unit01/a/' in message
  assert '(10)' in message
  del arrays['resnet/group_norm/beta']
  assert 'lacks resnet/group_norm/beta of' in refused(
      backbones.build(BIT), test_bit_weights.saved(tmp_path, arrays))


def test_a_wrong_shape_is_named_with_the_one_needed(tmp_path):
  name = 'resnet/block1/unit01/b/standardized_conv2d/kernel'
  arrays = test_bit_weights.random_arrays() | {name: np.zeros((3, 3, 32, 31), np.float32)}
  path = test_bit_weights.saved(tmp_path, arrays)
  message = refused(backbones.build(BIT), path)
  assert f'{name} has shape (3, 3, 32, 31); (3, 3, 32, 32) is needed' in message


def test_a_deeper_network_does_not_load_in_part(tmp_path):
  path = test_bit_weights.saved(tmp_path, test_bit_weights.random_arrays(depths=(2, 1)))
  message = refused(backbones.build(BIT), path)
  assert 'deeper' in message
  assert 'resnet/block1/unit02/' in message


@pytest.mark.parametrize('damage', ['text', 'empty', 'cut', 'changed', 'compressed', 'npy'])
def test_what_is_not_a_whole_npz_file_is_named_as_such(tmp_path, damage):
  path = test_bit_weights.saved(tmp_path, test_bit_weights.random_arrays())
  whole, compressed, array = pathlib.Path(path).read_bytes(), io.BytesIO(), io.BytesIO()
  np.savez_compressed(compressed, **test_bit_weights.random_arrays())
  np.save(array, np.zeros(3))

  def changed(content):
    middle = len(content) // 2
    return content[:middle] + bytes(8) + content[middle + 8:]

  pathlib.Path(path).write_bytes({
      'text': b'<html>404</html>', 'empty': b'', 'cut': whole[:len(whole) // 2],
      'changed': changed(whole), 'compressed': changed(compressed.getvalue()),
      'npy': array.getvalue()}[damage])
  message = refused(backbones.build(BIT), path)
  assert path in message
  assert 'not a whole .npz file' in message


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere\.npz'):
    published.load(backbones.build(BIT), str(tmp_path / 'nowhere.npz'))
