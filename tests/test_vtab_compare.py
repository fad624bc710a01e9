"""zoo-vtab compare: two results are paired on the same images, and chance is told from gain."""

import json
import re

import numpy as np
import pytest
import scipy.stats

from benchmarks import vtab_compare
from benchmarks import vtab_results
from zoo import cli

LABELS = np.arange(100) % 4


def result(folder, strategy, wrong, labels=LABELS):
  """Lines of a made result; `wrong` is a dict from (title, seed) to the images it gets wrong."""
  lines = []
  for (title, seed), missed in wrong.items():
    guesses = labels.copy()
    guesses[list(missed)] = (labels[list(missed)] + 1) % 4
    path = folder / f'{strategy}-{title}-{seed}.npz'
    np.savez(path, logits=np.eye(4)[guesses], labels=labels)
    lines.append({'title': title, 'group': 'natural', 'strategy': strategy, 'seed': seed,
                  'source': f'{title}:1.0.0', 'predictions': path.name})
  return lines


@pytest.fixture
def folder(tmp_path):
  """A result of two strategies: knn is 10 points better on one task and 2 worse on another."""
  vtab_results.write(tmp_path / vtab_results.LINES, [
      *result(tmp_path, 'baseline', {('easy', 0): range(20), ('hard', 0): range(50)}),
      *result(tmp_path, 'knn', {('easy', 0): range(10), ('hard', 0): range(52)})])
  return tmp_path


def both(folder):
  return [vtab_compare.load(f'{folder}#{strategy}') for strategy in ('knn', 'baseline')]


def test_differences_are_those_of_the_accuracies_on_the_same_images(folder):
  easy, hard = vtab_compare.compare(*both(folder))
  assert (easy.title, easy.one, easy.other) == ('easy', pytest.approx(0.9), pytest.approx(0.8))
  assert easy.gain == pytest.approx(0.1)
  assert hard.gain == pytest.approx(-0.02)
  assert easy.low > 0  # ten images of a hundred, all one way
  assert hard.low < 0 <= hard.high


def test_swapping_the_two_turns_every_sign(folder):
  one, two = both(folder)
  for pair, turned in zip(vtab_compare.compare(one, two), vtab_compare.compare(two, one),
                          strict=True):
    assert turned.gain == pytest.approx(-pair.gain)
    assert (turned.low, turned.high) == pytest.approx((-pair.high, -pair.low), abs=0.01)


def test_seeds_are_averaged_image_by_image_before_images_are_drawn(tmp_path):
  vtab_results.write(tmp_path / 'a.jsonl', result(
      tmp_path, 'a', {('task', 0): range(10), ('task', 1): range(20), ('task', 2): ()}))
  vtab_results.write(tmp_path / 'b.jsonl', result(
      tmp_path, 'b', {('task', 0): range(40), ('task', 1): range(40)}))
  [pair] = vtab_compare.compare(*(vtab_compare.load(f'{tmp_path}/{name}.jsonl') for name in 'ab'))
  assert pair.seeds == (0, 1)  # those that both have
  assert (pair.one, pair.other) == (pytest.approx(0.85), pytest.approx(0.6))
  differences = np.repeat([0., 0.5, 1., 0.], [10, 10, 20, 60])
  random = np.random.default_rng(1)
  means = [random.choice(differences, 100).mean() for _ in range(4000)]  # the plain bootstrap
  assert (pair.low, pair.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_the_interval_holds_the_truth_as_often_as_it_says():
  random = np.random.default_rng(0)
  odds = [0.15, 0.6, 0.25]  # of -1, 0 and 1
  covered = 0
  for _ in range(400):
    low, high = vtab_compare.bootstrap(random.choice([-1., 0., 1.], 200, p=odds), random, 1000)
    covered += low <= 0.1 <= high
  assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(('gains', 'p'), [
    ([0.1] * 5, 2 / 2 ** 5),
    ([0.1] * 4 + [-0.5], 2 * 6 / 2 ** 5),
    ([0.1, -0.1], 1.),
    ([0.1] * 5 + [0.] * 9, 2 / 2 ** 5),  # ties tell nothing
    ([0.], 1.),
])
def test_the_sign_test_counts_tasks_won_and_lost(gains, p):
  assert vtab_compare.sign_test(gains) == pytest.approx(p)
  wins = sum(gain > 0 for gain in gains)
  losses = sum(gain < 0 for gain in gains)
  if wins + losses:
    tail = scipy.stats.binom.cdf(min(wins, losses), wins + losses, 0.5)
    assert p == pytest.approx(min(1., 2 * tail))


def run(capsys, *arguments):
  code = cli.run(vtab_compare.main, vtab_compare.FLAGS, list(arguments), ('A', 'B'))
  return code, *capsys.readouterr()


def test_the_table_says_who_is_better_and_whether_it_may_be_chance(folder, capsys):
  code, out, err = run(capsys, f'{folder}#knn', f'{folder}#baseline')
  assert (code, err) == (0, '')
  assert re.search(r'easy +90\.0 +80\.0 +\+10\.0\* ', out)
  assert re.search(r'hard +48\.0 +50\.0 +-2\.0  ', out)
  assert '+4.00 points on the mean; it is better on 1, worse on 1' in out
  code, out, _ = run(capsys, '--json', f'{folder}#knn', f'{folder}#baseline')
  found = json.loads(out)
  assert found['all']['gain'] == pytest.approx(0.04)
  assert [task['title'] for task in found['tasks']] == ['easy', 'hard']


@pytest.mark.parametrize(('one', 'two', 'code', 'complaint'), [
    ('#knn', '', 1, 'has several strategies: give {folder}#STRATEGY, one of baseline, knn.'),
    ('#knn', '#oracle', 1, "has no strategy 'oracle'"),
    ('/none', '#knn', 1, 'has no results of zoo-vtab'),
])
def test_what_cannot_be_compared_is_told_in_one_line(folder, capsys, one, two, code, complaint):
  found, out, err = run(capsys, f'{folder}{one}', f'{folder}{two}')
  assert (found, out, err.count('\n')) == (code, '', 1)
  assert complaint.format(folder=folder) in err


def test_one_name_alone_is_wrong_usage(capsys):
  code, _, err = run(capsys, 'a')
  assert (code, 'give A and B' in err) == (2, True)


def test_other_test_images_are_not_paired(folder, tmp_path):
  (tmp_path / 'other').mkdir()
  path = tmp_path / 'other' / vtab_results.LINES
  vtab_results.write(path, result(tmp_path / 'other', 'knn', {('easy', 0): ()}, LABELS[::-1]))
  with pytest.raises(ValueError, match='easy: the test labels of the two are not the same'):
    vtab_compare.compare(vtab_compare.load(f'{folder}#knn'), vtab_compare.load(str(path)))
  vtab_results.write(path, result(tmp_path / 'other', 'knn', {('new', 0): ()}))
  with pytest.raises(ValueError, match='no task and seed in common'):
    vtab_compare.compare(vtab_compare.load(f'{folder}#knn'), vtab_compare.load(str(path)))
