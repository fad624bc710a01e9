"""Many experts fine-tuned under one rule: sharing what they share changes no result."""

import dataclasses
import os

import numpy as np
import pytest

from conftest import shapes_task
from finetune import fixed
from finetune import tuned
from selection import candidates
from selection import embedder
from zoo import tasks
from zoo import training

RULE = training.Recipe(steps=4, batch=16, learning_rate=0.05, flip=False, crop=0)


@pytest.fixture(scope='module')
def examples():
  task = shapes_task(60, 30)
  return [{16: tasks.read(task, (split, None), 16)} for split in ('train', 'test')]


def _images(number=3):
  return np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3)).astype(np.uint8)


def test_experts_that_share_a_compiled_step_end_as_they_would_alone(tiny_hub, examples):
  found = candidates.find(tiny_hub)
  together = {one.key: logits for one, logits, _ in fixed.finetune_each(
      found, 3, *examples, RULE)}
  assert len(together) == 4
  # The last of each architecture, before which the others had the step.
  for one in {tuned.kind_of(one): one for one in found}.values():
    (_, alone, _), = fixed.finetune_each([one], 3, *examples, RULE)
    np.testing.assert_allclose(together[one.key], alone, rtol=1e-4, atol=1e-5)


def test_fine_tuning_begins_at_what_the_module_computes(tiny_hub):
  images = _images()
  for one in candidates.find(tiny_hub):
    model = tuned.build(one, 3)
    wanted = embedder.Embedder(one.module)(images, np.arange(3), (one.expert,))[0]
    np.testing.assert_allclose(model.body(images / np.float32(255)), wanted, atol=1e-5)
    assert not np.asarray(model(images / np.float32(255))).any()


def test_of_a_packed_module_only_the_wanted_expert_is_built(tiny_hub):
  one = candidates.one('test/packed#square', tiny_hub)
  stored = one.module.metadata['parameters']
  body = tuned.build(one, 3).body
  assert body.adapters.experts == 1
  assert body.count_params() < stored


def test_a_module_not_of_ours_is_fine_tuned_as_the_saved_model_it_is(tiny_hub, examples):
  ours = candidates.one('test/baseline', tiny_hub)
  foreign = dataclasses.replace(ours, module=dataclasses.replace(
      ours.module, metadata={**ours.module.metadata, 'architecture': None}))
  assert tuned.kind_of(foreign) is None
  (_, one, _), = fixed.finetune_each([ours], 3, *examples, RULE)
  (_, other, _), = fixed.finetune_each([foreign], 3, *examples, RULE)
  np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_module_that_was_tampered_with_is_refused_wherever_it_stands(
    tiny_hub, examples, tmp_path):
  import shutil
  root = shutil.copytree(tiny_hub, tmp_path / 'hub')
  folder = root / 'test' / 'expert' / '1' / 'variables'
  name = next(name for name in os.listdir(folder) if '.data' in name)
  data = bytearray((folder / name).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / name).write_bytes(data)
  found = [candidates.one(handle, str(root)) for handle in ('test/baseline', 'test/expert')]
  with pytest.raises(ValueError, match='test/expert/1'):
    list(fixed.finetune_each(found, 3, *examples, RULE))
