"""Many experts fine-tuned on one task under one fixed rule, without a sweep.

Experts of one architecture share a compiled training step, so that each costs little more
than its updates.
Shapes: N test examples, C classes.
"""

import time

from finetune import sweep
from finetune import tuned
from zoo import batches


def finetune_each(candidates, classes, train, test, recipe, trust=False,
                  precision='float32'):
  """Fine-tunes each expert, whole network and new head, and applies it to the test images.

  Args:
    candidates: a list of `selection.candidates.Candidate`.
    classes: C.
    train, test: dict from image size to `zoo.tasks.Examples`.
    recipe: the `zoo.training.Recipe` for all.
    trust: as in `export.hub.check`.
    precision: a Keras precision policy, for modules of ours.

  Yields:
    (candidate, logits, seconds): float32 [N, C]. Those that share an architecture follow
    each other, so that the order is not the given one.

  Raises:
    ValueError: a module cannot be fine-tuned.
    zoo.training.NotFiniteError: the loss of one is NaN or infinite.
  """
  networks = tuned.Networks(classes, precision=precision, trust=trust)
  setting = sweep.Setting(recipe)
  for candidate in sorted(candidates, key=lambda one: tuned.kind_of(one) or one.handle):
    start = time.monotonic()
    _, trainer = networks.of(candidate, setting)
    trainer.fit(batches.of(train[candidate.image_size], recipe, classes), recipe,
                what=candidate.describe())
    logits = trainer.predict(test[candidate.image_size].images)
    yield candidate, logits, time.monotonic() - start
