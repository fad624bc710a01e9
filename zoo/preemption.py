"""Signals that ask a run to stop: it saves what it has, then stops."""

import contextlib
import signal
import threading


class Preempted(KeyboardInterrupt):
  """A signal asked the run to stop, and its state is saved. No error that a sweep may skip."""


class Notice:
  """Whether a signal has come.

  Attributes:
    asked: the number of the first one; None before that.
  """
  asked = None


@contextlib.contextmanager
def noticed():
  """Notes SIGTERM and the first SIGINT while the block runs, in place of what they else do.

  A block that answers raises `Preempted`. If it ends otherwise, the signal came too late for
  it, and does after it what it else does. A signal that the process ignores stays ignored.

  Yields:
    A `Notice`. Outside the main thread, where Python hears no signal, none comes.
  """
  notice, before = Notice(), {}

  def hear(number, frame):
    del frame
    if notice.asked and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C does not wait
    notice.asked = notice.asked or number

  if threading.current_thread() is threading.main_thread():
    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)
              if signal.getsignal(number) not in (signal.SIG_IGN, None)}
  try:
    yield notice
  except KeyboardInterrupt:
    notice.asked = None
    raise
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    if notice.asked:
      signal.raise_signal(notice.asked)
