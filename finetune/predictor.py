"""The fine-tuned module: raw images in, probabilities of named classes out."""

import shutil

import numpy as np

from export import saved_model
from zoo import atomic

TOLERANCE = 1e-5


def save(model, image_size, class_names, target, describe, temperature=1., multi_label=False):
  """Writes a SavedModel that classifies uint8 images of any size.

  `obj(images)` maps uint8 [B, H, W, 3] to probabilities [B, C], float32: softmax, or sigmoids
  where an image may have several labels. `obj.class_names` holds the C names. The signature
  `serving_default` gives both, as 'probabilities' and 'class_names'. `obj.logits(images)` gives
  logits, before the temperature.

  Args:
    model: a `finetune.tuned.Tuned`.
    image_size: pixels to which images are resized, as in training.
    class_names: the C names.
    target: folder of the module; one that is there, from before a kill, is replaced.
    describe: function of the path that writes module.json and card.
    temperature: divides the logits.
    multi_label: whether an image may have several labels.

  Raises:
    ValueError: the module loaded back computes something else; nothing is left.
  """
  import tensorflow as tf
  spec = _spec()
  root = tf.train.Checkpoint()
  root.class_names = tf.Variable(list(class_names), trainable=False, name='class_names')

  @tf.function(input_signature=[spec])
  def logits(images):
    resized = tf.image.resize(images, (image_size, image_size), antialias=True)
    # Training saw whole numbers from 0 to 255.
    whole = tf.round(tf.clip_by_value(resized, 0., 255.))
    return model(whole / 255., training=False)

  @tf.function(input_signature=[spec])
  def call(images):
    return _activated(logits(images) / temperature, multi_label)

  root.__call__, root.logits = call, logits
  root.variables = [v.value for v in model.variables]
  root.trainable_variables = [v.value for v in model.trainable_variables]
  # A SavedModel whose functions are called brings what they capture.
  root.module = getattr(model.body, 'loaded', None)
  _write(root, target, image_size, describe)


def save_average(paths, counts, target, describe, temperature=1., multi_label=False):
  """Writes the module of an ensemble: the weighted mean of its members' probabilities.

  It is called as that of `save`, without `logits`.

  Args:
    paths: folders of the members, modules of `save` of the same classes.
    counts: how often each is a member.
    target, describe, multi_label: as in `save`.
    temperature: divides the logits of the mean.

  Raises:
    ValueError: as `save`.
  """
  import tensorflow as tf
  root = tf.train.Checkpoint()
  root.members = members = [tf.saved_model.load(path) for path in paths]
  root.class_names = tf.Variable(members[0].class_names, trainable=False, name='class_names')
  root.counts = tf.Variable(counts, trainable=False, name='counts', dtype=tf.int32)

  @tf.function(input_signature=[_spec()])
  def call(images):
    mean = tf.add_n([
        count * _activated(member.logits(images), multi_label)
        for count, member in zip(counts, members, strict=True)]) / sum(counts)
    tiny = np.finfo(np.float32).tiny
    logits = tf.math.log(tf.maximum(mean, tiny))
    if multi_label:
      logits -= tf.math.log(tf.maximum(1 - mean, tiny))
    return _activated(logits / temperature, multi_label)

  root.__call__ = call
  root.variables = [variable for member in members for variable in member.variables]
  root.trainable_variables = [
      variable for member in members for variable in member.trainable_variables]
  _write(root, target, 32, describe)


def _spec():
  import tensorflow as tf
  return tf.TensorSpec([None, None, None, 3], tf.uint8, name='images')


def _activated(logits, multi_label):
  import tensorflow as tf
  return tf.sigmoid(logits) if multi_label else tf.nn.softmax(logits)


def _write(root, target, size, describe):
  """Adds the signature, writes the module, and makes sure that it loads back as the same."""
  import tensorflow as tf

  @tf.function(input_signature=[_spec()])
  def serving_default(images):
    return {'probabilities': root.__call__(images),
            'class_names': tf.identity(root.class_names)}

  shutil.rmtree(target, ignore_errors=True)
  with atomic.writing_folder(target) as path:
    saved_model.write(root, path, serving_default)
    images = np.random.default_rng(0).integers(0, 256, (2, 2 * size, size, 3)).astype(np.uint8)
    error = np.abs(tf.saved_model.load(path)(images).numpy() - root.__call__(images).numpy()).max()
    if not error <= TOLERANCE:
      raise ValueError(f'the fine-tuned module loaded back differs by {error:.2g}.')
    describe(path)
