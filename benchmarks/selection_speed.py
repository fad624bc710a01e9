"""selection_speed.py: what a ranking costs beside what a user would write, and its limit.

A hub of made experts (see made_hub.py) is ranked for 1,000 of scikit-learn's digits at 32 pixels:
by a user's script (`hub.KerasLayer`, `predict`, scikit-learn's 1-NN), by a careful one (`hub.load`,
large batches), exhaustively, with racing, and again from kept embeddings by another proxy; beside
them the bare compiled forward pass of one network over as many images, the limit of anything
exhaustive. Each contender runs in a process of its own, in turn, several rounds, each with the
digits in another order; times start after the imports. Prints one JSON line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from absl import flags

from zoo import cli

CONTENDERS = ('user', 'careful', 'exhaustive', 'race', 'warm', 'forward')
IMAGES = 1000
SIZE = 32  # of the made hub


def judge(embedded, labels):
  """Leave-one-out 1-NN accuracy as scikit-learn gives it."""
  import sklearn.neighbors
  nearest = sklearn.neighbors.KNeighborsClassifier(1).fit(embedded, labels).kneighbors(
      return_distance=False)  # of others than itself
  return float((labels[nearest[:, 0]] == labels).mean())


def user(root, images, labels):
  """What a user would write: a Keras model of every module, `predict`, scikit-learn's 1-NN."""
  import tensorflow_hub
  import tf_keras

  from export import hub
  scaled = images.astype('float32') / 255
  scores = {}
  for module in hub.modules(root):
    for expert in range(len(module.metadata.get('experts') or [None])):
      arguments = {'expert': expert} if module.metadata.get('experts') else None
      model = tf_keras.Sequential([tensorflow_hub.KerasLayer(module.path, arguments=arguments)])
      scores[module.handle, expert] = judge(model.predict(scaled, verbose=0), labels)
  return scores


def careful(root, images, labels):
  """What a careful user would write: every module loaded once and called on large batches."""
  import numpy as np
  import tensorflow_hub

  from export import hub
  scaled = images.astype('float32') / 255
  scores = {}
  for module in hub.modules(root):
    loaded = tensorflow_hub.load(module.path)
    for expert in range(len(module.metadata.get('experts') or [None])):
      arguments = {'expert': expert} if module.metadata.get('experts') else {}
      scores[module.handle, expert] = judge(np.concatenate([
          loaded(scaled[i:i + 125], **arguments) for i in range(0, len(scaled), 125)]), labels)
  return scores


def forward(root, images, number):
  """The bare compiled network of the hub, over the images `number` times."""
  import numpy as np
  import tensorflow as tf

  from export import hub
  loaded = hub.load(hub.modules(root)[0])
  compiled = tf.function(loaded)
  scaled = tf.constant(images.astype(np.float32) / 255)
  pieces = [scaled[i:i + 125] for i in range(0, len(scaled), 125)]
  compiled(pieces[0])
  start = time.perf_counter()
  for _ in range(number):
    for piece in pieces:
      compiled(piece).numpy()
  return time.perf_counter() - start


def contend(name, root, cache, seed):
  """Runs one contender in this process, on one order of the digits: seconds, what it found."""
  import resource

  import sklearn.neighbors  # noqa: F401
  import tensorflow  # noqa: F401
  import tensorflow_hub  # noqa: F401
  import tf_keras  # noqa: F401

  from export import hub
  from selection import ranking
  from zoo import tasks
  data, seed = tasks.digits(), int(seed)
  read = ranking.sample(data, [SIZE], seed=seed)
  number = sum(len(module.metadata.get('experts') or [None]) for module in hub.modules(root))
  start = time.perf_counter()
  found = {}
  if name == 'forward':
    seconds = forward(root, read.images[SIZE], number)
  else:
    if name in ('user', 'careful'):
      scores = {'user': user, 'careful': careful}[name](root, read.images[SIZE], read.labels)
      found['winner'] = list(max(scores, key=scores.get))
      found['accuracy'] = max(scores.values())
      found['images'] = number * IMAGES
    else:
      ranked = ranking.rank(
          data, root, exhaustive=name != 'race', cache=cache if name == 'warm' else '',
          proxies=('ridge',) if name == 'warm' else ('knn',), seed=seed)
      found['winner'] = [ranked.winner.candidate.handle, ranked.winner.candidate.expert or 0]
      found['accuracy'] = next(iter(ranked.winner.scores.values())).value
      found['stderr'] = next(iter(ranked.winner.scores.values())).stderr
      found['images'] = sum(entry.computed for entry in ranked.entries)
    seconds = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {'seconds': seconds, 'peak_mib': round(peak), **found}


def measure(root, rounds):
  """All contenders in turn, each in its own process.

  Args:
    root: folder of the hub.
    rounds: how many, each with an order of its own; medians count.

  Returns:
    A dict of seconds, of ratios, of what each found in each round, and of how many standard
    errors the winner of the race is below that of the exhaustive ranking.
  """
  import numpy as np

  from export import hub
  from export import metadata
  modules = hub.modules(root)
  number = sum(len(module.metadata.get('experts') or [None]) for module in modules)
  runs = {name: [] for name in CONTENDERS}
  with tempfile.TemporaryDirectory() as folder:
    cache = os.path.join(folder, 'cache')
    for seed in range(rounds):
      _apart('contend', 'warm', root, cache, str(seed))  # fills the cache; the measured one reads
      for name in CONTENDERS:
        runs[name].append(_apart('contend', name, root, cache, str(seed)))
  seconds = {name: [run['seconds'] for run in own] for name, own in runs.items()}

  def ratio(one, other):
    return round(float(np.median(np.divide(seconds[one], seconds[other]))), 2)

  return {
      'modules': len(modules), 'experts': number, 'examples': IMAGES, 'image_size': SIZE,
      'rounds': rounds,
      'seconds': {name: round(float(np.median(own)), 2) for name, own in seconds.items()},
      'user_over_exhaustive': ratio('user', 'exhaustive'),
      'user_over_race': ratio('user', 'race'),
      'careful_over_exhaustive': ratio('careful', 'exhaustive'),
      'careful_over_race': ratio('careful', 'race'),
      'exhaustive_rate_over_forward': ratio('forward', 'exhaustive'),
      'race_behind': [
          round((best['accuracy'] - found['accuracy']) / best['stderr'], 2)
          for best, found in zip(runs['exhaustive'], runs['race'], strict=True)],
      'found': {name: [{key: value for key, value in run.items() if key != 'seconds'}
                       for run in own] for name, own in runs.items()},
      'versions': metadata.versions()}


def _apart(function, *arguments):
  """What a function of this file returns for such texts, in a new process."""
  done = subprocess.run(
      [sys.executable, '-c', 'import json, sys; from benchmarks import selection_speed as s; '
       'print(json.dumps(getattr(s, sys.argv[1])(*sys.argv[2:])))', function, *arguments],
      capture_output=True, text=True, check=False)
  if done.returncode:
    raise ValueError(f'{" ".join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}')
  return json.loads(done.stdout.splitlines()[-1])


def some(root, number, examples):
  """Ranks the first modules of a hub exhaustively, in this process.

  Args:
    root: folder of the hub.
    number: modules, as text.
    examples: of the task, as text.

  Returns:
    A dict of experts, seconds, peak_mib and start_mib, before the ranking.
  """
  import resource

  import tensorflow  # noqa: F401

  from export import hub
  from selection import ranking
  handles = [module.path for module in hub.modules(root)[:int(number)]]
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  start = time.perf_counter()
  ranking.rank('digits', '', handles, examples=int(examples), exhaustive=True, cache='')
  return {'experts': len(handles), 'seconds': round(time.perf_counter() - start, 2),
          'start_mib': round(before),
          'peak_mib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def scale(root, numbers, examples=125):
  """How time and memory grow with the number of experts, each in a process of its own.

  Args:
    root: folder of a hub of that many modules.
    numbers: how many of them, a list.
    examples: of the task; few, so that what an expert costs beside its images shows.

  Returns:
    A dict with the dicts of `some`.
  """
  return {'examples': examples,
          'runs': [_apart('some', root, str(number), str(examples)) for number in numbers]}


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', 'runs/made_hub', 'Folder of the hub, as made_hub.py makes it.',
                    flag_values=FLAGS)
flags.DEFINE_integer('rounds', 3, 'Rounds.', flag_values=FLAGS)
flags.DEFINE_list('scale', [], 'Instead: rank so many of the modules, for each of these numbers.',
                  flag_values=FLAGS)


def main(values, command):
  del command
  print(json.dumps(scale(values.hub, list(map(int, values.scale))) if values.scale
                   else measure(values.hub, values.rounds)))


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
