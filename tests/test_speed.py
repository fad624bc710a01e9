"""The benchmarks measure what they say; how fast things are is not for tests."""

import pytest

from benchmarks import made_hub
from benchmarks import racing
from benchmarks import selection_speed
from benchmarks import speed
from export import graphs
from export import hub
from selection import ranking
from zoo import tasks


def test_the_benchmark_gives_rates_and_their_ratios():
  found = speed.measure('r8w16', image_size=16, batch=8, steps=2, rounds=2)
  assert set(found['images_per_second']) == {
      'forward', 'embed', 'keras_fit', 'hub_fit', 'finetune', 'finetune_foreign',
      'finetune_bfloat16'}
  for value in (*found['images_per_second'].values(), found['embed_over_forward'],
                found['finetune_over_keras_fit'], found['finetune_over_hub_fit']):
    assert value > 0


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  root = str(tmp_path_factory.mktemp('made'))
  made_hub.whole(root, 3)
  return root


def test_made_experts_share_a_graph_and_nothing_else(made):
  modules = hub.modules(made)
  assert [module.kind for module in modules] == ['baseline', 'expert', 'expert']
  assert len({graphs.digest(module.path) for module in modules}) == 1
  assert len({module.metadata['fingerprint'] for module in modules}) == 3


def test_the_scripts_that_a_ranking_is_set_beside_give_its_scores(made):
  drawn = ranking.sample(tasks.digits(), [32], examples=125)
  ranked = ranking.rank(tasks.digits(), made, examples=125)
  scores = {e.candidate.handle: e.scores['knn'].value for e in ranked.entries}
  for script in (selection_speed.user, selection_speed.careful):
    found = script(made, drawn.images[32], drawn.labels)
    assert {handle: score for (handle, _), score in found.items()} == pytest.approx(
        scores, abs=1.01 / 125)  # float32 as scikit-learn has it may turn one example


def test_a_race_is_set_beside_the_exhaustive_ranking(made):
  line, = racing.compare(tasks.digits(), made, 0, [0.6])
  assert line['found'] <= line['best']
  assert 0 < line['share'] <= 1
  assert not line['same'] or line['found'] == line['best']
  assert 'within one standard error' in racing.summary([line])
