"""The state of a training run as one file: weights, optimizer, step, log.

The order of examples and their augmentation are functions of the step (`zoo.batches`), and the
seeds of random layers are among the model's variables: nothing else is needed to go on.
"""

import json
import os

import numpy as np

from zoo import atomic
from zoo import weights

FILE = 'checkpoint.npz'


def save(work_dir, model, optimizer, step, history, recent):
  """Writes the checkpoint.

  Args:
    work_dir: its folder.
    model, optimizer: built.
    step: updates done.
    history: rows of the log so far.
    recent: losses and accuracies [2, R] of the R steps since the last row.
  """
  state = {f'model/{path}': value for path, value in weights.of(model).items()}
  state |= {f'optimizer/{i}': np.asarray(v) for i, v in enumerate(optimizer.variables)}
  state |= {'step': step, 'history': json.dumps(history), 'recent': np.array(recent)}
  with atomic.writing(os.path.join(work_dir, FILE)) as file:
    np.savez(file, **state)


def restore(work_dir, model, optimizer):
  """Reads the checkpoint, if there is one.

  Returns:
    (step, history, recent) as they were saved; (0, [], [[], []]) without a checkpoint.

  Raises:
    ValueError: it is damaged, or that of another network.
  """
  path = work_dir and os.path.join(work_dir, FILE)
  if not path or not os.path.exists(path):
    return 0, [], [[], []]
  state = weights.load(path)
  try:
    values = [state[f'optimizer/{i}'] for i in range(len(optimizer.variables))]
    for variable, value in zip(optimizer.variables, values, strict=True):
      if tuple(variable.shape) != value.shape:
        raise ValueError(f'{variable.path} has shape {value.shape}')
    weights.set_to(model, {
        key.removeprefix('model/'): value for key, value in state.items()
        if key.startswith('model/')})
    for variable, value in zip(optimizer.variables, values, strict=True):
      variable.assign(value)
    return int(state['step']), json.loads(str(state['history'])), state['recent'].tolist()
  except (KeyError, ValueError) as error:
    what = f'it has no {error}' if isinstance(error, KeyError) else error
    raise ValueError(f'{path} is the checkpoint of another network ({what}): name another '
                     '--work_dir, or remove it.') from None


def remove(work_dir):
  """Removes the checkpoint of a run that is done."""
  path = os.path.join(work_dir, FILE)
  if os.path.exists(path):
    os.remove(path)
