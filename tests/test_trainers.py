"""The upstream line of every family: a baseline, its experts, the modules made of them, a task."""

import json
import os
import shutil

import numpy as np
import pytest
import scipy.special
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing

from benchmarks import trials
from conftest import TREE
from export import hub
from export import publish
from export import saved_model
from export import trained
from finetune import main
from selection import rank_main
from zoo import backbones
from zoo import domains
from zoo import experts
from zoo import pretrain
from zoo import tasks
from zoo import training
from zoo import vit
from zoo import weights

# Two stages, 64 features and images of 16 pixels.
TINY = {'tiny_resnet': backbones.Architecture((1, 1), 32, 'basic', 8, 'small', 2, 16),
        'tiny_vit': vit.Architecture(4, 64, 2, 2, 64, 16, 'mean', qk_norm=True)}


def of(*presets):
  """Marks a test of the upstream line of these networks."""
  return pytest.mark.parametrize('upstream', presets, indirect=True, scope='module')


every_family, any_network = of(*TINY), of('tiny_resnet')


@pytest.fixture(scope='module')
def upstream(request, tmp_path_factory):
  """A folder with tree.json and a baseline of digits, trained for moments."""
  from zoo import cli
  folder = tmp_path_factory.mktemp('upstream')
  (folder / 'tree.json').write_text(json.dumps(TREE))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(backbones, 'PRESETS', TINY)
    code = cli.run(pretrain.main, pretrain.FLAGS, [
        '--task=digits', f'--preset={request.param}', '--steps=40', '--warmup=5', '--batch=32',
        '--learning_rate=0.1', '--noflip', '--precision=float32', f'--work_dir={folder}/baseline'])
  assert code == 0
  return folder


def _experts(upstream, kind, *more):
  return (f'--baseline={upstream}/baseline', f'--work_dir={upstream}/{kind}', '--batch=32',
          f'--hierarchy={upstream}/tree.json', '--min_examples=100', '--steps=12',
          '--warmup=2', f'--kind={kind}', '--adapter_width=8', '--precision=float32', *more)


@every_family
def test_a_baseline_leaves_weights_log_and_scores(upstream):
  result = pretrain.read_result(upstream / 'baseline')
  assert result['scores']['top1'] > 0.15  # ten classes
  assert result['scores']['top1'] <= result['scores']['top5']
  assert result['upstream']['counts'] == [99, 102, 100, 104, 98, 100, 101, 99, 98, 99]
  assert result['command'][0] == 'zoo-pretrain'
  values = weights.load(upstream / 'baseline' / 'weights.npz')
  assert values['head/kernel'].shape == (64, 10)
  assert os.listdir(upstream / 'baseline' / 'tensorboard')


@any_network
def test_the_slices_can_be_seen_before_anything_is_trained(upstream, console):
  code, out, _ = console(experts, *_experts(upstream, 'whole', '--list'))
  assert code == 0
  assert [line.split()[0] for line in out.splitlines()[1:]] == ['low_number', 'high']
  assert not (upstream / 'whole').exists()


@every_family
@pytest.mark.parametrize('kind', ['whole', 'adapter'])
def test_experts_start_from_the_baseline_and_done_ones_are_skipped(
    upstream, kind, console, monkeypatch):
  code, first, err = console(experts, *_experts(upstream, kind, '--slices=high'))
  assert code == 0, err
  code, out, err = console(experts, *_experts(upstream, kind))
  assert code == 0, err
  assert 'high (2/2): step' not in err
  rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
  assert rows['slice'] == ['examples', 'seconds', 'baseline', 'expert']
  assert rows['high'] == {line.split()[0]: line.split()[1:]
                          for line in first.splitlines()}['high']
  baseline = weights.load(upstream / 'baseline' / 'weights.npz')
  one = weights.load(upstream / kind / 'high' / 'weights.npz')
  assert one['head/kernel'].shape == (64, 5)  # the slice's classes
  same = {path: np.array_equal(one[path], value) for path, value in baseline.items()
          if path.startswith('backbone/')}
  assert all(same.values()) if kind == 'adapter' else not any(same.values())
  monkeypatch.setattr(training, 'Trainer', None)  # all is done: nothing may train
  assert console(experts, *_experts(upstream, kind))[:2] == (0, out)


@every_family
def test_publishing_packs_adapter_experts_and_gives_whole_ones_a_module_each(
    upstream, console):
  root = str(upstream / 'hub')
  for arguments in (
      [f'--work_dir={upstream}/baseline', '--name=base'],
      [f'--work_dir={upstream}/whole', '--name=whole', '--parent=me/base'],
      [f'--work_dir={upstream}/adapter', '--name=packed', '--parent=me/base']):
    code, _, err = console(publish, f'--hub={root}', '--publisher=me', *arguments)
    assert code == 0, err
  assert [module.handle for module in hub.modules(root)] == [
      'me/base/1', 'me/packed/1', 'me/whole-high/1', 'me/whole-low_number/1']
  base, packed = hub.resolve('me/base', root), hub.resolve('me/packed', root)
  assert packed.metadata['parent'] == base.metadata['fingerprint']
  assert packed.metadata['command'][0] == 'zoo-experts'
  names = [expert['name'] for expert in packed.metadata['experts']]
  assert names == ['high', 'low_number']
  # Expert i of the packed module is what was trained for slice i.
  network = saved_model.restore(packed.path, packed.metadata)
  for i, name in enumerate(names):
    trained = weights.load(upstream / 'adapter' / name / 'weights.npz')
    for variable in network.variables:
      value = trained[variable.path]
      stored = variable.numpy()
      np.testing.assert_array_equal(
          stored[i:i + 1] if 'adapter' in variable.path else stored, value)


@every_family
def test_a_task_is_served_by_what_was_published(upstream, console, picture_folder):
  root, task = f'--hub={upstream}/hub', f'--task=folder:{picture_folder}'
  code, out, err = console(rank_main, root, task, '--json')
  assert code == 0, err
  ranked = [(one['handle'], one['expert']) for one in json.loads(out)['experts']]
  assert sorted(ranked, key=str) == [('me/base/1', None), ('me/packed/1', 0), ('me/packed/1', 1),
                                     ('me/whole-high/1', None), ('me/whole-low_number/1', None)]
  code, out, err = console(
      main, root, task, '--handle=me/packed#high', '--tune=last:1', '--sweep=fixed', '--steps=20',
      '--learning_rate=0.03', '--batch=16', f'--work_dir={upstream}/tuned', '--json')
  assert code == 0, err
  assert json.loads(out)['test_accuracy'] > 0.4  # of three classes


@any_network
def test_trial_experts_are_told_by_linear_probes_on_training_images_alone(
    upstream, console, monkeypatch):
  monkeypatch.setattr(trials, 'EXAMPLES', 300)
  read = []
  whole = tasks.read
  monkeypatch.setattr(tasks, 'read', lambda task, part, size: read.append(part[0]) or whole(
      task, part, size))
  folders = [f'{upstream}/baseline', f'{upstream}/adapter/high', f'{upstream}/whole/high']
  code, out, err = console(
      trials, f'--networks={",".join(folders)}', '--tasks=digits', '--draws=3')
  assert code == 0, err
  assert read == ['train']
  first, *others = map(json.loads, out.splitlines())
  assert (first['gain'], first['stderr']) == ({'digits': 0}, {'digits': 0})
  examples = whole(tasks.digits(), ('train', None), 16)
  for line, folder in zip(others, folders[1:], strict=True):
    assert (line['slice'], bool(line.get('adapters'))) == ('high', 'adapter' in folder)
    (run,) = trained.runs(folder)
    network = trained.packed([run]) if 'adapter' in folder else trained.network(*run)
    embeddings = np.asarray(network(examples.images / np.float32(255)))
    by_hand = []
    for seed in range(3):
      order = np.random.default_rng(seed).permutation(len(embeddings))
      pipeline = sklearn.pipeline.make_pipeline(
          sklearn.preprocessing.StandardScaler(),
          sklearn.linear_model.RidgeClassifierCV(np.logspace(-2, 4, 7)))
      pipeline.fit(embeddings[order[:300]], examples.labels[order[:300]])
      by_hand.append(pipeline.score(embeddings[order[300:]], examples.labels[order[300:]]))
    assert line['accuracy']['digits'] == pytest.approx(100 * np.mean(by_hand), abs=0.2)
    assert line['gain']['digits'] == pytest.approx(
        line['accuracy']['digits'] - first['accuracy']['digits'], abs=0.02)


@any_network
def test_whole_experts_that_are_published_are_skipped(upstream, console):
  root = shutil.copytree(upstream / 'hub', upstream / 'hub2')
  flags = (f'--hub={root}', '--publisher=me', f'--work_dir={upstream}/whole', '--name=whole')
  shutil.rmtree(root / 'me/whole-high')
  assert json.loads(console(publish, *flags)[1]) == ['me/whole-high/1']
  assert json.loads(console(publish, *flags)[1]) == []


@any_network
def test_the_head_that_predicts_slices_is_trained_once_on_the_frozen_baseline(
    upstream, console, monkeypatch):
  flags = _experts(upstream, 'domains')
  code, out, err = console(experts, *flags)
  assert code == 0, err
  scores = json.loads(out)
  assert scores['top1'] > 0.7  # of two slices
  assert scores['cross_entropy'] < np.log(2)
  result = pretrain.read_result(upstream / 'domains', ['predictor'])
  assert (result['classes'], result['scores']) == (['low_number', 'high'], scores)
  assert [one['node'] for one in result['slices']] == ['low', 'high']
  assert result['cost']['images'] == 1000
  monkeypatch.setattr(domains, 'fit_head', None)  # all is done: nothing may train
  assert console(experts, *flags)[:2] == (0, out)
  code, _, err = console(experts, *flags, '--slices=high')
  assert code == 1
  assert 'there is one slice only' in err


@any_network
def test_a_folder_of_experts_is_not_taken_for_what_predicts_slices(upstream, console):
  code, _, err = console(experts, *_experts(upstream, 'whole', '--kind=domains'))
  assert code == 1
  assert 'holds experts: name another folder for --kind=domains' in err


@any_network
def test_predictors_are_published_beside_their_baseline_and_tell_slices_apart(upstream, console):
  root = str(upstream / 'hub')
  for arguments in (
      [f'--work_dir={upstream}/baseline', '--name=labels', '--parent=me/base', '--predictor'],
      [f'--work_dir={upstream}/domains', '--name=slices', '--parent=me/base']):
    code, _, err = console(publish, f'--hub={root}', '--publisher=me', *arguments)
    assert code == 0, err
  base, labels, slices = (
      hub.resolve(f'me/{name}', root) for name in ('base', 'labels', 'slices'))
  assert labels.metadata['classes'] == [str(i) for i in range(10)]
  data = tasks.read(tasks.digits(), ('test', None), 16)
  images = data.images[:200].astype(np.float32) / 255
  features = hub.load(base)(images).numpy().astype(np.float64)
  for module, folder in ((labels, 'baseline'), (slices, 'domains')):
    assert module.metadata['parent'] == base.metadata['fingerprint']
    assert module.metadata['upstream'] == base.metadata['upstream']
    head = weights.load(upstream / folder / 'weights.npz')
    logits = features @ head['head/kernel'] + head['head/bias']
    np.testing.assert_allclose(
        hub.load(module)(images), scipy.special.log_softmax(logits, axis=1), atol=1e-4)
  said = hub.load(slices)(images).numpy()
  assert np.mean((said[:, 0] > said[:, 1]) == (data.labels[:200] < 5)) > 0.7


@any_network
def test_only_a_baseline_has_labels_to_predict(upstream, console):
  code, _, err = console(publish, f'--work_dir={upstream}/whole', '--hub=hub', '--publisher=me',
                         '--name=labels', '--predictor')
  assert code == 1
  assert 'is not the folder of a finished baseline' in err


@any_network
@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--slices=middle'], "no slice 'middle'; there are low_number, high"),
    (['--min_examples=100000'], 'use a lower --min_examples'),
    (['--baseline=nowhere'], 'is not the folder of a finished training run'),
    (['--adapter_stages=7', '--kind=adapter', '--nolist', '--work_dir=new'], 'must be among 0..1'),
])
def test_bad_input_is_one_line(upstream, console, flags, complaint):
  code, out, err = console(experts, *_experts(upstream, 'whole', '--list', *flags))
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.count('\n') == 1


@any_network
def test_a_tree_is_asked_for_once(upstream, console):
  code, _, err = console(experts, *_experts(upstream, 'whole', '--coarse_label=label'))
  assert code == 2
  assert 'give either --hierarchy or --coarse_label' in err


def test_publishing_nothing_is_an_error(console, tmp_path):
  code, _, err = console(publish, f'--work_dir={tmp_path}', '--hub=hub', '--publisher=me',
                         '--name=base')
  assert code == 1
  assert 'has no finished training run' in err
  assert not os.path.exists('hub')
