"""What every backbone is: a stem, then units in stages, of which some have adapters.

Networks use `keras.ops` only and so run on every Keras backend. Shapes: B batch, H height, W
width, F features.
"""

import keras
from keras import ops

from zoo import adapters as adapters_lib

INPUT_RANGE = (-1., 1.)  # of the images that the stem is given, as all published networks had


class Backbone(keras.Model):
  """Images [B, H, W, 3] in [0, 1] to embeddings [B, F], float32.

  A family of networks is a frozen dataclass that has `family` (its name in `to_dict`, or None),
  `depths` (units in each stage), `features` (F), `image_size` and `to_dict`; and a subclass
  with that dataclass as `architecture_class`, which makes the layers (`make_stem`, `make_unit`,
  `make_norm`) and says what they do at both ends (`start`, `finish`).

  Attributes:
    architecture: of `architecture_class`.
    adapters: its `zoo.adapters.AdapterConfig`, or None for a plain network.
    stochastic_depth: probability with which training leaves out the last unit's branches, and
      each earlier one's in proportion to its place (arXiv 1603.09382).
    training_matters: whether a call in training computes anything else.
    chooses: the name by which modules take `expert`, 'expert' or 'task'; None if it is of no
      account.
    sparse: whether there are sparse layers, and so `capacity` is of account.
    stem, units, norm: its layers; a unit is called with `expert` and `training`, where there are
      sparse layers with `capacity`, too; `chooses` says whether `expert` is of account to it.
  """

  def __init__(self, architecture, adapters=None, stochastic_depth=0., **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.stochastic_depth = stochastic_depth
    self.architecture, self.adapters = architecture, adapters
    self.sparse = getattr(architecture, 'sparse', None) is not None
    # There are no batch statistics.
    self.training_matters = stochastic_depth > 0 or self.sparse
    by_task = self.sparse and architecture.sparse.chooses
    if by_task and adapters and adapters.experts > 1:
      raise ValueError('a network chooses by task or by expert, not by both: use 1 expert.')
    self.chooses = 'task' if by_task else 'expert' if adapters else None
    depths = architecture.depths
    stages = set(range(len(depths)))
    adapted = stages if adapters and adapters.stages is None else set(
        adapters.stages if adapters else ())
    if adapters is not None and (not adapted or not adapted <= stages):
      raise ValueError(f'adapter stages {adapters.stages} must be among '
                       f'0..{len(depths) - 1}, one of them at least.')
    self.stem = self.make_stem()
    self.units = []
    for stage, depth in enumerate(depths):
      for i in range(depth):
        self.units.append(self.make_unit(
            stage, i, adapters if stage in adapted else None,
            stochastic_depth * (len(self.units) + 1) / sum(depths)))
    self._first_to_choose = next(
        (i for i, unit in enumerate(self.units) if unit.chooses), len(self.units))
    self.norm = self.make_norm()

  def make_stem(self):
    """The layer that sees the images."""
    raise NotImplementedError

  def make_unit(self, stage, index, adapter, drop):
    """A unit of a stage.

    Args:
      stage, index: which of the stage's units of which stage, each from 0.
      adapter: a `zoo.adapters.AdapterConfig`, or None.
      drop: probability with which training leaves out its branches.
    """
    raise NotImplementedError

  def make_norm(self):
    """The layer after the last unit."""
    raise NotImplementedError

  def start(self, images):
    """What the first unit takes, of images in `INPUT_RANGE`, through `stem`."""
    return self.stem(images)

  def finish(self, x):
    """What the last unit gives to embeddings [B, F], float32, through `norm`."""
    raise NotImplementedError

  def build(self, input_shape):
    """Makes the variables: layers do as they are called, here on an image of one pixel.

    Keras would trace the whole network twice to find them, which takes many times as long.
    """
    self.call(ops.zeros((1, 1, 1, 3)))

  def call(self, images, training=False, expert=0, capacity=None):
    """See the class.

    Args:
      images: float32 [B, H, W, 3] in [0, 1].
      training: whether it is a training step's.
      expert: which of the adapters' experts, or which task of sparse layers' gates: an int. A
        task may be int32 [B], each image's own.
      capacity: of sparse layers, as in `zoo.sparse.SparseMlp`.
    """
    return self.branch(self.trunk(images, training, capacity), expert, training, capacity)

  def trunk(self, images, training=False, capacity=None):
    """What all experts share, [B, H, W, 3] to any shape: all units before one that chooses."""
    x = self.start(ops.cast(images, 'float32') * 2. - 1.)
    options = {'capacity': capacity} if self.sparse else {}
    for unit in self.units[:self._first_to_choose]:
      x = unit(x, training=training, **options)
    return x

  def branch(self, x, expert=0, training=False, capacity=None):
    """The rest, from what `trunk` gives to embeddings [B, F], by one expert."""
    options = {'capacity': capacity} if self.sparse else {}
    for unit in self.units[self._first_to_choose:]:
      x = unit(x, expert=expert, training=training, **options)
    return self.finish(x)

  def freeze_before_last(self, stages):
    """Freezes all but the last stages and the final norm.

    Raises:
      ValueError: there are not so many stages.
    """
    depths = self.architecture.depths
    if not 1 <= stages <= len(depths):
      raise ValueError(f'--tune=last:{stages}: the network has {len(depths)} stages; name 1 to '
                       f'{len(depths)}.')
    for layer in [self.stem, *self.units[:sum(depths[:-stages])]]:
      layer.trainable = False

  def get_config(self):
    # With the name, which starts the paths of the weights.
    return {'name': self.name, 'architecture': self.architecture.to_dict(),
            'adapters': self.adapters and self.adapters.to_dict(),
            'stochastic_depth': self.stochastic_depth}

  @classmethod
  def from_config(cls, config):
    return cls(cls.architecture_class(**config['architecture']),
               config['adapters'] and adapters_lib.AdapterConfig(**config['adapters']),
               config['stochastic_depth'], name=config['name'])
