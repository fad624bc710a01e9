"""Candidates: the experts of a hub, each of which can embed images."""

import dataclasses
import logging
import os

from export import foreign
from export import hub as hub_lib
from zoo import cut_tasks

logger = logging.getLogger(__name__)

NOT_CANDIDATES = ('finetuned', 'predictor')  # kinds of modules that give no embeddings


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One expert: a module, or one of the experts packed, or of the tasks known, in a module.

  Attributes:
    module: the `export.hub.Module`.
    expert: its index in a packed module, else None.
    image_size: height and width it is given, in pixels.
    input_range: (low, high), values that the module itself takes.
  """
  module: hub_lib.Module
  expert: int | None
  image_size: int
  input_range: tuple[float, float] = foreign.UNIT

  @property
  def handle(self):
    """The module's handle."""
    return self.module.handle

  @property
  def key(self):
    """(path of the module, expert): tells candidates apart, and can be hashed."""
    return self.module.path, self.expert

  @property
  def kind(self):
    """'baseline', 'expert', 'packed', 'multitask' or 'foreign'."""
    return self.module.kind

  @property
  def source(self):
    """Builder and version of its upstream data, as in `zoo.tasks.Task.source`, or None."""
    return (self.module.metadata.get('upstream') or {}).get('source')

  @property
  def sources(self):
    """Of all its upstream data; several of a network for several tasks."""
    upstream = self.module.metadata.get('upstream') or {}
    return upstream.get('sources') or ([upstream['source']] if upstream.get('source') else [])

  @property
  def slice(self):
    """The slice it knows, as `zoo.slices.Slice.to_dict` has it, or None."""
    m = self.module.metadata
    return (m if self.expert is None else m['experts'][self.expert]).get('slice')

  @property
  def name(self):
    """What to call it in a table: the slice it knows, or what it is."""
    m = self.module.metadata
    if self.expert is not None:
      return m['experts'][self.expert]['name']
    if m.get('slice'):
      return m['slice']['name']
    if m.get('architecture'):
      return self.kind
    return m.get('name') or self.handle.rstrip('/').split('/')[-1]

  def describe(self):
    """Handle and, if packed, the expert's name: unique, for messages."""
    return self.handle if self.expert is None else f'{self.handle} ({self.name})'


def plain_baseline(found):
  """Of some `Candidate`s the baseline that one would take without any choice, or None.

  It is the one of the most upstream images, and of equals the best on what was held out of them.
  """
  def place(one):
    known = one.module.metadata
    return ((known.get('upstream') or {}).get('examples') or 0,
            (known.get('scores') or {}).get('top1') or 0)

  return max((one for one in found if one.kind == 'baseline'), default=None, key=place)


def find(hub=hub_lib.EMBEDDED, handles=(), image_size=None, input_range=None):
  """The candidates of a hub and of further modules.

  Args:
    hub: folder of the hub, or '' or None for none.
    handles: further modules, as `export.hub.resolve` takes them.
    image_size: pixels for modules that do not say theirs.
    input_range: (low, high), values of the images of modules that do not say theirs; None for
      [0, 1], as TensorFlow Hub's common image API has it.

  Returns:
    A list of `Candidate`, in the order of handles and experts. Fine-tuned classifiers and
    predictors have no embeddings and are none; deprecated modules are none unless `handles`
    names them.

  Raises:
    ValueError: nothing is found, a module does not say its image size, or the range is none.
  """
  found = []
  for module in modules(hub, handles):
    if module.kind in NOT_CANDIDATES:
      continue
    if module.deprecated and module.handle not in handles:
      logger.warning('%s is left out, being deprecated: %s (name it in --handles to use it)',
                     module.handle, module.deprecated)
      continue
    found += _of_module(module, image_size, input_range)
  if not found:
    raise ValueError('there is no module to choose from: give --hub or --handles.')
  return found


def modules(hub=hub_lib.EMBEDDED, handles=()):
  """The `export.hub.Module`s of a hub and further ones, as `find` takes them, each once."""
  found = hub_lib.modules(hub) if hub else []
  for handle in handles:
    module = hub_lib.resolve(handle, hub or hub_lib.EMBEDDED)
    if all(os.path.realpath(module.path) != os.path.realpath(m.path) for m in found):
      found.append(module)
  return found


def for_task(source, hub=hub_lib.EMBEDDED, handles=(), image_size=None, input_range=None):
  """The candidates of a hub for a task: those that have not learnt from the task's own data.

  What has seen the images, or others of their data set with their labels, would look better
  in a ranking than it is for data of one's own.

  Args:
    source: as in `zoo.tasks.Task.source`.
    hub, handles, image_size, input_range: as in `find`.

  Returns:
    A list of `Candidate`, and a list of (`Candidate`, reason) of those that are left out.

  Raises:
    ValueError: as `find` does, or all are left out.
  """
  found, left_out = [], []
  for one in find(hub, handles, image_size, input_range):
    if any(cut_tasks.same_data(source, own) for own in one.sources):
      left_out.append((one, f'its upstream data, {one.source}, are of the data set of the task'))
    else:
      found.append(one)
  if not found:
    raise ValueError(f'all {len(left_out)} candidates are left out, for having learnt from '
                     f'the data set of the task, {cut_tasks.data_set(source)}: rank modules of '
                     'other upstream data (--hub, --handles), or choose another task.')
  return found, left_out


def _of_module(module, image_size, input_range):
  """The candidates of one module."""
  m = module.metadata
  size = m['image_size'] or image_size
  if not size:
    raise ValueError(f'module {module.handle} does not say its image size: give --image_size.')
  # Our own networks know no other range.
  values = foreign.UNIT if m.get('architecture') else foreign.value_range(
      m.get('input_range') or input_range or foreign.UNIT)
  experts = m.get('experts')
  return [Candidate(module, index, size, values)
          for index in (range(len(experts)) if experts else [None])]


def one(handle, hub=hub_lib.EMBEDDED, image_size=None, input_range=None):
  """The candidate that a handle names, 'HANDLE' or, in a packed module, 'HANDLE#EXPERT'.

  EXPERT is an index or the name of a slice, or of a task of a network for several.

  Args:
    handle: as `export.hub.resolve` takes it, perhaps with '#EXPERT'.
    hub, image_size, input_range: as in `find`.

  Raises:
    ValueError: there is no such module, expert or task, or a module needs '#EXPERT' or '#TASK'.
  """
  handle, _, expert = handle.partition('#')
  module = hub_lib.resolve(handle, hub or hub_lib.EMBEDDED)
  if module.kind in NOT_CANDIDATES:
    raise ValueError(f'module {handle} is of kind {module.kind!r} and has no embeddings: give '
                     'an expert or baseline.')
  found = _of_module(module, image_size, input_range)
  if not expert and len(found) == 1:
    return found[0]
  chosen = [c for c in found if expert and expert in (str(c.expert), c.name)]
  if not chosen:
    what = module.metadata.get('argument', 'expert')
    problem = f'has no {what} {expert!r}' if expert else f'has several {what}s'
    raise ValueError(f'{handle!r} {problem}: give {handle}#{what.upper()}, one of '
                     f'{", ".join(c.name for c in found)}.')
  return chosen[0]
