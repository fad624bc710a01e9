"""The table of zoo-vtab: fair means, intervals over seeds, and what is published beside them."""

import csv
import io

import numpy as np
import pytest
import scipy.stats

from benchmarks import vtab_published
from benchmarks import vtab_report
from benchmarks import vtab_table
from benchmarks import vtab_tasks


def line(title, group, strategy, accuracy, seed=0, **more):
  return {'title': title, 'group': group, 'strategy': strategy, 'seed': seed,
          'test_accuracy': accuracy, 'majority': 0.3, 'protocol': '1k', 'classes': 4,
          'covered': 4, 'left_out': [], 'overlaps': [], **more}


def found():
  return [line('a', 'natural', 'knn', 0.6), line('a', 'natural', 'baseline', 0.5),
          line('b', 'natural', 'knn', 0.8), line('b', 'natural', 'baseline', 0.9),
          line('c', 'structured', 'knn', 0.4), line('c', 'structured', 'baseline', 0.2)]


def by_title(rows):
  return {row.title: row for row in rows}


def test_means_are_over_tasks_not_over_groups():
  rows = by_title(vtab_table.rows(found()))
  assert list(rows) == ['a', 'b', 'natural (2 tasks)', 'c', 'structured (1 task)',
                        'mean (3 tasks)']
  assert rows['natural (2 tasks)'].cells['knn'] == (pytest.approx(70), None)
  assert rows['mean (3 tasks)'].cells['knn'] == (pytest.approx(60), None)
  assert rows['mean (3 tasks)'].cells['baseline'] == (pytest.approx(160 / 3), None)
  assert rows['a'].cells['majority'] == (pytest.approx(30), None)


def test_a_mean_leaves_out_tasks_that_a_strategy_or_a_seed_lacks_and_says_so():
  rows = by_title(vtab_table.rows(found()[:-1]))  # c has no baseline
  assert rows['c'].cells['knn'][0] == pytest.approx(40)
  assert 'baseline' not in rows['c'].cells
  assert rows['mean (2 of 3 tasks)'].cells['knn'][0] == pytest.approx(70)
  assert rows['structured (0 of 1 task)'].cells == {}
  second = [line('a', 'natural', name, 0.5, seed=1) for name in ('knn', 'baseline')]
  rows = by_title(vtab_table.rows(found() + second))
  assert rows['mean (1 of 3 tasks)'].cells['knn'][0] == pytest.approx(55)


def test_intervals_are_over_seeds_of_a_mean_after_the_mean_over_tasks():
  random = np.random.default_rng(0)
  values = random.uniform(0.4, 0.6, (2, 5))  # two tasks, five seeds
  lines = [line(title, 'natural', 'knn', values[i, seed], seed)
           for i, title in enumerate('ab') for seed in range(5)]
  rows = by_title(vtab_table.rows(lines))
  for title, own in (('a', values[0]), ('natural (2 tasks)', values.mean(0))):
    mean, half = rows[title].cells['knn']
    low, high = scipy.stats.t.interval(
        0.95, 4, 100 * own.mean(), 100 * scipy.stats.sem(own))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def vtab_lines(entries=vtab_tasks.VTAB, **more):
  return [line(entry.title, entry.group, 'knn', 0.5, **more) for entry in entries]


def test_published_numbers_stand_beside_vtab_1k_and_means_only_beside_all_of_its_tasks():
  rows = vtab_table.rows(vtab_lines())
  assert [row.published for row in rows if row.kind != 'task'] == [73.46, 82.49, 52.10, 66.37]
  assert all(row.published for row in rows if row.kind == 'task')
  rows = vtab_table.rows(vtab_lines(vtab_tasks.VTAB[1:]))
  assert [row.published for row in rows if row.kind != 'task'] == [None, 82.49, 52.10, None]
  assert not any(row.published for row in vtab_table.rows(found()))
  assert not any(row.published for row in vtab_table.rows(vtab_lines(protocol='full')))


def test_the_published_means_are_those_of_the_published_tasks():
  row = vtab_table.BY_TASK
  assert list(row.tasks) and set(row.tasks) == {entry.title for entry in vtab_tasks.VTAB}
  assert np.mean(list(row.tasks.values())) == pytest.approx(row.mean, abs=0.05)
  for group, mean in row.groups.items():
    own = [row.tasks[entry.title] for entry in vtab_tasks.VTAB if entry.group == group]
    assert np.mean(own) == pytest.approx(mean, abs=0.05)
  for row in vtab_published.PUBLISHED:  # of 19 tasks, 7, 4 and 8 in a group
    if row.groups:
      sizes = {'natural': 7, 'specialized': 4, 'structured': 8}
      assert sum(row.groups[group] * size for group, size in sizes.items()) / 19 == pytest.approx(
          row.mean, abs=0.02)


def test_csv_has_what_the_text_shows():
  lines = [line('a', 'natural', 'knn', value, seed) for seed, value in enumerate((0.4, 0.6))]
  rows, names = vtab_table.rows(lines), vtab_table.columns(lines)
  read = list(csv.DictReader(io.StringIO(vtab_table.csv_text(rows, names))))
  assert [row['kind'] for row in read] == ['task', 'group', 'mean']
  assert float(read[0]['knn']) == pytest.approx(50)
  assert float(read[0]['knn ±']) == pytest.approx(rows[0].cells['knn'][1], abs=1e-4)
  shown = vtab_table.text(rows, names)
  assert f'50.0 ± {rows[0].cells["knn"][1]:.1f}' in shown


def test_latex_survives_the_marks_that_it_uses_itself():
  lines = [line('a_b & 50%', 'natural', 'handle:C:\\x#1', 0.5)]
  made = vtab_table.latex(vtab_table.rows(lines), vtab_table.columns(lines))
  assert r'a\_b \& 50\%' in made
  assert r'handle:C:\textbackslash x\#1' in made
  body = made[made.index(r'\toprule'):]
  lengths = {row.replace(r'\&', '').count('&') for row in body.splitlines() if '&' in row}
  assert lengths == {2}


def test_warnings_name_classes_without_examples_and_experts_that_know_the_data():
  lines = [line('a', 'natural', 'knn', 0.5, covered=3, left_out=['x', 'y'],
                candidates=3),
           line('b', 'natural', 'handle:z', 0.5, overlaps=['z']),
           line('c', 'natural', 'knn', 0.5)]
  said = vtab_report.warnings(lines)
  assert said == [
      'a: the training examples have 3 of the 4 classes.',
      'a: 2 of 5 experts have learnt from its data set and are no candidates.',
      'b: z has learnt from its data set.']
