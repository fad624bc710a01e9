"""Selection: which expert of a hub suits a task, by its frozen embeddings.

`selection.rank(task, hub)` is the whole of it for a notebook.
"""


def rank(*args, **kwargs):
  """See `selection.ranking.rank`; imported when first called."""
  from selection import ranking
  return ranking.rank(*args, **kwargs)
