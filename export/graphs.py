"""Whether two SavedModels are the same program with other weights.

Experts that share an architecture differ in their weights alone. Their graphs need be loaded
and compiled only once, if it is certain that they are equal: names of functions, which count
up as a process traces, differ even then.
"""

import hashlib
import os

# What says where a function came from, or names its gradient for a tape; neither is computed.
_IGNORED = ('_construction_context', '_gradient_op_type', '_user_specified_name',
            'api_implements', 'backward_function_name', 'forward_function_name')


def read(path):
  """The saved_model.pb of a SavedModel, a `SavedModel` of TensorFlow's protocol buffers.

  Args:
    path: folder of the SavedModel.

  Raises:
    ValueError: saved_model.pb is missing, cannot be parsed or is empty.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2
  file = os.path.join(path, 'saved_model.pb')
  saved = saved_model_pb2.SavedModel()
  try:
    with open(file, 'rb') as content:
      saved.ParseFromString(content.read())
  except FileNotFoundError:
    raise ValueError(f'{path} is not a SavedModel: it has no saved_model.pb.') from None
  except message.DecodeError:
    saved.Clear()
  if not saved.meta_graphs:
    raise ValueError(f'{file} is truncated or no SavedModel.')
  return saved


def digest(path):
  """A digest of what a SavedModel computes, given its variables.

  It covers the objects (their kinds, children, dtypes and shapes), the functions they hold
  with all that these call, and the constants bound to them. Two SavedModels of one digest
  give the same results once one has the other's variables.

  Args:
    path: folder of the SavedModel, or a file.

  Returns:
    Hexadecimal digits; or None where the program is more than graph and variables (files,
    lookup tables) or is not said object by object (TensorFlow 1, Keras), so that it may share
    with none.

  Raises:
    ValueError: as `read`.
  """
  if os.path.isfile(path):
    return None
  graph = read(path).meta_graphs[0]
  objects = graph.object_graph_def
  if not objects.nodes:
    return None
  functions = _Functions(graph.graph_def.library)
  constants = {node.name: node for node in graph.graph_def.node if node.op == 'Const'}
  found = hashlib.sha256()
  for node in objects.nodes:
    kind = node.WhichOneof('kind')
    found.update(repr((kind, [(c.local_name, c.node_id) for c in node.children])).encode())
    if kind == 'variable':
      found.update(repr((node.variable.dtype, node.variable.trainable,
                         [d.size for d in node.variable.shape.dim])).encode())
    elif kind == 'constant':
      if node.constant.operation not in constants:
        return None
      found.update(_bytes(constants[node.constant.operation].attr['value']))
    elif kind == 'function':
      found.update(_bytes(node.function.function_spec))
      for name in node.function.concrete_functions:
        found.update(functions.digest(name))
    elif kind == 'bare_concrete_function':
      found.update(functions.digest(node.bare_concrete_function.concrete_function_name))
    elif kind != 'user_object':
      return None
  # A map, whose order follows the names: sorted by what the functions compute instead.
  found.update(b''.join(sorted(
      functions.digest(name) + _bytes(function)
      for name, function in objects.concrete_functions.items())))
  return found.hexdigest()


def _bytes(message):
  return message.SerializeToString(deterministic=True)


class _Functions:
  """Digests of a library's functions, in which the names of functions play no part."""

  def __init__(self, library):
    self._functions = {function.signature.name: function for function in library.function}
    self._digests = {}

  def digest(self, name):
    """Digest of the function of this name and of all that it calls, as bytes."""
    if name not in self._digests:
      if name not in self._functions:
        return name.encode()  # an op of TensorFlow's own, or a loop in the calls
      function = self._functions.pop(name)
      function.signature.name = ''
      self._mask(function.attr)
      for argument in function.arg_attr.values():
        self._mask(argument.attr)
      for node in function.node_def:
        self._mask(node.attr)
      self._digests[name] = hashlib.sha256(_bytes(function)).digest()
    return self._digests[name]

  def _mask(self, attributes):
    """Puts digests in the place of names of functions."""
    for key in _IGNORED:
      attributes.pop(key, None)
    for value in attributes.values():
      if value.HasField('func'):
        value.func.name = self.digest(value.func.name).hex()
      for function in value.list.func:
        function.name = self.digest(function.name).hex()
