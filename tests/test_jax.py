"""Training by JAX, where there is no TensorFlow: the same losses, on one device or several."""

import contextlib
import dataclasses
import io
import json
import signal
import sys

import numpy as np
import pytest

from conftest import TREE
from conftest import run_alone

pytest.importorskip('jax', reason='the extra `jax` is not installed')

BATCH, STEPS, CLASSES = 12, 6, 3


def alone(function, *arguments):
  """Runs a function of this file by JAX, with two devices and without TensorFlow."""
  run_alone(without_tensorflow, function.__name__, *map(str, arguments), KERAS_BACKEND='jax',
            XLA_FLAGS='--xla_force_host_platform_device_count=2 '
                      '--xla_backend_optimization_level=0')  # compiles in half the time


def without_tensorflow(function, *arguments):
  sys.modules.update(tensorflow=None, tensorflow_datasets=None)  # to import them is an error
  globals()[function](*arguments)


def architecture(sparse_layers):
  from zoo import sparse
  from zoo import vit
  # Without noise, which every backend draws for itself.
  config = sparse.SparseConfig((0,), experts=4, group=2, noise=0., load=0., importance=.1)
  return vit.Architecture(4, 8, 1, 2, 12, 16, 'mean', sparse=config if sparse_layers else None)


def recipe(**changes):
  from zoo import training
  return dataclasses.replace(training.Recipe(
      STEPS, BATCH, 0.05, warmup=2, weight_decay=1e-2, label_smoothing=.1, mixup=.2), **changes)


def examples():
  from zoo import tasks
  random = np.random.default_rng(0)
  return tasks.Examples(random.integers(0, 256, (30, 16, 16, 3)).astype(np.uint8),
                        random.integers(0, CLASSES, 30))


def trainer_of(start=None, sparse_layers=True, **changes):
  from zoo import backbones
  from zoo import classifier
  from zoo import training
  from zoo import weights
  model = classifier.Classifier(backbones.build(architecture(sparse_layers)), CLASSES)
  weights.set_to(model, weights.load(start) if start else {}, partly=not start)
  return training.Trainer(model, recipe(**changes))


def fit(trainer, work_dir=None, watch=None, **changes):
  """The losses of a run."""
  from zoo import batches
  own = recipe(**changes)
  rows = trainer.fit(batches.of(examples(), own, CLASSES), own, work_dir, watch=watch)
  return [row['loss'] for row in rows]


def write(folder, name, trainer, losses):
  """Keeps losses and weights of a run."""
  from zoo import weights
  weights.save(f'{folder}/{name}.npz', weights.of(trainer.model))
  with open(f'{folder}/{name}.json', 'w', encoding='utf-8') as file:
    json.dump(losses, file)


def write_outputs(folder, name, trainer):
  """Keeps logits, and where tokens went."""
  from zoo import expert_load
  own = examples()
  np.savez(f'{folder}/{name}-outputs.npz', logits=trainer.predict(own.images, 8),
           load=expert_load.Meter(trainer.model.backbone, own.images, own.labels,
                                  CLASSES).measure().by_class)


def compare(folder, name, other, rtol=1e-4):
  from zoo import weights
  found, wanted = (json.loads((folder / f'{one}.json').read_text()) for one in (name, other))
  np.testing.assert_allclose(found, wanted, rtol=rtol)
  values, others = (weights.load(folder / f'{one}.npz') for one in (name, other))
  assert values.keys() == others.keys()
  for path, value in values.items():
    np.testing.assert_allclose(value, others[path], atol=1e-4, err_msg=path)


RUNS = {'dense': {'sparse_layers': False, 'optimizer': 'adam', 'learning_rate': 1e-3,
                  'schedule': 'steps'}, 'sparse': {}}


def without_layers(changes):
  return {name: value for name, value in changes.items() if name != 'sparse_layers'}


def by_jax(folder):
  """The runs of RUNS, a stopped one, one in parts, and on two devices."""
  import jax
  import keras
  from zoo import preemption
  from zoo import strategies
  from zoo import weights
  start = {name: f'{folder}/{name}-start.npz' for name in RUNS}
  trainers = {}
  for name, changes in RUNS.items():
    trainer = trainers[name] = trainer_of(start[name], **changes)
    write(folder, f'{name}-jax', trainer, fit(trainer, **without_layers(changes)))
  write_outputs(folder, 'jax', trainer)

  trainer = trainers['sparse']
  weights.set_to(trainer.model, weights.load(start['sparse']))
  with contextlib.suppress(preemption.Preempted):
    fit(trainer, f'{folder}/run', lambda row: row['step'] == 3 and signal.raise_signal(
        signal.SIGTERM))
  weights.set_to(trainer.model, weights.load(start['sparse']))  # the checkpoint is what counts
  write(folder, 'resumed', trainer, fit(trainer, f'{folder}/run'))

  def out_of_memory(*_):
    trainer._steps.halve()  # so that the next try, which halves again, is of three images
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: made for a test')

  trainer = trainers['dense']
  weights.set_to(trainer.model, weights.load(start['dense']))
  trainer._steps._step = out_of_memory
  write(folder, 'parts', trainer, fit(trainer, **without_layers(RUNS['dense'])))
  assert trainer._steps.at_once == 3

  devices = strategies.make('experts')
  assert devices.num_replicas_in_sync == 2
  with devices.scope():
    trainer = trainer_of(start['sparse'])
    losses = fit(trainer)
    where = {v.path.rpartition('/')[-1]: v.value.sharding.shard_shape(v.shape)[0]
             for v in trainer.model.backbone.units[0].mlp.variables if v.ndim > 1}
    assert where == {'gate': 8, 'kernel0': 2, 'bias0': 2, 'kernel1': 2, 'bias1': 2}
    write(folder, 'experts', trainer, losses)
  assert keras.distribution.distribution() is None


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The same runs by TensorFlow and by JAX, from the same weights."""
  from zoo import weights
  folder = tmp_path_factory.mktemp('jax')
  for name, changes in RUNS.items():
    trainer = trainer_of(**changes)
    weights.save(folder / f'{name}-start.npz', weights.of(trainer.model))
    write(folder, f'{name}-tf', trainer, fit(trainer, **without_layers(changes)))
  write_outputs(folder, 'tf', trainer)
  alone(by_jax, folder)
  return folder


@pytest.mark.parametrize('name', RUNS)
def test_jax_trains_as_tensorflow_does(folder, name):
  compare(folder, f'{name}-jax', f'{name}-tf')


def test_jax_computes_and_routes_as_tensorflow_does(folder):
  found, wanted = (np.load(folder / f'{one}-outputs.npz') for one in ('jax', 'tf'))
  np.testing.assert_allclose(found['logits'], wanted['logits'], atol=1e-4)
  np.testing.assert_allclose(found['load'], wanted['load'], atol=.02)  # one may change sides


def test_a_stopped_run_goes_on_exactly(folder):
  compare(folder, 'resumed', 'sparse-jax', rtol=1e-7)


def test_a_run_that_jax_began_goes_on_by_tensorflow(folder):
  from zoo import weights
  trainer = trainer_of()
  assert np.load(folder / 'run' / 'checkpoint.npz')['step'] == 3
  losses = fit(trainer, str(folder / 'run'))
  wanted = json.loads((folder / 'sparse-jax.json').read_text())
  np.testing.assert_allclose(losses, wanted, rtol=1e-4)
  for path, value in weights.load(folder / 'sparse-jax.npz').items():
    np.testing.assert_allclose(weights.of(trainer.model)[path], value, atol=1e-4, err_msg=path)


def test_a_batch_in_parts_is_the_batch(folder):
  compare(folder, 'parts', 'dense-jax')


def test_two_devices_that_share_out_batches_and_experts_train_as_one_does(folder):
  compare(folder, 'experts', 'sparse-jax')


# The whole line: trained by JAX from a file of arrays, published and loaded by TensorFlow.


def says(main, flags, *more):
  """What a binary that fails says."""
  from zoo import cli
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    assert cli.run(main, flags, list(more)) == 1
  return said.getvalue()


def pretrain_by_jax(folder):
  from zoo import backbones
  from zoo import cli
  from zoo import experts
  from zoo import pretrain
  backbones.PRESETS['tiny_vmoe'] = architecture(True)
  more = ['--batch=8', '--warmup=1', '--precision=float32']
  assert cli.run(pretrain.main, pretrain.FLAGS, [
      f'--task=npz:{folder}/digits.npz', '--preset=tiny_vmoe', '--steps=2',
      f'--work_dir={folder}/baseline', '--strategy=mirrored', *more]) == 0
  with open(f'{folder}/tree.json', 'w', encoding='utf-8') as file:
    json.dump(TREE, file)
  assert cli.run(experts.main, experts.FLAGS, [
      f'--baseline={folder}/baseline', f'--work_dir={folder}/experts', '--steps=1', '--slices=high',
      '--min_examples=100', f'--hierarchy={folder}/tree.json', *more]) == 0

  # What JAX has not is one line.
  own = (pretrain.main, pretrain.FLAGS, '--task=digits', '--preset=tiny_vmoe', '--steps=1')
  assert 'multi_worker is none of default, mirrored, experts' in says(
      *own, f'--work_dir={folder}/a', '--strategy=multi_worker')
  assert 'mixed_float16 trains with TensorFlow only: use mixed_bfloat16.' in says(
      *own, f'--work_dir={folder}/b', '--precision=mixed_float16')


def test_saved_models_are_not_for_jax(monkeypatch, tmp_path):
  import keras
  from export import saved_model
  monkeypatch.setattr(keras.backend, 'backend', lambda: 'jax')
  with pytest.raises(ValueError, match='Keras computes by jax: unset KERAS_BACKEND'):
    saved_model.save(None, str(tmp_path / 'module'))


def test_what_jax_trains_from_a_file_of_arrays_is_published_and_ranked(tmp_path, capsys):
  from export import publish
  from selection import rank_main
  from zoo import cli
  from zoo import npz_tasks
  from zoo import tasks
  npz_tasks.save(tasks.digits(), tmp_path / 'digits.npz', 16)
  alone(pretrain_by_jax, tmp_path)
  assert cli.run(publish.main, publish.FLAGS, [
      f'--work_dir={tmp_path}/baseline', f'--hub={tmp_path}/hub', '--publisher=me',
      '--name=base']) == 0
  capsys.readouterr()
  assert cli.run(rank_main.main, rank_main.FLAGS, [
      '--task=digits[label=0|1|2]', f'--hub={tmp_path}/hub', '--json']) != 0
  # Arrays that say whose they are keep their experts from being tested on what they have seen.
  assert 'learnt from the data set of the task' in capsys.readouterr().err
