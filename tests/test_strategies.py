"""Strategies: the same training on one device, on several and in several processes.

Processes of their own run `child`, and are killed hard in the end: TensorFlow hears no signal
while it waits for another process.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import threading
import time
import types

import numpy as np
import pytest
from conftest import forked
from conftest import overflowing

from zoo import atomic
from zoo import backbones
from zoo import batches
from zoo import checkpoint
from zoo import classifier
from zoo import preemption
from zoo import strategies
from zoo import train_log
from zoo import training
from zoo import weights

TINY = backbones.Architecture((1,), 8, 'basic', 4, 'small', 2, 8)
RECIPE = training.Recipe(steps=12, batch=8, learning_rate=0.05, warmup=2, weight_decay=1e-3,
                         label_smoothing=0.1, crop=2, mixup=0.2)
EXAMPLES = 37  # in batches of 8 to train and of 3 to predict, over 2 replicas: nothing is even
STOP = 7  # the step after which a process is told to stop


# What a process does.


def train(strategy, last, own, shared):
  """Trains twice, whole and stopped on its way, and predicts.

  Args:
    strategy: that of the run.
    last: whether this is the last of its processes, which is told to stop and, where there
      are several, is not the one that writes.
    own, shared: work directories of this process, and of all of its run.
  """
  images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 8, 8, 3), np.uint8)
  examples = types.SimpleNamespace(images=images, labels=np.arange(EXAMPLES) % 3)
  stream = batches.of(examples, RECIPE, 3)
  with strategy.scope():
    model = classifier.Classifier(backbones.build(TINY), 3)
    trainer = training.Trainer(model, RECIPE)
  initial = weights.of(model)

  def tell(row):
    if last and row['step'] == STOP:
      os.kill(os.getpid(), signal.SIGTERM)

  found = {'replicas': strategy.num_replicas_in_sync, 'whole': trainer.fit(stream, RECIPE, own),
           'logits': trainer.predict(images, batch=3).tolist()}
  weights.set_to(model, initial)
  found['stopped'] = complaint(
      preemption.Preempted, trainer.fit, stream, RECIPE, shared, watch=tell)
  strategies.barrier(strategy)  # for the time that passes until the command is given again
  weights.set_to(model, {path: np.zeros_like(value) for path, value in initial.items()})
  found['resumed'] = trainer.fit(stream, RECIPE, shared)
  if strategies.processes(strategy) > 1:
    found['apart'] = complaint(ValueError, trainer.fit, stream, RECIPE, own)
  return found


def child(name, devices, last, own, shared, ports):
  """Trains in a process with so many logical CPUs; what came of it is JSON beside `own`."""
  os.environ |= {'CUDA_VISIBLE_DEVICES': '-1', 'TF_CONFIG': tf_config(ports, int(last))}
  import tensorflow as tf
  training.SECONDS_BETWEEN_CHECKPOINTS = 0
  cpu, = tf.config.list_physical_devices('CPU')
  tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
  strategy = strategies.make(name, seconds=60)
  found = train(strategy, last, own, shared)
  if name == 'mirrored':
    with strategy.scope():
      model, stream = overflowing()
      found['odd'] = [
          complaint(ValueError, training.Trainer, model, dataclasses.replace(RECIPE, batch=batch))
          for batch in (9, 1)]
      found['overflow'] = overflow(model, stream)
  atomic.write_json(f'{own}.json', found)
  strategies.barrier(strategy)


def complaint(kind, function, *arguments, **options):
  """What an error says, or '' if there is none."""
  try:
    function(*arguments, **options)
  except kind as error:
    return str(error)
  return ''


def overflow(model, stream):
  """A weight after each of 6 steps [6, replicas]."""
  recipe = training.Recipe(steps=6, batch=4, learning_rate=1e-3, flip=False, crop=0)
  found = []

  def look(row):
    del row
    found.append([float(value.numpy()[0, 0]) for value in model.variables[0].value.values])

  training.Trainer(model, recipe).fit(stream, recipe, watch=look)
  return found


# Processes.


def free_ports(number):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.create_server(('', 0))) for _ in range(number)]
    return [each.getsockname()[1] for each in sockets]


def tf_config(ports, index):
  workers = [f'127.0.0.1:{port}' for port in ports]
  return json.dumps({'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}})


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """What `train` found as 'one', under 'mirrored', and as 'chief' and 'worker' of two.

  All at once, 'one' in this process. Their own work directories are in runs['folder'].
  """
  folder = tmp_path_factory.mktemp('strategies')
  ports = free_ports(2)
  found, started = {'folder': folder}, {}
  try:
    for who, name, devices in (('mirrored', 'mirrored', 2), ('chief', 'multi_worker', 1),
                               ('worker', 'multi_worker', 1)):
      started[who] = forked(child, name, devices, who != 'chief', str(folder / who),
                            str(folder / f'shared by {name}'), ports)
    found['one'] = train(strategies.make('one_device:CPU:0'), True, None, str(folder / 'one'))
    until = time.monotonic() + 240
    for who, process in started.items():
      process.join(max(until - time.monotonic(), 1))
      assert process.exitcode == 0, who
      found[who] = atomic.read_json(folder / f'{who}.json')
    return found
  finally:
    for process in started.values():
      process.kill()
      process.join()


def column(rows, name):
  return [row[name] for row in rows]


# The promises.


def test_losses_accuracies_and_predictions_are_those_of_one_device_under_every_strategy(runs):
  one = runs['one']
  assert [runs[who]['replicas'] for who in ('one', 'mirrored', 'chief', 'worker')] == [1, 2, 2, 2]
  assert np.ptp(column(one['whole'], 'loss')) > 0.01  # it trains, and examples differ
  for who in ('mirrored', 'chief', 'worker'):
    for name in ('loss', 'accuracy', 'learning_rate'):
      np.testing.assert_allclose(
          column(runs[who]['whole'], name), column(one['whole'], name), rtol=1e-5, err_msg=who)
    assert np.shape(runs[who]['logits']) == (EXAMPLES, 3)
    np.testing.assert_allclose(
        runs[who]['logits'], one['logits'], rtol=1e-4, atol=1e-6, err_msg=who)


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_same_command_goes_on(runs):
  for who in ('one', 'mirrored', 'chief', 'worker'):
    assert runs[who]['stopped'] == (
        f'training: stopped at step {STOP}; the same command goes on there.')
    np.testing.assert_allclose(
        column(runs[who]['resumed'], 'loss'), column(runs[who]['whole'], 'loss'), rtol=1e-6)


def test_of_two_workers_only_the_first_writes_and_both_have_the_same_history(runs):
  written = {path.name for path in (runs['folder'] / 'chief').iterdir()}
  assert written == {checkpoint.FILE, train_log.FILE, train_log.TENSORBOARD}
  assert not (runs['folder'] / 'worker').exists()
  for name in ('step', 'loss', 'accuracy'):
    assert column(runs['chief']['whole'], name) == column(runs['worker']['whole'], name)


def test_workers_that_do_not_see_the_same_checkpoint_do_not_go_on(runs):
  # The second has its own folder, where nothing is.
  for who, step in (('chief', RECIPE.steps), ('worker', 0)):
    assert runs[who]['apart'] == (
        f'training: the workers went on from different steps, this one from {step}: give all '
        'the same --work_dir, in a folder that they share.')


def test_a_batch_that_does_not_split_evenly_is_refused_with_those_that_do(runs):
  nine, one = runs['mirrored']['odd']
  assert nine == ('a batch of 9 does not split evenly over 2 replicas: use --batch=8 or 10.')
  assert one == ('a batch of 1 does not split evenly over 2 replicas: use --batch=2.')


def test_a_step_that_overflows_on_one_replica_is_left_out_on_all(runs):
  weight = np.array(runs['mirrored']['overflow'])
  np.testing.assert_array_equal(weight[:, 0], weight[:, 1])
  assert (weight[:3] == 0).all()
  assert (np.diff(weight[2:, 0]) < 0).all()


# Names and TF_CONFIG.


@pytest.mark.parametrize('name', ['mirored', 'one_device', 'one_device:', 'default:CPU:0',
                                  'mirrored:2', 'tpu', ''])
def test_a_wrong_name_is_refused_with_all_that_there_are(name):
  with pytest.raises(ValueError) as error:
    strategies.make(name)
  assert str(error.value) == (f'--strategy={name} is none of default, one_device:DEVICE, '
                              'mirrored, multi_worker, tpu:NAME.')


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
  with pytest.raises(ValueError) as error:
    strategies.make('one_device:GPU:7')
  assert str(error.value).startswith(
      '--strategy=one_device:GPU:7: there is no device GPU:7; there are CPU:0')


@pytest.mark.parametrize('name', ['no-such-tpu.invalid', 'grpc://127.0.0.1:1'])
def test_a_tpu_that_does_not_answer_is_one_line(name):
  with pytest.raises(ValueError) as error:
    strategies.make(f'tpu:{name}')
  assert str(error.value).startswith(f'--strategy=tpu:{name}: no TPU answers there (')
  assert '\n' not in str(error.value)


def config(workers=('a:1', 'b:2'), kind='worker', index=0):
  return json.dumps({'cluster': {'worker': workers}, 'task': {'type': kind, 'index': index}})


@pytest.mark.parametrize(('text', 'what'), [
    (None, 'needs the environment variable TF_CONFIG, such as {"cluster"'),
    ('', 'needs the environment variable TF_CONFIG, such as {"cluster"'),
    ('{cluster}', 'TF_CONFIG is wrong (Expecting property name'),
    ('[]', 'TF_CONFIG is wrong ('),
    ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG is wrong (no 'task')"),
    (config(index=2), 'TF_CONFIG is wrong (task worker 2 is not in the cluster)'),
    (config(kind='chief'), 'TF_CONFIG is wrong (task chief 0 is not in the cluster)'),
    (config(('a:1', 'b')), "TF_CONFIG is wrong ('b' is no host:port)"),
    (config((':1', 'b:2')), "TF_CONFIG is wrong (':1' is no host:port)"),
    (config(('a:1', 'b:65536')), "TF_CONFIG is wrong ('b:65536' is no host:port)"),
    (config(('a:1', 'b:http')), "TF_CONFIG is wrong ('b:http' is no host:port)"),
    (config('a:1'), "TF_CONFIG is wrong ('a' is no host:port)"),
])
def test_a_wrong_tf_config_is_one_line_that_shows_a_right_one(monkeypatch, text, what):
  monkeypatch.delenv('TF_CONFIG', raising=False)
  if text is not None:
    monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(ValueError) as error:
    strategies.make('multi_worker')
  assert what in str(error.value)
  assert '"task": {"type": "worker", "index": 0}}' in str(error.value)
  assert '\n' not in str(error.value)


def test_a_process_that_has_used_tensorflow_cannot_become_a_worker(monkeypatch):
  strategies.make('one_device:CPU:0')
  monkeypatch.setenv('TF_CONFIG', tf_config(free_ports(1), 0))
  with pytest.raises(ValueError, match='must be made before TensorFlow is used'):
    strategies.make('multi_worker')


# How workers find each other.


def test_a_worker_that_does_not_come_is_named(monkeypatch):
  ports = free_ports(2)
  monkeypatch.setenv('TF_CONFIG', tf_config(ports, 0))
  with pytest.raises(TimeoutError, match=rf'after 0.5 s there is no worker 1 at .*:{ports[1]}: '
                                         'start all workers'):
    strategies.make('multi_worker', seconds=0.5)


def test_a_first_worker_that_does_not_come_is_named(monkeypatch):
  ports = free_ports(2)
  monkeypatch.setenv('TF_CONFIG', tf_config(ports, 1))
  with pytest.raises(TimeoutError, match=f'the first worker, at 127.0.0.1:{ports[0]}, did not'):
    strategies.make('multi_worker', seconds=0.5)


@pytest.mark.parametrize('index', [0, 1])
def test_a_port_in_use_is_one_line_for_every_worker(monkeypatch, index):
  ports = free_ports(2)
  monkeypatch.setenv('TF_CONFIG', tf_config(ports, index))
  with socket.create_server(('', ports[index])), pytest.raises(ValueError) as error:
    strategies.make('multi_worker', seconds=0.5)
  assert str(error.value) == (f'TF_CONFIG: port {ports[index]} of this worker cannot be used '
                              '(Address already in use): name another.')


class Worker(threading.Thread):
  """One of some workers, which meets the others from now on; `join` gives its error or None."""

  def __init__(self, ports, index, seconds):
    super().__init__(daemon=True)
    self._error = None
    self._arguments = [f'127.0.0.1:{port}' for port in ports], index, seconds
    self.start()

  def run(self):
    try:
      strategies.meet(*self._arguments)
    except (OSError, ValueError) as error:
      self._error = error

  def join(self, timeout=30):
    super().join(timeout)
    assert not self.is_alive()
    return self._error


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0)])
def test_workers_meet_in_whatever_order_they_come(order):
  ports = free_ports(3)
  workers = []
  for index in order:
    workers.append(Worker(ports, index, 20))
    time.sleep(0.1)
  assert [worker.join() for worker in workers] == [None] * 3


def test_where_one_of_three_does_not_come_both_others_say_so():
  ports = free_ports(3)
  chief, worker = Worker(ports, 0, 1), Worker(ports, 2, 1)
  assert f'there is no worker 1 at 127.0.0.1:{ports[1]}:' in str(chief.join())
  assert 'did not come or missed another one for 1 s' in str(worker.join())


def connected(port):
  """A connection to a port on which somebody is about to listen."""
  for _ in range(100):
    with contextlib.suppress(OSError):
      return socket.create_connection(('127.0.0.1', port), timeout=5)
    time.sleep(0.05)
  raise TimeoutError('nobody listens')


@pytest.mark.parametrize('said', [
    b'', b'GET / HTTP/1.1\r\n\r\n', bytes(4), (1).to_bytes(4, 'big'), b'zoo worker' + bytes(4),
    b'zoo worker' + (7).to_bytes(4, 'big')])
def test_who_says_nothing_or_something_else_at_the_port_is_no_worker(said):
  ports = free_ports(2)
  chief = Worker(ports, 0, 0.5)
  with connected(ports[0]) as stray:
    stray.sendall(said)
    stray.shutdown(socket.SHUT_WR)
    assert f'there is no worker 1 at 127.0.0.1:{ports[1]}:' in str(chief.join())


def test_strays_and_a_worker_that_was_started_twice_keep_nobody_from_meeting():
  ports = free_ports(3)
  chief = Worker(ports, 0, 20)
  with connected(ports[0]) as silent, connected(ports[0]) as gone:
    gone.sendall(b'zoo worker' + (1).to_bytes(4, 'big'))
    gone.close()
    workers = [Worker(ports, 1, 20), Worker(ports, 2, 20)]
    assert [worker.join() for worker in (chief, *workers)] == [None] * 3
    assert silent.recv(1) == b''


def test_a_worker_that_came_and_went_is_missing():
  ports = free_ports(3)
  chief = Worker(ports, 0, 2)
  with connected(ports[0]) as first:
    first.sendall(b'zoo worker' + (1).to_bytes(4, 'big'))
  worker = Worker(ports, 2, 2)
  assert f'there is no worker 1 at 127.0.0.1:{ports[1]}:' in str(chief.join())
  assert worker.join() is not None
