"""SHA256SUMS: every file of a module is what was published, no more and no less."""

import hashlib
import os
import pathlib
import shutil
import subprocess

import hypothesis
import pytest
from conftest import as_foreign
from hypothesis import strategies as st

from export import hub
from export import manifest
from zoo import digests


@pytest.fixture
def module(tiny_hub, tmp_path):
  """The folder of a module, to be spoilt."""
  return pathlib.Path(shutil.copytree(f'{tiny_hub}/test/expert/1', tmp_path / 'expert'))


def _check(path):
  hub.check(hub.resolve(str(path)))


def test_every_file_is_listed_with_its_digest(module):
  files = {str(path.relative_to(module)): hashlib.sha256(path.read_bytes()).hexdigest()
           for path in module.rglob('*') if path.is_file()}
  del files['SHA256SUMS']
  assert manifest.read(module) == files
  assert {'saved_model.pb', 'variables/variables.index', 'module.json', 'README.md'} < set(files)


@pytest.mark.skipif(not shutil.which('sha256sum'), reason='sha256sum is not here')
def test_sha256sum_reads_it(module):
  subprocess.run(['sha256sum', '--check', '--strict', 'SHA256SUMS'], cwd=module, check=True)
  (module / 'README.md').write_text('Better than all others.')
  again = subprocess.run(['sha256sum', '--check', 'SHA256SUMS'], cwd=module, check=False)
  assert again.returncode == 1


def test_a_file_that_was_changed_lost_or_added_is_named(module):
  _check(module)
  card = (module / 'README.md').read_text()
  (module / 'README.md').write_text(card.replace('50.0%', '90.0%'))
  with pytest.raises(ValueError, match=r"is damaged: 'README.md' was changed"):
    _check(module)
  (module / 'README.md').unlink()
  with pytest.raises(ValueError, match=r"is damaged: 'README.md' is missing"):
    _check(module)
  (module / 'README.md').write_text(card)
  (module / 'variables' / 'more').touch()
  with pytest.raises(ValueError, match="is damaged: 'variables/more' is not in SHA256SUMS"):
    _check(module)


@hypothesis.given(name=st.sampled_from(['saved_model.pb', 'variables/variables.index']),
                  at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@hypothesis.settings(max_examples=50,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_no_bit_can_flip_unseen(module, name, at, bit):
  before = (module / name).read_bytes()
  after = bytearray(before)
  after[int(at * len(after))] ^= 1 << bit
  (module / name).write_bytes(after)
  with pytest.raises(ValueError, match=f"'{name}' was changed"):
    _check(module)
  (module / name).write_bytes(before)
  _check(module)


def test_a_link_is_not_followed(module, tmp_path):
  shutil.move(module / 'README.md', tmp_path / 'elsewhere')
  (module / 'README.md').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match='neither a file nor a folder'):
    _check(module)


def test_a_module_of_others_needs_no_manifest(module):
  as_foreign(module)
  _check(module)


_LINES = st.one_of(
    st.text(), st.binary().map(lambda b: b.decode('latin-1')),
    st.tuples(st.text('0123456789abcdefABCDEF', min_size=60, max_size=66), st.sampled_from(
        ['  ', ' *', ' ', '\t']), st.one_of(st.text(), st.sampled_from(
            ['/etc/passwd', '../other/1/module.json', 'saved_model.pb', '..', '', '.', '/', '~',
             'variables', 'a\\b', 'C:x', 'README.md/..'])), ).map(''.join))


@hypothesis.given(st.lists(_LINES, max_size=4), st.booleans(), st.sampled_from(['\n', '\r\n', '']))
@hypothesis.settings(max_examples=400,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_no_hostile_list_passes_or_has_a_file_opened_elsewhere(module, monkeypatch, lines, keep,
                                                              end):
  whole = (module / 'SHA256SUMS').read_bytes()
  text = ''.join(line + end for line in lines)
  content = (whole.decode() if keep else '') + text
  spoilt = content.encode(errors='surrogatepass')
  opened = []
  digest = digests.of_file
  monkeypatch.setattr(digests, 'of_file', lambda path: (opened.append(path), digest(path))[1])
  (module / 'SHA256SUMS').write_bytes(spoilt)
  try:
    if spoilt != whole:
      with pytest.raises(ValueError) as caught:
        _check(module)
      assert '\n' not in str(caught.value)
    inside = os.path.realpath(module) + os.sep
    assert all(os.path.realpath(path).startswith(inside) for path in opened)
  finally:
    (module / 'SHA256SUMS').write_bytes(whole)
    monkeypatch.undo()
