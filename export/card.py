"""The card: a module's README.md, made from its module.json."""

import functools
import os
import shlex

from export import front_matter
from export import metadata
from zoo import atomic

TEMPLATE = '''\
# {{ m.publisher }}/{{ m.name }}/{{ m.version }}

{% if m.kind == 'packed' -%}
{{ m.experts | length }} experts in one network: residual adapters on a shared baseline, chosen by
the argument `expert`.
{%- elif m.kind == 'multitask' -%}
One network trained on {{ m.tasks | length }} tasks at once
{%- if m.experts %}, whose gates know them: the argument `task` says which.
{%- else %}, which it does not tell from one another.
{%- endif %}
{%- elif m.kind == 'expert' -%}
An expert for **{{ m.slice.name }}**: the baseline trained on, with the
{{ '{:,}'.format(m.slice.examples) }} upstream images of this slice
({{ m.slice.classes | length }} classes).
{%- elif m.kind == 'finetuned' -%}
A classifier for **{{ m.task.name }}** ({{ m.class_names | length }} classes
{%- if m.multi_label %}, any number of them an image{% endif %}), {% if m.members -%}
an ensemble of {{ m.members | length }} fine-tuned networks, whose probabilities are averaged:
{% for one in m.members %}
- {{ one.count }} x `{{ one.handle }}`{% if one.name %}, expert {{ one.name }}{% endif %}
{%- endfor %}
{%- else -%}
fine-tuned from
`{{ m.start.handle }}`{% if m.start.name %}, expert {{ m.start.name }}{% endif %}.
{%- endif %}
{%- elif m.kind == 'predictor' -%}
{% if m.predicts == 'slices' -%}
A predictor of **slices**: from which of {{ m.classes | length }} slices of the upstream data an
image was drawn (the expert-prediction network of arXiv 2009.13239), if all are drawn from alike.
{%- else -%}
A predictor of **labels**: the upstream classifier, {{ '{:,}'.format(m.classes | length) }} classes.
{%- endif %}
`zoo-rank --proxy={{ 'domain' if m.predicts == 'slices' else 'labels' }}` chooses among the experts of
these upstream data with it; it is no expert itself.
{%- elif m.kind == 'foreign' -%}
A network of others, of which is not known what data it was trained on.
{%- else -%}
A baseline: one network trained on all of its upstream data{{ ', by others' if m.imported }}.
{%- endif %}

| | |
|---|---|
| kind | {{ m.kind }} |
{% if m.preset %}| architecture | {{ m.preset }} ({{ m.architecture.family or 'ResNet-v2, GroupNorm, weight standardisation' }}) |
{% endif -%}
{% if m.architecture and m.architecture.sparse -%}
| sparse layers | {{ m.architecture.sparse.blocks | length }} of {{ m.architecture.depth }} blocks, {{ m.architecture.sparse.experts }} experts each, of which a token uses {{ m.architecture.sparse.k }}; the argument `capacity` limits them |
{% endif -%}
{% if m.parameters %}| parameters | {{ '{:,}'.format(m.parameters) }} |
{% endif -%}
{% if m.upstream %}| upstream data | {{ m.upstream.source }}{% if m.upstream.split %}, split `{{ m.upstream.split }}`{% endif %} |
{% endif -%}
| images | {{ m.image_size }} x {{ m.image_size }}{% if not m.imported or m.imported.any_size %}, any other size works too{% else %} only{% endif %} |
{% if m.imported %}| imported from | {{ m.imported.source }}, {% if m.imported.weights %}`{{ m.imported.weights[:16] }}` (SHA-256){% else %}random weights{% endif %} |
| prepared inside | {{ m.imported.channels }}, black to {{ m.imported.black | join(', ') }} and white to {{ m.imported.white | join(', ') }} |
{% if m.imported.pooling %}| pooled by | {{ m.imported.pooling }} |
{% endif -%}
{% endif -%}
{% if m.kind != 'finetuned' %}| output | float32 [batch, {{ m.features }}]{% if m.kind == 'predictor' %}, log-probabilities in the order of `classes` in module.json{% endif %} |
{% endif -%}
{% if m.parent %}| baseline | `{{ m.parent[:16] }}` (fingerprint) |
{% endif -%}
{% if m.cost %}| training | {{ '%.0f' % m.cost.seconds }} s, {{ '{:,}'.format(m.cost.images) }} images |
{% endif -%}
| licence | {{ m.licence or 'not stated' }} |
| fingerprint | `{{ m.fingerprint[:16] }}` |
{% if m.scores and m.predicts == 'slices' %}
Of {{ '{:,}'.format(m.scores.held_out_examples) }} held-out images, weighted as if drawn from all
slices alike, {{ '%.1f' % (100 * m.scores.top1) }}% are in the slice that it finds likeliest;
cross-entropy {{ '%.3f' % m.scores.cross_entropy }} nats, where a perfect prediction would have
{{ '%.3f' % m.scores.least_cross_entropy }}.
{% endif -%}
{% if m.scores and (m.kind == 'baseline' or m.predicts == 'labels') %}
On {{ '{:,}'.format(m.scores.held_out_examples) }} held-out upstream images: top-1
{{ '%.1f' % (100 * m.scores.top1) }}%, top-5 {{ '%.1f' % (100 * m.scores.top5) }}%.
{% endif -%}
{% if m.scores and m.kind == 'expert' %}
On {{ '{:,}'.format(m.scores.held_out_examples) }} held-out images of the slice: top-1
{{ '%.1f' % (100 * m.scores.slice_top1) }}%, where the baseline has
{{ '%.1f' % (100 * m.scores.baseline_slice_top1) }}% among the same classes.
{% endif -%}
{% if m.kind == 'finetuned' %}
Test {{ 'mean average precision' if m.multi_label else 'accuracy' }}
{{ '%.1f' % (100 * (m.scores.test_map if m.multi_label else m.scores.test_accuracy)) }}% on
{{ '{:,}'.format(m.scores.test_examples) }} images (95% interval
{{ '%.1f' % (100 * m.scores.interval[0]) }} to {{ '%.1f' % (100 * m.scores.interval[1]) }}%).
{% endif -%}
{% if m.predicts == 'slices' %}
| output | slice | classes | images |
|---:|---|---:|---:|
{% for one in m.slices -%}
| {{ loop.index0 }} | {{ one.name }} | {{ one.classes | length }} | {{ '{:,}'.format(one.examples) }} |
{% endfor -%}
{% endif -%}
{% if m.tasks %}
| task | data | classes | images | share of the training | top-1, test |
|---:|---|---:|---:|---:|---:|
{% for t in m.tasks -%}
| {{ loop.index0 }} | {{ t.name }} ({{ t.source }}) | {{ t.classes | length }} | {{ '{:,}'.format(t.examples) }} | {{ '%.0f' % (100 * t.share) }}% | {{ '%.1f' % (100 * t.top1) }}% |
{% endfor -%}
{% elif m.experts %}
| expert | slice | classes | images | baseline on the slice | expert on the slice |
|---:|---|---:|---:|---:|---:|
{% for e in m.experts -%}
| {{ loop.index0 }} | {{ e.name }} | {{ e.slice.classes | length }} | {{ '{:,}'.format(e.slice.examples) }} | {{ '%.1f' % (100 * e.scores.baseline_slice_top1) }}% | {{ '%.1f' % (100 * e.scores.slice_top1) }}% |
{% endfor -%}
{% endif %}
## Use

```python
{% if m.kind == 'finetuned' -%}
import tensorflow as tf

model = tf.saved_model.load(path_of_this_folder)
probabilities = model(images)  # uint8 [batch, height, width, 3] of any size
names = model.class_names.numpy()  # in the order of the columns
{%- else -%}
import tensorflow_hub as hub

layer = hub.KerasLayer(path_of_this_folder
{%- if m.kind != 'predictor' %}, trainable=True{% endif %}
{%- if m.experts %}, arguments={'{{ m.argument or 'expert' }}': 0}{% endif %})
{{ 'log_probabilities' if m.kind == 'predictor' else 'embeddings' }} = layer(images)  # float32 [batch, height, width, 3] in [0, 1]
{%- endif %}
```
{% if m.command %}
## Made with

```
{{ command }}
```
{% endif -%}
'''


def render(values):
  """The card of a module as Markdown, with front matter.

  Args:
    values: its module.json.
  """
  return front_matter.front_matter(values) + body(values)


def body(values):
  """`render`, without front matter."""
  return _template().render(
      m=values, command=' '.join(quoted(values.get('command') or ())))


@functools.cache
def _template():
  import jinja2
  environment = jinja2.Environment(undefined=jinja2.ChainableUndefined, trim_blocks=False)
  return environment.from_string(TEMPLATE)


def quoted(command):
  """The command that made a module, a list of words, as words for a shell."""
  return [word if word == '&&' else shlex.quote(os.path.basename(word) if i == 0 else word)
          for i, word in enumerate(command)]


def write(path):
  """Writes README.md into the folder of a module that has its module.json."""
  atomic.write_text(os.path.join(path, 'README.md'), render(metadata.read(path)))
