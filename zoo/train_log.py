"""The history of a training run: rows in memory, a CSV file, TensorBoard scalars.

Where there is no TensorFlow there are no events for TensorBoard.
"""

import csv
import io
import os

from zoo import atomic

FILE = 'log.csv'
TENSORBOARD = 'tensorboard'


def write_image(work_dir, name, png):
  """Writes an image, as bytes of a PNG file, for TensorBoard."""
  tf = _tensorflow()
  if tf is None:
    return
  with tf.summary.create_file_writer(os.path.join(work_dir, TENSORBOARD)).as_default():
    tf.summary.image(name, tf.image.decode_png(png, 3)[None], step=0)


class Log:
  """Rows of numbers, a dict each, with a 'step'.

  Args:
    work_dir: where log.csv and the events go; None for nowhere.
    rows: what there is already.
  """

  def __init__(self, work_dir, rows=()):
    self.rows = list(rows)
    self._work_dir = work_dir
    tf = _tensorflow() if work_dir else None
    self._writer = tf and tf.summary.create_file_writer(os.path.join(work_dir, TENSORBOARD))

  def add(self, row):
    """Adds a row."""
    self.rows.append(row)
    if not self._work_dir:
      return
    # Whole each time: a kill leaves no half line.
    with atomic.writing(os.path.join(self._work_dir, FILE)) as file:
      lines = io.TextIOWrapper(file, encoding='utf-8', newline='')
      writer = csv.DictWriter(lines, list(self.rows[0]))
      writer.writeheader()
      writer.writerows(self.rows)
      lines.flush()
      lines.detach()
    if self._writer is None:
      return
    with self._writer.as_default():
      tf = _tensorflow()
      for name, value in row.items():
        if name not in ('step', 'seconds'):
          tf.summary.scalar(name, value, step=row['step'])
    self._writer.flush()  # or a kill would lose the rows of some minutes

  def close(self):
    """Closes the file of events."""
    if self._writer is not None:
      self._writer.close()


def _tensorflow():
  """TensorFlow, or None where there is none."""
  try:
    import tensorflow as tf
  except ImportError:
    return None
  return tf
