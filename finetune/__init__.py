"""Fine-tuning: one expert (`finetune`), several (`ensemble`), or the whole line (`transfer`)."""


def finetune(*args, **kwargs):
  """See `finetune.tuning.finetune`; imported when first called."""
  from finetune import tuning
  return tuning.finetune(*args, **kwargs)


def ensemble(*args, **kwargs):
  """See `finetune.ensembles.ensemble`; imported when first called."""
  from finetune import ensembles
  return ensembles.ensemble(*args, **kwargs)


def transfer(*args, **kwargs):
  """See `finetune.line.transfer`; imported when first called."""
  from finetune import line
  return line.transfer(*args, **kwargs)
