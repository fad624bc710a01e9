"""Selection: the expert whose frozen embeddings classify a task's examples best."""

import json
import os
import shutil
import xml.etree.ElementTree

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from conftest import draw_shape
from selection import candidates
from selection import compare
from selection import neighbors
from selection import proxies
from selection import rank_main
from selection import ranking
from selection import show
from zoo import tasks

INDICES = [neighbors.ExactIndex, neighbors.ScannIndex]


def brute_force(points, k, queries=None):
  """The k nearest of each query, or of each point among the others, one by one."""
  points = np.asarray(points, np.float64)
  found = []
  for i, query in enumerate(points if queries is None else np.asarray(queries, np.float64)):
    apart = np.square(points - query).sum(1)
    order = [j for j in np.argsort(apart, kind='stable') if queries is not None or j != i]
    found.append(order[:k])
  return np.array(found)


@pytest.mark.parametrize('index', INDICES)
def test_an_index_finds_what_comparing_one_by_one_finds(index):
  random = np.random.default_rng(0)
  points, queries = random.normal(size=(200, 12)), random.normal(size=(30, 12))
  built = index(points)
  np.testing.assert_array_equal(built.others(5), brute_force(points, 5))
  np.testing.assert_array_equal(built.search(queries, 5), brute_force(points, 5, queries))


@pytest.mark.parametrize('index', INDICES)
def test_a_duplicate_may_vote_for_its_twin_but_never_for_itself(index):
  points = np.array([[0., 0.], [0., 0.], [0., 0.], [5., 5.]])
  near = index(points).others(1)[:, 0]
  assert all(near[i] != i for i in range(4))
  assert set(near[:3]) <= {0, 1, 2}


def test_far_from_the_origin_neighbours_are_still_told_apart():
  # |a|^2 - 2ab + |b|^2 in float32 would lose these gaps altogether.
  random = np.random.default_rng(0)
  points = 1e4 + 1e-3 * random.normal(size=(100, 8))
  np.testing.assert_array_equal(neighbors.ExactIndex(points).others(3), brute_force(points, 3))


def test_blocks_do_not_change_the_result(monkeypatch):
  points = np.random.default_rng(0).normal(size=(50, 4))
  whole = neighbors.ExactIndex(points).others(3)
  monkeypatch.setattr(neighbors, 'BLOCK_BYTES', 8 * 50 * 7)  # seven rows at a time
  np.testing.assert_array_equal(neighbors.ExactIndex(points).others(3), whole)


@pytest.mark.parametrize('k', [0, 4, -1])
def test_k_must_leave_one_out(k):
  with pytest.raises(ValueError, match=rf'k is {k}; it must be in 1..3'):
    neighbors.ExactIndex(np.eye(4)).others(k)


def test_scann_with_a_tree_agrees_nearly(monkeypatch):
  monkeypatch.setattr(neighbors, 'APPROXIMATE_FROM', 2000)
  random = np.random.default_rng(0)
  centres = random.normal(size=(40, 16))
  points = centres[random.integers(0, 40, 3000)] + 0.3 * random.normal(size=(3000, 16))
  exact, near = neighbors.ExactIndex(points).others(1), neighbors.ScannIndex(points).others(1)
  assert (near != np.arange(3000)[:, None]).all()
  assert (exact == near).mean() > 0.9


def test_without_scann_search_is_exact_and_says_so(monkeypatch, caplog):
  monkeypatch.setitem(__import__('sys').modules, 'scann', None)  # as a failed import does
  neighbors._scann.cache_clear()
  assert isinstance(neighbors.index(np.eye(3), 'scann'), neighbors.ExactIndex)
  neighbors._scann.cache_clear()
  assert 'ScaNN cannot be imported' in caplog.text


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=20, deadline=None)
def test_turning_moving_and_scaling_embeddings_changes_no_neighbour(seed):
  random = np.random.default_rng(seed)
  points = random.normal(size=(30, 5))
  turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
  moved = 3.5 * points @ turn + random.normal(size=5)
  np.testing.assert_array_equal(
      neighbors.ExactIndex(points).others(4), neighbors.ExactIndex(moved).others(4))


def test_votes_by_hand():
  near = np.array([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 0, 1]])
  labels = np.array([0, 0, 1, 1])
  # k=1: the nearest of 0 is 1 (same), of 1 is 0 (same), of 2 is 3 (same), of 3 is 2 (same).
  assert proxies.leave_one_out_correct(near, labels, 1).tolist() == [True] * 4
  # k=3: 0 sees 0,1,1; 1 sees 0,1,1; 2 sees 1,0,0; 3 sees 1,0,0.
  assert proxies.leave_one_out_correct(near, labels, 3).tolist() == [False] * 4
  # k=2: ties go to the nearest.
  assert proxies.leave_one_out_correct(near, labels, 2).tolist() == [True] * 4


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@hypothesis.settings(max_examples=30, deadline=None)
def test_votes_equal_a_count_one_by_one(seed, k):
  random = np.random.default_rng(seed)
  points, labels = random.normal(size=(25, 3)), random.integers(0, 3, 25)
  near = neighbors.ExactIndex(points).others(6)
  wanted = []
  for i in range(25):
    votes = labels[near[i, :k]].tolist()
    wanted.append(max(votes, key=lambda v: (votes.count(v), -votes.index(v))) == labels[i])
  assert proxies.leave_one_out_correct(near, labels, k).tolist() == wanted


def test_the_standard_error_is_that_of_a_coin():
  correct = np.array([True] * 30 + [False] * 10)
  assert proxies.standard_error(correct) == pytest.approx((0.75 * 0.25 / 40) ** 0.5)


def test_mcnemar_by_hand():
  # Nine examples only one gets right, one only the other: 2 * (1 + 10) / 2^10.
  one = np.array([True] * 9 + [False] + [True] * 90)
  other = np.array([False] * 9 + [True] + [True] * 90)
  assert compare.mcnemar(one, other) == pytest.approx(22 / 1024)
  assert compare.mcnemar(one, one) == 1
  assert compare.beats(one, other)
  assert not compare.beats(other, one)
  found = compare.paired(one, other)
  assert found['gain'] == pytest.approx(0.08)
  difference = [1] * 9 + [-1] + [0] * 90
  assert found['stderr'] == pytest.approx(np.std(difference) / 10)


@pytest.fixture(scope='module')
def shapes():
  """A task of 3 shapes, 90 to train and 30 to test."""
  random = np.random.default_rng(0)
  kinds = ('cross', 'square', 'stripes')
  images = np.stack([draw_shape(kinds[i % 3], random, 16) for i in range(120)])
  labels = np.arange(120) % 3
  return tasks.from_arrays('shapes', kinds, train=(images[:90], labels[:90]),
                           test=(images[90:], labels[90:]))


def test_a_ranking_scores_every_expert_as_computed_by_hand(shapes, tiny_hub):
  ranked = ranking.rank(shapes, tiny_hub)
  assert ranked.examples == 90
  assert len(ranked.entries) == 4
  images, labels = shapes.reader, np.arange(90) % 3
  pictures = np.stack([image for image, _ in images('train', range(90))])
  for entry in ranked.entries:
    from export import hub
    loaded = hub.load(entry.candidate.module)
    arguments = {} if entry.candidate.expert is None else {'expert': entry.candidate.expert}
    embedded = loaded(pictures.astype(np.float32) / 255, **arguments).numpy()
    nearest = brute_force(embedded, 1)[:, 0]
    assert entry.scores['knn'] == pytest.approx((labels[nearest] == labels).mean())
  scores = [entry.scores['knn'] for entry in ranked.entries]
  assert scores == sorted(scores, reverse=True)


def test_the_same_ranking_comes_out_every_time(shapes, tiny_hub):
  def scores():
    return [(e.candidate.describe(), e.scores, e.stderr)
            for e in ranking.rank(shapes, tiny_hub).entries]
  assert scores() == scores()


def test_the_json_says_what_programs_need(shapes, tiny_hub):
  result = json.loads(json.dumps(ranking.rank(shapes, tiny_hub).to_dict()))
  assert {'task', 'hub', 'examples', 'winner', 'baseline', 'beats_baseline',
          'experts'} <= set(result)
  assert result['baseline'] == 'test/baseline/1'
  assert isinstance(result['beats_baseline'], bool)
  for entry in result['experts']:
    assert {'handle', 'expert', 'kind', 'scores', 'stderr', 'images', 'seconds',
            'dropped'} <= set(entry)
  assert result['winner'] == result['experts'][0]['handle']


def _spoiled_hub(tiny_hub, tmp_path):
  """The tiny hub with its whole expert's weights all NaN, and one module truncated."""
  from conftest import tiny_backbone
  from export import hub
  from export import metadata
  root = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, root)
  path = os.path.join(root, 'test/expert/1')
  description = hub.resolve('test/expert/1', root).metadata
  shutil.rmtree(path)
  backbone = tiny_backbone(1)
  for variable in backbone.variables:
    variable.assign(np.full(variable.shape, np.nan))
  from export import saved_model
  saved_model.save(backbone, path)
  metadata.write(path, description)
  with open(os.path.join(root, 'test/packed/1/saved_model.pb'), 'r+b') as file:
    file.truncate(5000)
  return root


def test_a_module_that_fails_is_dropped_with_its_reason_and_the_rest_is_ranked(
    shapes, tiny_hub, tmp_path):
  ranked = ranking.rank(shapes, _spoiled_hub(tiny_hub, tmp_path))
  assert ranked.winner.candidate.handle == 'test/baseline/1'
  reasons = {e.candidate.describe(): e.dropped for e in ranked.entries[1:]}
  assert 'not finite' in reasons['test/expert/1']
  assert 'damaged' in reasons['test/packed/1 (circle)']
  assert 'damaged' in reasons['test/packed/1 (square)']
  assert 'dropped: module test/expert/1 gives embeddings' in show.table(ranked.to_dict())


def test_where_every_module_fails_the_first_reason_is_said(shapes, tiny_hub, tmp_path):
  root = _spoiled_hub(tiny_hub, tmp_path)
  shutil.rmtree(os.path.join(root, 'test/baseline'))
  with pytest.raises(ValueError, match='no module could be used; the first failed so'):
    ranking.rank(shapes, root)


def test_a_foreign_module_with_only_a_signature_is_ranked(shapes, tmp_path):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name='pixels')])
  def mean_color(pixels):
    return {'features': tf.reduce_mean(pixels, (1, 2))}

  tf.saved_model.save(root, str(tmp_path / 'colors'), signatures=mean_color)
  handle = str(tmp_path / 'colors')
  with pytest.raises(ValueError, match='does not say its image size: give --image_size'):
    ranking.rank(shapes, '', [handle])
  ranked = ranking.rank(shapes, '', [handle], image_size=16)
  assert ranked.winner.candidate.kind == 'foreign'
  assert ranked.baseline is None
  assert 'no baseline to compare with' in show.verdict(ranked.to_dict())


def test_a_module_may_do_without_the_argument_training(shapes, tmp_path):
  import tensorflow as tf
  root = tf.train.Checkpoint()

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    return tf.reduce_mean(images, (1, 2))

  root.__call__ = call
  tf.saved_model.save(root, str(tmp_path / 'plain'))
  ranked = ranking.rank(shapes, '', [str(tmp_path / 'plain')], image_size=16)
  assert ranked.winner.scores['knn'] > 0


def test_a_class_with_one_example_is_warned_of(tiny_hub, caplog):
  images = np.random.default_rng(0).integers(0, 255, (20, 8, 8)).astype(np.uint8)
  labels = np.array([0] * 15 + [1] * 4 + [2])
  task = tasks.from_arrays('odd', 'abc', train=(images, labels), test=(images, labels))
  ranking.rank(task, tiny_hub)
  assert 'a single example here, which no other can classify: c' in caplog.text


def test_too_few_images_for_k_says_which_k_will_do(tiny_hub):
  images, labels = np.zeros((7, 8, 8), np.uint8), np.arange(7) % 2
  task = tasks.from_arrays('birds', 'ab', train=(images, labels), test=(images, labels))
  with pytest.raises(ValueError, match="task 'birds' has 7 examples but k is 9: use --k=6"):
    ranking.rank(task, tiny_hub, k=9)


def test_candidates_are_named_by_handle_and_expert(tiny_hub):
  assert candidates.one('test/packed/1#square', tiny_hub).expert == 1
  assert candidates.one('test/packed#0', tiny_hub).name == 'circle'
  assert candidates.one('test/expert', tiny_hub).expert is None
  with pytest.raises(ValueError, match=r'is a packed module: give .*#EXPERT, one of circle'):
    candidates.one('test/packed/1', tiny_hub)
  with pytest.raises(ValueError, match="no expert 'bird'"):
    candidates.one('test/packed/1#bird', tiny_hub)


def test_zoo_rank_prints_table_json_and_chart(tiny_hub, picture_folder, console, tmp_path):
  chart = tmp_path / 'chart.svg'
  code, out, _ = console(rank_main, f'--hub={tiny_hub}', f'--task=folder:{picture_folder}',
                         f'--chart={chart}')
  assert code == 0
  for name in ('circle', 'square', 'baseline', 'Best by leave-one-out kNN on 48 examples'):
    assert name in out
  xml.etree.ElementTree.parse(chart)
  code, out, _ = console(rank_main, f'--hub={tiny_hub}', f'--task=folder:{picture_folder}',
                         '--json')
  assert len(json.loads(out)['experts']) == 4


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--task=no_such_task'], "unknown task 'no_such_task'"),
    (['--task=made', '--data_dir=/nowhere'], '--data_dir=/nowhere is not a folder'),
    (['--hub=/nowhere'], '--hub=/nowhere is not a folder'),
    (['--hub=.'], '--hub=. has no module'),
    (['--hub='], 'no module to choose from: give --hub or --handles'),
    (['--hub=', '--handles=nothing/here'], "no module 'nothing/here'"),
    (['--k=1000'], 'use --k=999 or less'),
    (['--k=0'], 'k is 0; it must be 1 or more'),
    (['--chart=chart.bmp'], 'must end in .png, .svg or .pdf'),
])
def test_bad_input_is_one_line_and_exit_code_1(tiny_hub, console, flags, complaint):
  code, out, err = console(rank_main, f'--hub={tiny_hub}', *flags)
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-rank: ')
  assert err.count('\n') == 1


def test_the_made_experts_differ(tiny_hub):
  # The tests above would prove little if two experts were the same.
  found = candidates.find(tiny_hub)
  assert [c.name for c in found] == ['baseline', 'circle', 'circle', 'square']
  assert len({c.module.metadata['fingerprint'] for c in found}) == 3
