"""Training: every example counts, every step is the same after a kill, and nothing is silent."""

import csv
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from zoo import atomic
from zoo import backbones
from zoo import batches
from zoo import checkpoint
from zoo import classifier
from zoo import pretrain
from zoo import train_log
from zoo import training
from zoo import weights
from zoo import work_dir

TINY = backbones.Architecture((1, 1), 8, 'basic', 4, 'small', 2, 8)
# Few and small steps, with everything on that could go astray between two processes.
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


# Batches.


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 3), st.booleans(),
       st.integers(0, 2))
@settings(deadline=None, max_examples=60)
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
@settings(deadline=None, max_examples=20)
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
  images, labels = stripes(20)
  targets = np.eye(2, dtype=np.float32)[labels]
  targets[7] = np.nan
  stream = batches.Batches(images, targets, 2)
  step, = (s for s in range(10) if np.isnan(stream.at(s)[1]).any())
  assert step > 0
  with pytest.raises(training.NotFiniteError, match=f'stripes: the loss is nan at step {step} '):
    training.fit(tiny_model(), stream, training.Recipe(10, 2, 1e-3), what='stripes')


# Work directories.


# Saves after each step, so that there is something to go on from at once.
KILLED = f'''
import sys
from zoo import pretrain, training
training.SECONDS_BETWEEN_CHECKPOINTS = 0
recipe = training.Recipe(**{dataclasses.asdict(RECIPE)})
pretrain.pretrain('digits', 'r8w16', recipe, sys.argv[1], image_size=16)
'''


def log_of(folder):
  with open(os.path.join(folder, train_log.FILE), encoding='utf-8') as file:
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def logged_steps(folder):
  return [row['step'] for row in log_of(folder)]


def test_a_run_killed_on_its_way_ends_with_the_weights_of_an_unbroken_one(tmp_path):
  broken, whole = str(tmp_path / 'broken'), str(tmp_path / 'whole')
  child = subprocess.Popen([sys.executable, '-c', KILLED, broken],
                           env=os.environ | {'CUDA_VISIBLE_DEVICES': '-1'})
  log = os.path.join(broken, train_log.FILE)
  while child.poll() is None and not (os.path.exists(log) and logged_steps(broken)[-1] >= 15):
    time.sleep(0.002)
  child.send_signal(signal.SIGKILL)
  assert child.wait() == -signal.SIGKILL  # and not a regular end before that
  with np.load(os.path.join(broken, checkpoint.FILE)) as state:
    assert 10 < state['step'] < RECIPE.steps

  results = [pretrain.pretrain('digits', 'r8w16', RECIPE, folder, image_size=16)
             for folder in (broken, whole)]
  # Mostly bit by bit; but a resumed run was seen to end a last bit (1e-7) away.
  one, other = (weights.load(os.path.join(folder, pretrain.WEIGHTS)) for folder in (broken, whole))
  assert set(one) == set(other)
  for path in one:
    np.testing.assert_allclose(one[path], other[path], rtol=1e-5, atol=1e-6, err_msg=path)
  np.testing.assert_allclose(*(result['scores']['top1'] for result in results), atol=0.002)
  # The log too is that of one run: each step once, and means over whole intervals.
  assert logged_steps(broken) == logged_steps(whole) == list(range(3, 61, 3))
  np.testing.assert_allclose(
      *([row['loss'] for row in log_of(folder)] for folder in (broken, whole)), rtol=1e-3)


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
  recipe = dataclasses.replace(RECIPE, steps=2)
  first = pretrain.pretrain('digits', 'r8w16', recipe, str(tmp_path), image_size=8)
  written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
  assert pretrain.pretrain('digits', 'r8w16', recipe, str(tmp_path), image_size=8) == first
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
        pytest.raises(ValueError, match=f'in use by process {os.getpid()}:'),
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
