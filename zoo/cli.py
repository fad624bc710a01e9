"""What all binaries share: flags of one's own, help, one-line errors and exit codes.

Every binary has its own `absl.flags.FlagValues`, so that several can live in one process,
and a `main(values, command)` over one library function. The docstring of main's module
starts with the name of the console script and a colon.
"""

import importlib
import logging
import math
import os
import re
import select
import sys
import textwrap
import traceback

from absl import flags


def new_flags():
  """Flags of one binary, with those that every binary has."""
  values = flags.FlagValues()
  flags.DEFINE_integer('verbosity', 0, '1 shows a traceback where there is an error.',
                       flag_values=values)
  return values


def define_task(values, default='digits'):
  """Adds --task and --data_dir."""
  flags.DEFINE_string(
      'task', default, 'What to learn: a TFDS name (name/config:version), folder:PATH with one '
      'sub-folder a class (or train/, val/, test/ above them), npz:FILE of arrays (train_images, '
      'train_labels, test_images, test_labels), or digits. '
      'NAME[FEATURE=VALUE|VALUE] is some of its classes: of the feature label or another that '
      'groups them, or under=NODE of a label tree beside the data.', flag_values=values)
  flags.DEFINE_string('data_dir', None, 'Where TFDS finds prepared data sets.',
                      flag_values=values)


def define_devices(values, name='strategy'):
  """Adds --strategy, under another name where that means something else, and --precision."""
  flags.DEFINE_string(
      name, 'default', 'Devices: default (one), one_device:GPU:0, mirrored (all of this machine), '
      'multi_worker (TF_CONFIG names the processes, which share --work_dir) or tpu:NAME; with '
      'KERAS_BACKEND=jax default, mirrored, or experts (those of sparse layers are dealt out).',
      flag_values=values)
  flags.DEFINE_string('precision', 'auto', 'float32, mixed_bfloat16, mixed_float16, or auto: '
                      'mixed_bfloat16 where the processor multiplies such numbers by itself.',
                      flag_values=values)


class _RangeParser(flags.ArgumentParser):
  """Parses LOW,HIGH into two floats."""
  syntactic_help = 'two numbers'

  def parse(self, argument):
    try:
      low, high = map(float, argument.split(','))
    except ValueError:
      low = high = 0.
    if not -math.inf < low < high < math.inf:
      raise ValueError('give LOW,HIGH, two numbers, the lower one first, such as -1,1')
    return low, high


def define_input_range(values):
  """Adds --input_range, (low, high) or None."""
  flags.DEFINE(_RangeParser(), 'input_range', None, 'LOW,HIGH: values of the images of modules '
               'that do not say theirs, such as 0,255 or -1,1; 0,1 if not given.',
               flag_values=values)


class _SeedsParser(flags.ArgumentParser):
  """Parses A,B,... into a list of whole numbers."""
  syntactic_help = 'whole numbers'

  def parse(self, argument):
    words = argument if isinstance(argument, list) else argument.split(',')
    for word in map(str, words):
      if not word.isdecimal():
        raise ValueError(f'{word!r} is no whole number')
    return list(map(int, words))


def define_seeds(values, default, text):
  """Adds --seeds, a list of ints."""
  flags.DEFINE(_SeedsParser(), 'seeds', default, text, values, flags.CsvListSerializer(','))


def define_hub(values, default):
  """Adds --hub, --handles, --image_size, --input_range and --trust; `default` is a folder."""
  flags.DEFINE_string('hub', default, 'Folder or URL of the hub; empty for none.',
                      flag_values=values)
  flags.DEFINE_list('handles', [], 'Further modules beside the hub: folders of SavedModels, '
                    '.keras files or URLs. With --hub= (empty) these alone.', flag_values=values)
  flags.DEFINE_integer('image_size', None, 'Pixels, for modules that do not say theirs.',
                       flag_values=values)
  define_input_range(values)
  flags.DEFINE_bool('trust', False, 'Load modules whose graphs could touch files, sockets or '
                    'Python.', flag_values=values)


def run(main, values, argv=None, words=()):
  """Parses flags, calls `main` and turns errors into one line and an exit code.

  Args:
    main: function of the parsed flags and of the command line as a list of strings; its
      module's docstring is the help text.
    values: from `new_flags`.
    argv: arguments without the program's name; None for those of the process.
    words: names of the arguments without a flag that `main` takes behind the command line.

  Returns:
    0 done, 1 failed, 2 wrong usage. What fails is said in one line on stderr.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  text = (sys.modules[main.__module__].__doc__ or '').strip()
  program = text.split(':')[0]
  helped = any(one in ('--help', '-help', '-h', '-?', '--helpfull') for one in argv)
  _log_to_stderr()
  values.unparse_flags()
  try:
    if helped:
      print(_help(text, values, program), flush=True)
      return 0
    rest = values([program, *argv])
    if len(rest) > 1 + len(words):
      unexpected = rest[1 + len(words)]
      raise flags.Error(f'unexpected argument {unexpected!r}; flags are given as --name=value')
    if len(rest) < 1 + len(words):
      raise flags.Error(f'give {" and ".join(words)}')
    main(values, [program, *argv], *rest[1:])
    sys.stdout.flush()
    return 0
  except flags.Error as error:  # malformed, or flags that main finds do not go together
    print(f'{program}: {_one_line(error)} (see {program} --help)', file=sys.stderr)
    return 2
  except KeyboardInterrupt as stop:  # a run that saved its state says where
    print(f'{program}: {str(stop) or "stopped; the same command goes on."}', file=sys.stderr)
    return 1
  except Exception as error:  # pylint: disable=broad-exception-caught
    if isinstance(error, BrokenPipeError) and _reader_left():
      return 0
    if values.verbosity > 0:
      traceback.print_exc()
    kind = '' if isinstance(error, (ValueError, OSError)) else f'{type(error).__name__}: '
    print(f'{program}: {kind}{_one_line(error)}', file=sys.stderr)
    return 1


def _reader_left():
  """Whether nobody reads any more what is printed, such as `head`, which has seen enough."""
  poll = select.poll()
  poll.register(sys.stdout, 0)  # tells of errors alone
  left = bool(poll.poll(0))
  if left:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
  return left


def run_command(commands, main, values):
  """`run`, of the sub-command that the first argument of the process names, if it names one.

  Args:
    commands: names of Python modules by sub-command; each has a `main`, FLAGS and perhaps WORDS.
    main, values: for any other first argument.
  """
  if sys.argv[1:2] and sys.argv[1] in commands:
    command = importlib.import_module(commands[sys.argv[1]])
    return run(command.main, command.FLAGS, sys.argv[2:], getattr(command, 'WORDS', ()))
  return run(main, values)


def _log_to_stderr():
  """Shows our own messages as plain lines; of all others only errors."""
  logging.basicConfig(stream=sys.stderr, format='%(message)s', level=logging.ERROR, force=True)
  for name in ('absl', 'tensorflow'):  # these set their own level
    logging.getLogger(name).setLevel(logging.ERROR)
  for name in ('zoo', 'export', 'selection', 'finetune', 'benchmarks', '__main__'):
    logging.getLogger(name).setLevel(logging.INFO)


def file_name(text):
  """The text with whatever file names do not like as '-'."""
  return re.sub(r'[^A-Za-z0-9_.-]+', '-', text).strip('-')


def last_line(error):
  """The last line of an error's message, where libraries put the reason; never empty."""
  return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _one_line(error):
  return ' '.join(str(error).split()) or type(error).__name__


def _help(text, values, program):
  """The docstring of main's module, and each flag with its default."""
  lines = [text, '', f'Flags of {program}:']
  for name in sorted(set(values)):
    flag = values[name]
    default = '' if flag.default is None else f' (default: {flag.default_as_str})'
    lines.append(f'  --{name}')
    lines += textwrap.wrap(
        flag.help + default, 90, initial_indent='      ', subsequent_indent='      ')
  return '\n'.join(lines)
