"""Training: every example counts as much as it should, and nothing is silent.

How a run goes on is in test_resume.py, how it is spread in test_strategies.py.
"""

import csv
import dataclasses
import os
import pathlib

import numpy as np
import pytest
from conftest import overflowing
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from zoo import atomic
from zoo import backbones
from zoo import batches
from zoo import classifier
from zoo import pretrain
from zoo import train_log
from zoo import training
from zoo import weights
from zoo import work_dir

TINY = backbones.Architecture((1,), 8, 'basic', 4, 'small', 2, 8)
RECIPE = training.Recipe(steps=60, batch=32, learning_rate=0.05, warmup=5, weight_decay=1e-3,
                         label_smoothing=0.1, crop=2)


def numbered(number, height=3, width=4):
  """Images whose every pixel tells which image it is from, and the number again as label."""
  labels = np.arange(number)
  images = np.broadcast_to(labels[:, None, None, None], (number, height, width, 3))
  return images.astype(np.uint8), labels


def stripes(number, seed=0):
  """A problem that a glance solves: horizontal (0) or vertical (1) stripes in any colour."""
  rng = np.random.default_rng(seed)
  labels = np.arange(number) % 2
  on = np.stack([np.indices((8, 8))[label] % 2 for label in labels])[..., None]
  return (on * rng.integers(128, 256, (number, 1, 1, 3))).astype(np.uint8), labels


def tiny_model(classes=2, loss='softmax'):
  return classifier.Classifier(backbones.build(TINY), classes, loss)


PIXELS = np.random.default_rng(1).integers(0, 256, (6, 1, 1, 3), np.uint8)


def linear():
  """A linear network from `PIXELS` to three classes, and its kernel [3, 3]."""
  import keras
  model = keras.Sequential([
      keras.Input((1, 1, 3)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
  model.classes = 3
  kernel = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
  model.variables[0].assign(kernel)
  return model, kernel.astype(np.float64)


# Batches.


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 3), st.booleans(),
       st.integers(0, 2))
@settings(max_examples=60)
def test_each_pass_has_every_example_once_even_where_batches_straddle_passes(
    number, batch, seed, flip, crop):
  images, labels = numbered(number)
  stream = batches.Batches(images, labels, batch, seed, flip, crop)
  passes = 4
  steps = -(-passes * number // batch)
  seen = list(stream.stream(0, steps))
  for pictures, names in seen:
    assert pictures.shape == (batch, 3, 4, 3)
    assert pictures.dtype == np.uint8
    assert (pictures == names[:, None, None, None]).all()  # each still has its own label
  order = np.concatenate([names for _, names in seen])
  for one in order[:passes * number].reshape(passes, number):
    assert sorted(one) == list(range(number))


def test_passes_differ_in_order_and_seeds_do_too():
  images, labels = numbered(50)
  stream = batches.Batches(images, labels, 50)
  other = batches.Batches(images, labels, 50, seed=1)
  orders = [stream.at(0)[1], stream.at(1)[1], other.at(0)[1]]
  assert len({order.tobytes() for order in orders}) == 3


@given(st.integers(0, 40))
@settings(max_examples=20)
def test_a_batch_depends_on_its_step_alone_and_leaves_the_data_alone(step):
  images = np.random.default_rng(0).integers(0, 256, (11, 5, 4, 3), np.uint8)
  before = images.copy()
  make = {'labels': np.arange(11), 'batch': 4, 'seed': 2, 'flip': True, 'crop': 2}
  once = list(batches.Batches(images, **make).stream(0, step + 1))[-1]
  again = batches.Batches(images, **make).at(step)
  np.testing.assert_array_equal(once[0], again[0])
  np.testing.assert_array_equal(once[1], again[1])
  np.testing.assert_array_equal(images, before)


def test_flipping_mirrors_about_half_of_the_images_left_to_right_and_no_pixel_otherwise():
  images = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 3), np.uint8)
  pictures, which = batches.Batches(images, np.arange(200), 200, flip=True).at(0)
  same = (pictures == images[which]).all((1, 2, 3))
  mirrored = (pictures == images[which, :, ::-1]).all((1, 2, 3))
  assert (same | mirrored).all()
  assert 60 < mirrored.sum() < 140  # six standard deviations around 100


def test_cropping_cuts_any_window_of_the_image_reflected_at_its_borders():
  height, width, crop = 4, 5, 2
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  # Reflection does not repeat the border: rows -2 -1 0 1 2 3 4 5 are 2 1 0 1 2 3 2 1.
  rows, columns = [2, 1, 0, 1, 2, 3, 2, 1], [2, 1, 0, 1, 2, 3, 4, 3, 2]
  wide = image[rows][:, columns]
  windows = {wide[y:y + height, x:x + width].tobytes()
             for y in range(2 * crop + 1) for x in range(2 * crop + 1)}
  pictures, _ = batches.Batches(image[None], np.zeros(1, int), 400, crop=crop).at(0)
  assert {picture.tobytes() for picture in pictures} == windows


def test_an_image_of_one_pixel_can_be_augmented():
  images, labels = numbered(3, 1, 1)
  pictures, names = batches.Batches(images, labels, 3, flip=True, crop=4).at(0)
  assert pictures[:, 0, 0, 0].tolist() == names.tolist()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=40)
def test_cutout_covers_one_square_about_any_pixel_with_grey(height, width, side):
  images = np.zeros((1, height, width, 3), np.uint8)
  stream = batches.Batches(images, np.zeros(1, int), 50, cutout=side)
  for picture in stream.at(0)[0]:
    grey = (picture == batches.GREY).all(-1)
    assert (grey | (picture == 0).all(-1)).all()
    rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
    assert grey.sum() == len(rows) * len(columns)  # a filled rectangle
    for found, length in ((rows, height), (columns, width)):
      assert np.ptp(found) == len(found) - 1
      # Whole, or cut off by a border; the half before the centre is the longer one.
      least = min((side + 1) // 2, length)
      assert least <= len(found) <= side
      assert len(found) == min(side, length) or found[0] == 0 or found[-1] == length - 1


def test_cutout_reaches_every_pixel_equally_far_from_the_borders_and_leaves_the_data_alone():
  images, labels = numbered(1, 9, 9)
  stream = batches.Batches(images, labels, 2000, cutout=3)
  share = (stream.at(0)[0] == batches.GREY).all(-1).mean(0)[1:-1, 1:-1]
  np.testing.assert_allclose(share, 9 / 81, atol=0.04)  # five standard deviations
  assert not (images == batches.GREY).any()


@given(st.integers(1, 12), st.integers(1, 9), st.sampled_from([0.1, 1., 5.]))
@settings(max_examples=40)
def test_mixup_gives_each_image_the_shares_of_two_that_its_label_names(number, batch, alpha):
  values = np.linspace(0, 255, number).astype(np.uint8)
  images = np.broadcast_to(values[:, None, None, None], (number, 2, 3, 3))
  stream = batches.Batches(images, np.arange(number), batch, mixup=alpha, classes=number)
  for pictures, shares in stream.stream(0, 3):
    assert (pictures.dtype, shares.dtype, shares.shape) == (np.uint8, np.float32, (batch, number))
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert ((shares > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(pictures[:, 0, 0, 0], shares @ values, atol=0.501)
    assert (pictures == pictures[:, :1, :1, :1]).all()


def test_mixup_mixes_several_labels_as_it_mixes_images():
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (9, 2, 2, 3), np.uint8)
  labels = random.integers(0, 2, (9, 4)).astype(np.float32)
  plain = batches.Batches(images, labels, 6, flip=True)
  mixed = dataclasses.replace(plain, mixup=1.)
  for step in range(3):
    (pictures, names), (one, own) = mixed.at(step), plain.at(step)
    share = (names - own[::-1])[own != own[::-1]] / (own - own[::-1])[own != own[::-1]]
    assert np.ptp(share) < 1e-6
    assert 0 < share[0] < 1
    np.testing.assert_allclose(
        pictures, share[0] * one + (1 - share[0]) * one[::-1].astype(float), atol=0.501)


def test_without_mixup_labels_and_images_stay_as_they_are():
  images, labels = numbered(7)
  pictures, names = batches.Batches(images, labels, 7, mixup=0., classes=7).at(0)
  assert names.dtype == labels.dtype
  assert (pictures == names[:, None, None, None]).all()


def test_no_example_or_a_missing_label_is_an_error():
  images, labels = numbered(3)
  with pytest.raises(ValueError, match='no training example'):
    batches.Batches(images[:0], labels[:0], 2)
  with pytest.raises(ValueError, match='3 images but 2 labels'):
    batches.Batches(images, labels[:2], 2)


# Recipes.


def rates(**options):
  recipe = training.Recipe(steps=10, learning_rate=0.8, **options)
  return [training.learning_rate(recipe, step) for step in range(10)]


def test_the_rate_warms_up_to_the_full_one_and_ends_near_zero_along_a_cosine():
  found = rates(warmup=2)
  # Half a cosine over the eight steps left; cos(pi 7/8) is -0.92388.
  np.testing.assert_allclose(found[:3], [0.4, 0.8, 0.8])
  np.testing.assert_allclose(found[6], 0.4)
  np.testing.assert_allclose(found[9], 0.8 * 0.5 * (1 - 0.92388), atol=1e-5)
  assert training.learning_rate(training.Recipe(steps=10), 10) == 0


def test_the_rate_falls_to_a_tenth_at_30_60_and_90_percent():
  np.testing.assert_allclose(
      rates(schedule='steps'), [0.8] * 3 + [0.08] * 3 + [0.008] * 3 + [0.0008])
  np.testing.assert_allclose(rates(schedule='steps', warmup=4)[:5], [0.2, 0.4, 0.6, 0.8, 0.08])


@pytest.mark.parametrize('wrong', [
    {'schedule': 'linear'}, {'loss': 'hinge'}, {'steps': 0}, {'batch': -1},
    {'learning_rate': 0.}])
def test_an_impossible_recipe_is_an_error_that_names_the_field_and_its_value(wrong):
  (name, value), = wrong.items()
  with pytest.raises(ValueError, match=f'{name} is {value!r}'):
    dataclasses.replace(RECIPE, **wrong)


# Training.


@pytest.mark.parametrize('loss, schedule', [('softmax', 'cosine'), ('sigmoid', 'steps')])
def test_training_learns_what_is_easy(tmp_path, loss, schedule):
  images, labels = stripes(64)
  recipe = training.Recipe(
      steps=60, batch=16, learning_rate=0.05, warmup=5, loss=loss, schedule=schedule, crop=0)
  model = tiny_model(loss=loss)
  rows = training.fit(model, batches.Batches(images, labels, 16), recipe, str(tmp_path))
  assert rows[-1]['loss'] < rows[0]['loss'] / 4
  new_images, new_labels = stripes(32, seed=1)
  logits = training.predict(model, new_images, batch=5)
  assert logits.shape == (32, 2)
  assert pretrain.top_accuracy(logits, new_labels, 1) == 1
  # The log: a row for every twentieth of the run, each with the rate of its last step.
  assert [row['step'] for row in rows] == list(range(3, 61, 3))
  for row in rows:
    assert row['learning_rate'] == pytest.approx(
        training.learning_rate(recipe, row['step'] - 1))
  assert logged_steps(tmp_path) == list(range(3, 61, 3))


def test_a_second_run_of_a_trainer_is_like_a_first():
  images, labels = stripes(32)
  stream = batches.Batches(images, labels, 16)
  recipe = training.Recipe(steps=4, batch=16, learning_rate=0.05)
  model = tiny_model()
  initial, trainer = weights.of(model), training.Trainer(model, recipe)
  other = dataclasses.replace(recipe, steps=6, learning_rate=0.2, schedule='steps')
  losses = []
  for each in (recipe, other, recipe):  # momentum of the second must not reach the third
    weights.set_to(model, initial)
    losses.append([row['loss'] for row in trainer.fit(stream, each)])
  assert len(losses[1]) == 6
  np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)
  with pytest.raises(ValueError, match='differs'):
    trainer.fit(stream, dataclasses.replace(recipe, momentum=0.5))


def test_prediction_in_batches_is_the_prediction_of_all():
  images, _ = stripes(7)
  model = tiny_model()
  whole = model.backbone(images.astype(np.float32) / 255)
  np.testing.assert_allclose(
      training.predict(model.backbone, images, batch=3), whole, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_a_number_stops_training_and_names_its_step():
  targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
  targets[4] = np.nan
  stream = batches.Batches(PIXELS, targets, 1)
  step, = (s for s in range(6) if np.isnan(stream.at(s)[1]).any())
  assert step > 0
  with pytest.raises(training.NotFiniteError, match=f'pixels: the loss is nan at step {step} '):
    training.fit(linear()[0], stream, training.Recipe(6, 1, 1e-3), what='pixels')


def test_a_watch_sees_every_row_as_it_is_logged(tmp_path):
  recipe = training.Recipe(steps=45, batch=4, learning_rate=0.01)
  seen = []

  def watch(row):
    seen.append(row)
    assert logged_steps(tmp_path)[-1] == row['step']

  rows = training.Trainer(linear()[0], recipe).fit(
      batches.Batches(PIXELS, np.arange(6) % 3, 4), recipe, str(tmp_path), watch=watch)
  assert seen == rows
  assert [row['step'] for row in rows] == [*range(2, 45, 2), 45]


def test_a_further_run_of_a_trainer_compiles_nothing(monkeypatch):
  model, _ = linear()
  call, traced = model.call, []

  def counted(*arguments, **options):
    traced.append(1)  # Python runs when TensorFlow traces, and then no more
    return call(*arguments, **options)

  monkeypatch.setattr(model, 'call', counted)
  recipe = training.Recipe(steps=9, batch=4, learning_rate=0.01, weight_decay=1e-3)
  trainer = training.Trainer(model, recipe)
  trainer.fit(batches.Batches(PIXELS, np.arange(6) % 3, 4), recipe)
  first = len(traced)
  assert first
  for change in ({'steps': 1}, {'steps': 130, 'schedule': 'steps'}, {'learning_rate': 0.1},
                 {'weight_decay': 0.1}, {'seed': 1, 'warmup': 3}):
    other = dataclasses.replace(recipe, **change)
    trainer.fit(batches.Batches(PIXELS[:5], np.arange(5) % 3, 4, other.seed, flip=True), other)
  assert len(traced) == first


# One step of a linear network, by hand.


STEP = training.Recipe(
    steps=1, batch=6, learning_rate=0.1, momentum=0., nesterov=False, flip=False, crop=0)
SOFT = np.random.default_rng(2).dirichlet([1, 1, 1], 6).astype(np.float32)
SEVERAL = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 1]], np.float32)


def stepped(labels, recipe=STEP, class_weights=None):
  """(loss, kernel) of one step."""
  model, _ = linear()
  trainer = training.Trainer(model, recipe, class_weights)
  row, = trainer.fit(batches.Batches(PIXELS, labels, 6), recipe)
  return row['loss'], np.asarray(model.variables[0])


@pytest.mark.parametrize('loss, labels', [
    ('softmax', np.array([0, 1, 1, 2, 2, 2])), ('softmax', SOFT), ('sigmoid', SEVERAL)])
def test_class_weights_weigh_losses_and_gradients(loss, labels):
  recipe, factors = dataclasses.replace(STEP, loss=loss), np.array([3., 0.5, 1.])
  _, kernel = linear()
  inputs = PIXELS[:, 0, 0] / 255.
  targets = (np.eye(3)[labels] if labels.ndim == 1 else labels).astype(np.float64)
  logits = inputs @ kernel
  if loss == 'softmax':  # an example weighs as its class
    guess = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = targets @ factors
    expected = -(each * (targets * np.log(guess)).sum(1)).mean()
    slope = each[:, None] * (guess - targets)
  else:  # each class for itself
    guess = 1 / (1 + np.exp(-logits))
    each = targets * np.log(guess) + (1 - targets) * np.log(1 - guess)
    expected = -(each @ factors).mean()
    slope = (guess - targets) * factors
  found, new = stepped(labels, recipe, factors)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(new, kernel - 0.1 * inputs.T @ slope / 6, rtol=1e-5)
  for one, other in zip(stepped(labels, recipe, np.ones(3)), stepped(labels, recipe), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_weight_decay_may_differ_between_the_runs_of_a_trainer_that_has_some():
  black = batches.Batches(np.zeros_like(PIXELS), np.arange(6) % 3, 6)  # no gradient
  model, kernel = linear()
  trainer = training.Trainer(model, dataclasses.replace(STEP, weight_decay=1.))
  for decay in (0.5, 2.):
    model.variables[0].assign(kernel)
    trainer.fit(black, dataclasses.replace(STEP, weight_decay=decay))
    np.testing.assert_allclose(model.variables[0], kernel * (1 - 0.1 * decay), rtol=1e-6)
  without = training.Trainer(model, STEP)
  with pytest.raises(ValueError, match='differs'):
    without.fit(black, dataclasses.replace(STEP, weight_decay=0.5))
  with pytest.raises(ValueError, match='differs'):
    trainer.fit(black, STEP)


def test_a_step_that_overflows_in_float16_is_left_out_and_training_goes_on():
  model, stream = overflowing()
  recipe = dataclasses.replace(STEP, steps=6, batch=4, learning_rate=1e-3)
  kernels = []
  rows = training.Trainer(model, recipe).fit(
      stream, recipe, watch=lambda _: kernels.append(np.asarray(model.variables[0])))
  for kernel in kernels[:3]:
    np.testing.assert_array_equal(kernel, 0)
  # By hand: of the bright image's features 100, the share 1/4 and the slope 1/2.
  np.testing.assert_allclose(kernels[3], np.full((3, 1), 12.5) * [-1, 1] * rows[3]['learning_rate'])
  assert rows[5]['loss'] < rows[0]['loss']


# Out of memory.


class Limited(classifier.Classifier):
  """Has memory for the training of so many images at once."""
  limit = 100
  seen = 0

  def call(self, images, training=False):
    import tensorflow as tf

    def allocate(number):
      if number > self.limit:
        raise MemoryError('made')  # which TensorFlow turns into its own error
      self.seen += number
      return np.float32(0)

    if training:
      images += tf.ensure_shape(tf.numpy_function(allocate, [tf.shape(images)[0]], tf.float32), ())
    return super().call(images, training)


def limited():
  """(a `Limited` whose head is regularised, batches, a trainer)."""
  import keras
  recipe = training.Recipe(steps=8, batch=7, learning_rate=0.1, mixup=0.5)
  model = Limited(backbones.build(TINY), 2)
  model.head.kernel.regularizer = keras.regularizers.L2(0.1)
  stream = batches.Batches(*stripes(16), 7, mixup=0.5, classes=2)
  return model, stream, training.Trainer(model, recipe)


def test_where_memory_is_short_a_batch_is_computed_in_parts_that_have_its_gradient(caplog):
  model, stream, trainer = limited()
  initial = weights.of(model)

  def fit(limit):
    """The losses, the weights in the end, and what was said, with memory for so many images."""
    caplog.clear()
    model.limit = limit
    weights.set_to(model, initial)
    rows = trainer.fit(stream, trainer.recipe, what='stripes')
    return [row['loss'] for row in rows], weights.of(model), caplog.messages

  def said(number):
    return (f'stripes: out of memory; going on with {number} images at once, and the sum of the '
            'gradients.')

  losses, values, messages = fit(7)
  assert not messages
  # What fitted once is kept in further runs, until it does not.
  for limit, expected in ((5, [said(4)]), (4, []), (2, [said(2)])):
    found, ends, messages = fit(limit)
    assert messages == expected
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for path, value in ends.items():
      np.testing.assert_allclose(value, values[path], rtol=1e-4, atol=1e-6, err_msg=path)
  with pytest.raises(MemoryError, match='stripes: not even a single image at a time fits into '
                                        'memory: use a smaller network or image size'):
    fit(0)


def test_where_memory_runs_out_on_the_way_the_run_goes_on_from_its_checkpoint(
    tmp_path, monkeypatch):
  monkeypatch.setattr(training, 'SECONDS_BETWEEN_CHECKPOINTS', 0)
  model, stream, trainer = limited()
  initial = weights.of(model)
  losses = [row['loss'] for row in trainer.fit(stream, trainer.recipe)]
  weights.set_to(model, initial)
  model.seen = 0

  def watch(row):
    if row['step'] == 5:
      model.limit = 4  # from now on

  rows = trainer.fit(stream, trainer.recipe, str(tmp_path), watch=watch)
  np.testing.assert_allclose([row['loss'] for row in rows], losses, rtol=1e-5)
  assert [row['step'] for row in rows] == logged_steps(tmp_path) == list(range(1, 9))
  assert model.seen == 8 * 7  # no step was computed twice


# Work directories.


def logged_steps(folder):
  with open(os.path.join(folder, train_log.FILE), encoding='utf-8') as file:
    return [int(row['step']) for row in csv.DictReader(file)]


def test_a_finished_run_is_read_and_not_repeated(tmp_path, monkeypatch):
  monkeypatch.setitem(backbones.PRESETS, 'tiny', TINY)
  recipe = dataclasses.replace(RECIPE, steps=2)
  first = pretrain.pretrain('digits', 'tiny', recipe, str(tmp_path))
  written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
  assert pretrain.pretrain('digits', 'tiny', recipe, str(tmp_path)) == first
  after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
  assert {p for p in after if after[p] != written.get(p)} <= {tmp_path / '.lock'}


def test_a_folder_of_other_settings_is_refused_with_the_difference(tmp_path):
  with work_dir.opened(str(tmp_path), {'task': 'digits', 'recipe': {'steps': 5, 'seed': 0}}):
    pass
  with (pytest.raises(ValueError, match=r'recipe\.steps is 5 there and 6 here'),
        work_dir.opened(str(tmp_path), {'task': 'digits', 'recipe': {'steps': 6, 'seed': 0}})):
    pass


def test_the_same_settings_are_the_same_after_json(tmp_path):
  for _ in range(2):
    with work_dir.opened(str(tmp_path), {'stages': (0, 1), 'rate': 0.1}):
      pass


def test_a_folder_in_use_is_refused_with_the_process_and_free_again_afterwards(tmp_path):
  path = str(tmp_path / 'new')
  with (work_dir.opened(path, {}),
        pytest.raises(ValueError, match=f'in use by process {os.getpid()} on '),
        work_dir.opened(path, {})):
    pass
  with work_dir.opened(path, {}) as again:
    assert again == path


def test_a_file_is_no_work_dir(tmp_path):
  path = tmp_path / 'file'
  path.touch()
  with pytest.raises(ValueError, match='is a file'), work_dir.opened(str(path), {}):
    pass


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
  path = tmp_path / 'folder' / 'result'
  atomic.write_text(path, 'before')
  with pytest.raises(RuntimeError, match='full'), atomic.writing(path) as file:
    file.write(b'half of')
    raise RuntimeError('disk full')
  with pytest.raises(ValueError, match='JSON'):
    atomic.write_json(path, {'loss': float('nan')})
  assert [p.name for p in path.parent.iterdir()] == ['result']
  assert path.read_text() == 'before'


def test_a_write_replaces_the_file_whole_and_makes_its_folder(tmp_path):
  path = tmp_path / 'deep' / 'result'
  for text in ('a longer text', 'short'):
    atomic.write_text(path, text)
    assert pathlib.Path(path).read_text() == text
