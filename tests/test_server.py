"""zoo-hub serve: the stock client takes our modules from it, and nobody takes anything else."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from export import archives
from export import deprecation
from export import hub_serve
from export import manifest
from export import metadata
from export import server

IMAGES = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
COMPRESSED = '?tf-hub-format=compressed'


def _get(url, method='GET', **headers):
  """(status, headers, body) of a request that follows no redirect."""
  parts = urllib.parse.urlsplit(url)
  connection = http.client.HTTPConnection(parts.netloc, timeout=60)
  connection.request(method, urllib.parse.urlunsplit(('', '', *parts[2:])), headers={
      name.replace('_', '-'): value for name, value in headers.items()})
  answer = connection.getresponse()
  body = answer.read()
  connection.close()
  return answer.status, answer.headers, body


@pytest.fixture(scope='module')
def url(tiny_hub, tmp_path_factory):
  """A server of the tiny hub."""
  with server.running(tiny_hub, str(tmp_path_factory.mktemp('archives'))) as url:
    yield url


@pytest.fixture
def own(tiny_hub, tmp_path):
  """A server of a hub to change: (its URL, its root, its folder of archives)."""
  root, cache = tmp_path / 'hub', tmp_path / 'cache'
  shutil.copytree(tiny_hub, root)
  with server.running(str(root), str(cache)) as url:
    yield url, root, cache


# The clients.


def test_the_stock_client_loads_keeps_and_trains_a_module(tiny_hub, tmp_path, monkeypatch):
  import tensorflow_hub
  import tf_keras
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'kept'))
  with server.running(tiny_hub, str(tmp_path / 'archives')) as url:
    layer = tensorflow_hub.KerasLayer(f'{url}/test/expert/1', trainable=True)
    newest = tensorflow_hub.resolve(f'{url}/test/expert')  # redirected
  local = tensorflow_hub.KerasLayer(os.path.join(tiny_hub, 'test/expert/1'))
  np.testing.assert_array_equal(layer(IMAGES), local(IMAGES))
  assert metadata.read(newest)['name'] == 'expert'
  model = tf_keras.Sequential([layer, tf_keras.layers.Dense(2)])
  model.compile('sgd', 'mse')
  before = [weight.numpy() for weight in layer.trainable_weights]
  model.fit(IMAGES, np.ones((4, 2)), verbose=0)
  assert before
  assert all((old != new.numpy()).any() for old, new in zip(
      before, layer.trainable_weights, strict=True))
  kept = tensorflow_hub.resolve(f'{url}/test/expert/1')  # the server is gone
  assert metadata.fingerprint(kept) == metadata.fingerprint(
      os.path.join(tiny_hub, 'test/expert/1'))


def test_tensorflow_alone_loads_what_was_downloaded(url, tiny_hub, tmp_path):
  import tensorflow as tf
  urllib.request.urlretrieve(f'{url}/test/baseline{COMPRESSED}', tmp_path / 'a.tar.gz')
  archives.unpack(str(tmp_path / 'a.tar.gz'), str(tmp_path / 'module'))
  loaded = tf.saved_model.load(str(tmp_path / 'module'))
  wanted = tf.saved_model.load(os.path.join(tiny_hub, 'test/baseline/1'))
  np.testing.assert_array_equal(loaded(IMAGES), wanted(IMAGES))


def test_programs_read_what_is_there(url, tiny_hub):
  status, headers, body = _get(f'{url}/index.json')
  assert (status, headers['Content-Type']) == (200, 'application/json')
  entries = json.loads(body)['modules']
  assert [entry['handle'] for entry in entries] == [
      'test/baseline/1', 'test/expert/1', 'test/packed/1']
  described = metadata.read(os.path.join(tiny_hub, 'test/expert/1'))
  assert entries[1] == {
      'handle': 'test/expert/1', 'kind': 'expert', 'image_size': 16,
      'parameters': described['parameters'], 'fingerprint': described['fingerprint'],
      'deprecated': None, 'slice': 'circle', 'experts': [], 'upstream': 'made:1.0.0'}
  assert entries[2]['experts'] == ['circle', 'square']
  assert json.loads(_get(f'{url}/test/expert/1')[2]) == {
      'handle': 'test/expert/1', 'deprecated': None, **described}


# The protocol.


def test_a_client_that_has_the_archive_is_told_so(url):
  status, headers, _ = _get(f'{url}/test/expert/1{COMPRESSED}')
  assert status == 200
  assert headers['Cache-Control'] == 'public, max-age=31536000, immutable'
  etag = headers['ETag']
  assert etag.startswith('"' + json.loads(_get(f'{url}/test/expert/1')[2])['fingerprint'])
  for tag in (etag, f'"other", W/{etag}', '*'):
    status, headers, body = _get(f'{url}/test/expert/1{COMPRESSED}', If_None_Match=tag)
    assert (status, body, headers['ETag']) == (304, b'', etag)
  assert _get(f'{url}/test/expert/1{COMPRESSED}', If_None_Match='"other"')[0] == 200


def test_head_says_all_but_the_content(url):
  _, headers, body = _get(f'{url}/test/packed/1{COMPRESSED}')
  status, same, nothing = _get(f'{url}/test/packed/1{COMPRESSED}', 'HEAD', Range='bytes=0-1')
  assert (status, nothing) == (200, b'')
  for name in ('ETag', 'Content-Length', 'Content-Type', 'Accept-Ranges', 'Cache-Control'):
    assert headers[name] == same[name]
  assert int(same['Content-Length']) == len(body)


def test_a_transfer_goes_on_where_it_broke_off_even_at_another_server(url, tiny_hub, tmp_path):
  _, headers, whole = _get(f'{url}/test/expert/1{COMPRESSED}')
  etag = headers['ETag']
  with server.running(tiny_hub, str(tmp_path / 'archives')) as other:  # makes its own archive
    status, headers, rest = _get(f'{other}/test/expert/1{COMPRESSED}', Range='bytes=1000-',
                                 If_Range=etag)
  assert (status, whole[:1000] + rest) == (206, whole)
  assert headers['Content-Range'] == f'bytes 1000-{len(whole) - 1}/{len(whole)}'


@pytest.mark.parametrize(('asked', 'status', 'slice_'), [
    ({'Range': 'bytes=0-0'}, 206, slice(0, 1)),
    ({'Range': 'bytes=5-9'}, 206, slice(5, 10)),
    ({'Range': 'bytes=-7'}, 206, slice(-7, None)),
    ({'Range': 'bytes=9-99999999999'}, 206, slice(9, None)),
    ({'Range': 'bytes=0-1', 'If_Range': '"other"'}, 200, slice(None)),
    ({'Range': 'pages=0-1'}, 200, slice(None)),
    ({'Range': 'bytes=99999999999-'}, 416, slice(0)),
])
def test_ranges_are_those_of_the_archive(url, asked, status, slice_):
  whole = _get(f'{url}/test/baseline/1{COMPRESSED}')[2]
  answer = _get(f'{url}/test/baseline/1{COMPRESSED}', **asked)
  assert (answer[0], answer[2]) == (status, whole[slice_])
  if status == 416:
    assert answer[1]['Content-Range'] == f'bytes */{len(whole)}'


def test_a_name_without_version_leads_to_the_newest(own):
  url, root, _ = own
  for version in ('9', '10', '011x', '\u00b2'):
    shutil.copytree(root / 'test/expert/1', root / 'test/expert' / version)
  for query in ('', COMPRESSED):
    status, headers, _ = _get(f'{url}/test/expert{query}')
    assert (status, headers['Location']) == (302, f'/test/expert/10{query}')
  assert _get(f'{url}/test/none')[0] == 404


def test_a_deprecated_version_says_so_and_is_not_the_newest(own):
  url, root, _ = own
  shutil.copytree(root / 'test/expert/1', root / 'test/expert/2')
  for path in 'test/expert', 'test/expert/latest':
    assert _get(f'{url}/{path}')[1]['Location'] == '/test/expert/2'
  deprecation.deprecate(str(root), 'test/expert/2', 'worse than 1')
  for path in 'test/expert', 'test/expert/latest':
    assert _get(f'{url}/{path}')[1]['Location'] == '/test/expert/1'
  assert json.loads(_get(f'{url}/test/expert/2')[2])['deprecated'] == 'worse than 1'
  assert json.loads(_get(f'{url}/test/expert/1')[2])['deprecated'] is None
  listed = json.loads(_get(f'{url}/index.json')[2])['modules']
  assert {one['handle']: one['deprecated'] for one in listed if one['deprecated']} == {
      'test/expert/2': 'worse than 1'}
  assert b'worse than 1' in _get(f'{url}/test/expert/2/index.html')[2]


def test_a_page_of_the_web_cannot_read_it_by_naming_this_machine_its_own(url):
  for name in 'evil.example', 'localhost.evil.example', '', '127.0.0.1.evil.example:80':
    assert _get(f'{url}/index.json', Host=name)[0] == 400
  for name in 'localhost', 'LOCALHOST:8080', '127.0.0.1:1', '[::1]:8080':
    assert _get(f'{url}/index.json', Host=name)[0] == 200


def test_nothing_can_be_changed(url):
  for method in ('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'):
    for path in ('/', '/index.json', '/test/expert', '/test/expert/1'):
      status, headers, body = _get(url + path, method)
      assert (status, body) == (405, b'Method Not Allowed\n')
      assert sorted(headers['Allow'].split(', ')) == ['GET', 'HEAD']


def test_another_format_is_refused(url):
  status, _, body = _get(f'{url}/test/expert/1?tf-hub-format=uncompressed')
  assert (status, body) == (400, b"tf-hub-format='uncompressed' is not served; use compressed\n")


# A hub that lives.


def test_modules_published_meanwhile_appear(own, tiny_hub):
  url, root, _ = own
  assert _get(f'{url}/me/new/1{COMPRESSED}')[0] == 404
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), root / 'me/new/1')
  assert _get(f'{url}/me/new/1{COMPRESSED}')[0] == 200
  assert [entry['handle'] for entry in json.loads(_get(f'{url}/index.json')[2])['modules']] == [
      'me/new/1', 'test/baseline/1', 'test/expert/1', 'test/packed/1']
  shutil.rmtree(root / 'me')
  assert _get(f'{url}/me/new/1{COMPRESSED}')[0] == 404


def test_a_damaged_module_is_not_served_and_the_others_are(own):
  url, root, _ = own
  assert _get(f'{url}/test/expert/1{COMPRESSED}')[0] == 200
  whole = (root / 'test/expert/1/saved_model.pb').read_bytes()
  (root / 'test/expert/1/saved_model.pb').write_bytes(whole + b'x')
  for query in ('', COMPRESSED):
    status, _, body = _get(f'{url}/test/expert/1{query}')
    assert status == 503
    assert body.startswith(b'test/expert/1 is not served: module test/expert/1 is damaged')
    assert body.count(b'\n') == 1
  assert _get(f'{url}/test/baseline/1{COMPRESSED}')[0] == 200
  (root / 'test/expert/1/saved_model.pb').write_bytes(whole)
  assert _get(f'{url}/test/expert/1{COMPRESSED}')[0] == 200


@pytest.mark.parametrize('content', [
    '', '[]', '{"kind": "expert"}', lambda m: m.update(experts=5), lambda m: m.update(slice='x'),
    lambda m: m.update(parameters=float('nan')), lambda m: m.update(upstream=[1])])
def test_a_module_json_of_any_kind_hurts_only_its_own_module(own, content):
  url, root, _ = own
  path = root / 'test/expert/1/module.json'
  if callable(content):
    description = json.loads(path.read_text())
    content(description)
    content = json.dumps(description)
  path.write_text(content)
  entries = json.loads(_get(f'{url}/index.json')[2])['modules']
  assert [entry['handle'] for entry in entries] == ['test/baseline/1', 'test/packed/1']
  status, _, body = _get(f'{url}/test/expert/1')
  assert status in (200, 503)
  assert str(root).encode() not in body
  assert _get(f'{url}/test/packed/1{COMPRESSED}')[0] == 200


def test_a_changed_card_makes_another_archive_under_another_etag(own):
  url, root, _ = own
  _, first, before = _get(f'{url}/test/expert/1{COMPRESSED}')
  (root / 'test/expert/1/README.md').write_text('better')
  _, second, after = _get(f'{url}/test/expert/1{COMPRESSED}')
  assert before != after
  assert first['ETag'] != second['ETag']


def test_an_archive_is_made_once_for_all_who_ask_at_the_same_time(own, monkeypatch):
  url, _, cache = own
  made, arrived = [], threading.Event()
  pack = archives.pack

  def packing(path, target):
    made.append(path)
    arrived.wait(1)  # the others come meanwhile
    pack(path, target)

  monkeypatch.setattr(archives, 'pack', packing)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    asked = [pool.submit(_get, f'{url}/test/packed/1{COMPRESSED}') for _ in range(8)]
    assert _get(f'{url}/index.json')[0] == 200  # others are answered
    arrived.set()
    bodies = {answer.result()[2] for answer in asked}
  assert (len(bodies), len(made)) == (1, 1)
  assert len(os.listdir(cache)) == 1
  for _ in range(2):  # and it is kept
    assert _get(f'{url}/test/packed/1{COMPRESSED}')[2] in bodies
  assert len(made) == 1


def test_a_kept_archive_that_is_removed_is_made_again(own):
  url, _, cache = own
  first = _get(f'{url}/test/expert/1{COMPRESSED}')[2]
  shutil.rmtree(cache)
  assert _get(f'{url}/test/expert/1{COMPRESSED}')[2] == first


def test_an_archive_that_cannot_be_made_is_one_line(own):
  url, _, cache = own
  cache.write_text('no folder')
  status, _, body = _get(f'{url}/test/expert/1{COMPRESSED}')
  assert (status, body) == (503, b'test/expert/1 is not served: it cannot be packed\n')


def _with_a_large_module(tiny_hub, root):
  """A hub whose test/expert/1 is more than the buffers between server and client hold."""
  shutil.copytree(tiny_hub, root, dirs_exist_ok=True)
  (root / 'test/expert/1/assets').mkdir()
  (root / 'test/expert/1/assets/noise').write_bytes(np.random.default_rng(0).bytes(20_000_000))
  manifest.write(root / 'test/expert/1')
  return root


@contextlib.contextmanager
def _half_way(address):
  """A client that has got the beginning of test/expert/1 and takes no more."""
  with socket.create_connection((address.hostname, address.port)) as client:
    client.sendall(f'GET /test/expert/1{COMPRESSED} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
    assert client.recv(1000).startswith(b'HTTP/1.1 200 OK')
    yield client


def test_clients_that_go_away_do_no_harm(own, tiny_hub):
  url, root, _ = own
  _with_a_large_module(tiny_hub, root)
  for _ in range(5):
    with _half_way(urllib.parse.urlsplit(url)) as client:
      client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))  # a reset
  status, headers, body = _get(f'{url}/test/expert/1{COMPRESSED}')
  assert (status, len(body)) == (200, int(headers['Content-Length']))


# The gate.


@pytest.fixture(scope='module')
def gate(tiny_hub, tmp_path_factory):
  """Asks for a path as an HTTP server hands it on: (status, body), and what was opened."""
  top = tmp_path_factory.mktemp('top')
  root = top / 'hub'
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), top / 'secret/name/1')
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), root / 'test/expert/1')
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), root / 'test/leaky/1')
  (root / 'linked').symlink_to(top / 'secret')
  (root / 'test/name').symlink_to(top / 'secret/name')
  (root / 'test/expert/2').symlink_to(top / 'secret/name/1')
  (root / 'test/leaky/1/assets').symlink_to(top / 'secret')
  app = server.application(str(root), str(top / 'cache'))
  opened, loop = [], asyncio.new_event_loop()
  watching = True

  def audit(event, arguments):
    if watching and event in ('open', 'os.listdir', 'os.scandir') and (
        isinstance(arguments[0], str | bytes | os.PathLike)):
      opened.append(os.path.realpath(os.fsdecode(arguments[0])))

  def ask(path, query=b'tf-hub-format=compressed'):
    sent = []

    async def receive():
      return {'type': 'http.request', 'body': b'', 'more_body': False}

    async def send(message):
      sent.append(message)

    del opened[:]
    loop.run_until_complete(app(
        {'type': 'http', 'asgi': {'version': '3.0', 'spec_version': '2.4'}, 'method': 'GET',
         'path': path, 'query_string': query, 'headers': [], 'root_path': '',
         'scheme': 'http', 'server': ('127.0.0.1', 80), 'http_version': '1.1'}, receive, send))
    outside = [file for file in opened if file.startswith(str(top)) and not file.startswith(
        (str(root), str(top / 'cache')))]
    return sent[0]['status'], b''.join(message.get('body', b'') for message in sent), outside

  sys.addaudithook(audit)
  yield ask
  watching = False
  loop.run_until_complete(loop.shutdown_default_executor())
  loop.close()


def test_the_gate_lets_modules_through(gate):
  status, body, outside = gate('/test/expert/1')
  assert (status, body[:2], outside) == (200, b'\x1f\x8b', [])


_PIECES = st.sampled_from([
    '..', '.', '', '...', 'test', 'expert', 'name', 'leaky', 'linked', 'secret', 'hub', 'cache',
    '1', '2', '%2e%2e', '%2e', '%2f', '%2F..%2f', '%00', '%5c', '\\', '..\\', '%252e%252e', '~',
    'etc', 'passwd', 'saved_model.pb', 'module.json', 'assets', '%c0%ae', '%ff', 'é', '１',
    '\x00', '1%00', '1%0a', '1\n', 'file:', 'C:', ';', '1;x', '*', '1 ', 'x' * 300]) | st.text(
        max_size=4)
_PATHS = st.builds(lambda parts: '/' + '/'.join(parts), st.lists(_PIECES, min_size=1, max_size=6))


@settings(max_examples=400)
@given(_PATHS, st.booleans())
@example('/linked/name/1', True)
@example('/linked/name', True)
@example('/test/name', True)
@example('/test/name/1', True)
@example('/test/expert/2', True)
@example('/test/leaky/1', True)
@example('/../secret/name/1', True)
@example('/test/..%2f..%2fsecret%2fname/1', True)
def test_no_path_names_a_file_outside_of_the_root(gate, path, decoded):
  path = urllib.parse.unquote(path) if decoded else path  # servers decode once
  status, body, outside = gate(path)
  assert outside == []
  if path in ('/test/expert/1', '/test/expert'):
    assert status in (200, 302)
  elif path == '/test/leaky/1':
    assert (status, b'neither a file nor a folder' in body) == (503, True)
  elif path not in ('/', '/index.json', '/test/leaky'):
    assert status == 404
    assert body.count(b'\n') == 1


def test_links_are_not_listed(gate):
  status, body, outside = gate('/index.json')
  assert (status, outside) == (200, [])
  assert [entry['handle'] for entry in json.loads(body)['modules']] == ['test/expert/1']


@pytest.mark.parametrize('line', [
    '/../../../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '//etc/passwd', '/test/%00/1',
    '/test/expert/1%00', 'http://other/../1', '*', '/' + 'a' * 10_000, '/test/expert/\xff'])
def test_a_hostile_request_line_gets_an_answer_and_the_server_goes_on(url, line):
  address = urllib.parse.urlsplit(url)
  with socket.create_connection((address.hostname, address.port), timeout=60) as client:
    client.sendall(f'GET {line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'.encode())
    answer = b''
    while chunk := client.recv(1 << 16):
      answer += chunk
  assert answer.split(b' ')[1] in (b'400', b'404')
  assert b'root:' not in answer
  assert _get(f'{url}/index.json')[0] == 200


# The command.


def test_ctrl_c_ends_it_quietly_even_within_a_transfer(tiny_hub, tmp_path):
  hub = _with_a_large_module(tiny_hub, tmp_path / 'hub')
  root = pathlib.Path(server.__file__).parent.parent
  process = subprocess.Popen(
      [sys.executable, '-m', 'export.hub_main', 'serve', f'--root={hub}', '--port=0',
       f'--cache_dir={tmp_path / "archives"}'], cwd=root, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  try:
    line = process.stdout.readline()
    assert line.startswith(f'serving {hub} on http://127.0.0.1:')
    address = urllib.parse.urlsplit(line.split()[-1])
    with _half_way(address):
      process.send_signal(signal.SIGINT)
      out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, out, err) == (0, '', '')


def test_a_taken_port_and_a_missing_root_are_one_line(url, tiny_hub, console):
  port = urllib.parse.urlsplit(url).port
  code, out, err = console(hub_serve, f'--root={tiny_hub}', f'--port={port}')
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert f'--port={port} cannot be listened on' in err
  code, _, err = console(hub_serve, '--root=/no/such', '--port=0')
  assert (code, err) == (1, 'zoo-hub serve: --root=/no/such is not a folder.\n')
