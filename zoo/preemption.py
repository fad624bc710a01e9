"""Signals that ask a run to stop: it saves what it has, then stops."""

import contextlib
import signal
import threading


class Preempted(KeyboardInterrupt):
  """A signal asked the run to stop, and its state is saved. No error that a sweep may skip."""


class Notice:
  """Whether a signal has come.

  Attributes:
    asked: True from then on.
  """
  asked = False


@contextlib.contextmanager
def noticed():
  """Notes SIGTERM and the first SIGINT while the block runs, in place of what they else do.

  Yields:
    A `Notice`. Outside the main thread, where Python hears no signal, it stays False.
  """
  notice, before = Notice(), {}

  def hear(number, frame):
    del frame
    if notice.asked and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C does not wait
    notice.asked = True

  if threading.current_thread() is threading.main_thread():
    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield notice
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
