"""serving.py: a hub under load, beside nginx serving the same archives.

So many clients at once, each with one connection that it keeps, ask `zoo-hub serve` on the
loopback address for the archives of a hub's modules, over and over; then nginx (one process,
sendfile) for the very same files, in the cache folder of our server. The same is done for answers
without a body (304 to If-None-Match) and for /index.json, of which nginx has a file. Prints one
JSON line for each kind and server: requests, errors, rates, latencies, memory at the start, in the
middle and at the end, processors that the server and the clients kept busy; and one for each kind
with the ratios of ours to nginx. Only ratios of one run count, and where the clients keep all
processors busy that are left, the processor time a request says more than the rate. Fails if a
request does.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from absl import flags

from benchmarks import load
from export import hub
from zoo import cli

KINDS = ('archives', 'unchanged', 'index')
INDEX = '/index.json'
FORMAT = 'tf-hub-format=compressed'
SAMPLE = 0.2  # seconds between two looks at the memory
NGINX = '''\
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; }}
}}
'''


@contextlib.contextmanager
def ours(root, cache):
  """Runs `zoo-hub serve` in a process of its own; yields its URL and its process id."""
  command = [sys.executable, '-m', 'export.hub_main', 'serve', f'--root={root}', '--port=0',
             f'--cache_dir={cache}']
  with _ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
    line = process.stdout.readline()
    if not line:
      raise ValueError('zoo-hub serve did not start.')
    yield line.split()[-1], process.pid


@contextlib.contextmanager
def nginx(root):
  """Runs nginx on a folder; yields its URL and its process id, or None where there is none."""
  program = shutil.which('nginx') or shutil.which('nginx', path='/usr/sbin:/usr/local/sbin')
  if not program:
    yield None
    return
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'nginx.conf')
    with open(path, 'w', encoding='utf-8') as file:
      file.write(NGINX.format(folder=folder, port=port, root=os.path.abspath(root)))
    command = [program, '-p', folder, '-e', 'stderr', '-c', path]
    with _ended(subprocess.Popen(command)) as process:
      url = f'http://127.0.0.1:{port}'
      _wait(url, process)
      yield url, process.pid


@contextlib.contextmanager
def _ended(process):
  """Ends a process with the block."""
  try:
    yield process
  finally:
    process.send_signal(signal.SIGTERM)
    try:
      process.wait(10)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    if process.stdout:
      process.stdout.close()


def _wait(url, process):
  """Waits until a server answers."""
  for _ in range(200):
    with contextlib.suppress(OSError):
      fetch(url, '/')
      return
    if process.poll() is not None:
      break
    time.sleep(0.05)
  raise ValueError(f'nginx did not start (exit code {process.poll()}).')


def fetch(url, path, headers=None):
  """(status, headers, content) of one answer."""
  connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
  with contextlib.closing(connection):
    connection.request('GET', path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def asked_of_us(url):
  """What clients ask our server for, and the file that each archive is kept in.

  Args:
    url: of the server, which thereby packs all archives.

  Returns:
    A dict from kind to a list of `load.Ask`, and a dict from the path of an archive to the name of
    its file in the cache folder.
  """
  _, _, index = fetch(url, INDEX)
  found = {kind: [] for kind in KINDS}
  found['index'].append(load.Ask(INDEX, 200, len(index)))
  files = {}
  for module in json.loads(index)['modules']:
    path = f'/{module["handle"]}?{FORMAT}'
    status, headers, content = fetch(url, path)
    if status != 200:
      raise ValueError(f'{url}{path} answers {status}: {content.decode(errors="replace")}')
    files[path] = f'{headers["ETag"].strip(chr(34))}.tar.gz'
    found['archives'].append(load.Ask(path, 200, len(content)))
    found['unchanged'].append(load.Ask(path, 304, 0, {'If-None-Match': headers['ETag']}))
  return found, files


def asked_of_nginx(url, asks, files, cache):
  """The same of nginx, which serves the cache folder; /index.json is in it by then.

  Raises:
    ValueError: an archive has other bytes there.
  """
  found = {'index': asks['index'], 'archives': [], 'unchanged': []}
  for ask in asks['archives']:
    path = f'/{files[ask.path]}'
    _, headers, content = fetch(url, path)
    with open(cache + path, 'rb') as file:
      same = hashlib.file_digest(file, 'sha256').digest() == hashlib.sha256(content).digest()
    if not same or len(content) != ask.size:
      raise ValueError(f'nginx serves other bytes than {cache}{path}.')
    found['archives'].append(load.Ask(path, 200, len(content)))
    found['unchanged'].append(load.Ask(path, 304, 0, {'If-None-Match': headers['ETag']}))
  return found


def measure(url, process_id, asks, clients, seconds):
  """Loads a server and watches its process.

  Args:
    url, asks, clients, seconds: as of `load.load`.
    process_id: of the server.

  Returns:
    What `load.load` returns, and rss_mib (before, in the middle, at the end), rss_peak_mib,
    server_cpu (processors that it kept busy) and cpu_ms_per_request (of its processor time).
  """
  import psutil
  process = psutil.Process(process_id)
  memory, over = [process.memory_info().rss / 2 ** 20], threading.Event()

  def watch():
    while not over.wait(SAMPLE):
      memory.append(process.memory_info().rss / 2 ** 20)

  watcher = threading.Thread(target=watch)
  watcher.start()
  before = sum(process.cpu_times()[:2])
  try:
    found = load.load(url, asks, clients, seconds)
  finally:
    over.set()
    watcher.join()
  busy = sum(process.cpu_times()[:2]) - before
  return _rounded(found | {
      'rss_mib': [memory[0], memory[len(memory) // 2], memory[-1]],
      'rss_peak_mib': max(memory), 'server_cpu': busy / found['took'],
      'cpu_ms_per_request': 1e3 * busy / found['requests'] if found['requests'] else None})


def _rounded(values):
  """A dict with its numbers to four digits."""
  def rounded(value):
    return float(f'{value:.4g}') if isinstance(value, float) else value
  return {key: [rounded(one) for one in value] if isinstance(value, list) else rounded(value)
          for key, value in values.items()}


def compare(root, clients, seconds, kinds=KINDS):
  """Loads our server with each kind of request, and nginx with the same.

  Args:
    root: folder of the hub.
    clients, seconds: as of `load.load`.
    kinds: of `KINDS`.

  Yields:
    JSON-like dicts: of each kind and server, and of each kind the ratios.
  """
  with tempfile.TemporaryDirectory() as cache:
    lines = {}
    with ours(root, cache) as (url, process_id):
      asks, files = asked_of_us(url)
      with open(cache + INDEX, 'wb') as file:
        file.write(fetch(url, INDEX)[2])
      for kind in kinds:
        line = measure(url, process_id, asks[kind], clients, seconds)
        lines[kind] = line
        yield {'kind': kind, 'server': 'zoo-hub', 'clients': clients, 'seconds': seconds,
               'modules': len(files), **line}
    with nginx(cache) as running:
      if running is None:
        yield {'skipped': 'there is no nginx here to set it beside'}
        return
      asks = asked_of_nginx(running[0], asks, files, cache)
      for kind in kinds:
        line = measure(*running, asks[kind], clients, seconds)
        yield {'kind': kind, 'server': 'nginx', 'clients': clients, 'seconds': seconds,
               'modules': len(files), **line}
        yield {'kind': kind, 'server': 'zoo-hub to nginx', **_rounded({
            key: lines[kind][key] / line[key] for key in
            ('per_second', 'p50_ms', 'p99_ms', 'cpu_ms_per_request')
            if lines[kind][key] and line[key]})}


FLAGS = cli.new_flags()
flags.DEFINE_string('root', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_integer('clients', 50, 'At once.', lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float('seconds', 30, 'Of each load.', flag_values=FLAGS)
flags.DEFINE_multi_enum('kinds', list(KINDS), KINDS, 'Of requests.', flag_values=FLAGS)


def main(values, command):
  del command
  errors = 0
  for line in compare(values.root, values.clients, values.seconds, values.kinds):
    errors += line.get('errors', 0)
    print(json.dumps(line), flush=True)
  if errors:
    raise ValueError(f'{errors} requests were not answered as they should be.')


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
