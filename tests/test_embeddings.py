"""Embeddings: one graph for all experts that share it, one pass for all that is shared, and
nothing computed twice."""

import os

import numpy as np
import pytest
from conftest import tiny_backbone
from conftest import tiny_description

from export import graphs
from export import hub
from export import metadata
from export import saved_model
from selection import cache
from selection import candidates
from selection import embedder
from selection import embeddings


def pictures(number, size=16, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (number, size, size, 3)).astype(np.uint8)


def by_hand(module, images, **arguments):
  return hub.load(module)(images.astype(np.float32) / 255, **arguments).numpy()


@pytest.fixture(scope='module')
def many(tmp_path_factory):
  """A hub of three whole experts of one architecture and one of another, plus three packed."""
  root = str(tmp_path_factory.mktemp('many'))
  for i in range(3):
    saved_model.save(tiny_backbone(i), _folder(root, f'whole{i}'))
  saved_model.save(_wider(), _folder(root, 'wider'))
  saved_model.save(tiny_backbone(7, experts=3), _folder(root, 'packed'))
  for name in os.listdir(f'{root}/test'):
    kind = 'packed' if name == 'packed' else 'expert'
    more = {'features': 16, 'publisher': 'test', 'name': name, 'version': 1}
    if kind == 'packed':
      more['experts'] = [{'name': letter} for letter in 'abc']
    metadata.write(f'{root}/test/{name}/1', tiny_description(kind, **more))
  return root


def _folder(root, name):
  os.makedirs(f'{root}/test/{name}')
  return f'{root}/test/{name}/1'


def _wider():
  from zoo import backbones
  return backbones.build(backbones.Architecture((1, 1), 12, 'basic', 4, 'small', 2, 16))


def test_experts_of_one_architecture_have_one_graph_whenever_they_were_saved(many):
  digests = {name: graphs.digest(f'{many}/test/{name}/1') for name in os.listdir(f'{many}/test')}
  assert digests['whole0'] == digests['whole1'] == digests['whole2']
  assert len(set(digests.values())) == 3


def _foreign(path, factor, scale):
  """A SavedModel whose graph has a constant (`factor`) and whose weight is `scale`."""
  import tensorflow as tf
  root = tf.train.Checkpoint(scale=tf.Variable(scale))

  # Names of functions count up in a process: those of a second module differ.
  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
  def call(images):
    return factor * root.scale * tf.reduce_mean(images, (1, 2))

  root.__call__ = call
  tf.saved_model.save(root, str(path))


def test_foreign_modules_share_a_graph_if_only_their_weights_differ(tmp_path):
  for name, factor, scale in (('a', 2., 1.), ('b', 2., 5.), ('c', 3., 1.)):
    _foreign(tmp_path / name, factor, scale)
  one, same, other = (graphs.digest(str(tmp_path / name)) for name in 'abc')
  assert one == same
  assert one != other


def test_a_module_with_files_of_its_own_shares_with_none(tmp_path):
  import tensorflow as tf
  (tmp_path / 'words.txt').write_text('a\nb\n')
  root = tf.train.Checkpoint()
  root.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(
      str(tmp_path / 'words.txt'), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
      tf.lookup.TextFileIndex.LINE_NUMBER), -1)
  root.find = tf.function(root.table.lookup,
                          input_signature=[tf.TensorSpec([None], tf.string)])
  tf.saved_model.save(root, str(tmp_path / 'module'))
  assert graphs.digest(str(tmp_path / 'module')) is None


def test_weights_swapped_in_give_what_the_module_itself_gives(many):
  modules = hub.modules(many)
  whole = [module for module in modules if 'whole' in module.handle]
  images = pictures(9)
  program = embedder.Embedder(whole[0])
  for module in (whole[2], whole[1], whole[0]):
    program.use(module)
    np.testing.assert_allclose(program(images, np.arange(9))[0], by_hand(module, images),
                               rtol=1e-5, atol=1e-6)


def test_weights_whose_names_lead_nowhere_are_restored_by_tensorflow(many, monkeypatch):
  monkeypatch.setattr(embedder, '_by_key', lambda *_: None)
  test_weights_swapped_in_give_what_the_module_itself_gives(many)


def test_a_twin_has_the_programs_of_the_first_and_weights_of_its_own(many):
  modules = hub.modules(many)
  one, other, _ = (module for module in modules if 'whole' in module.handle)
  images = pictures(9)
  first = embedder.Embedder(one)
  before = first(images, np.arange(9))
  twin = first.twin()
  twin.use(other)
  np.testing.assert_allclose(twin(images, np.arange(9))[0], by_hand(other, images),
                             rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(first(images, np.arange(9)), before)
  assert first._function.experimental_get_tracing_count() == 1


def test_a_twin_of_a_packed_module_gives_what_the_module_gives(many):
  module = hub.resolve('test/packed/1', many)
  images = pictures(9)
  first = embedder.Embedder(module)
  twin = first.twin()
  for variable in first._variables.values():
    variable.assign(0 * variable)
  twin.use(module)
  for experts in ([1], [0, 1, 2]):
    for expert, found in zip(experts, twin(images, np.arange(9), experts), strict=True):
      np.testing.assert_allclose(found, by_hand(module, images, expert=expert),
                                 rtol=1e-5, atol=1e-6)


def test_the_same_batches_give_the_same_digits_however_many_follow_or_run_at_once(many):
  images = pictures(400)
  for module in hub.modules(many):
    program = embedder.Embedder(module)
    experts = [0, 2] if module.kind == 'packed' else [None]
    whole = program(images, np.arange(400), experts)
    np.testing.assert_array_equal(program(images, np.arange(250), experts), whole[:, :250])
    np.testing.assert_array_equal(program(images, np.arange(250, 400), experts), whole[:, 250:])
    np.testing.assert_array_equal(program(images, np.arange(400), experts, at_once=3), whole)


def test_what_packed_experts_share_runs_once_a_batch(many):
  module = hub.resolve('test/packed/1', many)
  program = embedder.Embedder(module)
  images = pictures(130)
  call, calls = program._call, []
  program._call = lambda function, x, **own: calls.append(function) or call(function, x, **own)
  found = program(images, np.arange(130), [0, 1, 2])
  assert calls == 2 * [program._trunk, *3 * [program._branch]]
  for expert in range(3):
    np.testing.assert_allclose(found[expert], by_hand(module, images, expert=expert),
                               rtol=1e-5, atol=1e-6)


def _embed(source, found, rows):
  return {one.candidate.key: one for one in source.of(found, np.asarray(rows))}


def test_one_graph_is_loaded_for_all_experts_that_share_it(many, monkeypatch):
  loaded = []
  load = hub.load
  monkeypatch.setattr(hub, 'load', lambda module, *a, **k: loaded.append(module.handle) or load(
      module, *a, **k))
  found = candidates.find(many)
  images = pictures(5)
  all_of_them = _embed(embeddings.Embeddings({16: images}), found, range(5))
  assert len(all_of_them) == 7
  assert len(loaded) == 3  # one whole, the wider, the packed
  monkeypatch.undo()
  for candidate in found:
    arguments = {} if candidate.expert is None else {'expert': candidate.expert}
    np.testing.assert_allclose(
        all_of_them[candidate.key].embeddings, by_hand(candidate.module, images, **arguments),
        rtol=1e-5, atol=1e-6)


def test_few_graphs_are_held_at_once(tmp_path, monkeypatch):
  from zoo import backbones
  monkeypatch.setattr(embeddings, 'GRAPHS', 2)
  root = str(tmp_path)
  for width in (4, 8, 12):
    network = backbones.build(backbones.Architecture((1,), width, 'basic', 4, 'small', 2, 16))
    saved_model.save(network, _folder(root, f'w{width}'))
  handles = [f'{root}/test/w{width}/1' for width in (4, 8, 12)]
  source = embeddings.Embeddings({16: pictures(3)})
  assert len(_embed(source, candidates.find('', handles, 16), range(3))) == 3
  assert len(source._programs) == 2


def test_nothing_is_computed_twice(many, tmp_path):
  found = candidates.find(many)
  images = pictures(20)

  def embed(pictures_, rows, handles=None):
    source = embeddings.Embeddings({16: pictures_}, cache.Cache(str(tmp_path / 'cache')))
    chosen = [c for c in found if not handles or c.handle in handles]
    return _embed(source, chosen, rows)

  before = embed(images, range(10), ['test/whole0/1', 'test/packed/1'])
  assert {one.computed for one in before.values()} == {10}
  again = embed(images, range(10))
  for key, one in again.items():
    # A new expert costs one expert.
    assert one.computed == (0 if key in before else 10)
    if key in before:
      np.testing.assert_array_equal(one.embeddings, before[key].embeddings)
  more = embed(images[::-1], range(8, 20))  # the images 11 to 0: two of them are new
  assert {one.computed for one in more.values()} == {2}
  fresh = _embed(embeddings.Embeddings({16: images[::-1]}), found, range(8, 20))
  for key, one in more.items():
    np.testing.assert_allclose(one.embeddings, fresh[key].embeddings, rtol=1e-5, atol=1e-6)


def test_kept_embeddings_need_no_tensorflow_graph(many, tmp_path, monkeypatch):
  source = embeddings.Embeddings({16: pictures(5)}, cache.Cache(str(tmp_path)))
  found = candidates.find(many)
  _embed(source, found, range(5))
  monkeypatch.setattr(embedder, 'Embedder', lambda *_: pytest.fail('a graph was loaded'))
  source = embeddings.Embeddings({16: pictures(5)}, cache.Cache(str(tmp_path)))
  assert all(one.computed == 0 for one in _embed(source, found, range(5)).values())


def test_embeddings_of_a_module_that_has_changed_since_are_not_served(tiny_hub, tmp_path):
  import shutil
  root = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, root)
  images = {16: pictures(5)}
  found = candidates.find(root)
  _embed(embeddings.Embeddings(images, cache.Cache(str(tmp_path / 'cache'))), found, range(5))
  with open(f'{root}/test/expert/1/variables/variables.data-00000-of-00001', 'r+b') as file:
    file.seek(100)
    file.write(b'\1')
  again = _embed(embeddings.Embeddings(images, cache.Cache(str(tmp_path / 'cache'))), found,
                 range(5))
  errors = {c.handle: again[c.key].error for c in found}
  assert 'damaged' in errors.pop('test/expert/1')
  assert set(errors.values()) == {None}


def test_a_module_that_gives_pictures_instead_of_embeddings_is_told(tmp_path):
  import tensorflow as tf
  root = tf.train.Checkpoint()
  root.__call__ = tf.function(lambda images: 2 * images,
                              input_signature=[tf.TensorSpec([None, None, None, 3])])
  tf.saved_model.save(root, str(tmp_path / 'm'))
  found = candidates.find('', [str(tmp_path / 'm')], 16)
  one, = embeddings.Embeddings({16: pictures(5)}).of(found, np.arange(5))
  assert 'an embedding is [N, features]' in one.error


def test_a_published_packed_module_says_what_its_experts_share(tiny_hub):
  network = tiny_backbone(2, experts=2)  # of which it was made
  loaded = hub.load(hub.resolve('test/packed/1', tiny_hub))
  images = pictures(4).astype(np.float32) / 255
  np.testing.assert_allclose(loaded.branch(loaded.trunk(images), expert=1).numpy(),
                             np.asarray(network(images, expert=1)), rtol=1e-5, atol=1e-6)


def test_a_large_packed_module_is_embedded_in_pieces(tiny_hub, monkeypatch):
  """Which bounds memory, in one process and on workers alike."""
  monkeypatch.setattr(embeddings, 'PACKED', 1)
  found = candidates.find(tiny_hub)
  assert [len(unit) for unit in embeddings.units(found)] == [1, 1, 1, 1]
