"""Networks as Reusable SavedModels, after TensorFlow Hub's common image feature-vector API.

`obj(images, training=False)` maps float32 [B, H, W, 3] in [0, 1] to float32 [B, F]. A
network with several experts takes `expert`, an int32 scalar, as well; one whose gates know tasks
`task`; one with sparse layers `capacity`, their ratio out of training, a float32 scalar.
"""

import contextlib
import os


def check_backend():
  """Raises ValueError if Keras computes by another library than TensorFlow."""
  import keras
  if keras.backend.backend() != 'tensorflow':
    raise ValueError('SavedModels are TensorFlow\'s, but Keras computes by '
                     f'{keras.backend.backend()}: unset KERAS_BACKEND for all but training '
                     'upstream.')


def save(backbone, path):
  """Writes a SavedModel that `hub.KerasLayer` loads and trains.

  Args:
    backbone: a `zoo.backbones.Backbone`, float32.
    path: folder to write; must not exist.

  Raises:
    ValueError: Keras computes by another library than TensorFlow.
  """
  check_backend()
  import tensorflow as tf
  from zoo import weights

  images = tf.TensorSpec([None, None, None, 3], tf.float32, name='images')
  # A Checkpoint is an AutoTrackable; tf.Module has a `variables` that cannot be set.
  root = tf.train.Checkpoint()
  trunk, branch, call = _functions(backbone)
  number = tf.TensorSpec([], tf.int32, name=backbone.chooses)
  further = [{}]  # arguments, with each of which there is a graph
  if backbone.chooses:
    shared = trunk.get_concrete_function(images).structured_outputs
    branch.get_concrete_function(tf.TensorSpec(shared.shape, tf.float32, name='x'), expert=number)
    # For rankings: the trunk once for all experts.
    root.trunk, root.branch = trunk, branch
    further.append({backbone.chooses: number})
  if backbone.sparse:
    ratio = tf.TensorSpec([], tf.float32, name='capacity')
    further += [one | {'capacity': ratio} for one in further]
  for training in (False, True):
    for arguments in further:
      call.get_concrete_function(images, training=training, **arguments)

  # The states of random layers come last, so that learned weights can be counted without them.
  root.variables = [v.value for v in [*weights.learned(backbone), *weights.states(backbone)]]
  root.trainable_variables = [v.value for v in backbone.trainable_variables]
  root.regularization_losses = []
  _write_reusable(root, path, call, images)


def _functions(backbone):
  """The `tf.function`s of a SavedModel: (trunk, branch, call).

  They share the graphs of the network, one for each value of `training` that matters: of what
  experts have in common, and of the rest.
  """
  import tensorflow as tf

  def given(capacity):
    return {} if capacity is None else {'capacity': capacity}

  @tf.function
  def trunk(images, capacity=None):
    return backbone.trunk(images, **given(capacity))

  @tf.function
  def branch(x, expert=0, capacity=None):
    return backbone.branch(x, tf.convert_to_tensor(expert, tf.int32), **given(capacity))

  @tf.function
  def trained(images, expert):
    return backbone(images, training=True, expert=expert)

  def embed(images, training, expert=0, capacity=None):
    expert = tf.convert_to_tensor(expert, tf.int32)
    with tf.control_dependencies(_assertions(backbone, expert, capacity)):
      # All that is computed comes after them, so that theirs is the word that is heard.
      images, expert = tf.identity(images), tf.identity(expert)
      capacity = None if capacity is None else tf.identity(capacity)
    if training and backbone.training_matters:
      return trained(images, expert)  # whose sparse layers have a limit of their own
    return branch(trunk(images, capacity), expert, capacity)

  if backbone.chooses == 'expert':
    def call(images, training=False, expert=0):
      return embed(images, training, expert)
  elif backbone.chooses == 'task':
    def call(images, training=False, task=0, capacity=None):
      return embed(images, training, task, capacity)
  elif backbone.sparse:
    def call(images, training=False, capacity=None):
      return embed(images, training, capacity=capacity)
  else:
    def call(images, training=False):
      return embed(images, training)
  return trunk, branch, tf.function(call)


def _assertions(backbone, task, capacity):
  """A list of assertions, since a GPU would compute something from values that cannot be.

  Bare ones: the branches of tf.debugging's make TensorFlow's optimizer complain at every load.
  """
  import tensorflow as tf
  made = []
  if backbone.chooses == 'task':
    last = backbone.architecture.sparse.tasks - 1
    made.append(tf.raw_ops.Assert(condition=(task >= 0) & (task <= last),
                                  data=[f'task must be 0 to {last}.']))
  if capacity is not None:
    made.append(tf.raw_ops.Assert(condition=capacity > 0, data=['capacity must be above 0.']))
  return made


def save_foreign(model, path, image_size=None):
  """Writes what others made as such a SavedModel.

  Args:
    model: an `export.foreign.Model`.
    path: folder to write; must not exist.
    image_size: height and width of its images, None if it takes any.
  """
  import tensorflow as tf
  images = tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name='images')
  root = tf.train.Checkpoint(source=model.root)  # what it may use besides variables

  @tf.function
  def call(images, training=False):
    return model(images, training)

  for training in (False, True):
    call.get_concrete_function(images, training=training)
  root.variables, root.trainable_variables = model.variables, model.trainable_variables

  def traced(loss):
    @tf.function(input_signature=[])
    def regularization():
      return loss()
    return regularization

  root.regularization_losses = list(map(traced, model.regularization_losses))
  _write_reusable(root, path, call, images)


def _write_reusable(root, path, call, images):
  """Writes an object that has its variables, called as `call` is, for images of this spec."""
  import tensorflow as tf

  @tf.function(input_signature=[images])
  def serving_default(images):
    return {'default': call(images, training=False)}

  root.__call__ = call
  write(root, path, serving_default)


def write(root, path, serving_default):
  """Writes a trackable object and its one signature as a SavedModel at `path`."""
  import tensorflow as tf
  tf.saved_model.save(root, path, signatures={'serving_default': serving_default})
  with contextlib.suppress(FileNotFoundError):
    os.rmdir(os.path.join(path, 'assets'))  # always there, always empty


def restore(path, description, expert=None, precision='float32', stochastic_depth=0.):
  """Rebuilds the Keras network of a module of ours.

  Args:
    path: folder of the module.
    description: its module.json.
    expert: of a packed module the only one (or task) to build, or None for all.
    precision, stochastic_depth: as in `zoo.backbones.build`.

  Returns:
    A `zoo.backbones.Backbone` with the module's weights.

  Raises:
    ValueError: the module is a predictor, does not say its architecture, or has other
      variables.
  """
  from zoo import adapters
  from zoo import backbones
  if description.get('kind') == 'predictor':
    raise ValueError(f'{path} is a predictor, more than a backbone.')
  if not description.get('architecture'):
    raise ValueError(f'{path}: module.json does not say the architecture.')
  config = description.get('adapters')
  if config:
    config = adapters.AdapterConfig(**(config if expert is None else {**config, 'experts': 1}))
  architecture = backbones.architecture_of(description['architecture'])
  if expert is not None and getattr(architecture, 'sparse', None):
    architecture = architecture.of_one_task()
  backbone = backbones.build(architecture, config, precision, stochastic_depth=stochastic_depth)
  read_weights(backbone, path, expert)
  return backbone


def read_weights(backbone, path, expert=None):
  """Gives a backbone the weights of a module of ours.

  Args:
    backbone: a `zoo.backbones.Backbone` of the module's architecture.
    path: folder of the module.
    expert: of a packed module the one whose adapters, or the task whose gates, are read, for a
      backbone with one; None reads all.

  Raises:
    ValueError: the module has no such variables.
  """
  import tensorflow as tf
  from zoo import adapters
  from zoo import sparse
  from zoo import weights
  stored = tf.train.load_checkpoint(f'{path}/variables/variables')
  shapes = stored.get_variable_to_shape_map()
  for i, variable in enumerate(weights.learned(backbone)):
    key = f'variables/{i}/.ATTRIBUTES/VARIABLE_VALUE'
    value = stored.get_tensor(key) if key in shapes else None
    if value is not None and expert is not None and (
        adapters.is_adapter(variable.path) or sparse.is_of_task(variable.path)):
      value = value[expert:expert + 1]
    if value is None or value.shape != tuple(variable.shape):
      raise ValueError(f'{path}: {variable.path} is not stored as its architecture has it.')
    variable.assign(value)
