"""The main job: rank, fine-tune winner and baseline, report; kill it, and it goes on."""

import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from export import hub
from finetune import transfer_main
from zoo import tasks

SMALL = ('--batch=16', '--steps_scale=0.004')


class _Page(html.parser.HTMLParser):
  """Collects what a page would fetch, and its words."""

  def __init__(self):
    super().__init__()
    self.fetched, self.words = [], []

  def handle_starttag(self, tag, attrs):
    self.fetched += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]

  def handle_data(self, data):
    self.words += data.split()


def test_modules_that_have_learnt_from_the_tasks_data_set_are_not_fine_tuned(
    tiny_hub, picture_folder, console):
  shutil.copytree(tiny_hub, 'hub')
  for module in hub.modules('hub'):
    values = module.metadata | {
        'upstream': {'source': tasks.load(f'folder:{picture_folder}').source}}
    with open(os.path.join(module.path, 'module.json'), 'w', encoding='utf-8') as file:
      json.dump(values, file)
  code, out, err = console(transfer_main, '--hub=hub', f'--task=folder:{picture_folder}',
                           '--work_dir=work')
  assert (code, out) == (1, '')
  assert 'all 4 candidates are left out' in err
  assert not os.path.exists('work')


def test_the_main_job_leaves_files_that_a_person_would_open(tiny_hub, picture_folder, console):
  flags = (f'--hub={tiny_hub}', f'--task=folder:{picture_folder}', '--work_dir=work', *SMALL)
  code, out, _ = console(transfer_main, *flags)
  assert code == 0
  for words in ('Best by leave-one-out 1-NN', 'winner', 'work/report.html'):
    assert words in out
  with open('work/result.json', encoding='utf-8') as file:
    result = json.load(file)
  for role in ('winner', 'baseline'):
    assert {'handle', 'expert', 'test_accuracy', 'interval'} <= set(result[role])
  assert result['baseline']['handle'] == 'test/baseline/1'
  assert result['winner']['handle'] == result['ranking']['winner']
  assert len(result['ranking']['experts']) == 4
  assert os.path.exists(os.path.join(result['module'], 'saved_model.pb'))
  assert {'tensorflow', 'keras'} <= set(result['versions'])

  page = _Page()
  with open(result['report'], encoding='utf-8') as file:
    text = file.read()
  page.feed(text)
  assert text.count('<svg') == 3  # ranking, curves, confusion
  assert all(link.startswith(('data:', '#')) for link in page.fetched)  # self-contained
  assert {'circle', 'square', 'Confusion'} <= set(page.words)

  written = {path: os.stat(path).st_mtime_ns for path in ('work/report.html',
                                                          'work/result.json')}
  code, again, _ = console(transfer_main, *flags)
  assert (code, again) == (0, out)
  assert written == {path: os.stat(path).st_mtime_ns for path in written}


def test_class_names_cannot_write_into_the_page(tiny_hub, picture_folder, console):
  evil = '<img src=x onerror=alert(1)> $1_$'
  os.rename(os.path.join(picture_folder, 'cross'), os.path.join(picture_folder, evil))
  code, _, _ = console(transfer_main, f'--hub={tiny_hub}', f'--task=folder:{picture_folder}',
                       '--work_dir=work', *SMALL)
  assert code == 0
  with open('work/report.html', encoding='utf-8') as file:
    assert '<img src=x' not in file.read()


def _run(arguments):
  code = ('import sys; from finetune import transfer_main as t; '
          'from zoo import cli; sys.exit(cli.run(t.main, t.FLAGS, sys.argv[1:]))')
  return subprocess.Popen([sys.executable, '-c', code, *arguments], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_run_goes_on_where_it_was(tiny_hub, picture_folder, console):
  flags = [f'--hub={tiny_hub}', f'--task=folder:{picture_folder}', '--work_dir=work', *SMALL]
  child = _run(flags)
  kept = 'work/winner/tried-1.json'
  while not os.path.exists(kept) and child.poll() is None:
    time.sleep(0.05)
  child.send_signal(signal.SIGKILL)
  child.communicate()
  assert not os.path.exists('work/result.json')
  before = {path: os.stat(path).st_mtime_ns for path in (kept, 'work/ranking.json')}
  code, out, err = console(transfer_main, *flags)
  assert code == 0, err
  assert 'Going on in ' in err
  assert 'work/report.html' in out
  assert before == {path: os.stat(path).st_mtime_ns for path in before}  # none done twice


def test_a_work_dir_in_use_says_by_whom(tiny_hub, picture_folder, console):
  flags = [f'--hub={tiny_hub}', f'--task=folder:{picture_folder}', '--work_dir=work', *SMALL]
  child = _run(flags)
  while not os.path.exists('work/settings.json') and child.poll() is None:
    time.sleep(0.05)
  code, _, err = console(transfer_main, *flags)
  child.kill()
  child.communicate()
  assert code == 1
  assert f'work is in use by process {child.pid}' in err


def test_a_work_dir_of_another_task_is_refused(tiny_hub, picture_folder, console):
  from zoo import work_dir
  with work_dir.opened('work', {'task': 'digits'}):
    pass
  code, out, err = console(transfer_main, f'--hub={tiny_hub}',
                           f'--task=folder:{picture_folder}', '--work_dir=work', *SMALL)
  assert (code, out) == (1, '')
  assert 'belongs to another run' in err
  assert err.count('\n') == 1


@pytest.mark.parametrize(('flags', 'complaint'), [
    (['--task=no_such_task'], "unknown task 'no_such_task'"),
    (['--hub=/nowhere'], '--hub=/nowhere is not a folder'),
    (['--work_dir=/dev/null'], '--work_dir=/dev/null is a file'),
])
def test_bad_input_is_one_line(tiny_hub, console, flags, complaint):
  code, out, err = console(transfer_main, f'--hub={tiny_hub}', *flags)
  assert (code, out) == (1, '')
  assert complaint in err
  assert err.startswith('zoo-transfer: ')
  assert err.count('\n') == 1
