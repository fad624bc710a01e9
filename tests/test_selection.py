"""Selection: the expert whose frozen embeddings classify a task's examples best."""

import dataclasses
import json
import os
import shutil
import types
import xml.etree.ElementTree

import numpy as np
import pytest

from conftest import redescribe
from conftest import shapes_task
from selection import candidates
from selection import compare
from selection import embeddings
from selection import neighbors
from selection import proxies
from selection import rank_main
from selection import ranking
from selection import show
from zoo import tasks


def brute_force(points, k):
  """The k nearest of each point among the others, one by one."""
  points = np.asarray(points, np.float64)
  found = []
  for i, query in enumerate(points):
    order = np.argsort(np.square(points - query).sum(1), kind='stable')
    found.append(order[order != i][:k])
  return np.array(found)


@pytest.fixture(scope='module')
def shapes():
  """A task of 3 shapes, 90 to train and 30 to test."""
  return shapes_task(90, 30)


def test_a_ranking_scores_every_expert_as_computed_by_hand(shapes, tiny_hub):
  ranked = ranking.rank(shapes, tiny_hub, proxies=['knn'])
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
    assert entry.scores['knn'].value == pytest.approx((labels[nearest] == labels).mean())
  scores = [entry.scores['knn'].value for entry in ranked.entries]
  assert scores == sorted(scores, reverse=True)


def test_the_same_ranking_comes_out_every_time(shapes, tiny_hub):
  def scores():
    return [(e.candidate.describe(), e.scores)
            for e in ranking.rank(shapes, tiny_hub).entries]
  assert scores() == scores()


def test_a_task_of_several_labels_an_image_is_refused_before_anything_is_done(monkeypatch):
  images, labels = np.zeros((4, 2, 2), np.uint8), np.eye(4, 3)
  task = tasks.from_arrays('weather', 'abc', train=(images, labels), test=(images, labels))
  monkeypatch.setattr(candidates, 'for_task', lambda *_: pytest.fail('the hub was read'))
  monkeypatch.setattr(tasks, 'read_sizes', lambda *_: pytest.fail('images were read'))
  for use in (lambda: ranking.rank(task), lambda: ranking.sample(task, [8])):
    with pytest.raises(ValueError, match=r"^task 'weather' has several labels an image, but .* "
                       r'choose an expert yourself and give it to zoo-finetune --handle\.$'):
      use()


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


def test_another_proxy_or_k_or_label_needs_no_network(shapes, tiny_hub, monkeypatch):
  from selection import embedder
  before = ranking.rank(shapes, tiny_hub)
  assert all(e.computed == 90 for e in before.entries)
  monkeypatch.setattr(embedder, 'Embedder', lambda *_: pytest.fail('a network was loaded'))
  for changed in ({'proxies': ['ridge']}, {'k': 3}, {'distance': 'cosine'}):
    assert all(e.computed == 0 for e in ranking.rank(shapes, tiny_hub, **changed).entries)
  pictures = np.stack([image for image, _ in shapes.reader('train', range(90))])
  labels = np.arange(90) % 2
  other = tasks.from_arrays('relabelled', 'ab', train=(pictures, labels),
                            test=(pictures, labels))
  ranked = ranking.rank(other, tiny_hub)
  assert all(e.computed == 0 for e in ranked.entries)
  assert ranked.winner.scores['knn'].value < before.winner.scores['knn'].value


def test_several_proxies_are_shown_the_first_one_ranks_and_their_agreement_is_stated(
    shapes, tiny_hub):
  ranked = ranking.rank(shapes, tiny_hub, proxies=proxies.NAMES)
  values = {name: [e.scores[name].value for e in ranked.entries] for name in proxies.NAMES}
  assert values['knn'] == sorted(values['knn'], reverse=True)
  assert ranked.agreement == {
      name: proxies.kendall(values['knn'], values[name]) for name in ('ridge', 'logme', 'hscore')}
  text = show.table(ranked.to_dict())
  for title in ('1-NN', 'ridge', 'LogME', 'H-score'):
    assert title in text
  assert 'Kendall tau' in show.verdict(ranked.to_dict())
  by_logme = ranking.rank(shapes, tiny_hub, proxies=['logme', 'knn'])
  found = [e.scores['logme'].value for e in by_logme.entries]
  assert found == sorted(found, reverse=True)
  assert by_logme.beats_baseline in (True, False)


def test_without_a_choice_one_takes_the_best_baseline_of_the_most_upstream_data():
  def one(kind, examples, top1):
    known = {'upstream': {'examples': examples}, 'scores': {'top1': top1}}
    return types.SimpleNamespace(kind=kind, module=types.SimpleNamespace(metadata=known))

  found = [one('baseline', 10, 0.9), one('baseline', 20, 0.3), one('baseline', 20, 0.4),
           one('expert', 20, 0.8)]
  assert candidates.plain_baseline(found) is found[2]
  assert candidates.plain_baseline(found[3:]) is None


def test_the_best_of_many_must_beat_the_baseline_by_more_than_the_best_of_few():
  # p = 22/1024, so that the best of three is beyond noise at 5% no more.
  one = proxies.accuracy(np.array([True] * 9 + [False] + [True] * 90))
  other = proxies.accuracy(np.array([False] * 9 + [True] + [True] * 90))
  assert compare.beats(one, other)
  assert compare.beats(one, other, tried=2)
  assert not compare.beats(one, other, tried=3)


def test_where_search_is_approximate_its_recall_is_measured_and_said(
    shapes, tiny_hub, monkeypatch):
  assert all(e['recall'] is None for e in ranking.rank(shapes, tiny_hub).to_dict()['experts'])
  exact = neighbors.ExactIndex
  # An approximate index that misses every nearest neighbour: it gives the second.
  missing = type('Missing', (exact,), {
      'exact': False, 'others': lambda self, k: exact.others(self, k + 1)[:, 1:]})
  monkeypatch.setattr(neighbors, 'index', lambda embeddings, method: missing(embeddings))
  result = ranking.rank(shapes, tiny_hub).to_dict()
  assert all(0 <= e['recall'] < 0.2 for e in result['experts'])
  assert 'of the nearest neighbours, on samples' in show.verdict(result)


def _of_data(tiny_hub, tmp_path, source, *handles):
  """The tiny hub, some of its modules trained on the data of a task."""
  root = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, root)
  for handle in handles:
    redescribe(os.path.join(root, handle), lambda m: m['upstream'].update(source=source))
  return root


def test_modules_that_have_learnt_from_the_tasks_data_set_are_left_out(
    shapes, tiny_hub, tmp_path, caplog):
  caplog.set_level('INFO')
  task = dataclasses.replace(shapes, source='pictures:2.1.0#shape[under=round]')
  root = _of_data(tiny_hub, tmp_path, 'pictures:2.0.0', 'test/expert/1', 'test/packed/1')
  ranked = ranking.rank(task, root)
  assert [entry.candidate.handle for entry in ranked.entries] == ['test/baseline/1']
  result = json.loads(json.dumps(ranked.to_dict()))
  reason = 'its upstream data, pictures:2.0.0, are of the data set of the task'
  assert result['left_out'] == [
      {'handle': handle, 'expert': expert, 'reason': reason}
      for handle, expert in (('test/expert/1', None), ('test/packed/1', 0), ('test/packed/1', 1))]
  said = 'left out, for having learnt from the data set of the task, pictures.'
  assert f'3 of 4 candidates are {said}' in caplog.text
  assert f'3 more are {said}' in show.verdict(result)
  whole = ranking.rank(shapes, root)
  assert (whole.left_out, len(whole.entries)) == ([], 4)
  assert 'left out' not in show.verdict(whole.to_dict())


def test_where_all_have_learnt_from_the_tasks_data_set_one_line_says_what_to_do(
    tiny_hub, tmp_path, console):
  root = _of_data(tiny_hub, tmp_path, tasks.digits().source, 'test/baseline/1', 'test/expert/1',
                  'test/packed/1')
  code, out, err = console(rank_main, f'--hub={root}', '--task=digits')
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert 'all 4 candidates are left out, for having learnt from the data set of the task' in err
  assert 'rank modules of other upstream data (--hub, --handles)' in err


def test_what_is_left_out_is_not_explained_and_the_page_says_how_many_are(
    tiny_hub, tmp_path, picture_folder, console):
  source = tasks.load(f'folder:{picture_folder}').source
  root = _of_data(tiny_hub, tmp_path, source, 'test/packed/1')
  flags = (f'--hub={root}', f'--task=folder:{picture_folder}', '--explain=page.html')
  code, _, err = console(rank_main, *flags)
  assert code == 0, err
  with open('page.html', encoding='utf-8') as file:
    assert '; 2 more are left out, for having learnt from' in file.read()
  code, out, err = console(rank_main, *flags, '--expert=test/packed#0')
  assert (code, out) == (1, '')
  assert '--expert=test/packed#0 is left out of this ranking: its upstream data, folder:' in err
  root = _of_data(tiny_hub, tmp_path / 'other', source, 'test/baseline/1')
  code, out, err = console(rank_main, f'--hub={root}', *flags[1:])
  assert (code, out) == (1, '')
  assert 'to --handles, of other upstream data than those of the task.' in err


def test_more_or_fewer_examples_can_be_asked_for(shapes, tiny_hub):
  assert ranking.rank(shapes, tiny_hub, examples=30).examples == 30
  assert ranking.rank(shapes, tiny_hub, examples=0).examples == 90
  drawn = ranking.rank(shapes, tiny_hub, examples=30, seed=1)
  assert drawn.protocol == '30 of train (seed 1)'
  assert drawn.digest != ranking.rank(shapes, tiny_hub, examples=30).digest


def test_a_large_hub_is_shown_in_part_and_says_so(shapes, tiny_hub, monkeypatch):
  monkeypatch.setattr(show, 'ROWS', 2)
  result = ranking.rank(shapes, tiny_hub).to_dict()
  assert show.table(result).endswith('... and 2 more (--json has all).')


def test_scikit_learns_neighbours_give_the_same_ranking(shapes, tiny_hub):
  import sklearn.neighbors
  pictures = np.stack([image for image, _ in shapes.reader('train', range(90))])
  labels = np.arange(90) % 3
  scores = {e.candidate.key: e.scores['knn'].value for e in ranking.rank(shapes, tiny_hub).entries}
  for one in embeddings.Embeddings({16: pictures}).of(
      candidates.find(tiny_hub), np.arange(90)):
    near = sklearn.neighbors.KNeighborsClassifier(1).fit(
        one.embeddings.astype(np.float64), labels).kneighbors(return_distance=False)
    assert scores[one.candidate.key] == np.mean(labels[near[:, 0]] == labels)


def _spoiled_hub(tiny_hub, tmp_path):
  """The tiny hub with its whole expert's weights all NaN, and one module truncated."""
  from conftest import tiny_backbone
  from export import hub
  from export import manifest
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
  manifest.seal(path, description)
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
  assert ranked.winner.scores['knn'].value > 0


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
  with pytest.raises(ValueError, match=r'has several experts: give .*#EXPERT, one of circle'):
    candidates.one('test/packed/1', tiny_hub)
  with pytest.raises(ValueError, match="no expert 'bird'"):
    candidates.one('test/packed/1#bird', tiny_hub)


def test_zoo_rank_prints_table_json_and_chart(tiny_hub, picture_folder, console, tmp_path):
  chart = tmp_path / 'chart.svg'
  code, out, _ = console(rank_main, f'--hub={tiny_hub}', f'--task=folder:{picture_folder}',
                         f'--chart={chart}')
  assert code == 0
  for name in ('circle', 'square', 'baseline', 'Best by 1-NN+LogME on 48 examples'):
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
    (['--proxy=leep'], "unknown proxy 'leep': it must be one of knn, ridge, logme, hscore"),
    (['--proxy=logme', '--noexhaustive'], 'logme has no outcomes to race on'),
    (['--confidence=3'], 'confidence is 3.0; it must be at least 0.5 and below 1'),
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
