"""The studies of sparse networks: their lines, tables and costs, at tiny size."""

import dataclasses
import math

import pytest

from benchmarks import capacity
from benchmarks import sparse_tasks
from benchmarks import suite
from conftest import shapes_task
from zoo import backbones
from zoo import cli
from zoo import pretrain
from zoo import sparse
from zoo import vit

DENSE = vit.Architecture(8, 8, 2, 2, 8, 16, 'mean')
SPARSE = dataclasses.replace(DENSE, sparse=sparse.SparseConfig((1,), 4))


@pytest.fixture
def tiny(monkeypatch):
  """Networks, tasks and numbers of steps so small that a study takes moments."""
  monkeypatch.setitem(backbones.PRESETS, 'tiny_vit', DENSE)
  monkeypatch.setitem(backbones.PRESETS, 'tiny_vmoe', SPARSE)
  monkeypatch.setattr(sparse_tasks, 'DENSE', 'tiny_vit')
  monkeypatch.setattr(sparse_tasks, 'NETWORKS', {'dense': ('tiny_vit', 'shared'),
                                                 'task': ('tiny_vmoe', 'task')})
  monkeypatch.setattr(sparse_tasks, 'SEEN', ('one', 'two'))
  monkeypatch.setattr(sparse_tasks, 'UNSEEN', ('three',))
  monkeypatch.setattr(sparse_tasks, 'STEPS', {1000: 2})
  monkeypatch.setattr(suite, 'load', lambda name, data_dir: dataclasses.replace(
      shapes_task(30, 6), name=name))


def trained(folder, preset):
  assert cli.run(pretrain.main, pretrain.FLAGS, [
      '--task=digits', f'--preset={preset}', '--steps=1', '--batch=8', '--precision=float32',
      f'--work_dir={folder}']) == 0


def test_a_question_is_answered_for_every_network_and_goes_on_where_it_was(tiny, tmp_path):
  trained(tmp_path / 'baseline', 'tiny_vit')
  (tmp_path / 'experts').mkdir()

  def ask():
    study = sparse_tasks.Study(
        *(str(tmp_path / name) for name in ('baseline', 'experts', 'runs')), 0, None, batch=8,
        precision='float32')
    return list(sparse_tasks.rows(study, 'unseen', 0))

  lines = ask()
  assert [line['network'] for line in lines] == ['alone', 'dense', 'task']
  assert [line['chosen'] in known for line, known in zip(
      lines, (['baseline'], [None], ['one', 'two']), strict=True)] == [True] * 3
  assert all(0 <= line['top1'] <= 1 for line in lines)
  there = {path: path.stat().st_mtime_ns for path in tmp_path.glob('runs/*/result.json')}
  assert ask() == lines
  assert there == {path: path.stat().st_mtime_ns for path in tmp_path.glob('runs/*/result.json')}


def test_the_table_sets_networks_beside_the_expert_alone():
  lines = [{'question': question, 'seed': seed, 'network': network, 'task': task, 'chosen': None,
            'top1': .5 + .01 * seed + .1 * (network == 'task') + .02 * (task == 'fish')}
           for question in ('few-100', 'unseen') for seed in (0, 2)
           for network in ('alone', *sparse_tasks.NETWORKS) for task in ('fish', 'mnist')]
  rows = sparse_tasks.table(lines).split('\n')
  assert rows[0] == '| | alone | dense | shared | task |'
  assert rows[2] == ('| few-100 | 52.0 | 52.0 (+0.0 ± 0.0) | 52.0 (+0.0 ± 0.0) | '
                     '62.0 (+10.0 ± 0.0) |')
  assert len(rows) == 4
  drawn, = sparse_tasks.chart(lines).axes
  assert [text.get_text() for text in drawn.get_yticklabels()] == ['few-100', 'unseen']
  assert [text.get_text() for text in drawn.get_legend().get_texts()] == ['dense', 'shared', 'task']


def test_cost_grows_with_the_slots_and_is_that_of_the_dense_network_for_one_expert_a_token():
  big = dataclasses.replace(
      vit.Architecture(4, 64, 6, 4, 256, 32, 'mean'), sparse=sparse.SparseConfig((3, 5), 8))
  # By hand, in multiply-adds of a token: attention 4 * 64^2 + 2 * 64 * 64, MLP 2 * 64 * 256, six
  # times; the patches 48 * 64.
  dense = 48 * 64 + 6 * (4 * 64 ** 2 + 2 * 64 * 64 + 2 * 64 * 256)
  assert math.isclose(capacity.cost(big, 1.), 1 + 2 * 64 * 8 / dense)
  assert capacity.cost(big) == capacity.cost(big, 1.)
  assert math.isclose(capacity.cost(big, 1.5) - capacity.cost(big, 1.), 32768 / dense)
  assert capacity.cost(big, 99.) == capacity.cost(big, 8.)  # no expert has more than all tokens


def test_the_curve_has_every_ratio_with_and_without_priority(tiny, tmp_path):
  trained(tmp_path / 'run', 'tiny_vmoe')
  lines = capacity.curve(str(tmp_path / 'run'), ratios=(.25, 4.), batch=64)
  assert [(line['capacity'], line['priority']) for line in lines] == [
      (None, False), (.25, False), (4., False), (.25, True), (4., True)]
  full = lines[0]
  for line in lines:
    if line['capacity'] == 4.:  # as many slots as tokens
      assert line['top1'] == full['top1']
      assert line['dropped'] == 0
  assert lines[1]['dropped'] > .5
  assert lines[1]['cost'] < full['cost']
  capacity.chart(lines, tmp_path / 'curve.png')
  assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')
