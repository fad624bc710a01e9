"""What trains is what the plan says, and sharing a compiled step changes no result."""

import dataclasses

import numpy as np
import pytest

from conftest import shapes_task
from finetune import main
from finetune import sweep
from finetune import transfer_main
from finetune import tuned
from selection import candidates
from zoo import batches
from zoo import tasks
from zoo import training

RECIPE = training.Recipe(steps=12, batch=16, learning_rate=0.5, nesterov=False, flip=False, crop=0)
IMAGES = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
BASELINE, EXPERT, SQUARE = 'test/baseline', 'test/expert', 'test/packed#square'


@pytest.fixture(scope='module')
def examples():
  return tasks.read(shapes_task(60, 30), ('train', None), 16)


def _weights(model):
  """Copies of all variables by path."""
  return {variable.path: np.array(variable) for variable in model.variables}


def _train(networks, candidate, setting, examples):
  """Weights before and after."""
  model, trainer = networks.of(candidate, setting)
  before = _weights(model)
  trainer.fit(batches.of(examples, setting.recipe, 3), setting.recipe)
  return before, _weights(model)


def _equal(one, other):
  assert one.keys() == other.keys()
  for path, value in one.items():
    np.testing.assert_array_equal(value, other[path], err_msg=path)


def _foreign(candidate):
  """The same module without a word on its architecture."""
  return dataclasses.replace(candidate, module=dataclasses.replace(
      candidate.module, metadata={**candidate.module.metadata, 'architecture': None}))


# What trains.


def _is_head(path):
  return path.startswith('head/')


def _is_adapter(path):
  return '/adapter/' in path


def _is_late(path):
  return '/stage2_' in path or '/norm/' in path


@pytest.mark.parametrize(('handle', 'tune', 'trains'), [
    (BASELINE, 'head', _is_head),
    (BASELINE, 'last:1', lambda path: _is_head(path) or _is_late(path)),
    (BASELINE, 'adapters', lambda path: _is_head(path) or _is_adapter(path)),
    (SQUARE, 'adapters', lambda path: _is_head(path) or _is_adapter(path)),
])
def test_a_part_trains_all_of_it_and_leaves_the_rest_to_the_bit(
    tiny_hub, examples, handle, tune, trains):
  candidate = candidates.one(handle, tiny_hub)
  before, after = _train(tuned.Networks(3), candidate, sweep.Setting(RECIPE, tune), examples)
  changed = {path for path in before if not np.array_equal(before[path], after[path])}
  assert changed == set(filter(trains, before))
  assert len(changed) < len(before)
  if handle == SQUARE:  # it trains those that it has: fresh ones would end in zeros
    assert all(np.all(value) for path, value in before.items() if path.endswith('adapter/up'))


def test_fresh_adapters_change_nothing_before_they_train(tiny_hub):
  candidate = candidates.one(BASELINE, tiny_hub)
  plain, adapted = (tuned.build(candidate, 3, tune=tune) for tune in ('whole', 'adapters'))
  np.testing.assert_array_equal(adapted.body(IMAGES), plain.body(IMAGES))
  assert set(_weights(plain)) < set(_weights(adapted))


# Parts that there are not.


def test_a_part_that_a_network_has_not_is_one_line_before_anything_is_written(
    tiny_hub, console, tmp_path):
  for binary, flags in ((main, [f'--handle={BASELINE}']), (transfer_main, [])):
    code, out, err = console(binary, f'--hub={tiny_hub}', '--tune=last:9',
                             f'--work_dir={tmp_path}/work', *flags)
    assert (code, out, err.count('\n')) == (1, '', 1)
    assert f'--tune=last:9: {BASELINE}/1 has 2 stages; use last:2 or less.' in err
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('tune', ['adapters', 'last:1'])
def test_of_a_module_not_of_ours_only_whole_and_head_are_known(tiny_hub, tune):
  foreign = _foreign(candidates.one(BASELINE, tiny_hub))
  with pytest.raises(ValueError) as error:
    tuned.build(foreign, 3, tune=tune)
  assert str(error.value) == (f'--tune={tune}: the stages of {BASELINE}/1 are not known; use '
                              'whole or head.')
  assert tuned.Networks(3).parts(foreign) == ['whole', 'head']
  whole, head = (tuned.build(foreign, 3, tune=part) for part in ('whole', 'head'))
  assert len(whole.trainable_variables) == len(whole.variables) > 10
  assert [v.path for v in head.trainable_variables] == ['head/kernel', 'head/bias']


# Sharing a compiled step.


def test_all_weights_train_and_what_was_trained_before_changes_no_result(tiny_hub, examples):
  baseline, expert = (candidates.one(handle, tiny_hub) for handle in (BASELINE, EXPERT))
  decaying = dataclasses.replace(RECIPE, weight_decay=1e-3, mixup=0.2)
  setting = sweep.Setting(dataclasses.replace(decaying, steps=4, learning_rate=0.05, seed=1))
  diverging = sweep.Setting(dataclasses.replace(decaying, learning_rate=1e20))
  others = sweep.Setting(dataclasses.replace(decaying, mixup=0.5, weight_decay=0.01), head_seed=1)
  shared = tuned.Networks(3)
  alone = _train(shared, expert, setting, examples)
  assert not any(np.array_equal(value, alone[1][path]) for path, value in alone[0].items())
  trainer = shared.of(expert, setting)[1]
  _train(shared, baseline, others, examples)
  with pytest.raises(training.NotFiniteError):
    _train(shared, expert, diverging, examples)
  after_others = _train(shared, expert, setting, examples)
  assert shared.of(expert, setting)[1] is trainer  # nothing was compiled again
  for one, other in zip(alone, after_others, strict=True):
    _equal(one, other)


def test_a_head_is_zero_or_random_as_its_seed_says_and_zero_again(tiny_hub):
  networks, candidate = tuned.Networks(3), candidates.one(BASELINE, tiny_hub)
  heads = []
  for seed in (None, 1, 2, 1, None):
    model, _ = networks.of(candidate, sweep.Setting(RECIPE, 'head', seed))
    heads.append(np.array(model.head.kernel))
    assert not np.any(model.head.bias)
  zero, one, two, one_again, zero_again = heads
  assert not zero.any() and not zero_again.any()
  np.testing.assert_array_equal(one, one_again)
  assert np.abs(one - two).min() > 0
  assert 0.1 < one.std() * 16 ** 0.5 < 2  # logits of about the size of an embedding's entries
