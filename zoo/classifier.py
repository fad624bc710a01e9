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


class MultiTask(keras.Model):
  """Images [B, H, W, 3] in [0, 1] of several tasks to logits [B, C], float32.

  C is the sum of the tasks' classes, one task's behind the other's. What is not of an image's task
  is so low that a softmax gives it nothing.

  Args:
    backbone: images and their tasks, as `expert`, to embeddings [B, F], built.
    sizes: the number of classes of each task.
  """

  def __init__(self, backbone, sizes, **kwargs):
    super().__init__(autocast=False, **kwargs)
    self.backbone = backbone
    self.classes = sum(sizes)
    self.task_of_class = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    self.head = keras.layers.Dense(
        self.classes, dtype='float32', kernel_initializer='zeros', name='head')
    self.head.build((None, backbone.architecture.features))
    self.built = True

  def call(self, images, task=0, training=False):
    """See the class.

    Args:
      images: float32 [B, H, W, 3].
      task: int, or int32 [B].
      training: whether it is a training step's.
    """
    logits = self.head(self.backbone(images, training=training, expert=task))
    task = keras.ops.expand_dims(keras.ops.convert_to_tensor(task), -1)
    return keras.ops.where(task == self.task_of_class, logits, -1e9)

  def of_labels(self, images, labels):
    """A training step's logits of images whose labels [B, C] say the task."""
    task = keras.ops.take(self.task_of_class, keras.ops.argmax(labels, axis=-1))
    return self(images, task=task, training=True)


class Predictor(Classifier):
  """Images [B, H, W, 3] in [0, 1] to log-probabilities [B, C], float32.

  Only the head is trainable. It is exported as a backbone is: `trunk`, then `branch`.

  Args:
    backbone, classes: as in `Classifier`.
  """
  adapters = chooses = None
  sparse = training_matters = False

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
