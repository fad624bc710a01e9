"""Fine-tuning: one expert (`finetune.finetune`), or the whole line (`finetune.transfer`)."""


def finetune(*args, **kwargs):
  """See `finetune.tuning.finetune`; imported when first called."""
  from finetune import tuning
  return tuning.finetune(*args, **kwargs)


def transfer(*args, **kwargs):
  """See `finetune.line.transfer`; imported when first called."""
  from finetune import line
  return line.transfer(*args, **kwargs)
