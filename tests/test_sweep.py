"""Plans and sweeps: the published rules as pure functions, and plans that cannot be."""

import dataclasses

import numpy as np
import pytest

from finetune import main
from finetune import sweep
from zoo import training


def _decays(recipe):
  """The steps at which the learning rate falls, once it has risen."""
  rates = [training.learning_rate(recipe, step) for step in range(recipe.warmup, recipe.steps)]
  return (recipe.warmup + 1 + np.flatnonzero(np.diff(rates))).tolist()


# BiT-HyperRule.


@pytest.mark.parametrize(('examples', 'steps', 'warmup', 'decays', 'mixup'), [
    (800, 500, 100, [200, 300, 400], 0),
    (19_999, 500, 100, [200, 300, 400], 0),
    (20_000, 10_000, 500, [3000, 6000, 9000], 0.1),
    (100_000, 10_000, 500, [3000, 6000, 9000], 0.1),
    (499_999, 10_000, 500, [3000, 6000, 9000], 0.1),
    (500_000, 20_000, 500, [6000, 12_000, 18_000], 0.1),
    (1_000_000, 20_000, 500, [6000, 12_000, 18_000], 0.1),
])
def test_the_hyper_rule_is_that_of_bit(examples, steps, warmup, decays, mixup):
  recipe = sweep.hyperrule(sweep.Plan(), examples)
  assert (recipe.steps, recipe.warmup, recipe.mixup) == (steps, warmup, mixup)
  assert (recipe.learning_rate, recipe.batch, recipe.momentum) == (0.003, 512, 0.9)
  assert (recipe.weight_decay, recipe.nesterov, recipe.label_smoothing) == (0, False, 0)
  assert _decays(recipe) == decays
  at_last = training.learning_rate(recipe, steps - 1)
  np.testing.assert_allclose(at_last, 0.003 * 0.1 ** 3)


@pytest.mark.parametrize('batch', [1, 64, 100, 1024])
def test_a_smaller_batch_takes_more_and_smaller_steps_over_as_many_images(batch):
  whole = sweep.hyperrule(sweep.Plan(), 800)
  recipe = sweep.hyperrule(sweep.Plan(batch=batch), 800)
  np.testing.assert_allclose(recipe.learning_rate, 0.003 * batch / 512)
  np.testing.assert_allclose(recipe.steps * batch, whole.steps * 512, rtol=0.002)
  np.testing.assert_allclose(recipe.warmup * batch, whole.warmup * 512, rtol=0.01)
  np.testing.assert_allclose(np.array(_decays(recipe)) * batch / 512, [200, 300, 400], rtol=0.01)


def test_the_hyper_rule_takes_a_step_however_large_the_batch():
  assert sweep.hyperrule(sweep.Plan(batch=10_000_000), 800).steps == 1


def test_the_hyper_rule_is_not_scaled():
  assert sweep.hyperrule(sweep.Plan(steps_scale=0.1), 800).steps == 500


# The light sweep, and others.


def test_the_light_sweep_is_that_of_vtab():
  runs = sweep.light(sweep.Plan())
  assert [(run.learning_rate, run.steps) for run in runs] == [
      (0.1, 2500), (0.1, 10_000), (0.01, 2500), (0.01, 10_000)]
  for run in runs:
    assert (run.batch, run.momentum, run.weight_decay, run.mixup) == (512, 0.9, 0, 0)
    assert not (run.flip or run.crop or run.nesterov)
    assert _decays(run) == [run.steps * tenths // 10 for tenths in (3, 6, 9)]
  rates = [training.learning_rate(runs[0], step) for step in (749, 750, 1499, 1500, 2249, 2250)]
  np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 0.001, 0.001, 0.0001])


def test_scaled_steps_are_never_none():
  assert [run.steps for run in sweep.light(sweep.Plan(steps_scale=1e-9))] == [1] * 4
  assert sweep.settings(sweep.Plan('fixed', steps_scale=1e-9), 800)[0].recipe.steps == 1


def test_the_fixed_sweep_is_the_one_setting_that_was_asked_for():
  plan = sweep.Plan('fixed', 'last:1', batch=32, learning_rate=0.07, steps=123, seed=5)
  setting, = sweep.settings(plan, 800)
  kept = setting.to_dict()
  assert kept == {'learning_rate': 0.07, 'steps': 123, 'batch': 32, 'weight_decay': 0,
                  'mixup': 0, 'seed': 5, 'tune': 'last:1', 'head_seed': None}
  assert setting.describe() == 'learning rate 0.07, 123 steps, last:1'


def test_a_fixed_sweep_without_steps_takes_the_first_schedule():
  assert sweep.settings(sweep.Plan('fixed', steps_scale=0.1), 800)[0].recipe.steps == 250


@pytest.mark.parametrize('kind', ['light', 'hyperrule', 'fixed'])
def test_every_setting_has_the_loss_part_and_seed_of_its_task_and_plan(kind):
  plan = sweep.Plan(kind, 'head', seed=3)
  for several, loss in ((False, 'softmax'), (True, 'sigmoid')):
    for setting in sweep.settings(plan, 800, several):
      assert (setting.recipe.loss, setting.tune, setting.recipe.seed) == (loss, 'head', 3)


def test_settings_are_drawn_within_their_ranges_and_alike_for_one_seed():
  plan = sweep.Plan(steps_scale=0.1, seed=1)
  drawn = sweep.drawn(plan, 200)
  assert drawn == sweep.drawn(plan, 200)
  assert drawn != sweep.drawn(dataclasses.replace(plan, seed=2), 200)
  for name, (low, high) in (('learning_rate', sweep.RATE_RANGE),
                            ('weight_decay', sweep.DECAY_RANGE)):
    logs = np.log([getattr(one.recipe, name) for one in drawn])
    assert np.log(low) <= logs.min() < logs.max() <= np.log(high)
    # Uniform: of 200 draws each quarter of the range has 50, give or take.
    quarters = np.histogram(logs, 4, (np.log(low), np.log(high)))[0]
    assert quarters.min() > 25
  assert {one.recipe.steps for one in drawn} == {250, 1000}
  assert {one.recipe.mixup for one in drawn} == set(sweep.MIXUPS)
  fixed = sweep.drawn(sweep.Plan('fixed', steps=7), 3)
  assert {one.recipe.steps for one in fixed} == {7}


# Plans that cannot be.


@pytest.mark.parametrize(('changes', 'complaint'), [
    ({'sweep': 'heavy'}, '--sweep=heavy is none of light, hyperrule, quick, fixed, search.'),
    ({'class_weights': 'some'}, '--class_weights=some is none of none, balanced.'),
    ({'precision': 'float16'}, '--precision=float16 is none of auto, float32, mixed_bfloat16, '
                               'mixed_float16.'),
    ({'tune': 'tail'}, '--tune=tail is none of whole, head, adapters, last:N.'),
    ({'tune': 'last'}, '--tune=last is none of'),
    ({'tune': 'last:0'}, '--tune=last:0 is none of'),
    ({'tune': 'last:-1'}, '--tune=last:-1 is none of'),
    ({'tune': 'last:two'}, '--tune=last:two is none of'),
    ({'tune': 'head:1'}, '--tune=head:1 is none of'),
    ({'batch': 0}, '--batch=0 must be above 0'),
    ({'steps_scale': 0}, '--steps_scale=0 must be above 0'),
    ({'steps_scale': float('inf')}, '--steps_scale=inf must be above 0 and finite'),
    ({'learning_rate': -0.1}, '--learning_rate=-0.1 must be above 0'),
    ({'learning_rate': float('nan')}, '--learning_rate=nan must be above 0'),
    ({'steps': 0}, '--steps=0 must be above 0'),
    ({'trials': 0}, '--trials=0 must be above 0'),
])
def test_an_impossible_plan_is_refused_by_the_name_of_its_flag(changes, complaint):
  with pytest.raises(ValueError) as error:
    sweep.Plan(**changes)
  assert str(error.value).startswith(complaint)


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--sweep=heavy'], '--sweep=heavy'),
    (['--tune=last:0'], '--tune=last:0 is none of whole, head, adapters, last:N'),
    (['--class_weights=some'], '--class_weights=some'),
    (['--precision=float16'], '--precision=float16 is none of auto, float32'),
    (['--batch=0'], '--batch=0 must be above 0'),
    (['--steps_scale=0'], '--steps_scale=0.0 must be above 0'),
    (['--steps_scale=inf'], '--steps_scale=inf must be above 0 and finite'),
    (['--sweep=fixed', '--learning_rate=-1'], '--learning_rate=-1.0 must be above 0'),
    (['--sweep=search', '--trials=0'], '--trials=0 must be above 0'),
    (['--seed=-1'], '--seed=-1'),
    (['--image_size=0'], '--image_size=0'),
    (['--learning_rate=0.1'], '--learning_rate is of --sweep=fixed'),
    (['--sweep=search', '--steps=10'], '--steps is of --sweep=fixed'),
    (['--sweep=fixed', '--trials=10'], '--trials is of --sweep=search'),
    (['--sweep=hyperrule', '--steps_scale=1'], '--steps_scale is of --sweep=light or fixed or '
                                               'search'),
])
def test_an_impossible_plan_on_the_command_line_is_one_line_and_exit_code_2(
    console, flags, complaint):
  code, out, err = console(main, '--handle=test/nothing', *flags)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert err.startswith('zoo-finetune: ')
  assert complaint in err


def test_without_an_accelerator_the_default_plan_is_small_and_changes_nothing_that_is_given():
  plan = sweep.default_plan(sweep='fixed', steps=7, batch=None)
  assert (plan.batch, plan.steps_scale) in ((64, 0.02), (512, 1.))
  assert (plan.sweep, plan.steps) == ('fixed', 7)
