"""Candidates: the experts of a hub, each of which can embed images."""

import dataclasses
import os

from export import hub as hub_lib


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One expert: a module, or one of the experts packed in a module.

  Attributes:
    module: the `export.hub.Module`.
    expert: its index in a packed module, else None.
    image_size: height and width it is given, in pixels.
  """
  module: hub_lib.Module
  expert: int | None
  image_size: int

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
    """'baseline', 'expert', 'packed', 'finetuned' or 'foreign'."""
    return self.module.kind

  @property
  def name(self):
    """What to call it in a table: the slice it knows, or what it is."""
    m = self.module.metadata
    if self.expert is not None:
      return m['experts'][self.expert]['name']
    if m.get('slice'):
      return m['slice']['name']
    return self.kind if self.kind != 'foreign' else self.handle.rstrip('/').split('/')[-1]

  def describe(self):
    """Handle and, if packed, the expert's name: unique, for messages."""
    return self.handle if self.expert is None else f'{self.handle} ({self.name})'


def find(hub=hub_lib.EMBEDDED, handles=(), image_size=None):
  """The candidates of a hub and of further modules.

  Args:
    hub: folder of the hub, or '' or None for none.
    handles: further modules, as `export.hub.resolve` takes them.
    image_size: pixels for modules that do not say theirs.

  Returns:
    A list of `Candidate`, in the order of handles and experts. Fine-tuned classifiers
    have no embeddings and are left out.

  Raises:
    ValueError: nothing is found, or a module does not say its image size.
  """
  modules = hub_lib.modules(hub) if hub else []
  for handle in handles:
    module = hub_lib.resolve(handle, hub or hub_lib.EMBEDDED)
    if all(os.path.realpath(module.path) != os.path.realpath(m.path) for m in modules):
      modules.append(module)
  found = [candidate for module in modules if module.kind != 'finetuned'
           for candidate in _of_module(module, image_size)]
  if not found:
    raise ValueError('there is no module to choose from: give --hub or --handles.')
  return found


def _of_module(module, image_size):
  """The candidates of one module."""
  size = module.metadata['image_size'] or image_size
  if not size:
    raise ValueError(f'module {module.handle} does not say its image size: give --image_size.')
  experts = module.metadata.get('experts')
  return [Candidate(module, index, size)
          for index in (range(len(experts)) if experts else [None])]


def one(handle, hub=hub_lib.EMBEDDED, image_size=None):
  """The candidate that a handle names, 'HANDLE' or, in a packed module, 'HANDLE#EXPERT'.

  EXPERT is an index or the name of a slice.

  Raises:
    ValueError: there is no such module or expert, or a packed module needs '#EXPERT'.
  """
  handle, _, expert = handle.partition('#')
  module = hub_lib.resolve(handle, hub or hub_lib.EMBEDDED)
  if module.kind == 'finetuned':
    raise ValueError(f'module {handle} is a finished classifier: give an expert or baseline.')
  found = _of_module(module, image_size)
  if not expert and len(found) == 1:
    return found[0]
  chosen = [c for c in found if expert and expert in (str(c.expert), c.name)]
  if not chosen:
    problem = f'has no expert {expert!r}' if expert else 'is a packed module'
    raise ValueError(f'{handle!r} {problem}: give {handle}#EXPERT, one of '
                     f'{", ".join(c.name for c in found)}.')
  return chosen[0]
