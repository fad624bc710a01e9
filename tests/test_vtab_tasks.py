"""VTAB's 19 tasks: what is cut from where, what its labels mean, what is said where data lack."""

import dataclasses
import functools
import os
import re
from unittest import mock

import mocked_vtab
import numpy as np
import pytest

from benchmarks import vtab_tasks
from zoo import cut_tasks
from zoo import pixels
from zoo import tasks

BY_NAME = {entry.name: entry for entry in vtab_tasks.VTAB}
STORED = 37  # examples in each split of the small copies

# train800, val200, train, validation, test.
WHOLE = ('train[:800]', 'validation[:200]', 'train', 'validation', 'test')
CLEVR = ('train[:800]', 'train[63000:63200]', 'train[:63000]', 'train[63000:70000]', 'validation')
DSPRITES = ('train[:800]', 'train[589824:590024]', 'train[:589824]', 'train[589824:663552]',
            'train[663552:737280]')
SMALLNORB = ('train[:800]', 'test[:200]', 'train', 'test[:12150]', 'test[12150:24300]')
SLICES = {
    'caltech101': ('train[:800]', 'train[2754:2954]', 'train[:2754]', 'train[2754:3060]', 'test'),
    'cifar100': ('train[:800]', 'train[45000:45200]', 'train[:45000]', 'train[45000:50000]',
                 'test'),
    'dtd': WHOLE,
    'flowers102': WHOLE,
    'pets': ('train[:800]', 'train[2944:3144]', 'train[:2944]', 'train[2944:3680]', 'test'),
    'svhn': ('train[:800]', 'train[65931:66131]', 'train[:65931]', 'train[65931:73257]', 'test'),
    'sun397': WHOLE,
    'camelyon': WHOLE,
    'eurosat': ('train[:800]', 'train[16200:16400]', 'train[:16200]', 'train[16200:21600]',
                'train[21600:27000]'),
    'resisc45': ('train[:800]', 'train[18900:19100]', 'train[:18900]', 'train[18900:25200]',
                 'train[25200:31500]'),
    'retinopathy': WHOLE,
    'clevr-count': CLEVR,
    'clevr-dist': CLEVR,
    'dmlab': WHOLE,
    'dsprites-location': DSPRITES,
    'dsprites-orientation': DSPRITES,
    'kitti-dist': WHOLE,
    'smallnorb-azimuth': SMALLNORB,
    'smallnorb-elevation': SMALLNORB,
}


@pytest.mark.parametrize('name', SLICES)
def test_the_slices_of_every_task_are_those_of_the_paper(name):
  parts = ('train800', 'val200', 'train', 'validation', 'test')
  assert vtab_tasks.slices(BY_NAME[name]) == dict(zip(parts, SLICES[name], strict=True))


def test_there_are_19_tasks_seven_four_and_eight():
  assert set(BY_NAME) == set(SLICES)
  assert len({entry.title for entry in vtab_tasks.VTAB}) == 19
  groups = [len(vtab_tasks.entries(group)) for group in vtab_tasks.GROUPS]
  assert groups == [7, 4, 8]


def _object(**features):
  return {'objects': {key: np.array(value, np.float32 if key != 'type' else np.int64)
                      for key, value in features.items()}}


def _clevr(*distances):
  return _object(pixel_coords=[(100, 200, distance) for distance in distances])


def _kitti(**distances):
  """Objects at these distances, some called 'car_2' and so on."""
  kinds = ('car', 'van', 'truck', 'pedestrian', 'sitting', 'cyclist', 'tram', 'misc')
  located = np.array([(-2, 1, z) for z in distances.values()], np.float32).reshape(-1, 3)
  return _object(type=[kinds.index(name.split('_')[0]) for name in distances], location=located)


@pytest.mark.parametrize(('task', 'example', 'label', 'meaning'), [
    ('clevr-count', _clevr(9, 9, 9), 0, '3 objects'),
    ('clevr-count', _clevr(*[9] * 10), 7, '10 objects'),
    ('clevr-dist', _clevr(12, 7.9, 30), 0, 'up to 8'),  # the nearest counts
    ('clevr-dist', _clevr(8.0, 9), 0, 'up to 8'),  # an edge is of the bin below it
    ('clevr-dist', _clevr(np.nextafter(np.float32(8), np.float32(9)), 9), 1, '8 to 8.5'),
    ('clevr-dist', _clevr(8.5), 1, '8 to 8.5'),
    ('clevr-dist', _clevr(9), 2, '8.5 to 9'),
    ('clevr-dist', _clevr(9.1), 3, '9 to 9.5'),
    ('clevr-dist', _clevr(10), 4, '9.5 to 10'),
    ('clevr-dist', _clevr(10.01), 5, 'above 10'),
    ('clevr-dist', _clevr(100), 5, 'above 10'),
    ('kitti-dist', _kitti(car=30, van=8), 0, 'up to 8 m'),
    ('kitti-dist', _kitti(truck=8.01, pedestrian=2), 1, '8 to 20 m'),
    ('kitti-dist', _kitti(van=20, tram=1), 1, '8 to 20 m'),
    ('kitti-dist', _kitti(car=25, car_2=20.5), 2, 'above 20 m'),
    ('kitti-dist', _kitti(car=999), 2, 'above 20 m'),
    ('kitti-dist', _kitti(car=-3, truck=15), 0, 'up to 8 m'),  # beside the camera
    ('kitti-dist', _kitti(pedestrian=2, sitting=3, cyclist=4, misc=5), 3, 'no vehicle'),
    ('kitti-dist', _kitti(), 3, 'no vehicle'),
    ('dsprites-location', {'label_x_position': 0}, 0, 'columns 0 and 1 of 32'),
    ('dsprites-location', {'label_x_position': 1}, 0, 'columns 0 and 1 of 32'),
    ('dsprites-location', {'label_x_position': 2}, 1, 'columns 2 and 3 of 32'),
    ('dsprites-location', {'label_x_position': 31}, 15, 'columns 30 and 31 of 32'),
    ('dsprites-orientation', {'label_orientation': 2}, 0, 'turns 0 to 2 of 40'),
    ('dsprites-orientation', {'label_orientation': 3}, 1, 'turns 3 to 4 of 40'),
    ('dsprites-orientation', {'label_orientation': 5}, 2, 'turns 5 to 7 of 40'),
    ('dsprites-orientation', {'label_orientation': 37}, 14, 'turns 35 to 37 of 40'),
    ('dsprites-orientation', {'label_orientation': 39}, 15, 'turns 38 to 39 of 40'),
    ('smallnorb-azimuth', {'label_azimuth': 17}, 17, '340 degrees'),
    ('smallnorb-elevation', {'label_elevation': 0}, 0, '30 degrees'),
    ('smallnorb-elevation', {'label_elevation': 8}, 8, '70 degrees'),
])
def test_a_label_is_what_the_paper_makes_of_the_annotations(task, example, label, meaning):
  rule = BY_NAME[task].label
  assert rule.label_of(example) == label
  assert rule.class_names[label] == meaning


def test_every_orientation_is_named_by_the_bin_it_falls_into():
  rule = BY_NAME['dsprites-orientation'].label
  for turn in range(40):
    label = rule.label_of({'label_orientation': np.int64(turn)})
    assert label == int(np.floor(turn / 2.5))
    first, last = re.fullmatch(r'turns (\d+) to (\d+) of 40', rule.class_names[label]).groups()
    assert int(first) <= turn <= int(last)


def test_white_in_dsprites_is_one_and_becomes_255():
  image = np.array([[[0], [1]]], np.uint8)
  image = BY_NAME['dsprites-location'].image_of(image)
  assert pixels.to_rgb(image).tolist() == [[[0, 0, 0], [255, 255, 255]]]


BUILDERS = tuple(dict.fromkeys(entry.builder for entry in vtab_tasks.VTAB))


@pytest.mark.parametrize('name', BUILDERS)
def test_the_rules_fit_what_tfds_has(name):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.testing import mocking
  # All members of a sequence have 10 values, else a place would have no colour.
  generator = functools.partial(mocking.RandomFakeGenerator, constant_dynamic_shape=True)
  with (mock.patch.object(mocking, 'RandomFakeGenerator', generator),
        tfds.testing.mock_data(num_examples=5)):  # the same in every split
    builder = tfds.builder(name)
    examples = list(tfds.as_numpy(builder.as_dataset(split='train')))
  assert len(examples) == 5
  for entry in (entry for entry in vtab_tasks.VTAB if entry.builder == name):
    if entry.label is None:
      assert builder.info.features['label'].num_classes == entry.classes
    else:
      assert len(entry.label.class_names) == entry.classes
    assert bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS) == bool(entry.manual)
    for example in examples:
      label = entry.label.label_of(example) if entry.label else example['label']
      assert 0 <= label < entry.classes
      image = entry.image_of(example['image']) if entry.image_of else example['image']
      rgb = pixels.to_rgb(image)
      assert (rgb.dtype, rgb.shape) == (np.uint8, (*image.shape[:2], 3))


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
  """Small prepared copies of all data sets, 37 examples in each stored split."""
  data_dir = str(tmp_path_factory.mktemp('vtab'))
  mocked_vtab.prepare(data_dir, STORED)
  return data_dir


SIZES = {**dict.fromkeys(('caltech101', 'cifar100', 'svhn'), (33, 4, 37)), 'pets': (29, 8, 37),
         **dict.fromkeys(('eurosat', 'resisc45'), (22, 7, 8)),
         **dict.fromkeys(('clevr-count', 'clevr-dist'), (33, 4, 37)),
         **dict.fromkeys(('dsprites-location', 'dsprites-orientation'), (29, 3, 5)),
         **dict.fromkeys(('smallnorb-azimuth', 'smallnorb-elevation'), (37, 18, 19))}


@pytest.mark.parametrize('entry', vtab_tasks.VTAB, ids=lambda entry: entry.name)
def test_every_task_is_read_from_what_its_builder_has_written(copies, entry):
  task = vtab_tasks.load(entry.name, copies)
  assert (task.name, len(task.class_names)) == (entry.name, entry.classes)
  assert list(task.splits) == ['train', 'validation', 'test']
  assert tuple(task.splits.values()) == SIZES.get(entry.name, (37, 37, 37))
  labels = {split: task.labels(split) for split in task.splits}
  for split, found in labels.items():
    assert len(found) == task.splits[split]
    assert set(found) <= set(range(entry.classes))
  examples = tasks.read(task, ('test', None), 16)
  assert np.array_equal(examples.labels, labels['test'])
  assert examples.images.shape == (task.splits['test'], 16, 16, 3)
  assert examples.images.max() > 1


@pytest.mark.parametrize('entry', vtab_tasks.VTAB, ids=lambda entry: entry.name)
def test_what_trains_chooses_and_tests_is_what_tfds_slices_and_never_shared(copies, entry):
  import tensorflow_datasets as tfds
  task = vtab_tasks.load(entry.name, copies)
  here = dataclasses.replace(entry, sizes=SIZES.get(entry.name, (37, 37, 37)))
  slices = vtab_tasks.slices(here)
  stored = tfds.builder(entry.builder, data_dir=copies).info.splits
  seen = []
  for split, number in task.splits.items():
    ids = [f'{os.path.basename(file.filename)}__{i}'
           for file in stored[slices[split]].file_instructions
           for i in range(file.skip, file.skip + file.take)]
    assert task.ids(split, range(number)) == ids
    seen += ids
  assert len(set(seen)) == len(seen)
  protocol = tasks.protocol_1k(task)
  assert [part[0] for part in (protocol.train, protocol.val, protocol.test)] == list(task.splits)


@pytest.mark.parametrize(('name', 'source'), [
    ('pets', 'oxford_iiit_pet:4.0.0'), ('sun397', 'sun397/tfds:4.0.0'),
    ('clevr-count', 'clevr:3.1.0#count'), ('kitti-dist', 'kitti:3.3.0#distance'),
    ('dsprites-orientation', 'dsprites:2.0.0#orientation')])
def test_the_source_names_builder_version_and_rule(copies, name, source):
  found = vtab_tasks.load(name, copies).source
  builder, _, version = source.partition(':')
  assert found.startswith(f'{builder}:')
  assert found.partition('#')[2] == version.partition('#')[2]
  assert cut_tasks.data_set(found) == builder


def test_tasks_of_one_data_set_are_known_to_be_so(copies):
  count, distance = (vtab_tasks.load(name, copies) for name in ('clevr-count', 'clevr-dist'))
  assert count.source != distance.source
  assert cut_tasks.same_data(count.source, distance.source)


def test_other_sizes_than_the_published_are_named_in_one_warning(copies, caplog, monkeypatch):
  vtab_tasks.load('dsprites-location', copies)
  assert [record.getMessage() for record in caplog.records] == [
      "task 'dsprites-location' has 29/3/5 examples to train, choose and test here and "
      '589824/73728/73728 as published: results cannot be compared.']
  caplog.clear()
  entry = dataclasses.replace(BY_NAME['dsprites-location'], sizes=(29, 3, 5))
  monkeypatch.setattr(vtab_tasks, 'VTAB', (entry,))
  vtab_tasks.load('dsprites-location', copies)
  assert not caplog.records


def test_a_copy_without_a_split_is_an_error(tmp_path, copies):
  import json
  import shutil
  path = tmp_path / 'smallnorb' / '2.0.0'
  shutil.copytree(os.path.join(copies, 'smallnorb', '2.0.0'), path)
  described = json.loads((path / 'dataset_info.json').read_text())
  described['splits'] = [one for one in described['splits'] if one['name'] == 'train']
  (path / 'dataset_info.json').write_text(json.dumps(described))
  with pytest.raises(ValueError, match="'smallnorb-azimuth' needs the split 'test' of smallnorb"):
    vtab_tasks.load('smallnorb-azimuth', str(tmp_path))


def test_only_the_label_is_read_where_only_labels_are_wanted(copies, monkeypatch):
  import tensorflow_datasets as tfds
  task = vtab_tasks.load('kitti-dist', copies)
  monkeypatch.setattr(tfds.features.Image, 'decode_example', None)
  assert set(task.labels('test')) <= set(range(4))
  with pytest.raises(TypeError):
    tasks.read(task, ('test', None), 16)


@pytest.fixture
def no_download(monkeypatch):
  """TFDS without a network."""
  import tensorflow_datasets as tfds

  def fail(self, **_):
    raise OSError('the host is down')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)


def test_nothing_is_missing_of_what_is_prepared(copies):
  assert [vtab_tasks.check(entry, copies) for entry in vtab_tasks.VTAB] == [None] * 19


def test_what_is_missing_is_one_line_that_says_what_to_do(no_download, tmp_path):
  (tmp_path / 'clevr' / '3.0.0').mkdir(parents=True)
  for entry in vtab_tasks.VTAB:
    line = vtab_tasks.check(entry, str(tmp_path))
    assert line.startswith(f'{tmp_path}/{entry.builder}/')
    assert '\n' not in line
    assert 'say --prepare' in line
    assert ('TFDS downloads it' in line) == (entry.manual is None)
    assert (f'{tmp_path}/downloads/manual' in line) == (entry.manual is not None)
    assert ('(there is 3.0.0)' in line) == (entry.builder == 'clevr')
  assert 'extracted to NWPU-RESISC45' in vtab_tasks.check(BY_NAME['resisc45'], str(tmp_path))


def test_why_data_cannot_be_had_is_one_line(no_download, tmp_path):
  with pytest.raises(ValueError, match=r"'eurosat/rgb' is not prepared in .*the host is down"):
    vtab_tasks.load('eurosat', str(tmp_path))


@pytest.mark.parametrize(('names', 'found'), [
    ('specialized', ['camelyon', 'eurosat', 'resisc45', 'retinopathy']),
    ('svhn,dtd', ['dtd', 'svhn']),
    (['dtd', 'svhn', 'dtd'], ['dtd', 'svhn']),
    (['retinopathy', 'specialized'], ['camelyon', 'eurosat', 'resisc45', 'retinopathy']),
    ('all', list(SLICES)),
])
def test_tasks_are_chosen_by_name_by_group_or_all(names, found):
  assert [entry.name for entry in vtab_tasks.entries(names)] == found


@pytest.mark.parametrize(('names', 'complaint'), [
    (['dtd', 'clevr'], r"no task 'clevr'; it has clevr-dist, clevr-count"),
    (['nature'], "no task 'nature'; it has natural"),
    (['zzz'], "no task 'zzz'; it has all, natural, specialized, structured, caltech101"),
    ([], 'no task of VTAB is named'),
])
def test_an_unknown_task_is_an_error_that_names_near_ones(names, complaint):
  with pytest.raises(ValueError, match=complaint):
    vtab_tasks.entries(names)


def test_a_group_is_no_task():
  with pytest.raises(ValueError, match="no task 'natural'"):
    vtab_tasks.load('natural')
