"""The backbones that there are: presets, and networks built of what describes them."""

import dataclasses

import keras

from zoo import backbone
from zoo import resnet
from zoo import sparse
from zoo import vit

Architecture = resnet.Architecture  # of the family that is meant where none is named
Backbone = backbone.Backbone
FAMILIES = {one.architecture_class.family: one for one in (resnet.ResNet, vit.VisionTransformer)}

# A preset is data. Those for 32 and 64 pixels, for two cores, are named by layers and width.
PRESETS = {
    # Published networks of BiT.
    'r50x1': Architecture((3, 4, 6, 3), 64),
    'r101x1': Architecture((3, 4, 23, 3), 64),
    'r50x3': Architecture((3, 4, 6, 3), 192),
    'r152x4': Architecture((3, 8, 36, 3), 256),
    'r8w16': Architecture((1, 1, 1), 16, 'basic', 8, 'small', 2, 32),
    'r8w32': Architecture((1, 1, 1), 32, 'basic', 16, 'small', 2, 32),
    'r8w64': Architecture((1, 1, 1), 64, 'basic', 16, 'small', 2, 32),
    'r14w32': Architecture((2, 2, 2), 32, 'basic', 16, 'small', 2, 32),
    'r14w48': Architecture((2, 2, 2), 48, 'basic', 16, 'small', 2, 32),
    'r14w64': Architecture((2, 2, 2), 64, 'basic', 16, 'small', 2, 32),
    # Published networks of ViT and AugReg: patch, width, depth, heads and hidden channels.
    'vit_ti16': vit.Architecture(16, 192, 12, 3, 768),
    'vit_s16': vit.Architecture(16, 384, 12, 6, 1536),
    'vit_s32': vit.Architecture(32, 384, 12, 6, 1536),
    'vit_b16': vit.Architecture(16, 768, 12, 12, 3072),
    'vit_b32': vit.Architecture(32, 768, 12, 12, 3072),
    'vit_l16': vit.Architecture(16, 1024, 24, 16, 4096),
    # 64 patches each. With few images the mean of all patches learns faster than a class token.
    'vit32_d6w64': vit.Architecture(4, 64, 6, 2, 256, 32, 'mean'),
    'vit32_d6w128': vit.Architecture(4, 128, 6, 4, 512, 32, 'mean'),
    'vit64_d6w128': vit.Architecture(8, 128, 6, 4, 512, 64, 'mean'),
}
# V-MoE's published networks, and small ones: of which network, which blocks' MLPs are of 8 experts,
# and how many a token uses.
PRESETS |= {
    name: dataclasses.replace(PRESETS[dense], sparse=sparse.SparseConfig(blocks, 8, k))
    for name, dense, blocks, k in (
        ('vmoe_s32', 'vit_s32', sparse.last(2, 12), 2),
        ('vmoe_b16', 'vit_b16', sparse.every(2, 12), 2),
        ('vmoe32_d6w64', 'vit32_d6w64', sparse.last(2, 6), 1),
        ('vmoe32_d6w128', 'vit32_d6w128', sparse.last(2, 6), 1),
        ('vmoe64_d6w128', 'vit64_d6w128', sparse.last(2, 6), 1))}


def preset(name):
  """The architecture of a preset.

  Raises:
    ValueError: there is no preset of this name.
  """
  if name not in PRESETS:
    raise ValueError(f'unknown preset {name!r}; there are {", ".join(PRESETS)}.')
  return PRESETS[name]


def sparse_presets():
  """The names of the presets with sparse layers."""
  return [name for name, one in PRESETS.items() if getattr(one, 'sparse', None)]


def name_of(architecture):
  """The name of the preset that has these layers, at whatever image size; None if none has."""
  def layers(one):
    return one.to_dict() | {'image_size': None}

  return next((name for name, one in PRESETS.items() if layers(one) == layers(architecture)), None)


def architecture_of(description):
  """The architecture that a dict describes.

  Args:
    description: what `to_dict` of an architecture gave, perhaps through JSON; one without
      'family' is of a ResNet.

  Raises:
    ValueError: there is no such family, or it cannot be as described.
  """
  family = description.get('family')
  if family not in FAMILIES:
    raise ValueError(f'networks of the family {family!r} are not known to this version: update '
                     'it.')
  return FAMILIES[family].architecture_class(**description)


def build(architecture, adapters=None, precision='float32', seed=0, stochastic_depth=0.):
  """A `Backbone` with its variables made.

  Args:
    architecture: a `zoo.resnet.Architecture` or `zoo.vit.Architecture`, or the name of a preset.
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
    network = FAMILIES[architecture.family](
        architecture, adapters, stochastic_depth, name='backbone')
    network.build((None, None, None, 3))
  finally:
    keras.config.set_dtype_policy(policy)
  return network
