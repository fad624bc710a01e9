"""Ranking on the workers of a Beam runner: the same ranking, kept as it comes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from conftest import ROOT
from conftest import shapes_task

from selection import proxies
from selection import rank_main
from selection import ranking

TWO_PROCESSES = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')


def test_without_beam_one_line_says_what_to_install(console, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)  # as a failed import does
  monkeypatch.delitem(sys.modules, 'selection.distributed', raising=False)
  code, out, err = console(rank_main, '--runner=DirectRunner', '--work_dir=here')
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert "pip install 'expert-zoo[beam]'" in err


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--runner=DirectRunner'], 'give --work_dir'),
    (['--work_dir=here'], 'give --runner too'),
    (['--beam_args=--direct_num_workers=2'], 'give --runner too'),
])
def test_flags_of_a_runner_come_together(console, flags, complaint):
  code, out, err = console(rank_main, *flags)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert complaint in err


@pytest.fixture
def distributed():
  """The module under test, which needs Beam."""
  pytest.importorskip('apache_beam', reason="Apache Beam is absent: pip install '.[beam]'",
                      exc_type=ImportError)
  from selection import distributed
  return distributed


@pytest.fixture(scope='module')
def shapes():
  """A task of 3 shapes, 90 to train and 30 to test."""
  return shapes_task(90, 30)


def _result(ranked):
  """A ranking as JSON, less what it cost."""
  return _less_cost(ranked.to_dict())


def _less_cost(result):
  for entry in result['experts']:
    del entry['seconds'], entry['computed']
  return result


def _outcomes(ranked):
  """All that the scores say, to the last digit."""
  def plain(array):
    return None if array is None else (array.dtype.str, array.tolist())
  return {entry.candidate.key: {
      name: (score.value, score.stderr, plain(score.correct), plain(score.replicates))
      for name, score in entry.scores.items()} for entry in ranked.entries}


def test_a_ranking_on_workers_is_that_of_this_process_to_the_last_digit(
    distributed, shapes, tiny_hub, tmp_path):
  how = {'proxies': proxies.NAMES, 'k': 3, 'distance': 'cosine', 'seed': 1, 'cache': ''}
  here = ranking.rank(shapes, tiny_hub, **how)
  workers = distributed.Workers('DirectRunner', str(tmp_path / 'work'))
  for _ in range(2):  # computed, then read back
    there = ranking.rank(shapes, tiny_hub, workers=workers, **how)
    assert _result(there) == _result(here)
    assert _outcomes(there) == _outcomes(here)


def test_two_processes_rank_as_one_does(distributed, tiny_hub, picture_folder, console, tmp_path):
  flags = [f'--hub={tiny_hub}', f'--task=folder:{picture_folder}', '--proxy=knn,logme',
           '--cache=', '--json']
  _, here, _ = console(rank_main, *flags)
  code, there, err = console(rank_main, *flags, '--runner=DirectRunner',
                             f'--beam_args={",".join(TWO_PROCESSES)}', f'--work_dir={tmp_path}')
  assert code == 0, err
  assert _less_cost(json.loads(there)) == _less_cost(json.loads(here))


def test_a_second_run_computes_only_what_is_new(distributed, shapes, tiny_hub, tmp_path, caplog):
  def computed(*names, **settings):
    ranked = ranking.rank(
        shapes, '', [os.path.join(tiny_hub, 'test', name, '1') for name in names], cache='',
        workers=distributed.Workers('DirectRunner', str(tmp_path / 'work')), **settings)
    return {entry.candidate.name: entry.computed for entry in ranked.entries}

  assert computed('baseline') == {'baseline': 90}
  with caplog.at_level('INFO', 'selection.distributed'):
    assert computed('baseline', 'packed') == {'baseline': 0, 'circle': 90, 'square': 90}
  assert '1 of 3 experts are in' in caplog.text
  assert computed('baseline', k=3) == {'baseline': 90}
  assert computed('baseline', examples=60) == {'baseline': 60}
  assert computed('packed', 'baseline') == {'baseline': 0, 'circle': 0, 'square': 0}


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_distributed as story
from selection import distributed, ranking
score, units = ranking.score, []
def score_or_die(unit, *arguments):
  units.append(unit)
  if len(units) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  return score(unit, *arguments)
ranking.score = score_or_die
ranking.rank(story.shapes.__wrapped__(), '', {handles!r}, cache='',
             workers=distributed.Workers('DirectRunner', {work!r}))
"""


def test_after_a_kill_the_same_command_takes_up_the_rest(
    distributed, shapes, tiny_hub, tmp_path):
  handles = [os.path.join(tiny_hub, 'test', name, '1') for name in ('baseline', 'expert')]
  work = str(tmp_path / 'work')
  code = KILLED.format(tests=str(ROOT / 'tests'), handles=handles, work=work)
  killed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False, cwd=ROOT)
  assert killed.returncode == -9, killed.stderr
  ranked = ranking.rank(shapes, '', handles, cache='',
                        workers=distributed.Workers('DirectRunner', work))
  assert sorted(entry.computed for entry in ranked.entries) == [0, 90]
  assert _result(ranked) == _result(ranking.rank(shapes, '', handles, cache=''))


def test_a_module_that_fails_is_dropped_and_tried_again(
    distributed, shapes, tiny_hub, tmp_path, monkeypatch):
  workers = distributed.Workers('DirectRunner', str(tmp_path / 'work'))
  hub = str(tmp_path / 'hub')
  shutil.copytree(tiny_hub, hub)
  graph = pathlib.Path(hub, 'test/expert/1/saved_model.pb')
  whole = graph.read_bytes()
  graph.write_bytes(whole[:5000])
  score = ranking.score

  def odd(unit, *arguments):  # fails in a way that nobody foresaw
    if unit[0].kind == 'packed':
      raise MemoryError
    return score(unit, *arguments)

  monkeypatch.setattr(ranking, 'score', odd)
  ranked = ranking.rank(shapes, hub, workers=workers, cache='')
  reasons = {e.candidate.describe(): e.dropped for e in ranked.entries}
  assert reasons.pop('test/baseline/1') is None
  assert 'damaged' in reasons.pop('test/expert/1')
  assert set(reasons.values()) == {'MemoryError: MemoryError'}

  monkeypatch.undo()
  graph.write_bytes(whole)
  ranked = ranking.rank(shapes, hub, workers=workers, cache='')
  assert {e.candidate.describe(): e.computed for e in ranked.entries} == {
      'test/baseline/1': 0, 'test/expert/1': 90, 'test/packed/1 (circle)': 90,
      'test/packed/1 (square)': 90}
  assert _result(ranked)['experts'] == _result(ranking.rank(shapes, hub, cache=''))['experts']


def test_a_damaged_result_is_computed_again(distributed, shapes, tiny_hub, tmp_path):
  def rank():
    return ranking.rank(shapes, '', [os.path.join(tiny_hub, 'test/baseline/1')], cache='',
                        workers=distributed.Workers('DirectRunner', str(tmp_path / 'work')))

  whole = rank()
  (path,) = (tmp_path / 'work' / 'experts').iterdir()
  path.write_bytes(path.read_bytes()[:-50])
  again = rank()
  assert again.winner.computed == 90
  assert _result(again) == _result(whole)


def test_results_and_examples_may_lie_on_a_far_file_system(
    distributed, shapes, tiny_hub, tmp_path):
  from apache_beam.io import localfilesystem
  far = 'far://bucket'

  def near(path):
    return path.replace(far, str(tmp_path / 'far'))

  def there(path):
    return path.replace(str(tmp_path / 'far'), far)

  class FarFileSystem(localfilesystem.LocalFileSystem):
    """As Beam's file systems of objects: paths have a scheme, and open() knows none."""

    @classmethod
    def scheme(cls):
      return 'far'

    def join(self, base, *paths):
      return '/'.join((base, *paths))

    def split(self, path):
      return tuple(path.rsplit('/', 1))

    def exists(self, path):
      return super().exists(near(path))

    def create(self, path, *arguments):
      return super().create(near(path), *arguments)

    def open(self, path, *arguments):
      return super().open(near(path), *arguments)

    def rename(self, sources, targets):
      super().rename([near(path) for path in sources], [near(path) for path in targets])

    def _list(self, folder):
      for file in super()._list(near(folder)):
        file.path = there(file.path)
        yield file

  here = ranking.rank(shapes, tiny_hub, cache='')
  workers = distributed.Workers('DirectRunner', far)
  assert _result(ranking.rank(shapes, tiny_hub, workers=workers, cache='')) == _result(here)
  again = ranking.rank(shapes, tiny_hub, workers=workers, cache='')
  assert {entry.computed for entry in again.entries} == {0}
  assert not [name for name in os.listdir(tmp_path / 'far' / 'experts')
              if not name.endswith('.json')]


def test_a_pipeline_that_fails_says_why_and_where_its_results_are(
    distributed, shapes, tiny_hub, tmp_path):
  def rank(**settings):
    return ranking.rank(shapes, '', [os.path.join(tiny_hub, 'test/baseline/1')], cache='',
                        workers=distributed.Workers('DirectRunner', str(tmp_path / 'work')),
                        **settings)

  rank()
  (examples,) = (tmp_path / 'work' / 'samples').iterdir()
  examples.write_bytes(examples.read_bytes()[:-50])
  with pytest.raises(RuntimeError, match=r'the pipeline failed \(.*npy is damaged .* remove it.*'
                     r'\); what was done is kept in .*work'):
    rank(k=3)
  examples.unlink()
  assert rank(k=3).winner.computed == 90


def test_the_local_runner_fetches_no_program(distributed, shapes, tiny_hub, tmp_path, monkeypatch):
  from apache_beam.runners.portability import prism_runner
  asked = []
  monkeypatch.setattr(prism_runner.PrismRunner, 'run_pipeline', lambda *_: asked.append(1))
  ranking.rank(shapes, '', [os.path.join(tiny_hub, 'test/baseline/1')], cache='',
               workers=distributed.Workers('DirectRunner', str(tmp_path / 'work')))
  assert not asked


@pytest.mark.parametrize(('runner', 'beam_args', 'complaint'), [
    ('no_such', [], 'Unexpected pipeline runner: no_such'),
    ('DirectRunner', ['--direct_running_mode=fast'], 'invalid choice: \'fast\''),
    ('DirectRunner', ['direct_num_workers=2'], 'is no option: give --name=value'),
])
def test_what_beam_does_not_know_is_said_before_the_work(
    distributed, tiny_hub, console, runner, beam_args, complaint):
  code, out, err = console(rank_main, f'--hub={tiny_hub}', f'--runner={runner}', '--work_dir=here',
                           f'--beam_args={",".join(beam_args)}')
  assert (code, out, err.count('\n')) == (1, '', 1)
  assert complaint in err


def test_an_option_that_beam_does_not_know_is_warned_of(distributed, caplog):
  distributed.Workers('DirectRunner', 'here', ['--direct_num_worker=2'])
  assert 'Beam does not know --direct_num_worker' in caplog.text


def test_workers_do_not_race(shapes, tiny_hub):
  with pytest.raises(ValueError, match='leave out --noexhaustive'):
    ranking.rank(shapes, tiny_hub, exhaustive=False, workers=types.SimpleNamespace())
