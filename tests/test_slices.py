"""Label trees and the slices cut from them, on a tree small enough to do by hand."""

import fractions
import pathlib
import random
import re

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from zoo import atomic
from zoo import hierarchy
from zoo import slices

TINY_IMAGENET = pathlib.Path(__file__).parents[2] / 'shared/tfds/tiny_imagenet_32'

# Dogs lie under two nodes. A canid is a canine and nothing else here; a ferret is all that
# makes a carnivore more than that.
PARENTS = {
    'thing': (), 'animal': ('thing',), 'plant': ('thing',), 'tree': ('plant',),
    'carnivore': ('animal',), 'canid': ('carnivore',), 'canine': ('canid',), 'pet': ('animal',),
    'dog': ('canine', 'pet'), 'cat': ('pet',),
    'beagle': ('dog',), 'pug': ('dog',), 'wolf': ('canine',), 'ferret': ('carnivore',),
    'tabby': ('cat',), 'siamese': ('cat',), 'oak': ('tree',), 'elm': ('tree',)}
COUNTS = {'beagle': 10, 'oak': 20, 'pug': 10, 'wolf': 30, 'ferret': 2, 'tabby': 10,
          'siamese': 10, 'elm': 20}


def tree_of(parents, **names):
  return hierarchy.Hierarchy(parents, {node: names.get(node, node) for node in parents})


TREE = tree_of(PARENTS)


def cut(min_examples=1, **options):
  return {one.name: one for one in slices.slices(TREE, COUNTS, min_examples, **options)}


def test_ancestors_and_depth_follow_every_way_up():
  assert TREE.ancestors['dog'] == {
      'dog', 'pet', 'canine', 'canid', 'carnivore', 'animal', 'thing'}
  assert TREE.depth['thing'] == 0
  assert TREE.depth['dog'] == 5  # by way of canine; by way of pet it would be 3


def test_a_node_holds_the_classes_under_it_by_any_way():
  below = TREE.leaves_below(COUNTS)
  assert below['pet'] == {'beagle', 'pug', 'tabby', 'siamese'}
  assert below['canine'] == {'beagle', 'pug', 'wolf'}
  assert below['oak'] == {'oak'}
  assert 'tree' not in TREE.leaves_below(['wolf'])


def test_slices_come_largest_first_and_of_equals_the_least_specific():
  # 72, 50, 40, 40, 20 and 20 examples; depths of tree and pet are 2, of cat 3, of dog 5.
  assert [(s.name, s.examples) for s in slices.slices(TREE, COUNTS, 1)] == [
      ('animal', 72), ('canine', 50), ('tree', 40), ('pet', 40), ('cat', 20), ('dog', 20)]


def test_nested_nodes_that_are_nearly_the_same_become_the_most_specific():
  found = cut(max_overlap=0.9)
  assert 'canine' in found
  assert 'canid' not in found  # the same classes
  assert 'carnivore' not in found  # canines are 50 of its 52 examples: 96%
  assert 'carnivore' in cut(max_overlap=0.97)


def test_of_nodes_with_the_same_classes_the_deepest_stays_even_if_no_overlap_is_too_much():
  assert {'tree', 'plant'} & set(cut()) == {'tree'}
  assert {'tree', 'plant'} & set(cut(max_overlap=0.999)) == {'tree'}


def test_a_node_that_is_nearly_everything_is_no_slice():
  assert 'thing' not in cut()
  few_trees = COUNTS | {'oak': 1, 'elm': 1}  # 72 of 74 examples are animals: 97%
  assert slices.slices(TREE, few_trees, 1, max_overlap=0.96)[0].name == 'canine'
  assert slices.slices(TREE, few_trees, 1, max_overlap=0.98)[0].name == 'animal'


def test_a_class_without_examples_makes_no_difference():
  # Fable is deeper than real, and holds one class more: but nobody has seen a unicorn.
  parents = {'root': (), 'real': ('root',), 'old': ('root',), 'fable': ('old',)}
  parents |= {'fox': ('real', 'fable'), 'crow': ('real', 'fable'), 'unicorn': ('fable',)}
  counts = {'fox': 3, 'crow': 3, 'unicorn': 0, 'root': 6}
  found = slices.slices(tree_of(parents), counts, 1)
  assert [(one.name, one.classes) for one in found] == [('fable', ('fox', 'crow'))]


def test_slices_have_enough_examples_and_classes():
  assert set(cut(min_examples=40)) == {'animal', 'canine', 'tree', 'pet'}
  assert set(cut(min_examples=41)) == {'animal', 'canine'}
  assert cut(min_examples=1000) == {}
  assert set(cut(min_classes=3)) == {'animal', 'canine', 'pet'}


def test_classes_keep_the_order_of_the_labels():
  assert cut()['pet'].classes == ('beagle', 'pug', 'tabby', 'siamese')
  assert cut()['tree'].classes == ('oak', 'elm')


def test_the_nearest_slice_is_the_one_with_the_greatest_share_in_common():
  found = cut()
  assert {name: (one.nearest, one.overlap) for name, one in found.items()} == {
      'animal': ('canine', 0.6944),  # 50 of 72; with pet 40 of 72
      'canine': ('animal', 0.6944),  # with dog 20 of 50, with pet 20 of 70
      'tree': (None, 0.),
      'pet': ('animal', 0.5556),  # 40 of 72; with dog and cat 20 of 40
      'cat': ('pet', 0.5),
      'dog': ('pet', 0.5)}  # with canine 20 of 50


def test_the_table_shows_each_slice_with_its_nearest():
  lines = slices.table(slices.slices(TREE, COUNTS, 40)).splitlines()
  assert len(lines) == 5
  assert lines[1].split() == ['animal', '6', '72', 'canine', '(69%)']
  assert lines[3].split() == ['tree', '2', '40', '-']


def test_equal_names_become_different_names_of_files():
  parents = {'root': (), 'n1': ('root',), 'n2': ('root',), 'n3': ('root',)}
  parents |= {f'{n}-{i}': (n,) for n in ('n1', 'n2', 'n3') for i in (0, 1)}
  tree = tree_of(parents, n1='crane', n2='Crane', n3="bird's nest/old")
  found = slices.slices(tree, dict.fromkeys([n for n in parents if '-' in n], 1), 1)
  assert {one.node: one.name for one in found} == {
      'n1': 'crane_n1', 'n2': 'crane_n2', 'n3': 'bird_s_nest_old'}


@given(st.lists(st.sampled_from(['a', 'A', 'a b', 'a/b', 'a_coarse_a', 'a_coarse_a_b', '..', '']),
                min_size=2, max_size=6))
@settings(max_examples=100)
def test_names_are_always_unique_and_fit_for_files(coarse):
  # Two fine classes for each coarse one; ids hold the names, so they have odd characters too.
  fine = {f'{group}{i}-{half}': group for i, group in enumerate(coarse) for half in (0, 1)}
  names = [one.name for one in slices.slices(
      hierarchy.from_coarse(fine), dict.fromkeys(fine, 1), 1, max_overlap=1, min_classes=1)]
  assert len({name.lower() for name in names}) == len(names)
  assert all(re.fullmatch(r'\w+', name) for name in names)


def test_a_coarse_class_may_have_the_name_of_a_fine_one():
  tree = hierarchy.from_coarse(
      {'maple': 'tree', 'tree': 'tree', 'rose': 'flower', 'tulip': 'flower'})
  found = slices.slices(tree, {'rose': 3, 'tree': 5, 'tulip': 3, 'maple': 1}, 2)
  assert [(one.name, one.classes) for one in found] == [
      ('tree', ('tree', 'maple')), ('flower', ('rose', 'tulip'))]


def test_a_class_outside_the_tree_is_an_error_that_names_it():
  with pytest.raises(ValueError, match="'unicorn' is not in the label tree"):
    slices.slices(TREE, COUNTS | {'unicorn': 1}, 1)


def test_a_parent_that_is_not_there_is_an_error_that_names_both():
  with pytest.raises(ValueError, match="'dog' lies under 'canine'"):
    tree_of({'dog': ('canine',)})


def test_a_cycle_is_an_error_that_names_its_nodes():
  with pytest.raises(ValueError, match=r'cycle.*(hen.*egg|egg.*hen)'):
    tree_of({'root': (), 'hen': ('egg', 'root'), 'egg': ('hen',)})


@pytest.mark.parametrize('max_overlap', [-0.1, 1.1])
def test_an_impossible_overlap_is_an_error(max_overlap):
  with pytest.raises(ValueError, match=f'max_overlap is {max_overlap}'):
    cut(max_overlap=max_overlap)


def test_a_tree_reads_back_from_its_file(tmp_path):
  path = tmp_path / 'tree.json'
  atomic.write_json(path, {'synsets': {
      'n1': {'lemmas': ['dog', 'domestic dog'], 'hypernyms': []},
      'n2': {'lemmas': ['pug'], 'hypernyms': ['n1']}}})
  assert hierarchy.from_json(path) == hierarchy.Hierarchy(
      {'n1': (), 'n2': ('n1',)}, {'n1': 'dog', 'n2': 'pug'}, {'n1': 'domestic dog'})


@pytest.mark.parametrize('content', [
    [], {}, {'synsets': ['n1']}, {'synsets': {'n1': ['dog']}},
    {'synsets': {'n1': {'lemmas': ['dog']}}},
    {'synsets': {'n1': {'lemmas': [], 'hypernyms': []}}}])
def test_a_file_of_another_form_is_an_error_that_names_it(tmp_path, content):
  path = tmp_path / 'tree.json'
  atomic.write_json(path, content)
  with pytest.raises(ValueError, match=r'tree\.json: not a label tree'):
    hierarchy.from_json(path)


@st.composite
def trees(draw):
  """A random DAG, and counts for some of its nodes, leaves or not."""
  size = draw(st.integers(2, 14))
  parents = {f'n{i}': tuple(f'n{p}' for p in sorted(draw(st.sets(
      st.integers(0, i - 1), max_size=3)))) if i else () for i in range(size)}
  classes = draw(st.lists(st.sampled_from(sorted(parents)), min_size=1, unique=True))
  # A class may be empty: it is in the label list, but the split has no example of it.
  counts = {label: draw(st.integers(0, 30)) for label in classes}
  names = {node: draw(st.sampled_from('abc')) for node in parents}
  return hierarchy.Hierarchy(parents, names), counts


@given(trees(), st.integers(1, 10), st.sampled_from([0., 0.5, 0.7, 0.8, 0.9, 1.]),
       st.integers(1, 3))
@settings(max_examples=300)
def test_kept_slices_are_large_enough_and_nested_ones_differ_enough(
    tree_and_counts, min_examples, max_overlap, min_classes):
  tree, counts = tree_and_counts
  found = slices.slices(tree, counts, min_examples, max_overlap, min_classes)
  most = fractions.Fraction(str(max_overlap))
  for one in found:
    assert one.examples == sum(counts[label] for label in one.classes)
    assert one.examples >= min_examples
    assert one.examples <= most * sum(counts.values())
    assert len(one.classes) >= min_classes
    for other in found:
      if one is not other and set(one.classes) <= set(other.classes):
        assert one.examples <= most * other.examples


@given(trees(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_slices_do_not_depend_on_the_order_in_which_the_tree_is_written(tree_and_counts, rng):
  tree, counts = tree_and_counts
  nodes = list(tree.parents)
  rng.shuffle(nodes)
  shuffled = hierarchy.Hierarchy(
      {n: tuple(random.Random(0).sample(tree.parents[n], len(tree.parents[n]))) for n in nodes},
      {n: tree.names[n] for n in reversed(nodes)})
  assert slices.slices(shuffled, counts, 1) == slices.slices(tree, counts, 1)


def test_tiny_imagenet_has_sensible_slices():
  if not TINY_IMAGENET.exists():
    pytest.skip(f'{TINY_IMAGENET} is not there: the real label tree was not tried.')
  tree = hierarchy.from_json(TINY_IMAGENET / 'wordnet_hierarchy.json')
  inner = {parent for above in tree.parents.values() for parent in above}
  leaves = [node for node in tree.parents if node not in inner]
  assert len(leaves) == 200
  found = slices.slices(tree, dict.fromkeys(leaves, 500), 4000, max_overlap=0.8)
  names = [one.name for one in found]
  assert {'dog', 'insect', 'vertebrate'} & set(names)
  assert 'entity' not in names
  assert len(set(names)) == len(names)
  assert all(4000 <= one.examples == 500 * len(one.classes) <= 80_000 for one in found)
