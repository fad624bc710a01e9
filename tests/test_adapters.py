"""Adapters: they start as nothing, cost little, train alone, and pack into one network."""

import keras
import numpy as np
import pytest
import scipy.special

from zoo import adapters
from zoo import backbones
from zoo import batches
from zoo import classifier
from zoo import training
from zoo import vit
from zoo import weights

TINY = backbones.Architecture((1, 2), 8, 'basic', 4, 'small', 2, 16)
TINY_VIT = vit.Architecture(4, 8, 3, 2, 16, 16)
FAMILIES = pytest.mark.parametrize('tiny', [TINY, TINY_VIT], ids=['resnet', 'vit'])


def images_of(number, seed=0):
  return np.random.default_rng(seed).random((number, 16, 16, 3), np.float32)


def with_random_adapters(values, seed):
  """The same weights with other adapters: what training might have made of them."""
  rng = np.random.default_rng(seed)
  return {path: rng.normal(size=value.shape).astype(np.float32)
          if adapters.is_adapter(path) else value for path, value in values.items()}


@FAMILIES
def test_a_network_with_fresh_adapters_computes_exactly_what_the_baseline_does(tiny):
  baseline = backbones.build(tiny, seed=1)
  adapted = backbones.build(tiny, adapters.AdapterConfig(4, experts=2), seed=2)
  weights.set_to(adapted, weights.of(baseline), partly=True)
  images = images_of(3)
  for expert in (0, 1):
    np.testing.assert_array_equal(adapted(images, expert=expert), baseline(images))


def test_an_adapter_is_its_formula():
  rng = np.random.default_rng(0)
  x = rng.normal(1., 2., (2, 3, 5, 8))
  layer = adapters.Adapter(width=6, groups=4)  # 6 channels cannot have 4 groups: they have 2
  layer.build(x.shape)
  value = {v.name: rng.normal(size=v.shape).astype(np.float32) for v in layer.variables}
  for variable in layer.variables:
    variable.assign(value[variable.name])

  def norm_and_relu(x, groups, gamma, beta):
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    x = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    return np.maximum(x * gamma + beta, 0.)

  y = norm_and_relu(x, 4, value['gamma1'], value['beta1']) @ value['down'][0]
  y = norm_and_relu(y, 2, value['gamma2'], value['beta2']) @ value['up'][0]
  np.testing.assert_allclose(layer(x.astype(np.float32)), x + y, rtol=1e-3, atol=1e-3)


def test_an_adapter_of_tokens_is_its_formula():
  rng = np.random.default_rng(0)
  x = rng.normal(1., 2., (2, 5, 8))
  layer = adapters.TokenAdapter(width=6, experts=2)
  layer.build(x.shape)
  value = {v.name: rng.normal(size=v.shape).astype(np.float32) for v in layer.variables}
  for variable in layer.variables:
    variable.assign(value[variable.name])
  y = x @ value['down'][1] + value['down_bias'][1]
  y = y * (1 + scipy.special.erf(y / 2 ** 0.5)) / 2
  y = y @ value['up'][1] + value['up_bias'][1]
  np.testing.assert_allclose(layer(x.astype(np.float32), expert=1), x + y, rtol=1e-4, atol=1e-4)


def test_adapters_of_the_default_width_add_less_than_6_percent_to_r50x1():
  with keras.StatelessScope():  # shapes without values
    network = backbones.build('r50x1', adapters.AdapterConfig())
  size = {v.path: int(np.prod(v.shape)) for v in network.variables}
  added = sum(count for path, count in size.items() if adapters.is_adapter(path))
  assert added == 866_944
  assert added <= 0.06 * (sum(size.values()) - added)


@pytest.mark.parametrize('tiny, wanted', [
    (TINY, {'stage2_unit01', 'stage2_unit02'}), (TINY_VIT, {'block02'})], ids=['resnet', 'vit'])
def test_adapters_stand_in_the_units_of_the_chosen_stages_only(tiny, wanted):
  network = backbones.build(tiny, adapters.AdapterConfig(4, stages=(1,)))
  adapted = {path.split('/')[1] for path in weights.of(network) if adapters.is_adapter(path)}
  assert adapted == wanted


@FAMILIES
def test_training_moves_the_adapters_and_the_head_and_nothing_else(tiny):
  network = backbones.build(tiny, adapters.AdapterConfig(4))
  adapters.freeze_all_but_adapters(network)
  assert [v.path for v in network.trainable_variables] == [
      v.path for v in network.variables if adapters.is_adapter(v.path)]
  model = classifier.Classifier(network, 2)
  before = weights.of(model)
  images = (images_of(8) * 255).astype(np.uint8)
  recipe = training.Recipe(steps=3, batch=8, weight_decay=0.1)
  training.fit(model, batches.Batches(images, np.arange(8) % 2, 8), recipe)
  for path, value in weights.of(model).items():
    may_move = adapters.is_adapter(path) or path.startswith('head/')
    assert np.array_equal(value, before[path]) != may_move, path


@FAMILIES
def test_packed_experts_each_compute_what_they_did_alone(tiny):
  single = backbones.build(tiny, adapters.AdapterConfig(4))
  experts = [with_random_adapters(weights.of(single), seed) for seed in range(3)]
  packed = backbones.build(tiny, adapters.AdapterConfig(4, experts=3))
  weights.set_to(packed, adapters.pack(experts))
  images, seen = images_of(2), []
  for i, expert in enumerate(experts):
    weights.set_to(single, expert)
    seen.append(np.asarray(single(images)))
    np.testing.assert_allclose(packed(images, expert=i), seen[-1], rtol=1e-5, atol=1e-6)
    tensor = keras.ops.convert_to_tensor(i, 'int32')
    np.testing.assert_array_equal(packed(images, expert=tensor), packed(images, expert=i))
  assert np.abs(seen[0] - seen[1]).max() > 0.01


@FAMILIES
def test_the_trunk_is_what_experts_share_and_the_branch_is_the_rest(tiny):
  network = backbones.build(tiny, adapters.AdapterConfig(4, stages=(1,), experts=2))
  weights.set_to(network, with_random_adapters(weights.of(network), 0))
  images = images_of(2)
  shared = network.trunk(images)
  wanted = [np.asarray(network(images, expert=expert)) for expert in (0, 1)]
  for variable in network.stem.variables + network.units[0].variables:
    variable.assign(variable * 0)
  for expert in (0, 1):
    np.testing.assert_array_equal(network.branch(shared, expert), wanted[expert])


@FAMILIES
def test_a_gradient_reaches_the_rows_of_the_chosen_expert_only(tiny):
  import tensorflow as tf
  network = backbones.build(tiny, adapters.AdapterConfig(4, experts=3))
  weights.set_to(network, with_random_adapters(weights.of(network), 0))
  variables = [v.value for v in network.variables if adapters.is_adapter(v.path)]
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(network(images_of(2), expert=1) ** 2)
  for gradient in tape.gradient(loss, variables):
    rows = np.abs(tf.convert_to_tensor(gradient)).reshape(3, -1).max(1)
    assert rows[1] > 0
    assert rows[[0, 2]].tolist() == [0, 0]


def test_experts_of_different_baselines_do_not_pack():
  one = weights.of(backbones.build(TINY, adapters.AdapterConfig(4)))
  other = one | {'backbone/norm/gamma': one['backbone/norm/gamma'] + 1e-6}
  with pytest.raises(ValueError, match=r'expert 2 has another baseline.*backbone/norm/gamma'):
    adapters.pack([one, one, other])


def test_experts_with_adapters_in_other_places_do_not_pack():
  everywhere = weights.of(backbones.build(TINY, adapters.AdapterConfig(4)))
  late = weights.of(backbones.build(TINY, adapters.AdapterConfig(4, stages=(1,))))
  with pytest.raises(ValueError, match='expert 1 has other variables'):
    adapters.pack([everywhere, late])


def test_no_expert_at_all_does_not_pack():
  with pytest.raises(ValueError, match='no expert'):
    adapters.pack([])


def test_a_config_survives_its_dict_and_must_have_room_for_something():
  config = adapters.AdapterConfig(8, stages=(0, 2), experts=5)
  assert adapters.AdapterConfig(**config.to_dict()) == config
  with pytest.raises(ValueError, match='width 0'):
    adapters.AdapterConfig(0)
  with pytest.raises(ValueError, match='experts 0'):
    adapters.AdapterConfig(experts=0)
