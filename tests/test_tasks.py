"""Tasks: any images, as uint8 RGB, with labels 0..C-1, the same every time."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from zoo import cut_tasks
from zoo import npz_tasks
from zoo import pixels
from zoo import tasks


def _folder_task(path):
  return tasks.load(f'folder:{path}')


def test_digits_ship_with_scikit_learn():
  task = tasks.load('digits')
  assert task.splits == {'train': 1000, 'test': 797}
  test = tasks.read(task, ('test', None), 8)
  assert test.images.shape == (797, 8, 8, 3)
  assert test.images.max() == 255  # sixteen grey levels, spread over all of uint8
  assert set(test.labels) == set(range(10))


def test_the_protocol_takes_800_then_200_in_stored_order_and_all_of_test():
  protocol = tasks.protocol_1k(tasks.load('digits'))
  assert protocol.train[0] == protocol.val[0] == 'train'
  assert protocol.train[1].tolist() == list(range(800))
  assert protocol.val[1].tolist() == list(range(800, 1000))
  assert protocol.test[1].tolist() == list(range(797))


def test_a_seed_draws_other_examples_and_train_and_val_stay_apart():
  images = np.zeros((3000, 1, 1), np.uint8)
  labels = np.arange(3000) % 2
  task = tasks.from_arrays('made', ['a', 'b'], train=(images, labels), test=(images, labels))
  one, two = tasks.protocol_1k(task, 1), tasks.protocol_1k(task, 2)
  assert one.train[1].tolist() != two.train[1].tolist()
  assert not set(one.train[1]) & set(one.val[1])
  assert (len(one.train[1]), len(one.val[1])) == (800, 200)
  again = tasks.protocol_1k(task, 1)
  assert np.array_equal(one.train[1], again.train[1])


def test_a_small_task_trains_on_four_fifths():
  images, labels = np.zeros((50, 1, 1), np.uint8), np.arange(50) % 2
  task = tasks.from_arrays('made', ['a', 'b'], train=(images, labels), test=(images, labels))
  protocol = tasks.protocol_1k(task)
  assert (len(protocol.train[1]), len(protocol.val[1])) == (40, 10)


def test_val_comes_from_the_validation_split_where_there_is_one():
  images, labels = np.zeros((900, 1, 1), np.uint8), np.arange(900) % 2
  task = tasks.from_arrays('made', ['a', 'b'], train=(images, labels),
                           validation=(images, labels), test=(images, labels))
  protocol = tasks.protocol_1k(task)
  assert (protocol.val[0], protocol.val[1].tolist()) == ('validation', list(range(200)))


def _split(protocol):
  """(split, first index, last index) of each part of a protocol."""
  return [(split, indices[0], indices[-1])
          for split, indices in (protocol.train, protocol.val, protocol.test)]


def test_the_full_protocol_takes_every_example_in_stored_order():
  protocol = tasks.protocol_full(tasks.load('digits'))
  assert _split(protocol) == [('train', 0, 899), ('train', 900, 999), ('test', 0, 796)]
  assert protocol.name == '900/100 (full)'
  images, labels = np.zeros((9, 1, 1), np.uint8), np.arange(9) % 2
  made = {split: (images[:count], labels[:count])
          for split, count in (('train', 9), ('validation', 4), ('test', 5))}
  protocol = tasks.protocol_full(tasks.from_arrays('made', 'ab', **made))
  assert _split(protocol) == [('train', 0, 8), ('validation', 0, 3), ('test', 0, 4)]
  assert protocol.name == '9/4 (full)'
  del made['validation']
  protocol = tasks.protocol_full(tasks.from_arrays('made', 'ab', **made))
  assert _split(protocol) == [('train', 0, 7), ('train', 8, 8), ('test', 0, 4)]


def test_examples_of_arrays_are_named_by_their_places_and_the_digest_by_these_names():
  images, labels = np.zeros((5, 1, 1), np.uint8), np.arange(5) % 2
  task = tasks.from_arrays('made', 'ab', train=(images, labels), test=(images[:2], labels[:2]))
  assert task.ids('train', [1, 3]) == ['train/1', 'train/3']
  expected = hashlib.sha256(b'train\0train/0\ntrain\0train/1\ntrain\0train/2\ntrain\0train/3\n'
                            b'val\0train/4\ntest\0test/0\ntest\0test/1\n').hexdigest()
  protocol = tasks.protocol_1k(task)
  assert tasks.ids_digest(task, protocol) == expected
  moved = tasks.Protocol(protocol.train, protocol.test, protocol.val, 'moved')
  assert tasks.ids_digest(task, moved) != expected


def test_examples_of_a_folder_are_named_by_their_paths_wherever_it_lies(picture_folder, tmp_path):
  task = _folder_task(picture_folder)
  names = task.ids('train', range(48)) + task.ids('test', range(12))
  assert sorted(names) == sorted(f'{kind}/{i}.png' for kind in task.class_names
                                 for i in range(20))
  label = task.labels('train')[5]
  assert task.ids('train', [5])[0].split('/')[0] == task.class_names[label]
  (tmp_path / 'pictures').rename(tmp_path / 'elsewhere')
  assert _folder_task(tmp_path / 'elsewhere').ids('train', range(48)) == names[:48]


@pytest.mark.parametrize(('image', 'rgb'), [
    (np.array([[7]], np.uint8), [7, 7, 7]),  # grey
    (np.array([[[7]]], np.uint8), [7, 7, 7]),  # grey with a channel
    (np.array([[[1, 2, 3]]], np.uint8), [1, 2, 3]),
    (np.array([[[1, 2, 3, 255]]], np.uint8), [1, 2, 3]),  # opaque
    (np.array([[[1, 2, 3, 0]]], np.uint8), [255, 255, 255]),  # transparent, over white
    (np.array([[[0, 0, 0, 51]]], np.uint8), [204, 204, 204]),  # a fifth of black
    (np.array([[65535]], np.uint16), [255, 255, 255]),
    (np.array([[257]], np.uint16), [1, 1, 1]),
    (np.array([[True]]), [255, 255, 255]),
])
def test_every_kind_of_image_becomes_rgb(image, rgb):
  assert pixels.to_rgb(image).tolist() == [[rgb]]


@pytest.mark.parametrize('image', [
    np.zeros((2, 2), np.float32), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8)])
def test_what_is_no_image_is_an_error_that_says_what_is_needed(image):
  with pytest.raises(ValueError, match='is needed'):
    pixels.to_rgb(image)


@pytest.mark.parametrize(('mode', 'value', 'rgb'), [
    ('L', 9, [9, 9, 9]), ('RGBA', (10, 20, 30, 255), [10, 20, 30]), ('1', 1, [255] * 3),
    ('LA', (40, 255), [40] * 3), ('P', 0, None), ('I;16', 65535, [255] * 3)])
def test_files_of_every_mode_are_read(tmp_path, mode, value, rgb):
  path = tmp_path / 'one.png'
  Image.new(mode, (3, 2), value).save(path)
  image = pixels.to_rgb(pixels.decode(path))
  assert image.shape == (2, 3, 3)
  if rgb:
    assert image[0, 0].tolist() == rgb


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by a quarter
  Image.new('RGB', (4, 2)).save(tmp_path / 'one.jpg', exif=exif)
  assert pixels.decode(tmp_path / 'one.jpg').shape == (4, 2, 3)


def test_a_folder_is_a_task_with_a_class_a_sub_folder(picture_folder):
  task = _folder_task(picture_folder)
  assert task.class_names == ('cross', 'square', 'stripes')
  assert task.splits == {'train': 48, 'test': 12}
  test = tasks.read(task, ('test', None), 16)
  assert np.bincount(test.labels).tolist() == [4, 4, 4]  # one in five, of each class
  train = tasks.read(task, ('train', range(10)), 16)
  assert len(set(train.labels)) > 1  # the stored order mixes the classes


def test_a_class_may_be_called_train(tmp_path):
  for name in ('car', 'train'):
    (tmp_path / name).mkdir()
    for i in range(2):
      Image.new('RGB', (4, 4)).save(tmp_path / name / f'{i}.png')
  assert _folder_task(tmp_path).class_names == ('car', 'train')


def test_an_image_too_large_to_be_honest_is_skipped(picture_folder, monkeypatch, caplog):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)  # the pictures have 400
  task = _folder_task(picture_folder)
  with pytest.raises(ValueError, match='no readable image'):
    tasks.read(task, ('train', None), 16)
  assert 'decompression bomb' in caplog.text


def test_other_labels_make_another_source():
  images = np.zeros((4, 2, 2), np.uint8)
  one, two = (tasks.from_arrays('made', 'ab', train=(images, labels), test=(images, labels))
              for labels in ([0, 1, 0, 1], [1, 1, 0, 0]))
  assert one.source != two.source


def test_a_folder_may_bring_its_own_splits(tmp_path):
  for split, count in (('train', 3), ('val', 2), ('test', 1)):
    for name in ('a', 'b'):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(count):
        Image.new('RGB', (4, 4)).save(tmp_path / split / name / f'{i}.png')
  assert _folder_task(tmp_path).splits == {'train': 6, 'validation': 4, 'test': 2}


def test_a_corrupt_file_is_named_counted_and_skipped(picture_folder, caplog):
  random = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
  Image.fromarray(random).save(f'{picture_folder}/cross/1.jpg')
  for name in ('0.png', '1.jpg'):
    with open(f'{picture_folder}/cross/{name}', 'r+b') as file:
      file.truncate(os.path.getsize(file.name) // 2)
  with open(f'{picture_folder}/cross/2.jpeg', 'w', encoding='utf-8') as file:
    file.write('no image at all')
  task = _folder_task(picture_folder)
  read = len(tasks.read(task, ('train', None), 16)) + len(tasks.read(task, ('test', None), 16))
  assert read == 59
  assert 'cross/0.png cannot be read' in caplog.text
  assert 'cross/1.jpg cannot be read' in caplog.text
  assert 'cross/2.jpeg cannot be read' in caplog.text
  assert 'could not be read and are skipped' in caplog.text


def test_images_of_one_pixel_are_images(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    for i in range(3):
      Image.new('RGB', (1, 1), (i, i, i)).save(tmp_path / name / f'{i}.png')
  examples = tasks.read(_folder_task(tmp_path), ('train', None), 16)
  assert examples.images.shape == (4, 16, 16, 3)


def test_the_order_of_a_folder_does_not_depend_on_where_it_lies(picture_folder, tmp_path):
  before = tasks.read(_folder_task(picture_folder), ('train', None), 16).digest()
  (tmp_path / 'pictures').rename(tmp_path / 'elsewhere')
  assert tasks.read(_folder_task(tmp_path / 'elsewhere'), ('train', None), 16).digest() == before


def _one_class(path):
  (path / 'a').mkdir()
  Image.new('RGB', (2, 2)).save(path / 'a' / '0.png')


def _class_with_one_image(path):
  _one_class(path)
  (path / 'b').mkdir()
  for i in range(2):
    Image.new('RGB', (2, 2)).save(path / 'b' / f'{i}.png')


def _test_with_a_new_class(path):
  for folder in ('train/a', 'train/b', 'test/c'):
    (path / folder).mkdir(parents=True)
    Image.new('RGB', (2, 2)).save(path / folder / '0.png')


@pytest.mark.parametrize(('make', 'complaint'), [
    (lambda path: path.rmdir(), 'there is no such folder'),
    (lambda path: None, 'at least two are needed'),
    (_one_class, 'at least two are needed'),
    (_class_with_one_image, "class 'a' has one image"),
    (_test_with_a_new_class, "test has class 'c', which training lacks"),
])
def test_a_folder_that_is_no_task_is_an_error_that_says_why(tmp_path, make, complaint):
  path = tmp_path / 'folder'
  path.mkdir()
  make(path)
  with pytest.raises(ValueError, match=complaint):
    _folder_task(path)


def test_labels_outside_the_classes_are_an_error(tmp_path):
  images = np.zeros((4, 2, 2), np.uint8)
  task = tasks.from_arrays('made', ['a', 'b'], train=(images, [1, 2, 1, 2]),
                           test=(images, [0, 1, 0, 1]))
  with pytest.raises(ValueError, match=r"has label 2 in split 'train', but its 2 classes"):
    tasks.read(task, ('train', None), 2)


def _weather(labels, test=((1, 0, 0), (0, 0, 0))):
  """A task of one-pixel skies, each with any of sun, rain and snow."""
  images = np.array([[[i]] for i in range(len(labels))], np.uint8)
  return tasks.from_arrays('weather', ['sun', 'rain', 'snow'], train=(images, labels),
                           test=(images[:2], test))


def test_an_image_may_have_several_labels_or_none():
  labels = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]]
  task = _weather(labels)
  assert task.multi_label and not tasks.load('digits').multi_label
  protocol = tasks.protocol_1k(task)
  train, val = tasks.read(task, protocol.train, 2), tasks.read(task, protocol.val, 2)
  assert (train.labels.dtype, train.labels.tolist()) == (np.float32, labels[:4])
  assert np.array_equal((train + val).labels, task.labels('train'))
  assert task.labels('train').dtype == np.float32
  assert _weather(np.array(labels, bool)).source == task.source
  assert _weather(labels[::-1]).source != task.source


def test_the_digest_tells_labels_of_either_kind_apart():
  images = np.zeros((4, 1, 1, 3), np.uint8)
  alike = [np.zeros(4, np.int64), np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32),
           np.eye(4, 3, dtype=np.float32), np.eye(4, 3, -1, dtype=np.float32)]
  digests = [tasks.Examples(images, labels).digest() for labels in alike]
  assert len(set(digests)) == len(alike)
  # Of one label an image: images' shape, pixels, labels, as results that are kept have it.
  assert digests[0] == hashlib.sha256(b'(4, 1, 1, 3)' + bytes(12) + bytes(32)).hexdigest()


@pytest.mark.parametrize(('multi_label', 'label', 'complaint'), [
    (True, [1, 0], r"label of shape \(2,\) in split 'train': .* each of its 3 classes"),
    (True, 2, r"label of shape \(\) in split 'train'"),
    (True, [0, 2, 1], "2 in a label in split 'train': .*give 1 for each class"),
    (True, [0, -1, 1], '-1 in a label'),
    (True, [0, np.nan, 1], 'nan in a label'),
    (False, [0, 1, 1], r'label of shape \(3,\) .*the number of one class'),
])
def test_labels_unlike_what_the_task_says_are_an_error(multi_label, label, complaint):
  def reader(split, indices):
    return ((np.zeros((1, 1), np.uint8), label) for _ in indices)

  task = tasks.Task('odd', ('a', 'b', 'c'), {'train': 2, 'test': 2}, 'odd:1', reader,
                    multi_label=multi_label)
  with pytest.raises(ValueError, match=f"^task 'odd' has .*{complaint}") as raised:
    tasks.read(task, ('train', None), 1)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(('train', 'test', 'split'), [
    ([0, 1], [[1, 0, 0], [0, 1, 0]], 'test'), ([[1, 0, 0], [0, 1, 0]], [0, 1], 'test'),
    ([[0, 2], [1]], [0, 1], 'train')])  # the last are numbers of classes, not 0 and 1
def test_all_splits_have_labels_of_one_form(train, test, split):
  with pytest.raises(ValueError, match=rf"'weather', split '{split}': .*0 and 1 \[N, 3\]"):
    _weather(train, test)


@pytest.fixture(scope='module')
def made_tfds(tmp_path_factory):
  """A TFDS data set on disk without builder code: 'made', 6 grey images with labels.

  'label' says whether an image is one of the last 3; 'marks' has as many as apply.
  """
  import tensorflow_datasets as tfds
  data_dir = tmp_path_factory.mktemp('tfds')
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(4, 4, 1)),
      'label': tfds.features.ClassLabel(names=['low', 'high']),
      'group': tfds.features.ClassLabel(names=['any']),
      'marks': tfds.features.Sequence(tfds.features.ClassLabel(names=['dark', 'odd', 'never'])),
      'votes': tfds.features.Sequence(tfds.features.ClassLabel(names=['no', 'yes'])),
      'unsure': tfds.features.Sequence(tfds.features.ClassLabel(names=['no', 'yes'])),
      'sizes': tfds.features.Sequence(np.int64)})
  examples = [(i, {'image': np.full((4, 4, 1), 40 * i, np.uint8), 'label': int(i > 2), 'group': 0,
                   'marks': ['dark'] * (i < 3) + ['odd'] * (i % 2), 'votes': [1, 0, 1],
                   'unsure': [-1], 'sizes': [4, 4]})
              for i in range(6)]
  tfds.dataset_builders.store_as_tfds_dataset(
      name='made', version='1.0.0', features=features, data_dir=data_dir,
      split_datasets={'train': examples, 'test': examples[:2]})
  return str(data_dir)


def test_a_tfds_data_set_is_read_in_stored_order(made_tfds):
  task = tasks.load('made', made_tfds)
  assert (task.class_names, task.splits) == (('low', 'high'), {'train': 6, 'test': 2})
  assert task.source == 'made:1.0.0'
  everything = tasks.read(task, ('train', None), 4)
  assert sorted(everything.images[:, 0, 0, 0]) == [0, 40, 80, 120, 160, 200]
  assert np.array_equal(everything.labels, everything.images[:, 0, 0, 0] > 80)
  some = tasks.read(task, ('train', [1, 3, 4]), 4)
  assert np.array_equal(some.images, everything.images[[1, 3, 4]])


def test_a_seeded_draw_never_mixes_train_and_val_whatever_the_shards(tmp_path):
  import tensorflow_datasets as tfds
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(1, 1, 3)),
      'label': tfds.features.ClassLabel(num_classes=2)})
  examples = [(i, {'image': np.array([[[i % 256, i // 256, 0]]], np.uint8), 'label': 0})
              for i in range(1500)]
  tfds.dataset_builders.store_as_tfds_dataset(
      name='sharded', version='1.0.0', features=features, data_dir=tmp_path,
      split_datasets={'train': examples},
      download_config=tfds.download.DownloadConfig(num_shards=5))
  task = tasks.load('sharded', str(tmp_path))
  assert task.splits == {'train': 1200, 'test': 300}  # the last fifth, where nothing else is
  protocol = tasks.protocol_1k(task, seed=3)
  parts = [{tuple(image[0, 0]) for image in tasks.read(task, part, 1).images}
           for part in (protocol.train, protocol.val, protocol.test)]
  assert [len(part) for part in parts] == [800, 200, 300]
  assert len(set.union(*parts)) == 1300


def test_examples_of_tfds_have_the_ids_that_it_gives_them(tmp_path):
  import tensorflow_datasets as tfds
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(1, 1, 1)),
      'label': tfds.features.ClassLabel(num_classes=2)})
  tfds.dataset_builders.store_as_tfds_dataset(
      name='sharded', version='1.0.0', features=features, data_dir=tmp_path, split_datasets={
          'train': [(i, {'image': np.full((1, 1, 1), i, np.uint8), 'label': i % 2})
                    for i in range(23)]},
      download_config=tfds.download.DownloadConfig(num_shards=4))
  data = tfds.builder('sharded', data_dir=str(tmp_path)).as_dataset(
      split='train', read_config=tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1))
  given = {int(example['image'][0, 0, 0]): example['tfds_id'].decode()
           for example in tfds.as_numpy(data)}
  assert len(set(given.values())) == 23
  assert len({name.partition('__')[0] for name in given.values()}) == 4
  task = tasks.load('sharded', str(tmp_path))
  for split, indices in (('train', range(19)), ('test', range(4)), ('train', [2, 5, 6, 18])):
    images = tasks.read(task, (split, indices), 1).images[:, 0, 0, 0]
    assert task.ids(split, indices) == [given[image] for image in images]
  even = cut_tasks.cut(task, ['0', '1'])
  assert even.ids('test', [1, 3]) == task.ids('test', [1, 3])


@pytest.mark.parametrize(('name', 'digest'), [
    ('rsscn7_64', '5f2dea4e4acd0d3c2405778dade6ad9e85de04504fa2b008992680c6b9ef8c55'),
    ('cifar10_12k', 'a6a211367d610bccc3c7f42c98aced67b0b07ff4cae8b3a600194d0210efb2c4'),
    ('mnist_12k', 'a47ce824c90616d20f7948b482e7d0e5c76d416ccc61aaba7f54b9ad853e53c2'),
    ('gtsrb_32', 'acd09d0a562f1a1881dd90bdea39dd204fd5e12f6b45cb58fac15c3a795cdabb'),
    ('dtd10_64', '0a8ebbb947c720af33037729f30fe9d2729e7658c494f42a2e305d19307cec36'),
    ('sign_digits_64', '3474efb7476455249bdbed26d0520709b307a3456771438b48e89d843b3cf539'),
    ('caltech97_64', '44b49dc3a6036353d10e777bec5250a824bfa87aed27475b8275c527f89e9c3d'),
    ('cifar100_jpeg', 'ba6f78c01be5ec7f759510235c304f9cfb97fad217927f314823a47fbcb4b7c3'),
    ('cifar100_jpeg[coarse_label=fish]',
     'fde835310be8dca5e75f17515a1bec271142cba05412ffa6ed8ac8df35bdd89f'),
    ('digits', '1c22cbb5f5819366df37c645310f9f08f197e1c4ea83ffdd7d89e017de46bda9'),
])
def test_the_thousand_examples_are_the_same_on_any_machine(shared_tfds, name, digest):
  task = tasks.load(name, shared_tfds)
  assert tasks.ids_digest(task, tasks.protocol_1k(task)) == digest


def test_coarse_labels_group_fine_ones(made_tfds):
  from zoo import tfds_tasks
  assert tfds_tasks.coarse_labels('made', made_tfds, 'label', 'group') == {
      'low': 'any', 'high': 'any'}


@pytest.mark.parametrize(('name', 'complaint'), [
    ('maade', r"unknown task 'maade' \(near: made"),
    ('no_such_thing_at_all', 'unknown task'),
    ('made:2.0.0', 'made'),
])
def test_an_unknown_task_is_one_line_with_near_names(made_tfds, name, complaint):
  with pytest.raises(ValueError, match=complaint) as raised:
    tasks.load(name, made_tfds)
  assert '\n' not in str(raised.value)


def test_a_missing_data_dir_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'--data_dir=.*nowhere is not a folder'):
    tasks.load('made', str(tmp_path / 'nowhere'))


def test_an_unknown_label_feature_is_named(made_tfds):
  with pytest.raises(ValueError, match=(
      r"no feature 'colour'; it has the labels group, label, marks \(several an image\), unsure")):
    tasks.load('made', made_tfds, 'colour')


def test_a_tfds_sequence_of_class_labels_is_a_task_of_several_labels_an_image(made_tfds):
  task = tasks.load('made', made_tfds, 'marks')
  assert (task.multi_label, task.class_names) == (True, ('dark', 'odd', 'never'))
  assert task.source == 'made:1.0.0#marks'
  train = tasks.read(task, ('train', None), 4)
  number = train.images[:, 0, 0, 0] // 40
  assert train.labels.dtype == np.float32
  assert np.array_equal(train.labels, np.stack([number < 3, number % 2, 0 * number], axis=1))
  assert not train.labels[number == 4].any()  # has none of them
  some = tasks.read(task, ('train', [1, 3, 4]), 4)
  assert np.array_equal(some.labels, train.labels[[1, 3, 4]])


@pytest.mark.parametrize(('label', 'complaint'), [
    ('unsure', r"'unsure' of task 'made' is \[-1\] in an image"),
    ('votes', r"'votes' of task 'made' is \[1, 0, 1\] in an image, which is no set of classes"),
    ('sizes', "'sizes' of task 'made' is no class label"),
])
def test_a_sequence_that_is_no_set_of_classes_is_no_label(made_tfds, label, complaint):
  with pytest.raises(ValueError, match=complaint):
    tasks.load('made', made_tfds, label).labels('train')


@pytest.mark.parametrize('which', ['label=dark|odd', 'marks=dark|odd', 'group=any', 'under=dark'])
def test_a_task_of_several_labels_an_image_cannot_be_cut(made_tfds, which):
  whole = tasks.load('made', made_tfds, 'marks')
  for cut in (lambda: tasks.load(f'made[{which}]', made_tfds, 'marks'),
              lambda: cut_tasks.cut(whole, ['dark', 'odd'])):
    with pytest.raises(ValueError, match=r"^task 'made' has several labels an image, so that it "
                       r'cannot be cut by class: use the whole of it\.$'):
      cut()


def test_a_prepared_data_set_of_another_maker_is_read(shared_tfds):
  task = tasks.load('rsscn7_64', shared_tfds)
  assert task.splits == {'train': 1400, 'test': 1400}
  assert tasks.read(task, ('train', range(3)), 32).images.shape == (3, 32, 32, 3)


def _counted(number, failing=()):
  """A task of `number` 3 x 3 pictures for training and one for testing, and what it decoded."""
  decoded = []

  def reader(split, indices):
    for i in indices:
      decoded.append((split, int(i)))
      image = np.random.default_rng(i).integers(0, 256, (3, 3, 3)).astype(np.uint8)
      yield None if i in failing else image, int(i) % 2

  return tasks.Task('counted', ('even', 'odd'), {'train': number, 'test': number}, 'counted:1',
                    reader), decoded


@pytest.mark.parametrize('keys', [('train_images', 'train_labels', 'test_images', 'test_labels'),
                                  ('x_train', 'y_train', 'x_test', 'y_test')])
@pytest.mark.parametrize('form', [(), (1,), (3,)])
def test_a_file_of_arrays_is_a_task(tmp_path, keys, form):
  images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
  images = np.broadcast_to(images[(..., *[None] * len(form))], (5, 4, 4, *form))
  labels = np.array([0, 1, 2, 1, 0], np.uint8)
  np.savez(tmp_path / 'made.npz', **dict(zip(
      keys, (images[:3], labels[:3, None], images[3:], labels[3:]), strict=True)))
  task = tasks.load(f'npz:{tmp_path}/made.npz')
  assert task.class_names == ('0', '1', '2') and task.splits == {'train': 3, 'test': 2}
  found = tasks.read(task, ('test', None), 4)
  np.testing.assert_array_equal(found.labels, [1, 0])
  np.testing.assert_array_equal(found.images[..., 0], np.arange(48, 80).reshape(2, 4, 4))


@pytest.mark.parametrize('several', [False, True])
def test_a_task_that_is_written_as_arrays_is_the_same_task(tmp_path, several):
  labels = np.eye(3, dtype=int)[[0, 2, 1, 1]] if several else np.array([0, 2, 1, 1])
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  task = tasks.from_arrays('made', ('a', 'b', 'c'), train=(images, labels),
                           validation=(images[:1], labels[:1]), test=(images[2:], labels[2:]))
  npz_tasks.save(task, tmp_path / 'made.npz', 8)
  same = tasks.load(f'npz:{tmp_path}/made.npz')
  assert (same.class_names, same.splits, same.source) == (
      task.class_names, task.splits, task.source)
  for split in task.splits:
    found, wanted = (tasks.read(one, (split, None), 8) for one in (same, task))
    assert found.digest() == wanted.digest()


@pytest.mark.parametrize('changes, complaint', [
    ({'test_images': None, 'test_labels': None}, 'has no test_images; it has train_images'),
    ({'test_labels': None}, 'but no test_labels'),
    ({'train_images': np.zeros((2, 4, 4))}, 'train_images is float64 [2, 4, 4]; it must be uint8'),
    ({'train_images': np.zeros((2, 4, 4, 2), np.uint8)}, '1, 3 or 4 channels'),
    ({'train_labels': np.array([0, -1])}, 'integers [N] from 0 on'),
    ({'train_labels': np.array([.5, 1.])}, 'train_labels is float64'),
    ({'train_labels': np.array([0])}, '2 images but 1 labels'),
    ({'class_names': np.array(['a'])}, 'class_names has 1 names, but labels know 2'),
    ({'class_names': np.array([{}], object)}, 'is not a whole .npz file')])
def test_a_file_of_other_arrays_says_what_is_wrong(tmp_path, changes, complaint):
  arrays = {'train_images': np.zeros((2, 4, 4), np.uint8), 'train_labels': np.array([0, 1]),
            'test_images': np.zeros((1, 4, 4), np.uint8), 'test_labels': np.array([1])} | changes
  np.savez(tmp_path / 'made.npz', **{k: v for k, v in arrays.items() if v is not None})
  with pytest.raises(ValueError) as error:
    tasks.load(f'npz:{tmp_path}/made.npz')
  assert complaint in str(error.value)


def test_a_file_of_arrays_that_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'npz:.*no\.npz: there is no such file'):
    tasks.load(f'npz:{tmp_path}/no.npz')


def test_images_are_decoded_once_for_all_sizes():
  task, decoded = _counted(6)
  examples = tasks.read_sizes(task, [('train', [0, 2]), ('test', None)], [4, 8, 4])
  assert decoded == [('train', 0), ('train', 2), *(('test', i) for i in range(6))]
  assert set(examples) == {4, 8}
  for size, one in examples.items():  # as if each were read alone
    apart = tasks.read(task, ('train', [0, 2]), size) + tasks.read(task, ('test', None), size)
    assert one.digest() == apart.digest()


def test_an_unreadable_image_is_skipped_in_every_size_alike(caplog):
  task, _ = _counted(6, failing=(1, 4))
  examples = tasks.read_sizes(task, [('train', None), ('test', [0, 1])], [4, 8])
  assert [one.labels.tolist() for one in examples.values()] == [[0, 0, 1, 1, 0]] * 2
  assert [one.images.shape for one in examples.values()] == [(5, 4, 4, 3), (5, 8, 8, 3)]
  assert "'train': 2 of 6 images could not be read" in caplog.text
  assert "'test': 1 of 2 images could not be read" in caplog.text


def test_a_part_without_a_readable_image_is_an_error():
  task, _ = _counted(6, failing=(1, 4))
  with pytest.raises(ValueError, match="'counted' has no readable image in split 'test'"):
    tasks.read_sizes(task, [('train', None), ('test', [1, 4])], [4])


def test_images_beyond_the_limit_lie_in_a_file_that_nobody_has_to_remove(monkeypatch, tmp_path):
  import tempfile
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'here'))
  task, _ = _counted(6, failing=(2,))
  parts = [('train', None), ('test', None)]
  in_memory = tasks.read_sizes(task, parts, [4, 8])
  needed = 12 * 3 * (4 * 4 + 8 * 8)
  monkeypatch.setattr(tasks, 'MEMORY_BYTES', needed)
  assert not isinstance(tasks.read_sizes(task, parts, [4, 8])[8].images, np.memmap)
  monkeypatch.setattr(tasks, 'MEMORY_BYTES', needed - 1)
  in_files = tasks.read_sizes(task, parts, [4, 8])
  for size, one in in_files.items():
    assert isinstance(one.images, np.memmap)
    assert one.digest() == in_memory[size].digest()
    assert one.images.tobytes() == in_memory[size].images.tobytes()
  assert not list((tmp_path / 'here').iterdir())


def test_a_full_disk_is_named_before_it_is_written_to(monkeypatch):
  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(tasks, 'MEMORY_BYTES', 0)
  monkeypatch.setattr(os, 'posix_fallocate', full)
  task, _ = _counted(2)
  with pytest.raises(OSError, match=r'no room for 96 bytes of images \(No space.*set TMPDIR'):
    tasks.read(task, ('train', None), 4)


def test_the_labels_of_a_split_are_those_of_its_examples_in_stored_order(made_tfds, picture_folder):
  for task in (tasks.load('made', made_tfds), tasks.load('made', made_tfds, 'marks'),
               _folder_task(picture_folder)):
    for split in task.splits:
      assert task.labels(split).dtype == tasks.read(task, (split, None), 4).labels.dtype
      assert np.array_equal(task.labels(split), tasks.read(task, (split, None), 4).labels)
