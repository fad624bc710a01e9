"""Published ViT weights (arXiv 2010.11929, AugReg's of 2106.10270) in one of our backbones.

The files are the .npz of https://storage.googleapis.com/vit_models and, in its folder augreg,
of every size, patch and training. Kernels have the same axes there as here, and our network
scales images to [-1, 1] itself. Position embeddings are resized to the images that the network
is for.
"""

import math
import re

import numpy as np

from zoo import adapters
from zoo import weights

_BLOCK = 'Transformer/encoderblock_'
# From our variable paths to the names of the files, in this order.
_RULES = tuple((re.compile(pattern), name) for pattern, name in (
    (r'^[^/]+/', ''),  # whatever our network is called
    (r'^embedding/cls', 'cls'),
    (r'^embedding/positions', 'Transformer/posembed_input/pos_embedding'),
    (r'^block(\d+)', lambda match: f'{_BLOCK}{int(match[1]) - 1}'),
    (r'/attention/', '/MultiHeadDotProductAttention_1/'),
    (r'/mlp/dense', '/MlpBlock_3/Dense_'),
    (r'/attention_norm/', '/LayerNorm_0/'),
    (r'/mlp_norm/', '/LayerNorm_2/'),
    (r'^norm/', 'Transformer/encoder_norm/'),
    (r'/gamma$', '/scale'),
    (r'/beta$', '/bias'),
))
_PATCHES = 'embedding/kernel'  # [P, P, 3, C]
_POSITIONS = 'Transformer/posembed_input/pos_embedding'  # [1, T, C]


def public_name(path):
  """The name in the files of one of our variables.

  'backbone/block01/attention/query/kernel' is
  'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel'.

  Args:
    path: of a variable of a `zoo.vit.VisionTransformer`.

  Returns:
    The name, or None for an adapter's variable, which no file has.
  """
  if adapters.is_adapter(path):
    return None
  for pattern, name in _RULES:
    path = pattern.sub(name, path)
  return path


def load(backbone, path):
  """Loads a published ViT file into a backbone, in place. Adapters stay as they are.

  What stands behind the embedding, head and pre_logits, is ignored, as by the published code
  that fine-tunes.

  Args:
    backbone: a built `zoo.vit.VisionTransformer` without ViT-22B's changes.
    path: the .npz file.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: the backbone is another network; or the file is damaged, lacks arrays, has more
      of them than the backbone has layers, or has them in other shapes. The backbone is then
      as it was.
  """
  a = backbone.architecture
  if a.family != 'ViT' or a.parallel or a.qk_norm or not a.biases:
    raise ValueError("ViT weights need a Vision Transformer without ViT-22B's changes.")
  _fill(backbone, weights.load(path), path)


def architecture(shapes, image_size=None):
  """The layers of a published file.

  Args:
    shapes: dict from the names of its arrays to their shapes.
    image_size: height and width that the network is for, in pixels; None for those of the file.

  Returns:
    A `zoo.vit.Architecture`.

  Raises:
    ValueError: these are not the arrays of such a file.
  """
  from zoo import vit
  blocks = {name[len(_BLOCK):].partition('/')[0] for name in shapes if name.startswith(_BLOCK)}
  first = f'{_BLOCK}0'
  found = []
  for name, axes in ((_PATCHES, 'P, P, 3, C'), (_POSITIONS, '1, T, C'),
                     (f'{first}/MultiHeadDotProductAttention_1/query/kernel', 'C, N, D'),
                     (f'{first}/MlpBlock_3/Dense_0/kernel', 'C, hidden')):
    found.append(shapes.get(name, ()))
    # Of files with a ResNet before the Transformer the patches are not of colours.
    if len(found[-1]) != axes.count(',') + 1 or (name == _PATCHES and found[-1][2] != 3):
      raise ValueError(f'it has no {name} of shape [{axes}]')
  (patch, _, _, width), (_, tokens, _), (_, heads, _), (_, hidden) = found
  pooling = 'token' if 'cls' in shapes else 'mean'
  return vit.Architecture(patch, width, len(blocks), heads, hidden,
                          image_size or patch * math.isqrt(tokens), pooling)


def network(path, image_size=None):
  """The backbone of a published ViT file, as deep and as wide as the file has it.

  Args:
    path: the .npz file.
    image_size: as of `architecture`.

  Returns:
    A `zoo.vit.VisionTransformer` without adapters.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: it is no published ViT file, or as `load`.
  """
  from zoo import backbones
  found = weights.load(path)
  try:
    layers = architecture({name: value.shape for name, value in found.items()}, image_size)
  except ValueError as error:
    raise ValueError(f'{path} is no published ViT file: {str(error).rstrip(".")}.') from None
  backbone = backbones.build(layers)
  _fill(backbone, found, path)
  return backbone


def _fill(backbone, found, path):
  """Gives a backbone the arrays of a file; raises as `load`."""
  if _POSITIONS in found:
    found = found | {_POSITIONS: _resized(found[_POSITIONS], backbone.architecture)}
  weights.take(backbone, path, found, public_name,
               lambda name: name.startswith(('embedding/', 'cls', 'Transformer/')))


def _resized(positions, a):
  """Position embeddings [1, T, C] for the patches of an architecture; odd shapes as they are."""
  from zoo import vit
  tokens = int(a.pooling == 'token')
  grid = math.isqrt(positions.shape[1]) if positions.ndim == 3 else 0
  if grid == a.grid or positions.shape[:2] != (1, tokens + grid ** 2):
    return positions
  places = vit.resized(positions[0, tokens:].reshape(grid, grid, -1), a.grid, a.grid)
  return np.concatenate([positions[:, :tokens], np.reshape(places, (1, a.grid ** 2, -1))], axis=1)
