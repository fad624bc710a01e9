"""Explaining: which classes and images an expert and the baseline tell apart differently."""

import dataclasses
import html.parser
import json
import os
import shutil

import hypothesis
import numpy as np
import pytest
from conftest import draw_shape
from hypothesis import strategies as st

from selection import candidates
from selection import compare
from selection import embedder
from selection import explain
from selection import explain_page
from selection import proxies
from selection import rank_main
from selection import ranking
from zoo import tasks

VOID = ('br', 'img', 'meta', 'wbr')


class _Page(html.parser.HTMLParser):
  """Checks that tags are closed in order; collects pictures, what is fetched and the words."""

  def __init__(self, text):
    super().__init__()
    self.open, self.pictures, self.fetched, self.text = [], [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.fetched += [attrs[name] for name in ('src', 'href', 'xlink:href') if name in attrs]
    if tag == 'img':
      self.pictures.append(attrs['alt'])
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.fetched += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag
    if tag == 'td':
      self.text += ' '

  def handle_data(self, data):
    if not {'style', 'svg'} & set(self.open):
      self.text += data

  @property
  def words(self):
    return ' '.join(self.text.split())


def _read(path):
  with open(path, encoding='utf-8') as file:
    return file.read()


def test_classes_come_by_gain_with_the_error_of_the_paired_difference():
  labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
  near = np.array([[1], [2], [3], [0], [6], [7], [7], [6]])  # 0 and 2 right, 1 wrong
  known = np.array([[1], [4], [5], [6], [5], [0], [7], [6]])  # the first of 0 and 1, all of 2
  found = explain.difference(near, known, labels)
  assert [c.label for c in found.classes] == [0, 2, 1]
  most, same, least = found.classes
  assert (most.examples, most.expert, most.baseline, most.gain) == (4, 1, 0.25, 0.75)
  # Differences 0, 1, 1, 1: a mean of 3/4 and a variance of 3/16, over four.
  assert most.stderr == pytest.approx(np.sqrt(3) / 8)
  assert (same.gain, same.stderr) == (0, 0)
  assert (least.expert, least.baseline, least.gain) == (0, 0.5, -0.5)
  assert least.stderr == pytest.approx(0.5 / np.sqrt(2))
  assert found.gained.tolist() == [1, 2, 3]
  assert found.lost.tolist() == [4]
  assert (found.expert.value, found.baseline.value, found.gain) == (6 / 8, 4 / 8, 2 / 8)


def test_where_k_vote_an_image_may_be_gained_though_its_nearest_is_wrong():
  labels = np.array([0, 0, 0, 1, 1])
  near = np.array([[3, 1, 2], [3, 4, 0], [3, 4, 0], [4, 0, 1], [3, 0, 1]])
  known = np.array([[3, 4, 1], [3, 4, 0], [3, 4, 0], [0, 4, 1], [3, 0, 1]])
  assert explain.difference(near, known, labels, k=3).gained.tolist() == [0]
  assert explain.difference(near, known, labels, k=1).gained.tolist() == [3]


def test_images_come_one_of_each_class_by_turns_the_most_changed_class_first():
  # Of class 0 a half is gained, of class 1 all; of class 2 a third is lost, of class 3 all.
  labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
  right = np.array([1, 2, 3, 0, 5, 4, 7, 8, 6, 10, 9])[:, None]
  wrong = np.array([4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0])[:, None]
  expert_right = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0], bool)[:, None]
  baseline_right = np.array([0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1], bool)[:, None]
  found = explain.difference(np.where(expert_right, right, wrong),
                             np.where(baseline_right, right, wrong), labels)
  assert found.gained.tolist() == [4, 0, 5, 2]
  assert found.lost.tolist() == [9, 6, 10]


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@hypothesis.settings(max_examples=25)
def test_the_classes_and_images_add_up_to_the_gain_and_turn_with_the_roles(seed, k):
  random = np.random.default_rng(seed)
  labels = random.integers(0, 5, 40)
  near, known = (proxies.Knn(k).others(random.normal(size=(40, 3)) + labels[:, None], 3)
                 for _ in range(2))
  there, back = (explain.difference(*pair, labels, k) for pair in ((near, known), (known, near)))
  assert there.gain == pytest.approx(sum(c.examples * c.gain for c in there.classes) / 40)
  assert there.gain == pytest.approx((len(there.gained) - len(there.lost)) / 40)
  assert set(there.gained) == set(back.lost)
  assert set(there.lost) == set(back.gained)
  assert {(c.label, c.gain, c.stderr) for c in there.classes} == {
      (c.label, -c.gain, c.stderr) for c in back.classes}
  gains = [c.gain for c in there.classes]
  assert gains == sorted(gains, reverse=True)


@pytest.fixture(scope='module')
def shapes():
  """A task of 3 shapes whose names are no markup."""
  random = np.random.default_rng(0)
  kinds = ('cross', 'square', 'stripes')
  images = np.stack([draw_shape(kinds[i % 3], random, 16) for i in range(90)])
  labels = np.arange(90) % 3
  return tasks.from_arrays('shapes', ('cross & <b>', 'a "$1_$" square', 'stripes'),
                           train=(images, labels), test=(images, labels))


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  """A folder for the embeddings of all tests here."""
  return str(tmp_path_factory.mktemp('kept'))


@pytest.fixture(scope='module')
def ranked(shapes, tiny_hub, kept):
  """A ranking of the tiny hub."""
  return ranking.rank(shapes, tiny_hub, cache=kept)


def test_an_explanation_agrees_with_the_ranking_and_embeds_nothing_again(
    ranked, shapes, kept, monkeypatch):
  def refuse(*_):
    raise AssertionError('an image went through the network again')
  monkeypatch.setattr(embedder.Embedder, '__call__', refuse)
  for entry in ranked.entries:
    if entry.candidate.kind == 'baseline':
      continue
    found = explain.explain(
        shapes, entry.candidate, ranked.baseline.candidate, cache=kept).difference
    np.testing.assert_array_equal(found.expert.correct, entry.scores['knn'].correct)
    np.testing.assert_array_equal(found.baseline.correct, ranked.baseline.scores['knn'].correct)
    versus = compare.paired(entry.scores['knn'], ranked.baseline.scores['knn'])
    assert (found.gain, found.stderr) == (versus['gain'], versus['stderr'])


def test_the_page_shows_each_image_with_its_neighbours_under_both(ranked, shapes, kept):
  expert, baseline, standing = explain.pair(ranked)
  found = explain.explain(shapes, expert, baseline, k=5, cache=kept)
  explain_page.write('page.html', found, standing, ['zoo-rank', '--k=5'])
  text = _read('page.html')
  page = _Page(text)
  assert all(link.startswith(('data:', '#')) for link in page.fetched)  # self-contained
  names, labels = shapes.class_names, found.sample.labels
  shown = [*found.difference.gained[:24], *found.difference.lost[:8]]
  assert shown
  assert page.pictures == [names[labels[row]] for i in shown for row in (
      i, *found.near[i, :3], *found.baseline_near[i, :3])]
  assert page.words.count('expert: ✓ right') == len(found.difference.gained[:24])
  assert page.words.count('baseline: ✓ right') == len(found.difference.lost[:8])
  assert page.words.count('expert: ✗ wrong') == page.words.count('baseline: ✓ right')
  for c in found.difference.classes:
    assert (f'{names[c.label]} {c.examples} {100 * c.baseline:.1f}% {100 * c.expert:.1f}% '
            f'{100 * c.gain:+.1f} {100 * c.stderr:.1f}') in page.words
  assert f'{len(found.difference.gained)} images are gained' in page.words
  assert 'the 5 nearest vote, 3 of them are shown.' in page.words
  assert 'zoo-rank --k=5' in page.words


def test_class_names_cannot_write_into_the_page(ranked, shapes, kept):
  expert, baseline, _ = explain.pair(ranked)
  explain_page.write('page.html', explain.explain(shapes, expert, baseline, cache=kept))
  text = _read('page.html')
  assert 'cross & <b>' not in text
  assert 'cross &amp; &lt;b&gt;' in text
  svg = text[text.index('<svg'):text.index('</svg>')]
  assert 'a "$1_$" square' in html.unescape(svg)  # and no formula
  assert {'cross & <b>', 'a "$1_$" square'} <= set(_Page(text).pictures)


def test_the_same_embeddings_gain_and_lose_nothing(ranked, shapes, kept):
  baseline = ranked.baseline.candidate
  found = explain.explain(shapes, baseline, baseline, cache=kept)
  explain_page.write('page.html', found)
  page = _Page(_read('page.html'))
  assert not page.pictures
  assert '0 images are gained, 0 are lost' in page.words
  assert page.words.count('None.') == 2


def test_of_hundreds_of_classes_the_chart_shows_both_ends_and_the_table_all():
  random = np.random.default_rng(0)
  classes = [explain.ClassGain(i, 5, 0.5 + gain / 2, 0.5 - gain / 2, gain, 0.1)
             for i, gain in enumerate(np.sort(random.uniform(-1, 1, 300))[::-1])]
  names = [f'class {i} of a rather long and winding name' for i in range(300)]
  axes = explain_page.chart(classes, names).axes[0]
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert len(labels) == 31
  assert labels[15] == '(270 classes between)'
  assert labels[0].startswith('class 0 of')
  assert labels[-1].startswith('class 299 of')
  assert max(map(len, labels)) < 40


def test_a_class_that_has_not_changed_is_not_among_those_that_have():
  classes = [explain.ClassGain(i, 5, 0.5, 0.5 - gain, gain, 0.1)
             for i, gain in enumerate([0.5] * 3 + [0.] * 95 + [-0.25] * 2)]
  axes = explain_page.chart(classes, [str(i) for i in range(100)]).axes[0]
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert labels == ['0 (5)', '1 (5)', '2 (5)', '(95 classes between)', '98 (5)', '99 (5)']


def _first(ranked, kind):
  """The same ranking as if an expert of this kind had won."""
  entries = sorted(ranked.entries, key=lambda e: e.candidate.kind != kind)
  return dataclasses.replace(ranked, entries=entries)


def test_without_a_name_the_winner_is_explained_or_the_best_beside_a_winning_baseline(ranked):
  expert, baseline, standing = explain.pair(_first(ranked, 'expert'))
  assert (expert.kind, baseline.kind, standing) == ('expert', 'baseline', 'the best of 4')
  won = _first(ranked, 'baseline')
  expert, baseline, standing = explain.pair(won)
  assert expert == won.entries[1].candidate
  assert standing == 'the best beside the baseline, which itself is the best of 4'


def test_who_left_the_race_can_be_explained_but_not_who_failed(ranked):
  *others, last = _first(ranked, 'baseline').entries
  left = dataclasses.replace(last, dropped='9 points behind baseline after 45 examples')
  expert, _, standing = explain.pair(
      dataclasses.replace(ranked, entries=[*others, left]), last.candidate)
  assert expert == last.candidate
  assert standing == 'left the race, 9 points behind baseline after 45 examples'
  failed = dataclasses.replace(last, scores={}, examples=0, dropped='it is damaged')
  with pytest.raises(ValueError, match='cannot be explained, as it was dropped: it is damaged'):
    explain.pair(dataclasses.replace(ranked, entries=[*others, failed]), last.candidate)
  baseline = dataclasses.replace(others[0], scores={}, examples=0, dropped='it is damaged')
  with pytest.raises(ValueError, match='the baseline was dropped: it is damaged'):
    explain.pair(dataclasses.replace(ranked, entries=[*others[1:], last, baseline]))


def test_zoo_rank_explains_whom_it_is_asked_to(tiny_hub, picture_folder, console):
  code, out, err = console(
      rank_main, f'--hub={tiny_hub}', f'--task=folder:{picture_folder}', '--json',
      '--proxy=logme,knn', '--k=3', '--explain=pages/page.html', '--expert=test/packed#square')
  assert code == 0, err
  result = json.loads(out)  # and nothing else on stdout
  entry, = (e for e in result['experts'] if e['name'] == 'square')
  place = result['experts'].index(entry) + 1
  standing = 'the best' if place == 1 else f'number {place}'
  assert f'pages/page.html: test/packed/1 (square) ({standing} of 4)' in err
  page = _Page(_read('pages/page.html'))
  assert 'test/packed/1 (square)' in page.words
  assert 'against the baseline test/baseline/1: leave-one-out 3-NN gets ' in page.words
  assert f'{100 * entry["scores"]["knn"]:.1f}% of the images right' in page.words


def test_an_expert_that_fails_is_said_after_the_table(
    tiny_hub, picture_folder, console, tmp_path):
  root = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, root)
  with open(os.path.join(root, 'test/expert/1/saved_model.pb'), 'r+b') as file:
    file.truncate(5000)
  code, out, err = console(
      rank_main, f'--hub={root}', f'--task=folder:{picture_folder}', '--expert=test/expert',
      '--explain=page.html')
  assert code == 1
  assert 'baseline' in out
  last = err.splitlines()[-1]
  assert last.startswith('zoo-rank: test/expert/1 cannot be explained, as it was dropped: ')
  assert not os.path.exists('page.html')


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--expert=test/nobody'], "no module 'test/nobody'"),
    (['--expert=test/packed'], 'has several experts: give test/packed#EXPERT, one of circle'),
    (['--expert=test/packed#bird'], "no expert 'bird'"),
    (['--expert=test/baseline'], '--expert=test/baseline is a baseline'),
    (['--explain=page.txt'], '--explain=page.txt must be a file that ends in .html'),
    (['--explain=/dev/null/page.html'], '/dev/null is not a folder that takes files'),
    (['--hub=alone'], 'there is nothing but the baseline'),
    (['--hub=', '--handles={hub}/test/expert/1'], 'there is no baseline to explain'),
    (['--hub=alone', '--handles={hub}/test/expert/1', '--expert={hub}/test/packed/1#0'],
     'is not among the modules to rank: add it to --handles'),
])
def test_what_cannot_be_explained_is_one_line_before_the_work(
    tiny_hub, console, monkeypatch, flags, complaint):
  shutil.copytree(os.path.join(tiny_hub, 'test/baseline'), 'alone/test/baseline')

  def refuse(*_, **__):
    raise AssertionError('work was done')
  monkeypatch.setattr(ranking, 'rank', refuse)
  code, out, err = console(rank_main, f'--hub={tiny_hub}', '--explain=page.html',
                           *(flag.format(hub=tiny_hub) for flag in flags))
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-rank: ')
  assert err.count('\n') == 1


def test_an_expert_without_a_page_is_wrong_usage(console):
  code, out, err = console(rank_main, '--expert=test/expert')
  assert (code, out) == (2, '')
  assert 'give --explain=PAGE.html too' in err


def test_an_expert_may_be_named_by_the_path_of_its_module(shapes, tiny_hub):
  named = explain.check(shapes, os.path.join(tiny_hub, 'test/expert/1'), tiny_hub)
  assert named == candidates.one('test/expert', tiny_hub)
