"""Fetching: one download for all, resumed where it broke off, kept only if it is whole."""

import io
import os
import pathlib
import re
import shutil
import tarfile
import threading

import pytest
from conftest import answering
from conftest import started

from export import archives
from export import fetch
from export import hub
from export import metadata
from export import server


class _Web:
  """A server of one archive that can break off.

  Attributes:
    content, etag: what it sends; etag None for a server without.
    breaks: bytes after which the next answer breaks off; None for none.
    asked: the Range of each request, None for none.
    wait: an Event that answers wait for.
  """

  def __init__(self, content):
    self.content, self.etag, self.breaks, self.asked = content, '"1"', None, []
    self.wait = threading.Event()
    self.wait.set()

  def answer(self, handler):
    asked, breaks = handler.headers['Range'], self.breaks
    self.asked.append(asked)
    self.breaks = None
    self.wait.wait(60)
    at = 0
    if asked and self.etag and handler.headers['If-Range'] == self.etag:
      at = int(re.fullmatch(r'bytes=(\d+)-', asked)[1])
      if at >= len(self.content):
        handler.send_error(416)
        return
      handler.send_response(206)
      handler.send_header('Content-Range', f'bytes {at}-{len(self.content) - 1}/*')
    else:
      handler.send_response(200)
    if self.etag:
      handler.send_header('ETag', self.etag)
    handler.send_header('Content-Length', len(self.content) - at)
    handler.end_headers()
    handler.wfile.write(self.content[at:][:breaks])


@pytest.fixture
def web(tiny_hub, tmp_path):
  """(URL, `_Web`) of the tiny expert."""
  archives.pack(os.path.join(tiny_hub, 'test/expert/1'), str(tmp_path / 'whole.tar.gz'))
  web = _Web((tmp_path / 'whole.tar.gz').read_bytes())
  with answering(web.answer) as address:
    yield f'{address}/me/m/1', web


def _leftovers(here):
  """What is in the folder beside modules and locks."""
  return [name for name in os.listdir(here)
          if not re.fullmatch(r'[0-9a-f]{40}(\.fetching)?', name)]


def test_a_module_of_our_server_is_fetched_once_and_then_works_without_it(
    tiny_hub, tmp_path, here):
  with server.running(tiny_hub, str(tmp_path / 'archives')) as url:
    module = hub.resolve(f'{url}/test/expert')
  assert hub.resolve(f'{url}/test/expert') == module
  assert module.metadata == metadata.read(os.path.join(tiny_hub, 'test/expert/1'))
  hub.check(module)
  assert not _leftovers(here)


def test_it_is_kept_where_the_stock_client_keeps_it(web, here):
  import tensorflow_hub
  url, served = web
  path = fetch.fetch(url)
  assert tensorflow_hub.resolve(url) == path
  shutil.rmtree(path)
  assert tensorflow_hub.resolve(url) == fetch.fetch(url)
  assert len(served.asked) == 2


def test_a_transfer_that_breaks_off_leaves_no_module_and_goes_on_the_next_time(web, here):
  url, served = web
  for sent in (1000, 500):
    served.breaks = sent
    with pytest.raises(OSError, match='broke off after'):
      fetch.fetch(url)
    assert not [name for name in os.listdir(here) if re.fullmatch('[0-9a-f]{40}', name)]
  assert metadata.read(fetch.fetch(url))['name'] == 'expert'
  assert served.asked == [None, 'bytes=1000-', 'bytes=1500-']
  assert not _leftovers(here)


def test_without_an_etag_or_with_another_one_a_transfer_starts_anew(web, here):
  url, served = web
  served.etag, served.breaks = None, 1000
  with pytest.raises(OSError, match='broke off'):
    fetch.fetch(url)
  assert not _leftovers(here)
  served.etag, served.breaks = '"1"', 1000
  with pytest.raises(OSError, match='broke off'):
    fetch.fetch(url)
  served.etag = '"2"'  # the module is another one by now
  assert metadata.read(fetch.fetch(url))['name'] == 'expert'
  assert served.asked == [None, None, 'bytes=1000-']


def test_a_whole_part_that_was_not_unpacked_is_fetched_anew(web, here):
  url, served = web
  served.breaks = 1000
  with pytest.raises(OSError, match='broke off'):
    fetch.fetch(url)
  part, = here.glob('*.part')
  part.write_bytes(served.content)  # killed between the last byte and the folder
  assert metadata.read(fetch.fetch(url))['name'] == 'expert'
  assert served.asked == [None, f'bytes={len(served.content)}-', None]


def test_processes_that_want_the_same_get_one_download(web, here):
  url, served = web
  served.wait.clear()
  said = started(3, 'from export import fetch; print("ready", flush=True); input(); '
                 f'print(fetch.fetch({url!r}))')
  served.wait.set()  # no download has ended before all have begun
  paths = said()
  assert len(paths) == 1
  assert metadata.read(paths.pop())['name'] == 'expert'
  assert len(served.asked) == 1


def _spoilt(served, spoil):
  """The archive of the module after `spoil(its folder)`."""
  folder = pathlib.Path('spoilt').absolute()
  folder.mkdir()
  (folder / 'a').write_bytes(served.content)
  archives.unpack(str(folder / 'a'), str(folder / 'm'))
  spoil(folder / 'm')
  archives.pack(str(folder / 'm'), str(folder / 'b'))
  return (folder / 'b').read_bytes()


@pytest.mark.parametrize(('spoil', 'reason'), [
    (lambda m: (m / 'saved_model.pb').write_bytes(b'x'), "'saved_model.pb' was changed"),
    (lambda m: (m / 'saved_model.pb').unlink(), "'saved_model.pb' is missing"),
    (lambda m: (m / 'more').touch(), "'more' is not in SHA256SUMS"),
    (lambda m: ((m / 'SHA256SUMS').unlink(), (m / 'saved_model.pb').write_bytes(b'x')),
     'not those that module.json descr'),
    (lambda m: (m / 'module.json').write_text('{}'), 'module.json lacks'),
    (lambda m: (m / 'module.json').write_text('{'), 'is not JSON'),
])
def test_what_is_not_the_module_it_says_is_never_kept(web, here, spoil, reason):
  url, served = web
  whole, served.content = served.content, _spoilt(served, spoil)
  with pytest.raises(ValueError, match=f'could not be fetched .*{reason}'):
    hub.resolve(url)
  assert sorted(name.split('.')[-1] for name in os.listdir(here)) == ['fetching']
  served.content = whole
  assert hub.resolve(url).kind == 'expert'


def test_an_archive_that_is_refused_or_too_large_leaves_nothing(web, here):
  url, served = web
  with pytest.raises(ValueError, match=r'it is more than 100 bytes'):
    fetch.fetch(url, archives.Limits(size=100))
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as tar:
    tar.addfile(tarfile.TarInfo('../stolen'))
  served.content = content.getvalue()
  with pytest.raises(archives.RefusedError, match='leaves the folder'):
    fetch.fetch(url)
  assert sorted(name.split('.')[-1] for name in os.listdir(here)) == ['fetching']
