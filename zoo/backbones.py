"""BiT's ResNet-v2 (arXiv 1912.11370) in Keras 3, with `keras.ops` only.

Pre-activation units with GroupNorm and weight standardisation instead of BatchNorm: a
network works the same at any batch size, and an expert is its weights and nothing else.
Networks run on every Keras backend and take images in [0, 1].

Shapes: B batch, H height, W width, C channels, F features.
"""

import dataclasses

import keras
from keras import ops

from zoo import adapters as adapters_lib
from zoo import layers


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What is needed to rebuild a backbone.

  Attributes:
    depths: units in each stage; each stage after the first halves the resolution.
    width: channels of the first stage's 3x3 convolutions, doubled stage by stage.
    block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1 to four times the width).
    groups: groups of every GroupNorm.
    stem: 'imagenet' (7x7 of stride 2, then max-pool) or 'small' (one 3x3).
    stem_stride: stride of the small stem; the ImageNet stem has its own.
    image_size: height and width it was made for, in pixels; any other works too.
  """
  depths: tuple[int, ...]
  width: int
  block: str = 'bottleneck'
  groups: int = 32
  stem: str = 'imagenet'
  stem_stride: int = 1
  image_size: int = 224

  def __post_init__(self):
    object.__setattr__(self, 'depths', tuple(self.depths))
    for name, allowed in (('block', ('basic', 'bottleneck')),
                          ('stem', ('imagenet', 'small')), ('stem_stride', (1, 2))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name} is {getattr(self, name)!r}; it must be one of {allowed}.')
    if not self.depths or min(self.depths) < 1:
      raise ValueError(f'depths is {self.depths}; every stage needs one unit or more.')
    if self.width % self.groups:
      raise ValueError(f'width {self.width} is not a multiple of groups {self.groups}.')

  @property
  def expansion(self):
    """Channels that leave a unit, as a multiple of its inner width."""
    return 4 if self.block == 'bottleneck' else 1

  @property
  def features(self):
    """F, the length of the embedding."""
    return self.width * 2 ** (len(self.depths) - 1) * self.expansion

  def to_dict(self):
    """The fields as plain JSON types; `Architecture(**d)` reads them back."""
    return dataclasses.asdict(self) | {'depths': list(self.depths)}


# A preset is data. The first four are the published BiT networks; the others are for
# 32-pixel images and two cores, named by layers and width.
PRESETS = {
    'r50x1': Architecture((3, 4, 6, 3), 64),
    'r101x1': Architecture((3, 4, 23, 3), 64),
    'r50x3': Architecture((3, 4, 6, 3), 192),
    'r152x4': Architecture((3, 8, 36, 3), 256),
    'r8w16': Architecture((1, 1, 1), 16, 'basic', 8, 'small', 2, 32),
    'r8w32': Architecture((1, 1, 1), 32, 'basic', 16, 'small', 2, 32),
    'r14w32': Architecture((2, 2, 2), 32, 'basic', 16, 'small', 2, 32),
    'r14w48': Architecture((2, 2, 2), 48, 'basic', 16, 'small', 2, 32),
    'r14w64': Architecture((2, 2, 2), 64, 'basic', 16, 'small', 2, 32),
}


def preset(name):
  """The `Architecture` of a preset.

  Raises:
    ValueError: there is no preset of this name.
  """
  if name not in PRESETS:
    raise ValueError(f'unknown preset {name!r}; there are {", ".join(PRESETS)}.')
  return PRESETS[name]


def name_of(architecture):
  """The name of the preset that has these layers, at whatever image size; None if none has."""
  return next((name for name, one in PRESETS.items() if architecture == dataclasses.replace(
      one, image_size=architecture.image_size)), None)


class Unit(keras.layers.Layer):
  """A pre-activation residual unit: [B, H, W, C] to [B, H/s, W/s, expansion * width].

  The projection of the shortcut is taken after the first norm and ReLU, as in BiT. The
  letters a, b, c are the names of the public checkpoints.
  """

  def __init__(self, width, strides, project, block, groups, adapter=None, drop=0., **kwargs):
    super().__init__(autocast=False, **kwargs)
    bottleneck = block == 'bottleneck'
    out = width * (4 if bottleneck else 1)
    # (letter, filters, kernel size, stride) of each convolution.
    convolutions = (
        (('a', width, 1, 1), ('b', width, 3, strides), ('c', out, 1, 1)) if bottleneck
        else (('a', width, 3, strides), ('b', width, 3, 1)))
    self.steps = [
        (layers.GroupNorm(groups, name=f'{letter}_norm'),
         layers.StandardizedConv2D(filters, size, stride, name=f'{letter}_conv'))
        for letter, filters, size, stride in convolutions]
    self.projection = (
        layers.StandardizedConv2D(out, 1, strides, name='a_proj') if project else None)
    self.adapter = adapter and adapters_lib.Adapter(
        adapter.width, groups, adapter.experts, name=adapters_lib.MARK)
    # Leaves out the whole branch for some images, and scales it for the others.
    self.drop = keras.layers.Dropout(drop, (None, 1, 1, 1)) if drop else None

  def build(self, input_shape):
    """Nothing of its own to build: the layers inside build as they are called."""

  def call(self, x, expert=0, training=False):
    if self.adapter is not None:
      x = self.adapter(x, expert=expert)
    shortcut = x
    for i, (norm, convolution) in enumerate(self.steps):
      x = ops.relu(norm(x))
      if i == 0 and self.projection is not None:
        shortcut = self.projection(x)
      x = convolution(x)
    if self.drop is not None:
      x = self.drop(x, training=training)
    return x + shortcut


@keras.saving.register_keras_serializable('zoo')
class Backbone(keras.Model):
  """ResNet-v2 from images [B, H, W, 3] in [0, 1] to embeddings [B, F], float32.

  Attributes:
    architecture: its `Architecture`.
    adapters: its `AdapterConfig`, or None for a plain network.
    stochastic_depth: probability with which training leaves out the last unit's branch, and
      each earlier one's in proportion to its place (arXiv 1603.09382).
    training_matters: whether a call in training computes anything else.
  """

  def __init__(self, architecture, adapters=None, stochastic_depth=0., **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.stochastic_depth = stochastic_depth
    self.training_matters = stochastic_depth > 0  # there are no batch statistics
    self.architecture = a = architecture
    stages = set(range(len(a.depths)))
    adapted = stages if adapters and adapters.stages is None else set(
        adapters.stages if adapters else ())
    if adapters is not None and (not adapted or not adapted <= stages):
      raise ValueError(f'adapter stages {adapters.stages} must be among '
                       f'0..{len(a.depths) - 1}, one of them at least.')
    self.adapters = adapters
    if a.stem == 'imagenet':
      self.stem = layers.StandardizedConv2D(a.width, 7, 2, name='stem')
    else:
      self.stem = layers.StandardizedConv2D(a.width, 3, a.stem_stride, name='stem')
    self.units = []
    channels = a.width
    for stage, depth in enumerate(a.depths):
      width = a.width * 2 ** stage
      for i in range(depth):
        strides = 2 if stage and i == 0 else 1
        project = strides > 1 or channels != width * a.expansion
        self.units.append(Unit(
            width, strides, project, a.block, a.groups, adapters if stage in adapted else None,
            stochastic_depth * (len(self.units) + 1) / sum(a.depths),
            name=f'stage{stage + 1}_unit{i + 1:02}'))
        channels = width * a.expansion
    self._first_adapted = next(
        (i for i, unit in enumerate(self.units) if unit.adapter is not None), len(self.units))
    self.norm = layers.GroupNorm(a.groups, name='norm')

  def call(self, images, training=False, expert=0):
    return self.branch(self.trunk(images, training), expert, training)

  def trunk(self, images, training=False):
    """What all experts share, [B, H, W, 3] to [B, H', W', C]: everything before an adapter."""
    x = self.stem(ops.cast(images, 'float32') * 2. - 1.)  # BiT's range
    if self.architecture.stem == 'imagenet':
      x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros take part in the maximum
      x = ops.max_pool(x, 3, 2, padding='valid')
    for unit in self.units[:self._first_adapted]:
      x = unit(x, training=training)
    return x

  def branch(self, x, expert=0, training=False):
    """The rest, [B, H', W', C] to embeddings [B, F], by one expert."""
    for unit in self.units[self._first_adapted:]:
      x = unit(x, expert=expert, training=training)
    x = ops.relu(self.norm(x))
    return ops.mean(ops.cast(x, 'float32'), axis=(1, 2))

  def freeze_before_last(self, stages):
    """Freezes all but the last stages and the final norm.

    Raises:
      ValueError: there are not so many stages.
    """
    depths = self.architecture.depths
    if not 1 <= stages <= len(depths):
      raise ValueError(f'--tune=last:{stages}: the network has {len(depths)} stages; name 1 to '
                       f'{len(depths)}.')
    for layer in [self.stem, *self.units[:sum(depths[:-stages])]]:
      layer.trainable = False

  def get_config(self):
    # With the name, which starts the paths of the weights.
    return {'name': self.name, 'architecture': self.architecture.to_dict(),
            'adapters': self.adapters and self.adapters.to_dict(),
            'stochastic_depth': self.stochastic_depth}

  @classmethod
  def from_config(cls, config):
    return cls(Architecture(**config['architecture']),
               config['adapters'] and adapters_lib.AdapterConfig(**config['adapters']),
               config['stochastic_depth'], name=config['name'])


def build(architecture, adapters=None, precision='float32', seed=0, stochastic_depth=0.):
  """A `Backbone` with its variables made.

  Args:
    architecture: an `Architecture`, or the name of a preset.
    adapters: an `AdapterConfig`, or None.
    precision: a Keras precision policy such as 'mixed_bfloat16'.
    seed: of the initial weights.
    stochastic_depth: as in `Backbone`.

  Returns:
    The network, freshly initialised.
  """
  if isinstance(architecture, str):
    architecture = preset(architecture)
  keras.utils.set_random_seed(seed)
  policy = keras.config.dtype_policy()
  keras.config.set_dtype_policy(precision)
  try:
    network = Backbone(architecture, adapters, stochastic_depth, name='backbone')
    size = min(architecture.image_size, 64)  # enough to make the variables
    network(keras.KerasTensor((1, size, size, 3)))
  finally:
    keras.config.set_dtype_policy(policy)
  return network
