"""One expert on one task: settings are tried, one is trained in full and tested.

Shapes: N examples, C classes.
"""

import json
import logging
import os
import resource
import shutil
import time

import numpy as np

from export import metadata
from finetune import calibration
from finetune import charts
from finetune import metrics
from finetune import predictor
from finetune import tuned
from selection import show
from zoo import atomic
from zoo import batches
from zoo import checkpoint
from zoo import cli
from zoo import precision as precisions
from zoo import pretrain
from zoo import strategies
from zoo import tasks
from zoo import train_log
from zoo import training

logger = logging.getLogger(__name__)

PREDICTIONS = 'predictions.npz'
MODULE = 'module'
RUNS = 'runs.jsonl'
SURELY_BETTER = 1.92  # nats over all examples: half of 3.84, chi-squared's 95% of one parameter


class Stopped(Exception):  # noqa: N818 - no error
  """A setting is not worth its remaining steps; the message says why."""


class Data:
  """The parts of a task, each read once for each image size.

  Args:
    task: a `zoo.tasks.Task`.
    protocol: a `zoo.tasks.Protocol`; None for that of 1,000 examples.
  """

  def __init__(self, task, protocol=None):
    self.task = task
    self.protocol = protocol or tasks.protocol_1k(task)
    self._read = {}

  def of(self, part, image_size):
    """`zoo.tasks.Examples` of 'train', 'val' or 'test'."""
    if (part, image_size) not in self._read:
      self._read[part, image_size] = tasks.read(
          self.task, getattr(self.protocol, part), image_size)
    return self._read[part, image_size]

  def class_weights(self, kind):
    """Floats [C] of mean 1 over the training examples, or None of kind 'none'."""
    if kind == 'none':
      return None
    split, indices = self.protocol.train
    labels = self.task.labels(split)[indices]
    counts = (labels.sum(0) if labels.ndim == 2
              else np.bincount(labels, minlength=len(self.task.class_names)))
    present = np.maximum(counts, 1)
    return np.where(counts > 0, counts.sum() / np.count_nonzero(counts) / present, 1.)


def networks(data, plan, strategy, trust=False):
  """The `finetune.tuned.Networks` of a plan, under a `tf.distribute.Strategy`."""
  precision = precisions.best() if plan.precision == 'auto' else plan.precision
  return tuned.Networks(len(data.task.class_names), strategy, precision, trust,
                        data.class_weights(plan.class_weights), plan.stochastic_depth)


class Run:
  """An expert on a task, in a folder where all that is done is kept.

  Args:
    data: a `Data`.
    candidate: a `selection.candidates.Candidate`.
    networks: a `finetune.tuned.Networks`; runs may share it.
    folder: of this run.
  """

  def __init__(self, data, candidate, networks, folder):
    self.data, self.candidate, self.folder = data, candidate, folder
    self._networks, self._chief = networks, networks.chief

  def attempt(self, setting, number, what, report=None):
    """Trains a setting on train and judges it on val, unless that is done.

    Args:
      setting: a `finetune.sweep.Setting`.
      number: of this setting, in this run.
      what: name in messages.
      report: called with 1, 2, 3 and the figure on val after so many quarters of the steps, if
        given; may raise `Stopped`.

    Returns:
      A JSON-like dict: what the setting is, val_accuracy or val_map, val_loss, error (None, or
      why it failed; then the figures are None), curve (what was reported), seconds, number.
    """
    path = os.path.join(self.folder, f'tried-{number}.json')
    if os.path.exists(path):
      return atomic.read_json(path)
    start = time.monotonic()
    key = 'val_map' if self.data.task.multi_label else 'val_accuracy'
    curve = []
    one = setting.to_dict() | {
        'number': number, key: None, 'val_loss': None, 'error': None, 'curve': curve}
    # What is reported is not in a checkpoint, so that a reporting run begins anew.
    folder = None if report else os.path.join(self.folder, f'trying-{number}')

    def watch(row):
      quarter = 4 * row['step'] // setting.recipe.steps
      if quarter in (1, 2, 3) and quarter not in dict(curve):
        curve.append([quarter, metrics.primary(self._judged(trainer)[1])[1]])
        report(*curve[-1])

    try:
      _, trainer = self._networks.of(self.candidate, setting)
      trainer.fit(self._batches('train', setting), setting.recipe, folder, what,
                  watch if report else None)
      logits, evaluation = self._judged(trainer)
      one[key], one['val_loss'] = metrics.primary(evaluation)[1], evaluation['nll']
      self._write_predictions(self._tried(number), logits, self._val().labels)
      logger.info('%s (%s): val %.1f%%', what, setting.describe(), 100 * one[key])
    except (training.NotFiniteError, MemoryError, Stopped) as error:
      one['error'] = str(error)
      logger.warning('%s (%s): %s', what, setting.describe(), error)
    one['seconds'] = round(time.monotonic() - start, 1)
    self.write(path, one)
    if self._chief:
      shutil.rmtree(folder or '', ignore_errors=True)
    return one

  def parts(self):
    """What of this expert's network can be trained by itself, as in `finetune.sweep.Plan`."""
    return self._networks.parts(self.candidate)

  def tried(self, number):
    """Val logits [N, C] and labels of a setting that was tried without an error."""
    with np.load(self._tried(number)) as file:
      return file['logits'], file['labels']

  def finish(self, setting, tried, folder, what, command=(), publish=True):
    """Trains a setting on train and val, tests it once, and makes a module of it.

    Args:
      setting: a `finetune.sweep.Setting`.
      tried: what `attempt` said of it.
      folder: where module, predictions and log go.
      what: name in messages.
      command: the command line, for the record.
      publish: whether to make the module.

    Returns:
      A JSON-like dict; see `finetune.tuning.finetune`.

    Raises:
      zoo.training.NotFiniteError: the loss became NaN or infinite.
    """
    start = time.monotonic()
    candidate, task = self.candidate, self.data.task
    model, trainer = self._networks.of(candidate, setting)
    final = os.path.join(folder, 'final')
    try:
      history = trainer.fit(self._batches('train val', setting), setting.recipe, final, what)
    except training.NotFiniteError:
      if self._chief:  # its checkpoint is not for another setting to go on from
        checkpoint.remove(final)
      strategies.barrier(self._networks.strategy)
      raise
    trained = time.monotonic()
    function, own = self._networks.exact(candidate, setting, model)
    test = self.data.of('test', candidate.image_size)
    logits = training.predict(function, test.images, what=f'{candidate.name}: test')
    temperature = calibrated(*self.tried(tried['number']))
    evaluation = evaluated(
        calibration.scaled(logits, 1., task.multi_label), logits, test.labels, temperature)
    result = {
        'task': task.name, 'source': task.source, 'protocol': self.data.protocol.name,
        'handle': candidate.handle, 'expert': candidate.expert, 'name': candidate.name,
        'fingerprint': candidate.module.metadata['fingerprint'], **evaluation,
        'examples_digest': self._both().digest(), 'seed': setting.recipe.seed,
        'versions': metadata.versions(), 'command': list(command), 'setting': tried,
        'history': history,
        'module': os.path.join(folder, MODULE) if publish else None,
        'predictions': os.path.join(folder, PREDICTIONS),
        'log': os.path.join(final, train_log.FILE)}
    if self._chief:
      self._write_predictions(result['predictions'], logits, test.labels)
      if publish:
        self._publish(own, result, command)
      self._log_confusion(final, evaluation)
      self._record(os.path.join(folder, RUNS), setting, result, trained - start, command)
      checkpoint.remove(final)
    return result

  def write(self, path, value):
    """Writes JSON, in the process that writes; all go on when it is there."""
    if self._chief:
      atomic.write_json(path, value)
    strategies.barrier(self._networks.strategy)

  def _batches(self, parts, setting):
    examples = self._both() if parts == 'train val' else self.data.of(
        'train', self.candidate.image_size)
    return batches.of(examples, setting.recipe, len(self.data.task.class_names))

  def _both(self):
    size = self.candidate.image_size
    return self.data.of('train', size) + self.data.of('val', size)

  def _val(self):
    return self.data.of('val', self.candidate.image_size)

  def _judged(self, trainer):
    """Logits and evaluation of val.

    Raises:
      zoo.training.NotFiniteError: the logits are not finite.
    """
    logits = trainer.predict(self._val().images)
    if not np.isfinite(logits).all():
      raise training.NotFiniteError('the outputs are not finite after the last step.')
    return logits, metrics.evaluate(
        calibration.scaled(logits, 1., self.data.task.multi_label), self._val().labels)

  def _tried(self, number):
    return os.path.join(self.folder, f'tried-{number}.npz')

  def _write_predictions(self, path, logits, labels):
    if self._chief:
      with atomic.writing(path) as file:
        np.savez_compressed(file, logits=logits, labels=labels)

  def _publish(self, model, result, command):
    from export import manifest
    candidate, task = self.candidate, self.data.task

    def describe(path):
      manifest.seal(path, described(task, result, command) | {
          'image_size': candidate.image_size, 'temperature': result['temperature'],
          'start': {key: result[key] for key in ('handle', 'expert', 'name', 'fingerprint')},
          'parent': result['fingerprint'], 'setting': result['setting'],
          'licence': candidate.module.metadata.get('licence')})

    predictor.save(model, candidate.image_size, task.class_names, result['module'], describe,
                   result['temperature'], task.multi_label)

  def _log_confusion(self, folder, evaluation):
    if 'confusion' in evaluation:
      train_log.write_image(folder, 'confusion', show.render(
          charts.confusion, np.array(evaluation['confusion']), self.data.task.class_names,
          kind='png'))

  def _record(self, path, setting, result, seconds, command):
    """One line with all that is needed to run it again, and what it cost."""
    recipe = setting.recipe
    record = {
        'task': result['source'], 'handle': result['handle'], 'expert': result['expert'],
        'fingerprint': result['fingerprint'], 'examples_digest': result['examples_digest'],
        'setting': setting.to_dict(), 'precision': self._networks.precision,
        'replicas': self._networks.strategy.num_replicas_in_sync,
        'device': pretrain.device(), metrics.primary(result)[0]: metrics.primary(result)[1],
        'nll': result['nll'], 'seconds': round(seconds, 2),
        'images_per_second': round(
            recipe.steps * recipe.batch / max(result['history'][-1]['seconds'], 1e-3), 1),
        'peak_memory_bytes': peak_memory(), 'versions': result['versions'],
        'command': list(command)}
    with open(path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(record) + '\n')


def calibrated(logits, labels):
  """The temperature that val logits call for, where they do.

  It is 1 if no label is missed, of which nothing can be learnt, and if the best temperature is
  not better than 1 by more than chance (likelihood ratio, 5%).
  """
  if labels.ndim == 1 and (logits.argmax(1) == labels).all():
    return 1.
  found = calibration.temperature(logits, labels)
  several = labels.ndim == 2
  before, after = (metrics.nll(calibration.scaled(logits, t, several), labels)
                   for t in (1., found))
  return found if len(labels) * (before - after) > SURELY_BETTER else 1.


def evaluated(probabilities, logits, labels, temperature):
  """What `finetune.metrics.evaluate` says of predictions, their temperature, and what it does.

  Args:
    probabilities, labels: as in `finetune.metrics.evaluate`.
    logits: [N, C], of these probabilities.
    temperature: of the logits.

  Returns:
    A JSON-like dict, with `temperature` and, at it, `calibrated`: nll and, of one label an
    image, ece.
  """
  several = labels.ndim == 2
  cooled = calibration.scaled(logits, temperature, several)
  after = {'nll': metrics.nll(cooled, labels)}
  if not several:
    after['ece'] = metrics.ece(cooled, labels)
  return metrics.evaluate(probabilities, labels) | {
      'temperature': temperature, 'calibrated': after}


def described(task, result, command):
  """What module.json says of any classifier of a task."""
  return {
      'publisher': 'local', 'name': cli.file_name(task.name), 'version': 1, 'kind': 'finetuned',
      'features': len(task.class_names), 'class_names': list(task.class_names),
      'multi_label': task.multi_label,
      'task': {'name': task.name, 'source': task.source},
      'scores': {key: result[key] for key in (
          'test_accuracy', 'test_map', 'balanced_accuracy', 'interval', 'test_examples', 'nll',
          'ece', 'calibrated') if key in result},
      'command': list(command), 'library_versions': result['versions']}


def peak_memory():
  """The most memory that this process held so far, in bytes; of the first GPU if there is one."""
  import tensorflow as tf
  if tf.config.list_logical_devices('GPU'):
    return tf.config.experimental.get_memory_info('GPU:0')['peak']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
