"""The cache of embeddings: what it gives back is right, whatever happens to its folder."""

import contextlib
import errno
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from selection import cache as cache_lib
from zoo import atomic

FEATURES = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (600, 2, 2, 3), np.uint8)
DIGESTS = cache_lib.image_digests(IMAGES)
EMBEDDINGS = np.random.default_rng(1).normal(size=(600, FEATURES)).astype(np.float32)
KEY = cache_lib.key('f' * 64, None, 32)
NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'cache'


def put(cache, images, key=KEY):
  cache.put(key, DIGESTS[images], EMBEDDINGS[images])


def known(cache, images, key=KEY):
  """Which of the images, an index array, are found; what is found must be right."""
  found, rows = cache.get(key, DIGESTS[images])
  if found.any():
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, EMBEDDINGS[images][found])
  else:
    assert rows is None
  return found


def segments(folder):
  return sorted(folder.glob('??/*.zoo-embeddings'))


def size(folder):
  return sum(path.stat().st_size for path in segments(folder))


def segment_bytes(rows, features=FEATURES):
  """By hand: magic, R, F; 16 bytes a digest; a CRC for each 64 rows and one more; rows."""
  return 24 + 16 * rows + 4 * -(-rows // 64) + 4 + 4 * rows * features


# What it gives back.


def test_an_empty_cache_finds_nothing_and_makes_no_folder(folder, caplog):
  assert known(cache_lib.Cache(folder), np.arange(5)).tolist() == [False] * 5
  assert not folder.exists()
  assert not caplog.records


def test_rows_come_back_bit_by_bit_in_the_order_asked_for(folder):
  odd = np.array([[0., -0., np.inf, np.nan, 1e-45, 3.4e38]], np.float32)
  cache = cache_lib.Cache(folder)
  put(cache, np.array([3, 1, 2]))
  cache.put(KEY, DIGESTS[:1], odd)
  found, rows = cache_lib.Cache(folder).get(KEY, DIGESTS[[2, 9, 0, 1, 2]])
  assert found.tolist() == [True, False, True, True, True]
  assert rows.tobytes() == np.concatenate([EMBEDDINGS[[2]], odd, EMBEDDINGS[[1, 2]]]).tobytes()


def test_added_images_cost_only_theirs_and_another_key_knows_none(folder):
  cache = cache_lib.Cache(folder)
  put(cache, np.arange(100))
  assert known(cache, np.arange(120)).tolist() == [True] * 100 + [False] * 20
  assert not known(cache, np.arange(100), cache_lib.key('f' * 64, 0, 32)).any()


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=15)
def test_it_is_a_dictionary_of_digests_that_outlives_its_process(data):
  # Digests of few distinct bytes, most of them zero: beginnings and ends coincide.
  digest = st.lists(st.sampled_from([0, 0, 0, 1, 255]), min_size=16, max_size=16).map(bytes)
  pool = data.draw(st.lists(digest, min_size=1, max_size=12))
  reference = {}
  with tempfile.TemporaryDirectory() as folder:
    for turn in range(data.draw(st.integers(1, 10))):
      asked = data.draw(st.lists(st.sampled_from(pool), max_size=12))
      digests = np.frombuffer(b''.join(asked), 'V16')
      found, rows = cache_lib.Cache(folder).get(KEY, digests)
      assert found.tolist() == [one in reference for one in asked]
      if found.any():
        assert rows.tolist() == [reference[one] for one in asked if one in reference]
      missing = digests[~found]
      values = {one: [float(turn), float(i)] for i, one in enumerate(asked)}
      cache_lib.Cache(folder).put(
          KEY, missing, np.array([values[bytes(one)] for one in missing]).reshape(-1, 2))
      reference |= {bytes(one): values[bytes(one)] for one in missing}


def test_nothing_to_put_makes_no_file_and_rows_must_fit_the_images(folder):
  cache = cache_lib.Cache(folder)
  cache.put(KEY, DIGESTS[:0], EMBEDDINGS[:0])
  assert not folder.exists()
  for wrong in (EMBEDDINGS[:3], EMBEDDINGS[0, :2]):
    with pytest.raises(ValueError, match=r'there are 2 images'):
      cache.put(KEY, DIGESTS[:2], wrong)


# Names.


def test_an_images_digest_is_of_its_pixels_and_shape_alone(tmp_path):
  path = tmp_path / 'images'
  IMAGES.tofile(path)
  on_disk = np.memmap(path, np.uint8, 'r', shape=IMAGES.shape)
  assert (cache_lib.image_digests(on_disk) == DIGESTS).all()
  assert (cache_lib.image_digests(IMAGES[::-2]) == DIGESTS[::-2]).all()
  assert len(np.unique(DIGESTS)) == len(DIGESTS)
  same_bytes = IMAGES.reshape(-1, 1, 4, 3)
  assert not np.isin(cache_lib.image_digests(same_bytes), DIGESTS).any()
  changed = IMAGES[:1].copy()
  changed[0, 1, 1, 2] ^= 1
  assert cache_lib.image_digests(changed) != DIGESTS[:1]
  assert cache_lib.image_digests(IMAGES[:0]).shape == (0,)


@pytest.mark.parametrize('images', [IMAGES[0], IMAGES.astype(np.float32)])
def test_only_images_have_digests(images):
  with pytest.raises(ValueError, match=r'give uint8 \[N, height, width, 3\]'):
    cache_lib.image_digests(images)


def test_whatever_changes_an_embedding_changes_its_key(monkeypatch):
  keys = {cache_lib.key(*parts) for parts in [
      ('a', None, 32), ('b', None, 32), ('a', 0, 32), ('a', 1, 32), ('a', None, 64)]}
  monkeypatch.setattr(cache_lib, 'FORMAT', 'BGR')
  keys.add(cache_lib.key('a', None, 32))
  assert len(keys) == 6
  assert all(len(key) == 64 and int(key, 16) for key in keys)
  assert cache_lib.key('a', np.int64(1), np.int64(32)) == cache_lib.key('a', 1, 32)


@pytest.mark.parametrize(('variables', 'wanted'), [
    ({'EXPERT_ZOO_CACHE': '/own', 'XDG_CACHE_HOME': '/xdg'}, '/own/embeddings'),
    ({'EXPERT_ZOO_CACHE': '~/own'}, '/home/me/own/embeddings'),
    ({'XDG_CACHE_HOME': '/xdg'}, '/xdg/expert-zoo/embeddings'),
    ({'EXPERT_ZOO_CACHE': ''}, '/home/me/.cache/expert-zoo/embeddings'),
])
def test_the_default_folder_is_where_the_user_keeps_caches(monkeypatch, variables, wanted):
  for name in ('EXPERT_ZOO_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  for name, value in ({'HOME': '/home/me'} | variables).items():
    monkeypatch.setenv(name, value)
  assert cache_lib.opened().folder == wanted


# Damage.


def test_every_flipped_bit_and_every_other_length_is_noticed(folder, caplog):
  put(cache_lib.Cache(folder), np.array([0, 1]))
  [path] = segments(folder)
  whole = path.read_bytes()
  assert len(whole) == segment_bytes(2)
  flipped = [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1:]
             for i in range(len(whole)) for bit in range(8)]
  cut = [whole[:i] for i in range(len(whole))]
  for damaged in [*flipped, *cut, whole + b'\0']:
    caplog.clear()
    path.write_bytes(damaged)
    assert not known(cache_lib.Cache(folder), np.array([0, 1])).any()
    assert f'{path} is damaged' in caplog.text
    assert caplog.text.count('computed again') == 1
    assert not path.exists()
  path.write_bytes(whole)
  assert known(cache_lib.Cache(folder), np.array([0, 1])).all()


def test_damage_costs_the_rows_of_one_segment_and_a_put_heals_it(folder, caplog):
  cache = cache_lib.Cache(folder)
  put(cache, np.arange(10))
  [path] = segments(folder)
  put(cache, np.arange(10, 15))
  path.write_bytes(path.read_bytes()[:-1])
  found = known(cache, np.arange(15))
  assert found.tolist() == [False] * 10 + [True] * 5
  put(cache, np.flatnonzero(~found))
  assert known(cache, np.arange(15)).all()
  assert len(caplog.records) == 1


def test_only_the_blocks_of_rows_that_are_wanted_are_read(folder):
  put(cache_lib.Cache(folder), np.arange(300))
  [path] = segments(folder)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1  # in row 299
  path.write_bytes(data)
  few = np.array([5, 255, 64, 70, 5, 0])  # the last block starts at row 256
  assert known(cache_lib.Cache(folder), few).all()
  assert path.exists()
  assert not known(cache_lib.Cache(folder), np.array([5, 256])).any()
  assert not path.exists()


def test_a_row_that_a_larger_segment_has_is_not_read_again(folder, caplog):
  cache = cache_lib.Cache(folder)
  put(cache, np.arange(10))
  [small] = segments(folder)
  put(cache, np.arange(50))
  small.write_bytes(small.read_bytes()[:-1] + b'?')
  assert known(cache, np.arange(50)).all()
  assert known(cache, np.arange(51)).sum() == 50
  assert not caplog.records


def test_a_segment_of_another_key_is_not_believed(folder, caplog):
  put(cache_lib.Cache(folder), np.arange(3))
  [path] = segments(folder)
  other = cache_lib.key('e' * 64, None, 32)
  moved = folder / other[:2] / path.name.replace(KEY, other)
  moved.parent.mkdir(exist_ok=True)
  path.rename(moved)
  assert not known(cache_lib.Cache(folder), np.arange(3), other).any()
  assert 'is damaged' in caplog.text


def test_segments_that_disagree_on_the_features_are_all_dropped(folder, caplog):
  cache = cache_lib.Cache(folder)
  put(cache, np.arange(3))
  cache.put(KEY, DIGESTS[3:5], np.zeros((2, FEATURES + 1)))
  assert not known(cache, np.arange(5)).any()
  assert 'differ in their number of features' in caplog.text
  assert not segments(folder)


def test_damage_that_cannot_be_removed_is_warned_of_once(folder, caplog, monkeypatch):
  cache = cache_lib.Cache(folder)
  put(cache, np.arange(3))
  [path] = segments(folder)
  path.write_bytes(b'something else')
  monkeypatch.setattr(os, 'unlink', refuse(errno.EACCES))
  for _ in range(3):
    assert not known(cache, np.arange(3)).any()
  assert len(caplog.records) == 1
  assert path.exists()


# A disk that will not.


def refuse(number):
  def raise_it(*_, **__):
    raise OSError(number, os.strerror(number))
  return raise_it


@contextlib.contextmanager
def without_rights():
  """Root may write anywhere: become someone who may not."""
  if os.geteuid():
    yield
    return
  os.seteuid(NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


@pytest.fixture
def open_folder():
  """A folder that everybody may enter."""
  with tempfile.TemporaryDirectory() as name:
    os.chmod(name, 0o755)
    yield pathlib.Path(name)


def test_a_folder_that_may_only_be_read_is_read_and_warned_of_once(open_folder, caplog):
  put(cache_lib.Cache(open_folder), np.arange(3))
  for path in (open_folder, *open_folder.iterdir()):
    path.chmod(0o555)
  cache = cache_lib.Cache(open_folder)
  with without_rights():
    for images in (np.arange(5), np.arange(5, 9)):
      put(cache, images)
      put(cache, images, cache_lib.key('other', None, 32))
    assert known(cache, np.arange(5)).tolist() == [True] * 3 + [False] * 2
  [record] = caplog.records
  assert 'Permission denied' in record.message
  assert 'going on without' in record.message
  for path in (open_folder, *open_folder.iterdir()):
    path.chmod(0o755)


def test_segments_that_may_not_be_read_are_absent_and_warned_of_once(open_folder, caplog):
  cache = cache_lib.Cache(open_folder)
  put(cache, np.arange(3))
  put(cache, np.arange(3, 5))
  for path in segments(open_folder):
    path.chmod(0)
  with without_rights():
    assert not known(cache, np.arange(5)).any()
    assert not known(cache, np.arange(5)).any()
  assert len(caplog.records) == 1


def test_a_file_in_the_place_of_the_folder_is_warned_of_once(tmp_path, caplog):
  (tmp_path / 'file').write_text('mine')
  cache = cache_lib.Cache(tmp_path / 'file')
  for _ in range(2):
    assert not known(cache, np.arange(3)).any()
    put(cache, np.arange(3))
  assert len(caplog.records) == 1
  assert (tmp_path / 'file').read_text() == 'mine'


FILES_OF_AT_MOST_2000_BYTES = """
import resource, sys
import numpy as np
from selection import cache as cache_lib
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
cache = cache_lib.Cache(sys.argv[1])
digests = cache_lib.image_digests(
    np.random.default_rng(0).integers(0, 256, (100, 2, 2, 3), np.uint8))
rows = np.ones((100, 8), np.float32)
cache.put('ab', digests[:5], rows[:5])
for _ in range(3):
  cache.put('ab', digests, rows)
  found, _ = cache.get('ab', digests)
  assert found.tolist() == [True] * 5 + [False] * 95
"""


def test_a_write_that_fails_half_way_leaves_nothing_and_is_warned_of_once(folder):
  done = subprocess.run([sys.executable, '-c', FILES_OF_AT_MOST_2000_BYTES, str(folder)],
                        capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (0, '')
  [warning] = done.stderr.splitlines()
  assert 'File too large' in warning
  assert [path.name for path in folder.glob('*/*')] == [path.name for path in segments(folder)]


# Many segments become one.


def race(cache):
  """Asks for 600 images as racing does, ever more of them; what was missing each time."""
  missing = []
  for asked in (8, 16, 32, 64, 128, 256, 400, 500, 600):
    found = known(cache, np.arange(asked))
    missing.append(int((~found).sum()))
    put(cache, np.flatnonzero(~found))
  return missing


def test_a_growing_sample_never_costs_a_row_twice_and_leaves_few_segments(folder):
  cache = cache_lib.Cache(folder)
  assert race(cache) == [8, 8, 16, 32, 64, 128, 144, 100, 100]
  assert len(segments(folder)) <= cache_lib.FEW + 1
  assert known(cache, np.arange(600)).all()
  assert size(folder) <= segment_bytes(600) + 5 * 40


def test_overlapping_segments_merge_into_one_with_each_row_once(folder):
  # Each has an image that no other has, so a request for all needs them all.
  for first in range(0, 60, 10):
    put(cache_lib.Cache(folder), np.arange(first, first + 11))
  assert len(segments(folder)) == 6
  assert known(cache_lib.Cache(folder), np.arange(61)).all()
  [merged] = segments(folder)
  assert merged.stat().st_size == segment_bytes(61)
  assert known(cache_lib.Cache(folder), np.arange(60, -1, -1)).all()


def test_large_segments_are_left_alone(folder, monkeypatch):
  monkeypatch.setattr(cache_lib, 'SMALL', segment_bytes(10))
  for first in range(0, 80, 20):
    put(cache_lib.Cache(folder), np.arange(first, first + 20))
  large = segments(folder)
  for image in range(80, 85):
    put(cache_lib.Cache(folder), np.array([image]))
  assert known(cache_lib.Cache(folder), np.arange(85)).all()
  assert len(segments(folder)) == 5
  assert set(large) < set(segments(folder))


def before(monkeypatch, owner, name, event, call=1):
  """Lets something happen just before a function is called for the first or a later time."""
  function, calls = getattr(owner, name), []

  def first_that(*args, **kwargs):
    calls.append(name)
    if len(calls) == call:
      event()
    return function(*args, **kwargs)

  monkeypatch.setattr(owner, name, first_that)


def in_ten_segments(folder):
  for first in range(0, 100, 10):
    put(cache_lib.Cache(folder), np.arange(first, first + 10))


def test_merging_keeps_what_another_process_writes_meanwhile(folder, monkeypatch):
  in_ten_segments(folder)

  def another_process():
    put(cache_lib.Cache(folder), np.arange(90, 110))  # in part the same
    put(cache_lib.Cache(folder), np.arange(10))  # a part of what is being merged

  before(monkeypatch, atomic, 'writing', another_process)
  assert known(cache_lib.Cache(folder), np.arange(100)).all()
  assert known(cache_lib.Cache(folder), np.arange(110)).all()


def test_two_processes_may_merge_the_same_segments(folder, monkeypatch):
  in_ten_segments(folder)
  before(monkeypatch, atomic, 'writing',
         lambda: known(cache_lib.Cache(folder), np.arange(100)))
  assert known(cache_lib.Cache(folder), np.arange(100)).all()
  assert len(segments(folder)) == 1
  assert known(cache_lib.Cache(folder), np.arange(100)).all()


@pytest.mark.parametrize('call', [1, 2])
def test_rows_that_another_process_merges_while_they_are_looked_for_are_found(
    folder, monkeypatch, caplog, call):
  in_ten_segments(folder)
  before(monkeypatch, cache_lib, '_Segment',
         lambda: known(cache_lib.Cache(folder), np.arange(100)), call)
  assert known(cache_lib.Cache(folder), np.arange(100)).all()
  assert not caplog.records


def test_merging_a_merged_segment_with_its_own_parts_loses_nothing(folder, monkeypatch):
  starts = [0, 10, 19, 27, 34, 40, 45]  # ever smaller: that is the order of looking
  for first, end in itertools.pairwise(starts):
    put(cache_lib.Cache(folder), np.arange(first, end))
  by_size = sorted(segments(folder), key=os.path.getsize)

  def another_process_is_half_way_through_merging():
    put(cache_lib.Cache(folder), np.arange(45))
    by_size[0].unlink()

  before(monkeypatch, cache_lib, '_Segment', another_process_is_half_way_through_merging, 5)
  for _ in range(2):
    assert known(cache_lib.Cache(folder), np.arange(45)).all()
  assert len(segments(folder)) == 1


def test_segments_evicted_while_they_are_looked_for_are_no_error(folder, monkeypatch, caplog):
  in_ten_segments(folder)
  before(monkeypatch, cache_lib, '_Segment',
         lambda: [path.unlink() for path in segments(folder)])
  # One of them was open by then.
  assert known(cache_lib.Cache(folder), np.arange(100)).sum() == 10
  assert not caplog.records


def test_merging_on_a_full_disk_gives_the_rows_and_leaves_the_segments(
    folder, monkeypatch, caplog):
  in_ten_segments(folder)
  cache = cache_lib.Cache(folder)
  monkeypatch.setattr(os, 'fsync', refuse(errno.ENOSPC))
  for _ in range(2):
    assert known(cache, np.arange(100)).all()
  assert len(segments(folder)) == len(list(folder.glob('*/*'))) == 10
  [record] = caplog.records
  assert 'No space left on device' in record.message


# The bound.


def age(path, seconds):
  then = time.time() - seconds
  os.utime(path, (then, then))


def test_the_least_recently_used_goes_first(folder):
  keys = [cache_lib.key('f', expert, 32) for expert in range(5)]
  for i, key in enumerate(keys[:4]):
    put(cache_lib.Cache(folder), np.arange(50), key)
    [path] = folder.glob(f'??/{key}*')
    age(path, 1000 - i)
  assert known(cache_lib.Cache(folder), np.arange(50), keys[0]).all()  # the oldest is used
  put(cache_lib.Cache(folder, int(3.4 * segment_bytes(50))), np.arange(50), keys[4])
  left = [known(cache_lib.Cache(folder), np.arange(50), key).all() for key in keys]
  assert left == [True, False, False, True, True]


@hypothesis.given(st.lists(st.integers(1, 120), min_size=1, max_size=30))
@hypothesis.example([100, 120])
@hypothesis.settings(max_examples=10)
def test_after_a_put_the_folder_is_within_its_bound_and_has_what_was_put(numbers):
  bound = segment_bytes(120)
  with tempfile.TemporaryDirectory() as name:
    cache = cache_lib.Cache(name, bound)
    for expert, number in enumerate(numbers):
      key = cache_lib.key('f', expert, 32)
      put(cache, np.arange(number), key)
      assert size(pathlib.Path(name)) <= bound
      assert known(cache, np.arange(number), key).all()


def test_more_than_the_bound_at_once_is_not_kept_and_harms_no_other(folder, caplog):
  cache = cache_lib.Cache(folder, segment_bytes(50))
  put(cache, np.arange(40))
  for _ in range(2):
    put(cache, np.arange(51), cache_lib.key('other', None, 32))
  assert known(cache, np.arange(40)).all()
  assert len(segments(folder)) == len(caplog.records) == 1
  put(cache, np.arange(40, 44))
  assert known(cache, np.arange(44)).all()


def test_the_folder_is_not_measured_at_every_put(folder, monkeypatch):
  measured, listdir = [], os.listdir
  monkeypatch.setattr(os, 'listdir', lambda path: measured.append(path) or listdir(path))
  cache = cache_lib.Cache(folder, 100 * segment_bytes(1))
  for image in range(100):
    put(cache, np.array([image]))
  # At the first put, then after each tenth of the bound.
  assert 2 <= len(measured) <= 11
  assert known(cache, np.arange(100)).all()


def test_what_another_process_adds_is_evicted_too(folder):
  bound = 20 * segment_bytes(1)
  here, there = cache_lib.Cache(folder, bound), cache_lib.Cache(folder, bound)
  for image in range(50):
    put(here, np.array([image]))
    put(there, np.array([image + 300]))
    assert size(folder) <= 1.2 * bound


def test_stale_temporary_files_go_and_what_is_not_ours_stays(folder):
  put(cache_lib.Cache(folder), np.arange(3))
  [path] = segments(folder)
  left = [path.with_name(f'.{path.name}abc{i}') for i in range(2)]
  mine = [folder / 'notes.txt', path.with_name('notes.txt')]
  for other in (*left, *mine):
    other.write_bytes(b'a' * 5000)
  age(left[0], 25 * 3600)
  age(left[1], 23 * 3600)
  for other in (path, *mine):
    age(other, 10**7)
  put(cache_lib.Cache(folder, 4000), np.array([3]))
  assert [other.exists() for other in (*left, *mine)] == [False, True, True, True]
  assert known(cache_lib.Cache(folder), np.arange(4)).all()


# Several at once.


def use(folder, seed, turns, max_bytes=cache_lib.MAX_BYTES):
  """Asks for overlapping images and adds the missing ones, as rankings do."""
  random, cache = np.random.default_rng(seed), cache_lib.Cache(folder, max_bytes)
  keys = [cache_lib.key('f', expert, 32) for expert in range(2)]
  for _ in range(turns):
    key, first = keys[random.integers(2)], random.integers(0, 500)
    images = random.permutation(np.arange(first, first + random.integers(1, 100)))
    found = known(cache, images, key)
    put(cache, images[~found], key)


def start(*arguments):
  process = multiprocessing.get_context('spawn').Process(target=use, args=arguments)
  process.start()
  return process


@pytest.mark.parametrize('max_bytes', [cache_lib.MAX_BYTES, 3 * segment_bytes(100)])
def test_processes_that_read_write_merge_and_evict_at_once_read_right_rows(
    folder, max_bytes, capfd):
  processes = [start(folder, seed, 80, max_bytes) for seed in (0, 1)]
  for process in processes:
    process.join()
  assert [process.exitcode for process in processes] == [0, 0]
  assert capfd.readouterr().err == ''  # no warning either
  assert segments(folder)
  assert sorted(folder.glob('*/.*')) == []


def test_threads_may_share_a_cache(folder):
  cache, right = cache_lib.Cache(folder), []

  def work(first):
    for i in range(first, first + 100, 5):
      put(cache, np.arange(i, i + 10))
      right.append(known(cache, np.arange(i, i + 10)).all())

  threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert right == [True] * 60


def test_killed_writers_leave_a_cache_that_answers_rightly(folder, caplog):
  for attempt in range(2):
    process, written = start(folder, attempt, 10**6), len(segments(folder))
    while process.is_alive() and len(segments(folder)) == written:
      time.sleep(0.01)
    time.sleep(0.017 * attempt)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
  use(folder, 100, 20)
  assert not caplog.records


KILLED_BEFORE = """
import os, signal, sys
import numpy as np
from selection import cache as cache_lib
setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
images = np.zeros((1, 2, 2, 3), np.uint8)
cache_lib.Cache(sys.argv[1]).put(
    sys.argv[3], cache_lib.image_digests(images), np.zeros((1, 6), np.float32))
"""


@pytest.mark.parametrize('moment', ['fsync', 'replace'])
def test_what_a_killed_write_leaves_is_ignored_and_cleaned_a_day_later(folder, moment, caplog):
  done = subprocess.run([sys.executable, '-c', KILLED_BEFORE, str(folder), moment, KEY],
                        capture_output=True, check=False)
  assert done.returncode == -signal.SIGKILL
  [left] = folder.glob('*/.*')
  assert not known(cache_lib.Cache(folder), np.arange(3)).any()
  put(cache_lib.Cache(folder), np.arange(3))
  assert left.exists()
  age(left, 25 * 3600)
  put(cache_lib.Cache(folder), np.arange(3, 5))
  assert not left.exists()
  assert known(cache_lib.Cache(folder), np.arange(5)).all()
  assert not caplog.records
