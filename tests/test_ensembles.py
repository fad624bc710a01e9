"""Ensembles: chosen by val, thrifty with what is done, and one module in the end."""

import collections
import json
import os

import numpy as np
import pytest

from conftest import draw_shape
from finetune import calibration
from finetune import ensembles
from finetune import metrics
from finetune import predictor
from finetune import runs
from finetune import sweep
from finetune import tuned
from finetune import tuning
from selection import candidates
from zoo import tasks
from zoo import training

KINDS = ('cross', 'square', 'stripes')
PLAN = sweep.Plan(batch=16, precision='float32')
QUICK = sweep.Plan('fixed', 'head', batch=16, learning_rate=0.3, steps=20, precision='float32')


def noisy_task():
  """Drawn shapes, two labels in five at random, so that networks err in many ways."""
  random = np.random.default_rng(1)
  images = np.stack([draw_shape(KINDS[i % 3], random, 16) for i in range(210)])
  labels = np.where(random.random(210) < 0.4, random.integers(0, 3, 210), np.arange(210) % 3)
  return tasks.from_arrays('noisy', KINDS, train=(images[:150], labels[:150]),
                           test=(images[150:], labels[150:]))


class Stage:
  """A task, two experts, and what was trained for which."""

  def __init__(self, hub, folder):
    self.folder = folder
    self.task = noisy_task()
    self.data = runs.Data(self.task)
    self.networks = tuned.Networks(3)
    self.expert, self.baseline = (
        candidates.one(handle, hub) for handle in ('test/expert', 'test/baseline'))

  def finetune(self, expert, folder, plan=PLAN):
    return tuning.finetune(self.task, expert, f'{self.folder}/{folder}', plan, data=self.data,
                           networks=self.networks)

  def ensemble(self, found, folder, plan=PLAN, kind='experts', **more):
    return ensembles.ensemble(
        self.task, found, f'{self.folder}/{folder}', plan, kind, data=self.data,
        networks=self.networks, **more)


@pytest.fixture(scope='module')
def stage(tiny_hub, tmp_path_factory):
  return Stage(tiny_hub, tmp_path_factory.mktemp('ensembles'))


@pytest.fixture(scope='module')
def made(stage):
  """An ensemble of two experts, half of whose settings fail, the first being fine-tuned before.

  It is killed when all is trained and half a module is written, and goes on.

  Returns:
    result, done (that of the first expert), killed and trained (what was trained until it was
    killed, and after that), again (calls it once more), and work directories of the experts.
  """
  trained = []
  fit = training.Trainer.fit

  def noted(self, batches, recipe, work_dir=None, what='training', watch=None):
    trained.append(what)
    return fit(self, batches, recipe, work_dir, what, watch)

  def kill(paths, counts, target, *_):
    os.makedirs(f'{target}/variables')
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sweep, 'LEARNING_RATES', (1e20, 0.1))
    patch.setattr(sweep, 'STEPS', (80, 120))
    patch.setattr(training.Trainer, 'fit', noted)
    # Two that end alike: what is kept of one must not be taken for the other's.
    done = {stage.expert.key: f'{stage.folder}/expert/run',
            stage.baseline.key: f'{stage.folder}/baseline/run'}
    first = stage.finetune(stage.expert, 'expert/run')
    trained.clear()

    def again():
      return stage.ensemble([stage.expert, stage.baseline], 'together', done=done)

    with pytest.MonkeyPatch.context() as killer:
      killer.setattr(predictor, 'save_average', kill)
      with pytest.raises(KeyboardInterrupt):
        again()
    killed = list(trained)
    trained.clear()
    result = again()
    return {'result': result, 'done': first, 'killed': killed, 'trained': list(trained),
            'again': again, 'folders': list(done.values())}


def _kept(folder):
  """(number, what was tried, val logits, val labels) of the settings that worked."""
  for number in range(4):
    with open(f'{folder}/tried-{number}.json', encoding='utf-8') as file:
      tried = json.load(file)
    if tried['error'] is None:
      with np.load(f'{folder}/tried-{number}.npz') as file:
        yield number, tried, file['logits'], file['labels']


def _test(member):
  """Test probabilities of a member, before its temperature."""
  with np.load(os.path.join(os.path.dirname(member['module']), runs.PREDICTIONS)) as file:
    return calibration.scaled(file['logits'], 1.)


# What it is.


def test_the_settings_that_fail_leave_the_others(made):
  assert made['result']['tried'] == 8
  for folder in made['folders']:
    assert [number for number, *_ in _kept(folder)] == [2, 3]
  assert {member['setting']['learning_rate'] for member in made['result']['members']} == {0.1}


def test_members_are_other_networks_each_with_a_whole_number(made):
  members = made['result']['members']
  keys = [(member['handle'], member['setting']['number']) for member in members]
  assert len(set(keys)) == len(keys)
  assert len({member['module'] for member in members}) == len(members)
  assert len({handle for handle, _ in keys}) == 2  # or the rest would say little
  assert all(isinstance(member['count'], int) and member['count'] > 0 for member in members)


def test_no_two_attempts_are_taken_for_each_other(made, stage, monkeypatch):
  # Members are kept by these names; the two work directories of `done` end alike.
  monkeypatch.setattr(sweep, 'LEARNING_RATES', (1e20, 0.1))
  monkeypatch.setattr(sweep, 'STEPS', (80, 120))
  found = [stage.expert, stage.baseline]
  done = dict(zip((one.key for one in found), made['folders'], strict=True))
  pool, first = ensembles._pool('experts', stage.data, found, PLAN, stage.networks, None, done)
  assert len({(one.name, one.tried['number']) for one in pool}) == 8
  assert first.tried == made['done']['setting']


def test_its_val_cross_entropy_is_not_above_that_of_any_single_attempt(made):
  found = {}
  for handle, folder in zip(('test/expert/1', 'test/baseline/1'), made['folders'], strict=True):
    for number, tried, logits, labels in _kept(folder):
      found[handle, number] = calibration.scaled(logits, 1.)
      loss = metrics.nll(found[handle, number], labels)
      assert loss == pytest.approx(tried['val_loss'])
      assert made['result']['val']['nll'] <= loss + 1e-9
  members = made['result']['members']
  total = sum(member['count'] for member in members)
  average = sum(member['count'] * found[member['handle'], member['setting']['number']]
                for member in members) / total
  assert made['result']['val']['nll'] == pytest.approx(metrics.nll(average, labels))
  assert made['result']['val']['test_accuracy'] == (average.argmax(1) == labels).mean()


def test_its_figures_are_those_of_the_weighted_mean_of_its_members(made, stage):
  result = made['result']
  total = sum(member['count'] for member in result['members'])
  average = sum(member['count'] * _test(member) for member in result['members']) / total
  with np.load(result['predictions']) as file:
    np.testing.assert_allclose(file['probabilities'], average, atol=1e-6)
    labels = file['labels']
  np.testing.assert_array_equal(labels, stage.task.labels('test'))
  assert result['test_accuracy'] == (average.argmax(1) == labels).mean()
  assert result['nll'] == pytest.approx(metrics.nll(average, labels), abs=1e-6)
  cooled = calibration.scaled(np.log(average), result['temperature'])
  assert result['calibrated']['nll'] == pytest.approx(metrics.nll(cooled, labels), abs=1e-6)
  assert result['calibrated']['ece'] == pytest.approx(metrics.ece(cooled, labels), abs=1e-6)
  for member in result['members']:
    assert member['nll'] == pytest.approx(metrics.nll(_test(member), labels))


def test_the_module_computes_what_the_result_says(made, stage):
  import tensorflow as tf
  result = made['result']
  images = stage.data.of('test', 16).images
  module = tf.saved_model.load(result['module'])
  with np.load(result['predictions']) as file:
    wanted = calibration.scaled(np.log(file['probabilities']), result['temperature'])
  np.testing.assert_allclose(module(images), wanted, atol=1e-4)
  served = module.signatures['serving_default'](images=tf.constant(images))
  np.testing.assert_allclose(served['probabilities'], module(images), atol=1e-6)
  assert [name.decode() for name in module.class_names.numpy()] == list(stage.task.class_names)
  assert module(np.zeros((2, 5, 7, 3), np.uint8)).shape == (2, 3)
  # Each member is there once, whatever it counts.
  assert len(module.members) == len(result['members'])
  assert module.counts.numpy().tolist() == [member['count'] for member in result['members']]
  assert len(module.variables) == sum(len(member.variables) for member in module.members)


def test_its_card_names_the_members_and_its_description_their_experts(made):
  with open(os.path.join(made['result']['module'], 'module.json'), encoding='utf-8') as file:
    description = json.load(file)
  members = [(one['handle'], one['count']) for one in made['result']['members']]
  assert [(one['handle'], one['count']) for one in description['members']] == members
  with open(os.path.join(made['result']['module'], 'README.md'), encoding='utf-8') as file:
    card = ' '.join(file.read().split())
  assert f'an ensemble of {len(members)} fine-tuned networks' in card
  for handle, count in members:
    assert f'{count} x `{handle}`' in card


def test_it_says_what_it_costs_and_what_the_best_expert_alone_does(made):
  result, done = made['result'], made['done']
  assert result['images_per_second'].keys() == {'ensemble', 'single'}
  assert min(result['images_per_second'].values()) > 0
  for key in ('handle', 'setting', 'nll', 'ece', 'test_accuracy', 'calibrated', 'module'):
    assert result['single'][key] == done[key]
  text = ensembles.table(result)
  assert f'ensemble of {len(result["members"])}' in text
  assert f'{done["test_accuracy"]:.1%}' in text
  assert 'chosen from 8.' in text


# What it trains.


def test_nothing_is_trained_that_was_trained_before(made):
  # The first expert's settings, and the best of them in full, were there.
  counts = collections.Counter(what.split(':')[0] for what in made['killed'])
  assert counts.pop('baseline') == 4  # its settings
  assert not any(what.startswith('circle') for what in counts)
  own = made['done']['setting']['number']
  others = [member for member in made['result']['members']
            if (member['handle'], member['setting']['number']) != ('test/expert/1', own)]
  assert set(counts.values()) == {1}
  assert len(counts) == len(others)
  assert all(what.startswith('member ') for what in counts)


def test_killed_before_its_module_was_whole_it_trains_nothing_again(made):
  assert made['trained'] == []
  assert os.path.exists(os.path.join(made['result']['module'], 'saved_model.pb'))


def test_the_same_call_answers_from_what_is_kept(made, monkeypatch):
  monkeypatch.setattr(training, 'Trainer', None)
  monkeypatch.setattr(predictor, 'save_average', None)
  assert made['again']() == made['result']


def test_another_ensemble_does_not_take_its_folder(made, stage):
  with pytest.raises(ValueError, match='belongs to another run: kind is'):
    stage.ensemble([stage.expert, stage.baseline], 'together', kind='heads')
  with pytest.raises(ValueError, match='--ensemble_kind=all is none of experts'):
    stage.ensemble([stage.expert], 'new', kind='all')
  assert not os.path.exists(stage.folder / 'new')


# Pools of one, and the rivals.


@pytest.fixture(scope='module')
def quick(stage):
  """The first expert's head, trained under one setting."""
  return stage.finetune(stage.expert, 'quick', QUICK)


def test_a_pool_of_one_is_itself(stage, quick):
  import tensorflow as tf
  done = {stage.expert.key: f'{stage.folder}/quick'}
  result = stage.ensemble([stage.expert], 'one', QUICK, done=done)
  (member,) = result['members']
  assert (member['count'], result['tried']) == (1, 1)
  for key in ('test_accuracy', 'nll', 'ece', 'temperature', 'calibrated'):
    assert result[key] == pytest.approx(quick[key], abs=1e-6), key
  assert result['confusion'] == quick['confusion']
  images = stage.data.of('test', 16).images
  modules = [tf.saved_model.load(one['module']) for one in (result, quick)]
  np.testing.assert_allclose(modules[0](images), modules[1](images), atol=1e-5)


@pytest.mark.parametrize(('kind', 'differ'), [
    ('heads', {'seed', 'head_seed'}), ('hyper', {'learning_rate', 'weight_decay'})])
def test_the_rivals_are_as_many_networks_of_the_first_expert(stage, quick, kind, differ):
  done = {stage.expert.key: f'{stage.folder}/quick'}
  found = [stage.expert, stage.baseline]
  result = stage.ensemble(found, kind, QUICK, kind, size=1, done=done)
  assert (result['tried'], len(result['members'])) == (2, 1)
  tried = []
  for number in range(2):
    with open(f'{stage.folder}/{kind}/runs/{kind}/tried-{number}.json', encoding='utf-8') as file:
      tried.append(json.load(file))
  for key in differ:
    assert len({quick['setting'][key], tried[0][key], tried[1][key]}) == 3, key
  if kind == 'heads':
    for key in ('learning_rate', 'steps', 'weight_decay', 'mixup', 'tune'):
      assert {tried[0][key], tried[1][key]} == {quick['setting'][key]}
  assert {member['handle'] for member in result['members']} == {'test/expert/1'}
  assert result['single']['nll'] == quick['nll']
