"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
  """Counts towards a total; a context manager.

  Args:
    total: how many there will be.
    what: what is counted, for example 'baseline: steps'.
    done: how many there are already.
  """

  def __init__(self, total, what, done=0):
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm.tqdm(total=total, initial=done, desc=what, leave=False)
    self._total, self._what, self._done, self._before = total, what, done, done
    self._start = self._last = time.monotonic()

  def advance(self, by=1, note=''):
    """Counts `by` more; the note, such as the loss, is shown behind the count."""
    self._done += by
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(by)
      return
    now = time.monotonic()
    if now - self._last >= SECONDS_BETWEEN_LINES:
      self._last = now
      rate = (self._done - self._before) / (now - self._start)
      left = (self._total - self._done) / rate if rate else float('inf')
      print(f'{self._what} {self._done}/{self._total}, {rate:.1f}/s, '
            f'{left:.0f} s left{", " + note if note else ""}', file=sys.stderr, flush=True)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._bar is not None:
      self._bar.close()
