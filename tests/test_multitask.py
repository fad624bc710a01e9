"""Several tasks in one network: heads and gates of their own, a module that takes a task."""

import json

import numpy as np
import pytest

from conftest import shapes_task
from zoo import backbones
from zoo import cli
from zoo import multitask
from zoo import pretrain
from zoo import weights

pytestmark = pytest.mark.usefixtures('sparse_presets')
LOW, HIGH, PAIR = 'digits[label=0|1|2]', 'digits[label=3|4|5]', 'digits[label=6|7]'


def train(folder, *more, tasks=f'{LOW},{HIGH}', preset='tiny_vmoe'):
  return cli.run(multitask.main, multitask.FLAGS, [
      f'--tasks={tasks}', f'--preset={preset}', '--steps=150', '--warmup=5', '--batch=32',
      '--noflip', '--crop=0', '--learning_rate=0.01', '--precision=float32',
      f'--work_dir={folder}', *more])


def result_of(folder):
  return json.loads((folder / 'result.json').read_text())


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('multitask') / 'run'
  assert train(folder, '--gate=task', '--temperature=inf', '--examples=200,100') == 0
  return folder


def test_every_task_is_learnt_and_scored_by_itself(trained):
  result = result_of(trained)
  assert [one['name'] for one in result['tasks']] == [LOW, HIGH]
  assert [one['examples'] for one in result['tasks']] == [200, 100]
  assert [one['share'] for one in result['tasks']] == [.5, .5]
  top1 = [one['top1'] for one in result['tasks']]
  assert min(top1) > .5  # of three classes
  assert result['scores']['mean_top1'] == pytest.approx(np.mean(top1))


def test_the_routing_of_each_task_is_measured_under_its_own_gate(trained):
  found = json.loads((trained / 'routing.json').read_text())
  assert found['classes'] == [LOW, HIGH]
  np.testing.assert_allclose(np.sum(found['by_class'], -1), 1)
  assert (trained / 'routing.png').exists()


def test_a_task_sees_no_class_of_another(trained):
  from zoo import classifier
  model = classifier.MultiTask(
      backbones.build(backbones.architecture_of(result_of(trained)['architecture'])), [3, 3])
  weights.set_to(model, weights.load(trained / 'weights.npz'))
  images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
  both = np.asarray(model(images, task=np.array([0, 1, 1, 0])))
  for task in (0, 1):
    own = np.asarray(model(images, task=task))
    assert (own[:, 3 - 3 * task:6 - 3 * task] < -1e8).all()
    np.testing.assert_allclose(both[np.array([0, 1, 1, 0]) == task],
                               own[np.array([0, 1, 1, 0]) == task], atol=1e-4)


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
  """A baseline of the dense network."""
  folder = tmp_path_factory.mktemp('dense')
  assert cli.run(pretrain.main, pretrain.FLAGS, [
      '--task=digits', '--preset=tiny_vit', '--steps=1', '--batch=8', '--precision=float32',
      f'--work_dir={folder}']) == 0
  return folder


@pytest.mark.parametrize('preset, more', [
    ('tiny_vit', ()), ('tiny_vmoe', ('--gate=embedding', '--sparse=k=2'))])
def test_dense_and_sparse_networks_start_from_one_baseline(dense, tmp_path, preset, more):
  assert train(tmp_path, f'--baseline={dense}', '--steps=1', *more, '--learning_rate=1e-9',
               preset=preset) == 0
  there, here = weights.load(dense / 'weights.npz'), weights.load(tmp_path / 'weights.npz')
  same = 'backbone/block01/attention/query/kernel'
  np.testing.assert_allclose(here[same], there[same], atol=1e-6)


def test_a_network_for_one_task_starts_from_the_gates_of_another(trained, tmp_path):
  more = ('--gate=task', '--steps=1', '--learning_rate=1e-9')
  assert train(tmp_path / 'run', f'--baseline={trained}#{HIGH}', *more, tasks=PAIR) == 0
  gate = 'backbone/block02/mlp/task_gate'
  there, here = weights.load(trained / 'weights.npz'), weights.load(tmp_path / 'run/weights.npz')
  np.testing.assert_allclose(here[gate][0], there[gate][1], atol=1e-6)


def test_gates_of_a_task_that_a_network_does_not_know_are_one_line(trained, tmp_path, capsys):
  assert train(tmp_path, f'--baseline={trained}#birds', '--gate=task', tasks=PAIR) == 1
  assert f"knows no task 'birds'; it knows {LOW}, {HIGH}." in capsys.readouterr().err
  assert train(tmp_path, f'--baseline={trained}', '--gate=task', tasks=PAIR) == 1
  assert 'is of another network than this preset and gate' in capsys.readouterr().err


@pytest.mark.parametrize('more, message', [
    ((f'--tasks={LOW},{LOW}',), f'task {LOW!r} is there twice'),
    (('--examples=10,0',), f'task {HIGH!r} would have no training examples: leave it out'),
    (('--examples=10,9999',), 'training examples, not the 9999 of --examples'),
    (('--examples=1,2,3',), '--examples has 3 numbers for 2 tasks'),
    (('--examples=few',), "--examples: invalid literal for int() with base 10: 'few'"),
    (('--temperature=0',), '--temperature=0.0: it must be above 0'),
    (('--mixup=0.2',), 'mixup, or another loss than softmax, would mix the classes of tasks'),
    (('--preset=tiny_vit', '--gate=task'), 'preset tiny_vit has no sparse layers to change'),
    (('--sparse=k=9',), 'k is 9, but there are 4 experts'),
    (('--sparse=capacity=0',), 'capacity is 0.0; it must be above 0')])
def test_what_cannot_be_is_one_line(tmp_path, capsys, more, message):
  assert train(tmp_path, *more) == 1
  err = capsys.readouterr().err
  assert message in err
  assert 'Traceback' not in err


# As a module.


@pytest.fixture(scope='module')
def published(trained, tmp_path_factory):
  from export import publish
  root = tmp_path_factory.mktemp('hub')
  assert cli.run(publish.main, publish.FLAGS, [
      f'--work_dir={trained}', f'--hub={root}', '--publisher=made', '--name=digits']) == 0
  return root


def test_the_module_takes_a_task_and_says_which_there_are(published, trained):
  import tensorflow_hub
  from export import hub
  module = hub.resolve('made/digits/1', str(published))
  assert (module.kind, module.metadata['argument']) == ('multitask', 'task')
  assert [one['name'] for one in module.metadata['experts']] == [LOW, HIGH]
  card = (published / 'made/digits/1/README.md').read_text()
  assert "arguments={'task': 0}" in card
  assert LOW in card
  images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
  one, other = (tensorflow_hub.KerasLayer(module.path, arguments={'task': task})(images)
                for task in (0, 1))
  assert not np.allclose(one, other)


def test_a_new_task_starts_from_the_gates_of_the_most_similar_task(
    published, monkeypatch, tmp_path):
  """Every task that the network knows is a candidate of a ranking, and one can be fine-tuned."""
  import selection
  from finetune import tuned
  from selection import candidates
  monkeypatch.setenv('EXPERT_ZOO_CACHE', str(tmp_path))
  ranked = selection.rank(shapes_task(90, 6), '', handles=[f'{published}/made/digits/1'])
  found = {one['expert']: one['scores']['knn'] for one in ranked.to_dict()['experts']}
  assert set(found) == {0, 1}
  body = tuned.build(candidates.one(f'{published}/made/digits/1#{HIGH}', ''), 3).body
  assert body.architecture.sparse.tasks == 1


def test_the_gates_of_a_task_are_fine_tuned_into_a_classifier(published, tmp_path):
  import tensorflow as tf
  from finetune import sweep
  from finetune import tuning
  result = tuning.finetune(
      shapes_task(30, 6), f'{published}/made/digits/1#{HIGH}', str(tmp_path),
      sweep.Plan(sweep='fixed', steps=3, batch=8, precision='float32'), hub='')
  assert result['test_examples'] == 6
  images = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), np.uint8)
  probabilities = tf.saved_model.load(result['module'])(images)
  np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-5)


def test_a_task_is_not_ranked_by_a_network_that_learnt_from_its_data(published):
  import selection
  with pytest.raises(ValueError, match='all 2 candidates are left out'):
    selection.rank('digits', '', handles=[f'{published}/made/digits/1'])


def test_a_task_that_the_module_does_not_know_is_named(published):
  from selection import candidates
  with pytest.raises(ValueError, match=r"has no task 'birds': give .*#TASK, one of digits"):
    candidates.one(f'{published}/made/digits/1#birds', '')


def test_the_catalogue_shows_its_tasks(published):
  from export import catalogue
  from export import hub
  entry = catalogue.entry(hub.resolve('made/digits/1', str(published)), 1)
  assert [bar['name'] for bar in entry['bars']] == [LOW, HIGH]
  assert catalogue.knows(entry) == '2 tasks'
