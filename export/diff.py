"""What two modules differ in: what they say of themselves, their programs, their weights."""

import collections
import dataclasses
import os

import numpy as np

from export import graphs
from export import metadata

_OWN = ('fingerprint', 'publisher', 'name', 'version')  # differ always, or are the question


@dataclasses.dataclass(frozen=True)
class Layer:
  """The weights that two modules have in common under one name.

  Attributes:
    name: of the layer, or of what of it is compared.
    size: numbers in it.
    norms: Euclidean norm in the one and in the other, float64.
    change: norm of the difference over that of the one; None from 0.
  """
  name: str
  size: int
  norms: tuple[float, float]
  change: float | None


def said(one, other):
  """The keys of two module.json that differ.

  Args:
    one, other: as `export.metadata.read` gives them.

  Returns:
    A list of (key, value of the one, of the other), keys of objects within as 'a.b', None for a
    key that is not there.
  """
  one, other = _flat(one), _flat(other)
  return [(key, one.get(key), other.get(key)) for key in [*one, *(k for k in other if k not in one)]
          if one.get(key) != other.get(key) and key not in _OWN]


def _flat(values, prefix=''):
  found = {}
  for key, value in values.items():
    if isinstance(value, dict) and value:
      found |= _flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def operations(path):
  """How often each operation is in the graphs and functions of a SavedModel, a Counter."""
  graph = graphs.read(path).meta_graphs[0].graph_def
  return collections.Counter(
      node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function))
      for node in nodes)


def weights(path):
  """The weights of a SavedModel, without loading its program.

  Args:
    path: its folder.

  Returns:
    A dict of names and arrays, in the order of the network where that is known. Networks of ours
    name their variables as Keras does; others as their author did.

  Raises:
    ValueError: it is not said object by object (TensorFlow 1, Keras), or as
      `export.metadata.read`.
  """
  import tensorflow as tf
  stored = tf.train.load_checkpoint(os.path.join(path, 'variables', 'variables'))
  paths = _backbone_paths(metadata.read(path))
  if paths is None:
    nodes = graphs.read(path).meta_graphs[0].object_graph_def.nodes
    paths = {i: nodes[child.node_id].variable.name for i, child in _children(nodes, 'variables')}
  keys = {i: f'variables/{i}/.ATTRIBUTES/VARIABLE_VALUE' for i in paths}
  if not keys or not all(map(stored.has_tensor, keys.values())):
    raise ValueError(f'{path} does not say its variables as a Reusable SavedModel does.')
  return {name: stored.get_tensor(keys[i]) for i, name in paths.items()}


def _backbone_paths(description):
  """Names of the variables of a network of ours by their number; None for another."""
  from zoo import adapters
  from zoo import backbones
  from zoo import weights as weights_lib
  if not description.get('architecture') or description['kind'] == 'predictor':
    return None
  config = description.get('adapters')
  backbone = backbones.build(backbones.architecture_of(description['architecture']),
                             config and adapters.AdapterConfig(**config))
  return {i: variable.path.partition('/')[2]
          for i, variable in enumerate(weights_lib.learned(backbone))}


def _children(nodes, name):
  """(number, child) of the list of this name in the first of an object graph's nodes."""
  found = [child.node_id for child in (nodes[0].children if nodes else ()) if
           child.local_name == name]
  return [(int(child.local_name), child) for node in found for child in nodes[node].children]


def layers(one, other):
  """Compares the weights of two modules.

  Args:
    one, other: as `weights` gives them.

  Returns:
    A list of `Layer`, the variables of a layer taken together, in the order of `one`; and the
    names that only one has, or that have another shape in the other.
  """
  both = {name: value for name, value in one.items()
          if name in other and value.shape == other[name].shape}
  grouped = {}
  for name in both:
    grouped.setdefault(name.rpartition('/')[0] or name, []).append(name)
  return [_layer(name, *(np.concatenate([of[part].ravel() for part in parts]).astype(np.float64)
                         for of in (one, other)))
          for name, parts in grouped.items()], sorted({*one, *other} - set(both))


def _layer(name, one, other):
  norms = float(np.linalg.norm(one)), float(np.linalg.norm(other))
  return Layer(name, one.size, norms,
               float(np.linalg.norm(other - one)) / norms[0] if norms[0] else None)
