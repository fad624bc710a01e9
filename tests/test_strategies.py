"""Strategies: the same training on one device, on several and in several processes.

Where processes are needed they run this file's `child`, and are killed hard in the end:
TensorFlow hears no signal while it waits for another process.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import overflowing

from zoo import backbones
from zoo import batches
from zoo import checkpoint
from zoo import classifier
from zoo import preemption
from zoo import strategies
from zoo import train_log
from zoo import training
from zoo import weights

TINY = backbones.Architecture((1, 1), 8, 'basic', 4, 'small', 2, 8)
RECIPE = training.Recipe(steps=12, batch=8, learning_rate=0.05, warmup=2, weight_decay=1e-3,
                         label_smoothing=0.1, crop=2, mixup=0.2)
EXAMPLES = 37  # in batches of 8 to train and of 3 to predict, over 2 replicas: nothing is even
STOP = 7  # the step after which a process is told to stop
TIMES = {'default': 1, 'mirrored': 2}  # logical CPUs of the strategies on one machine


# What a process does.


def child(name, devices, last, own, shared):
  """Trains under a strategy, thrice, and prints what came of it as JSON.

  Args:
    name: as `strategies.make` takes it.
    devices: how many logical CPUs.
    last: whether this is the last of the processes, and not the one that writes: it is told
      to stop.
    own, shared: work directories of this process, and of all of them.
  """
  import tensorflow as tf
  cpu, = tf.config.list_physical_devices('CPU')
  tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
  training.SECONDS_BETWEEN_CHECKPOINTS = 0
  strategy = strategies.make(name, seconds=60)
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

  whole = trainer.fit(stream, RECIPE, own)
  logits = trainer.predict(images, batch=3)
  weights.set_to(model, initial)
  stopped = complaint(preemption.Preempted, trainer.fit, stream, RECIPE, shared, watch=tell)
  strategies.barrier(strategy)  # for the time that passes until the command is given again
  weights.set_to(model, {path: np.zeros_like(value) for path, value in initial.items()})
  resumed = trainer.fit(stream, RECIPE, shared)
  found = {'replicas': strategy.num_replicas_in_sync, 'whole': whole, 'logits': logits.tolist(),
           'stopped': stopped, 'resumed': resumed}
  if name == 'multi_worker':
    found['apart'] = complaint(ValueError, trainer.fit, stream, RECIPE, own)
  if name == 'mirrored':
    with strategy.scope():
      for batch in (9, 1):
        odd = dataclasses.replace(RECIPE, batch=batch)
        found[f'batch of {batch}'] = complaint(ValueError, training.Trainer, model, odd)
      found['overflow'] = overflow()
  print(json.dumps(found), flush=True)
  strategies.barrier(strategy)


def complaint(kind, function, *arguments, **options):
  """What an error says, or '' if there is none."""
  try:
    function(*arguments, **options)
  except kind as error:
    return str(error)
  return ''


def overflow():
  """A weight after each of 6 steps [6, replicas], of which 3 overflow on one replica."""
  model, stream = overflowing()
  recipe = training.Recipe(steps=6, batch=4, learning_rate=1e-3, flip=False, crop=0)
  found = []

  def look(row):
    del row
    found.append([float(value.numpy()[0, 0]) for value in model.variables[0].value.values])

  training.Trainer(model, recipe).fit(stream, recipe, watch=look)
  return found


# Of the processes.


def free_ports(number):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.create_server(('', 0))) for _ in range(number)]
    return [each.getsockname()[1] for each in sockets]


def tf_config(ports, index, kind='worker'):
  cluster = {'worker': [f'127.0.0.1:{port}' for port in ports]}
  return json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}})


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """What `child` found: under 'default', 'mirrored', and as 'chief' and 'worker' of two.

  All run at once. Also 'folders', where their work directories are.
  """
  folder = tmp_path_factory.mktemp('strategies')
  ports = free_ports(2)
  settings = {'default': ('default', 1, True), 'mirrored': ('mirrored', 2, True),
              'chief': ('multi_worker', 1, False), 'worker': ('multi_worker', 1, True)}
  code = (f'import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); '
          'import test_strategies; test_strategies.child')
  started = {}
  try:
    for who, (name, devices, last) in settings.items():
      own = str(folder / who)
      shared = str(folder / (name if name == 'multi_worker' else f'{who} stopped'))
      env = os.environ | {'CUDA_VISIBLE_DEVICES': '-1', 'TF_CPP_MIN_LOG_LEVEL': '2'}
      if name == 'multi_worker':
        env['TF_CONFIG'] = tf_config(ports, int(last))
      started[who] = subprocess.Popen(
          [sys.executable, '-c', f'{code}{(name, devices, last, own, shared)!r}'], env=env,
          stdout=subprocess.PIPE, stderr=(folder / f'{who}.err').open('wb'))
    until = time.monotonic() + 300
    found = {'folders': folder}
    for who, process in started.items():
      output, _ = process.communicate(timeout=max(until - time.monotonic(), 1))
      assert process.returncode == 0, (folder / f'{who}.err').read_text()[-2000:]
      found[who] = json.loads(output)
    return found
  finally:
    for process in started.values():
      process.kill()
      process.wait()


def test_x(runs):
  for k, v in runs.items():
    if k != 'folders':
      print(k, {a: b for a, b in v.items() if a not in ('logits', 'whole', 'resumed')}, [r['loss'] for r in v['whole']], [r['loss'] for r in v['resumed']], np.sum(v['logits']))
