"""Vision Transformers (arXiv 2010.11929) in Keras 3, with `keras.ops` only.

Blocks normalise first: x + attention(norm(x)), then x + mlp(norm(x)). GELU is the form by tanh,
Flax' default, with which the published networks were trained. The options are ViT-22B's
(arXiv 2302.05442). An image of any size will do: what is missing of its last patches is filled
with grey, half of it on each side, and position embeddings are resized.

Shapes: B batch, H height, W width, P pixels of a patch's side, G patches of an image's side,
T tokens, C channels, N heads, D channels of a head.
"""

import dataclasses
import functools

import keras
from keras import ops

from zoo import adapters as adapters_lib
from zoo import backbone
from zoo import sparse as sparse_lib

EPSILON = 1e-6  # of every norm, as published


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What is needed to rebuild a Vision Transformer.

  Attributes:
    patch: P.
    width: C.
    depth: blocks.
    heads: N; D is C / N.
    mlp_dim: hidden channels of every MLP.
    image_size: height and width it was made for, in pixels, which says how many positions are
      learnt; any other works too.
    pooling: 'token' (the embedding is a class token's) or 'mean' (of all patches).
    parallel: attention and MLP see the same normalised x, and both are added to x at once.
    qk_norm: queries and keys are normalised, each head's by itself.
    biases: whether queries, keys, values and norms have an offset.
    sparse: a `zoo.sparse.SparseConfig`, or its fields as a dict, if some MLPs are sparse.
    family: tells module.json of it from a ResNet's.
  """
  patch: int
  width: int
  depth: int
  heads: int
  mlp_dim: int
  image_size: int = 224
  pooling: str = 'token'
  parallel: bool = False
  qk_norm: bool = False
  biases: bool = True
  sparse: sparse_lib.SparseConfig | None = None
  family: str = 'ViT'

  def __post_init__(self):
    for name in ('patch', 'width', 'depth', 'heads', 'mlp_dim', 'image_size'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be 1 or more.')
    for name, allowed in (('pooling', ('token', 'mean')), ('family', ('ViT',))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name} is {getattr(self, name)!r}; it must be one of {allowed}.')
    if self.width % self.heads:
      raise ValueError(f'width {self.width} is not a multiple of heads {self.heads}.')
    if isinstance(self.sparse, dict):
      object.__setattr__(self, 'sparse', sparse_lib.SparseConfig(**self.sparse))
    if self.sparse:
      self._check_sparse()

  def _check_sparse(self):
    sparse, depth = self.sparse, self.depth
    if not sparse.blocks or not set(sparse.blocks) <= set(range(depth)):
      raise ValueError(f'sparse blocks {sparse.blocks} must be among 0..{depth - 1}, one of them '
                       'at least.')
    tokens = sparse.group * (self.grid ** 2 + (self.pooling == 'token'))
    if sparse.experts > tokens:
      raise ValueError(f'{sparse.experts} experts are more than the {tokens} tokens of '
                       f'{sparse.group} images that share them: use fewer, or a larger group.')

  @property
  def depths(self):
    """Units in each stage: a block is a stage by itself, for adapters and the fine-tuner."""
    return (1,) * self.depth

  @property
  def features(self):
    """F, the length of the embedding."""
    return self.width

  @property
  def grid(self):
    """G, whose square is how many positions are learnt."""
    return -(-self.image_size // self.patch)

  def of_one_task(self):
    """The same sparse network, whose gates know one task only."""
    return dataclasses.replace(self, sparse=dataclasses.replace(self.sparse, tasks=1))

  def to_dict(self):
    """The fields as plain JSON types; `Architecture(**d)` reads them back."""
    fields = dataclasses.asdict(self)
    if self.sparse:
      fields['sparse']['blocks'] = list(self.sparse.blocks)
    return fields


def resized(positions, height, width):
  """Position embeddings for another number of patches, by bilinear interpolation.

  Corners stay corners, as in the code that published networks were fine-tuned with
  (`scipy.ndimage.zoom` of order 1; section 3.2 of arXiv 2010.11929).

  Args:
    positions: float32 [G, G, C].
    height, width: patches, ints or int scalars of the graph.

  Returns:
    float32 [height, width, C].
  """
  grid = positions.shape[0]

  def weights(count):
    """How much of each learnt place is in each wanted one, [count, G]."""
    steps = ops.maximum(ops.cast(count, 'float32') - 1, 1)
    places = ops.arange(count, dtype='float32') * (grid - 1) / steps
    return ops.relu(1 - ops.abs(places[:, None] - ops.arange(grid, dtype='float32')))

  rows = ops.einsum('hg,gkc->hkc', weights(height), positions)
  return ops.einsum('wk,hkc->hwc', weights(width), rows)


class Embedding(keras.layers.Layer):
  """Images [B, H, W, 3] to tokens [B, T, C]: the class token, if there is one, and patches.

  To a patch the position of its place is added, to the class token one of its own.
  """

  def __init__(self, architecture, **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.architecture = architecture

  def build(self, input_shape):
    a = self.architecture
    add = functools.partial(self.add_weight, autocast=False)
    self.kernel = add(name='kernel', shape=(a.patch, a.patch, input_shape[-1], a.width),
                      initializer='lecun_normal')
    self.bias = add(name='bias', shape=(a.width,), initializer='zeros')
    tokens = int(a.pooling == 'token')
    self.cls = add(name='cls', shape=(1, tokens, a.width),
                   initializer='zeros') if tokens else None
    self.positions = add(name='positions', shape=(1, tokens + a.grid ** 2, a.width),
                         initializer=keras.initializers.RandomNormal(stddev=0.02))

  def call(self, images):
    def cast(values):
      return ops.cast(values, self.compute_dtype)

    a = self.architecture
    x = ops.conv(cast(images), cast(self.kernel), strides=a.patch, padding='same')
    batch, height, width, _ = ops.shape(x)
    positions = ops.reshape(self.positions[0, -a.grid ** 2:], (a.grid, a.grid, a.width))
    if tuple(x.shape[1:3]) != (a.grid, a.grid):  # or unknown
      positions = resized(positions, height, width)
    x = ops.reshape(x + cast(positions + self.bias), (batch, -1, a.width))
    if self.cls is not None:
      token = ops.broadcast_to(cast(self.cls + self.positions[:, :1]), (batch, 1, a.width))
      x = ops.concatenate([token, x], axis=1)
    return x


def _norm(biases, name):
  return keras.layers.LayerNormalization(epsilon=EPSILON, center=biases, name=name)


class Attention(keras.layers.Layer):
  """Self-attention over tokens [B, T, C]; its softmax is float32 under any precision policy."""

  def __init__(self, architecture, **kwargs):
    super().__init__(**kwargs)
    a = architecture

    def dense(equation, shape, axes, name):
      # Glorot's by hand: of a kernel [C, N, D] Keras would take C for a part of the receptive
      # field. All four go from C channels to C. One initializer for all would give all the same.
      limit = (3 / a.width) ** 0.5
      return keras.layers.EinsumDense(
          equation, (None, *shape), bias_axes=axes, name=name,
          kernel_initializer=keras.initializers.RandomUniform(-limit, limit))

    self.query, self.key, self.value = (
        dense('btc,cnd->btnd', (a.heads, a.width // a.heads), 'nd' if a.biases else None, name)
        for name in ('query', 'key', 'value'))
    self.query_norm, self.key_norm = (
        _norm(a.biases, name) if a.qk_norm else None for name in ('query_norm', 'key_norm'))
    self.out = dense('btnd,ndc->btc', (a.width,), 'c', 'out')

  def build(self, input_shape):
    """Nothing of its own to build: the layers inside build as they are called."""

  def call(self, x):
    query, key, value = self.query(x), self.key(x), self.value(x)
    if self.query_norm is not None:
      query, key = self.query_norm(query), self.key_norm(key)
    return self.out(ops.dot_product_attention(query, key, value))


class Mlp(keras.layers.Layer):
  """Tokens [B, T, C] to [B, T, C], each by itself, over `hidden` channels."""

  def __init__(self, hidden, width, **kwargs):
    super().__init__(**kwargs)
    self.dense0 = keras.layers.Dense(hidden, name='dense0')
    self.dense1 = keras.layers.Dense(width, name='dense1')

  def build(self, input_shape):
    """As in `Attention`."""

  def call(self, x):
    return self.dense1(ops.gelu(self.dense0(x), approximate=True))


class Block(keras.layers.Layer):
  """Attention, then an MLP, each added to the tokens [B, T, C]; or both at once.

  The adapter acts on what the MLP gives, before that is added (arXiv 1902.00751).
  """

  def __init__(self, architecture, adapter=None, drop=0., sparse=None, **kwargs):
    super().__init__(**kwargs)
    a = architecture
    self.attention_norm = _norm(a.biases, 'attention_norm')
    self.attention = Attention(a, name='attention')
    self.mlp_norm = None if a.parallel else _norm(a.biases, 'mlp_norm')
    self.sparse = sparse
    self.mlp = (sparse_lib.SparseMlp(a.mlp_dim, a.width, sparse, name='mlp') if sparse
                else Mlp(a.mlp_dim, a.width, name='mlp'))
    self.adapter = adapter and adapters_lib.TokenAdapter(
        adapter.width, adapter.experts, name=adapters_lib.MARK)
    # Each leaves out its branch for some images, and scales it for the others.
    self.drops = [keras.layers.Dropout(drop, (None, 1, 1))
                  for _ in range(1 if a.parallel else 2)] if drop else []

  def build(self, input_shape):
    """As in `Attention`."""

  @property
  def chooses(self):
    """Whether the result depends on `expert`."""
    return self.adapter is not None or bool(self.sparse and self.sparse.chooses)

  def call(self, x, expert=0, training=False, capacity=None):
    def adapted_mlp(y):
      y = (self.mlp(y, task=expert, capacity=capacity, training=training) if self.sparse
           else self.mlp(y))
      return y if self.adapter is None else self.adapter(y, expert=expert)

    y = self.attention_norm(x)
    branch = self.attention(y)
    if self.mlp_norm is None:
      branch = branch + adapted_mlp(y)
      return x + (self.drops[0](branch, training=training) if self.drops else branch)
    x = x + (self.drops[0](branch, training=training) if self.drops else branch)
    branch = adapted_mlp(self.mlp_norm(x))
    return x + (self.drops[1](branch, training=training) if self.drops else branch)


@keras.saving.register_keras_serializable('zoo')
class VisionTransformer(backbone.Backbone):
  """A Vision Transformer as a `zoo.backbone.Backbone`."""
  architecture_class = Architecture

  def make_stem(self):
    return Embedding(self.architecture, name='embedding')

  def make_unit(self, stage, index, adapter, drop):
    sparse = self.architecture.sparse
    return Block(self.architecture, adapter, drop,
                 sparse if sparse and stage in sparse.blocks else None,
                 name=f'block{stage + 1:02}')

  def make_norm(self):
    return keras.layers.LayerNormalization(
        epsilon=EPSILON, center=self.architecture.biases, dtype='float32', name='norm')

  def finish(self, x):
    if self.architecture.pooling == 'token':
      return self.norm(x[:, 0])
    return ops.mean(self.norm(x), axis=1)
