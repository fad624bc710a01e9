"""Published BiT weights (arXiv 1912.11370), as a family of `zoo.published`.

The files are BiT-{S,M}-R*.npz of https://storage.googleapis.com/bit_models. Kernels are
HWIO there as here, and our network scales images to BiT's [-1, 1] itself, so that nothing
but names differs.
"""

import collections
import re

FAMILY = 'BiT'
GROUPS = 32  # of every GroupNorm of BiT; no array tells, so a wrong number would go unseen
RULES = (
    (r'^[^/]+/', 'resnet/'),  # whatever our network is called
    (r'/stem/', '/root_block/standardized_conv2d/'),
    (r'/stage(\d+)_unit(\d+)/([abc])_', r'/block\1/unit\2/\3/'),
    (r'/norm/', '/group_norm/'),  # those of the units and the last one
    (r'/conv/', '/standardized_conv2d/'),
    # The shortcut's projection lies inside a's scope, beside a's own convolution.
    (r'/proj/', '/proj/standardized_conv2d/'))
PART = 'resnet/(?!head/)'
# Some files number their layers as Keras did in the process that wrote them.
_NUMBERED = re.compile(r'(standardized_conv2d|group_norm)_\d+/')
_PIXELS = 224
_STEM = 'resnet/root_block/standardized_conv2d/kernel'  # [7, 7, 3, width]
_UNIT = re.compile(r'resnet/block(\d+)/unit(\d+)/')


def check(a):
  """Raises ValueError for a network without BiT's stem, units and groups."""
  if a.family is not None:
    raise ValueError(f'BiT weights need a ResNet; this is a {a.family}.')
  if (a.stem, a.block, a.groups) != ('imagenet', 'bottleneck', GROUPS):
    raise ValueError(
        f'BiT weights need a backbone with the imagenet stem, bottleneck units and {GROUPS} '
        f'groups; this one has the {a.stem} stem, {a.block} units and {a.groups} groups.')


def architecture(shapes, image_size=None):
  """The layers of a published file: 'BiT-M-R101x3.npz' has three times the width of the R101x1.

  Args:
    shapes: dict from the names of its arrays to their shapes.
    image_size: height and width that the network is for, in pixels; None for 224, as trained.

  Returns:
    A `zoo.resnet.Architecture`.

  Raises:
    ValueError: these are not the arrays of such a file.
  """
  from zoo import resnet
  shapes = _unnumbered(shapes)
  stem = shapes.get(_STEM, ())
  units = {tuple(map(int, match.groups())) for match in map(_UNIT.match, shapes) if match}
  if len(stem) != 4 or stem[:3] != (7, 7, 3) or not units:
    raise ValueError(f'it has no {_STEM} of shape [7, 7, 3, width] and units behind it')
  depths = collections.Counter(block for block, _ in sorted(units)).values()
  return resnet.Architecture(depths, stem[3], image_size=image_size or _PIXELS)


def arrays(found, architecture):
  """The arrays of a file by the names that all files have in common."""
  del architecture
  return _unnumbered(found)


def _unnumbered(found):
  return {_NUMBERED.sub(r'\1/', name): value for name, value in found.items()}
