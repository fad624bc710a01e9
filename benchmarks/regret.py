"""regret.py: what the choice of an expert gains, and what it leaves on the table.

On every task of the local suite, for several draws of its 1,000 examples: what each proxy says
of every expert, the test accuracy of a linear probe on its frozen embeddings, and that of the
expert fine-tuned under one fixed rule. Prints one JSON line an expert, task and draw on stdout;
`benchmarks.selectors` makes tables and pictures of them.

Every judgement is kept in --work_dir under a digest of module, examples and rule: a killed run
goes on, several processes may share the folder, and a new expert costs one expert.
"""

import dataclasses
import hashlib
import json
import logging
import os
import sys
import time

from absl import flags

from benchmarks import selectors
from benchmarks import suite
from export import hub
from zoo import atomic
from zoo import cli

logger = logging.getLogger(__name__)

# Examples an update of the one rule for all experts and tasks, set beforehand: the sweep
# 'quick', not tuned to any of them.
BATCH = 64
PENALTIES = [10. ** power for power in range(-2, 5)]  # of the linear probe


class Kept:
  """Judgements on disk, a small JSON file each.

  Args:
    folder: where they are.
  """

  def __init__(self, folder):
    self._folder = folder
    os.makedirs(folder, exist_ok=True)

  def path(self, candidate, *what):
    """Where the judgement of a candidate lies, by all that it depends on."""
    text = json.dumps([candidate.module.metadata['fingerprint'], candidate.expert,
                       candidate.image_size, *what])
    return os.path.join(self._folder, hashlib.sha256(text.encode()).hexdigest()[:32] + '.json')

  def get(self, *key):
    """The judgement, or None."""
    path = self.path(*key)
    return atomic.read_json(path) if os.path.exists(path) else None

  def split(self, candidates, *what):
    """Which candidates are judged: a list of (candidate, judgement), and one of the others."""
    found = [(one, self.get(one, *what)) for one in candidates]
    return ([(one, value) for one, value in found if value is not None],
            [one for one, value in found if value is None])

  def put(self, value, *key):
    """Keeps a JSON-like value, and returns it."""
    atomic.write_json(self.path(*key), value)
    return value


def judge(task, seed, root, kept, tune, cache=None, precision='float32'):
  """Judges every expert of a hub on one draw of a task.

  Args:
    task: a `zoo.tasks.Task`.
    seed: draws the 1,000 examples.
    root: folder of the hub.
    kept: a `Kept`.
    tune: function of the rows to the candidates that are fine-tuned, as keys of `Candidate`.
    cache: as in `selection.ranking.rank`.
    precision: of fine-tuning, a Keras policy.

  Returns:
    A list of JSON-like dicts, one a candidate: task, seed, handle, expert, name, kind, source,
    first (whether it is the baseline of the most upstream data), scores and versus (by proxy),
    probe and tuned (test accuracies; tuned None where it was not done), seconds. Candidates
    of the task's own upstream data are left out.
  """
  from selection import candidates as candidates_lib
  from selection import ranking
  from zoo import tasks
  found, _ = candidates_lib.for_task(task.source, root)
  first = candidates_lib.plain_baseline(found)
  sizes = {one.image_size for one in found}
  drawn = ranking.sample(task, sizes, seed=seed)
  test = tasks.read_sizes(task, [tasks.protocol_1k(task, seed).test], sizes)
  digest = test[min(sizes)].digest()
  rows = {}
  for one, values in _frozen(found, drawn, test, digest, kept, cache):
    rows[one.key] = {
        'task': task.name, 'seed': seed, 'handle': one.handle, 'expert': one.expert,
        'name': one.name, 'kind': one.kind, 'source': one.source, 'first': one is first,
        **values, 'tuned': None}
  for key, matched in _matched(found, root, drawn, cache).items():
    rows[key]['scores'] |= {name: score.value for name, score in matched.scores.items()}
    rows[key]['seconds']['match'] = matched.seconds
  _compare(list(rows.values()))
  chosen = tune(list(rows.items()))
  for one, values in _tuned([one for one in found if one.key in chosen], task, drawn, test,
                            digest, kept, precision):
    rows[one.key]['tuned'] = values['accuracy']
    rows[one.key]['seconds']['tuned'] = values['seconds']
  return list(rows.values())


def _compare(rows):
  """Adds to each row `versus`: by proxy its gain on the proxy's best baseline, and the noise."""
  from selection import compare
  from selection import proxies
  outcomes = [{name: proxies.accuracy(unhex(text)) for name, text in row.pop('correct').items()}
              for row in rows]
  for row in rows:
    row['versus'] = {}
  for name in outcomes[0]:
    baselines = [own[name] for row, own in zip(rows, outcomes, strict=True)
                 if row['kind'] == 'baseline']
    if baselines:
      best = max(baselines, key=lambda score: score.value)
      for row, own in zip(rows, outcomes, strict=True):
        row['versus'][name] = compare.paired(own[name], best)


def _matched(found, root, drawn, cache):
  """What the hub's predictors say of each candidate, as `selection.matching.match` does."""
  from export import hub as hub_lib
  from selection import cache as cache_lib
  from selection import embeddings
  from selection import matching
  modules = hub_lib.modules(root)
  there = {module.metadata['predicts'] for module in modules if module.kind == 'predictor'}
  matchers = [one for one in (matching.Domain(), matching.Labels()) if one.predicts in there]
  if not matchers:
    return {}
  source = embeddings.Embeddings(drawn.images, cache_lib.opened(cache))
  return matching.match(matchers, matching.predictors(matchers, modules, found), found, source,
                        len(drawn.labels))


def _frozen(found, drawn, test, digest, kept, cache):
  """(candidate, values) for each: scores of the proxies, and the linear probe."""
  import numpy as np
  from selection import cache as cache_lib
  from selection import embeddings
  from selection import proxies
  import threadpoolctl
  key = 'frozen 1', drawn.digest, digest
  done, missing = kept.split(found, *key)
  yield from done
  if not missing:
    return
  scorers = {'knn': proxies.Knn(), 'knn5': proxies.Knn(5), 'cosine': proxies.Knn(1, 'cosine'),
             'ridge': proxies.Ridge(), 'logme': proxies.LogME(), 'hscore': proxies.HScore()}
  number = len(drawn.labels)
  both = {size: np.concatenate([drawn.images[size], test[size].images]) for size in test}
  labels = test[min(test)].labels
  with threadpoolctl.threadpool_limits(1, 'blas'):
    source = embeddings.Embeddings(both, cache_lib.opened(cache))
    for own in source.of(missing, np.arange(number + len(labels))):
      if own.error:
        raise ValueError(own.error)
      frozen, start = own.embeddings[:number], time.monotonic()
      scores = {name: scorer(frozen, drawn.labels) for name, scorer in scorers.items()}
      values = {
          'scores': {name: score.value for name, score in scores.items()},
          'correct': {name: _hex(score.correct) for name, score in scores.items()
                      if score.correct is not None},
          'probe': probe(frozen, drawn.labels, own.embeddings[number:], labels),
          # Of the 1,000 examples, without those of the test split.
          'seconds': {'embed': own.seconds * number / (number + len(labels)) if own.computed
                      else None, 'proxies': time.monotonic() - start}}
      yield own.candidate, kept.put(values, own.candidate, *key)


def probe(embeddings, labels, test_embeddings, test_labels):
  """Test accuracy of a ridge classifier, its penalty by leave-one-out: float.

  Args:
    embeddings, test_embeddings: float [N, F], [M, F].
    labels, test_labels: int [N], [M].
  """
  import sklearn.linear_model
  import sklearn.pipeline
  import sklearn.preprocessing
  model = sklearn.pipeline.make_pipeline(
      sklearn.preprocessing.StandardScaler(),
      sklearn.linear_model.RidgeClassifierCV(PENALTIES))
  return float(model.fit(embeddings, labels).score(test_embeddings, test_labels))


def _hex(correct):
  """Outcomes bool [N] as a short text; `unhex` reads it."""
  import numpy as np
  return f'{len(correct)}:{np.packbits(correct).tobytes().hex()}'


def unhex(text):
  """The outcomes, bool [N], that a row keeps as text."""
  import numpy as np
  number, digits = text.split(':')
  return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))[:int(number)].astype(bool)


def _told(rule):
  """A recipe as part of a key; fields that came later count only where they are set."""
  later = {field.name: field.default for field in dataclasses.fields(rule)
           if field.name in ('tenths', 'mixup')}
  return {name: value for name, value in rule.to_dict().items()
          if name not in later or value != later[name]}


def _tuned(found, task, drawn, test, digest, kept, precision):
  """(candidate, values) for each: test accuracy after fine-tuning, and its seconds."""
  from finetune import fixed
  from finetune import sweep
  from zoo import tasks
  rule = sweep.quick(sweep.Plan(batch=BATCH))
  key = 'tuned 1', drawn.digest, digest, _told(rule), precision
  done, missing = kept.split(found, *key)
  yield from done
  train = {size: tasks.Examples(own, drawn.labels) for size, own in drawn.images.items()}
  for one, logits, seconds in fixed.finetune_each(
      missing, len(task.class_names), train, test, rule, precision=precision):
    accuracy = float((logits.argmax(1) == test[one.image_size].labels).mean())
    logger.info('%s, %s: %.1f%% in %.0f s', task.name, one.describe(), 100 * accuracy, seconds)
    yield one, kept.put({'accuracy': accuracy, 'seconds': seconds}, one, *key)


def to_tune(rows, which, best=2, names=('knn', 'ridge', 'logme', 'domain')):
  """The candidates that are fine-tuned.

  Args:
    rows: a list of (key, row) of one draw of a task.
    which: 'all'; 'none'; or 'chosen': the baselines, those that some selector chooses, and the
      best by linear probe, without which there is no saying what the best expert gives.
    best: how many of the best by linear probe.
    names: scores that choose, beside the mean by which rankings are made.

  Returns:
    A set of keys.
  """
  if which != 'chosen':
    return {key for key, _ in rows} if which == 'all' else set()
  own = [row for _, row in rows]
  chosen = sorted(own, key=lambda row: -row['probe'])[:best]
  chosen += [row for row in own if row['kind'] == 'baseline']
  for name in names:
    chosen += selectors.best(own, name)
  chosen += selectors.best_mean(own, selectors.DEFAULT)
  return {key for key, row in rows if any(row is one for one in chosen)}


def _rounded(value):
  """A JSON-like value with five significant digits, so that lines stay short."""
  if isinstance(value, dict):
    return {key: _rounded(own) for key, own in value.items()}
  return float(f'{value:.5g}') if isinstance(value, float) else value


FLAGS = cli.new_flags()
flags.DEFINE_string('hub', hub.EMBEDDED, 'Folder of the hub.', flag_values=FLAGS)
flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.', flag_values=FLAGS)
flags.DEFINE_string('work_dir', 'runs/regret', 'Folder of what is kept.', flag_values=FLAGS)
flags.DEFINE_list('tasks', [], 'Of the suite; all if empty.', flag_values=FLAGS)
cli.define_seeds(FLAGS, [0, 1, 2], 'Draws of the 1,000 examples.')
flags.DEFINE_enum('tune', 'all', ['all', 'chosen', 'none'], 'Fine-tune all experts; or the '
                  'baselines, the choices of selectors and the two best by linear probe; or none.',
                  flag_values=FLAGS)
flags.DEFINE_string('precision', 'float32', 'Keras precision policy of fine-tuning.',
                    flag_values=FLAGS)


def main(values, command):
  del command
  kept = Kept(values.work_dir)
  for seed in values.seeds:
    for entry in suite.tasks():
      if values.tasks and entry.name not in values.tasks:
        continue
      task = suite.load(entry.name, values.data_dir)
      for row in judge(task, seed, values.hub, kept,
                       lambda rows: to_tune(rows, values.tune),
                       precision=values.precision):
        print(json.dumps(_rounded({'group': entry.group, **row})), flush=True)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
