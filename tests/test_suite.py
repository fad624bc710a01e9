"""The local suite: tasks cut from others by class, tasks drawn here, and the list of all."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks import shapes
from benchmarks import suite
from zoo import cut_tasks
from zoo import tasks

ANIMALS = ('ant', 'bat', 'cat', 'dog')


def _animals():
  """40 and 20 one-pixel images in mixed order; the pixel is the number of the example."""
  labels = np.random.default_rng(0).permutation(np.arange(60) % 4)
  images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1)
  return tasks.from_arrays('animals', ANIMALS, train=(images[:40], labels[:40]),
                           test=(images[40:], labels[40:]))


@hypothesis.given(st.sets(st.sampled_from(ANIMALS), min_size=2))
def test_a_cut_is_the_whole_without_the_other_classes(kept):
  whole, part = _animals(), cut_tasks.cut(_animals(), kept)
  assert part.class_names == tuple(name for name in ANIMALS if name in kept)
  for split in ('train', 'test'):
    everything, some = (tasks.read(task, (split, None), 1) for task in (whole, part))
    stays = np.array([ANIMALS[label] in kept for label in everything.labels])
    assert part.splits[split] == stays.sum()
    assert np.array_equal(some.images, everything.images[stays])  # in stored order
    assert ([part.class_names[label] for label in some.labels]
            == [ANIMALS[label] for label in everything.labels[stays]])
    assert np.array_equal(part.labels(split), some.labels)


def test_some_examples_of_a_cut_are_the_same_as_among_all_of_them():
  part = cut_tasks.cut(_animals(), ['bat', 'dog'])
  everything = tasks.read(part, ('train', None), 1)
  some = tasks.read(part, ('train', [1, 4, 7]), 1)
  assert np.array_equal(some.images, everything.images[[1, 4, 7]])


def test_the_examples_of_a_cut_keep_their_ids():
  whole, part = _animals(), cut_tasks.cut(_animals(), ['bat', 'dog'])
  rows = np.flatnonzero(np.isin(whole.labels('train'), [1, 3]))
  assert part.ids('train', [0, 2]) == whole.ids('train', rows[[0, 2]])


def test_a_cut_says_what_it_was_cut_from_and_how():
  whole, part = _animals(), cut_tasks.cut(_animals(), ['dog', 'bat'])
  assert part.source == f'{whole.source}[label=bat|dog]'
  assert part.name == 'animals[label=bat|dog]'


@pytest.mark.parametrize(('one', 'other', 'same'), [
    ('animals:1.0.0', 'animals:1.0.0[under=n1|n2]', True),
    ('animals:1.0.0#coarse_label', 'animals:1.2.0[label=bat|dog]', True),
    ('animals/small:1.0.0#a[b=c:1.0.0]', 'animals/small:1.0.0', True),
    ('animals/small:1.0.0', 'animals/large:1.0.0', False),
    ('animals:1.0.0', 'animals2:1.0.0', False),
    ('folder:0123456789ab', 'folder:0123456789ab[label=bat|dog]', True),
    ('folder:0123456789ab', 'folder:ba9876543210', False),
    ('clevr:3.1.0#count', 'clevr:3.1.0#distance', True),
    ('cifar100_jpeg:1.0.0[coarse_label=fish]', 'cifar100:3.0.2', True),
    ('cifar10_12k:1.0.0', 'cifar10:3.0.2', True),
    ('cifar10_12k:1.0.0', 'cifar100_jpeg:1.0.0', False),  # no image is in both
    ('mnist_12k:1.0.0', 'mnist:3.0.1', True),
    ('dtd10_64:1.0.0', 'dtd:3.0.1', True),
    ('caltech97_64:1.0.0', 'caltech101:3.0.2', True),
    ('gtsrb_32:1.0.0', 'gtsrb:1.0.0', True),
    ('tiny_imagenet_32:1.0.0[under=n1]', 'imagenet2012:5.1.0', True),
    ('tiny_imagenet_32:1.0.0', 'imagenet_resized/8x8:0.1.0', True),
    ('imagenet_resized/8x8:0.1.0', 'imagenet_resized/64x64:0.1.0', True),
    ('sun397/tfds:4.0.0', 'sun397/standard-part1-120k:4.0.0', True),
])
def test_a_task_is_known_to_be_of_the_data_that_a_module_was_trained_on(one, other, same):
  assert cut_tasks.same_data(one, other) is same
  assert cut_tasks.same_data(other, one) is same


@pytest.mark.parametrize(('kept', 'complaint'), [
    (['bat', 'owl'], "'animals' has no class 'owl'"),
    (['bat'], r'animals\[label=bat\] keeps 1 of the classes: at least two are needed'),
])
def test_a_cut_that_is_no_task_is_an_error_that_says_why(kept, complaint):
  with pytest.raises(ValueError, match=complaint):
    cut_tasks.cut(_animals(), kept)


def test_a_split_without_any_of_the_classes_is_an_error():
  images = np.zeros((3, 1, 1), np.uint8)
  whole = tasks.from_arrays('made', 'abc', train=(images, [0, 1, 2]), test=(images, [2, 2, 2]))
  with pytest.raises(ValueError, match=r"made\[label=a\|b\] has no example in split 'test'"):
    cut_tasks.cut(whole, 'ab')


@pytest.fixture(scope='module')
def zoo_tfds(tmp_path_factory):
  """A TFDS data set 'animals' with groups and a tree; the file of each dog is no image."""
  import io

  import tensorflow_datasets as tfds
  from PIL import Image
  data_dir = tmp_path_factory.mktemp('tfds')
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(2, 2, 3)),
      'label': tfds.features.ClassLabel(names=ANIMALS),
      'flies': tfds.features.ClassLabel(names=['no', 'yes']),
      'sex': tfds.features.ClassLabel(names=['f', 'm'])})

  def example(i):
    label = i % 4
    png = io.BytesIO()
    Image.new('RGB', (2, 2), (i, label, 0)).save(png, 'png')
    return i, {'image': b'woof' if ANIMALS[label] == 'dog' else png.getvalue(),
               'label': label, 'flies': int(ANIMALS[label] == 'bat'), 'sex': i // 4 % 2}

  tfds.dataset_builders.store_as_tfds_dataset(
      name='animals', version='1.0.0', features=features, data_dir=data_dir,
      split_datasets={'train': [example(i) for i in range(80)],
                      'validation': [example(i) for i in range(80, 100)]},
      download_config=tfds.download.DownloadConfig(num_shards=2))
  above = {'n1': ('animal', []), 'n2': ('mammal', ['n1']), 'n3': ('pet', ['n1']),
           'n4': ('pet', ['n2']), 'ant': ('ant', ['n1']), 'bat': ('bat', ['n2']),
           'cat': ('cat', ['n2', 'n3']), 'dog': ('dog', ['n4'])}
  (data_dir / 'animals' / 'wordnet_hierarchy.json').write_text(json.dumps({'synsets': {
      node: {'lemmas': [name], 'hypernyms': parents} for node, (name, parents) in above.items()}}))
  return str(data_dir)


@pytest.mark.parametrize(('brackets', 'kept'), [
    ('label=cat|ant', ('ant', 'cat')),
    ('flies=no', ('ant', 'cat', 'dog')),
    ('flies=no|yes', ANIMALS),
    ('under=n2', ('bat', 'cat', 'dog')),
    ('under=mammal', ('bat', 'cat', 'dog')),
    ('under=n3|ant', ('ant', 'cat')),
    ('under=pet', ('cat', 'dog')),  # two nodes have this name
])
def test_classes_are_chosen_by_label_by_group_or_under_a_node(zoo_tfds, brackets, kept):
  task = tasks.load(f'animals[{brackets}]', zoo_tfds)
  assert task.class_names == kept
  assert task.splits == {'train': 20 * len(kept), 'test': 5 * len(kept)}
  assert task.source == f'animals:1.0.0[{brackets}]'


def test_only_the_images_of_a_cut_are_decoded(zoo_tfds):
  task = tasks.load('animals[label=ant|bat|cat]', zoo_tfds)  # a dog would be an error
  for split, numbers in (('train', range(80)), ('test', range(80, 100))):
    examples = tasks.read(task, (split, None), 2)
    assert sorted(examples.images[:, 0, 0, 0]) == [i for i in numbers if i % 4 < 3]
    assert np.array_equal(examples.labels, examples.images[:, 0, 0, 1])
    assert np.array_equal(examples.labels, task.labels(split))


@pytest.mark.parametrize(('name', 'complaint'), [
    ('animals[colour=red]', "'animals' has no class label 'colour'; it has flies, label, sex"),
    ('animals[image=red]', "'animals' has no class label 'image'"),
    ('animals[flies=maybe|yes]', r"no class with flies=maybe \(there is no, yes"),
    ('animals[under=mamal]', r'no class with under=mamal \(there is mammal'),
    ('animals[sex=f]', "animals: class 'ant' is in 'f' and 'm'"),
    ('animals[cats]', r"'animals\[cats\]': some classes of a data set are written NAME\[FEATURE"),
    ('digits[under=n1]', "'digits' is no TFDS data set: it can be cut by label only"),
    ('digits[label=10]', r'no class with label=10 \(there is'),
])
def test_a_cut_that_is_not_there_is_one_line_that_says_what_is(zoo_tfds, name, complaint):
  with pytest.raises(ValueError, match=complaint) as raised:
    tasks.load(name, zoo_tfds)
  assert '\n' not in str(raised.value)


def test_a_data_set_without_a_tree_says_where_one_would_be(tmp_path, zoo_tfds):
  import shutil
  shutil.copytree(f'{zoo_tfds}/animals/1.0.0', tmp_path / 'animals' / '1.0.0')
  with pytest.raises(ValueError, match=r'no label tree: there is no .*wordnet_hierarchy.json'):
    tasks.load('animals[under=n2]', str(tmp_path))


def test_tasks_that_tfds_does_not_know_are_cut_by_label(picture_folder):
  assert tasks.load('digits[label=3|8]').splits == {'train': 202, 'test': 155}
  part = tasks.load(f'folder:{picture_folder}[label=cross|stripes]')
  assert (part.class_names, part.splits) == (('cross', 'stripes'), {'train': 32, 'test': 8})


@pytest.fixture
def few_shapes(monkeypatch):
  """Structured tasks of 64 and 32 pictures."""
  monkeypatch.setattr(shapes, 'SPLITS', {'train': 64, 'test': 32})


def test_drawn_tasks_are_the_same_wherever_they_are_made(few_shapes, tmp_path):
  one, two = (shapes.load('count', str(tmp_path / folder)) for folder in ('one', 'two'))
  parts = [('train', None), ('test', None)]
  digests = {tasks.read_sizes(task, parts, [32])[32].digest() for task in (one, two)}
  assert len(digests) == 1


def test_a_drawn_task_has_as_many_of_each_class_in_mixed_order(few_shapes, tmp_path):
  task = shapes.load('location', str(tmp_path))
  for split, count in (('train', 64), ('test', 32)):
    labels = task.labels(split)
    assert set(np.bincount(labels)) == {count // 16}
    assert not np.array_equal(labels, np.arange(count) % 16)
  train, test = ({image.tobytes() for image in tasks.read(task, (split, None), 32).images}
                 for split in ('train', 'test'))
  assert len(train) == 64
  assert not train & test


def test_a_prepared_drawn_task_needs_no_code_of_the_suite(few_shapes, tmp_path):
  import tensorflow_datasets as tfds
  made = shapes.load('count', str(tmp_path))
  builder = tfds.builder_from_directory(str(tmp_path / 'shapes' / 'count' / '1.0.0'))
  assert tuple(builder.info.features['label'].names) == made.class_names


@pytest.mark.parametrize('seed', range(5))
def test_a_location_moves_the_shape_and_nothing_else(seed):
  # The same draw of all the rest: the pictures differ where the shape was and where it is,
  # 15 columns of 22/16 pixels to the right.
  left, right = (shapes.draw('location', label, np.random.default_rng(seed))
                 for label in (0, 15))
  columns = np.flatnonzero((left != right).any((0, 2)))
  assert columns.max() - columns.min() + 1 < 32
  one, two = columns[columns < 14], columns[columns > 18]
  assert len(one) + len(two) == len(columns)
  assert two.mean() - one.mean() == pytest.approx(15 * 22 / 16, abs=1)


@hypothesis.given(st.integers(0, 7), st.integers(0, 10_000))
def test_a_count_is_of_shapes_that_lie_in_the_picture_and_apart(label, seed):
  placed = list(shapes.PLACED['count'](label, np.random.default_rng(seed)))
  assert len(placed) == int(shapes.CLASSES['count'][label])
  for i, (_, radius, centre, _) in enumerate(placed):
    assert (centre >= radius).all()
    assert (centre <= shapes.SIZE - radius).all()
    for _, reach, other, _ in placed[:i]:
      assert np.hypot(*(centre - other)) >= radius + reach + 0.5


@hypothesis.given(st.integers(0, 7), st.integers(0, 10_000))
def test_an_orientation_is_the_nearest_eighth_of_a_turn(label, seed):
  (_, _, _, turn), = shapes.PLACED['orientation'](label, np.random.default_rng(seed))
  assert round(turn / (2 * np.pi) * 8) % 8 == label


@pytest.mark.parametrize('outline', shapes.POINTED)
def test_no_eighth_of_a_turn_makes_a_pointed_shape_look_like_another(outline):
  from matplotlib import path
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 2), axis=-1).reshape(-1, 2)

  def covered(eighths):
    turn = eighths * np.pi / 4
    matrix = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    return path.Path(outline @ matrix).contains_points(grid)

  assert np.hypot(*outline.T).max() <= 1 + 1e-9
  for eighths in range(1, 8):
    shared = (covered(0) & covered(eighths)).sum() / (covered(0) | covered(eighths)).sum()
    assert shared < 0.8


def test_the_suite_has_three_groups_and_no_name_twice():
  assert len({entry.name for entry in suite.SUITE}) == len(suite.SUITE)
  groups = [suite.tasks(group) for group in suite.GROUPS]
  assert sum(groups, ()) == suite.tasks() == suite.SUITE
  assert all(groups)
  with pytest.raises(ValueError, match="no group 'odd'; it has natural, specialized"):
    suite.tasks('odd')


def test_a_cut_entry_names_the_data_it_is_cut_from():
  upstream = {entry.name: entry.upstream for entry in suite.SUITE}
  assert upstream['vehicles'] == 'cifar100_jpeg'
  assert upstream['tiny-vehicles'] == 'tiny_imagenet_32'
  assert upstream['gtsrb'] is None


def test_an_unknown_task_is_named_beside_those_there_are():
  with pytest.raises(ValueError, match="no task 'birds'; it has cifar10, caltech97"):
    suite.load('birds')


def test_every_task_of_the_suite_is_there_with_its_classes(shared_tfds):
  classes = {'cifar10': 10, 'caltech97': 97, 'dtd10': 10, 'mammals': 25, 'invertebrates': 10,
             'fish': 5, 'reptiles': 5, 'people': 5, 'plants': 15, 'vehicles': 10, 'household': 15,
             'outdoor': 10, 'gtsrb': 43, 'rsscn7': 7, 'sign-digits': 10, 'mnist': 10, 'digits': 10}
  for name, count in classes.items():
    task = suite.load(name, shared_tfds)
    assert (task.name, len(task.class_names)) == (name, count)
    assert len(set(tasks.protocol_1k(task).train[1])) == (480 if name == 'dtd10' else 800)
    entry, = (entry for entry in suite.SUITE if entry.name == name)
    if entry.upstream:
      assert cut_tasks.same_data(task.source, f'{entry.upstream}:1.0.0')


def test_the_synsets_of_the_suite_have_classes_enough(shared_tfds):
  from zoo import tfds_tasks
  whole = tasks.load('tiny_imagenet_32', shared_tfds)
  below = tfds_tasks.label_tree('tiny_imagenet_32', shared_tfds).leaves_below(whole.class_names)
  found = {}
  for entry in suite.SUITE:
    if entry.upstream == 'tiny_imagenet_32':
      _, _, values = tasks.CUT.fullmatch(entry.task).groups()
      found[entry.name] = len(set().union(*(below[node] for node in values.split('|'))))
  assert found == {'tiny-mammals': 26, 'tiny-invertebrates': 23, 'tiny-vehicles': 15,
                   'tiny-clothing': 15, 'tiny-food': 17, 'tiny-structures': 19}


def test_the_list_gives_each_task_with_its_sizes(few_shapes, console, tmp_path):
  arguments = ('--group=structured', f'--made_dir={tmp_path}')
  code, out, _ = console(suite, *arguments)
  assert code == 0
  assert [line.split()[:5] for line in out.splitlines()[1:]] == [
      ['location', 'structured', '16', '64', '32'],
      ['orientation', 'structured', '8', '64', '32'],
      ['count', 'structured', '8', '64', '32']]
  code, out, _ = console(suite, *arguments, '--json')
  rows = json.loads(out)
  assert [row['source'] for row in rows] == [
      f'{entry.task}:1.0.0' for entry in suite.tasks('structured')]
  assert set(dataclasses.asdict(suite.SUITE[0])) <= set(rows[0])
