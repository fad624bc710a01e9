"""Going on: a run that was stopped or killed ends with every bit of an unbroken one."""

import csv
import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import forked
from conftest import overflowing

from zoo import backbones
from zoo import batches
from zoo import checkpoint
from zoo import classifier
from zoo import preemption
from zoo import pretrain
from zoo import tasks
from zoo import train_log
from zoo import training
from zoo import weights

TINY = backbones.Architecture((1,), 8, 'basic', 4, 'small', 2, 8)
# Few and small steps, with everything on that could go astray between two processes.
RECIPE = training.Recipe(steps=60, batch=32, learning_rate=0.05, warmup=5, weight_decay=1e-3,
                         label_smoothing=0.1, crop=2, mixup=0.2)
NUMBERS = ('step', 'loss', 'accuracy', 'learning_rate')  # all of the log but the time
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def ctrl_c():
  """Ctrl-C is heard also where a shell started the tests in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


# kill -9, in processes of their own.


def command(work_dir, dies):
  """What is killed and started again. It saves after each call of the compiled loop."""
  os.environ['CUDA_VISIBLE_DEVICES'] = '-1'
  training.SECONDS_BETWEEN_CHECKPOINTS = 0
  backbones.PRESETS['tiny'] = TINY
  save = checkpoint.save

  def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

  def save_and_die(folder, model, optimizer, step, *rest):
    if dies == 'while it writes a late one' and step > 50:
      os.replace = die
    save(folder, model, optimizer, step, *rest)
    if dies == 'after its first checkpoint':
      die()
    if dies == 'from outside' and step > 40:  # the other process is slow to do it
      time.sleep(60)

  checkpoint.save = save_and_die
  pretrain.pretrain('digits', 'tiny', RECIPE, work_dir)


def log_of(folder):
  with open(os.path.join(folder, train_log.FILE), encoding='utf-8') as file:
    return [{name: float(row[name]) for name in NUMBERS} for row in csv.DictReader(file)]


def step_of(folder):
  """The step of the checkpoint; 0 without one."""
  path = folder / checkpoint.FILE
  return int(weights.load(path)['step']) if path.exists() else 0


def test_a_run_killed_again_and_again_has_every_bit_of_an_unbroken_one(tmp_path, monkeypatch):
  broken, whole = tmp_path / 'broken', tmp_path / 'whole'
  monkeypatch.setitem(backbones.PRESETS, 'tiny', TINY)
  pretrain.pretrain('digits', 'tiny', RECIPE, str(whole))
  steps = []
  for dies in ('after its first checkpoint', 'from outside', 'while it writes a late one', 'not'):
    process = forked(command, str(broken), dies)
    if dies == 'from outside':
      while process.is_alive() and step_of(broken) < 20:
        time.sleep(0.002)
      process.kill()
    process.join(300)
    # Killed, and no regular end before that.
    assert process.exitcode == (0 if dies == 'not' else -signal.SIGKILL)
    steps.append(step_of(broken))
  assert 1 == steps[0] < 20 <= steps[1] < 48 <= steps[2] < 60
  one, other = (weights.load(folder / pretrain.WEIGHTS) for folder in (broken, whole))
  assert set(one) == set(other)
  for path in one:
    np.testing.assert_array_equal(one[path], other[path], err_msg=path)
  # The log too is that of one run: each step once, and means over whole intervals.
  assert log_of(broken) == log_of(whole)
  assert [row['step'] for row in log_of(whole)] == list(range(3, 61, 3))


# Signals, in this process.


@pytest.fixture(scope='module')
def digits():
  """Batches for `RECIPE`."""
  from sklearn import datasets
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.repeat(images.reshape(-1, 8, 8, 1) * 15, 3, -1).astype(np.uint8)
  return batches.of(tasks.Examples(images, labels), RECIPE, 10)


def new_trainer(architecture=TINY):
  return training.Trainer(classifier.Classifier(backbones.build(architecture), 10), RECIPE)


@pytest.fixture(scope='module')
def trainer():
  return new_trainer()


@pytest.fixture(scope='module')
def initial(trainer):
  return weights.of(trainer.model)


@pytest.fixture(scope='module')
def unbroken(trainer, initial, digits):
  """(history, weights) of a run that nobody stopped."""
  weights.set_to(trainer.model, initial)
  return trainer.fit(digits, RECIPE), weights.of(trainer.model)


@pytest.fixture
def fresh(trainer, initial, digits):
  """A function of (work_dir, watch) that fits from the start, or from the checkpoint there."""
  def fit(work_dir=None, watch=None, by=trainer):
    weights.set_to(by.model, initial)
    return by.fit(digits, RECIPE, work_dir and str(work_dir), 'digits', watch)
  return fit


def at(step, function, *arguments):
  """A `watch` that calls a function at the row of a step."""
  return lambda row: row['step'] == step and function(*arguments)


@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('step', [3, 33, 60])
def test_a_signal_is_answered_at_once_with_a_checkpoint_from_which_the_run_goes_on(
    fresh, trainer, unbroken, tmp_path, number, step):
  before = [signal.getsignal(each) for each in SIGNALS]
  with pytest.raises(preemption.Preempted) as error:
    fresh(tmp_path, at(step, signal.raise_signal, number))
  assert str(error.value) == f'digits: stopped at step {step}; the same command goes on there.'
  assert step_of(tmp_path) == step
  assert [signal.getsignal(each) for each in SIGNALS] == before
  history, values = fresh(tmp_path), weights.of(trainer.model)
  for path, value in unbroken[1].items():
    np.testing.assert_array_equal(values[path], value, err_msg=path)
  for name in NUMBERS:
    assert [row[name] for row in history] == [row[name] for row in unbroken[0]]


def test_a_run_goes_on_with_another_trainer_as_with_its_own(fresh, unbroken, tmp_path):
  with pytest.raises(preemption.Preempted):
    fresh(tmp_path, at(30, signal.raise_signal, signal.SIGTERM))
  other = new_trainer()
  fresh(tmp_path, by=other)
  for path, value in weights.of(other.model).items():
    np.testing.assert_array_equal(value, unbroken[1][path], err_msg=path)


def test_a_signal_without_a_work_dir_stops_the_run_and_says_that_nothing_is_kept(fresh):
  with pytest.raises(preemption.Preempted, match='stopped at step 3; nothing is kept'):
    fresh(None, at(3, signal.raise_signal, signal.SIGTERM))


def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(fresh, tmp_path):
  def twice():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt) as error:
    fresh(tmp_path, at(3, twice))
  assert error.type is KeyboardInterrupt
  assert not (tmp_path / checkpoint.FILE).exists()
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_handler_is_left_behind_by_a_run_that_ends_or_fails(fresh):
  before = [signal.getsignal(each) for each in SIGNALS]
  fresh()
  assert [signal.getsignal(each) for each in SIGNALS] == before
  with pytest.raises(ZeroDivisionError):
    fresh(watch=lambda row: 1 / 0)
  assert [signal.getsignal(each) for each in SIGNALS] == before


def test_training_works_in_another_thread_than_the_main_one(fresh, unbroken):
  found = []
  thread = threading.Thread(target=lambda: found.extend(fresh()))
  thread.start()
  thread.join()
  assert [row['loss'] for row in found] == [row['loss'] for row in unbroken[0]]


@pytest.fixture
def heard():
  """The signals that came to the process itself."""
  came = []
  before = {number: signal.signal(number, lambda number, _: came.append(number))
            for number in SIGNALS}
  yield came
  for number, handler in before.items():
    signal.signal(number, handler)


def test_a_signal_that_came_too_late_is_not_lost(heard):
  with preemption.noticed() as notice:
    signal.raise_signal(signal.SIGTERM)
    assert notice.asked == signal.SIGTERM
    assert not heard
  assert heard == [signal.SIGTERM]
  with pytest.raises(RuntimeError), preemption.noticed():
    signal.raise_signal(signal.SIGINT)
    raise RuntimeError('another reason')
  assert heard == [signal.SIGTERM, signal.SIGINT]


def test_a_signal_that_was_answered_is_not_heard_again(heard):
  with pytest.raises(preemption.Preempted), preemption.noticed():
    signal.raise_signal(signal.SIGTERM)
    raise preemption.Preempted
  assert not heard


def test_a_signal_that_the_process_ignores_stays_ignored(heard):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the shell does for `command &`
  with preemption.noticed() as notice:
    signal.raise_signal(signal.SIGINT)
    assert notice.asked is None
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  assert not heard


def test_the_rows_before_a_stop_are_in_tensorboard(fresh, tmp_path):
  import tensorflow as tf
  with pytest.raises(preemption.Preempted):
    fresh(tmp_path, at(9, signal.raise_signal, signal.SIGTERM))
  events = sorted((tmp_path / train_log.TENSORBOARD).iterdir())
  steps = [event.step for event in tf.compat.v1.train.summary_iterator(str(events[0]))
           if any(value.tag == 'loss' for value in event.summary.value)]
  assert steps == [3, 6, 9]


# What else is in a checkpoint, and what is none.


def test_the_loss_scale_goes_on_where_it_was(tmp_path):
  model, stream = overflowing()
  recipe = training.Recipe(steps=6, batch=4, learning_rate=1e-3, flip=False, crop=0)
  trainer = training.Trainer(model, recipe)
  initial, values = weights.of(model), []
  trainer.fit(stream, recipe, watch=lambda _: values.append(np.asarray(model.variables[0])))
  weights.set_to(model, initial)
  # Three halvings of the scale, and no more than three steps that are left out.
  with pytest.raises(preemption.Preempted):
    trainer.fit(stream, recipe, str(tmp_path), watch=at(3, signal.raise_signal, signal.SIGTERM))
  resumed = []
  trainer.fit(stream, recipe, str(tmp_path),
              watch=lambda _: resumed.append(np.asarray(model.variables[0])))
  np.testing.assert_array_equal(resumed, values[3:])
  assert np.any(resumed[0] != initial[model.variables[0].path])


DEEPER = dataclasses.replace(TINY, depths=(2,))


@pytest.mark.parametrize(('there', 'here', 'difference'), [
    (TINY, dataclasses.replace(TINY, width=16), r'is \(8,\) there, \(16,\) here'),
    (TINY, dataclasses.replace(TINY, stem='imagenet'), r'is \(3, 3, 3, 8\) there, \(7, 7, 3, 8\)'),
    (TINY, DEEPER, r'is absent there, \(.*\) here'),
    (DEEPER, TINY, r'is \(.*\) there, absent here'),
])
def test_a_checkpoint_of_another_network_is_refused_and_left_alone(
    tmp_path, digits, there, here, difference):
  there, here = new_trainer(there), new_trainer(here)
  checkpoint.save(str(tmp_path), there.model, there._optimizer, 3, [], [[], []])
  before = (tmp_path / checkpoint.FILE).read_bytes()
  with pytest.raises(ValueError, match=f'is the checkpoint of another network .*{difference}'
                     ) as error:
    here.fit(digits, RECIPE, str(tmp_path))
  assert '\n' not in str(error.value)
  assert str(error.value).endswith('name another --work_dir, or remove it.')
  assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [checkpoint.FILE]
  assert (tmp_path / checkpoint.FILE).read_bytes() == before


@pytest.mark.parametrize('damage', [
    lambda whole: whole[:len(whole) // 2], lambda whole: b'', lambda whole: b'no archive',
    lambda whole: whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]])
def test_a_damaged_checkpoint_is_refused_and_left_alone(fresh, trainer, tmp_path, damage):
  checkpoint.save(str(tmp_path), trainer.model, trainer._optimizer, 3, [], [[], []])
  path = tmp_path / checkpoint.FILE
  path.write_bytes(damage(path.read_bytes()))
  before = path.read_bytes()
  with pytest.raises(ValueError) as error:
    fresh(tmp_path)
  assert str(path) in str(error.value)
  assert 'is not a whole .npz file' in str(error.value)
  assert str(error.value).endswith('Remove it, or name another --work_dir.')
  assert path.read_bytes() == before
  assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [checkpoint.FILE]
