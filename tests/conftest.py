"""What the tests share: tiny networks, a hub of them, folders of pictures.

A test that needs the prepared data sets of `../shared/tfds` skips where they are absent.
"""

import contextlib
import dataclasses
import http.server
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import hypothesis
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / 'shared' / 'tfds'
# A label tree of the digits, as JSON.
TREE = {'synsets': {
    'any': {'lemmas': ['any'], 'hypernyms': []},
    'low': {'lemmas': ['low number'], 'hypernyms': ['any']},
    'high': {'lemmas': ['high'], 'hypernyms': ['any']},
    **{str(i): {'lemmas': [str(i)], 'hypernyms': ['low' if i < 5 else 'high']}
       for i in range(10)}}}


def pytest_configure():
  """Lets hypothesis take its time, and gives each worker cores of its own: the threads of several
  TensorFlows wait for each other."""
  hypothesis.settings.register_profile(
      'patient', deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
  hypothesis.settings.load_profile('patient')
  worker = os.environ.get('PYTEST_XDIST_WORKER', '')
  if worker and hasattr(os, 'sched_setaffinity'):
    own = sorted(os.sched_getaffinity(0))[int(worker.removeprefix('gw'))::int(
        os.environ['PYTEST_XDIST_WORKER_COUNT'])]
    os.sched_setaffinity(0, own or os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  """Every test starts with no embeddings kept, and touches nobody's."""
  monkeypatch.setenv('EXPERT_ZOO_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture(scope='session')
def shared_tfds():
  """The folder of prepared TFDS data sets."""
  if not SHARED.is_dir():
    pytest.skip(f'{SHARED} is absent')
  return str(SHARED)


def run_alone(function, *arguments, **environment):
  """Runs a function of a test file in a process of its own, with strings as arguments."""
  file = pathlib.Path(function.__code__.co_filename).stem
  done = subprocess.run(
      [sys.executable, '-c', f'import {file}; {file}.{function.__name__}(*{arguments!r})'],
      env={**os.environ, **environment, 'PYTHONPATH': os.pathsep.join(sys.path)},
      capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def sparse_presets():
  """The presets tiny_vit and tiny_vmoe, the same with four experts in its last block."""
  from zoo import backbones
  from zoo import sparse
  from zoo import vit
  dense = vit.Architecture(8, 16, 2, 2, 16, 32, 'mean')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(backbones.PRESETS, 'tiny_vit', dense)
    patch.setitem(backbones.PRESETS, 'tiny_vmoe', dataclasses.replace(
        dense, sparse=sparse.SparseConfig((1,), 4)))
    yield


def tiny_architecture():
  """A network of three thousand parameters for 16-pixel images."""
  from zoo import backbones
  return backbones.Architecture((1, 1), 8, 'basic', 4, 'small', 2, 16)


def tiny_backbone(seed=0, experts=0):
  """A randomly initialised tiny network, with adapters that do something if `experts`."""
  from zoo import adapters
  from zoo import backbones
  config = adapters.AdapterConfig(4, experts=experts) if experts else None
  backbone = backbones.build(tiny_architecture(), config, seed=seed)
  random = np.random.default_rng(seed)
  for variable in backbone.variables:
    if variable.path.endswith('adapter/up'):
      variable.assign(random.normal(0, 0.3, variable.shape))
  return backbone


def tiny_description(kind, **more):
  """What module.json says of such a network, beside what follows from it."""
  scores = {'slice_top1': 0.5, 'baseline_slice_top1': 0.4, 'held_out_examples': 10}
  slice_ = {'name': 'circle', 'node': 'n1', 'classes': ['a', 'b'], 'examples': 20}
  description = {
      'kind': kind, 'preset': None, 'image_size': 16, 'slice': None, 'experts': None,
      'upstream': {'task': 'made', 'source': 'made:1.0.0', 'split': 'train'},
      'scores': None, 'cost': {'seconds': 1, 'images': 100}, 'command': ['made'], 'seed': 0,
      'licence': 'Apache-2.0', 'parent': None}
  if kind == 'baseline':
    description['scores'] = {'top1': 0.5, 'top5': 0.9, 'held_out_examples': 10}
  elif kind == 'expert':
    description |= {'slice': slice_, 'scores': scores}
  elif kind == 'packed':
    description['experts'] = [
        {'name': name, 'slice': {**slice_, 'name': name}, 'scores': scores,
         'cost': {'seconds': 1, 'images': 100}} for name in ('circle', 'square')]
  return description | more


@pytest.fixture(scope='session')
def tiny_hub(tmp_path_factory):
  """A hub of a baseline, a whole expert and two packed adapter experts. Do not change it."""
  from export import publish
  root = str(tmp_path_factory.mktemp('hub'))
  publish.publish(tiny_backbone(0), tiny_description('baseline'), root, 'test/baseline/1')
  publish.publish(tiny_backbone(1), tiny_description('expert'), root, 'test/expert/1')
  publish.publish(
      tiny_backbone(2, experts=2), tiny_description('packed'), root, 'test/packed/1')
  return root


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The folder of modules that are kept of other places."""
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'kept'))
  return tmp_path / 'kept'


def redescribe(path, change):
  """Publishes a module anew in its place, after `change(its module.json)`."""
  from export import manifest
  from zoo import atomic
  file = os.path.join(path, 'module.json')
  values = atomic.read_json(file)
  change(values)
  atomic.write_json(file, values)
  manifest.write(path)


def put_version(tiny_hub, root, version=1):
  """Publishes a version of the tiny expert elsewhere."""
  from export import hub
  from export import publish
  shutil.copytree(os.path.join(tiny_hub, 'test/expert/1'), 'copy', dirs_exist_ok=True)
  redescribe('copy', lambda m: m.update(version=version))
  return publish.publish_module(hub.resolve('./copy'), root)


def as_foreign(path):
  """Leaves of a module what a stranger would have written: its SavedModel."""
  for name in ('module.json', 'SHA256SUMS', 'README.md'):
    os.unlink(os.path.join(path, name))


def draw_shape(kind, random, size=20):
  """A picture [size, size, 3] of a bright 'square', 'cross' or 'stripes' on noise."""
  image = random.integers(0, 60, (size, size, 3))
  y, x = random.integers(3, size - 9, 2)
  color = random.integers(150, 255, 3)
  if kind == 'square':
    image[y:y + 6, x:x + 6] = color
  elif kind == 'cross':
    image[y + 2:y + 4, x:x + 6] = color
    image[y:y + 6, x + 2:x + 4] = color
  else:
    image[y % 3::3] = color
  return image.astype(np.uint8)


@pytest.fixture
def picture_folder(tmp_path):
  """A folder of 3 classes with 20 PNGs each."""
  random = np.random.default_rng(0)
  for kind in ('cross', 'square', 'stripes'):
    folder = tmp_path / 'pictures' / kind
    folder.mkdir(parents=True)
    for i in range(20):
      Image.fromarray(draw_shape(kind, random)).save(folder / f'{i}.png')
  return str(tmp_path / 'pictures')


@contextlib.contextmanager
def answering(answer):
  """A web server on loopback while the block runs; yields its address.

  Args:
    answer: called with the `http.server.BaseHTTPRequestHandler` of every request.
  """

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      answer(self)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_):
      pass

  class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
      if not isinstance(sys.exception(), ConnectionError):  # clients may go when they like
        super().handle_error(request, client_address)

  with Server(('127.0.0.1', 0), Handler) as listening:
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{listening.server_port}'
    listening.shutdown()
    thread.join()


def started(number, code, *arguments, **environment):
  """Processes that do the same at once: all are ready before the first goes on.

  Args:
    number: of processes.
    code: prints ready, reads a line, and prints what came of it.
    arguments, environment: of each process.

  Returns:
    A function that waits for them and gives the set of what they printed.
  """
  processes = [subprocess.Popen(
      [sys.executable, '-c', code, *arguments], cwd=ROOT, text=True, stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, env=os.environ | environment) for _ in range(number)]
  assert [process.stdout.readline() for process in processes] == ['ready\n'] * number
  for process in processes:
    process.stdin.write('\n')
    process.stdin.flush()
  return lambda: {process.communicate(timeout=60)[0].strip() for process in processes}


def forked(function, *arguments):
  """A process of its own that runs a function of a test file, and need not import Keras.

  Of one that has imported it and done nothing since: imports take seconds, forks do not.

  Returns:
    A started `multiprocessing.Process`.
  """
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['keras', 'pytest'])
  process = context.Process(
      target=_in_environment, args=(dict(os.environ), function, *arguments), daemon=True)
  process.start()
  return process


def _in_environment(environment, function, *arguments):
  """Calls a function in the environment of this test, not of the first that forked."""
  os.environ.clear()
  os.environ.update(environment)
  function(*arguments)


@pytest.fixture(scope='session')
def many_slices(tmp_path_factory):
  """Folder of the embedded zoo with an expert of every slice of CIFAR-100.

  Those that are not embedded are described, but have no graph; *plant* is worse than its
  baseline.
  """
  from export import card
  from export import hub
  from export import metadata
  from zoo import hierarchy
  from zoo import slices
  root = tmp_path_factory.mktemp('hub') / 'many slices'
  shutil.copytree(hub.EMBEDDED, root)
  model = metadata.read(str(root / 'zoo/cifar32-animal/2'))
  model.pop('fingerprint')
  tree = hierarchy.from_json(str(ROOT / 'zoo/trees/cifar100.json'))
  classes = metadata.read(str(root / 'zoo/cifar32-baseline/2'))['upstream']['classes']
  for one in slices.slices(tree, dict.fromkeys(classes, 500), 4000, 0.8):
    path = root / 'zoo' / f'cifar32-{one.name}' / '2'
    if not path.exists():
      path.mkdir(parents=True)
      (path / 'saved_model.pb').write_text(one.name)
      top1 = 0.6 if one.name == 'plant' else 0.75
      metadata.write(str(path), {
          **model, 'name': f'cifar32-{one.name}', 'slice': one.to_dict(),
          'scores': {**model['scores'], 'baseline_slice_top1': 0.7, 'slice_top1': top1}})
      card.write(str(path))
  return str(root)


@pytest.fixture
def console(capsys):
  """Runs a binary's main in this process: `console(module, '--flag=1')`.

  Returns (exit code, stdout, stderr).
  """
  from zoo import cli

  def run(module, *arguments):
    capsys.readouterr()
    code = cli.run(module.main, module.FLAGS, list(arguments), getattr(module, 'WORDS', ()))
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Every test runs in a folder of its own, where default work_dirs may be made."""
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  monkeypatch.setenv('TFDS_DATA_DIR', os.path.join(tmp_path, 'tfds'))


def shapes_task(train, test):
  """A task of 3 drawn shapes at 16 pixels, with so many examples to train and to test."""
  from zoo import tasks
  random = np.random.default_rng(0)
  kinds = ('cross', 'square', 'stripes')
  images = np.stack([draw_shape(kinds[i % 3], random, 16) for i in range(train + test)])
  labels = np.arange(train + test) % 3
  return tasks.from_arrays('shapes', kinds, train=(images[:train], labels[:train]),
                           test=(images[train:], labels[train:]))


def overflowing():
  """A model in float16, and batches of 4 of which one image overflows the first gradients.

  The initial loss scale, 2 ** 15, times the image's features, 100, times its share of the
  gradient, 1 / 8, is over 65504 until the scale has been halved three times.
  """
  import keras
  from zoo import batches
  model = keras.Sequential([
      keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Rescaling(100),
      keras.layers.Dense(2, kernel_initializer='zeros', use_bias=False, dtype='mixed_float16'),
      keras.layers.Activation('linear', dtype='float32')])
  model.classes = 2
  images = np.zeros((4, 2, 2, 3), np.uint8)
  images[3] = 255
  return model, batches.Batches(images, np.array([0, 1, 0, 1]), 4)
