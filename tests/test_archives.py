"""Archives: ours are reproducible, those of strangers write nowhere but in their own folder."""

import errno
import gzip
import io
import itertools
import os
import pathlib
import random
import shutil
import tarfile
import tempfile

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from export import archives


def _module(path):
  """Files such as a module has."""
  (path / 'variables').mkdir(parents=True)
  (path / 'saved_model.pb').write_bytes(b'graph' * 500)
  (path / 'variables/variables.index').write_bytes(b'')
  (path / 'variables/variables.data-00000-of-00001').write_bytes(random.Random(0).randbytes(5000))
  (path / 'assets').mkdir()
  (path / 'assets/größe.txt').write_text('x' * 512)
  return path


def _content(path):
  return {str(file.relative_to(path)): file.read_bytes() if file.is_file() else None
          for file in path.rglob('*')}


def _tar(path, members, zipped=True):
  """Writes an archive of (TarInfo or name, bytes)."""
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w') as tar:
    for name, data in members:
      member = tarfile.TarInfo(name) if isinstance(name, str) else name
      if data:
        member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  path.write_bytes(gzip.compress(content.getvalue(), 1) if zipped else content.getvalue())
  return str(path)


def _special(name, kind, link=''):
  member = tarfile.TarInfo(name)
  member.type, member.linkname = kind, link
  return member


def test_equal_files_make_equal_archives_whoever_wrote_them_and_when(tmp_path):
  first = _module(tmp_path / 'first')
  archives.pack(str(first), str(tmp_path / 'a.tar.gz'))
  second = tmp_path / 'second'
  for name in sorted(_content(first), reverse=True):  # made in another order
    (second / name).parent.mkdir(parents=True, exist_ok=True)
    if (first / name).is_file():
      shutil.copyfile(first / name, second / name)
      os.utime(second / name, (5, 5))
      (second / name).chmod(0o600)
  archives.pack(str(second), str(tmp_path / 'b.tar.gz'))
  assert (tmp_path / 'a.tar.gz').read_bytes() == (tmp_path / 'b.tar.gz').read_bytes()
  with tarfile.open(tmp_path / 'a.tar.gz') as tar:
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, '', '')}


def test_what_was_packed_comes_out_as_it_was(tmp_path):
  module = _module(tmp_path / 'module')
  archives.pack(str(module), str(tmp_path / 'a.tar.gz'))
  archives.unpack(str(tmp_path / 'a.tar.gz'), str(tmp_path / 'out'))
  assert _content(tmp_path / 'out') == _content(module)


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_tools_are_read(tmp_path, mode, form):
  module = _module(tmp_path / 'module')
  with tarfile.open(tmp_path / 'a', mode, format=form,
                    pax_headers={'comment': 'a commit'} if form == tarfile.PAX_FORMAT else None
                    ) as tar:
    tar.add(module, '.')
  archives.unpack(str(tmp_path / 'a'), str(tmp_path / 'out'))
  assert _content(tmp_path / 'out') == _content(module)


@pytest.mark.parametrize('bring_in', [
    lambda path, secret: os.symlink(secret, path), lambda path, _: os.mkfifo(path),
    lambda path, secret: os.symlink(os.path.dirname(secret), path)])
def test_a_module_with_a_link_is_not_packed(tmp_path, bring_in):
  module = _module(tmp_path / 'module')
  (tmp_path / 'secret').write_text('secret')
  bring_in(module / 'assets/more', tmp_path / 'secret')
  with pytest.raises(ValueError, match='more is neither a file nor a folder'):
    archives.pack(str(module), str(tmp_path / 'a.tar.gz'))
  assert sorted(os.listdir(tmp_path)) == ['here', 'module', 'secret']


@pytest.mark.parametrize(('members', 'reason'), [
    ([('../stolen', b'x')], 'leaves the folder'),
    ([('a/../../stolen', b'x')], 'leaves the folder'),
    ([('/stolen', b'x')], 'leaves the folder'),
    ([('a\\..\\stolen', b'x')], 'not one that every system can have'),
    ([('C:stolen', b'x')], 'not one that every system can have'),
    ([('a\nb', b'x')], 'not one that every system can have'),
    ([('a/' * 20 + 'b', b'x')], 'not one that every system can have'),
    ([('a' * 300, b'x')], 'not one that every system can have'),
    ([('a\udcff', b'x')], 'is not UTF-8'),
    ([(_special('variables', tarfile.SYMTYPE, '/tmp'), b'')], "'variables' is a symbolic link"),
    ([('a', b'x'), (_special('b', tarfile.LNKTYPE, 'a'), b'')], "'b' is a hard link"),
    ([(_special('a', tarfile.CHRTYPE), b'')], "'a' is a device"),
    ([(_special('a', tarfile.BLKTYPE), b'')], "'a' is a device"),
    ([(_special('a', tarfile.FIFOTYPE), b'')], "'a' is a pipe"),
    ([(_special('a', b'Z'), b'')], "'a' is a special file"),
    ([('a', b'x'), ('a', b'y')], "'a' is there twice"),
    ([('a', b'x'), ('./a', b'y')], "is there twice"),
    ([('a', b'x'), ('A', b'y')], "'A' is there twice"),
    ([('é', b'x'), ('e\u0301', b'y')], 'is there twice'),
    ([('a', b'x'), ('a/b', b'y')], "'a/b' is below a file"),
    ([('a/b', b'x'), ('a', b'y')], "'a' is there twice"),
    ([(str(i), b'') for i in range(11)], 'more than 10 files and folders'),
    ([('a', bytes(600)), ('b', bytes(600))], 'more than 1,000 bytes'),
])
def test_what_no_module_needs_is_refused_in_one_line_and_leaves_nothing(
    tmp_path, members, reason):
  archive = _tar(tmp_path / 'a.tar.gz', members)
  with pytest.raises(archives.RefusedError, match=reason) as refused:
    archives.unpack(archive, str(tmp_path / 'out/1'), archives.Limits(10, 1000))
  assert str(refused.value).startswith(f'{archive} is refused: ')
  assert '\n' not in str(refused.value)
  assert sorted(os.listdir(tmp_path)) == ['a.tar.gz', 'here']


def test_exactly_as_much_as_the_limits_is_allowed(tmp_path):
  archive = _tar(tmp_path / 'a.tar.gz', [(str(i), bytes(100)) for i in range(10)])
  archives.unpack(archive, str(tmp_path / 'out'), archives.Limits(10, 1000))
  assert len(os.listdir(tmp_path / 'out')) == 10


@pytest.mark.parametrize('kind', [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize('size', [1 << 33, 1 << 17, -512])
def test_a_header_cannot_fill_the_memory(tmp_path, kind, size):
  header = tarfile.TarInfo('x')
  header.type, header.size = kind, size
  header = header.tobuf(tarfile.GNU_FORMAT)
  (tmp_path / 'a.tar.gz').write_bytes(gzip.compress(header + bytes(1 << 20)))
  with pytest.raises(archives.RefusedError, match='a header has more than 65,536 bytes'):
    archives.unpack(str(tmp_path / 'a.tar.gz'), str(tmp_path / 'out'))


def test_a_chain_of_headers_and_headers_for_all_members_end(tmp_path):
  chain = tarfile.TarInfo('x').create_pax_header({**tarfile.TarInfo('x').get_info(), 'mtime': 0.5},
                                                 'utf-8')[:-512]
  (tmp_path / 'a').write_bytes(chain * 1000)
  with pytest.raises(archives.RefusedError, match='a header has more than'):
    archives.unpack(str(tmp_path / 'a'), str(tmp_path / 'out'))
  with tarfile.open(tmp_path / 'b', 'w', pax_headers={str(i): 'x' for i in range(100)}) as tar:
    tar.addfile(tarfile.TarInfo('a'))
  with pytest.raises(archives.RefusedError, match='headers hold for all'):
    archives.unpack(str(tmp_path / 'b'), str(tmp_path / 'out'))


@pytest.mark.parametrize(('behind', 'reason'), [
    (b'#!/bin/sh' + bytes(503), 'something stands behind its end'),
    (bytes(1 << 21), 'something stands behind its end')])
def test_nothing_but_padding_stands_behind_the_end(tmp_path, behind, reason):
  archive = _tar(tmp_path / 'a', [('a', b'x')], zipped=False)
  with open(archive, 'ab') as file:
    file.write(behind)
  with pytest.raises(archives.RefusedError, match=reason):
    archives.unpack(archive, str(tmp_path / 'out'))


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
  archive = pathlib.Path(_tar(tmp_path / 'a', [('a', b'x'), ('b', b'y')], zipped=False))
  content = bytearray(archive.read_bytes())
  content[1024 + 150] ^= 1  # in the checksum of b
  archive.write_bytes(content)
  with pytest.raises(archives.RefusedError, match='a header is damaged'):
    archives.unpack(str(archive), str(tmp_path / 'out'))


@settings(max_examples=60)
@given(st.data())
def test_an_archive_cut_or_changed_anywhere_is_refused(data):
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    archives.pack(str(_module(folder / 'module')), str(folder / 'a'))
    whole = bytearray((folder / 'a').read_bytes())
    place = data.draw(st.integers(10, len(whole) - 1))  # behind gzip's header
    if data.draw(st.booleans()):
      del whole[place:]
    else:
      whole[place] ^= data.draw(st.integers(1, 255))
    (folder / 'a').write_bytes(whole)
    with pytest.raises(archives.RefusedError):
      archives.unpack(str(folder / 'a'), str(folder / 'out'))
    assert sorted(os.listdir(folder)) == ['a', 'module']


_PARTS = ['..', '.', '', 'a', 'b', 'B', 'out', 'stolen', 'kept', '...', '~', '\t', 'C:', '\\',
          '..\\', 'é', 'e\u0301', '\udc80', '\u202e', 'n' * 100, 'n' * 300]
_NAMES = [*['a', 'b', 'c/d'] * 300, *('/'.join(parts) for count in (1, 2, 3)
                                      for parts in itertools.product(_PARTS, repeat=count))]
_KINDS = [
    *[tarfile.REGTYPE] * 12, *[tarfile.DIRTYPE] * 3, tarfile.AREGTYPE, tarfile.LNKTYPE,
    tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE,
    tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
    tarfile.XGLTYPE, b'Z']
_SIZES = [*[0, 1, 40, 512, 600] * 3, -1, 1 << 20, 1 << 40]  # some are more than there is
_PAX = [*[{}] * 60, *({key: value} for key, value in itertools.product(
    ['path', 'size', 'linkpath', 'mtime', 'uid', 'GNU.sparse.map', 'GNU.sparse.major',
     'GNU.sparse.size', 'hdrcharset', 'SCHILY.x'],
    ['../stolen', '/stolen', '-1', '1e999', '99999999999', '0,1', 'BINARY', '1', '0', 'nan']))]
_MEMBERS = st.tuples(*map(st.sampled_from, (_NAMES, _KINDS, _NAMES, _SIZES, _PAX)))


@st.composite
def _hostile(draw):
  """The bytes of an archive that means ill."""
  content = b''
  for name, kind, link, size, pax in draw(st.lists(_MEMBERS, min_size=1, max_size=4)):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.pax_headers = kind, link, size, pax
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    content += member.tobuf(form, 'utf-8', 'surrogateescape')
    content += bytes(-(-max(0, min(size, 600)) // 512) * 512)
  content = bytearray(content + bytes(1024))
  if draw(st.integers(0, 3)) == 0:
    content[draw(st.integers(0, 2000)) % len(content)] = draw(st.integers(0, 255))
  return gzip.compress(bytes(content), 1) if draw(st.booleans()) else bytes(content)


@settings(max_examples=500)
@given(_hostile())
def test_no_archive_writes_outside_of_its_folder(content):
  with tempfile.TemporaryDirectory() as name:
    top = pathlib.Path(name)
    (top / 'x/hub').mkdir(parents=True)
    (top / 'kept').write_text('kept')
    (top / 'x/a').write_bytes(content)
    try:
      archives.unpack(str(top / 'x/a'), str(top / 'x/hub/out'), archives.Limits(4, 1 << 16))
    except archives.RefusedError as error:
      assert '\n' not in str(error)
      assert not os.listdir(top / 'x/hub')
    else:
      inside = list((top / 'x/hub/out').rglob('*'))
      assert all((path.is_file() or path.is_dir()) and not path.is_symlink() for path in inside)
      shutil.rmtree(top / 'x/hub/out')
    assert _content(top) == {'kept': b'kept', 'x': None, 'x/hub': None, 'x/a': content}


def test_a_full_disk_is_not_called_the_archives_fault(tmp_path, monkeypatch):
  archive = _tar(tmp_path / 'a.tar.gz', [('a', b'x')])

  def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    archives.unpack(archive, str(tmp_path / 'out'))
  assert sorted(os.listdir(tmp_path)) == ['a.tar.gz', 'here']
