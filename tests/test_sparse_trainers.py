"""The upstream line of sparse networks: from scratch or upcycled, with a log of their routing."""

import csv
import json

import numpy as np
import pytest

from conftest import TREE
from zoo import backbones
from zoo import expert_load
from zoo import pretrain

pytestmark = pytest.mark.usefixtures('sparse_presets')


def train(folder, preset, *more):
  from zoo import cli
  return cli.run(pretrain.main, pretrain.FLAGS, [
      '--task=digits', f'--preset={preset}', '--steps=12', '--warmup=2', '--batch=32', '--noflip',
      '--optimizer=adam', '--learning_rate=0.003', '--precision=float32',
      f'--work_dir={folder}', *more])


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
  folder = tmp_path_factory.mktemp('dense')
  assert train(folder, 'tiny_vit') == 0
  return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory, dense):
  """A sparse network, upcycled and trained on."""
  folder = tmp_path_factory.mktemp('sparse')
  (folder / 'tree.json').write_text(json.dumps(TREE))
  assert train(folder / 'run', 'tiny_vmoe', f'--upcycle={dense}', '--sparse=k=2,priority=true',
               f'--hierarchy={folder}/tree.json') == 0
  return folder / 'run'


def test_the_log_has_each_experts_load_dropped_tokens_and_the_entropy_of_gates(trained):
  with open(trained / 'log.csv') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) >= 12
  for row in rows:
    load = [float(row[f'load/block02/{expert}']) for expert in range(4)]
    assert sum(load) == pytest.approx(1)
    assert 0 <= float(row['dropped/block02']) < 1
    assert 0 < float(row['entropy/block02']) <= 1.000001


def test_charts_and_result_say_which_classes_and_slices_go_where(trained):
  result = json.loads((trained / 'result.json').read_text())
  assert np.sum(result['routing']['shares']) == pytest.approx(1)
  assert result['architecture']['sparse']['k'] == 2
  assert result['architecture']['sparse']['priority']
  found = json.loads((trained / 'routing.json').read_text())
  np.testing.assert_allclose(np.sum(found['by_class'], -1), 1)
  assert np.shape(found['by_class']) == (1, 10, 4)
  for name in ('routing.png', 'routing_slices.png'):
    assert (trained / name).read_bytes().startswith(b'\x89PNG')


def test_an_upcycled_run_starts_where_the_dense_one_ended(dense, tmp_path):
  assert train(tmp_path, 'tiny_vmoe', f'--upcycle={dense}', '--steps=1', '--learning_rate=1e-9',
               '--sparse=noise=0,load=0') == 0
  there, here = (json.loads((folder / 'result.json').read_text()) for folder in (dense, tmp_path))
  assert here['scores']['top1'] == there['scores']['top1']
  assert here['scores']['top5'] == there['scores']['top5']


def test_a_finished_run_answers_at_once_and_another_is_refused(trained, dense, capsys):
  again = (f'--upcycle={dense}', '--sparse=k=2,priority=true')
  assert train(trained, 'tiny_vmoe', *again) == 0
  assert train(trained, 'tiny_vmoe', f'--upcycle={dense}', '--sparse=k=3') == 1
  assert 'sparse.k is 2 there and 3 here' in capsys.readouterr().err


@pytest.mark.parametrize('preset, more, message', [
    ('tiny_vit', '--sparse=k=2', 'preset tiny_vit has no sparse layers to change; there are vmoe_'),
    ('tiny_vmoe', '--sparse=k=9', 'k is 9, but there are 4 experts to choose from'),
    ('tiny_vmoe', '--sparse=depth=9', "--sparse=depth=9: there is no 'depth'; there are experts"),
    ('tiny_vmoe', '--sparse=k=two', "--sparse=k=two: 'two' is no int"),
    ('tiny_vmoe', '--sparse=priority=maybe', "'maybe' is no bool"),
    ('tiny_vmoe', '--upcycle=/nowhere', '/nowhere is not the folder of a finished training run')])
def test_what_cannot_be_is_one_line(tmp_path, capsys, preset, more, message):
  assert train(tmp_path, preset, more) == 1
  assert message in capsys.readouterr().err


def test_only_the_same_network_can_be_upcycled(dense, tmp_path, capsys):
  assert train(tmp_path, 'tiny_vit', f'--upcycle={dense}') == 1
  assert 'only a sparse network can be upcycled' in capsys.readouterr().err
  assert train(tmp_path, 'vmoe32_d6w64', f'--upcycle={dense}') == 1
  assert 'its network has patch 8, this one 4' in capsys.readouterr().err


def test_load_is_counted_class_by_class():
  network = backbones.build(backbones.preset('tiny_vmoe'))
  gate = next(v for v in network.variables if v.path.endswith('/gate'))
  images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
  labels = np.arange(70) % 3
  load = expert_load.Meter(network, images, labels, 4).measure()
  np.testing.assert_allclose(load.shares.sum(-1), 1)
  # The classes have 24, 23 and 23 images, of as many tokens each.
  np.testing.assert_allclose(
      load.shares[0], np.average(load.by_class[0, :3], axis=0, weights=[24, 23, 23]))
  assert np.isnan(load.by_class[0, 3]).all()
  gate.assign(np.zeros(gate.shape))  # a tie goes to the first expert, and three of four are lost
  load = expert_load.Meter(network, images[:64], labels[:64], 4).measure()
  np.testing.assert_allclose(load.shares, [[1, 0, 0, 0]])
  np.testing.assert_allclose(load.entropy, 1, rtol=1e-6)
  slots = -(-64 * 16 * 1.05 // 4)
  np.testing.assert_allclose(load.dropped, 1 - slots / (64 * 16), rtol=1e-6)
