"""catalogue.py: how soon the catalogue of a large hub shows, and how fast it filters.

Makes hubs of modules that are described as the embedded ones are, writes and serves their
catalogue, and opens it in Debian's Chromium by Playwright. Prints one JSON line for every number of
modules.
"""

import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time

from absl import flags

from zoo import cli

CHROMIUM = ('--no-sandbox --disable-gpu --disable-quic --no-first-run '
            '--disable-background-networking --disable-component-update --disable-sync').split()
# Milliseconds from what the reader does to the frame behind the next one: until it is painted.
TIMED = '''action => new Promise(done => requestAnimationFrame(() => {
  const search = document.querySelector('#search');
  const start = performance.now();
  if (action === 'search') {
    search.value = 'animal';
    search.dispatchEvent(new Event('input'));
  } else if (action === 'clear') {
    document.querySelector('#clear').click();
  } else if (action === 'tree') {
    document.querySelectorAll('[role=treeitem]')[2].click();
  } else {
    document.querySelector('[data-sort=gain]').click();
  }
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
}))'''
ACTIONS = ('search', 'clear', 'tree', 'sort')


def made(root, number):
  """Makes a hub of modules that have the description of an embedded one, but no graph.

  Args:
    root: folder of the hub.
    number: modules in all: the embedded zoo again and again, with slices of their own.
  """
  from export import card
  from export import hub
  from export import metadata
  embedded = sorted(hub.modules(hub.EMBEDDED), key=lambda module: module.kind != 'baseline')
  parents = {}
  for i in range(number):
    described = dict(embedded[i % len(embedded)].metadata)
    turn = i // len(embedded)
    old = described.pop('fingerprint')
    name = f'{described["name"]}-{turn:02}'
    if described['slice'] and turn:
      described['slice'] = {**described['slice'], 'node': f'{described["slice"]["node"]}-{turn}',
                            'name': f'{described["slice"]["name"]}-{turn}',
                            'classes': described['slice']['classes'][turn % 5:]}
    path = os.path.join(root, f'made{turn % 5}', name, '1')
    os.makedirs(path)
    with open(os.path.join(path, 'saved_model.pb'), 'w', encoding='utf-8') as file:
      file.write(name)
    metadata.write(path, {**described, 'name': name, 'publisher': f'made{turn % 5}',
                          'parent': parents.get(described['parent'])})
    card.write(path)
    if described['kind'] == 'baseline':
      parents[old] = metadata.read(path)['fingerprint']


def measure(number, rounds):
  """Measures the catalogue of one hub.

  Args:
    number: modules.
    rounds: fresh browser profiles; the median counts, and the greatest is beside it.

  Returns:
    A dict of the case; bytes of the index and of all; seconds to write it; milliseconds until the
    server answers first, when it reads all modules, and later; for files and for the server
    [median, greatest] milliseconds to first contentful paint, until the page is ready, and from
    an action to its paint (search as typed, all again, a slice of the tree, another order); and
    versions.
  """
  import numpy as np
  from playwright import sync_api

  from export import hub_site
  from export import server

  with tempfile.TemporaryDirectory() as folder:
    root, out = os.path.join(folder, 'hub'), os.path.join(folder, 'site')
    made(root, number)
    start = time.perf_counter()
    hub_site.write(root, out)
    written = time.perf_counter() - start
    sizes = [os.path.getsize(os.path.join(at, name))
             for at, _, names in os.walk(out) for name in names]
    times = {}
    with server.running(root, os.path.join(folder, 'archives')) as url, (
        sync_api.sync_playwright()) as playwright:
      browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=CHROMIUM)
      answers = [_answer(f'{url}/index.html') for _ in range(1 + rounds)]
      for _ in range(rounds):
        for name, address in (('files', f'file://{out}'), ('server', url)):
          for what, milliseconds in _visit(browser, f'{address}/index.html').items():
            times.setdefault(name, {}).setdefault(what, []).append(milliseconds)
      version = browser.version
      browser.close()
    return {
        'number': number, 'rounds': rounds, 'index_bytes': os.path.getsize(f'{out}/index.html'),
        'bytes': sum(sizes), 'write_seconds': round(written, 2),
        'first_answer': round(answers[0]), 'answer': round(float(np.median(answers[1:]))),
        **{name: {what: [round(float(np.median(all_))), round(max(all_))]
                  for what, all_ in found.items()} for name, found in times.items()},
        'versions': {'chromium': version,
                     'playwright': importlib.metadata.version('playwright')}}


def _answer(url):
  """Milliseconds until a server has answered."""
  import urllib.request
  start = time.perf_counter()
  with urllib.request.urlopen(url) as answer:
    answer.read()
  return 1000 * (time.perf_counter() - start)


# Not wait_for_function, whose polling the pages' Content-Security-Policy forbids.
PAINTED = '''() => new Promise(done => new PerformanceObserver(list => {
  if (list.getEntriesByName('first-contentful-paint').length) done();
}).observe({type: 'paint', buffered: true}))'''


def _visit(browser, address):
  """Milliseconds of one visit by a new reader."""
  context = browser.new_context(viewport={'width': 1200, 'height': 800})
  page = context.new_page()
  page.goto(address)
  page.evaluate(PAINTED)
  found = page.evaluate('''() => ({
      first_paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
      ready: performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd})''')
  for action in ACTIONS:
    found[action] = page.evaluate(TIMED, action)
  context.close()
  return found


FLAGS = cli.new_flags()
flags.DEFINE_list('numbers', ['28', '1000'], 'Modules of the hubs.', flag_values=FLAGS)
flags.DEFINE_integer('rounds', 7, 'Visits, each by files and by server.', flag_values=FLAGS)


def main(values, command):
  del command
  for number in map(int, values.numbers):
    print(json.dumps(measure(number, values.rounds)), flush=True)


if __name__ == '__main__':
  sys.exit(cli.run(main, FLAGS))
