"""Sparse layers: the sum over chosen experts, upcycled networks, tasks, devices, modules."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub

from conftest import run_alone
from conftest import shapes_task
from export import saved_model
from zoo import backbones
from zoo import batches
from zoo import classifier
from zoo import expert_load
from zoo import sparse
from zoo import tasks
from zoo import training
from zoo import vit
from zoo import weights

DENSE = vit.Architecture(4, 8, 2, 2, 12, 16, 'mean')
CONFIG = sparse.SparseConfig((1,), experts=4, k=2, group=2)
SPARSE = dataclasses.replace(DENSE, sparse=CONFIG)


def with_sparse(**changes):
  return dataclasses.replace(SPARSE, sparse=dataclasses.replace(CONFIG, **changes))


def images_of(number, size=16, seed=0):
  return np.random.default_rng(seed).random((number, size, size, 3), np.float32)


def layer_of(config, hidden=6, width=4, seed=0):
  keras.utils.set_random_seed(seed)
  layer = sparse.SparseMlp(hidden, width, config)
  layer(np.zeros((1, 1, width), np.float32))
  for variable in weights.learned(layer):  # no bias is 0
    variable.assign(np.random.default_rng(seed).normal(0, .5, variable.shape))
  return layer


def gelu(x):
  return .5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + .044715 * x ** 3)))


def token_by_token(layer, x, task=0):
  """What a layer without a limit computes, in float64 loops."""
  of = {v.name: np.asarray(v, np.float64) for v in layer.variables}
  c, out = layer.config, np.zeros(x.shape)
  for image, token in np.ndindex(x.shape[:2]):
    here = x[image, token].astype(np.float64)
    own = task if np.ndim(task) == 0 else task[image]
    gate = of['task_gate'][own] if c.gate == 'task' else of['gate']
    logits = (here + of['task_embedding'][own] if c.gate == 'embedding' else here) @ gate
    gates = np.exp(logits - logits.max())
    gates /= gates.sum()
    best = np.argsort(-gates, kind='stable')[:c.k]
    for expert in best:
      weight = gates[expert] / (gates[best].sum() if c.normalize else 1)
      y = gelu(here @ of['kernel0'][expert] + of['bias0'][expert])
      out[image, token] += weight * (y @ of['kernel1'][expert] + of['bias1'][expert])
  return out


@hypothesis.given(st.integers(1, 5), st.data())
@hypothesis.settings(max_examples=25)
def test_a_token_gets_the_sum_of_its_experts_weighted_with_their_gates(experts, data):
  gate = data.draw(st.sampled_from(sparse.GATES))
  config = sparse.SparseConfig(
      (0,), experts, data.draw(st.integers(1, experts)), gate=gate,
      tasks=1 if gate == 'shared' else 3, normalize=data.draw(st.booleans()))
  layer = layer_of(config)
  x = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(3, 5, 4)).astype('f')
  task = data.draw(st.sampled_from([0, np.array([2, 0, 1])])) if config.tasks > 1 else 0
  np.testing.assert_allclose(layer(x, task=task), token_by_token(layer, x, task), atol=1e-5)


def test_one_expert_is_the_dense_mlp():
  layer = layer_of(sparse.SparseConfig((0,), experts=1))
  dense = vit.Mlp(6, 4)
  x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
  dense(x)
  weights.set_to(dense, {
      f'{dense.name}/dense{i}/{kind}': np.asarray(getattr(layer, f'{kind}{i}'))[0]
      for i in (0, 1) for kind in ('kernel', 'bias')})
  np.testing.assert_allclose(layer(x), dense(x), atol=1e-6)


def test_what_becomes_of_an_image_does_not_depend_on_the_others_unless_experts_are_limited():
  layer = layer_of(sparse.SparseConfig((0,), experts=3))
  x = np.random.default_rng(2).normal(size=(4, 6, 4)).astype(np.float32)
  np.testing.assert_allclose(layer(x)[1], layer(x[1:2])[0], atol=1e-6)
  limited = np.asarray(layer(x, capacity=.5))
  assert (np.abs(limited).sum(-1) == 0).sum() >= 12  # half of 24 tokens at least got nothing
  np.testing.assert_allclose(layer(x, capacity=3.), layer(x), atol=1e-6)


def test_training_routes_each_group_of_images_by_itself():
  config = sparse.SparseConfig((0,), experts=2, group=2, noise=0., load=0., capacity=.5)
  layer = layer_of(config)
  x = np.random.default_rng(3).normal(size=(6, 4, 4)).astype(np.float32)
  together = layer(x, training=True)
  apart = [layer(x[i:i + 2], training=True) for i in (0, 2, 4)]
  np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6)
  # 3 images are no multiple of 2: one group.
  assert layer(x[:3], training=True).shape == (3, 4, 4)
  assert layer.gates.shape[0] == 1


def test_losses_come_in_training_only_and_are_weighted():
  from zoo import routing
  config = sparse.SparseConfig((0,), experts=3, noise=0., load=0., importance=.5, balance=2., z=3.)
  layer = layer_of(config)
  x = np.random.default_rng(4).normal(size=(16, 4, 4)).astype(np.float32)
  layer(x)
  assert layer.losses == []
  layer(x, training=True)
  gates = layer.gates
  logits = (x @ np.asarray(layer.gate)).reshape(1, -1, 3)
  wanted = (.5 * routing.importance_loss(gates) + 2 * routing.balance_loss(gates)
            + 3 * routing.z_loss(logits))
  np.testing.assert_allclose(layer.losses[0], wanted, rtol=1e-5)


def test_noise_is_for_training_and_drawn_anew_each_time():
  layer = layer_of(sparse.SparseConfig((0,), experts=4, noise=4.))
  x = np.random.default_rng(5).normal(size=(16, 4, 4)).astype(np.float32)
  np.testing.assert_array_equal(layer(x), layer(x))
  first = np.asarray(layer(x, training=True))
  assert not np.array_equal(first, layer(x, training=True))


@pytest.mark.parametrize('k', [1, 2])
def test_gradients_reach_gate_and_experts(k):
  layer = layer_of(sparse.SparseConfig((0,), experts=3, k=k, importance=0., load=0.))
  x = np.random.default_rng(6).normal(size=(16, 8, 4)).astype(np.float32)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x, training=True) ** 2)
  for variable, gradient in zip(layer.trainable_variables, tape.gradient(
      loss, [v.value for v in layer.trainable_variables]), strict=True):
    assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.path


@pytest.mark.parametrize('changes', [
    {'k': 1}, {'k': 2}, {'k': 2, 'normalize': True}, {'k': 1, 'gate': 'task', 'tasks': 3},
    {'k': 2, 'gate': 'embedding', 'tasks': 2}])
def test_an_upcycled_network_computes_what_the_dense_one_does(changes):
  architecture = with_sparse(**changes)
  dense = backbones.build(DENSE, seed=1)
  for variable in dense.variables:
    variable.assign(np.random.default_rng(7).normal(0, .3, variable.shape))
  upcycled = backbones.build(architecture, seed=2)
  weights.set_to(upcycled, sparse.upcycled(weights.of(dense), architecture.sparse), partly=True)
  images = images_of(3)
  np.testing.assert_allclose(upcycled(images), dense(images), atol=2e-5)


def test_only_a_dense_mlp_can_be_upcycled():
  values = weights.of(backbones.build(SPARSE))
  with pytest.raises(ValueError, match='no dense MLP in block 1'):
    sparse.upcycled(values, CONFIG)


@pytest.mark.parametrize('changes, message', [
    ({'k': 5}, 'k is 5, but there are 4 experts'),
    ({'k': 0}, 'k is 0; it must be 1 or more'),
    ({'experts': 0}, 'experts is 0'),
    ({'capacity': 0.}, 'capacity is 0.0; it must be above 0'),
    ({'capacity': float('nan')}, 'capacity is nan'),
    ({'noise': -1.}, 'noise is -1.0'),
    ({'noise': 0.}, 'load loss needs noise'),
    ({'gate': 'own'}, "gate is 'own'"),
    ({'tasks': 2}, 'a shared gate knows no tasks'),
    ({'blocks': (2,)}, r'sparse blocks \(2,\) must be among 0..1'),
    ({'blocks': ()}, 'one of them at least'),
    ({'experts': 64, 'group': 2}, '64 experts are more than the 32 tokens of 2 images')])
def test_an_impossible_configuration_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    with_sparse(**changes)


def test_fewer_tokens_than_experts_are_routed_all_the_same():
  layer = layer_of(sparse.SparseConfig((0,), experts=5, k=2))
  x = np.random.default_rng(8).normal(size=(1, 2, 4)).astype(np.float32)
  np.testing.assert_allclose(layer(x), token_by_token(layer, x), atol=1e-5)
  assert np.isfinite(layer(x, training=True)).all()


def test_gates_that_are_not_numbers_stop_the_training_with_a_word():
  recipe = training.Recipe(2, batch=4, learning_rate=1e-2)
  model = classifier.Classifier(backbones.build(SPARSE), 3)
  gate = next(v for v in model.variables if v.path.endswith('/gate'))
  gate.assign(np.full(gate.shape, np.nan))
  data = tasks.read(shapes_task(8, 4), ('train', None), 16)
  with pytest.raises(training.NotFiniteError, match='loss is nan at step 0'):
    training.fit(model, batches.of(data, recipe), recipe)


# On several devices; tests/test_jax.py spreads experts over them.


def train(strategy):
  """Losses, weights and load of a few steps, without noise, which each device draws for itself."""
  architecture = with_sparse(noise=0., load=0., importance=.1, balance=.1)
  recipe = training.Recipe(4, batch=8, learning_rate=.1)
  data = tasks.read(shapes_task(24, 4), ('train', None), 16)
  with strategy.scope():
    model = classifier.Classifier(backbones.build(architecture), 3)
    history = training.fit(model, batches.of(data, recipe), recipe)
  load = expert_load.Meter(model.backbone, data.images, data.labels, 3).measure()
  return [row['loss'] for row in history], weights.of(model), load.by_class


def on_two_replicas():
  tf.config.set_logical_device_configuration(
      tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
  losses, values, load = train(tf.distribute.OneDeviceStrategy('CPU:0'))
  own_losses, own, own_load = train(tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']))
  np.testing.assert_allclose(own_losses, losses, rtol=1e-5)
  np.testing.assert_allclose(own_load, load, atol=.02)  # a token on the border may change sides
  for path, value in values.items():
    np.testing.assert_allclose(own[path], value, atol=1e-5, err_msg=path)


def test_two_replicas_train_as_one_device_does():
  run_alone(on_two_replicas)


# As modules.


@pytest.mark.parametrize('changes, arguments', [
    ({}, [{}, {'capacity': .5}]),
    ({'gate': 'task', 'tasks': 3}, [{}, {'task': 2}, {'task': 1, 'capacity': .5}])])
def test_a_module_takes_capacity_and_task_and_trains(tmp_path, changes, arguments):
  network = backbones.build(with_sparse(**changes))
  path = str(tmp_path / 'module')
  saved_model.save(network, path)
  images = images_of(4)
  seen = []
  for one in arguments:
    layer = tensorflow_hub.KerasLayer(path, trainable=True, arguments=one)
    wanted = network(images, **{'expert' if k == 'task' else k: v for k, v in one.items()})
    seen.append(layer(images).numpy())
    np.testing.assert_allclose(seen[-1], wanted, atol=1e-5)
  assert not any(np.array_equal(seen[0], other) for other in seen[1:])
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(images, training=True) ** 2)
  gradients = tape.gradient(loss, layer.trainable_variables)
  assert len(gradients) == len(network.trainable_variables)
  assert all(np.abs(tf.convert_to_tensor(g)).max() > 0 for g in gradients)


def test_a_module_refuses_a_task_and_a_capacity_that_cannot_be(tmp_path):
  path = str(tmp_path / 'module')
  saved_model.save(backbones.build(with_sparse(gate='task', tasks=3)), path)
  loaded = tf.saved_model.load(path)
  for arguments, said in (({'task': 3}, 'task must be 0 to 2'), ({'task': -1}, 'task must be'),
                          ({'capacity': 0.}, 'capacity must be above 0'),
                          ({'capacity': float('nan')}, 'capacity must be above 0')):
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
      loaded(images_of(1), **{name: tf.constant(value) for name, value in arguments.items()})


def test_a_module_gives_back_the_network_or_that_of_one_task(tmp_path):
  architecture = with_sparse(gate='task', tasks=3)
  network = backbones.build(architecture, stochastic_depth=.1)  # with further random states
  path = str(tmp_path / 'module')
  saved_model.save(network, path)
  description = {'architecture': architecture.to_dict()}
  images = images_of(2)
  whole = saved_model.restore(path, description)
  np.testing.assert_allclose(whole(images, expert=1), network(images, expert=1), atol=1e-6)
  one = saved_model.restore(path, description, expert=1)
  assert one.architecture.sparse.tasks == 1
  np.testing.assert_allclose(one(images), network(images, expert=1), atol=1e-6)


def test_v_moes_placements():
  assert sparse.every(2, 12) == (1, 3, 5, 7, 9, 11)
  assert sparse.last(2, 12) == (9, 11)
  assert sparse.every(3, 7) == (2, 5)


def test_an_architecture_survives_json():
  import json
  architecture = with_sparse(gate='task', tasks=3)
  assert backbones.architecture_of(json.loads(json.dumps(architecture.to_dict()))) == architecture
