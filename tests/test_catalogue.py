"""The catalogue: what it says of a hub is true, and no module can say more than text."""

import ast
import html.parser
import itertools
import json
import os
import shlex
import shutil
import urllib.error
import urllib.request

import pytest
from conftest import tiny_description
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from export import card
from export import catalogue
from export import catalogue_pages
from export import hub
from export import hub_site
from export import metadata
from export import server
from zoo import hierarchy

SHOWN = {'image_size': 16, 'features': 8, 'parameters': 3000}
PREDICTOR = SHOWN | {
    'kind': 'predictor', 'predicts': 'slices', 'classes': ['circle', 'square'],
    'slices': [{'name': 'circle', 'node': 'n1'}, {'name': 'square', 'node': 'n2'}],
    'scores': {'top1': 0.5}, 'command': ['made']}


def _publish(root, handle, description, readme=True):
  """A module as the pages see it: they never look into its graph."""
  publisher, name, version = handle.split('/')
  path = root / handle
  path.mkdir(parents=True, exist_ok=True)
  (path / 'saved_model.pb').write_bytes(handle.encode())
  metadata.write(str(path), {
      'publisher': publisher, 'name': name, 'version': int(version), **SHOWN, **description})
  if readme is True:
    card.write(str(path))
  elif readme:
    (path / 'README.md').write_bytes(readme.encode('utf-8', 'replace'))
  return metadata.read(str(path))['fingerprint']


@pytest.fixture
def root(tmp_path):
  """A hub of a baseline, an expert and a packed module of it, and a predictor."""
  root = tmp_path / 'hub'
  baseline = _publish(root, 'me/base/1', tiny_description('baseline'))
  for kind in ('expert', 'packed'):
    _publish(root, f'me/{kind}/1', tiny_description(kind, parent=baseline))
  _publish(root, 'you/slices/1', PREDICTOR | {'parent': baseline}, readme=False)
  return root


class _Page(html.parser.HTMLParser):
  """What a browser makes of a page: its tags, its text, its scripts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self.data = [], '', ''
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    if self.cdata_elem:
      self.data += data
    else:
      self.text += data

  def shapes(self):
    """The tags with the names of their attributes."""
    return {(tag, tuple(attributes)) for tag, attributes in self.tags}

  def links(self):
    return [attributes['href'] for tag, attributes in self.tags if tag == 'a']


def _pages(root, address='/hub'):
  return {name: _Page(text) for name, text in catalogue_pages.Catalogue(root).files(address)
          if name.endswith('.html')}


# Strangers.

_PIECES = st.sampled_from([
    '<script>alert(1)</script>', '</script><script src=//x>', '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)", '" autofocus onfocus="alert(1)', '<!--', '-->', ']]>', '<![CDATA[',
    '&lt;b&gt;', '&#60;b>', '</title>', '</svg><b>', '<style>*{}', '{{ 7 * 7 }}', '{% x %}',
    '[x](javascript:alert(1))', '![x](http://elsewhere/x.png)', '<http://elsewhere>', '`', '```',
    '|', '\n\n# h\n', '\n\n<div onclick=alert(1)>\n\n', '\\', '\u2028', '\u202e', '\ud800',
    '\x00', '&&', "';x", '$(x)', '_', ':', '/', '[a]: data:text/html,x\n\n[a]', '\n---\n',
    '<svg/onload=x>'])
_HOSTILE = st.lists(_PIECES | st.text(max_size=8), max_size=4).map(''.join)


def _filled(value, texts):
  """A description whose texts are those of an iterator, but where only some words may be."""
  if isinstance(value, dict):
    return {key: one if key in ('kind', 'predicts') else _filled(one, texts)
            for key, one in value.items()}
  if isinstance(value, list):
    return [_filled(one, texts) for one in value]
  return next(texts) if isinstance(value, str) else value


_DESCRIBED = [tiny_description('expert', parent='none', preset='r8w32'),
              tiny_description('packed', parent='none', preset='r8w32'),
              tiny_description('baseline', preset='r8w32'), PREDICTOR | {'licence': 'free'}]


@settings(max_examples=80, suppress_health_check=[
    HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_DESCRIBED), st.lists(_HOSTILE, min_size=1, max_size=30), _HOSTILE)
@example(_DESCRIBED[0], ['"><script>alert(1)</script>'], '"><script>alert(1)</script>')
@example(_DESCRIBED[1], ['\ud800', '</script>'], '\ud800')
def test_nothing_that_a_module_says_becomes_markup(root, description, texts, address):
  _publish(root, 'you/it/1', _filled(description, itertools.cycle('harmless')), readme=False)
  wanted = _pages(root)
  hostile = _filled(description, itertools.cycle(texts))
  _publish(root, 'you/it/1', hostile, readme=False)
  found = _pages(root, address.encode('utf-8', 'replace').decode())
  assert found.keys() == wanted.keys()
  for name, page in found.items():
    assert page.shapes() <= wanted[name].shapes(), name
    assert [one for one in page.tags if one[0] == 'script'] == [
        one for one in wanted[name].tags if one[0] == 'script']
  kept = json.loads(found['compare.html'].data)['you/it/1']
  assert kept['page'] == 'you/it/1/index.html'
  if hostile.get('slice'):
    name = hostile['slice']['name'].encode('utf-8', 'replace').decode()
    if name:
      assert name in found['you/it/1/index.html'].text
      assert f'{name} (2 classes)' in dict(kept['facts'])['slice']


@settings(max_examples=300)
@given(st.lists(_PIECES | st.text(max_size=12) | st.sampled_from(
    ['\n', ' ', '    ', '- ', '> ', '1. ', '| a | b |\n|--:|---|\n| c | d |\n',
     '[b](https://b "t")', '**', '](', '<https://b>', '<a href="x">', '[c](JaVaScRiPt:x)',
     '[d](//e)', '[f](file:///g)']),
    max_size=12).map(''.join))
def test_the_markdown_of_a_stranger_brings_no_html_no_image_and_no_link_but_to_the_web(text):
  page = _Page(str(catalogue_pages.markdown(text.encode('utf-8', 'replace').decode())))
  for tag, attributes in page.tags:
    assert tag in ('h3', 'h4', 'h5', 'h6', 'p', 'ul', 'ol', 'li', 'blockquote', 'pre',
                   'code', 'em', 'strong', 'a', 'br', 'hr', 'table', 'thead', 'tbody', 'tr', 'th',
                   'td')
    assert set(attributes) <= {'a': {'href', 'title', 'rel'}, 'code': {'class'}, 'ol': {'start'},
                               'td': {'class'}, 'th': {'class'}}.get(tag, set())
    if tag == 'a':
      assert attributes['href'].lower().startswith(('http://', 'https://', '#')) or (
          attributes['href'] == '')  # this page
      assert attributes['rel'] == 'nofollow noopener noreferrer'


def test_markdown_is_shown_as_such():
  page = _Page(str(catalogue_pages.markdown(
      '# Title\n\n**bold** <b>\n\n| a | b |\n|---|---:|\n| 1 | 2 |\n')))
  assert [tag for tag, _ in page.tags][:3] == ['h3', 'p', 'strong']
  assert ('td', {'class': 'n'}) in page.tags  # a style would be against the policy
  assert 'bold <b>' in page.text


@pytest.mark.parametrize('change', [
    {'scores': 'x'}, {'scores': {'slice_top1': 'high'}}, {'slice': []}, {'command': [1]},
    {'experts': [{'name': {}}]}, {'parameters': '9'}, {'licence': 3}, {'cost': {'seconds': 1e999}},
    {'upstream': {'source': 1}}, {'slice': {'classes': [None]}}, {'parameters': True},
    {'fingerprint': None}])
def test_a_module_that_says_nonsense_is_left_out_and_the_others_stay(root, change, caplog):
  described = tiny_description('expert') | change
  path = root / 'you/odd/1'
  _publish(root, 'you/odd/1', tiny_description('expert'))
  kept = json.loads((path / 'module.json').read_text())
  (path / 'module.json').write_text(json.dumps(kept | described))
  pages = catalogue_pages.Catalogue(root)
  assert [one['handle'] for one in pages.entries()] == [
      'me/base/1', 'me/expert/1', 'me/packed/1', 'you/slices/1']
  assert 'you/odd/1 is not listed' in caplog.text
  assert pages.module('you/odd/1', '') is None


def test_links_out_of_the_hub_are_not_followed(root, tmp_path):
  (tmp_path / 'secret').write_text('secret')
  (root / 'me/expert/1/README.md').unlink()
  (root / 'me/expert/1/README.md').symlink_to(tmp_path / 'secret')
  (root / 'linked').symlink_to(root / 'me')
  assert [one['handle'] for one in catalogue_pages.Catalogue(root).entries()] == [
      'me/base/1', 'me/packed/1', 'you/slices/1']


# What the pages say.


def test_an_entry_says_what_a_module_is(root):
  base, expert, packed, slices = catalogue_pages.Catalogue(root).entries()
  assert (base['score'], base['gain'], base['score_of']) == (0.5, None, 'top-1')
  assert [bar['name'] for bar in base['bars']] == ['top-1', 'top-5']
  assert (expert['score'], expert['gain']) == (0.5, pytest.approx(0.1))
  assert expert['size'] == sum(
      file.stat().st_size for file in (root / 'me/expert/1').rglob('*') if file.is_file())
  assert (packed['experts'], len(packed['bars'])) == (['circle', 'square'], 2)
  assert packed['score_of'] == 'mean top-1 of 2 experts, each on its slice'
  assert catalogue.knows(slices) == '2 slices'
  assert dict(catalogue.facts(expert))['gain over the baseline'] == '+10.0 points'
  assert [what for what, _ in catalogue.facts(expert)][3:] == [
      what for what, _ in catalogue.facts(packed)][3:]


def test_a_module_that_says_little_still_has_a_page(tmp_path):
  _publish(tmp_path, 'me/it/1', {'kind': 'expert', 'slice': {'name': 'x'}}, readme=False)
  _publish(tmp_path, 'me/pack/1', {'kind': 'packed', 'experts': [{'name': 'y'}]}, readme=False)
  pages = _pages(tmp_path)
  assert 'not stated' in pages['index.html'].text
  assert 'KerasLayer' in pages['me/it/1/index.html'].text
  assert 'Scores' not in pages['me/it/1/index.html'].text


def test_the_page_of_a_module_has_its_card_without_saying_things_twice(root):
  text = _pages(root)['me/packed/1/index.html'].text
  assert '2 experts in one network' in text
  assert text.count('KerasLayer') == 1
  assert 'path_of_this_folder' not in text
  (root / 'me/packed/1/README.md').write_text(
      '---\nlicense: mit\n---\n# Mine\n\n## Use\n\nAs you like.')
  text = _pages(root)['me/packed/1/index.html'].text
  assert 'As you like.' in text
  assert 'license' not in text


@pytest.mark.parametrize('address', ['/a hub/of "mine"', 'https://hub.example.org', "/it's"])
def test_the_lines_that_load_a_module_are_python_and_shell_whatever_the_address(root, address):
  pages = catalogue_pages.Catalogue(root)
  page = _Page(pages.module('me/packed/1', address))
  entry = pages.entries()[2]
  code = catalogue_pages._code(entry, f'{address}/me/packed/1')
  assert code in page.text
  call = ast.parse(code).body[1].value
  assert call.args[0].value == f'{address}/me/packed/1'
  assert ast.unparse(call.keywords[1].value) == "{'expert': 0}"
  commands = catalogue_pages._commands(entry, f'{address}/me/packed/1')
  assert commands in page.text
  assert [shlex.split(line)[2] for line in commands.splitlines()] == [
      f'--handles={address}/me/packed/1', f'--handles={address}/me/packed/1',
      f'--handle={address}/me/packed/1#0']


def test_a_deprecated_module_says_why_in_the_list_and_on_its_page(root, monkeypatch):
  entries = catalogue_pages.Catalogue.entries
  monkeypatch.setattr(catalogue_pages.Catalogue, 'entries', lambda self: [
      one | {'deprecated': '<b>2</b> is better' if one['kind'] == 'expert' else None}
      for one in entries(self)])
  pages = _pages(root)
  for name in ('index.html', 'me/expert/1/index.html'):
    assert '<b>2</b> is better' in pages[name].text
  assert 'Deprecated' not in pages['me/base/1/index.html'].text
  assert '<b>2</b> is better' in pages['compare.html'].data.encode().decode('unicode_escape')


# Where it comes from.


def _made(handle, fingerprint, parent=None, slices=(), data='data:1'):
  return {'handle': handle, 'fingerprint': fingerprint, 'parent': parent,
          'upstream': {'source': data}, 'slices': [
              {'name': name, 'node': node, 'classes': classes} for name, node, classes in slices]}


def test_provenance_leads_back_to_the_first_network():
  hub_ = [_made('a/base/1', '0'), _made('a/expert/1', '1', '0'), _made('a/tuned/1', '2', '1')]
  known, made = catalogue.kin(hub_)
  chain, missing = catalogue.provenance(hub_[2], known)
  assert ([one['handle'] for one in chain], missing) == (['a/base/1', 'a/expert/1'], None)
  assert catalogue.provenance(hub_[0], known) == ([], None)
  assert [one['handle'] for one in made['0']] == ['a/expert/1']
  chain, missing = catalogue.provenance(hub_[2], catalogue.kin(hub_[1:])[0])
  assert ([one['handle'] for one in chain], missing) == (['a/expert/1'], '0')


def test_provenance_of_a_circle_ends():
  hub_ = [_made('a/x/1', '0', '1'), _made('a/y/1', '1', '0'), _made('a/z/1', '2', '2')]
  known, made = catalogue.kin(hub_)
  assert [one['handle'] for one in catalogue.provenance(hub_[0], known)[0]] == ['a/y/1']
  assert catalogue.provenance(hub_[2], known) == ([], None)
  assert '2' not in made


def test_the_embedded_experts_lead_to_their_baselines_by_links():
  page = _Page(catalogue_pages.Catalogue(hub.EMBEDDED).module('zoo/tiny32-animal/2', ''))
  assert '../../../zoo/tiny32-baseline/2/index.html' in page.links()
  assert '89,960 images' in page.text


def test_the_tree_of_slices_is_that_of_their_label_tree(many_slices):
  tree = hierarchy.from_json(os.path.join(os.path.dirname(hub.EMBEDDED), 'trees/cifar100.json'))
  entries = [one for one in catalogue_pages.Catalogue(many_slices).entries()
             if catalogue.source(one).startswith('cifar100') and one['slices']]
  nodes, under = catalogue.slice_tree(entries)
  assert len(entries) == 9
  for one, places in zip(entries, under, strict=True):
    own = one['slices'][0]['node']
    assert {nodes[place]['key'].split('#')[1] for place in places if place} == {
        other['slices'][0]['node'] for other in entries
        if other['slices'][0]['node'] in tree.ancestors[own]}


@given(st.lists(st.tuples(st.sampled_from('st'), st.frozensets(st.integers(0, 4))), max_size=9))
def test_a_slice_lies_below_all_that_have_its_classes_and_more(drawn):
  entries = [_made(f'a/{i}/1', str(i), None, [(f's{i}', None, sorted(map(str, classes)))], data)
             for i, (data, classes) in enumerate(drawn)]
  nodes, under = catalogue.slice_tree(entries)
  for i, (data, classes) in enumerate(drawn):
    above = {f'{data}#s{j}' for j, (other, more) in enumerate(drawn)
             if other == data and classes and classes < more}
    assert {nodes[place]['key'] for place in under[i]} == above | {data, f'{data}#s{i}'}
  way = []
  for place, node in enumerate(nodes):  # every node stands behind one that it lies below
    del way[node['level'] - 1:]
    assert len(way) == node['level'] - 1
    if node['level'] > 2:
      inner, outer = (dict(zip([f's{i}' for i in range(len(drawn))], drawn, strict=True))[
          key.split('#')[1]][1] for key in (node['key'], way[-1]['key']))
      assert inner < outer
    assert node['modules'] == sum(place in places for places in under)
    way.append(node)
  for node in nodes:
    assert node['position'] <= node['siblings']


def test_slices_nested_a_thousand_times_are_a_tree_too():
  entries = [_made(f'a/{i}/1', str(i), None, [(f's{i}', None, list(map(str, range(i + 1))))])
             for i in range(1000)]
  nodes, _ = catalogue.slice_tree(entries)
  assert max(node['level'] for node in nodes) == 1001


# Served and written.


def _get(url, **headers):
  class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
      return None
  request = urllib.request.Request(url, headers=headers)
  try:
    with urllib.request.build_opener(Stay).open(request, timeout=60) as answer:
      return answer.status, answer.headers, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.headers, error.read()


def test_what_is_served_is_what_is_written(root, tmp_path):
  with server.running(str(root), str(tmp_path / 'archives')) as url:
    assert hub_site.write(str(root), str(tmp_path / 'site'), url) == 4
    written = {str(file.relative_to(tmp_path / 'site')): file.read_bytes()
               for file in (tmp_path / 'site').rglob('*') if file.is_file()}
    assert sorted(written) == [
        'catalogue.css', 'catalogue.js', 'compare.html', 'index.html', 'index.json',
        'me/base/1/index.html', 'me/expert/1/index.html', 'me/packed/1/index.html',
        'you/slices/1/index.html']
    for name, content in written.items():
      status, headers, body = _get(f'{url}/{name}')
      assert (status, body) == (200, content)
      assert headers['X-Content-Type-Options'] == 'nosniff'
      if name.endswith('.html'):
        assert headers['Content-Type'] == 'text/html; charset=utf-8'
        assert headers['Content-Security-Policy'].startswith(catalogue_pages.CSP)
    assert _get(url)[2] == written['index.html']
    assert _get(f'{url}/me/none/1/index.html')[0] == 404


def test_programs_get_json_where_browsers_are_led_to_the_page(root, tmp_path):
  browser = 'text/html,application/xhtml+xml,*/*;q=0.8'
  with server.running(str(root), str(tmp_path / 'archives')) as url:
    for accept in ('*/*', 'application/json'):
      status, headers, body = _get(f'{url}/me/expert/1', Accept=accept)
      assert (status, json.loads(body)['name'], headers['Vary']) == (200, 'expert', 'Accept')
    status, headers, _ = _get(f'{url}/me/expert/1', Accept=browser)
    assert (status, headers['Location'], headers['Vary']) == (
        302, '/me/expert/1/index.html', 'Accept')
    status, _, body = _get(f'{url}/me/expert/1?tf-hub-format=compressed', Accept=browser)
    assert (status, body[:2]) == (200, b'\x1f\x8b')
    _, _, page = _get(f'{url}/me/expert/1/index.html', Host='"><script>alert(1)</script>')
    assert b'<script>alert' not in page


def test_every_link_leads_to_a_page_that_is_there(root, tmp_path):
  hub_site.write(str(root), str(tmp_path / 'site'))
  for file in (tmp_path / 'site').rglob('*.html'):
    page = _Page(file.read_text())
    linked = page.links() + [attributes.get('src') or attributes['href'] for tag, attributes
                             in page.tags if tag == 'link' or 'src' in attributes]
    for link in linked:
      if not link.startswith(('#', 'data:')):
        assert (file.parent / link.split('#')[0]).resolve().is_file()


def test_a_catalogue_is_written_anew_and_modules_that_are_gone_leave_it(root, tmp_path, console):
  out = tmp_path / 'deep/site'
  code, text, _ = console(hub_site, f'--root={root}', f'--out={out}')
  assert (code, text) == (0, f'{out}/index.html: 4 modules\n')
  shutil.rmtree(root / 'you')
  assert console(hub_site, f'--root={root}', f'--out={out}')[0] == 0
  assert not (out / 'you').exists()
  assert os.listdir(out.parent) == ['site']


@pytest.mark.parametrize('name', ['CNAME', '.git/config', 'me/expert/1/notes.txt', 'index.json'])
def test_a_folder_with_files_of_others_is_left_alone(root, tmp_path, console, name):
  out = tmp_path / 'site'
  if name != 'index.json':
    hub_site.write(str(root), str(out))
  (out / name).parent.mkdir(parents=True, exist_ok=True)
  (out / name).write_text('mine')
  before = sorted(out.rglob('*'))
  code, _, err = console(hub_site, f'--root={root}', f'--out={out}')
  assert code == 1
  assert err == (f'zoo-hub site: --out={out} has {name}, which is no file of a catalogue: give '
                 'another folder.\n')
  assert sorted(out.rglob('*')) == before
  assert (out / name).read_text() == 'mine'


def test_an_error_on_the_way_leaves_the_earlier_catalogue(root, tmp_path, monkeypatch):
  out = tmp_path / 'site'
  hub_site.write(str(root), str(out))
  before = {file: file.read_bytes() for file in out.rglob('*') if file.is_file()}

  def fails(*_):
    raise OSError('disk full')

  monkeypatch.setattr(catalogue_pages.Catalogue, '_module', fails)
  with pytest.raises(OSError, match='disk full'):
    hub_site.write(str(root), str(out))
  assert {file: file.read_bytes() for file in out.rglob('*') if file.is_file()} == before
  assert sorted(os.listdir(tmp_path)) == ['here', 'hub', 'site']


def test_a_hub_without_modules_and_a_missing_flag_are_one_line(tmp_path, console):
  for arguments, message in (
      (['--out=x', f'--root={tmp_path}'], f'--root={tmp_path} has no module that could be shown.'),
      (['--out=x', '--root=/no/such'], '--root=/no/such is not a folder.'),
      ([], 'give --out, the folder of the catalogue (see zoo-hub site --help)')):
    code, out, err = console(hub_site, *arguments)
    assert (code, out, err) == (1 if arguments else 2, '', f'zoo-hub site: {message}\n')


def test_pages_follow_the_hub(root):
  pages = catalogue_pages.Catalogue(root)
  assert 'me/new/1' not in pages.page('index.html')
  _publish(root, 'me/new/1', tiny_description('expert'))
  assert 'me/new/1' in pages.page('index.html')
  assert 'me/new/1' in pages.page('compare.html')
  (root / 'me/new/1/README.md').write_text('changed')
  assert 'changed' in pages.module('me/new/1', '')
