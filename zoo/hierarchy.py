"""Label trees: which classes lie under which node. A tree may be a DAG, as WordNet is."""

import dataclasses
import functools

from zoo import atomic


@dataclasses.dataclass(frozen=True)
class Hierarchy:
  """A directed acyclic graph over labels.

  Attributes:
    parents: the node ids above each node id; none for a root.
    names: a readable name for each node id.
    aliases: a second name, for some, by which nodes of the same name are told apart.
  """
  parents: dict[str, tuple[str, ...]]
  names: dict[str, str]
  aliases: dict[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for node, above in self.parents.items():
      for parent in above:
        if parent not in self.parents:
          raise ValueError(f'label tree: {node!r} lies under {parent!r}, which is not there.')
    _ = self.depth  # a cycle shows here

  @functools.cached_property
  def ancestors(self):
    """For each node the frozenset of all nodes above it, itself included."""
    found = {}
    for node in self._topological:
      found[node] = frozenset({node}).union(*(found[p] for p in self.parents[node]))
    return found

  @functools.cached_property
  def depth(self):
    """For each node the length of its longest way up to a root."""
    found = {}
    for node in self._topological:
      found[node] = max((found[p] + 1 for p in self.parents[node]), default=0)
    return found

  @functools.cached_property
  def _topological(self):
    import graphlib
    try:
      return list(graphlib.TopologicalSorter(self.parents).static_order())
    except graphlib.CycleError as error:
      raise ValueError(f'label tree: a cycle through {error.args[1]}.') from None

  def leaves_below(self, classes):
    """The classes under each node.

    Args:
      classes: node ids that occur as labels.

    Returns:
      A dict from node id to the set of those classes that are the node or below it; nodes
      without any are left out.

    Raises:
      ValueError: a class is not in the tree.
    """
    below = {}
    for label in classes:
      if label not in self.parents:
        raise ValueError(f'class {label!r} is not in the label tree.')
      for node in self.ancestors[label]:
        below.setdefault(node, set()).add(label)
    return below


def from_json(path):
  """Reads {"synsets": {id: {"lemmas": [name, ...], "hypernyms": [id, ...]}}}.

  Raises:
    ValueError: the file has another form, or the graph a cycle or a missing node.
  """
  try:
    synsets = atomic.read_json(path)['synsets']
    return Hierarchy({node: tuple(entry['hypernyms']) for node, entry in synsets.items()},
                     {node: entry['lemmas'][0] for node, entry in synsets.items()},
                     {node: entry['lemmas'][1] for node, entry in synsets.items()
                      if len(entry['lemmas']) > 1})
  except (AttributeError, KeyError, TypeError, IndexError) as error:
    raise ValueError(f'{path}: not a label tree ({type(error).__name__}: {error}): it needs '
                     '{"synsets": {id: {"lemmas": [...], "hypernyms": [...]}}}.') from None


def from_coarse(coarse):
  """A tree of two levels from a dict of fine class name to coarse class name.

  A coarse class may have the name of a fine one; node ids of coarse classes therefore
  start with 'coarse/'.
  """
  groups = {f'coarse/{group}': group for group in coarse.values()}
  return Hierarchy(
      dict.fromkeys(groups, ()) | {c: (f'coarse/{g}',) for c, g in coarse.items()},
      groups | {c: c for c in coarse})
