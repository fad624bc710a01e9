"""Which family of networks a published .npz file is of."""

from zoo import bit_weights
from zoo import vit_weights
from zoo import weights

# The first part of the names of each family's arrays.
_FAMILIES = {'resnet': bit_weights.network, 'Transformer': vit_weights.network}


def network(path, image_size=None):
  """The backbone of a published file of BiT or ViT, as deep and as wide as the file has it.

  Args:
    path: the .npz file.
    image_size: height and width that it is for, in pixels; None for those it was trained with.

  Returns:
    A `zoo.backbone.Backbone` without adapters.

  Raises:
    FileNotFoundError: the file is not there.
    ValueError: it is of neither, or damaged, or lacks arrays.
  """
  names = weights.names(path)
  for first, family in _FAMILIES.items():
    if any(name.startswith(f'{first}/') for name in names):
      return family(path, image_size)
  raise ValueError(f'{path} is no published file of BiT or ViT: no name of an array begins with '
                   f'{" or ".join(f"{first}/" for first in _FAMILIES)}.')
