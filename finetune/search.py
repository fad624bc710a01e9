"""A budgeted search of settings with Optuna, which comes with the extra `search`.

The sampler is Optuna's TPE; a trial whose val figure at a quarter, half or three quarters of its
steps is below the median of the others' there is stopped. What it looks at is val, never test.
"""

from finetune import runs
from finetune import sweep
from finetune import tuning
from zoo import training

STARTUP = 5  # trials at random, and trials before any is stopped
SPREAD = 100_003  # between the seeds of two searches: more than the trials of one


def search(run, plan):
  """Tries the settings that Optuna proposes.

  Each trial's sampler is seeded by its number and fed with the trials before it, so that a
  killed search goes on as it would have.

  Args:
    run: a `finetune.runs.Run`.
    plan: a `finetune.sweep.Plan`; with `tune` 'whole' the search also chooses what to train.

  Returns:
    (settings, tried), as `finetune.tuning.swept`.
  """
  import optuna
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  study = optuna.create_study(
      direction='maximize', pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
  settings, tried = [], []
  for number in range(plan.trials):
    study.sampler = optuna.samplers.TPESampler(
        seed=(plan.seed * SPREAD + number) % 2**32, n_startup_trials=STARTUP)
    trial = study.ask()
    setting, reported = _proposed(trial, run, plan), []

    def report(quarter, figure, trial=trial, reported=reported):
      reported.append(quarter)
      trial.report(figure, quarter)
      if trial.should_prune():
        raise runs.Stopped(f'stopped after {quarter}/4 of its steps: {figure:.1%} on val is below '
                           'the median there.')

    one = run.attempt(setting, number, f'{run.candidate.name}: trial {number + 1}/{plan.trials}',
                      report)
    settings.append(setting)
    tried.append(one)
    states = optuna.trial.TrialState
    # One that was kept from before a kill has not reported in this process.
    for quarter, figure in one['curve'][len(reported):]:
      trial.report(figure, quarter)
    if one['error'] is None:
      study.tell(trial, tuning.figure(one))
    else:
      study.tell(trial, state=states.PRUNED if one['curve'] else states.FAIL)
  return settings, tried


def _proposed(trial, run, plan):
  """The `finetune.sweep.Setting` of an Optuna trial."""
  tune = plan.tune
  if tune == 'whole':
    tune = trial.suggest_categorical('tune', run.parts())
  steps = trial.suggest_categorical('steps', [sweep.scaled(s, plan) for s in sweep.STEPS])
  recipe = training.Recipe(
      steps=steps, batch=plan.batch, warmup=steps // 20, schedule='cosine', nesterov=False,
      learning_rate=trial.suggest_float('learning_rate', *sweep.RATE_RANGE, log=True),
      weight_decay=trial.suggest_float('weight_decay', *sweep.DECAY_RANGE, log=True),
      mixup=trial.suggest_categorical('mixup', sweep.MIXUPS), flip=False, crop=0,
      loss='sigmoid' if run.data.task.multi_label else 'softmax', seed=plan.seed)
  return sweep.Setting(recipe, tune)
