"""Fine-tuning: any Reusable SavedModel trains in Keras 3, is chosen on val and tested once."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from conftest import draw_shape
from export import hub
from finetune import main
from finetune import saved_layer
from finetune import sweep
from finetune import tuned
from finetune import tuning
from zoo import batches
from zoo import tasks
from zoo import training

PLAN = sweep.Plan(batch=16, steps_scale=0.004)  # 10 and 40 steps


def _tuned(tiny_hub, handle='test/baseline/1', expert=None):
  layer = saved_layer.SavedLayer(hub.load(hub.resolve(handle, tiny_hub)), expert)
  return tuned.Tuned(layer, 16, 3)


def _stream(number=48):
  random = np.random.default_rng(0)
  kinds = ('cross', 'square', 'stripes')
  images = np.stack([draw_shape(kinds[i % 3], random, 16) for i in range(number)])
  return batches.Batches(images, np.arange(number) % 3, 16)


RECIPE = training.Recipe(steps=3, batch=16, learning_rate=0.1, flip=False, crop=0)


def test_every_weight_of_a_module_trains_in_a_keras_3_model(tiny_hub):
  model = _tuned(tiny_hub)
  before = [variable.numpy() for variable in model.trainable_variables]
  training.fit(model, _stream(), RECIPE)
  assert len(before) == len(hub.load(hub.resolve('test/baseline/1', tiny_hub)).variables) + 2
  for old, variable in zip(before, model.trainable_variables, strict=True):
    assert not np.array_equal(old, variable.numpy()), variable.path


def test_a_new_head_starts_at_zero_and_so_does_not_prefer_a_class(tiny_hub):
  logits = _tuned(tiny_hub)(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))
  assert np.asarray(logits).tolist() == [[0.] * 3] * 2


def test_of_a_packed_module_only_the_chosen_expert_trains(tiny_hub):
  model = _tuned(tiny_hub, 'test/packed/1', expert=1)
  stacked = [v for v in model.trainable_variables if v.shape and v.shape[0] == 2]
  assert stacked
  before = [variable.numpy() for variable in stacked]
  training.fit(model, _stream(), RECIPE)
  for old, variable in zip(before, stacked, strict=True):
    np.testing.assert_array_equal(old[0], variable.numpy()[0])
    assert not np.array_equal(old[1], variable.numpy()[1])


def test_the_light_sweep_is_that_of_vtab():
  runs = sweep.light(sweep.Plan())
  assert [(run.learning_rate, run.steps) for run in runs] == [
      (0.1, 2500), (0.1, 10_000), (0.01, 2500), (0.01, 10_000)]
  first = runs[0]
  assert (first.batch, first.momentum, first.weight_decay) == (512, 0.9, 0)
  assert not (first.flip or first.crop or first.nesterov)
  rates = [training.learning_rate(first, step) for step in (749, 750, 1499, 1500, 2249, 2250)]
  np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 0.001, 0.001, 0.0001])


@pytest.fixture
def finished(tiny_hub, picture_folder, tmp_path):
  """A task of pictures, fine-tuned on a tiny module: (result, folder of pictures)."""
  result = tuning.finetune(f'folder:{picture_folder}', 'test/baseline/1',
                           str(tmp_path / 'work'), PLAN, tiny_hub)
  return result, picture_folder


def test_fine_tuning_leaves_a_classifier_of_raw_images(finished):
  import tensorflow as tf
  result, pictures = finished
  assert len(result['tried']) == 4
  best = max(result['tried'], key=lambda one: (one['val_accuracy'], -one['val_loss']))
  assert result['setting'] == best
  assert result['test_accuracy'] > 0.5  # of three classes, after seconds of a tiny network
  model = tf.saved_model.load(result['module'])
  assert [name.decode() for name in model.class_names.numpy()] == ['cross', 'square', 'stripes']
  with np.load(result['predictions']) as file:
    logits, labels = file['logits'], file['labels']
  task = tasks.load(f'folder:{pictures}')
  raw = np.stack([image for image, _ in task.reader('test', range(12))])  # 20 x 20, not 16
  probabilities = model(raw).numpy()
  np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
  assert (probabilities.argmax(1) == logits.argmax(1)).mean() > 0.9
  assert result['test_accuracy'] == (logits.argmax(1) == labels).mean()
  assert model(np.zeros((1, 1, 1, 3), np.uint8)).shape == (1, 3)
  served = model.signatures['serving_default'](images=tf.constant(raw))
  np.testing.assert_allclose(served['probabilities'], probabilities)
  with open(os.path.join(result['module'], 'README.md'), encoding='utf-8') as file:
    assert 'fine-tuned from\n`test/baseline/1`' in file.read()


def test_the_same_command_answers_from_what_is_done(finished, tiny_hub, monkeypatch):
  result, pictures = finished
  monkeypatch.setattr(training, 'Trainer', None)  # nothing may train now
  again = tuning.finetune(f'folder:{pictures}', 'test/baseline/1',
                          os.path.dirname(result['module']), PLAN, tiny_hub)
  assert again == result


def test_a_work_dir_of_another_task_is_refused_and_left_alone(finished, tiny_hub):
  result, pictures = finished
  random = np.random.default_rng(1)
  Image.fromarray(draw_shape('cross', random)).save(f'{pictures}/cross/new.png')
  with pytest.raises(ValueError, match=r'belongs to another run: protocol is .38/10'):
    tuning.finetune(f'folder:{pictures}', 'test/baseline/1',
                    os.path.dirname(result['module']), PLAN, tiny_hub)
  with open(os.path.join(os.path.dirname(result['module']), 'result.json'),
            encoding='utf-8') as file:
    assert json.load(file) == result


def test_a_setting_that_diverges_is_noted_and_the_sweep_goes_on(
    tiny_hub, picture_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(sweep, 'LEARNING_RATES', (1e20, 0.01))
  result = tuning.finetune(f'folder:{picture_folder}', 'test/baseline/1',
                           str(tmp_path / 'work'), PLAN, tiny_hub)
  assert [one['error'] is None for one in result['tried']] == [False, False, True, True]
  assert 'at step' in result['tried'][0]['error']
  assert result['setting']['learning_rate'] == 0.01


def test_a_module_without_trainable_weights_trains_its_head_only(
    picture_folder, tmp_path, caplog):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function
  def call(images, training=False):
    del training
    return tf.reshape(tf.image.resize(images, (4, 4)), (-1, 48))

  for flag in (False, True):
    call.get_concrete_function(tf.TensorSpec([None, None, None, 3]), training=flag)
  root.__call__ = call
  tf.saved_model.save(root, str(tmp_path / 'fixed'))
  result = tuning.finetune(f'folder:{picture_folder}', str(tmp_path / 'fixed'),
                           str(tmp_path / 'work'), PLAN, image_size=16)
  assert 'only the head is trained' in caplog.text
  assert result['test_accuracy'] > 0.3


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--handle=test/nothing'], "no module 'test/nothing'"),
    (['--handle=test/packed'], 'is a packed module'),
    (['--handle=test/baseline', '--task=folder:nowhere'], 'there is no such folder'),
])
def test_bad_input_is_one_line_and_leaves_no_work_dir(tiny_hub, console, flags, complaint):
  code, out, err = console(main, f'--hub={tiny_hub}', '--work_dir=work', *flags)
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-finetune: ')
  assert err.count('\n') == 1
  assert not os.path.exists('work')


def test_steps_cannot_be_scaled_to_nothing(tiny_hub, console):
  code, _, err = console(main, f'--hub={tiny_hub}', '--handle=test/baseline', '--steps_scale=0')
  assert code == 2
  assert 'must be above 0' in err
