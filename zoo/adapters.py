"""Residual bottleneck adapters: many experts in one network (arXiv 2009.13239, section 3).

An adapter adds A(x) to x. In a ResNet x is the input of a residual unit, and A = GroupNorm,
ReLU, 1x1 down, GroupNorm, ReLU, 1x1 up. In a Transformer x is what a block's MLP gives, and
A = down, GELU, up (arXiv 1902.00751). The last step starts at zero, so that a network
with fresh adapters computes exactly what the baseline does. Only adapters train.

Every weight has a leading axis of E experts: a single expert is E = 1, and packing is
concatenation. Shapes: B batch, H height, W width, T tokens, C channels, M adapter width.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from zoo import layers

MARK = 'adapter'  # part of the path of each adapter weight, and of no other


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Where adapters stand and how large they are.

  Attributes:
    width: M, channels of the bottleneck.
    stages: indices of the stages whose units have one; None for all of them. Each block of a
      Transformer is a stage.
    experts: E, how many share the network.
  """
  width: int = 32
  stages: tuple[int, ...] | None = None
  experts: int = 1

  def __post_init__(self):
    if self.stages is not None:
      object.__setattr__(self, 'stages', tuple(self.stages))
    if self.width < 1 or self.experts < 1:
      raise ValueError(f'adapter width {self.width} and experts {self.experts} must be 1 or more.')

  def to_dict(self):
    """The fields as plain JSON types; `AdapterConfig(**d)` reads them back."""
    return dataclasses.asdict(self) | {'stages': self.stages and list(self.stages)}


@keras.saving.register_keras_serializable('zoo')
class Adapter(keras.layers.Layer):
  """x + A_e(x) for x [B, H, W, C] and one expert e for the whole batch."""

  def __init__(self, width, groups, experts=1, **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.width = width
    self.groups = groups
    self.experts = experts

  def build(self, input_shape):
    channels = input_shape[-1]
    # The bottleneck may be narrower than the network's groups.
    self.inner_groups = int(np.gcd(self.groups, self.width))

    def add(name, shape, initializer):
      return self.add_weight(name=name, shape=(self.experts, *shape), initializer=initializer,
                             autocast=False)

    self.gamma1 = add('gamma1', (channels,), 'ones')
    self.beta1 = add('beta1', (channels,), 'zeros')
    self.down = add('down', (channels, self.width), _he(channels))
    self.gamma2 = add('gamma2', (self.width,), 'ones')
    self.beta2 = add('beta2', (self.width,), 'zeros')
    self.up = add('up', (self.width, channels), 'zeros')

  def call(self, x, expert=0):
    def of(weight):
      return ops.take(weight, expert, axis=0)

    y = layers.group_norm(x, of(self.gamma1), of(self.beta1), self.groups)
    y = ops.matmul(ops.relu(y), ops.cast(of(self.down), y.dtype))
    y = layers.group_norm(y, of(self.gamma2), of(self.beta2), self.inner_groups)
    return x + ops.matmul(ops.relu(y), ops.cast(of(self.up), y.dtype))

  def get_config(self):
    return super().get_config() | {
        'width': self.width, 'groups': self.groups, 'experts': self.experts}


@keras.saving.register_keras_serializable('zoo')
class TokenAdapter(keras.layers.Layer):
  """x + A_e(x) for tokens x [B, T, C] and one expert e for the whole batch."""

  def __init__(self, width, experts=1, **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.width = width
    self.experts = experts

  def build(self, input_shape):
    channels = input_shape[-1]

    def add(name, shape, initializer='zeros'):
      return self.add_weight(name=name, shape=(self.experts, *shape), initializer=initializer,
                             autocast=False)

    self.down = add('down', (channels, self.width), _he(channels))
    self.down_bias = add('down_bias', (self.width,))
    self.up = add('up', (self.width, channels))
    self.up_bias = add('up_bias', (channels,))

  def call(self, x, expert=0):
    def of(weight):
      return ops.cast(ops.take(weight, expert, axis=0), x.dtype)

    y = ops.gelu(ops.matmul(x, of(self.down)) + of(self.down_bias), approximate=False)
    return x + ops.matmul(y, of(self.up)) + of(self.up_bias)

  def get_config(self):
    return super().get_config() | {'width': self.width, 'experts': self.experts}


def _he(channels):
  """He initialisation by hand: Keras would take the axis of experts for a receptive field."""
  return keras.initializers.RandomNormal(stddev=(2 / channels) ** 0.5)


def is_adapter(path):
  """Whether the variable at this path belongs to an adapter."""
  return any(part.startswith(MARK) for part in path.split('/'))


def freeze_all_but_adapters(backbone):
  """Makes the adapters of a backbone its only trainable weights."""
  for layer in backbone._flatten_layers(include_self=False):  # pylint: disable=protected-access
    if not layer._layers:  # pylint: disable=protected-access
      layer.trainable = is_adapter(layer.name)


def pack(weights):
  """Packs experts of one baseline: concatenates their adapters, shares all the rest.

  Args:
    weights: a list of dicts from variable path to array, one an expert, each from a
      network with E = 1 adapters.

  Returns:
    Such a dict for the network with E = len(weights); expert i is `weights[i]`.

  Raises:
    ValueError: the list is empty, or the networks differ in more than their adapters.
  """
  if not weights:
    raise ValueError('there is no expert to pack.')
  first, packed = weights[0], {}
  for i, other in enumerate(weights):
    if set(other) != set(first):
      raise ValueError(f'expert {i} has other variables than expert 0.')
  for path, value in first.items():
    if is_adapter(path):
      packed[path] = np.concatenate([w[path] for w in weights])
    else:
      for i, other in enumerate(weights):
        if not np.array_equal(other[path], value):
          raise ValueError(f'expert {i} has another baseline than expert 0: {path} differs.')
      packed[path] = value
  return packed
