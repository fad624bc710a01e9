"""Hubs by URL: a server's as a whole; what a card says to those that show it."""

import os
import shutil

import pytest
from conftest import answering
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import send

from export import deprecation
from export import front_matter
from export import hub
from export import hub_main
from export import server
from selection import candidates


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The folder of what is kept."""
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'kept'))
  return tmp_path / 'kept'


def test_a_served_hub_says_what_is_deprecated(tiny_hub, tmp_path, here):
  shutil.copytree(tiny_hub, tmp_path / 'hub')
  os.rename(tmp_path / 'hub/test/packed', tmp_path / 'hub/test/expert/2')
  os.rename(tmp_path / 'hub/test/expert/2/1', tmp_path / 'hub/test/expert/3')
  deprecation.deprecate(str(tmp_path / 'hub'), 'test/expert/3', 'wrong')
  with server.running(str(tmp_path / 'hub'), str(tmp_path / 'archives')) as url:
    assert hub.resolve('test/expert', url).kind == 'expert'  # and not the packed one
    assert {module.handle: module.deprecated for module in hub.modules(url)} == {
        'test/baseline/1': None, 'test/expert/1': None, 'test/expert/3': 'wrong'}


def test_a_served_hub_is_is_one_to_rank_and_once_fetched_works_without_its_server(
    tiny_hub, tmp_path, here, console):
  with server.running(tiny_hub, str(tmp_path / 'archives')) as url:
    found = candidates.find(url)
    assert [one.describe() for one in found] == [
        one.describe() for one in candidates.find(tiny_hub)]
    assert hub.resolve('test/expert', url) == hub.resolve('test/expert/latest', url)
    assert hub.resolve('test/expert', url).handle == 'test/expert/1'
  assert candidates.find(url) == found
  code, out, err = console(hub_main, f'--hub={url}')
  assert code == 0 and 'test/packed/1' in out
  assert len(err.splitlines()) == 1 and err.startswith(
      f'what {url} has: {url} cannot be reached (')


@pytest.mark.parametrize(('content', 'complaint'), [
    ({'modules': [{'handle': '../../etc/1'}]}, 'is not a handle'),
    ({'modules': [{'handle': 'a/b'}]}, 'is not a handle'),
    ({'modules': []}, 'has no module'),
    ({'modules': 3}, 'is no index of modules'),
    ({'modules': [{'handle': []}]}, 'is no index of modules'),
    ('[', 'is no index of modules'),
    ([[]], 'is no index of modules')])
def test_an_index_that_names_no_modules_is_refused(here, content, complaint):
  with (answering(lambda handler: send(handler, 200, content)) as url,
        pytest.raises(ValueError, match=complaint)):
    hub.modules(url)


@pytest.mark.parametrize('root', ['hf://', 'kaggle://'])
def test_a_place_that_cannot_say_what_it_has_says_so(root, here):
  with pytest.raises(ValueError, match=f'--hub={root} cannot be listed: name its modules'):
    hub.modules(root)


def _head(values):
  text = front_matter.front_matter(values)
  yaml = pytest.importorskip('yaml')
  assert text.startswith('---\n') and text.endswith('\n---\n\n')
  return yaml.safe_load(text[4:-5])


@given(st.dictionaries(st.sampled_from(['kind', 'name', 'licence']), st.text()), st.text(),
       st.floats(0, 1))
def test_no_value_of_a_module_can_end_or_change_its_front_matter(values, source, top1):
  head = _head({**values, 'upstream': {'source': source}, 'scores': {'top1': top1}})
  assert set(head) <= {'license', 'license_name', 'library_name', 'pipeline_tag', 'tags',
                       'model-index'}
  assert head['tags'][-1] == str(values.get('kind'))
  if source:
    model, = head['model-index']
    assert model['name'] == str(values.get('name'))
    assert model['results'][0]['dataset']['name'] == source


@pytest.mark.parametrize(('licence', 'wanted'), [
    ('Apache-2.0', {'license': 'apache-2.0'}), ('', {}), (None, {}),
    ('Apache-2.0 for the weights; ask first',
     {'license': 'other', 'license_name': 'apache-2.0-for-the-weights-ask-first'})])
def test_a_licence_that_the_hub_does_not_know_is_another_one_by_name(licence, wanted):
  head = _head({'licence': licence})
  assert {key: value for key, value in head.items() if key.startswith('license')} == wanted


def test_every_card_of_the_embedded_zoo_would_have_scores(here):
  for module in hub.modules(hub.EMBEDDED):
    model, = _head(module.metadata)['model-index']
    assert model['name'] == module.metadata['name']
    assert all(0 < metric['value'] < 1 for result in model['results']
               for metric in result['metrics'])
