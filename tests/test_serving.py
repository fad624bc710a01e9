"""The load on a server is what it says it is: nothing that goes wrong under it is missed."""

import random
import threading

import conftest

from benchmarks import load
from benchmarks import serving


def test_every_wrong_answer_is_an_error_and_every_right_one_a_request():
  answered, lock = {'right': 0, 'wrong': 0}, threading.Lock()

  def answer(handler):
    with lock:
      number = sum(answered.values())
      answered['right' if number % 4 == 0 else 'wrong'] += 1
    status = 500 if number % 4 == 1 else 200
    size = 3 if number % 4 == 2 else 2  # of what is said; the fourth breaks off
    handler.send_response(status)
    handler.send_header('Content-Length', str(size))
    handler.end_headers()
    handler.wfile.write(b'ab'[:1] if number % 4 == 3 else b'abc'[:size])

  with conftest.answering(answer) as url:
    found = load.load(url, [load.Ask('/a?b', 200, 2)], clients=3, seconds=0.5)
  assert (found['requests'], found['errors']) == (answered['right'], answered['wrong'])
  assert min(answered.values()) > 0
  assert found['error'].startswith('/a?b: ')
  assert 0 < found['p50_ms'] <= found['p99_ms']
  assert found['mb_per_second'] > 0


def test_a_server_that_is_not_there_is_an_error():
  with conftest.answering(None) as url:
    pass
  found = load.load(url, [load.Ask('/', 200, 2)], clients=2, seconds=0.1, processes=1)
  assert found['requests'] == 0 < found['errors']
  assert 'ConnectionRefusedError' in found['error']


def test_a_hub_serves_many_at_once_without_an_error_and_is_set_beside_nginx(tmp_path):
  for name in ('one', 'other'):
    module = tmp_path / 'hub' / 'me' / name / '1'
    module.mkdir(parents=True)
    (module / 'saved_model.pb').write_bytes(random.Random(name).randbytes(100_000))
  lines = list(serving.compare(str(tmp_path / 'hub'), clients=4, seconds=0.3))
  measured = [line for line in lines if 'requests' in line]
  assert [line['kind'] for line in measured if line['server'] == 'zoo-hub'] == list(serving.KINDS)
  for line in measured:
    assert line['errors'] == 0 < line['requests'], line
    assert line['modules'] == 2
    assert line['rss_peak_mib'] >= max(line['rss_mib']) > 0
  if 'skipped' not in lines[-1]:
    assert [line['kind'] for line in lines if line['server'] == 'zoo-hub to nginx'] == list(
        serving.KINDS)
