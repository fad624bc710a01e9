"""A module of a hub as a function from images to embeddings.

Shapes: N images, B a batch of them, H height, W width, F features, E experts.
"""

import concurrent.futures
import copy
import os

import numpy as np

from export import foreign
from export import hub
from zoo import cli

BATCH_PIXELS = 1 << 21  # at once; more than fits a cache, and far less than fits a memory


def check(module, embeddings):
  """Raises ValueError unless what a module gave is [N, F] and finite."""
  foreign.features(f'module {module.handle}', embeddings.shape)
  if not np.isfinite(embeddings).all():
    raise ValueError(f'module {module.handle} gives embeddings that are not finite.')


class Embedder:
  """A loaded module, and after it any other of the same graph.

  Args:
    module: an `export.hub.Module` that `export.hub.check` has passed.
    input_range: as in `export.hub.load`.

  Raises:
    ValueError: the module cannot be loaded, or is no image module.
  """

  def __init__(self, module, input_range=foreign.UNIT):
    import tensorflow as tf
    self.module = module
    loaded = hub.load(module, checked=True, input_range=input_range)

    def scaled(images):
      return tf.cast(images, tf.float32) / 255.

    # What all experts of a packed module share is computed once, where the module says it.
    self._trunk = None
    if callable(getattr(loaded, 'trunk', None)) and callable(getattr(loaded, 'branch', None)):
      self._trunk = tf.function(lambda images: loaded.trunk(scaled(images)))
      self._branch = tf.function(lambda x, expert: loaded.branch(x, expert=expert))
    self._function = tf.function(
        lambda images, **arguments: foreign.call(loaded, scaled(images), False, **arguments))
    self._loaded = foreign.root(loaded)  # a function alone would not keep the variables alive
    self._variables = _by_key(self._loaded, _checkpoint(module))
    self._replaced = {}  # id of what the functions captured to what a twin gives them instead
    self._traces = {}

  def twin(self):
    """Another embedder of the same functions, with weights of its own: `use` brings them.

    It costs its variables alone: nothing is loaded, traced or optimized again.

    Returns:
      An `Embedder`, or None where it is not known which variables the checkpoint fills.
    """
    import tensorflow as tf
    if self._variables is None:
      return None
    twin = copy.copy(self)
    twin.module, twin._traces = None, {}
    twin._variables = {key: tf.Variable(own.read_value(), shape=own.shape)
                       for key, own in self._variables.items()}
    twin._replaced = {id(own.handle): twin._variables[key].handle
                      for key, own in self._variables.items()}
    return twin

  def use(self, module):
    """Takes the weights of another module, which has the same `export.graphs.digest`."""
    import tensorflow as tf
    if self.module is not None and module.path == self.module.path:
      return
    self.module = None  # what fails half-way leaves weights of nobody
    try:
      if self._variables is None:
        tf.train.Checkpoint(self._loaded).restore(
            _checkpoint(module)).assert_existing_objects_matched()
      else:
        _restore(self._variables, _checkpoint(module))
    except Exception as error:  # TensorFlow's own, of many kinds
      raise ValueError(f'the weights of module {module.handle} cannot be read '
                       f'({type(error).__name__}: {cli.last_line(error)}).') from None
    self.module = module

  def __call__(self, images, rows, experts=(None,), at_once=1):
    """Embeds images.

    Every batch has the same size, the last one filled up, so that one graph is compiled.
    Where an image stands in a batch can change the last digit of its embedding.

    Args:
      images: uint8 [N, H, W, 3].
      rows: int [R], which of them.
      experts: E indices of experts in a packed module, or (None,).
      at_once: batches that are computed at the same time.

    Returns:
      float32 [E, R, F].

    Raises:
      ValueError: the module fails on them, or answers with another shape or with values
        that are not finite.
    """
    batch = batch_size(images.shape[1])

    def embedded(first):
      piece = images[rows[first:first + batch]]
      full = np.zeros((batch, *images.shape[1:]), np.uint8)
      full[:len(piece)] = piece
      return [output[:len(piece)] for output in self._run(full, experts)]

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
      pieces = list(pool.map(embedded, range(0, len(rows), batch)))
    return np.stack([np.concatenate(own) for own in zip(*pieces, strict=True)])

  def _run(self, images, experts):
    """Checked embeddings [B, F] of uint8 [B, H, W, 3], a list over experts."""
    import tensorflow as tf
    try:
      outputs = [np.asarray(output, np.float32)
                 for output in self._outputs(tf.constant(images), experts)]
    except (tf.errors.OpError, ValueError, TypeError) as error:
      raise ValueError(f'module {self.module.handle} fails on images of shape '
                       f'{images.shape[1:]}: {foreign.reason(error)}') from None
    for output in outputs:
      check(self.module, output)
    return outputs

  def _outputs(self, images, experts):
    """The embeddings [B, F] of uint8 [B, H, W, 3], expert by expert."""
    import tensorflow as tf
    if self._trunk is not None and len(experts) > 1:
      shared = self._call(self._trunk, images)
      for expert in experts:
        yield self._call(self._branch, shared, expert=tf.constant(expert, tf.int32))
      return
    for expert in experts:
      arguments = {} if expert is None else {
          self.module.metadata.get('argument', 'expert'): tf.constant(expert, tf.int32)}
      yield self._call(self._function, images, **arguments)

  def _call(self, function, images, **arguments):
    """Calls one of the functions, with this embedder's own weights."""
    key = function, images.shape, *arguments
    if key not in self._traces:
      trace = copy.copy(function.get_concrete_function(images, **arguments))
      trace.set_external_captures(
          [self._replaced.get(id(captured), captured) for captured in trace.captured_inputs])
      self._traces[key] = trace
    return self._traces[key](images, **arguments)


def _checkpoint(module):
  return os.path.join(module.path, 'variables', 'variables')


def _by_key(loaded, checkpoint):
  """The variables of a loaded module by their keys in its checkpoint.

  Follows the names that the checkpoint gives to the objects it holds, from the root.

  Returns:
    A dict, or None where a name leads nowhere or to something else than a variable.
  """
  import tensorflow as tf
  from tensorflow.core.protobuf import trackable_object_graph_pb2
  graph = trackable_object_graph_pb2.TrackableObjectGraph()
  stored = tf.train.load_checkpoint(checkpoint) if os.path.exists(f'{checkpoint}.index') else None
  if stored is None or not stored.has_tensor('_CHECKPOINTABLE_OBJECT_GRAPH'):
    return None
  graph.ParseFromString(stored.get_tensor('_CHECKPOINTABLE_OBJECT_GRAPH'))
  objects, waiting, found = {0: loaded}, [0], {}
  while waiting:
    number = waiting.pop()
    here = objects[number]
    for attribute in graph.nodes[number].attributes:
      if not isinstance(here, tf.Variable):
        return None
      found[attribute.checkpoint_key] = here
    for child in graph.nodes[number].children:
      if child.node_id not in objects:
        name = child.local_name
        there = here[int(name)] if isinstance(here, list) else getattr(here, name, None)
        if there is not None:
          objects[child.node_id] = there
          waiting.append(child.node_id)
  missed = any(node.attributes for number, node in enumerate(graph.nodes) if number not in objects)
  return None if missed else found


def _restore(variables, checkpoint):
  """Reads variables, given by key, from a checkpoint.

  `tf.train.Checkpoint` does the same in several times the time, most of it in Python.
  """
  import tensorflow as tf
  values = tf.raw_ops.RestoreV2(
      prefix=checkpoint, tensor_names=list(variables), shape_and_slices=[''] * len(variables),
      dtypes=[variable.dtype for variable in variables.values()]) if variables else []
  for variable, value in zip(variables.values(), values, strict=True):
    variable.assign(value)


def batch_size(image_size):
  """B for images of this many pixels: of 125, 25 and 5 the largest that is cheap to hold.

  The samples of a race, and the 1,000 examples of the protocol, are whole batches of each.
  """
  return next((size for size in (125, 25) if size * image_size ** 2 <= BATCH_PIXELS), 5)
