"""What is kept of other places: once, whole, what it says it is, and nothing outside of it."""

import os
import pathlib
import shutil

import pytest
from conftest import started
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from export import archives
from export import hub
from export import kept
from export import manifest
from export import metadata


class _Place:
  """A place of one module, which notes what is fetched and can fail.

  Attributes:
    contents: bytes by name.
    fetched: names, as they were asked for.
    breaks: names of files of which only half comes.
  """

  def __init__(self, path):
    self.contents = {name: (pathlib.Path(path) / name).read_bytes()
                     for name in [*manifest.read(path), manifest.FILE]}
    self.fetched, self.breaks, self.reachable = [], set(), True

  def look(self):
    if not self.reachable:
      raise ConnectionError('no route')
    return kept.Source({name: len(content) for name, content in self.contents.items()},
                       str(sorted(self.contents.items())), self.download)

  def download(self, name, path, work):
    del work
    self.fetched.append(name)
    content = self.contents[name]
    with open(path, 'ab') as file:
      file.write(content[file.tell():len(content) // 2 if name in self.breaks else None])


@pytest.fixture
def place(tiny_hub, here):
  return _Place(os.path.join(tiny_hub, 'test/expert/1'))


def _modules(here):
  return [path for path in (here / 'contents').glob('*') if path.is_dir()]


def test_a_module_is_fetched_once_and_is_then_what_it_was(place, tiny_hub):
  path = kept.module('x://m/1', True, place.look)
  assert metadata.read(path) == metadata.read(os.path.join(tiny_hub, 'test/expert/1'))
  assert sorted(place.fetched) == sorted(place.contents)
  place.reachable = False
  assert kept.module('x://m/1', True, place.look) == path
  hub.check(hub.Module('x://m/1', path, metadata.read(path)))


def test_the_same_module_of_two_places_is_kept_once(place, here):
  path = kept.module('x://m/1', True, place.look)
  place.fetched.clear()
  assert kept.module('y://m', False, place.look) == path
  assert place.fetched == [manifest.FILE]
  assert len(_modules(here)) == 1


def test_a_name_that_moves_is_looked_up_and_without_network_is_what_it_was(
    place, tiny_hub, caplog):
  first = kept.module('x://m', False, place.look)
  moved = _Place(os.path.join(tiny_hub, 'test/baseline/1'))
  second = kept.module('x://m', False, moved.look)
  assert first != second
  moved.reachable = False
  assert kept.module('x://m', False, moved.look) == second
  assert [record.getMessage() for record in caplog.records] == [
      'x://m: no route; taking what it was the last time.']
  with pytest.raises(ConnectionError, match='no route'):
    kept.module('x://never', False, moved.look)
  shutil.rmtree(second)
  with pytest.raises(ConnectionError, match='not kept any more'):
    kept.module('x://m', False, moved.look)


def test_what_broke_off_goes_on_with_what_is_missing(place, here):
  place.breaks = {'saved_model.pb'}
  with pytest.raises(OSError, match=r"'saved_model.pb' broke off after"):
    kept.module('x://m/1', True, place.look)
  assert [path.suffix for path in _modules(here)] == ['.part']
  place.breaks = set()
  before = set(place.fetched) - {'saved_model.pb', manifest.FILE}
  place.fetched.clear()
  assert metadata.read(kept.module('x://m/1', True, place.look))['name'] == 'expert'
  assert before and not before & set(place.fetched)
  assert [path.suffix for path in _modules(here)] == ['']


def test_a_byte_that_was_changed_on_the_way_is_refused_and_nothing_stays(place, here):
  name = 'variables/variables.index'
  whole = place.contents[name]
  place.contents[name] = whole[:-1] + bytes([whole[-1] ^ 1])
  with pytest.raises(ValueError, match=f"'{name}' was changed"):
    kept.module('x://m/1', True, place.look)
  assert not _modules(here)
  place.contents[name] = whole
  kept.module('x://m/1', True, place.look)


@pytest.mark.parametrize(('spoil', 'complaint'), [
    (lambda c: c.pop('saved_model.pb'), 'no saved_model.pb'),
    (lambda c: c.pop('variables/variables.index'), "'variables/variables.index' is missing"),
    (lambda c: c.update({manifest.FILE: b'x'}), 'damaged in line 1'),
    (lambda c: c.update({manifest.FILE: b'0' * (manifest.MOST + 1)}), 'more than 1,048,576 bytes'),
    (lambda c: c.update({'module.json': b'{'}), 'is not JSON'),
])
def test_what_is_no_module_is_named(place, here, spoil, complaint):
  spoil(place.contents)
  with pytest.raises(ValueError, match=complaint):
    kept.module('x://m/1', True, place.look)
  assert not _modules(here)


def test_no_more_is_fetched_than_the_limits(place):
  for limits in (archives.Limits(size=100), archives.Limits(members=2)):
    with pytest.raises(ValueError, match=r'it has more than|its files are more than'):
      kept.module('x://m/1', True, place.look, limits)
  assert set(place.fetched) == {manifest.FILE}


def test_a_place_that_sends_more_than_it_said_is_refused(place, here):
  source = place.look()
  source.files['module.json'] -= 1
  with pytest.raises(ValueError, match=r"'module.json' has more bytes"):
    kept.module('x://m/1', True, lambda: source)
  assert not _modules(here)


def test_of_a_strangers_place_only_the_saved_model_is_taken(place):
  for name in (manifest.FILE, 'module.json', 'README.md'):
    del place.contents[name]
  place.contents |= {'.gitattributes': b'x', 'model.safetensors': b'x' * 1000}
  path = kept.module('x://m/1', True, place.look)
  assert sorted(os.listdir(path)) == ['fingerprint.pb', 'saved_model.pb', 'variables']
  assert metadata.read(path)['kind'] == 'foreign'


_HOSTILE = st.lists(st.sampled_from(
    ['..', '.', '', 'variables', 'assets', 'a', 'A', 'saved_model.pb', 'C:', '~', 'x\\y', 'nul\0',
     'é', 'e\u0301', '/', '\n', 'SHA256SUMS', 'f' * 300]), min_size=1, max_size=5).map('/'.join)


@settings(max_examples=300)
@given(names=st.lists(_HOSTILE, min_size=1, max_size=4), listed=st.booleans())
def test_no_name_writes_outside_of_its_folder(tmp_path_factory, names, listed):
  around = tmp_path_factory.mktemp('around')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFHUB_CACHE_DIR', str(around / 'deep' / 'er' / 'kept'))
    place = _Place.__new__(_Place)
    place.contents = dict.fromkeys(names, b'hostile') | {'saved_model.pb': b'hostile'}
    place.fetched, place.breaks, place.reachable = [], set(), True
    if listed:
      place.contents[manifest.FILE] = ''.join(
          f'{"0" * 64}  {name}\n' for name in {*names, 'saved_model.pb'}).encode()
    try:
      path = kept.module('x://m/1', True, place.look)
      assert path.startswith(str(around / 'deep' / 'er' / 'kept' / 'contents'))
    except (ValueError, OSError) as error:
      assert len(str(error).splitlines()) == 1
  assert [path for path in around.rglob('*') if path.is_file()
          and not path.is_relative_to(around / 'deep' / 'er' / 'kept')] == []
  shutil.rmtree(around)


_ONE_OF_SEVERAL = """
import os, sys, time
from export import kept
module, log = sys.argv[1:]
files = {os.path.relpath(os.path.join(folder, name), module): os.path.getsize(
    os.path.join(folder, name)) for folder, _, names in os.walk(module) for name in names}
def download(name, path, work):
  with open(log, 'a') as file:
    file.write(name + '\\n')
  time.sleep(.05)
  with open(os.path.join(module, name), 'rb') as content, open(path, 'ab') as out:
    content.seek(out.tell())
    out.write(content.read())
print('ready', flush=True)
sys.stdin.readline()
print(kept.module('x://m/1', True, lambda: kept.Source(files, '', download)))
"""


def test_processes_that_want_the_same_get_one_download(tiny_hub, here, tmp_path):
  module, log = os.path.join(tiny_hub, 'test/expert/1'), tmp_path / 'log'
  paths = started(3, _ONE_OF_SEVERAL, module, str(log))()
  assert [str(path) for path in _modules(here)] == list(paths)
  fetched = log.read_text().splitlines()
  assert fetched.count('saved_model.pb') == fetched.count('variables/variables.index') == 1
