"""Networks to fine-tune: the body of an expert with its own copy of the weights, a new head.

A module of ours is rebuilt as its Keras network, so that precision policies apply inside and
experts of one architecture can share a compiled step; of a packed module only the wanted
expert is built. Any other module stays the SavedModel that it is.
"""

import logging

import keras
import numpy as np

from export import hub as hub_lib
from export import saved_model
from finetune import saved_layer
from selection import embedder

logger = logging.getLogger(__name__)


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

  def restart(self, candidate, trust=False):
    """Takes the weights of another expert of the same `kind_of`, and a fresh head.

    Raises:
      ValueError: that module is damaged or not trusted, or has other variables.
    """
    hub_lib.check(candidate.module, trust)
    saved_model.read_weights(self.body, candidate.module.path, candidate.expert)
    self.head.kernel.assign(np.zeros(self.head.kernel.shape, np.float32))
    self.head.bias.assign(np.zeros(self.head.bias.shape, np.float32))


def build(candidate, classes, trust=False, precision='float32'):
  """The network that fine-tunes an expert.

  Args:
    candidate: a `selection.candidates.Candidate`.
    classes: C.
    trust: as in `export.hub.check`.
    precision: a Keras precision policy, for modules of ours.

  Returns:
    A `Tuned`.

  Raises:
    ValueError: the module cannot be loaded, or is no image feature module.
  """
  module = candidate.module
  if kind_of(candidate) is not None:
    hub_lib.check(module, trust)
    body = saved_model.restore(module.path, module.metadata, candidate.expert, precision)
    return Tuned(body, body.architecture.features, classes)
  layer = saved_layer.SavedLayer(hub_lib.load(module, trust), candidate.expert)
  size = candidate.image_size
  embedding = np.asarray(layer(np.zeros((1, size, size, 3), np.float32)))
  embedder.check(module, embedding)
  if not layer.trainable_variables:
    logger.warning('%s has no trainable variables: only the head is trained.',
                   candidate.describe())
  return Tuned(layer, embedding.shape[1], classes)


def kind_of(candidate):
  """What candidates share that `Tuned.restart` can swap; None for modules not of ours."""
  metadata = candidate.module.metadata
  if not metadata.get('architecture'):
    return None
  adapters = metadata.get('adapters')
  return repr((candidate.image_size, metadata['architecture'],
               adapters and {**adapters, 'experts': 1}))
