"""Arrays of a PyTorch checkpoint as it was before PyTorch 1.6, read without PyTorch.

Such a file is five pickles (a magic number, the protocol, the machine, the dict of tensors, the
keys of the storages) and then, in the order of the keys, each storage: how many numbers it
holds, as int64, and the numbers. A pickle is a program that may call whatever it names; here it
may name what makes a dict of tensors and nothing else.
"""

import collections
import math
import pickle
import struct

import numpy as np

MAGIC = 0x1950a86a20f9469cfc6c
PROTOCOL = 1001
# The names of storages, given to the pickle as strings: nothing that it could call or change.
_STORAGES = {'DoubleStorage': '<f8', 'FloatStorage': '<f4', 'HalfStorage': '<f2',
             'LongStorage': '<i8', 'IntStorage': '<i4'}

# A tensor before its storage is read: key and dtype of the storage, and which of its numbers.
_Tensor = collections.namedtuple('_Tensor', 'key dtype numel offset shape strides')


def load(path):
  """Reads a checkpoint.

  Args:
    path: a file that `torch.save` wrote of a dict of tensors, before PyTorch 1.6.

  Returns:
    A dict from name to array, in the layout and dtype that the file has.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is no such file, is damaged, or names anything that tensors do not need;
      nothing of that is called.
  """
  with open(path, 'rb') as file:
    try:
      magic, protocol = _unpickled(file), _unpickled(file)
      if (magic, protocol) != (MAGIC, PROTOCOL):
        raise ValueError('it starts with another number')
      machine, tensors, keys = (_unpickled(file) for _ in range(3))
      if not machine.get('little_endian'):
        raise ValueError('its numbers are big-endian')
      tensors = {name: value for name, value in tensors.items() if isinstance(value, _Tensor)}
      storages = _storages(file, keys, tensors.values())
      return {name: _array(storages[tensor.key], tensor) for name, tensor in tensors.items()}
    except _RefusedError as refused:
      raise ValueError(f'{path} is refused: it names {refused}, which no checkpoint of tensors '
                       'needs; nothing of it was run.') from None
    # A damaged pickle may raise nearly anything.
    except Exception as error:
      raise ValueError(f'{path} is not a whole PyTorch checkpoint of before version 1.6 '
                       f'({type(error).__name__}: {error}).') from None


class _RefusedError(Exception):
  """What a pickle names that it may not."""


class _Unpickler(pickle.Unpickler):
  """Gives a pickle ordered dicts, tensors and storages, and nothing else."""

  def find_class(self, module, name):
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict  # its attributes cannot be set
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      # Made anew: a pickle can set attributes of a function, and they go with it.
      return lambda storage, offset, shape, strides, *_: _Tensor(
          *storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if module == 'torch' and name in _STORAGES:
      return name
    raise _RefusedError(f'{module}.{name}')

  def persistent_load(self, pid):
    kind, storage, key, _, numel, view = pid
    if kind != 'storage' or view is not None:
      raise ValueError(f'it has a {kind} that is no plain storage')
    return str(key), _STORAGES[storage], int(numel)


def _unpickled(file):
  return _Unpickler(file).load()


def _storages(file, keys, tensors):
  """The storages that follow, a dict from key to 1-d array."""
  known = {tensor.key: (tensor.dtype, tensor.numel) for tensor in tensors}
  found = {}
  for key in keys:
    dtype, numel = known[str(key)]
    (stored,) = struct.unpack('<q', file.read(8))
    if stored != numel:
      raise ValueError(f'storage {key} holds {stored} numbers where {numel} are announced')
    # read() of more than there is gives what there is, and takes no memory for the rest.
    found[str(key)] = np.frombuffer(file.read(numel * np.dtype(dtype).itemsize), dtype, numel)
  return found


def _array(storage, tensor):
  """The array of a tensor, which may lie in its storage in any order."""
  spans = [(size - 1) * stride
           for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
  numel = math.prod(tensor.shape)
  # More elements than numbers, by a stride of 0, would take any amount of memory.
  if (min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or numel > len(storage)
      or (numel and tensor.offset + sum(spans) >= len(storage))):
    raise ValueError(f'a tensor of shape {tensor.shape} reaches beyond its storage')
  return np.lib.stride_tricks.as_strided(
      storage[tensor.offset:], tensor.shape,
      [stride * storage.itemsize for stride in tensor.strides]).copy()
