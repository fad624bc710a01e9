"""Ranking beyond one machine: the experts of a hub as an Apache Beam pipeline.

An element of the pipeline is a unit: a module, or some of the experts of a packed one. Workers
find the examples in the work directory and write there what each unit gives, as soon as it is
known and under a name that says everything it depends on. So a run that was killed goes on, a
second one computes only what is new, and nothing has to come back through the runner.

Needs the extra `beam`. Workers need this package, the modules under the paths that they have
here, and the work directory. Each of their threads holds networks of its own.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import threading
import uuid

import numpy as np

from export import foreign
from selection import cache as cache_lib
from selection import embeddings
from selection import proxies
from selection import race
from selection import ranking
from zoo import atomic
from zoo import cli
from zoo import progress as progress_lib
from zoo import tasks

try:
  import apache_beam as beam
  from apache_beam.io import filesystems
  from apache_beam.options import pipeline_options
  from apache_beam.runners import runner as runner_lib
except ImportError as failure:
  raise ImportError('Apache Beam, on which --runner runs, cannot be imported '
                    f"({failure}): pip install 'expert-zoo[beam]'.") from failure

logger = logging.getLogger(__name__)

FORMAT = 1  # of what is kept; a new one forgets all
DONE, FAILED = '.json', '.failed.json'  # what a unit gave; FAILED if any of it is dropped
READERS = 16  # files read at once: where the work directory is far, each takes its time
SECONDS_BETWEEN_LOOKS = 2  # for what the workers have written


class Workers:
  """Workers of a Beam runner, which score candidates.

  Args:
    runner: Beam's name of the runner: 'DirectRunner' for this machine, 'DataflowRunner',
      'FlinkRunner', 'SparkRunner'.
    work_dir: folder that this process and all workers read and write, of any file system
      that Beam knows (gs:// with apache-beam[gcp]). Serves any number of rankings.
    beam_args: options of Beam and of the runner, as on a command line.

  Raises:
    ValueError: the runner, the file system or an option is not known.
  """

  def __init__(self, runner, work_dir, beam_args=()):
    self._options = _options(beam_args)
    filesystems.FileSystems.set_options(self._options)
    self._runner = runner_lib.create_runner(runner)
    self._work_dir = os.path.abspath(work_dir) if _is_local(work_dir) else work_dir
    self._folder = filesystems.FileSystems.join(self._work_dir, 'experts')

  def entries(self, found, drawn, settings, cache='', trust=False):
    """Scores every candidate on all examples, as `selection.ranking.score` does.

    Args:
      found: a list of `selection.candidates.Candidate`.
      drawn: a `selection.ranking.Sample`.
      settings: arguments of `selection.proxies.make`, by name.
      cache: folder of the workers' machines where they keep embeddings, as in
        `selection.cache.opened`.
      trust: as in `export.hub.check`.

    Returns:
      A list of `selection.ranking.Entry`, in the order of `found`. Those that were in the
      work directory took 0 seconds; those that had failed are tried again.

    Raises:
      RuntimeError: the pipeline failed; what was done until then is kept.
      OSError: the work directory cannot be used.
    """
    digests = {size: tasks.Examples(images, drawn.labels).digest()
               for size, images in drawn.images.items()}
    units = [(_name(unit, digests, settings, trust), unit) for unit in embeddings.units(found)]
    kept = self._read({name for name, _ in units}, DONE)
    missing = {name: unit for name, unit in units if name not in kept}
    if kept:
      logger.info('%d of %d experts are in %s already.',
                  sum(len(unit) for name, unit in units if name in kept), len(found),
                  self._work_dir)
    if missing:
      images = {size: self._share(drawn.images[size], digests[size])
                for size in {unit[0].image_size for unit in missing.values()}}
      self._run(_Score(self._folder, images, drawn.labels, settings, cache, trust), missing)
    done = self._read(set(missing), DONE)
    done |= self._read(set(missing) - set(done), FAILED)
    if len(done) < len(missing):
      raise RuntimeError(f'the pipeline ended without a result for {len(missing) - len(done)} '
                         f'of {len(missing)} modules: look into the log of its workers.')
    return [entry for name, unit in units for entry in _decode(
        done.get(name) or kept[name], unit, fresh=name in done)]

  def _listed(self):
    """Names of the files that units have written."""
    pattern = filesystems.FileSystems.join(self._folder, '*.json')
    (match,) = filesystems.FileSystems.match([pattern])
    return {os.path.basename(file.path) for file in match.metadata_list}

  def _read(self, names, ending):
    """What is there of some units, by name; a damaged file is as good as none."""
    def read(name):
      path = filesystems.FileSystems.join(self._folder, name + ending)
      with filesystems.FileSystems.open(path) as file, contextlib.suppress(ValueError):
        return json.loads(file.read())

    files = self._listed()
    there = [name for name in names if name + ending in files]
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
      return {name: own for name, own in zip(there, pool.map(read, there), strict=True) if own}

  def _share(self, images, digest):
    """Writes images for the workers, unless they are there; their path."""
    path = filesystems.FileSystems.join(self._work_dir, 'samples', f'{digest}.npy')
    if not filesystems.FileSystems.exists(path):
      with _writing(path) as file:
        np.lib.format.write_array(file, np.asarray(images), allow_pickle=False)
    return path

  def _run(self, work, units):
    """Runs the pipeline until all units (by name) are done."""
    with self._watched({name: len(unit) for name, unit in units.items()}):
      try:
        with beam.Pipeline(self._runner, self._options) as pipeline:
          _ = (pipeline | 'Modules' >> beam.Create(list(units.items()))
               | 'Spread' >> beam.Reshuffle() | 'Score' >> beam.ParDo(work))
      except Exception as error:  # whatever a runner raises
        raise RuntimeError(f'the pipeline failed ({cli.last_line(error)}); what was done is '
                           f'kept in {self._work_dir}.') from error

  @contextlib.contextmanager
  def _watched(self, experts):
    """Shows how many experts are done, of those by name of unit, while the block runs."""
    over = threading.Event()

    def done():
      return sum(experts.get(name.split('.')[0], 0) for name in self._listed())

    def watch(progress):
      seen = before
      while not over.wait(SECONDS_BETWEEN_LOOKS):
        with contextlib.suppress(OSError):
          now = done()
          if now > seen:
            progress.advance(now - seen)
          seen = now

    before = done()  # failed earlier
    with progress_lib.Progress(sum(experts.values()), 'experts') as progress:
      watcher = threading.Thread(target=watch, args=[progress], daemon=True)
      watcher.start()
      try:
        yield
      finally:
        over.set()
        watcher.join()


class _Score(beam.DoFn):
  """Scores units and writes what they give.

  Args:
    folder: of the results.
    images: dict from image size to the path of a .npy file, uint8 [N, size, size, 3].
    labels: int64 [N].
    settings, cache, trust: as in `Workers.entries`.
  """

  def __init__(self, folder, images, labels, settings, cache, trust):
    super().__init__()
    self._folder, self._images, self._labels = folder, images, labels
    self._settings, self._cache, self._trust = settings, cache, trust

  def setup(self):
    images = {size: _mapped(path) for size, path in self._images.items()}
    self._source = embeddings.Embeddings(
        images, cache_lib.opened(self._cache), self._trust)
    self._scorers = proxies.make(**self._settings)
    self._rows = race.order(self._labels)

  def process(self, element):
    name, unit = element
    try:
      entries = {entry.candidate.key: entry for entry in ranking.score(
          unit, self._source, self._scorers, self._labels, self._rows)}
    except Exception as error:  # one module never stops the others
      reason = f'{type(error).__name__}: {cli.last_line(error)}'
      logger.exception('%s: dropped', unit[0].handle)
      entries = {c.key: ranking.Entry(c, {}, 0, 0, 0., reason) for c in unit}
    name += FAILED if any(entry.dropped for entry in entries.values()) else DONE
    with _writing(filesystems.FileSystems.join(self._folder, name)) as file:
      file.write(json.dumps([_encode(entries[c.key]) for c in unit]).encode())


def _options(arguments):
  """Beam's options of a command line.

  Raises:
    ValueError: one is no option, or has a value that it cannot have.
  """
  for argument in arguments:
    if not argument.startswith('--'):
      raise ValueError(f'--beam_args: {argument!r} is no option: give --name=value.')
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      options = pipeline_options.PipelineOptions(list(arguments))
      known = options.get_all_options()
  except SystemExit:  # argparse, which has said why
    raise ValueError(f'--beam_args: {said.getvalue().split("error: ")[-1].strip()}') from None
  unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
  if unknown:  # of its own, or of a typing error
    logger.warning('--beam_args: Beam does not know %s and hands it to the runner.',
                   ', '.join(f'--{name}' for name in sorted(unknown)))
  # DirectRunner would first try to fetch Prism, a program of its own. Of pipelines with this
  # option, which has no meaning for ours, it knows that it must run them itself.
  options.view_as(pipeline_options.TypeOptions).allow_unsafe_triggers = True
  workers = options.view_as(pipeline_options.WorkerOptions)
  workers.default_sdk_harness_log_level = workers.default_sdk_harness_log_level or 'WARNING'
  return options


def _name(unit, digests, settings, trust):
  """Name of a unit: all that its results depend on, as a digest."""
  one = unit[0]
  parts = [FORMAT, one.module.metadata['fingerprint'], [c.expert for c in unit],
           one.image_size, digests[one.image_size], settings, trust]
  if one.input_range != foreign.UNIT:
    parts.append(one.input_range)
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _encode(entry):
  """An entry, less its candidate, as JSON; floats survive it to the last digit."""
  return _attributes(entry) | {'candidate': None, 'scores': {
      name: {key: _plain(value) for key, value in _attributes(score).items()}
      for name, score in entry.scores.items()}}


def _decode(found, unit, fresh):
  """The entries of a unit; those that an earlier run left cost this one nothing."""
  for candidate, own in zip(unit, found, strict=True):
    scores = {name: proxies.Score(**{key: _array(value) for key, value in score.items()})
              for name, score in own['scores'].items()}
    entry = ranking.Entry(**own | {'candidate': candidate, 'scores': scores})
    yield entry if fresh else dataclasses.replace(entry, computed=0, seconds=0.)


def _attributes(record):
  """The attributes of a dataclass, as they are."""
  return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _plain(value):
  """An array, bool [N] or float64 [N], as JSON; all else as it is."""
  if not isinstance(value, np.ndarray):
    return value
  if value.dtype == bool:
    return {'length': len(value), 'bits': np.packbits(value).tobytes().hex()}
  return {'values': value.tolist()}


def _array(value):
  """What `_plain` was given."""
  if not isinstance(value, dict):
    return value
  if 'bits' in value:
    bits = np.frombuffer(bytes.fromhex(value['bits']), np.uint8)
    return np.unpackbits(bits, count=value['length']).astype(bool)
  return np.array(value['values'])


def _is_local(path):
  """Whether a path is of this machine's own files."""
  return filesystems.FileSystems.get_scheme(path) is None


@contextlib.contextmanager
def _writing(path):
  """As `zoo.atomic.writing`, on any file system that Beam knows."""
  if _is_local(path):
    with atomic.writing(path) as file:
      yield file
    return
  temporary = f'{path}.{uuid.uuid4().hex}'
  with filesystems.FileSystems.create(temporary) as file:
    yield file
  filesystems.FileSystems.rename([temporary], [path])


def _mapped(path):
  """The array of a .npy file, memory-mapped: local workers share it, others have a copy.

  Raises:
    ValueError: the file is damaged.
  """
  try:
    if _is_local(path):
      return np.load(path, mmap_mode='r')
    with filesystems.FileSystems.open(path) as file, tempfile.NamedTemporaryFile() as copy:
      shutil.copyfileobj(file, copy, 1 << 20)
      copy.flush()
      return np.load(copy.name, mmap_mode='r')  # stays mapped when its name is gone
  except ValueError as error:
    raise ValueError(f'{path} is damaged ({error}): remove it.') from None
