"""Networks to fine-tune: the body of an expert with its own copy of the weights, a new head.

A module of ours is rebuilt as its Keras network, so that precision policies, freezing and
adapters apply inside and experts of one architecture can share a compiled step; of a packed
module only the wanted expert is built. Any other module stays the function that it is.
"""

import logging

import keras
import numpy as np

from export import foreign
from export import hub as hub_lib
from export import saved_model
from finetune import saved_layer
from finetune import sweep
from selection import embedder
from zoo import adapters as adapters_lib
from zoo import backbones
from zoo import strategies
from zoo import training
from zoo import weights

logger = logging.getLogger(__name__)

ADAPTER_WIDTH = 32  # of fresh adapters


class Tuned(keras.Model):
  """A body with a new linear head that starts at zero, as BiT's.

  Args:
    body: a built layer from images [B, H, W, 3] in [0, 1] to embeddings [B, F] that takes
      `training`: a `zoo.backbones.Backbone` or a `saved_layer.SavedLayer`.
    features: F.
    classes: C.
  """

  def __init__(self, body, features, classes, **kwargs):
    super().__init__(**kwargs)
    self.classes = classes
    self.body = body
    self.head = keras.layers.Dense(classes, kernel_initializer='zeros', dtype='float32',
                                   name='head')
    self.head.build((None, features))
    self.built = True

  def call(self, images, training=False):
    """float32 [B, H, W, 3] in [0, 1] to logits [B, C]."""
    return self.head(self.body(images, training=training))

  def take(self, other):
    """Takes the weights of another network of the same variables."""
    for variable, value in zip(weights.learned(self), weights.learned(other), strict=True):
      variable.assign(np.asarray(value))


def build(candidate, classes, trust=False, precision='float32', tune='whole',
          stochastic_depth=0.):
  """The network that fine-tunes an expert.

  Args:
    candidate: a `selection.candidates.Candidate`.
    classes: C.
    trust: as in `export.hub.check`.
    precision: a Keras precision policy, for modules of ours.
    tune, stochastic_depth: as in `finetune.sweep.Plan`.

  Returns:
    A `Tuned`.

  Raises:
    ValueError: the module cannot be loaded, is no image feature module or not of this image
      size, or has no such part.
  """
  import tensorflow as tf
  check(candidate, tune)
  module, stages = candidate.module, sweep.stages(tune)
  if kind_of(candidate) is not None:
    hub_lib.check(module, trust)
    body = saved_model.restore(module.path, module.metadata, candidate.expert, precision,
                               stochastic_depth)
    if tune == 'adapters' and body.adapters is None:
      body = _adapted(body, precision, stochastic_depth)
    if tune == 'adapters':
      adapters_lib.freeze_all_but_adapters(body)
    elif stages is not None:
      body.freeze_before_last(stages)
    elif tune == 'head':
      body.trainable = False
    return Tuned(body, body.architecture.features, classes)
  loaded = hub_lib.load(module, trust, input_range=candidate.input_range)
  layer = saved_layer.SavedLayer(loaded, candidate.expert)
  size = candidate.image_size
  strategy = tf.distribute.get_strategy()
  try:
    # A SavedModel that was loaded under a strategy can only be called by its replicas.
    outputs = strategy.run(layer, [tf.zeros((1, size, size, 3))])
    embedding = np.asarray(strategy.experimental_local_results(outputs)[0])
  except (tf.errors.OpError, ValueError, TypeError) as error:
    raise ValueError(f'module {module.handle} fails on images of {size} x {size} pixels '
                     f'({foreign.reason(error)}): give the --image_size that it takes.') from None
  embedder.check(module, embedding)
  if tune == 'head':
    layer.trainable = False
  elif not layer.trainable_variables:
    logger.warning('%s has no trainable variables: only the head is trained.',
                   candidate.describe())
  return Tuned(layer, embedding.shape[1], classes)


def check(candidate, tune):
  """Raises ValueError if an expert's network has no such part, as in `finetune.sweep.Plan`."""
  architecture = candidate.module.metadata.get('architecture')
  if not architecture and tune not in ('whole', 'head'):
    raise ValueError(f'--tune={tune}: the stages of {candidate.describe()} are not known; use '
                     'whole or head.')
  if architecture and (sweep.stages(tune) or 0) > (depth := _stages(architecture)):
    raise ValueError(f'--tune={tune}: {candidate.describe()} has {depth} stages; use last:{depth} '
                     'or less.')


def _stages(architecture):
  """How many stages a network has, as module.json describes it."""
  return len(backbones.architecture_of(architecture).depths)


def _adapted(body, precision, stochastic_depth):
  """The same network with fresh adapters, which at first change nothing."""
  adapted = backbones.build(
      body.architecture, adapters_lib.AdapterConfig(ADAPTER_WIDTH), precision,
      stochastic_depth=stochastic_depth)
  weights.set_to(adapted, weights.of(body), partly=True)
  return adapted


def kind_of(candidate):
  """What candidates share whose networks differ in weights only; None for modules not of ours."""
  metadata = candidate.module.metadata
  if not metadata.get('architecture'):
    return None
  adapters = metadata.get('adapters')
  return repr((candidate.image_size, metadata['architecture'],
               adapters and {**adapters, 'experts': 1}))


class Networks:
  """Networks with their compiled training step, shared by the experts of an architecture.

  Compiling takes seconds, so what can be shared is: settings of one part, and experts of one
  architecture. The one used last is kept.

  Args:
    classes: C.
    strategy: a `tf.distribute.Strategy`, under which all is made.
    precision, trust, stochastic_depth: as in `build`.
    class_weights: as in `zoo.training.Trainer`.

  Attributes:
    strategy, precision: as given.
    chief: whether this process writes the files.
  """

  def __init__(self, classes, strategy=None, precision='float32', trust=False,
               class_weights=None, stochastic_depth=0.):
    saved_model.check_backend()
    self.strategy = strategy or strategies.current()
    self.chief = strategies.is_chief(self.strategy)
    self.precision = precision
    self._classes, self._trust = classes, trust
    self._class_weights, self._stochastic_depth = class_weights, stochastic_depth
    self._made = self._loaded = self._trainer = self._start = self._exact = None

  def of(self, candidate, setting):
    """The network of an expert at its start, with its trainer.

    Args:
      candidate: a `selection.candidates.Candidate`.
      setting: a `finetune.sweep.Setting`.

    Returns:
      (`Tuned`, `zoo.training.Trainer`); the next call may change both.

    Raises:
      ValueError: as `build`.
    """
    made = (kind_of(candidate) or candidate.key, setting.tune, training.compiled(setting.recipe))
    with self.strategy.scope():
      if made != self._made:
        self._made = self._exact = None  # whatever fails, nothing half made is used later
        model = self._build(candidate, setting)
        self._trainer = training.Trainer(model, setting.recipe, self._class_weights)
        self._made, self._loaded = made, candidate.key
        self._start = [np.asarray(variable) for variable in model.variables]
      elif candidate.key != self._loaded:
        self._loaded = None
        other = self._build(candidate, setting)
        self._start = [np.asarray(variable) for variable in other.variables]
        self._loaded = candidate.key
    model = self._trainer.model
    for variable, value in zip(model.variables, self._start, strict=True):
      variable.assign(value)
    if setting.head_seed is not None:
      # Of such size that the first logits are as small as those of a trained head's are large.
      random = np.random.default_rng(setting.head_seed)
      shape = model.head.kernel.shape
      model.head.kernel.assign(random.normal(0, shape[0] ** -0.5, shape))
    return model, self._trainer

  def _build(self, candidate, setting):
    return build(candidate, self._classes, self._trust, self.precision, setting.tune,
                 self._stochastic_depth)

  def parts(self, candidate):
    """What of a network can be trained by itself, names as in `finetune.sweep.Plan`."""
    architecture = candidate.module.metadata.get('architecture')
    if kind_of(candidate) is None:
      return ['whole', 'head']
    return ['whole', 'head', 'adapters',
            *(f'last:{n}' for n in range(1, _stages(architecture)))]

  def exact(self, candidate, setting, model):
    """A trained network in float32: (sharded function for `zoo.training.predict`, network).

    The function runs under the strategy; the network is this process' own, to be exported. The
    next call may change both.
    """
    with self.strategy.scope():
      if self._exact is None or self._exact[0] is not model:
        same = self.precision == 'float32' or kind_of(candidate) is None
        tested = model if same else build(candidate, self._classes, self._trust, tune=setting.tune)
        self._exact = model, tested, training.sharded(tested, self.strategy)
      _, tested, function = self._exact
      if tested is not model:
        tested.take(model)
    own = tested
    if strategies.processes(self.strategy) > 1 or self.strategy.num_replicas_in_sync > 1:
      own = build(candidate, self._classes, self._trust, tune=setting.tune)
      own.take(tested)
    return function, own
