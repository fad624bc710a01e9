"""The embedded zoo: every module in it works where it will be used."""

import os

import numpy as np
import pytest

from export import graphs
from export import hub
from export import saved_model
from selection import candidates

MODULES = {module.handle: module for module in hub.modules(hub.EMBEDDED)}
NETWORKS = [handle for handle, module in MODULES.items() if module.kind != 'predictor']
PREDICTORS = [handle for handle in MODULES if handle not in NETWORKS]
# Of modules with the same graph one stands for all: they differ in their weights alone.
GRAPHS = list({graphs.digest(MODULES[handle].path): handle for handle in NETWORKS}.values())


@pytest.mark.parametrize('handle', GRAPHS)
def test_every_weight_trains_through_hub_keras_layer(handle):
  import tensorflow as tf
  import tensorflow_hub
  import tf_keras
  module = hub.resolve(handle)
  size = module.metadata['image_size']
  arguments = {'expert': 3} if module.kind == 'packed' else {}
  layer = tensorflow_hub.KerasLayer(
      module.path, trainable=True, arguments=arguments, input_shape=(size, size, 3))
  model = tf_keras.Sequential([layer, tf_keras.layers.Dense(10)])
  model.compile(tf_keras.optimizers.SGD(0.1),
                tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  random = np.random.default_rng(0)
  images = random.random((24, size, size, 3), np.float32)
  labels = random.integers(0, 10, 24)
  before = [variable.numpy() for variable in layer.trainable_variables]
  model.fit(images, labels, batch_size=8, epochs=1, verbose=0)
  assert len(before) == len(layer.variables)
  for old, variable in zip(before, layer.trainable_variables, strict=True):
    assert not np.array_equal(old, variable.numpy()), variable.name
    if variable.shape[0] == _experts(module) > 1:  # of stacked weights only expert 3's rows
      moved = [not np.array_equal(a, b) for a, b in zip(old, variable.numpy(), strict=True)]
      assert moved == [i == 3 for i in range(len(moved))]
  assert tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in layer.variables])


def _experts(module):
  return len(module.metadata['experts'] or [])


@pytest.mark.parametrize('handle', NETWORKS)
def test_it_computes_what_the_keras_network_does(handle):
  module = hub.resolve(handle)
  backbone = saved_model.restore(module.path, module.metadata)
  loaded = hub.load(module)
  size = module.metadata['image_size']
  images = np.random.default_rng(1).random((4, size, size, 3), np.float32)
  for expert in range(max(_experts(module), 1)):
    arguments = {'expert': expert} if _experts(module) else {}
    np.testing.assert_allclose(
        loaded(images, **arguments), backbone(images, **arguments), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('handle', PREDICTORS)
def test_a_predictor_gives_probabilities_of_what_it_names(handle):
  module = hub.resolve(handle)
  images = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)
  probabilities = np.exp(hub.load(module)(images))
  assert probabilities.shape == (4, len(module.metadata['classes']))
  np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_there_are_two_sources_with_a_small_and_a_large_baseline_predictors_and_experts():
  found = candidates.find()
  for source in ('tiny_imagenet_32:1.0.0', 'cifar100_jpeg:1.0.0'):
    own = [one for one in found if one.source == source]
    small, large = sorted((one.module.metadata for one in own if one.kind == 'baseline'),
                          key=lambda known: known['parameters'])
    assert small['parameters'] < large['parameters'] / 5
    assert small['scores']['top1'] < large['scores']['top1'] - 0.05
    assert len({one.slice['node'] for one in own if one.kind != 'baseline'}) >= 3
    assert {MODULES[handle].metadata['predicts'] for handle in PREDICTORS
            if MODULES[handle].metadata['upstream']['source'] == source} == {'slices', 'labels'}


def test_every_expert_says_from_which_baseline_it_comes():
  baselines = {module.metadata['fingerprint']: module for module in MODULES.values()
               if module.kind == 'baseline'}
  for module in MODULES.values():
    if module.kind != 'baseline':
      parent = baselines[module.metadata['parent']]
      assert parent.metadata['upstream']['source'] == module.metadata['upstream']['source']


def test_it_is_small():
  total = sum(os.path.getsize(os.path.join(folder, file))
              for folder, _, files in os.walk(hub.EMBEDDED) for file in files)
  assert total <= 40e6


@pytest.mark.parametrize('handle', MODULES)
def test_every_card_states_data_cost_and_command(handle):
  m = hub.resolve(handle).metadata
  assert m['upstream']['source'] in ('tiny_imagenet_32:1.0.0', 'cifar100_jpeg:1.0.0')
  assert m['licence']
  assert m['command'][0] in ('zoo-pretrain', 'zoo-experts')
  for one in m['experts'] or [m]:
    assert one['cost']['seconds'] > 0
    assert one['scores']['held_out_examples'] >= 500
