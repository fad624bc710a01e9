"""Sparse MLPs for Vision Transformers: many experts a layer, of which each token uses a few.

V-MoE's (arXiv 2106.05974), with the gates for many tasks of arXiv 2204.07689.

Shapes: B images, T tokens of an image, C channels, H hidden channels, E experts, K choices of a
token, N tasks; G groups of S tokens.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from zoo import routing

TASK = 'task_'  # begins the name of each weight with an axis of tasks, and of no other
GATES = ('shared', 'task', 'embedding')


@dataclasses.dataclass(frozen=True)
class SparseConfig:
  """Which MLPs of a network are sparse, and how.

  Attributes:
    blocks: which blocks' MLPs, from 0; see `every` and `last`.
    experts: E.
    k: K.
    capacity: in training, how many tokens an expert takes for each that it would have if all
      had the same number.
    group: images whose tokens compete for the experts in training; batches that are no
      multiple of it are one group.
    noise: standard deviation, times 1/E, of what training adds to the gates' logits.
    normalize: whether a token's K gates are scaled to a sum of 1 (arXiv 2212.05055).
    priority: whether large gates come first where experts are full (batch priority routing).
    gate: 'shared'; 'task' (each of N tasks has a gate of its own); or 'embedding' (each task
      has a vector that is added to the gate's input).
    tasks: N; 1 for a shared gate.
    importance, load, balance, z: weights of the losses of `zoo.routing`.
  """
  blocks: tuple[int, ...]
  experts: int = 8
  k: int = 1
  capacity: float = 1.05
  group: int = 16
  noise: float = 1.
  normalize: bool = False
  priority: bool = False
  gate: str = 'shared'
  tasks: int = 1
  importance: float = 0.005
  load: float = 0.005
  balance: float = 0.
  z: float = 0.

  def __post_init__(self):
    object.__setattr__(self, 'blocks', tuple(self.blocks))
    if self.gate not in GATES:
      raise ValueError(f'gate is {self.gate!r}; it must be one of {GATES}.')
    for name in ('experts', 'k', 'group', 'tasks'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be 1 or more.')
    if not self.capacity > 0:
      raise ValueError(f'capacity is {self.capacity}; it must be above 0.')
    for name in ('noise', 'importance', 'load', 'balance', 'z'):
      if not getattr(self, name) >= 0:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be 0 or more.')
    if self.k > self.experts:
      raise ValueError(f'k is {self.k}, but there are {self.experts} experts to choose from.')
    if self.gate == 'shared' and self.tasks > 1:
      raise ValueError(f'a shared gate knows no tasks, but there are {self.tasks} of them: use '
                       "gate 'task' or 'embedding'.")
    if self.load and not self.noise:
      raise ValueError('the load loss needs noise: set load to 0, or noise above it.')

  @property
  def chooses(self):
    """Whether the result depends on the task."""
    return self.gate != 'shared'


def every(n, depth):
  """Blocks n - 1, 2n - 1, ... of `depth`: V-MoE's 'Every n'."""
  return tuple(range(n - 1, depth, n))


def last(n, depth):
  """The last n of every second block of `depth`: V-MoE's 'Last n'."""
  return every(2, depth)[-n:]


def is_of_task(path):
  """Whether the variable at this path has an axis of tasks, its first."""
  return path.rpartition('/')[-1].startswith(TASK)


def layout(mesh, axis='model'):
  """Where experts are when a network is spread over devices by Keras' distribution API.

  Experts are dealt out along an axis of the mesh; all else is on every device:
  `keras.distribution.ModelParallel(layout_map=layout(mesh), batch_dim_name=...)`, which Keras has
  for JAX. Under the strategies of `tf.distribute` every device has all experts.

  Args:
    mesh: a `keras.distribution.DeviceMesh`, whose axis has a size that divides E.
    axis: its name.

  Returns:
    A `keras.distribution.LayoutMap`.
  """
  found = keras.distribution.LayoutMap(mesh)
  found['.*/mlp/kernel[01]'] = (axis, None, None)
  found['.*/mlp/bias[01]'] = (axis, None)
  return found


def upcycled(values, config):
  """The weights of a sparse network that computes what a dense one does (arXiv 2212.05055).

  Every expert is a copy of the dense MLP. Unless gates are normalized they start at zero, and so
  at 1/E each; the copies are scaled by E / K to make up for that.

  Args:
    values: dict from the paths of a dense `zoo.vit.VisionTransformer`'s weights to arrays, as of
      `zoo.weights.of`.
    config: the `SparseConfig` of the network that is the same otherwise.

  Returns:
    Such a dict for the sparse network; with normalized gates it has none for gates, which stay as
    they are.

  Raises:
    ValueError: there is no dense MLP in one of the blocks.
  """
  found = dict(values)
  for block in config.blocks:
    start = f'block{block + 1:02}/mlp'
    dense = {path: path.split('/mlp/') for path in values if f'/{start}/' in path}
    names = {path: name for path, (_, name) in dense.items()}
    if sorted(names.values()) != ['dense0/bias', 'dense0/kernel', 'dense1/bias', 'dense1/kernel']:
      raise ValueError(f'the network has no dense MLP in block {block}, to make experts of.')
    for path, name in names.items():
      layer, kind = name.split('/')
      scale = config.experts / config.k if layer == 'dense1' and not config.normalize else 1
      value = np.asarray(found.pop(path)) * np.float32(scale)
      found[path.replace(name, kind + layer[-1])] = np.repeat(value[None], config.experts, 0)
      if name == 'dense0/kernel' and not config.normalize:
        shape = (len(value), config.experts)
        mine = (f'{TASK}gate', (config.tasks, *shape)) if config.gate == 'task' else ('gate', shape)
        found[path.replace(name, mine[0])] = np.zeros(mine[1], np.float32)
  return found


@keras.saving.register_keras_serializable('zoo')
class SparseMlp(keras.layers.Layer):
  """Tokens [B, T, C] to [B, T, C], each by the MLPs of the K experts of its largest gates.

  Gates are a softmax over all E experts, in float32, and experts' outputs are summed with
  their gates as weights. In training, and where a capacity ratio is given, an expert takes a
  limited number of tokens, and the rest get nothing from it. Otherwise it takes all, and what
  becomes of an image does not depend on the others.

  Args:
    hidden, width: H and C.
    config: a `SparseConfig`, or its fields as a dict.

  Attributes:
    gates, routes: of the last call, float32 [G, S, E] and a `zoo.routing.Routes`; of use within
      the graph, or eagerly, right after it.
  """

  def __init__(self, hidden, width, config, **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.hidden, self.width = hidden, width
    self.config = config if isinstance(config, SparseConfig) else SparseConfig(**config)
    self.seed_generator = keras.random.SeedGenerator() if self.config.noise else None
    self.gates = self.routes = None

  def build(self, input_shape):
    c, channels = self.config, self.width

    def add(name, shape, initializer='zeros'):
      return self.add_weight(name=name, shape=shape, initializer=initializer, autocast=False)

    def uniform(limit):
      return keras.initializers.RandomUniform(-limit, limit)

    # Of logits as small as those of the public code's LeCun-normal gates; each task its own.
    gates = uniform((3 / channels) ** 0.5)
    if c.gate == 'task':
      self.gate = add(f'{TASK}gate', (c.tasks, channels, c.experts), gates)
    else:
      self.gate = add('gate', (channels, c.experts), gates)
    self.embedding = add(f'{TASK}embedding', (c.tasks, channels), keras.initializers.RandomNormal(
        stddev=0.02)) if c.gate == 'embedding' else None
    # Glorot's by hand: Keras would take the axis of experts for a receptive field.
    limit = (6 / (channels + self.hidden)) ** 0.5
    self.kernel0 = add('kernel0', (c.experts, channels, self.hidden), uniform(limit))
    self.bias0 = add('bias0', (c.experts, self.hidden))
    self.kernel1 = add('kernel1', (c.experts, self.hidden, channels), uniform(limit))
    self.bias1 = add('bias1', (c.experts, channels))

  def call(self, x, task=0, capacity=None, training=False):
    """See the class.

    Args:
      x: [B, T, C].
      task: for gates that know tasks, an int, or int32 [B] for each image.
      capacity: above 0, a capacity ratio out of training; a float or a scalar of the graph.
        All tokens of the batch then compete.
      training: whether there is noise, and a limit on tokens; the losses are added then.
    """
    c = self.config
    shape = ops.shape(x)
    groups = 1
    if training and isinstance(shape[0], int) and not shape[0] % c.group:
      groups = shape[0] // c.group

    def grouped(values):
      return ops.reshape(values, (groups, -1, values.shape[-1]))

    logits = noisy = grouped(self._logits(ops.cast(x, 'float32'), task))
    x = grouped(x)
    if training and c.noise:
      noisy = logits + keras.random.normal(
          ops.shape(logits), stddev=c.noise / c.experts, seed=self.seed_generator)
    gates = ops.softmax(noisy, axis=-1)
    experts, chosen = routing.choose(gates, c.k)
    if c.normalize:
      chosen = chosen / ops.sum(chosen, axis=-1, keepdims=True)
    ratio = c.capacity if training else capacity
    tokens = ops.shape(x)[1]
    slots = tokens if ratio is None else routing.slots_for(tokens, c.experts, c.k, ratio)
    routes = routing.assign(experts, chosen, c.experts, slots, c.priority and ratio is not None)
    self.gates, self.routes = gates, routes
    if training:
      self._add_losses(logits, noisy, gates)
    if ratio is None and keras.backend.backend() == 'tensorflow':
      # Its graphs have shapes that values decide. Elsewhere every expert has S slots then.
      held, rows, bounds = routing.pack(x, routes, c.experts)
      y = ops.concatenate([
          self._expert(held[bounds[e]:bounds[e + 1]], e) for e in range(c.experts)])
    else:
      held, rows = routing.dispatch(x, routes, c.experts, slots)
      y = self._experts(held)
    return ops.reshape(routing.combine(y, rows, routes.weights), shape)

  def _logits(self, x, task):
    gate = self.gate
    if self.config.gate == 'task':
      gate = ops.take(gate, task, axis=0)
    if self.embedding is not None:
      x = x + ops.expand_dims(ops.take(self.embedding, task, axis=0), -2)
    return ops.matmul(x, gate)

  def _experts(self, x):
    """The MLPs of all experts on tokens of each, [E, Q, C]."""
    return self._mlp(x, self.kernel0, self.bias0[:, None], self.kernel1, self.bias1[:, None])

  def _expert(self, x, expert):
    """The MLP of one expert on tokens [Q, C]."""
    return self._mlp(x, *(weights[expert] for weights in (
        self.kernel0, self.bias0, self.kernel1, self.bias1)))

  def _mlp(self, x, kernel0, bias0, kernel1, bias1):
    def linear(x, kernel, bias):
      return ops.matmul(x, ops.cast(kernel, x.dtype)) + ops.cast(bias, x.dtype)

    return linear(ops.gelu(linear(x, kernel0, bias0), approximate=True), kernel1, bias1)

  def _add_losses(self, logits, noisy, gates):
    c = self.config
    total = 0.
    if c.importance:
      total += c.importance * routing.importance_loss(ops.softmax(logits, axis=-1))
    if c.load:
      total += c.load * routing.load_loss(logits, noisy, c.k, c.noise / c.experts)
    if c.balance:
      total += c.balance * routing.balance_loss(gates)
    if c.z:
      total += c.z * routing.z_loss(logits)
    if not isinstance(total, float):
      self.add_loss(total)

  def get_config(self):
    return super().get_config() | {
        'hidden': self.hidden, 'width': self.width, 'config': dataclasses.asdict(self.config)}
