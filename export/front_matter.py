"""The head of a card: what Hugging Face's Hub shows and searches by, as YAML.

Fields as in huggingface_hub's `ModelCardData` and its specification of model cards:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import json
import re

# The Hub's identifiers that are SPDX's, lower case; others are "other", by name.
_LICENCES = frozenset("""
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsl-1.0 cc-by-2.0 cc-by-3.0
    cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 ecl-2.0
    epl-2.0 gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 mit mpl-2.0 ncsa ofl-1.1 unlicense wtfpl zlib
    """.split())
_CLASSIFYING = ('finetuned', 'predictor')


def front_matter(values):
  """The front matter of a module's card.

  Args:
    values: its module.json, or whatever is in one: no value can end or change the YAML.

  Returns:
    Text from '---' to the line behind '---'.
  """
  classifies = values.get('kind') in _CLASSIFYING
  licence = str(values.get('licence') or '')
  fields = {}
  if licence.lower() in _LICENCES:
    fields['license'] = licence.lower()
  elif licence:
    fields |= {'license': 'other', 'license_name': _slug(licence)}
  fields |= {
      'library_name': 'tf-keras',  # where the Hub lists SavedModels
      'pipeline_tag': 'image-classification' if classifies else 'image-feature-extraction',
      'tags': ['tensorflow', 'savedmodel', 'expert-zoo', str(values.get('kind'))]}
  results = _results(values)
  if results:
    fields['model-index'] = [{'name': str(values.get('name')), 'results': results}]
  return '---\n' + ''.join(f'{key}: {_yaml(value)}\n' for key, value in fields.items()) + '---\n\n'


def _results(m):
  """The scores of a module as model-index has them."""
  scores, kind = m.get('scores') or {}, m.get('kind')
  source = (m.get('task' if kind == 'finetuned' else 'upstream') or {}).get('source')
  if not source:
    return []
  if kind == 'finetuned':
    found = [(source, scores, (('accuracy', 'test_accuracy', 'test accuracy'),
                               ('mAP', 'test_map', 'test mean average precision')))]
  elif kind == 'expert':
    found = [(f'{source}, {(m.get("slice") or {}).get("name")}', scores, _OF_SLICE)]
  elif kind == 'packed':
    found = [(f'{source}, {one["name"]}', one.get('scores') or {}, _OF_SLICE)
             for one in m.get('experts') or ()]
  elif kind == 'multitask':
    found = [(one['source'], one, (('accuracy', 'top1', 'top-1, test'),))
             for one in m.get('tasks') or ()]
  else:
    found = [(source, scores, (('accuracy', 'top1', 'top-1, held out'),
                               ('accuracy', 'top5', 'top-5, held out')))]
  return [{'task': {'type': 'image-classification'},
           'dataset': {'type': str(source).split(':')[0], 'name': name}, 'metrics': metrics}
          for name, figures, wanted in found
          if (metrics := [{'type': kind, 'name': text, 'value': figures[key]}
                          for kind, key, text in wanted if figures.get(key) is not None])]


_OF_SLICE = (('accuracy', 'slice_top1', 'top-1 among the classes of the slice, held out'),)


def _slug(text):
  """Text as the Hub wants names of licences."""
  return re.sub('[^a-z0-9.]+', '-', text.lower()).strip('-')[:80] or 'other'


def _yaml(value):
  """A value as YAML in one line, of printable characters: JSON, which YAML 1.2 includes."""
  return ''.join(one if one.isprintable() else f'\\U{ord(one):08x}'
                 for one in json.dumps(value, ensure_ascii=False, allow_nan=False))
