"""The house: imports go down only, importing is quiet and cheap, every binary has help."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from zoo import cli

ROOT = pathlib.Path(__file__).parent.parent
ORDER = ('zoo', 'export', 'selection', 'finetune', 'benchmarks')
BINARIES = ('zoo.pretrain', 'zoo.experts', 'zoo.multitask', 'export.publish', 'export.hub_main',
            'export.hub_verify', 'export.hub_serve', 'export.hub_site',
            'export.import_main', 'selection.rank_main', 'finetune.main', 'finetune.transfer_main',
            'benchmarks.speed', 'benchmarks.suite', 'benchmarks.made_hub',
            'benchmarks.selection_speed', 'benchmarks.racing', 'benchmarks.serving',
            'benchmarks.catalogue', 'benchmarks.vtab',
            'benchmarks.vtab_compare', 'benchmarks.sparse_speed', 'benchmarks.sparse_tasks',
            'benchmarks.capacity')


def _imports(file):
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.ImportFrom) and node.level == 0:
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('package', ORDER)
def test_a_package_imports_only_those_below_it(package):
  above = ORDER[ORDER.index(package) + 1:]
  upwards = [(file.name, name) for file in (ROOT / package).rglob('*.py')
             for name in _imports(file) if name.split('.')[0] in above]
  assert not upwards


def test_importing_the_packages_is_quiet_and_does_not_load_tensorflow():
  code = ('import sys, zoo, export, selection, finetune; '
          'assert "tensorflow" not in sys.modules and "keras" not in sys.modules')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                        check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.mark.parametrize('binary', BINARIES)
def test_help_names_every_flag_and_needs_neither_tensorflow_nor_numpy(binary):
  code = (f'import sys; from zoo import cli; import {binary} as b; '
          'code = cli.run(b.main, b.FLAGS, ["--help"]); '
          'assert not {"tensorflow", "keras", "numpy"} & set(sys.modules); sys.exit(code)')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                        check=False)
  assert (done.returncode, done.stderr) == (0, '')
  for flag in importlib.import_module(binary).FLAGS:
    assert f'--{flag}\n' in done.stdout


@pytest.mark.parametrize('lines', [1, 9999])
def test_a_reader_that_has_seen_enough_is_no_error(lines):
  code = ('import sys, types; from zoo import cli; f = cli.new_flags(); '
          f'main = lambda values, command: print("line\\n" * {lines}); '
          'sys.stdin.read(); sys.exit(cli.run(main, f, []))')
  with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    process.stdout.close()  # before anything is printed
    process.stdin.close()
    assert process.stderr.read() == '' and process.wait() == 0


def test_any_other_broken_pipe_is(capfd):
  def main(values, command):
    raise BrokenPipeError('the socket was closed')

  assert cli.run(main, cli.new_flags(), []) == 1
  assert 'the socket was closed' in capfd.readouterr().err


@pytest.mark.parametrize(('arguments', 'complaint'), [
    (['--no_such_flag=1'], "Unknown command line flag 'no_such_flag'"),
    (['--k=many'], 'flag --k=many'),
    (['digits'], "unexpected argument 'digits'"),
])
def test_wrong_usage_is_one_line_and_exit_code_2(console, arguments, complaint):
  from selection import rank_main
  code, out, err = console(rank_main, *arguments)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert err.startswith('zoo-rank: ')
  assert complaint in err
