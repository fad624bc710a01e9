"""A backbone with a linear head, for upstream training."""

import keras
import numpy as np


class Classifier(keras.Model):
  """Images [B, H, W, 3] in [0, 1] to logits [B, C], float32.

  The head starts at zero (as BiT's), its bias at the log odds of 1/C for a sigmoid loss,
  so that the first steps need not unlearn a guess.

  Args:
    backbone: images to embeddings [B, F], built.
    classes: C.
    loss: 'softmax' or 'sigmoid'.
  """

  def __init__(self, backbone, classes, loss='softmax', **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.backbone = backbone
    self.classes = classes
    bias = -float(np.log(max(classes - 1, 1))) if loss == 'sigmoid' else 0.
    self.head = keras.layers.Dense(
        classes, dtype='float32', kernel_initializer='zeros',
        bias_initializer=keras.initializers.Constant(bias), name='head')
    self.head.build((None, backbone.architecture.features))
    self.built = True

  def call(self, images, training=False):
    return self.head(self.backbone(images, training=training))


class Predictor(Classifier):
  """Images [B, H, W, 3] in [0, 1] to log-probabilities [B, C], float32.

  Only the head is trainable. It is exported as a backbone is: `trunk`, then `branch`.

  Args:
    backbone, classes: as in `Classifier`.
  """
  adapters = None
  training_matters = False

  def __init__(self, backbone, classes, **kwargs):
    super().__init__(backbone, classes, **kwargs)
    backbone.trainable = False
    self.architecture = backbone.architecture

  def call(self, images, training=False):
    del training  # see `training_matters`
    return self.branch(self.trunk(images))

  def trunk(self, images):
    return self.backbone.trunk(images)

  def branch(self, x, expert=0):
    return keras.ops.log_softmax(self.head(self.backbone.branch(x, expert)))
