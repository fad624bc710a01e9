"""neighbors.py: seconds to find each example's nearest other, and what approximation costs.

Contenders, in turn: our exact search, ours with ScaNN (its build included), scikit-learn's
NearestNeighbors and faiss's IndexFlatL2 (where installed), all with as many threads as there
are cores. Prints one JSON line for every number of embeddings and of dimensions; ratios are of
times in one run.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
import time

from absl import flags

from zoo import cli

CLASSES = 100
LATENT = 256
PEERS = {'sklearn': 'scikit-learn', 'faiss': 'faiss-cpu'}  # their packages
COPIES = 6  # of the embeddings in float32, at most, that a contender and the data take


def made(number, dimensions, seed=0):
  """Embeddings that are spread as a network's, and their classes.

  Features are correlated, as the variance of 256 hidden directions falls as 1, 1/2, 1/3, ...;
  they are not negative, as after ReLU; and examples lie on the way from where there is no
  class to twice as far as its centre, so that some are easy and some hopeless. (Participation
  ratio of the covariance at 512 dimensions 31; that of our baseline's 128 features on Tiny
  ImageNet is 25.)

  Args:
    number, dimensions: N and D.
    seed: of everything.

  Returns:
    (float32 [N, D], int64 [N] of 100 classes).
  """
  import numpy as np
  random = np.random.default_rng(seed)
  spread = (1 + np.arange(LATENT, dtype=np.float32)) ** -0.5
  labels = random.integers(0, CLASSES, number)
  centres = random.standard_normal((CLASSES, LATENT), np.float32)
  hidden = random.standard_normal((number, LATENT), np.float32)
  hidden += 2 * random.random((number, 1), np.float32) * centres[labels]
  hidden *= spread / np.linalg.norm(spread)
  embeddings = hidden @ random.standard_normal((LATENT, dimensions), np.float32)
  embeddings += 0.5
  return np.maximum(embeddings, 0, out=embeddings), labels


def contenders(settings, peers=True):
  """Functions of embeddings [N, D] that return int [N, 1], each one's nearest other.

  Args:
    settings: a dict of what to change in our `ScannSettings`.
    peers: whether `PEERS` contend, where they are installed.
  """
  import numpy as np

  from selection import neighbors

  def exact(embeddings):
    return neighbors.ExactIndex(embeddings).others(1)

  def scann(embeddings):
    rule = neighbors.settings_for(*embeddings.shape)
    return neighbors.ScannIndex(embeddings, dataclasses.replace(rule, **settings)).others(1)

  def sklearn(embeddings):
    from sklearn import neighbors as peers
    return peers.NearestNeighbors(n_neighbors=1, algorithm='brute').fit(embeddings).kneighbors(
        return_distance=False)

  def faiss(embeddings):
    import faiss as peer
    index = peer.IndexFlatL2(embeddings.shape[1])
    index.add(embeddings)
    near = index.search(embeddings, 2)[1]
    return np.where(near[:, :1] == np.arange(len(near))[:, None], near[:, 1:], near[:, :1])

  return {run.__name__: run for run in (exact, scann, *([sklearn, faiss] if peers else []))
          if run is exact or importlib.util.find_spec(run.__name__)}


def measure(number, dimensions, rounds, settings=None, peers=True):
  """Measures all contenders on the same embeddings.

  Args:
    number, dimensions: N and D.
    rounds: how often each is run; the median counts.
    settings, peers: as for `contenders`.

  Returns:
    A dict of the case, and by contender of seconds, times_exact (seconds of exact search over
    its own, the median round by round), recall (share of examples whose nearest other is the
    one that exact search finds), accuracy (leave-one-out, nearest other) and points (its
    difference from that of exact search, in hundredths), and versions; where memory is short,
    of the case and `skipped`, the reason.
  """
  import numpy as np

  from export import metadata
  from selection import neighbors
  from selection import proxies

  case = {'number': number, 'dimensions': dimensions, 'rounds': rounds}
  needed = COPIES * 4 * number * dimensions + 2 * neighbors.BLOCK_BYTES
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if needed > free:
    return {**case, 'skipped': f'{needed >> 20} MiB needed, {free >> 20} MiB free'}
  embeddings, labels = made(number, dimensions)
  seconds, found = {}, {}
  runs = contenders(settings or {}, peers)
  for run in runs.values():
    run(embeddings[:500])  # imports, starts threads
  for _ in range(rounds):
    for name, run in runs.items():
      start = time.perf_counter()
      found[name] = run(embeddings)
      seconds.setdefault(name, []).append(time.perf_counter() - start)
  accuracy = {name: proxies.leave_one_out_correct(near, labels).mean()
              for name, near in found.items()}
  result = {}
  for name, near in found.items():
    result[name] = {
        'seconds': round(float(np.median(seconds[name])), 3),
        'times_exact': round(float(np.median(
            np.divide(seconds['exact'], seconds[name]))), 2),
        'recall': round(float((near == found['exact']).mean()), 5),
        'accuracy': round(float(accuracy[name]), 5),
        'points': round(100 * float(accuracy[name] - accuracy['exact']), 3)}
  result['scann']['recall_on_sample'] = round(neighbors.recall(found['scann'], embeddings), 5)
  return {**case, **result, 'versions': metadata.versions() | {
      package: importlib.metadata.version(package)
      for name, package in PEERS.items() if name in runs}}


FLAGS = cli.new_flags()
flags.DEFINE_list('numbers', ['1000', '10000', '100000'], 'Of embeddings.', flag_values=FLAGS)
flags.DEFINE_list('dimensions', ['512', '2048'], 'Of an embedding.', flag_values=FLAGS)
flags.DEFINE_integer('rounds', 3, 'Rounds; one from 50,000 embeddings on.', flag_values=FLAGS)
flags.DEFINE_string('settings', '{}', 'JSON of what to change in the rule of ScaNN, such as '
                    '{"threshold": 0.2}.', flag_values=FLAGS)
flags.DEFINE_bool('peers', True, 'scikit-learn and faiss too, where they are installed.',
                  flag_values=FLAGS)


def main(values, command):
  del command
  for dimensions in map(int, values.dimensions):
    for number in map(int, values.numbers):
      rounds = values.rounds if number < 50_000 else 1
      print(json.dumps(measure(number, dimensions, rounds, json.loads(values.settings),
                               values.peers)), flush=True)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
