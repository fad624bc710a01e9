"""The speed benchmark measures what it says; how fast things are is not for tests."""

from benchmarks import speed


def test_the_benchmark_gives_rates_and_their_ratios():
  found = speed.measure('r8w16', image_size=16, batch=8, steps=2, rounds=2)
  assert set(found['images_per_second']) == {'forward', 'embed', 'keras_fit', 'finetune'}
  for value in (*found['images_per_second'].values(), found['embed_over_forward'],
                found['finetune_over_keras_fit']):
    assert value > 0
