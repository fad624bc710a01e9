"""Which tokens go to which experts of a sparse layer: V-MoE's routing (arXiv 2106.05974).

Every token chooses the K experts of the largest gates. An expert computes at most Q tokens of a
group; those that choose it when it is full get nothing from it.

Shapes: G groups, S tokens of a group, C channels, E experts, K choices of a token, Q slots of
an expert in each group.
"""

import math
import typing

from keras import ops


class Routes(typing.NamedTuple):
  """Where tokens go.

  Attributes:
    experts: int32 [G, S, K], largest gate first.
    slots: int32 [G, S, K], 0 .. Q - 1, or Q where the expert is full.
    weights: float32 [G, S, K], the gates of the choices; 0 where the expert is full.
  """
  experts: typing.Any
  slots: typing.Any
  weights: typing.Any


def slots_for(tokens, experts, k, ratio):
  """Q: the share of an expert if all get the same, times a ratio, rounded up.

  Args:
    tokens: S, an int or an int scalar of the graph.
    experts, k: E and K.
    ratio: the capacity ratio, above 0; a float or a float scalar of the graph.

  Returns:
    An int where both are known, else an int32 scalar; 1 to S.

  Raises:
    ValueError: a ratio that is known is not above 0; one of the graph leaves 1 slot then.
  """
  if isinstance(ratio, (int, float)) and not ratio > 0:
    raise ValueError(f'capacity is {ratio}; it must be above 0.')
  # A hair less, so that 1.05 * 2000 / 10 is 210 in float32, too.
  if isinstance(tokens, int) and isinstance(ratio, (int, float)):
    return max(1, min(math.ceil(tokens * k * ratio / experts * (1 - 1e-6)), tokens))
  tokens = ops.cast(tokens, 'float32')
  wanted = ops.ceil(tokens * k * ops.cast(ratio, 'float32') / experts * (1 - 1e-6))
  return ops.cast(ops.where(wanted >= 1, ops.minimum(wanted, tokens), 1), 'int32')


def choose(gates, k):
  """The K largest gates of every token: (experts int32 [G, S, K], gates [G, S, K])."""
  found, experts = ops.top_k(gates, k)
  return ops.cast(experts, 'int32'), found


def assign(experts, gates, number, slots, priority=False):
  """Gives tokens the slots of the experts that they chose.

  All first choices come before any second choice; among them earlier tokens come first, or,
  by batch priority routing (section 4 there), those whose largest gate is larger.

  Args:
    experts, gates: as `choose` returns them.
    number: E.
    slots: Q, an int or an int32 scalar; with S nobody is turned away.
    priority: whether the largest gate decides rather than the place.

  Returns:
    `Routes`.
  """
  groups, tokens, k = ops.shape(experts)
  order = None
  if priority:
    order = ops.argsort(-gates[..., 0], axis=1)  # [G, S]; it is stable
    experts = ops.take_along_axis(experts, order[..., None], axis=1)
  by_choice = ops.reshape(ops.transpose(experts, (0, 2, 1)), (groups, k * tokens))
  chosen = ops.one_hot(by_choice, number, dtype='int32')  # [G, K * S, E]
  before = ops.cumsum(chosen, axis=1) - chosen
  places = ops.transpose(
      ops.reshape(ops.sum(before * chosen, axis=-1), (groups, k, tokens)), (0, 2, 1))
  if order is not None:
    back = ops.argsort(order, axis=1)[..., None]
    places = ops.take_along_axis(places, back, axis=1)
    experts = ops.take_along_axis(experts, back, axis=1)
  fits = places < slots
  # A product and not a choice: a gate that is not a number must show, whoever is full.
  weights = gates * ops.cast(fits, gates.dtype)
  return Routes(experts, ops.minimum(places, slots), weights)


def dispatch(x, routes, number, slots):
  """Fills the slots of the experts: tokens [G, S, C] to [E, G * Q, C].

  What stands in slots that nobody has is of no account.

  Returns:
    (the slots' content, int32 [G, S, K]: the row of each choice in its first two axes taken as
    one; 0 for those without a slot).
  """
  groups, tokens, channels = ops.shape(x)
  k = routes.experts.shape[-1]
  group = ops.arange(groups, dtype='int32')[:, None, None]
  rows = (routes.experts * groups + group) * slots + routes.slots
  last = number * groups * slots  # one more for those without a slot
  rows = ops.where(routes.slots < slots, rows, last)
  of_token = ops.broadcast_to(
      ops.reshape(ops.arange(groups * tokens, dtype='int32'), (groups, tokens, 1)),
      (groups, tokens, k))
  holders = ops.scatter(ops.reshape(rows, (-1, 1)), ops.reshape(of_token, (-1,)), (last + 1,))
  held = ops.take(ops.reshape(x, (-1, channels)), ops.clip(
      holders[:-1], 0, groups * tokens - 1), axis=0)
  return (ops.reshape(held, (number, -1, channels)),
          ops.where(routes.slots < slots, rows, 0))


def pack(x, routes, number):
  """Sorts the tokens of a group by expert, where nobody is turned away: [1, S, C] to [S * K, C].

  Returns:
    (the tokens, int32 [1, S, K]: the row of each choice, int32 [E + 1]: the expert e has the rows
    from the e-th of them on and before the next).
  """
  counts = ops.sum(ops.one_hot(routes.experts, number, dtype='int32'), axis=(0, 1, 2))
  bounds = ops.concatenate([ops.zeros((1,), 'int32'), ops.cumsum(counts)])
  rows = ops.take(bounds, routes.experts) + routes.slots
  tokens, k = ops.shape(rows)[1], rows.shape[-1]
  of_token = ops.repeat(ops.arange(tokens, dtype='int32'), k)
  holders = ops.scatter(ops.reshape(rows, (-1, 1)), of_token, (tokens * k,))
  return ops.take(x[0], holders, axis=0), rows, bounds


def combine(y, rows, weights):
  """What the experts made of the tokens, summed: [E, G * Q, C] or [S * K, C] to [G, S, C].

  Args:
    y: what stood in slots or rows, behind the experts.
    rows: of `dispatch` or `pack`.
    weights: float [G, S, K].
  """
  found = ops.take(ops.reshape(y, (-1, y.shape[-1])), rows, axis=0)  # [G, S, K, C]
  return ops.sum(found * ops.cast(weights, y.dtype)[..., None], axis=2)


def importance_loss(gates):
  """How unequal the sums of the experts' gates [G, S, E] are: a squared coefficient of variation.

  0 if they are equal. The mean over groups; section A.2 of arXiv 2106.05974.
  """
  return ops.mean(_squared_variation(ops.sum(gates, axis=1)))


def load_loss(logits, noisy, k, deviation):
  """How unequal the experts' chances to be chosen are, if the noise is drawn anew.

  Section A.2 of arXiv 2106.05974.

  Args:
    logits: float32 [G, S, E], without noise.
    noisy: the same with normal noise.
    k: K.
    deviation: the noise's standard deviation, above 0.
  """
  threshold = ops.top_k(noisy, k)[0][..., -1:]
  # Phi((logit - threshold) / deviation)
  chances = 0.5 * (1 + ops.erf((logits - threshold) / (deviation * 2 ** 0.5)))
  return ops.mean(_squared_variation(ops.mean(chances, axis=1)))


def _squared_variation(values):
  """Squared ratio of standard deviation to mean over the last axis; of [G, E], [G]."""
  mean = ops.mean(values, axis=-1)
  return ops.var(values, axis=-1) / ops.maximum(mean * mean, 1e-20)


def balance_loss(gates):
  """Switch's loss (arXiv 2101.03961, section 2.2): E times the sum of f * P over experts.

  Of gates [G, S, E], f is the share of tokens whose largest gate is the expert's, P its mean
  gate. 1 if all are equal; E if all tokens go to one.
  """
  number = gates.shape[-1]
  first = ops.one_hot(ops.argmax(gates, axis=-1), number, dtype=gates.dtype)
  return ops.mean(number * ops.sum(ops.mean(first, axis=1) * ops.mean(gates, axis=1), axis=-1))


def z_loss(logits):
  """ST-MoE's loss (arXiv 2202.08906): the mean of logsumexp(logits [G, S, E]) squared."""
  return ops.mean(ops.square(ops.logsumexp(logits, axis=-1)))
