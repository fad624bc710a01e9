"""Published weights in our backbones: .npz files, of one of the families that are known here.

A family is a file beside this one that says what is particular to its files:
  FAMILY: its name.
  RULES: (pattern, replacement), which in this order make the names of the files of our variable
    paths.
  PART: the pattern with which the names of those arrays begin that a network of it must have; the
    others, of the classification head, are ignored.
  check(a): of an architecture, raises ValueError if no file has the weights of such a backbone.
  architecture(shapes, image_size): the layers of a file.
  arrays(found, architecture): what a backbone is given of a file's arrays.
"""

import re

from zoo import adapters
from zoo import bit_weights
from zoo import vit_weights
from zoo import weights

# By how the names of the arrays of each begin.
_FAMILIES = {'resnet/': bit_weights, 'Transformer/': vit_weights}


def network(path, image_size=None):
  """The backbone of a published file, as deep and as wide as the file has it.

  Args:
    path: the .npz file.
    image_size: height and width that it is for, in pixels; None for those it was trained with.

  Returns:
    A `zoo.backbone.Backbone` without adapters.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: it is of no family, or damaged, or lacks arrays, or has more than its layers.
  """
  from zoo import backbones
  family, found = _read(path)
  try:
    layers = family.architecture({name: value.shape for name, value in found.items()}, image_size)
  except ValueError as error:
    raise ValueError(
        f'{path} is no published {family.FAMILY} file: {str(error).rstrip(".")}.') from None
  backbone = backbones.build(layers)
  _fill(backbone, path, family, found)
  return backbone


def load(backbone, path):
  """Loads a published file into a backbone, in place. Adapters stay as they are.

  Args:
    backbone: a built `zoo.backbone.Backbone` of the file's family.
    path: the .npz file.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: the backbone is another network than the file's family has; or the file is of no
      family, is damaged, lacks arrays, has more of them than the backbone has layers, or has them
      in other shapes. The backbone is then as it was.
  """
  family, found = _read(path)
  family.check(backbone.architecture)
  _fill(backbone, path, family, found)


def public_name(family, path):
  """The name in a family's files of one of our variables.

  Of `zoo.bit_weights` 'backbone/stage2_unit01/a_norm/gamma' is
  'resnet/block2/unit01/a/group_norm/gamma'.

  Args:
    family: `zoo.bit_weights` or `zoo.vit_weights`.
    path: of a variable of a backbone of it.

  Returns:
    The name, or None for an adapter's variable, which no file has.
  """
  if adapters.is_adapter(path):
    return None
  for pattern, name in family.RULES:
    path = re.sub(pattern, name, path)
  return path


def _read(path):
  """The family of a file, and its arrays by their names there."""
  found = weights.load(path)
  for first, family in _FAMILIES.items():
    if any(name.startswith(first) for name in found):
      return family, found
  raise ValueError(f'{path} is no published file of BiT or ViT: no name of an array begins with '
                   f'{" or ".join(_FAMILIES)}.')


def _fill(backbone, path, family, found):
  """Gives a backbone the arrays of a file; raises as `load`."""
  weights.take(backbone, path, family.arrays(found, backbone.architecture),
               lambda own: public_name(family, own), re.compile(family.PART).match)
