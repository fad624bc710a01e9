"""Fine-tuning one expert on one task.

Shapes: N test examples, C classes.
"""

import dataclasses
import logging
import os
import shutil
import time

import numpy as np

from export import hub as hub_lib
from export import metadata
from finetune import sweep
from finetune import tuned
from selection import candidates
from zoo import atomic
from zoo import batches
from zoo import cli
from zoo import tasks
from zoo import training
from zoo import work_dir as work_dirs

logger = logging.getLogger(__name__)

RESULT = 'result.json'
PREDICTIONS = 'predictions.npz'
MODULE = 'module'


def finetune(task, expert, work_dir, hub=hub_lib.EMBEDDED, data_dir=None, image_size=None,
             budget=None, seed=0, trust=False, command=()):
  """Fine-tunes a whole network and a new head; chooses by val, tests once.

  Every setting of the light sweep trains on 800 examples and is judged on 200; the best
  trains again on the 1,000 and is tested on the whole test split, read only then.

  Args:
    task: a `zoo.tasks.Task`, or a name as `zoo.tasks.load` takes it.
    expert: a `selection.candidates.Candidate`, or a handle as `selection.candidates.one`
      takes it.
    work_dir: folder of this run; it goes on there after a kill.
    hub: folder of the hub that the handle is looked up in.
    data_dir: where TFDS finds prepared data sets.
    image_size: pixels, for a module that does not say its own.
    budget: a `finetune.sweep.Budget`; None for what suits the machine.
    seed: of the order of examples.
    trust: as in `export.hub.check`.
    command: the command line, for the record.

  Returns:
    A JSON-like dict, also in work_dir/result.json: handle, expert, name, test_accuracy,
    interval (Wilson, 95%), setting, tried, history (of the last training), confusion
    (C x C counts, rows are true classes), module and predictions (paths), seconds.

  Raises:
    ValueError: task or module cannot be used, or every setting failed.
  """
  if isinstance(task, str):
    task = tasks.load(task, data_dir)
  candidate = expert
  if isinstance(expert, str):
    candidate = candidates.one(expert, hub, image_size)
  work_dir = os.path.abspath(work_dir)  # results name files that are found from anywhere
  protocol = tasks.protocol_1k(task)
  recipes = sweep.light(budget or sweep.default_budget(), seed)
  settings = {
      'task': task.name, 'source': task.source, 'protocol': protocol.name,
      'module': candidate.module.metadata['fingerprint'], 'expert': candidate.expert,
      'image_size': candidate.image_size,
      'sweep': [dataclasses.asdict(recipe) for recipe in recipes]}
  with work_dirs.opened(work_dir, settings):
    done = os.path.join(work_dir, RESULT)
    if os.path.exists(done):
      return atomic.read_json(done)
    start = time.monotonic()
    train = tasks.read(task, protocol.train, candidate.image_size)
    val = tasks.read(task, protocol.val, candidate.image_size)
    model = tuned.build(candidate, len(task.class_names), trust)
    trainer = training.Trainer(model, recipes[0])
    start_values = [variable.numpy() for variable in model.variables]

    def train_from_start(examples, recipe, *arguments):
      for variable, value in zip(model.variables, start_values, strict=True):
        variable.assign(value)
      return trainer.fit(batches.Batches(
          examples.images, examples.labels, recipe.batch, recipe.seed, recipe.flip,
          recipe.crop), recipe, *arguments)

    tried = [_try(model, train_from_start, recipe, train, val, os.path.join(
        work_dir, f'tried-{i}.json'), f'{candidate.name}: setting {i + 1}/{len(recipes)}')
             for i, recipe in enumerate(recipes)]
    working = [i for i, one in enumerate(tried) if one['error'] is None]
    if not working:
      raise ValueError(f'{candidate.describe()}: every setting failed; the first so: '
                       f'{tried[0]["error"]}')
    best = max(working, key=lambda i: (tried[i]['val_accuracy'], -tried[i]['val_loss']))
    history = train_from_start(train + val, recipes[best], os.path.join(work_dir, 'final'),
                               f'{candidate.name}: final training')
    test = tasks.read(task, protocol.test, candidate.image_size)
    logits = training.predict(model, test.images, what=f'{candidate.name}: test')
    with atomic.writing(os.path.join(work_dir, PREDICTIONS)) as file:
      np.savez_compressed(file, logits=logits, labels=test.labels)
    result = {
        'task': task.name, 'source': task.source, 'protocol': protocol.name,
        'handle': candidate.handle, 'expert': candidate.expert, 'name': candidate.name,
        'fingerprint': candidate.module.metadata['fingerprint'],
        **evaluate(logits, test.labels, len(task.class_names)),
        'examples_digest': (train + val).digest(), 'seed': seed,
        'versions': metadata.versions(),
        'setting': tried[best], 'tried': tried, 'history': history,
        'module': os.path.join(work_dir, MODULE),
        'predictions': os.path.join(work_dir, PREDICTIONS),
        'seconds': round(time.monotonic() - start, 1)}
    _publish(model, candidate, task, result, command)
    atomic.write_json(done, result)
    return result


def evaluate(logits, labels, classes):
  """Accuracy with its interval and the confusion counts.

  Args:
    logits: [N, C].
    labels: int [N].
    classes: C.

  Returns:
    A dict of test_accuracy, interval (95%, Wilson), test_examples and confusion, a C x C
    list of counts whose rows are true classes.
  """
  import scipy.stats
  predicted = logits.argmax(1)
  hits, number = int((predicted == labels).sum()), len(labels)
  interval = scipy.stats.binomtest(hits, number).proportion_ci(method='wilson')
  confusion = np.bincount(labels * classes + predicted, minlength=classes ** 2)
  return {'test_accuracy': hits / number, 'test_examples': number,
          'interval': [float(interval.low), float(interval.high)],
          'confusion': confusion.reshape(classes, classes).tolist()}


def _try(model, train_from_start, recipe, train, val, path, what):
  """Trains one setting and judges it on val; a dict, kept at `path`."""
  if os.path.exists(path):
    return atomic.read_json(path)
  start = time.monotonic()
  one = {'learning_rate': recipe.learning_rate, 'steps': recipe.steps, 'batch': recipe.batch,
         'val_accuracy': None, 'val_loss': None, 'error': None}
  try:
    train_from_start(train, recipe, None, what)
    logits = training.predict(model, val.images).astype(np.float64)
    if not np.isfinite(logits).all():
      raise training.NotFiniteError(f'{what}: the outputs are not finite after the last step.')
    own = logits[np.arange(len(val)), val.labels]
    one['val_accuracy'] = float((logits.argmax(1) == val.labels).mean())
    one['val_loss'] = float(np.mean(np.logaddexp.reduce(logits, axis=1) - own))
    logger.info('%s (%s): val %.1f%%', what, sweep.describe(recipe), 100 * one['val_accuracy'])
  except training.NotFiniteError as error:
    one['error'] = str(error)
    logger.warning('%s', error)
  one['seconds'] = round(time.monotonic() - start, 1)
  atomic.write_json(path, one)
  return one


def _publish(model, candidate, task, result, command):
  """Writes the fine-tuned module."""
  from export import card
  from finetune import predictor
  # One from before a kill was trained apart from what result.json is going to say.
  shutil.rmtree(result['module'], ignore_errors=True)

  def describe(path):
    metadata.write(path, {
        'publisher': 'local', 'name': cli.file_name(task.name),
        'version': 1, 'kind': 'finetuned', 'image_size': candidate.image_size,
        'features': len(task.class_names), 'class_names': list(task.class_names),
        'start': {key: result[key] for key in ('handle', 'expert', 'name', 'fingerprint')},
        'parent': result['fingerprint'], 'task': {'name': task.name, 'source': task.source},
        'scores': {key: result[key]
                   for key in ('test_accuracy', 'interval', 'test_examples')},
        'setting': result['setting'], 'command': list(command),
        'licence': candidate.module.metadata.get('licence'),
        'library_versions': result['versions']})
    card.write(path)

  predictor.save(model, candidate.image_size, task.class_names, result['module'], describe)
