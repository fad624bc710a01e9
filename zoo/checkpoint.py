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
PROGRESS = ('step', 'history', 'recent')  # what it has beside variables


def save(work_dir, model, optimizer, step, history, recent):
  """Writes the checkpoint.

  Args:
    work_dir: its folder.
    model, optimizer: built.
    step: updates done.
    history: rows of the log so far.
    recent: losses and accuracies [2, R] of the R steps since the last row.
  """
  state = {name: np.asarray(variable) for name, variable in _variables(model, optimizer).items()}
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
  try:
    state = weights.load(path)
  except ValueError as error:
    raise ValueError(f'{error} Remove it, or name another --work_dir.') from None
  variables = _variables(model, optimizer)
  shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
  for name in sorted(shapes.keys() | state.keys() - set(PROGRESS)):
    there = state[name].shape if name in state else 'absent'
    if there != shapes.get(name, 'absent'):
      raise ValueError(f'{path} is the checkpoint of another network ({name} is {there} there, '
                       f'{shapes.get(name, "absent")} here): name another --work_dir, or remove '
                       'it.')
  for name, variable in variables.items():
    variable.assign(state[name])
  return int(state['step']), json.loads(str(state['history'])), state['recent'].tolist()


def _variables(model, optimizer):
  """All variables, by their names in the file; those that have none of their own by number."""
  return ({f'model/{variable.path}': variable for variable in weights.learned(model)} |
          {f'state/{i}': variable for i, variable in enumerate(weights.states(model))} |
          {f'optimizer/{i}': variable for i, variable in enumerate(optimizer.variables)})


def remove(work_dir):
  """Removes the checkpoint of a run that is done."""
  path = os.path.join(work_dir, FILE)
  if os.path.exists(path):
    os.remove(path)
