"""Matching: the expert whose slice looks like the task, without labels or embeddings.

Upstream are plain pictures of five colours. The features are those of a tiny random network;
the heads on them are trained.
"""

import json
import os
import shutil
import types

import hypothesis
import numpy as np
import pytest
import scipy.spatial.distance
from conftest import as_foreign
from conftest import redescribe
from conftest import tiny_architecture
from conftest import tiny_backbone
from conftest import tiny_description
from hypothesis import strategies as st

from export import hub
from export import hub_main
from export import publish
from selection import candidates
from selection import embedder
from selection import matching
from selection import proxies
from selection import rank_main
from selection import ranking
from selection import show
from zoo import classifier
from zoo import domains
from zoo import tasks
from zoo import training

COLORS = {'red': (200, 30, 30), 'orange': (200, 120, 20), 'green': (30, 180, 30),
          'blue': (30, 30, 200), 'grey': (120, 120, 120)}
COUNTS = {'red': 10, 'orange': 30, 'green': 20, 'blue': 20, 'grey': 20}
SLICES = {'warm': ('red', 'orange'), 'cold': ('green', 'blue'),
          'all_but_grey': ('red', 'orange', 'green', 'blue')}
UPSTREAM = {'task': 'colors', 'source': 'colors:1.0.0', 'split': 'train',
            'classes': list(COLORS), 'counts': list(COUNTS.values())}


def _pictures(names, each, seed):
  """Pictures uint8 [N, 16, 16, 3] of colours by turns and their labels int64 [N]."""
  random = np.random.default_rng(seed)
  labels = np.arange(each * len(names)) % len(names)
  images = np.array([COLORS[name] for name in names])[labels, None, None]
  noise = random.integers(-30, 30, (len(labels), 16, 16, 3))
  return np.clip(images + noise, 0, 255).astype(np.uint8), labels


def _task(names):
  """A task of some colours, of other pictures than upstream."""
  return tasks.from_arrays('-'.join(names), names, train=_pictures(names, 40, 10),
                           test=_pictures(names, 5, 11))


def _slice(name):
  return {'name': name, 'node': f'n/{name}', 'classes': list(SLICES[name]),
          'examples': sum(COUNTS[color] for color in SLICES[name])}


def _predictor(wanted):
  """A predictor on the features of `tiny_backbone(0)`, of weights [5, n] of the colours."""
  body = tiny_backbone(0)
  images, labels = _pictures(list(COLORS), 60, 1)
  aims = wanted[labels] / wanted[labels].sum()
  kernel, bias = domains.fit_head(training.predict(body, images), aims.astype(np.float32))
  network = classifier.Predictor(body, wanted.shape[1])
  network.head.kernel.assign(kernel)
  network.head.bias.assign(bias)
  return network


def _slices_description(**more):
  return tiny_description('predictor', predicts='slices', classes=list(SLICES), features=3,
                          slices=[_slice(name) for name in SLICES], upstream=UPSTREAM,
                          scores={'top1': 0.9, 'cross_entropy': 0.8, 'least_cross_entropy': 0.7,
                                  'held_out_examples': 50}, **more)


def _changed(root, handle, change):
  redescribe(os.path.join(root, handle), change)


@pytest.fixture(scope='module')
def colors(tiny_hub, tmp_path_factory):
  """A hub of a baseline, a whole and two packed experts, and both predictors. Do not change."""
  root = str(tmp_path_factory.mktemp('colors'))
  for name in ('baseline', 'expert', 'packed'):
    shutil.copytree(os.path.join(tiny_hub, 'test', name), os.path.join(root, 'test', name))
  _changed(root, 'test/baseline/1', lambda m: m.update(upstream=UPSTREAM))
  _changed(root, 'test/expert/1', lambda m: m.update(upstream=UPSTREAM, slice=_slice('warm')))
  _changed(root, 'test/packed/1', lambda m: m.update(
      upstream={'source': UPSTREAM['source']},
      experts=[expert | {'name': name, 'slice': _slice(name)} for expert, name in zip(
          m['experts'], ('cold', 'all_but_grey'), strict=True)]))
  publish.publish(_predictor(domains.targets(SLICES.values(), COUNTS)), _slices_description(),
                  root, 'test/slices/1')
  publish.publish(_predictor(np.eye(5)), tiny_description(
      'predictor', predicts='labels', classes=list(COLORS), features=5, upstream=UPSTREAM,
      scores={'top1': 0.9, 'top5': 1., 'held_out_examples': 50}), root, 'test/labels/1')
  return root


def _values(ranked, name):
  return {entry.candidate.name: entry.scores[name].value
          for entry in ranked.entries if name in entry.scores}


@pytest.mark.parametrize('proxy', ['domain', 'labels'])
@pytest.mark.parametrize(('names', 'best'), [
    (['red', 'orange'], 'warm'), (['green', 'blue'], 'cold'),
    (['red', 'orange', 'green', 'blue'], 'all_but_grey')])
def test_a_task_that_looks_like_a_slice_prefers_its_expert(colors, proxy, names, best):
  assert ranking.rank(_task(names), colors, proxies=[proxy]).winner.candidate.name == best


def test_a_task_of_all_upstream_classes_prefers_the_baseline_by_its_labels(colors):
  ranked = ranking.rank(_task(list(COLORS)), colors, proxies=['labels'])
  assert ranked.winner.candidate.kind == 'baseline'


def _log_probabilities(root, handle, task):
  """What a predictor of the hub says of a task's training images, float64 [N, n]."""
  images = np.stack([image for image, _ in task.reader('train', range(task.splits['train']))])
  return hub.load(hub.resolve(handle, root))(images.astype(np.float32) / 255).numpy().astype(
      np.float64)


def test_domain_scores_are_mean_log_probabilities_over_chance(colors):
  task = _task(['red', 'green'])
  said = _log_probabilities(colors, 'test/slices/1', task)
  np.testing.assert_allclose(np.exp(said).sum(1), 1, atol=1e-5)
  ranked = ranking.rank(task, colors, proxies=['domain'])
  for i, name in enumerate(SLICES):
    score, = (e.scores['domain'] for e in ranked.entries if e.candidate.name == name)
    own = [said[j, i] - np.log(1 / 3) for j in range(len(said))]
    assert score.value == pytest.approx(sum(own) / len(own), abs=1e-5)
    without = [np.mean([value for j, value in enumerate(own) if j % 10 != group])
               for group in range(10)]
    np.testing.assert_allclose(score.replicates, without, atol=1e-5)
    assert score.stderr == pytest.approx(proxies.jackknife_error(without), abs=1e-5)


def test_label_scores_are_divergences_from_the_slices_own_labels(colors):
  task = _task(['red', 'grey'])
  seen = np.exp(_log_probabilities(colors, 'test/labels/1', task))
  ranked = ranking.rank(task, colors, proxies=['labels'])
  everything = SLICES | {'baseline': tuple(COLORS)}
  assert set(_values(ranked, 'labels')) == set(everything)
  for name, classes in everything.items():
    score, = (e.scores['labels'] for e in ranked.entries if e.candidate.name == name)
    own = np.array([COUNTS[color] if color in classes else 0 for color in COLORS], np.float64)

    def value(rows, own=own):
      return -scipy.spatial.distance.jensenshannon(seen[rows].mean(0), own) ** 2

    assert score.value == pytest.approx(value(range(len(seen))), abs=1e-5)
    np.testing.assert_allclose(score.replicates, [
        value([j for j in range(len(seen)) if j % 10 != group]) for group in range(10)], atol=1e-5)


def test_a_predictor_of_upstream_data_without_counts_takes_classes_as_equal():
  predictor = types.SimpleNamespace(handle='p', metadata={
      'classes': ['a', 'b', 'c'], 'upstream': {}})
  expert = types.SimpleNamespace(kind='packed', slice={'name': 's', 'classes': ['a', 'c']})
  summary = matching.Labels().summary(np.log([[0.5, 1e-9, 0.5]] * 4))
  assert matching.Labels()(summary, predictor, expert).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('number', [2, 40])
def test_a_prediction_by_chance_scores_0_however_many_slices_there_are(number):
  predictor = types.SimpleNamespace(handle='p', metadata={
      'slices': [{'node': str(i)} for i in range(number)]})
  expert = types.SimpleNamespace(slice={'name': 'one', 'node': '1'})
  summary = matching.Domain().summary(np.full((20, number), -np.log(number)))
  assert matching.Domain()(summary, predictor, expert).value == pytest.approx(0)


DISTRIBUTIONS = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(
    lambda values: sum(values) > 0.1).map(lambda values: np.array(values) / sum(values))


@hypothesis.given(DISTRIBUTIONS, st.randoms(use_true_random=False))
@hypothesis.settings(max_examples=50)
def test_the_divergence_is_symmetric_bounded_and_0_of_the_same_only(one, random):
  other = np.array(random.sample(one.tolist(), len(one)))
  found = matching.jensen_shannon(one, other)
  assert found == pytest.approx(matching.jensen_shannon(other, one))
  assert 0 <= found <= np.log(2) + 1e-12
  assert matching.jensen_shannon(one, one) == 0
  assert found >= np.abs(one - other).sum() ** 2 / 8 - 1e-12  # Pinsker's inequality, both ways
  assert matching.jensen_shannon(np.array([1., 0]), np.array([0., 1])) == pytest.approx(np.log(2))


def test_a_class_of_the_least_probability_does_not_make_two_distributions_infinitely_far():
  assert matching.jensen_shannon(np.array([5e-324, 1]), np.array([0, 1.])) < 1e-300


@hypothesis.given(st.permutations(range(12)), st.permutations(range(3)))
@hypothesis.settings(max_examples=20)
def test_neither_the_order_of_the_images_nor_that_of_the_outputs_matters(images, outputs):
  said = np.random.default_rng(0).normal(0, 2, (12, 3))
  said -= np.log(np.exp(said).sum(1, keepdims=True))
  names = ['warm', 'cold', 'all_but_grey']

  def scores(rows, columns):
    own = [names[i] for i in columns]
    predictor = types.SimpleNamespace(handle='p', metadata={
        'slices': [{'node': name} for name in own], 'classes': own,
        'upstream': {'classes': names, 'counts': [1, 2, 3]}})
    expert = types.SimpleNamespace(kind='expert', slice={
        'name': 'cold', 'node': 'cold', 'classes': ['cold', 'all_but_grey']})
    predicted = said[np.ix_(rows, columns)]
    return [matcher(matcher.summary(predicted), predictor, expert).value
            for matcher in (matching.Domain(), matching.Labels())]

  np.testing.assert_allclose(scores(images, outputs), scores(range(12), range(3)), rtol=1e-9)


def test_images_go_through_one_predictor_each_and_through_no_expert(colors, monkeypatch):
  loaded, load = [], embedder.Embedder

  def counted(module, *arguments):
    loaded.append(module.handle)
    return load(module, *arguments)

  monkeypatch.setattr(embedder, 'Embedder', counted)
  task = _task(['red', 'blue'])
  ranked = ranking.rank(task, colors, proxies=['domain', 'labels'])
  assert sorted(loaded) == ['test/labels/1', 'test/slices/1']
  assert all(entry.computed == 0 and entry.seconds > 0 for entry in ranked.entries)
  ranking.rank(task, colors, proxies=['labels'])  # the cache has what they say
  assert len(loaded) == 2


def test_beside_another_proxy_they_are_shown_and_who_has_no_slice_lacks_the_score(colors):
  ranked = ranking.rank(_task(['red', 'blue']), colors, proxies=['knn', 'domain', 'labels'])
  assert len(_values(ranked, 'knn')) == len(_values(ranked, 'labels')) == 4
  assert set(_values(ranked, 'domain')) == set(SLICES)
  assert not any(entry.dropped for entry in ranked.entries)
  assert set(ranked.agreement) == {'domain', 'labels'}
  result = json.loads(json.dumps(ranked.to_dict()))
  row, = (line for line in show.table(result).splitlines() if 'test/baseline/1' in line)
  assert ' - ' in row
  assert 'labels orders the experts alike' in show.verdict(result)


def test_where_the_domain_ranks_the_baseline_is_dropped_with_the_reason(colors):
  ranked = ranking.rank(_task(['red', 'blue']), colors, proxies=['domain', 'knn'])
  last = ranked.entries[-1]
  assert (last.candidate.kind, set(last.scores)) == ('baseline', {'knn'})
  assert last.dropped == 'test/slices/1 does not know a slice of it'
  assert ranked.baseline is ranked.beats_baseline is None
  result = ranked.to_dict()
  assert 'dropped: test/slices/1 does not know' in show.table(result)
  assert 'There is no baseline to compare with' in show.verdict(result)
  assert show.chart(result)


def test_noise_is_that_of_paired_replicates(colors):
  ranked = ranking.rank(_task(['red', 'orange']), colors, proxies=['labels'])
  assert ranked.winner.candidate.name == 'warm'
  assert ranked.beats_baseline is True
  versus = ranked.winner.to_dict('labels', ranked.baseline)['vs_baseline']
  scores = ranked.winner.scores['labels'], ranked.baseline.scores['labels']
  apart = scores[0].replicates - scores[1].replicates
  assert versus['gain'] == scores[0].value - scores[1].value
  assert versus['stderr'] == pytest.approx(proxies.jackknife_error(apart))


def _only(colors, tmp_path, *names):
  """A hub of some modules of another."""
  root = tmp_path / 'hub'
  for name in names:
    shutil.copytree(os.path.join(colors, 'test', name), root / 'test' / name)
  return str(root)


@pytest.mark.parametrize(('proxy', 'how'), [
    ('domain', 'zoo-experts --kind=domains'), ('labels', 'zoo-publish --predictor')])
def test_without_a_predictor_one_line_says_how_to_make_one(
    colors, tmp_path, console, picture_folder, proxy, how):
  root = _only(colors, tmp_path, 'baseline', 'expert')
  code, out, err = console(rank_main, f'--hub={root}', f'--task=folder:{picture_folder}',
                           f'--proxy={proxy}')
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert f'--proxy={proxy} needs a predictor' in err
  assert 'trained on colors:1.0.0' in err
  assert how in err


def test_each_upstream_data_set_has_its_own_predictor(colors, tmp_path):
  root = _only(colors, tmp_path, 'expert', 'packed', 'slices')
  _changed(root, 'test/expert/1', lambda m: m['upstream'].update(source='others:1.0.0'))
  ranked = ranking.rank(_task(['red', 'orange']), root, proxies=['domain'])
  assert set(_values(ranked, 'domain')) == {'cold', 'all_but_grey'}
  assert ranked.entries[-1].dropped == 'there is no predictor of slices of others:1.0.0'
  shutil.copytree(os.path.join(root, 'test/slices'), os.path.join(root, 'test/more'))
  _changed(root, 'test/more/1', lambda m: m['upstream'].update(source='others:1.0.0'))
  ranked = ranking.rank(_task(['red', 'orange']), root, proxies=['domain'])
  assert set(_values(ranked, 'domain')) == set(SLICES)


def test_a_foreign_module_is_dropped_and_a_damaged_predictor_drops_all(colors, tmp_path):
  root = _only(colors, tmp_path, 'expert', 'slices')
  shutil.copytree(os.path.join(colors, 'test/baseline/1'), tmp_path / 'foreign')
  as_foreign(tmp_path / 'foreign')
  ranked = ranking.rank(_task(['red', 'blue']), root, [str(tmp_path / 'foreign')], 16,
                        proxies=['domain'])
  assert ranked.entries[-1].dropped == 'it does not say its upstream data'
  with open(os.path.join(root, 'test/slices/1/saved_model.pb'), 'ab') as file:
    file.write(b'x')
  with pytest.raises(ValueError, match=r'no module could be used; .*the predictor test/slices/1 '
                                       r'failed: .*damaged'):
    ranking.rank(_task(['red', 'blue']), root, proxies=['domain'])


def test_of_several_predictors_the_one_that_knows_most_then_the_most_accurate_is_taken(colors):
  plain = hub.resolve('test/slices/1', colors)

  def like(handle, **changes):
    return hub.Module(handle, plain.path, plain.metadata | changes)

  def chosen(*modules):
    found = matching.predictors([matching.Domain()], modules, candidates.find(colors))
    return found['domain', UPSTREAM['source']].handle

  better = like('better', scores={'top1': 0.95})
  fewer = like('fewer', classes=['warm', 'cold'], scores={'top1': 1.})
  assert chosen(better, plain, fewer) == chosen(fewer, plain, better) == 'better'


def test_a_predictor_is_no_candidate(colors):
  assert {one.handle for one in candidates.find(colors)} == {
      'test/baseline/1', 'test/expert/1', 'test/packed/1'}
  with pytest.raises(ValueError, match="is of kind 'predictor' and has no embeddings"):
    candidates.one('test/slices/1', colors)


def test_there_is_nothing_to_race_and_nothing_for_workers_to_do(colors):
  task = _task(['red', 'blue'])
  with pytest.raises(ValueError, match='domain has no outcomes to race on'):
    ranking.rank(task, colors, proxies=['domain', 'knn'], exhaustive=False)
  with pytest.raises(ValueError, match='--proxy=domain,labels loads no expert and needs no work'):
    ranking.rank(task, colors, proxies=['domain', 'labels'], workers=types.SimpleNamespace())


def test_beside_what_workers_score_they_are_computed_here(colors):
  task = _task(['red', 'blue'])
  here = ranking.rank(task, colors, proxies=['labels', 'knn'])

  def entries(found, drawn, settings, cache, trust):
    assert settings['names'] == ['knn']
    alone = ranking.rank(task, colors)
    return [next(e for e in alone.entries if e.candidate.key == one.key) for one in found]

  there = ranking.rank(task, colors, proxies=['labels', 'knn'],
                       workers=types.SimpleNamespace(entries=entries))
  assert [e.candidate.key for e in there.entries] == [e.candidate.key for e in here.entries]
  for name in ('labels', 'knn'):
    assert _values(there, name) == _values(here, name)


def test_an_expert_chosen_by_its_domain_can_be_explained(colors, picture_folder, console):
  code, out, err = console(rank_main, f'--hub={colors}', f'--task=folder:{picture_folder}',
                           '--proxy=domain', '--explain=page.html')
  assert code == 0, err
  assert 'Best by domain on 48 examples' in out
  assert 'through test/slices/1' in err
  assert '(the best of 4) against test/baseline/1' in err


def test_a_published_predictor_says_what_it_is(colors, console):
  code, out, _ = console(hub_main, f'--hub={colors}')
  assert code == 0
  assert '3 slices' in out
  assert '5 labels' in out
  for name, words in (('slices', ('| 0 | warm | 2 | 40 |', '--proxy=domain', 'Of 50 held-out')),
                      ('labels', ('5 classes', '--proxy=labels', 'top-1\n90.0%'))):
    with open(os.path.join(colors, 'test', name, '1/README.md'), encoding='utf-8') as file:
      card = file.read()
    assert all(word in card for word in (*words, 'log_probabilities = layer(images)'))


@pytest.mark.parametrize(('change', 'complaint'), [
    (lambda m: m.pop('predicts'), r'needs predicts \(slices or labels\) and classes'),
    (lambda m: m.update(classes=[]), 'and classes, the names of its outputs'),
    (lambda m: m['slices'].pop(), 'must say the node of each of the 3 classes'),
    (lambda m: m['slices'][0].pop('node'), 'must say the node of each')])
def test_a_predictor_that_does_not_say_its_outputs_is_named(colors, tmp_path, change, complaint):
  root = _only(colors, tmp_path, 'slices')
  _changed(root, 'test/slices/1', change)
  with pytest.raises(ValueError, match=complaint):
    hub.modules(root)


def test_only_the_head_of_a_predictor_trains(colors):
  loaded = hub.load(hub.resolve('test/slices/1', colors))
  features = tiny_architecture().features
  assert [tuple(v.shape) for v in loaded.trainable_variables] == [(features, 3), (3,)]
