"""Finished training runs: their networks, and what their modules say of them."""

import os


def runs(work_dir, predictor=False):
  """What a training command left in its folder.

  Args:
    work_dir: a finished work_dir of `zoo.pretrain.pretrain`, of one expert, of
      `zoo.experts.train_experts`, of `zoo.domains.train`, or of `zoo.multitask.multitask`.
    predictor: of a baseline, its whole classifier, which predicts labels.

  Returns:
    A list of folder and result of each run; those of one baseline's adapter experts have
    'adapters' in their results, all others have not.

  Raises:
    ValueError: nothing finished is there, or what cannot be published together.
  """
  from zoo import pretrain
  if os.path.exists(os.path.join(work_dir, pretrain.RESULT)):
    folders = [work_dir]
  elif os.path.isdir(work_dir):
    folders = sorted(
        os.path.join(work_dir, entry) for entry in os.listdir(work_dir)
        if os.path.exists(os.path.join(work_dir, entry, pretrain.RESULT)))
  else:
    folders = []
  if not folders:
    raise ValueError(f'{work_dir} has no finished training run (no {pretrain.RESULT}).')
  one = ('predictor', 'multitask') if folders == [work_dir] else ()
  results = [pretrain.read_result(folder, ('baseline', 'expert', *one)) for folder in folders]
  if predictor:
    if [result['kind'] for result in results] != ['baseline']:
      raise ValueError(f'{work_dir} is not the folder of a finished baseline, whose labels '
                       '--predictor is to predict.')
    results = [{**results[0], 'kind': 'predictor', 'predicts': 'labels',
                'classes': results[0]['upstream']['classes']}]
  if len({bool(result.get('adapters')) for result in results}) > 1:
    raise ValueError(f'{work_dir} has adapter and whole experts: publish them one by one.')
  return list(zip(folders, results, strict=True))


def network(folder, result):
  """What a finished run gives a hub, in float32: its backbone, of a predictor all of it."""
  from zoo import backbones
  from zoo import classifier
  from zoo import pretrain
  from zoo import weights
  made = backbones.build(backbones.architecture_of(result['architecture']))
  if result['kind'] == 'predictor':
    made = classifier.Predictor(made, len(result['classes']))
  weights.set_to(made, weights.load(os.path.join(folder, pretrain.WEIGHTS)))
  return made


def packed(found):
  """The adapter experts of one baseline, of `runs`, as one backbone, in float32."""
  from zoo import adapters
  from zoo import backbones
  from zoo import pretrain
  from zoo import weights
  values = adapters.pack([
      {path: value
       for path, value in weights.load(os.path.join(folder, pretrain.WEIGHTS)).items()
       if path.startswith('backbone/')} for folder, _ in found])
  first = found[0][1]
  config = adapters.AdapterConfig(**{**first['adapters'], 'experts': len(found)})
  backbone = backbones.build(backbones.architecture_of(first['architecture']), config)
  weights.set_to(backbone, values)
  return backbone


def description(result):
  """What module.json takes over from the result of a training run."""
  outputs = {}
  if result['kind'] == 'predictor':
    outputs = {'features': len(result['classes']), 'predicts': result['predicts'],
               'classes': result['classes'], 'slices': result.get('slices')}
  elif result['kind'] == 'multitask':
    outputs = _of_tasks(result)
  return {
      'kind': result['kind'], 'preset': result['preset'], 'image_size': result['image_size'],
      'upstream': result['upstream'], 'slice': result.get('slice'), 'experts': None,
      'scores': result['scores'], 'cost': result['cost'], **outputs}


def _of_tasks(result):
  """What else it takes over of a network for several tasks."""
  sparse = result['architecture'].get('sparse')
  known = sparse and sparse['gate'] != 'shared'
  return {'tasks': result['tasks'], 'experts': [
      {'name': task['name'], 'slice': None} for task in result['tasks']] if known else None}


def packed_description(results):
  """The same of the results of adapter experts that are packed into one."""
  first = results[0]
  return description(first) | {
      'kind': 'packed', 'slice': None, 'scores': None, 'cost': None,
      'upstream': {key: first['upstream'][key] for key in ('task', 'source', 'split')},
      'experts': [{'name': result['slice']['name'], 'slice': result['slice'],
                   'scores': result['scores'], 'cost': result['cost']} for result in results]}
