"""Backbones of KerasHub become modules that compute what they computed."""

import importlib.util
import json
import os

import numpy as np
import pytest
from test_import import IMAGES
from test_import import called
from test_import import moved

from export import import_main
from export import metadata
from export import sources

pytestmark = pytest.mark.skipif(importlib.util.find_spec('keras_hub') is None,
                                reason='KerasHub is not installed')

SCALE, OFFSET = [0.02, 0.03, 0.04], [-2., -1., -3.]  # of an image converter


def _vit(**more):
  import keras_hub
  return keras_hub.models.ViTBackbone(
      image_shape=(16, 16, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16,
      **more)


def _dino():
  import keras_hub
  return keras_hub.models.DINOV2Backbone(
      patch_size=4, num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=16,
      num_register_tokens=2, image_shape=(16, 16, 3), position_embedding_shape=(24, 24, 3))


def _maps():
  import keras_hub
  return keras_hub.models.HGNetV2Backbone(
      depths=[1, 1], embedding_size=8, hidden_sizes=[8, 8], stem_channels=[3, 8, 8],
      hidden_act='relu', use_learnable_affine_block=False, apply_downsample=[False, True],
      stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
      use_lightweight_conv_block=[False, False])


def _dense():
  import keras_hub
  return keras_hub.models.DenseNetBackbone([1, 1], compression_ratio=0.5, growth_rate=8)


def _preset(folder, backbone, converter=True):
  """The folder of a preset, every weight of which counts."""
  import keras_hub
  random = np.random.default_rng(0)
  for variable in backbone.trainable_variables:
    variable.assign(random.normal(0, 0.5, variable.shape))
  backbone.save_to_preset(str(folder))
  if converter:
    kind = type(backbone).__name__.replace('Backbone', 'ImageConverter')
    getattr(keras_hub.layers, kind)(
        image_size=(16, 16), scale=SCALE, offset=OFFSET, interpolation='bicubic',
    ).save_to_preset(str(folder))
  return str(folder)


def test_a_backbone_of_keras_hub_becomes_a_module_prepared_and_pooled_as_its_makers_do(
    tmp_path, console):
  backbone = _vit()
  preset = _preset(tmp_path / 'tiny_vit', backbone)
  code, out, err = console(import_main, f'--source=keras_hub:{preset}', f'--hub={tmp_path}/hub',
                           '--upstream=imagenet2012:5.1.0')
  assert code == 0, err
  assert json.loads(out) == ['imported/tiny_vit/1']
  path = str(tmp_path / 'hub/imported/tiny_vit/1')
  images = IMAGES[:, :16, :16]
  wanted = backbone(255 * images * SCALE + OFFSET).numpy()[:, 0]
  outputs, _ = called(path, images)
  np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
  assert sum(moved(path, images)) > len(backbone.trainable_variables) / 2
  m = metadata.read(path)
  assert (m['kind'], m['image_size'], m['features'], m['parameters']) == (
      'baseline', 16, 8, backbone.count_params())
  np.testing.assert_allclose(m['imported'].pop('black'), OFFSET, rtol=1e-6)
  np.testing.assert_allclose(
      m['imported'].pop('white'), 255 * np.array(SCALE) + OFFSET, rtol=1e-6)
  assert m['imported'] == {
      'source': 'keras_hub:tiny_vit', 'weights': metadata.fingerprint(
          f'{preset}/model.weights.h5'), 'any_size': False, 'channels': 'RGB',
      'pooling': 'class token', 'interpolation': 'bicubic'}
  assert '| pooled by | class token |' in (
      tmp_path / 'hub/imported/tiny_vit/1/README.md').read_text()


@pytest.mark.parametrize(('make', 'asked', 'pooling', 'pool'), [
    (lambda: _vit(use_class_token=False), None, 'mean of the tokens',
     lambda tokens: tokens.mean(1)),
    (_dino, 24, 'class token', lambda tokens: tokens[:, 0]),
    (_maps, 32, 'mean over height and width of stage2', lambda maps: maps['stage2'].mean((1, 2))),
    (_dense, None, 'mean over height and width', lambda maps: maps.mean((1, 2)))])
def test_the_token_of_the_class_is_the_embedding_and_else_the_mean_of_tokens_or_of_a_map(
    tmp_path, make, asked, pooling, pool):
  import keras
  import keras_hub
  preset = _preset(tmp_path / 'net', make())
  source = sources.find(f'keras_hub:{preset}', asked)
  size = asked or 16
  assert (source.image_size, source.record['pooling']) == (size, pooling)
  images = np.resize(IMAGES, (2, size, size, 3))
  again = keras_hub.models.Backbone.from_preset(
      preset, **({'image_shape': (size, size, 3)} if make is _dino else {}))
  prepared = (255 * images * SCALE + OFFSET).astype(np.float32)
  wanted = pool(keras.tree.map_structure(
      np.asarray, again(keras.tree.map_structure(lambda _: prepared, again.input))))
  scale = np.abs(wanted).max()
  for found in (source.model(source.preprocessing(images)), source.compute(images)):
    np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-5)


def test_a_preset_without_its_weights_is_random_and_says_so(tmp_path):
  preset = _preset(tmp_path / 'net', _vit())
  os.remove(f'{preset}/model.weights.h5')
  path = import_main.import_module(
      sources.find(f'keras_hub:{preset}', weights='none'), str(tmp_path / 'hub'), 'me/net/1')
  assert metadata.read(path)['imported']['weights'] is None
  assert '| imported from | keras_hub:net, random weights |' in (
      tmp_path / 'hub/me/net/1/README.md').read_text()


@pytest.fixture(scope='module')
def presets(tmp_path_factory):
  """A folder of presets that lack something."""
  import h5py
  import keras_hub
  folder = tmp_path_factory.mktemp('presets')
  (folder / 'empty').mkdir()
  _preset(folder / 'unprepared', _vit(), converter=False)
  os.remove(_preset(folder / 'light', _vit()) + '/model.weights.h5')
  with h5py.File(_preset(folder / 'partly', _vit()) + '/model.weights.h5', 'a') as file:
    del file['layers/vi_t_encoder/encoder_layers']
  keras_hub.models.BertBackbone(10, 1, 1, 4, 4, max_sequence_length=4).save_to_preset(
      str(folder / 'text'))
  return str(folder)


@pytest.mark.parametrize(('arguments', 'complaint'), [
    (['--source=keras_hub:resnet_50_imagnet'],
     "KerasHub has no preset 'resnet_50_imagnet' (there is resnet_50_imagenet, "),
    (['--source=keras_hub:FOLDER/empty'], 'keras_hub:empty cannot be loaded (Preset'),
    (['--source=keras_hub:FOLDER/text'],
     "keras_hub:text takes ['N', None], ['N', None], ['N', None]; an image module takes [N, size"),
    (['--source=keras_hub:FOLDER/light'], 'keras_hub:light has no model.weights.h5, where'),
    (['--source=keras_hub:FOLDER/partly'],
     'model.weights.h5 does not hold the weights of keras_hub:partly for images of 16 pixels ('),
    (['--source=keras_hub:FOLDER/unprepared'],
     'unprepared does not say how its images are prepared: give --input_range.'),
    (['--source=keras_hub:FOLDER/light', '--input_range=-1,1', '--weights=none'],
     'keras_hub:light says the range of its images: leave out --input_range.'),
    (['--source=keras_hub:FOLDER/unprepared', '--image_size=32'],
     'does not hold the weights of keras_hub:unprepared for images of 32 pixels (A total of 1'),
    (['--source=keras_hub:FOLDER/light', '--weights=x.h5'],
     'keras_hub:FOLDER/light has its own weights: leave out --weights.')])
def test_a_preset_that_cannot_be_imported_is_one_line_and_leaves_nothing(
    presets, tmp_path, console, arguments, complaint):
  code, out, err = console(import_main, f'--hub={tmp_path}/hub', *(
      argument.replace('FOLDER', presets) for argument in arguments))
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert complaint.replace('FOLDER', presets) in err
  assert len(err) < 600
  assert not (tmp_path / 'hub').exists()
