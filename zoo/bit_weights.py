"""Published BiT weights (arXiv 1912.11370) in one of our backbones.

The files are BiT-{S,M}-R*.npz of https://storage.googleapis.com/bit_models. Kernels are
HWIO there as here, and our network scales images to BiT's [-1, 1] itself, so that nothing
but names differs.
"""

import collections
import re

from zoo import adapters
from zoo import weights

GROUPS = 32  # of every GroupNorm of BiT; no array tells, so a wrong number would go unseen

# From our variable paths to the names of the files, in this order.
_RULES = tuple((re.compile(pattern), name) for pattern, name in (
    (r'^[^/]+/', 'resnet/'),  # whatever our network is called
    (r'/stem/', '/root_block/standardized_conv2d/'),
    (r'/stage(\d+)_unit(\d+)/([abc])_', r'/block\1/unit\2/\3/'),
    (r'/norm/', '/group_norm/'),  # those of the units and the last one
    (r'/conv/', '/standardized_conv2d/'),
    # The shortcut's projection lies inside a's scope, beside a's own convolution.
    (r'/proj/', '/proj/standardized_conv2d/'),
))
# Some files number their layers as Keras did in the process that wrote them.
_NUMBERED = re.compile(r'(standardized_conv2d|group_norm)_\d+/')
_PIXELS = 224
_STEM = 'resnet/root_block/standardized_conv2d/kernel'  # [7, 7, 3, width]
_UNIT = re.compile(r'resnet/block(\d+)/unit(\d+)/')


def public_name(path):
  """The name in BiT's files of one of our variables.

  'backbone/stage2_unit01/a_norm/gamma' is 'resnet/block2/unit01/a/group_norm/gamma'.

  Args:
    path: of a variable of a bottleneck `zoo.resnet.ResNet`.

  Returns:
    The name, or None for an adapter's variable, which no file has.
  """
  if adapters.is_adapter(path):
    return None
  for pattern, name in _RULES:
    path = pattern.sub(name, path)
  return path


def load(backbone, path):
  """Loads a published BiT file into a backbone, in place. Adapters stay as they are.

  The classification head of the file is ignored.

  Args:
    backbone: a built `zoo.resnet.ResNet` with BiT's stem, units and groups.
    path: the .npz file.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: the backbone is not a BiT; or the file is damaged, lacks arrays, has more of
      them than the backbone has layers, or has them in other shapes. The backbone is then
      as it was.
  """
  a = backbone.architecture
  if a.family is not None:
    raise ValueError(f'BiT weights need a ResNet; this is a {a.family}.')
  if (a.stem, a.block, a.groups) != ('imagenet', 'bottleneck', GROUPS):
    raise ValueError(
        f'BiT weights need a backbone with the imagenet stem, bottleneck units and {GROUPS} '
        f'groups; this one has the {a.stem} stem, {a.block} units and {a.groups} groups.')
  _fill(backbone, _arrays(path), path)


def architecture(shapes, image_size=None):
  """The layers of a published file: 'BiT-M-R101x3.npz' has three times the width of the R101x1.

  Args:
    shapes: dict from the names of its arrays, without numbers of layers, to their shapes.
    image_size: height and width that the network is for, in pixels; None for 224, as trained.

  Returns:
    A `zoo.resnet.Architecture`.

  Raises:
    ValueError: these are not the arrays of such a file.
  """
  from zoo import resnet
  stem = shapes.get(_STEM, ())
  units = {tuple(map(int, match.groups())) for match in map(_UNIT.match, shapes) if match}
  if len(stem) != 4 or stem[:3] != (7, 7, 3) or not units:
    raise ValueError(f'it has no {_STEM} of shape [7, 7, 3, width] and units behind it')
  depths = collections.Counter(block for block, _ in sorted(units)).values()
  return resnet.Architecture(depths, stem[3], image_size=image_size or _PIXELS)


def network(path, image_size=None):
  """The backbone of a published BiT file, as deep and as wide as the file has it.

  Args:
    path: the .npz file.
    image_size: as of `architecture`.

  Returns:
    A `zoo.resnet.ResNet` without adapters.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: it is no published BiT file, or as `load`.
  """
  from zoo import backbones
  found = _arrays(path)
  try:
    layers = architecture({name: value.shape for name, value in found.items()}, image_size)
  except ValueError as error:
    raise ValueError(f'{path} is no published BiT file: {str(error).rstrip(".")}.') from None
  backbone = backbones.build(layers)
  _fill(backbone, found, path)
  return backbone


def _arrays(path):
  """The arrays of a file by the names that all files have in common."""
  return {_NUMBERED.sub(r'\1/', name): value for name, value in weights.load(path).items()}


def _fill(backbone, found, path):
  """Gives a backbone the arrays of a file; raises as `load`."""
  weights.take(backbone, path, found, public_name,
               lambda name: name.startswith('resnet/') and not name.startswith('resnet/head/'))
