"""Many clients that ask an HTTP server for what it should answer, and count what is wrong.

Clients are threads of a few processes, each with a connection that it keeps, of the standard
library: what they read goes into a buffer that is there already, and most of their time is spent
in the kernel, so that two cores can ask a quick server for more than it has. `generator_cpu` of
the result says whether they could have asked for more.
"""

import array
import concurrent.futures
import dataclasses
import http.client
import multiprocessing
import random
import threading
import time
import urllib.parse

BUFFER = 1 << 20
TIMEOUT = 60  # seconds without a byte are an error


@dataclasses.dataclass(frozen=True)
class Ask:
  """What a client asks for, and what it should get.

  Attributes:
    path: with the query.
    headers: dict.
    status, size: of the right answer; its bytes without headers.
  """
  path: str
  status: int
  size: int
  headers: dict = dataclasses.field(default_factory=dict)


def load(url, asks, clients, seconds, processes=2):
  """Asks a server by many clients at once, each one thing after the other.

  Args:
    url: of the server, 'http://host:port'.
    asks: a list of `Ask`; each client goes through them in an order of its own, again and again.
    clients: how many.
    seconds: after which none begins anything.
    processes: that they are shared among.

  Returns:
    A dict: requests that were answered as they should be, errors and the first of them as `error`
    (None if there is none), per_second and mb_per_second of the requests that were, p50_ms and
    p99_ms from the request's first byte to the answer's last, took (seconds until the last was
    answered), generator_cpu (processors that the clients kept busy).
  """
  import numpy as np
  shares = [clients // processes + (i < clients % processes) for i in range(processes)]
  context = multiprocessing.get_context('spawn')  # nothing of this process is theirs
  together = context.Barrier(processes)  # to start one takes a while, and nobody goes ahead
  with concurrent.futures.ProcessPoolExecutor(processes, context, together.wait) as pool:
    futures = [pool.submit(_process, url, asks, share, seconds, seed)
               for seed, share in enumerate(shares)]
    parts = [future.result() for future in futures]
  took = max(part['end'] for part in parts) - min(part['start'] for part in parts)
  latencies = np.concatenate([part['latencies'] for part in parts])
  p50, p99 = np.percentile(latencies, (50, 99)) if len(latencies) else (None, None)
  return {
      'requests': len(latencies), 'errors': sum(part['errors'] for part in parts),
      'error': next((part['error'] for part in parts if part['error']), None),
      'per_second': len(latencies) / took,
      'mb_per_second': sum(part['bytes'] for part in parts) / took / 1e6,
      'p50_ms': p50 and 1e3 * p50, 'p99_ms': p99 and 1e3 * p99,
      'took': took, 'generator_cpu': sum(part['cpu'] for part in parts) / took}


def _process(url, asks, clients, seconds, seed):
  """The clients of one process; what they saw, as a dict."""
  found = {'latencies': array.array('d'), 'bytes': 0, 'errors': 0, 'error': None}
  lock = threading.Lock()
  start, busy = time.time(), time.process_time()
  threads = [threading.Thread(target=_client, args=(
      url, asks, start + seconds, random.Random(f'{seed} {number}'), found, lock))
      for number in range(clients)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found | {'cpu': time.process_time() - busy, 'start': start, 'end': time.time()}


def _client(url, asks, end, order, found, lock):
  """One client, until it is time."""
  connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=TIMEOUT)
  buffer = memoryview(bytearray(BUFFER))
  asks = order.sample(asks, len(asks))
  while time.time() < end:
    for ask in asks:
      if time.time() >= end:
        break
      begin = time.perf_counter()
      wrong = _ask(connection, ask, buffer)
      latency = time.perf_counter() - begin
      with lock:
        if wrong:
          found['errors'] += 1
          found['error'] = found['error'] or f'{ask.path}: {wrong}'
        else:
          found['latencies'].append(latency)
          found['bytes'] += ask.size
  connection.close()


def _ask(connection, ask, buffer):
  """Asks once: what is wrong with the answer, or None."""
  try:
    connection.request('GET', ask.path, headers=ask.headers)
    response = connection.getresponse()
    size = 0
    while read := response.readinto(buffer):
      size += read
    if (response.status, size) == (ask.status, ask.size):
      return None
    return f'status {response.status} and {size} bytes'
  except (OSError, http.client.HTTPException) as error:
    connection.close()  # the next request opens it again
    return f'{type(error).__name__}: {error}'
