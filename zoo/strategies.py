"""Distribution strategies by name, on one device, one machine or several.

They are TensorFlow's, or `zoo.jax_devices` where Keras' backend is JAX. Several processes of one
run read TF_CONFIG (https://www.tensorflow.org/guide/distributed_training), share the work
directory, and take the same flags.
"""

import contextlib
import functools
import itertools
import json
import os
import socket
import time

SECONDS_TO_COME = 300  # for the workers of a run to find each other
SECONDS_TO_PART = 60  # for workers that have all come to a barrier to say so
KINDS = ('default', 'one_device:DEVICE', 'mirrored', 'multi_worker', 'tpu:NAME')


def make(name='default', seconds=SECONDS_TO_COME):
  """A `tf.distribute.Strategy`; for 'multi_worker' the first use of TensorFlow in the process.

  Args:
    name: 'default' (the one device that TensorFlow takes by itself), 'one_device:GPU:0',
      'mirrored' (all GPUs of this machine, or all its logical CPUs where there is none),
      'multi_worker' (the processes that TF_CONFIG names) or 'tpu:NAME' ('tpu:local' on its
      own machine).
    seconds: how long to wait for the other workers, or the TPU.

  Raises:
    ValueError: the name or TF_CONFIG is wrong, or there is no such device.
    TimeoutError: a worker did not come.
  """
  if _on_jax():
    from zoo import jax_devices
    return jax_devices.make(name)
  import tensorflow as tf
  kind, _, rest = name.partition(':')
  if kind not in (one.partition(':')[0] for one in KINDS) or (
      bool(rest) != (kind in ('one_device', 'tpu'))):
    raise ValueError(f'--strategy={name} is none of {", ".join(KINDS)}.')
  if kind == 'default':
    return tf.distribute.get_strategy()
  if kind == 'multi_worker':
    meet(*_cluster(os.environ.get('TF_CONFIG')), seconds)
    try:
      return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
      raise ValueError(f'--strategy=multi_worker must be made before TensorFlow is used: {error}'
                       ) from None
  if kind == 'mirrored':
    return tf.distribute.MirroredStrategy()
  if kind == 'one_device':
    devices = [device.name.removeprefix('/device:')
               for device in tf.config.list_logical_devices()]
    if rest not in devices:
      raise ValueError(f'--strategy={name}: there is no device {rest}; there are '
                       f'{", ".join(devices)}.')
    return tf.distribute.OneDeviceStrategy(f'/device:{rest}')
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=rest)
    for job in resolver.cluster_spec().as_dict().values():
      for address in job:  # where nobody listens, TensorFlow would wait for ever
        _connection(address, seconds).close()
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except Exception as error:  # whatever the resolver, the network and the runtime raise
    raise ValueError(f'--strategy={name}: no TPU answers there ({type(error).__name__}: '
                     f'{str(error).strip().splitlines()[0] if str(error).strip() else ""}).'
                     ) from None
  return tf.distribute.TPUStrategy(resolver)


def current():
  """The strategy in whose scope this is."""
  if _on_jax():
    from zoo import jax_devices
    return jax_devices.current()
  import tensorflow as tf
  return tf.distribute.get_strategy()


def _on_jax():
  import keras
  return keras.backend.backend() == 'jax'


def is_chief(strategy):
  """Whether this process writes the files of the run: it does if it is the only one."""
  resolver = strategy.cluster_resolver
  if resolver is None or resolver.task_type not in ('chief', 'worker'):
    return True
  has_chief = 'chief' in resolver.cluster_spec().jobs
  return resolver.task_type == 'chief' or (not has_chief and resolver.task_id == 0)


def processes(strategy):
  """How many processes train together."""
  return max(getattr(strategy.extended, '_num_workers', 1), 1)


def of_all(strategy, numbers):
  """Tells every process the numbers of all; each must call it, with as many numbers.

  Args:
    strategy: that of the run.
    numbers: a list of K floats.

  Returns:
    float32 [R, K], those of the process of each replica; [1, K] where there is one process.
  """
  import numpy as np
  own = np.array([numbers], np.float32)
  return own if processes(strategy) == 1 else _gathering(strategy)(own).numpy()


@functools.lru_cache
def _gathering(strategy):
  """Compiled once: without, every call would take as long as compiling does."""
  import tensorflow as tf

  @tf.function(input_signature=[tf.TensorSpec([1, None], tf.float32)])
  def gather(own):
    return strategy.gather(strategy.run(lambda: own), axis=0)

  return gather


def barrier(strategy):
  """Returns when every process of the run has come here, so that any of them may then end."""
  of_all(strategy, [0.])
  if processes(strategy) > 1:
    _part(strategy)


_partings = itertools.count()  # how many this process has been through


def _part(strategy):
  """Returns when no process needs another any more for what all have exchanged.

  One that has been told everything may still owe numbers to one that has not, which would fail
  if it ended. So each says that it has been told, to the service that the first one keeps; and
  the first one, which must outlive that service's last answer, stays until the others leave.
  """
  import tensorflow as tf
  from tensorflow.python.eager import context  # the service has no public interface
  resolver, number = strategy.cluster_resolver, next(_partings)
  cluster = resolver.cluster_spec()
  everybody = [(job, index) for job in cluster.jobs for index in range(cluster.num_tasks(job))]
  own = resolver.task_type, resolver.task_id

  def say(what):
    context.context().set_config_key_value(f'zoo/{number}/{own[0]}/{own[1]}/{what}', 'yes')

  def hear(what):
    for job, index in everybody:
      if (job, index) != own:
        context.context().get_config_key_value(
            f'zoo/{number}/{job}/{index}/{what}', 1000 * SECONDS_TO_PART)

  say('told')
  hear('told')
  if is_chief(strategy):
    hear('leaves')
  else:
    with contextlib.suppress(tf.errors.OpError):  # heard, by one that ended before it answered
      say('leaves')


def to_replicas(strategy, array):
  """Cuts an array [B, ...] into as many equal parts as there are replicas, in order."""
  import tensorflow as tf

  def part(context):
    size = len(array) // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * size
    return tf.constant(array[first:first + size])

  return strategy.experimental_distribute_values_from_function(part)


def _cluster(text):
  """(addresses, own index) of TF_CONFIG; the chief comes first."""
  example = ('{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
             '"task": {"type": "worker", "index": 0}}')
  if not text:
    raise ValueError(f'--strategy=multi_worker needs the environment variable TF_CONFIG, such as '
                     f'{example}.')
  try:
    config = json.loads(text)
    cluster, task = config['cluster'], (config['task']['type'], int(config['task']['index']))
    tasks = [(job, i) for job in ('chief', 'worker') for i in range(len(cluster.get(job, ())))]
    addresses = [cluster[job][i] for job, i in tasks]
    for address in addresses:
      host, _, port = address.rpartition(':')
      if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f'{address!r} is no host:port')
    if task not in tasks:
      raise ValueError(f'task {task[0]} {task[1]} is not in the cluster')
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    what = f'no {error}' if isinstance(error, KeyError) else str(error)
    raise ValueError(f'TF_CONFIG is wrong ({what}); it looks like {example}.') from None
  return addresses, tasks.index(task)


def meet(addresses, own, seconds):
  """Waits until all workers are there: TensorFlow itself waits for ever, deaf to signals.

  The first listens on the port that TensorFlow is going to use; the others say who they are
  there, and all go on when it has heard every one.

  Args:
    addresses: host:port of every worker.
    own: which one this is.
    seconds: how long to wait.

  Raises:
    ValueError: the own port is in use.
    TimeoutError: a worker did not come; the first one's message says which.
  """
  until = time.monotonic() + seconds
  with _listening(addresses[own]) as server:
    if own == 0:
      _gather(server, addresses, until, seconds)
      return
  while True:
    try:
      with _connection(addresses[0], 1) as line:
        line.sendall(_greeting(own))
        line.settimeout(seconds + 1)  # by then the first has given up, having started before
        if line.recv(1) == b'+':
          return
    except OSError:
      pass
    if time.monotonic() > until:
      raise TimeoutError(f'the first worker, at {addresses[0]}, did not come or missed another '
                         f'one for {seconds} s: start all workers of TF_CONFIG together.')
    time.sleep(0.2)


def _connection(address, seconds):
  host, _, port = address.rpartition(':')
  return socket.create_connection((host, int(port)), seconds)


def _listening(address):
  """A socket on the port of an own address, where TensorFlow would fail less clearly."""
  port = int(address.rpartition(':')[2])
  try:
    return socket.create_server(('', port))
  except OSError as error:
    raise ValueError(f'TF_CONFIG: port {port} of this worker cannot be used '
                     f'({os.strerror(error.errno)}): name another.') from None


def _greeting(index):
  return b'zoo worker' + index.to_bytes(4, 'big')


def _gather(server, addresses, until, seconds):
  """Hears the greetings of all others, whatever else comes to the port, and lets them go."""
  others = {_greeting(i): f'{i} at {address}' for i, address in enumerate(addresses) if i}
  came = {}  # the latest connection of each
  with contextlib.ExitStack() as lines:
    while len(came) < len(others):
      server.settimeout(max(until - time.monotonic(), 0.01))
      try:
        line = lines.enter_context(server.accept()[0])
        line.settimeout(1)
        greeting = line.recv(len(_greeting(0)))
        if greeting in others:
          came[greeting] = line
      except OSError:
        pass  # nobody came, or somebody who says nothing
      came = {greeting: line for greeting, line in came.items() if _open(line)}
      if len(came) < len(others) and time.monotonic() > until:
        missing = [other for greeting, other in others.items() if greeting not in came]
        raise TimeoutError(f'after {seconds} s there is no worker {", ".join(missing)}: start '
                           'all workers of TF_CONFIG together, with the same flags.')
    for line in came.values():
      line.sendall(b'+')


def _open(line):
  """Whether the other side, which has said all it has to say, is still there."""
  line.setblocking(False)
  try:
    line.recv(1)
    return False
  except BlockingIOError:
    return True
  except OSError:
    return False
