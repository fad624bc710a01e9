"""The fine-tuned module: raw images in, probabilities of named classes out."""

import numpy as np

from export import saved_model
from zoo import atomic

TOLERANCE = 1e-5


def save(model, image_size, class_names, target, describe):
  """Writes a SavedModel that classifies uint8 images of any size.

  `obj(images)` maps uint8 [B, H, W, 3] to probabilities [B, C], float32; `obj.class_names`
  holds the C names. The signature `serving_default` gives both, as 'probabilities' and
  'class_names'.

  Args:
    model: a `finetune.tuned.Tuned`.
    image_size: pixels to which images are resized, as in training.
    class_names: the C names.
    target: folder of the module; must not exist.
    describe: function of the path that writes module.json and card.

  Raises:
    ValueError: the module loaded back computes something else; nothing is left.
  """
  import tensorflow as tf
  spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name='images')
  root = tf.train.Checkpoint()
  root.class_names = tf.Variable(list(class_names), trainable=False, name='class_names')

  @tf.function(input_signature=[spec])
  def call(images):
    resized = tf.image.resize(images, (image_size, image_size), antialias=True)
    # Training saw whole numbers from 0 to 255.
    whole = tf.round(tf.clip_by_value(resized, 0., 255.))
    return tf.nn.softmax(model(whole / 255., training=False))

  @tf.function(input_signature=[spec])
  def serving_default(images):
    return {'probabilities': call(images), 'class_names': tf.identity(root.class_names)}

  root.__call__ = call
  root.variables = [v.value for v in model.variables]
  root.trainable_variables = [v.value for v in model.trainable_variables]
  # A SavedModel whose functions are called brings what they capture.
  root.module = getattr(model.body, 'loaded', None)
  with atomic.writing_folder(target) as path:
    saved_model.write(root, path, serving_default)
    images = np.random.default_rng(0).integers(
        0, 256, (2, 2 * image_size, image_size, 3)).astype(np.uint8)
    error = np.abs(tf.saved_model.load(path)(images).numpy() - call(images).numpy()).max()
    if not error <= TOLERANCE:
      raise ValueError(f'the fine-tuned module loaded back differs by {error:.2g}.')
    describe(path)
