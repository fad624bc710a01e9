"""Slices: the nodes of a label tree that are worth an expert (arXiv 2009.13239, section 3)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Slice:
  """The part of an upstream data set under one node.

  Attributes:
    name: of the node, unique among the slices and fit for a file name.
    node: its id in the tree.
    classes: labels under it that have examples, in their given order.
    examples: how many examples these have.
    nearest: name of the other slice that it shares most with, or None.
    overlap: that share: examples in both over examples in either.
  """
  name: str
  node: str
  classes: tuple[str, ...]
  examples: int
  nearest: str | None = None
  overlap: float = 0.

  def to_dict(self):
    """The fields as plain JSON types."""
    return dataclasses.asdict(self) | {'classes': list(self.classes)}


def slices(tree, counts, min_examples, max_overlap=0.9, min_classes=2):
  """Chooses the nodes worth an expert.

  A node qualifies with enough examples and two classes or more (an expert on one class has
  nothing to tell apart). Of nested nodes that are nearly the same the most specific one
  stays, and a node that is nearly everything is the baseline's business.

  Args:
    tree: a `zoo.hierarchy.Hierarchy`.
    counts: dict from class (a node id) to its number of examples, in label order.
    min_examples: least examples of a slice.
    max_overlap: nested nodes that share more than this (examples of the inner over those
      of the outer) count as the same.
    min_classes: least classes of a slice.

  Returns:
    A list of `Slice`, largest first.

  Raises:
    ValueError: `max_overlap` is outside 0..1, or a class is not in the tree.
  """
  if not 0 <= max_overlap <= 1:
    raise ValueError(f'max_overlap is {max_overlap}; it must be in 0..1.')

  def examples(classes):
    return sum(counts[label] for label in classes)

  # A class without examples must not make its node look larger than one of the same data.
  below = tree.leaves_below([label for label, count in counts.items() if count])
  # Most specific first, so that a node meets those inside it that are kept already.
  nodes = sorted(below, key=lambda n: (examples(below[n]), -tree.depth[n], n))
  total = examples(counts)
  kept = []
  for node in nodes:
    size = examples(below[node])
    if size < min_examples or len(below[node]) < min_classes or size > max_overlap * total:
      continue
    if any(below[inner] <= below[node] and examples(below[inner]) > max_overlap * size
           for inner in kept):
      continue
    kept.append(node)
  names = _names(tree, kept)

  def share(one, other):
    return examples(below[one] & below[other]) / examples(below[one] | below[other])

  found = []
  for node in reversed(kept):
    others = [other for other in kept if other != node and below[other] & below[node]]
    nearest = max(others, key=lambda other: share(node, other), default=None)
    found.append(Slice(
        names[node], node, tuple(c for c in counts if c in below[node]),
        examples(below[node]), names.get(nearest),
        round(share(node, nearest), 4) if nearest else 0.))
  return found


def _names(tree, nodes):
  """File-name names for nodes; those that share one get their alias, or else id, behind it."""
  def plain(name):
    return ''.join(c if c.isalnum() else '_' for c in name.lower())

  first = {node: plain(tree.names[node]) or plain(node) for node in nodes}
  second = {node: f'{first[node]}_{plain(tree.aliases.get(node, node))}' for node in nodes}
  names = {}
  for node in nodes:
    unique = (each[node] for each in (first, second)
              if list(each.values()).count(each[node]) == 1)
    name = next(unique, f'{first[node]}_{plain(node)}')
    while name in names.values():  # still another's: ids may differ in an odd character only
      name += '_'
    names[node] = name
  return names


def table(found):
  """The slices as lines of text: name, classes, examples, nearest other and overlap."""
  lines = [f'{"slice":24} {"classes":>7} {"examples":>8}  nearest other (overlap)']
  for one in found:
    other = f'{one.nearest} ({one.overlap:.0%})' if one.nearest else '-'
    lines.append(f'{one.name:24} {len(one.classes):7} {one.examples:8}  {other}')
  return '\n'.join(lines)
