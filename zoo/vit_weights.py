"""Published ViT weights (arXiv 2010.11929, AugReg's of 2106.10270), as a family of `zoo.published`.

The files are the .npz of https://storage.googleapis.com/vit_models and, in its folder augreg,
of every size, patch and training. Kernels have the same axes there as here, and our network
scales images to [-1, 1] itself. Position embeddings are resized to the images that the network
is for.
"""

import math

import numpy as np

FAMILY = 'ViT'
_BLOCK = 'Transformer/encoderblock_'
RULES = (
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
    (r'/beta$', '/bias'))
# Not what stands behind the embedding, head and pre_logits: the published code that fine-tunes
# ignores them, too.
PART = 'embedding/|cls|Transformer/'
_PATCHES = 'embedding/kernel'  # [P, P, 3, C]
_POSITIONS = 'Transformer/posembed_input/pos_embedding'  # [1, T, C]


def check(a):
  """Raises ValueError for a network other than a Vision Transformer as published."""
  if a.family != 'ViT' or a.parallel or a.qk_norm or a.sparse or not a.biases:
    raise ValueError("ViT weights need a Vision Transformer without ViT-22B's changes and sparse "
                     'layers.')


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


def arrays(found, architecture):
  """The arrays of a file, its position embeddings for the images of an architecture."""
  if _POSITIONS not in found:
    return found
  return found | {_POSITIONS: _resized(found[_POSITIONS], architecture)}


def _resized(positions, a):
  """Position embeddings [1, T, C] for the patches of an architecture; odd shapes as they are."""
  from zoo import vit
  tokens = int(a.pooling == 'token')
  grid = math.isqrt(positions.shape[1]) if positions.ndim == 3 else 0
  if grid == a.grid or positions.shape[:2] != (1, tokens + grid ** 2):
    return positions
  places = vit.resized(positions[0, tokens:].reshape(grid, grid, -1), a.grid, a.grid)
  return np.concatenate([positions[:, :tokens], np.reshape(places, (1, a.grid ** 2, -1))], axis=1)
