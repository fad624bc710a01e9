"""Fine-tuning one expert: chosen on val, tested once, and a module that does what it says."""

import csv
import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from conftest import draw_shape
from export import hub
from finetune import calibration
from finetune import ensembles
from finetune import line
from finetune import main
from finetune import metrics
from finetune import runs
from finetune import saved_layer
from finetune import sweep
from finetune import tuned
from finetune import tuning
from selection import candidates
from zoo import batches
from zoo import checkpoint
from zoo import precision
from zoo import tasks
from zoo import train_log
from zoo import training

KINDS = ('cross', 'square', 'stripes')
PLAN = sweep.Plan(batch=16, steps_scale=0.004, precision='mixed_bfloat16')  # 10 and 40 steps
QUICK = sweep.Plan('fixed', 'head', batch=16, learning_rate=0.1, steps=20, precision='float32')
RECIPE = training.Recipe(steps=8, batch=16, learning_rate=0.1, flip=False, crop=0)


def _pictures(number, size=20):
  """Pictures [number, size, size, 3] of the kinds in turn, and their labels."""
  random = np.random.default_rng(0)
  labels = np.arange(number) % 3
  return np.stack([draw_shape(KINDS[label], random, size) for label in labels]), labels


def _task(train=60, test=40):
  images, labels = _pictures(train + test)
  return tasks.from_arrays('pictures', KINDS, train=(images[:train], labels[:train]),
                           test=(images[train:], labels[train:]))


def _read(*path):
  with open(os.path.join(*path), encoding='utf-8') as file:
    return file.read()


# Any module as a Keras layer.


def test_of_a_module_as_a_keras_3_layer_all_trains_but_the_experts_that_were_not_chosen(tiny_hub):
  loaded = hub.load(hub.resolve('test/packed/1', tiny_hub))
  model = tuned.Tuned(saved_layer.SavedLayer(loaded, expert=1), 16, 3)
  images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
  assert np.asarray(model(images)).tolist() == [[0.] * 3] * 2  # prefers no class
  assert len(model.trainable_variables) == len(loaded.variables) + 2
  before = [variable.numpy() for variable in model.trainable_variables]
  training.fit(model, batches.Batches(*_pictures(48, size=16), 16), RECIPE)
  stacked = 0
  for old, variable in zip(before, model.trainable_variables, strict=True):
    new = variable.numpy()
    if old.shape[0] == 2:  # both experts'
      stacked += 1
      np.testing.assert_array_equal(old[0], new[0])
    assert not np.array_equal(old[-1], new[-1]), variable.path
  assert stacked > 4


# A whole run: mixed precision, class weights, and a sweep of which one half diverges.


@pytest.fixture(scope='module')
def networks(tiny_hub):
  """Shared by the runs of PLAN, so that their step is compiled once."""
  return tuned.Networks(3, precision=PLAN.precision)


@pytest.fixture(scope='module')
def finished(tiny_hub, networks, tmp_path_factory):
  """A task of pictures and the result of fine-tuning a tiny module on it."""
  task = _task()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sweep, 'LEARNING_RATES', (1e20, 0.05))
    result = tuning.finetune(task, 'test/baseline/1', str(tmp_path_factory.mktemp('work')), PLAN,
                             tiny_hub, networks=networks, command=['zoo-finetune', '--made'])
  return task, result


def _predicted(result):
  with np.load(result['predictions']) as file:
    return file['logits'], file['labels']


def test_a_setting_that_diverges_on_all_examples_gives_way_to_the_next_best(
    finished, tiny_hub, networks, tmp_path, monkeypatch, caplog):
  task, before = finished
  real, failed = training.Trainer.fit, []

  def fit(self, stream, recipe, folder=None, what='', watch=None):
    history = real(self, stream, recipe, folder, what, watch)
    if 'final' in what and not failed:
      failed.append(recipe)
      raise training.NotFiniteError('the loss is nan at step 3.')
    return history

  monkeypatch.setattr(training.Trainer, 'fit', fit)
  monkeypatch.setattr(sweep, 'LEARNING_RATES', (0.02, 0.05))
  result = tuning.finetune(task, 'test/baseline/1', str(tmp_path), PLAN, tiny_hub,
                           networks=networks)
  ordered = sorted(result['tried'], key=lambda one: (-one['val_accuracy'], one['val_loss']))
  assert (failed[0].learning_rate, failed[0].steps) == (
      ordered[0]['learning_rate'], ordered[0]['steps'])
  assert result['setting'] == ordered[1]
  assert 'the loss is nan at step 3. The next best setting is tried.' in caplog.text
  assert before['test_examples'] == result['test_examples']


def test_a_setting_that_diverges_is_noted_and_the_sweep_goes_on(finished):
  _, result = finished
  assert [one['error'] is None for one in result['tried']] == [False, False, True, True]
  for one in result['tried'][:2]:
    for words in ('baseline: setting ', 'the loss is ', ' at step ', 'learning rate '):
      assert words in one['error']
    assert one['val_accuracy'] is one['val_loss'] is None
  best = max(result['tried'][2:], key=lambda one: (one['val_accuracy'], -one['val_loss']))
  assert result['setting'] == best


def test_fine_tuning_leaves_a_classifier_of_raw_images(finished):
  import tensorflow as tf
  task, result = finished
  assert result['test_accuracy'] > 0.5  # of three classes, after seconds of a tiny network
  model = tf.saved_model.load(result['module'])
  assert [name.decode() for name in model.class_names.numpy()] == list(KINDS)
  logits, labels = _predicted(result)
  assert result['test_accuracy'] == (logits.argmax(1) == labels).mean()
  raw = np.stack([image for image, _ in task.reader('test', range(12))])  # 20 x 20, not 16
  probabilities = model(raw).numpy()
  np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
  assert (probabilities.argmax(1) == logits[:12].argmax(1)).mean() > 0.9
  assert model(np.zeros((1, 1, 1, 3), np.uint8)).shape == (1, 3)
  served = model.signatures['serving_default'](images=tf.constant(raw))
  np.testing.assert_allclose(served['probabilities'], probabilities)
  assert 'fine-tuned from\n`test/baseline/1`' in _read(result['module'], 'README.md')


def test_trained_in_bfloat16_the_module_computes_the_predictions_in_float32(
    finished, networks, tiny_hub):
  import tensorflow as tf
  task, result = finished
  trained, _ = networks.of(candidates.one('test/baseline', tiny_hub), sweep.settings(PLAN, 48)[0])
  assert trained.body.stem.compute_dtype == 'bfloat16'
  assert (trained.body.stem.variable_dtype, trained.head.compute_dtype) == ('float32', 'float32')
  model = tf.saved_model.load(result['module'])
  assert {variable.dtype for variable in model.variables} == {tf.float32}
  graph = model.logits.concrete_functions[0].graph
  assert not [one.name for one in graph.get_operations()
              if tf.bfloat16 in [output.dtype for output in one.outputs]]
  images = tasks.read(task, ('test', None), 16).images
  logits, labels = _predicted(result)
  np.testing.assert_allclose(model.logits(images), logits, atol=1e-4)
  np.testing.assert_allclose(
      model(images), calibration.scaled(logits, result['temperature']), atol=1e-5)
  np.testing.assert_array_equal(labels, task.labels('test'))


def test_figures_before_and_after_calibration_are_those_of_the_predictions(finished):
  task, result = finished
  logits, labels = _predicted(result)
  for figures, temperature in ((result, 1.), (result['calibrated'], result['temperature'])):
    probabilities = calibration.scaled(logits, temperature)
    assert figures['nll'] == pytest.approx(metrics.nll(probabilities, labels))
    assert figures['ece'] == pytest.approx(metrics.ece(probabilities, labels))
  work = os.path.dirname(result['module'])
  with np.load(f'{work}/tried-{result["setting"]["number"]}.npz') as file:
    assert result['temperature'] == runs.calibrated(file['logits'], file['labels'])
    np.testing.assert_array_equal(file['labels'], task.labels('train')[48:])
    assert result['setting']['val_loss'] == pytest.approx(
        metrics.nll(calibration.scaled(file['logits'], 1.), file['labels']))
  described = json.loads(_read(result['module'], 'module.json'))
  assert described['temperature'] == result['temperature']
  assert described['scores']['calibrated'] == result['calibrated']


def test_a_run_leaves_a_line_that_says_how_it_was_made_and_what_it_cost(finished):
  _, result = finished
  work = os.path.dirname(result['module'])
  line, = map(json.loads, _read(work, 'runs.jsonl').splitlines())
  setting = line['setting']
  assert {key: result['setting'][key] for key in setting} == setting
  assert {'learning_rate', 'steps', 'batch', 'weight_decay', 'mixup', 'seed', 'tune',
          'head_seed'} == set(setting)
  assert {'tensorflow', 'keras', 'numpy'} <= set(line['versions'])
  assert (line['precision'], line['replicas']) == ('mixed_bfloat16', 1)
  assert (line['test_accuracy'], line['nll']) == (result['test_accuracy'], result['nll'])
  assert line['task'] == result['source']
  assert (line['handle'], line['fingerprint']) == (result['handle'], result['fingerprint'])
  assert line['command'] == ['zoo-finetune', '--made']
  assert line['device']
  assert 0 < line['seconds'] < result['seconds']
  seconds = result['history'][-1]['seconds']
  assert line['images_per_second'] == pytest.approx(
      16 * setting['steps'] / max(seconds, 1e-3), rel=0.05)
  assert line['peak_memory_bytes'] > 50e6  # a process with TensorFlow in it


def test_the_last_training_is_logged_for_spreadsheets_and_tensorboard(finished):
  import tensorflow as tf
  _, result = finished
  rows = list(csv.DictReader(_read(result['log']).splitlines()))
  assert [{key: float(value) for key, value in row.items()} for row in rows] == result['history']
  assert int(rows[-1]['step']) == result['setting']['steps']
  folder = pathlib.Path(result['log']).parent
  scalars, images = {}, {}
  for path in (folder / train_log.TENSORBOARD).iterdir():
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        array = tf.make_ndarray(value.tensor)
        if value.tag == 'confusion':
          images[value.tag] = tf.image.decode_png(array[2]).numpy()
        else:
          scalars.setdefault(value.tag, {})[event.step] = float(array)
  assert set(scalars) == {'loss', 'accuracy', 'learning_rate'}
  for tag, values in scalars.items():
    assert values == pytest.approx({row['step']: row[tag] for row in result['history']})
  assert images['confusion'].ndim == 3 and images['confusion'].std() > 1
  assert not (folder / checkpoint.FILE).exists()
  assert not list(folder.parent.glob('trying-*'))


def test_the_same_call_answers_from_what_is_done(finished, tiny_hub, monkeypatch):
  task, result = finished
  monkeypatch.setattr(training, 'Trainer', None)  # nothing may train now
  again = tuning.finetune(task, 'test/baseline/1', os.path.dirname(result['module']), PLAN,
                          tiny_hub)
  assert again == result


def test_a_work_dir_of_another_run_is_refused_and_left_alone(finished, tiny_hub):
  task, result = finished
  work = os.path.dirname(result['module'])
  for other, handle, plan, difference in (
      (_task(61), 'test/baseline/1', PLAN, r'protocol is .48/12 \(first\). there'),
      (task, 'test/expert/1', PLAN, 'module is'),
      (task, 'test/baseline/1', QUICK, 'plan.batch|plan.learning_rate is')):
    with pytest.raises(ValueError, match=f'belongs to another run: {difference}'):
      tuning.finetune(other, handle, work, plan, tiny_hub)
  assert json.loads(_read(work, 'result.json')) == result


def test_where_every_setting_fails_it_says_how_the_first_did(
    finished, tiny_hub, networks, tmp_path, monkeypatch):
  monkeypatch.setattr(sweep, 'LEARNING_RATES', (1e20,))
  with pytest.raises(ValueError) as error:
    tuning.finetune(finished[0], 'test/baseline/1', str(tmp_path / 'work'), PLAN, tiny_hub,
                    networks=networks)
  assert str(error.value).startswith(
      'test/baseline/1: every setting failed; the first so: baseline: setting 1/2: the loss is')
  assert not (tmp_path / 'work' / 'module').exists()


# Precision, calibration and class weights.


@pytest.mark.parametrize(('flags', 'resolved'), [
    (['fpu', 'amx_bf16', 'amx_tile'], 'mixed_bfloat16'), (['fpu', 'avx512_bf16'], 'float32'),
    ([], 'float32')])
def test_precision_is_that_which_the_processor_has_by_itself(monkeypatch, flags, resolved):
  import tensorflow as tf
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [])
  monkeypatch.setattr(precision, '_cpu_flags', lambda: flags)
  data = runs.Data(_task())
  for asked, got in (('auto', resolved), ('float32', 'float32'),
                     ('mixed_bfloat16', 'mixed_bfloat16')):
    plan = sweep.Plan(precision=asked)
    assert runs.networks(data, plan, tf.distribute.get_strategy()).precision == got


def _confident(right, wrong, odds):
  """Logits of one class of two, `right` times right and `wrong` times wrong, at these odds."""
  logits = np.zeros((right + wrong, 2))
  logits[:, 0] = np.log(odds)
  return logits, np.array([0] * right + [1] * wrong)


def test_nothing_is_learnt_of_confidence_where_no_label_is_missed():
  assert runs.calibrated(*_confident(200, 0, 3)) == 1


@pytest.mark.parametrize(('right', 'wrong', 'odds', 'temperature'), [
    # The likeliest T gives the odds that there are: ln(odds) / ln(right / wrong).
    (150, 50, 19, np.log(19) / np.log(3)),  # too bold, surely: 95% said, 75% right
    (190, 10, 3, np.log(3) / np.log(19)),  # too timid
    # 12 of 15 right where 90% were said: by chance often, and the gain is 0.7 nats.
    (12, 3, 9, 1.),
    (120, 30, 9, np.log(9) / np.log(4)),  # ten times as many: 7 nats, no chance
])
def test_a_temperature_is_taken_where_its_gain_is_more_than_chance(
    right, wrong, odds, temperature):
  assert runs.calibrated(*_confident(right, wrong, odds)) == pytest.approx(temperature, rel=1e-3)


def _unequal(kinds, labels):
  images, _ = _pictures(len(labels))
  return tasks.from_arrays('unequal', kinds, train=(images, labels), test=(images, labels))


def test_balanced_weights_are_inverse_to_the_examples_and_one_on_average():
  labels = np.array([0] * 32 + [1] * 12 + [3] * 4 + [0] * 12)  # the last 12 are val
  data = runs.Data(_unequal('abcd', labels))
  weights = data.class_weights('balanced')
  np.testing.assert_allclose(weights[[0, 1, 3]] * [32, 12, 4], [16] * 3)
  assert weights[labels[:48]].mean() == pytest.approx(1)
  assert np.isfinite(weights).all() and weights[2] == 1  # a class without examples does no harm
  assert data.class_weights('none') is None


def test_balanced_weights_of_several_labels_are_inverse_to_how_often_a_class_is_there():
  labels = np.zeros((60, 3))
  labels[:, 0], labels[::4, 1] = 1, 1
  weights = runs.Data(_unequal('abc', labels)).class_weights('balanced')
  np.testing.assert_allclose(weights, [60 / 2 / 48, 60 / 2 / 12, 1])


def test_the_flag_for_class_weights_reaches_the_trainer(
    tiny_hub, picture_folder, console, monkeypatch):
  for i in range(10):
    os.remove(os.path.join(picture_folder, 'cross', f'{i}.png'))

  def stop(model, recipe, class_weights):
    raise ValueError(f'weights {[round(float(one), 2) for one in class_weights]}')

  monkeypatch.setattr(training, 'Trainer', stop)
  code, _, err = console(main, f'--hub={tiny_hub}', '--handle=test/baseline', '--work_dir=work',
                         f'--task=folder:{picture_folder}', '--class_weights=balanced')
  labels = tasks.load(f'folder:{picture_folder}')
  split, chosen = tasks.protocol_1k(labels).train
  counts = np.bincount(labels.labels(split)[chosen])
  assert code == 1
  assert f'weights {np.round(counts.sum() / 3 / counts, 2).tolist()}' in err
  assert len(set(counts)) > 1


# Several labels an image, and images of another size than the module's.


@pytest.fixture(scope='module')
def several(tiny_hub, tmp_path_factory):
  """A task of two shapes, each there or not, its result at 32 pixels, and the work directory."""
  random = np.random.default_rng(0)
  present = random.random((140, 2)) < 0.5
  drawn = [[draw_shape(kind, random) for kind in ('cross', 'stripes')] for _ in range(140)]
  images = np.stack([
      np.max([np.where(there, one, 0) for there, one in zip(which, pair, strict=True)], 0)
      for which, pair in zip(present, drawn, strict=True)]).astype(np.uint8)
  task = tasks.from_arrays('several', ['cross', 'stripes'], train=(images[:100], present[:100]),
                           test=(images[100:], present[100:]))
  work = str(tmp_path_factory.mktemp('several') / 'work')
  plan = sweep.Plan('fixed', batch=16, learning_rate=0.05, steps=60, precision='float32',
                    class_weights='balanced')
  result = tuning.finetune(task, 'test/baseline', work, plan, tiny_hub, image_size=32)
  return task, result, work, plan


def test_a_task_of_several_labels_is_learnt_by_sigmoids(several):
  import tensorflow as tf
  task, result, _, _ = several
  logits, labels = _predicted(result)
  np.testing.assert_array_equal(labels, task.labels('test'))
  sigmoids = calibration.scaled(logits, 1., multi_label=True)
  assert result['test_map'] == metrics.evaluate(sigmoids, labels)['test_map'] > 0.6
  assert 'test_accuracy' not in result
  assert result['tried'][0]['val_map'] > 0.5
  module = tf.saved_model.load(result['module'])
  images = tasks.read(task, ('test', None), 32).images
  wanted = calibration.scaled(logits, result['temperature'], multi_label=True)
  np.testing.assert_allclose(module(images), wanted, atol=1e-5)
  assert np.ptp(wanted.sum(1)) > 0.1  # each class for itself
  card = _read(result['module'], 'README.md')
  assert f'Test mean average precision\n{100 * result["test_map"]:.1f}% on\n40 images' in card
  assert '(2 classes, any number of them an image)' in card


def test_a_module_of_ours_takes_the_image_size_that_it_is_told(several):
  _, result, _, _ = several
  assert json.loads(_read(result['module'], 'module.json'))['image_size'] == 32


def test_an_ensemble_of_several_labels_averages_sigmoids(several, tiny_hub, tmp_path):
  import tensorflow as tf
  task, single, work, plan = several
  expert = dataclasses.replace(candidates.one('test/baseline', tiny_hub), image_size=32)
  result = ensembles.ensemble(task, [expert], str(tmp_path / 'together'), plan,
                              done={expert.key: work})
  assert result['test_map'] == result['single']['test_map'] == single['test_map']
  with np.load(result['predictions']) as file:
    probabilities = file['probabilities']
  sigmoids = calibration.scaled(_predicted(single)[0], 1., multi_label=True)
  np.testing.assert_allclose(probabilities, sigmoids, atol=1e-6)
  module = tf.saved_model.load(result['module'])
  images = tasks.read(task, ('test', None), 32).images
  np.testing.assert_allclose(
      module(images), tf.saved_model.load(single['module'])(images), atol=1e-4)
  assert f'{result["test_map"]:6.1%}' in ensembles.table(result)


def test_the_whole_line_refuses_several_labels_before_anything_is_written(several, tiny_hub):
  with pytest.raises(ValueError, match=r"^task 'several' has several labels an image, .*\.$"):
    line.transfer(several[0], tiny_hub, 'work')
  assert not os.path.exists('work')


# Bad input.


@pytest.fixture(scope='module')
def fixed(tmp_path_factory):
  """Folder of a module not of ours without variables, for 16-pixel images alone."""
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function
  def call(images, training=False):
    del training
    return tf.reshape(tf.image.resize(images, (4, 4)), (-1, 48))

  for flag in (False, True):
    call.get_concrete_function(tf.TensorSpec([None, 16, 16, 3]), training=flag)
  root.__call__ = call
  folder = str(tmp_path_factory.mktemp('fixed') / 'module')
  tf.saved_model.save(root, folder)
  return folder


def test_a_module_without_trainable_weights_trains_its_head_only(fixed, tmp_path, caplog):
  result = tuning.finetune(_task(), fixed, str(tmp_path / 'work'),
                           dataclasses.replace(QUICK, tune='whole'), image_size=16)
  assert 'only the head is trained' in caplog.text
  assert result['test_accuracy'] > 0.4


def test_a_module_that_does_not_take_the_image_size_says_so(fixed):
  with pytest.raises(ValueError) as error:
    tuned.build(candidates.one(fixed, image_size=32), 3)
  text = str(error.value)
  assert f'module {fixed} fails on images of 32 x 32 pixels (' in text
  assert text.endswith('): give the --image_size that it takes.')
  assert '\n' not in text and len(text) < 400


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--handle=test/nothing'], "no module 'test/nothing'"),
    (['--handle=test/packed'], 'has several experts'),
    (['--handle=test/baseline', '--task=folder:nowhere'], 'there is no such folder'),
])
def test_bad_input_is_one_line_and_leaves_no_work_dir(tiny_hub, console, flags, complaint):
  code, out, err = console(main, f'--hub={tiny_hub}', '--work_dir=work', *flags)
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-finetune: ')
  assert err.count('\n') == 1
  assert not os.path.exists('work')
