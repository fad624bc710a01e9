"""The catalogue in a browser: a hub's pages do what they show, alone, and ask nobody else."""

import os
import re
import shutil
import urllib.parse

import pytest

from export import hub_site
from export import server

sync_api = pytest.importorskip('playwright.sync_api')

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update --disable-sync').split()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium (apt-get install '
                                'chromium)')


@pytest.fixture(scope='module')
def browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope='module')
def addresses(tmp_path_factory, many_slices):
  """The catalogue of a hub of 20 modules, as files and from the server."""
  folder = tmp_path_factory.mktemp('site') / 'a site'
  hub_site.write(many_slices, str(folder))
  with server.running(many_slices, str(tmp_path_factory.mktemp('archives'))) as url:
    yield {'files': folder.as_uri(), 'server': url}


@pytest.fixture(params=['files', 'server'])
def address(request, addresses):
  return addresses[request.param]


# What the pages do among themselves is the same from everywhere; the others below go to both.
anywhere = pytest.mark.parametrize('address', ['files'], indirect=True)


@pytest.fixture
def open_page(browser, address):
  """Opens a page of the catalogue; what went wrong in it, or whom it asked, fails the test."""
  wrong, contexts = [], []
  allowed = address if address.startswith('file:') else urllib.parse.urlsplit(address).netloc

  def asked(request):
    parts = urllib.parse.urlsplit(request.url)
    if parts.scheme != 'data' and not (
        request.url.startswith(allowed) if parts.scheme == 'file' else parts.netloc == allowed):
      wrong.append(f'asked {request.url}')

  def open_(path, width=1200, theme='light', script=None, **more):
    context = browser.new_context(viewport={'width': width, 'height': 800}, color_scheme=theme,
                                  **more)
    contexts.append(context)
    context.on('request', asked)
    context.on('console', lambda message: wrong.append(message.text)
               if message.type in ('error', 'warning') else None)
    context.on('weberror', lambda error: wrong.append(str(error.error)))
    if script:
      context.add_init_script(script)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(f'{address}/{path}')
    return page

  yield open_
  for context in contexts:
    context.close()
  assert not wrong


def _shown(page):
  """The handles of the modules that are shown, in order."""
  return page.eval_on_selector_all('#rows .row', '''
      rows => rows.filter(row => row.checkVisibility())
          .map(row => row.querySelector('a').textContent)''')


def _state(page):
  """The name of the page with what its address keeps."""
  return page.evaluate('location.href').split('/')[-1]


def _follow(page, name, within=None):
  """Clicks a link, and waits for the page that it leads to."""
  here = page.url
  (within or page).get_by_role('link', name=name).click()
  page.wait_for_url(lambda url: url != here)


def _item(page, name, upstream='cifar100'):
  """An item of the tree of slices by its key."""
  return page.locator(f'[role=treeitem][data-key^={upstream}][data-key$="{name}"]')


def _is_focused(locator):
  return locator.evaluate('element => element === document.activeElement')


@anywhere
def test_typing_finds_modules_by_any_of_their_words(open_page):
  page = open_page('index.html')
  everything = _shown(page)
  assert len(everything) == 20
  page.locator('h1').click()
  page.keyboard.press('/')  # leads to the search
  page.keyboard.type('Tiny contain')
  assert _shown(page) == ['zoo/tiny32-container/2']
  assert page.locator('#found').inner_text() == '1 of 20 modules'
  page.keyboard.type(' nothing')
  assert _shown(page) == []
  page.get_by_role('button', name='Show all').click()
  assert _shown(page) == everything
  assert _is_focused(page.locator('#search'))


def test_filters_add_up_and_the_address_keeps_them(open_page):
  page = open_page('index.html')
  page.get_by_label('kind').select_option('predictor')
  assert len(_shown(page)) == 4
  page.get_by_label('upstream').select_option('tiny_imagenet_32:1.0.0')
  assert _shown(page) == ['zoo/tiny32-labels/2', 'zoo/tiny32-slices/2']
  page.locator('#search').fill('slices')
  again = open_page(_state(page))
  assert _shown(again) == ['zoo/tiny32-slices/2']
  again.get_by_role('button', name='Clear').click()
  assert len(_shown(again)) == 20
  _follow(again, 'tiny32-slices')
  again.go_back()
  assert len(_shown(again)) == 20


@anywhere
def test_columns_sort_and_what_is_not_known_comes_last(open_page):
  page = open_page('index.html')
  page.get_by_role('button', name='gain').click()
  gains = page.eval_on_selector_all('#rows .row', 'rows => rows.map(row => row.dataset.gain)')
  known = [float(gain) for gain in gains if gain]
  assert known == sorted(known, reverse=True)
  assert gains[len(known):] == [''] * 8
  assert page.locator('[aria-sort]').get_attribute('aria-sort') == 'descending'
  page.get_by_role('button', name='gain').press('Enter')
  assert _shown(page)[0] == 'zoo/cifar32-plant/2'
  page.get_by_role('button', name='kind').click()
  assert page.locator('[aria-sort]').inner_text().startswith('kind')
  assert _shown(page)[0] == 'zoo/cifar32-baseline/2'


@anywhere
def test_a_click_in_the_tree_shows_a_slice_with_all_below_it(open_page):
  page = open_page('index.html')
  _item(page, 'group/animal').locator('.name').click()
  animals = ['zoo/cifar32-animal/2', 'zoo/cifar32-cold_blooded_vertebrate/2',
             'zoo/cifar32-invertebrate/2', 'zoo/cifar32-mammal/2']
  assert _shown(page) == animals
  assert _item(page, 'group/animal').get_attribute('aria-selected') == 'true'
  _item(page, 'group/animal').locator('.twisty').click()  # closes it and chooses nothing
  assert not _item(page, 'group/mammal').is_visible()
  assert _shown(page) == animals
  _item(page, 'group/animal').locator('.name').click()  # again: all
  assert len(_shown(page)) == 20


@anywhere
def test_the_tree_is_walked_by_keys(open_page):
  page = open_page('index.html')
  press = page.keyboard.press
  page.get_by_role('treeitem').first.focus()
  press('ArrowDown')
  press('ArrowDown')
  assert _is_focused(_item(page, 'group/animal'))
  press('ArrowRight')  # into an open one
  press('End')
  press('Home')
  press('m')  # the next that begins so
  assert _is_focused(_item(page, 'group/mammal'))
  press('Enter')
  assert _shown(page) == ['zoo/cifar32-mammal/2']
  press('ArrowLeft')  # to the one above, then closes it
  press('ArrowLeft')
  assert _item(page, 'group/animal').get_attribute('aria-expanded') == 'false'
  press('ArrowDown')
  assert _is_focused(_item(page, 'group/man-made thing'))
  press('ArrowUp')
  press('ArrowRight')
  assert _item(page, 'group/mammal').is_visible()
  press(' ')
  assert len(_shown(page)) == 4
  assert page.locator('[role=tree] [tabindex="0"]').count() == 1


def test_two_modules_stand_side_by_side_and_the_address_names_them(open_page):
  page = open_page('index.html')
  for handle in ('zoo/cifar32-animal/2', 'zoo/cifar32-mammal/2', 'zoo/cifar32-plant/2'):
    page.get_by_label(f'compare {handle}').check()  # the first gives way to the third
  assert page.locator('#rows input:checked').count() == 2
  _follow(page, 'Compare', within=page.get_by_role('status'))
  assert _state(page) == 'compare.html#a=zoo%2Fcifar32-mammal%2F2&b=zoo%2Fcifar32-plant%2F2'

  def row(page, name):
    return page.locator('#sides tbody tr').filter(
        has=page.locator('th', has_text=re.compile(f'^{name}$')))

  assert row(page, 'slice').locator('td').all_inner_texts() == [
      'mammal (25 classes)', 'plant (15 classes)']
  assert 'differs' in row(page, 'slice').get_attribute('class')
  assert not row(page, 'parameters').get_attribute('class')
  page.get_by_label('the other').select_option('zoo/cifar32-animal/2')
  again = open_page(_state(page))
  assert row(again, 'slice').locator('td').all_inner_texts() == [
      'mammal (25 classes)', 'animal (45 classes)']
  _follow(again, 'zoo/cifar32-animal/2')
  assert again.locator('h1').inner_text() == 'zoo/cifar32-animal/2'
  _follow(again, 'compare with another')
  assert again.locator('#a').input_value() == 'zoo/cifar32-animal/2'


@pytest.mark.parametrize('script', [
    None, "Object.defineProperty(navigator, 'clipboard', {value: undefined})"])
def test_a_button_copies_the_lines_that_load_a_module(open_page, address, script, many_slices):
  page = open_page('zoo/tiny32-animal/2/index.html', script=script,
                   permissions=['clipboard-read', 'clipboard-write'])
  wanted = page.locator('pre').first.inner_text()
  place = address if address.startswith('http') else many_slices
  assert f"hub.KerasLayer('{place}/zoo/tiny32-animal/2', trainable=True)" in wanted
  page.get_by_role('button', name='Copy').first.click()
  page.get_by_role('button', name='Copied').wait_for()
  _follow(page, 'Catalogue')
  page.locator('#search').focus()
  page.keyboard.press('ControlOrMeta+v')
  assert page.locator('#search').input_value() == wanted.replace('\n', ' ')


def test_the_command_that_made_a_module_is_copied_as_it_was(open_page, many_slices):
  page = open_page('zoo/tiny32-animal/2/index.html',
                   permissions=['clipboard-read', 'clipboard-write'])
  page.get_by_role('button', name='Copy').last.click()
  page.get_by_role('button', name='Copied').wait_for()
  with open(os.path.join(many_slices, 'zoo/tiny32-animal/2/README.md'), encoding='utf-8') as file:
    card = file.read()
  copied = page.evaluate('navigator.clipboard.readText()')
  assert copied == card.split('```')[-2].strip()


def test_dark_is_what_the_system_says_until_the_reader_says_otherwise(open_page):
  def is_dark(page):
    red = page.evaluate('getComputedStyle(document.body).backgroundColor').split('(')[1]
    return int(red.split(',')[0]) < 100

  assert not is_dark(open_page('index.html'))
  page = open_page('index.html', theme='dark')
  assert is_dark(page)
  page.get_by_role('button', name='Light').click()
  assert not is_dark(page)
  _follow(page, 'cifar32-animal')  # it is kept
  assert not is_dark(page)
  page.get_by_role('button', name='Dark').click()
  assert is_dark(page)


@anywhere
@pytest.mark.parametrize('path', [
    'index.html', 'zoo/tiny32-slices/2/index.html', 'zoo/tiny32-food_solid_food/2/index.html',
    'compare.html#a=zoo/cifar32-cold_blooded_vertebrate/2&b=zoo/tiny32-container/2'])
def test_nothing_is_wider_than_a_telephone(open_page, path):
  page = open_page(path, width=400)
  assert page.evaluate('document.scrollingElement.scrollWidth') <= 400
  if path == 'index.html':
    assert not page.get_by_role('tree').is_visible()  # it opens when asked for
    page.get_by_text('Slices', exact=True).click()
    _item(page, 'group/plant').locator('.name').click()
    assert _shown(page) == ['zoo/cifar32-plant/2']
    page.get_by_label('compare zoo/cifar32-plant/2').check()
    assert page.evaluate('document.scrollingElement.scrollWidth') <= 400


def test_without_scripts_all_modules_can_be_read(open_page):
  page = open_page('index.html', java_script_enabled=False)
  assert page.locator('#rows .row').count() == 20
  _follow(page, 'tiny32-animal')
  assert page.locator('h1').inner_text() == 'zoo/tiny32-animal/2'


def test_the_policy_stops_scripts_that_are_not_ours(browser, address):
  page = browser.new_page()
  page.goto(f'{address}/index.html')
  page.evaluate('''() => {
    const script = document.createElement('script');
    script.textContent = 'window.stranger = 1';
    document.body.append(script);
    document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.stranger = 2">');
  }''')
  page.wait_for_timeout(200)
  assert page.evaluate('window.stranger') is None
  page.close()
