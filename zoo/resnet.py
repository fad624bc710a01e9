"""BiT's ResNet-v2 (arXiv 1912.11370) in Keras 3, with `keras.ops` only.

Pre-activation units with GroupNorm and weight standardisation instead of BatchNorm: a
network works the same at any batch size, and an expert is its weights and nothing else.

Shapes: B batch, H height, W width, C channels, F features.
"""

import dataclasses
import typing

import keras
from keras import ops

from zoo import adapters as adapters_lib
from zoo import backbone
from zoo import layers


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What is needed to rebuild a ResNet.

  Attributes:
    depths: units in each stage; each stage after the first halves the resolution.
    width: channels of the first stage's 3x3 convolutions, doubled stage by stage.
    block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1 to four times the width).
    groups: groups of every GroupNorm.
    stem: 'imagenet' (7x7 of stride 2, then max-pool) or 'small' (one 3x3).
    stem_stride: stride of the small stem; the ImageNet stem has its own.
    image_size: height and width it was made for, in pixels; any other works too.
  """
  family: typing.ClassVar[None] = None  # module.json is silent on it: this one was the first
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

  @property
  def chooses(self):
    """Whether the result depends on `expert`."""
    return self.adapter is not None

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
class ResNet(backbone.Backbone):
  """ResNet-v2 as a `zoo.backbone.Backbone`."""
  architecture_class = Architecture

  def make_stem(self):
    a = self.architecture
    size, strides = (7, 2) if a.stem == 'imagenet' else (3, a.stem_stride)
    return layers.StandardizedConv2D(a.width, size, strides, name='stem')

  def make_unit(self, stage, index, adapter, drop):
    a = self.architecture
    strides = 2 if stage and not index else 1
    project = not index and (strides > 1 or a.expansion > 1)  # the shape changes
    return Unit(a.width * 2 ** stage, strides, project, a.block, a.groups, adapter, drop,
                name=f'stage{stage + 1}_unit{index + 1:02}')

  def make_norm(self):
    return layers.GroupNorm(self.architecture.groups, name='norm')

  def start(self, images):
    x = self.stem(images)
    if self.architecture.stem == 'imagenet':
      x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros take part in the maximum
      x = ops.max_pool(x, 3, 2, padding='valid')
    return x

  def finish(self, x):
    x = ops.relu(self.norm(x))
    return ops.mean(ops.cast(x, 'float32'), axis=(1, 2))
