"""The catalogue of a hub as HTML: the same for a server and for files.

Pages hold no script and no style; these are files beside them, so that `CSP` can forbid all
others. What a module says is escaped by the templates, and its README.md is Markdown without HTML.
"""

import functools
import json
import logging
import os
import re
import shlex

from export import archives
from export import card
from export import catalogue
from export import deprecation
from export import hub
from export import metadata

logger = logging.getLogger(__name__)

HERE = os.path.dirname(__file__)
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
       "base-uri 'none'; form-action 'none'")
ASSETS = {'catalogue.css': 'text/css', 'catalogue.js': 'text/javascript'}
PAGES = ('index.html', 'compare.html')  # beside one for each module
INDEX = 'index.json'
README_LIMIT = 1 << 16  # bytes that are shown
OPEN_NODES = 60  # a larger tree starts with the slices of slices closed
_LINKS = ('https://', 'http://', '#')
_FRONT_MATTER = re.compile(r'\A---\n.*?\n---\n', re.DOTALL)  # for Hugging Face's pages


class Catalogue:
  """The pages of a hub. What a module's files say is read again when they have changed."""

  def __init__(self, root):
    self.root = os.path.realpath(root)
    self._kept, self._made = {}, (None, {})

  def entries(self):
    """The `catalogue.entry` of each module that is well described, by handle; links are none."""
    kept, entries = {}, []
    for handle in hub.handles(self.root, links=False):
      path, files = os.path.join(self.root, handle), None
      try:
        files = archives.state(path)
        before, one = self._kept.get(handle, (None, None))
        if files != before:
          one = catalogue.entry(hub.Module(handle, path, metadata.read(path)),
                                sum(size for _, size, *_ in files))
      except Exception as error:  # module.json can hold anything, and the others go on
        one = None
        logger.warning('%s is not listed: %s', handle, error)
      kept[handle] = files, one
      if one:
        entries.append(one | {'deprecated': self.deprecated(handle)})
    self._kept = kept
    return entries

  def deprecated(self, handle):
    """Why a module is deprecated, or None."""
    try:
      return deprecation.reason(self.root, handle)
    except ValueError as error:
      logger.warning('%s', error)
      return 'the reason cannot be read'  # the safe side

  def index_json(self):
    """All modules for programs, as text."""
    listed = [json.dumps({
        **{key: one[key] for key in ('handle', 'kind', 'image_size', 'parameters', 'fingerprint',
                                 'deprecated')},
        'slice': one['slices'][0]['name'] if one['slices'] and not one['experts'] else None,
        'experts': one['experts'], 'upstream': (one['upstream'] or {}).get('source')})
              for one in self.entries()]
    return '{"modules": [\n' + ',\n'.join(listed) + '\n]}\n'

  def page(self, name):
    """One of `PAGES`, as text."""
    entries = self.entries()
    if self._made[0] != entries:
      self._made = entries, {}
    made = self._made[1]
    if name not in made:
      made[name] = (_index if name == 'index.html' else _compare)(entries)
    return made[name]

  def module(self, handle, address):
    """The page of a module, as text; None if it is not among the entries.

    Args:
      handle: publisher/name/version.
      address: of the hub, a folder or a URL, for the lines that load the module.
    """
    entries = self.entries()
    one = next((one for one in entries if one['handle'] == handle), None)
    return one and self._module(one, catalogue.kin(entries), address)

  def files(self, address):
    """All files of the catalogue, an iterator of (name with '/', text); `address` as above."""
    for name in ASSETS:
      yield name, asset(name)
    for name in PAGES:
      yield name, self.page(name)
    yield INDEX, self.index_json()
    entries = self.entries()
    kin = catalogue.kin(entries)
    for one in entries:
      yield page_of(one['handle']), self._module(one, kin, address)

  def _module(self, one, kin, address):
    known, made = kin
    chain, missing = catalogue.provenance(one, known)
    where = f'{address}/{one["handle"]}'
    return _render(
        'catalogue_module.html.j2', '../../../', one=one, card=_card(self.root, one['handle']),
        facts=[(what, text) for what, text in catalogue.facts(one) if text],
        code=_code(one, where), commands=_commands(one, where), chain=chain, missing=missing,
        children=made.get(one['fingerprint'], ()), command=card.quoted(one['command']))


def page_of(handle):
  """Where the page of a module is."""
  return f'{handle}/index.html'


@functools.cache
def asset(name):
  """One of `ASSETS`, as text."""
  with open(os.path.join(HERE, name), encoding='utf-8') as file:
    return file.read()


def _index(entries):
  nodes, under = catalogue.slice_tree(entries)
  return _render('catalogue_index.html.j2', '', entries=entries, nodes=nodes, under=under,
                 all_open=len(nodes) <= OPEN_NODES)


def _compare(entries):
  return _render('catalogue_compare.html.j2', '', modules={
      one['handle']: {'page': page_of(one['handle']), 'facts': catalogue.facts(one)}
      for one in entries})


def _render(template, top, **values):
  """A page; `top` leads from it to the index."""
  return _environment().get_template(template).render(top=top, csp=CSP, **values)


def broken(text):
  """Text that may break behind what joins words in names, as markup."""
  import markupsafe
  escaped = str(markupsafe.escape(text))  # what it puts in has none of these
  return markupsafe.Markup(re.sub('([_:/])', r'\1<wbr>', escaped))


@functools.cache
def _environment():
  import jinja2
  environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True,
                                   undefined=jinja2.StrictUndefined)
  environment.filters |= {'bytes': catalogue.size_text, 'knows': catalogue.knows,
                          'source': catalogue.source, 'page': page_of, 'broken': broken}
  return environment


def _code(one, where):
  """Lines of Python that load a module."""
  if one['kind'] == 'finetuned':
    return (f'import tensorflow_hub as hub\n\nmodel = hub.load({where!r})\n'
            'probabilities = model(images)  # uint8 [batch, height, width, 3] of any size')
  arguments = ((', trainable=True' if one['kind'] != 'predictor' else '')
               + (f", arguments={{{one['argument'] or 'expert'!r}: 0}}" if one['experts'] else ''))
  gives = 'log_probabilities' if one['kind'] == 'predictor' else 'embeddings'
  low, high = one['input_range'][0], one['input_range'][-1]
  return (f'import tensorflow_hub as hub\n\nlayer = hub.KerasLayer({where!r}{arguments})\n'
          f'{gives} = layer(images)  # float32 [batch, height, width, 3] in [{low}, {high}]')


def _commands(one, where):
  """Lines for a shell that use a module; none if our binaries have no use for it."""
  if one['kind'] == 'finetuned':
    return ''
  handle = shlex.quote(where)
  if one['kind'] == 'predictor':
    proxy = 'domain' if one['predicts'] == 'slices' else 'labels'
    return f'zoo-rank --task=TASK --proxy={proxy} --handles={handle}'
  expert = shlex.quote(f'{where}#0') if one['experts'] else handle
  return (f'zoo-rank --task=TASK --handles={handle}\n'
          f'zoo-transfer --task=TASK --handles={handle}\n'
          f'zoo-finetune --task=TASK --handle={expert}')


def _card(root, handle):
  """A module's README.md as markup; '' if there is none.

  Of one that `export.card` made, without what the page itself says better.
  """
  path = os.path.join(root, handle)
  try:
    with open(os.path.join(path, 'README.md'), 'rb') as file:
      text = file.read(README_LIMIT).decode('utf-8', 'replace').replace('\r\n', '\n')
  except OSError:
    return ''
  text = _FRONT_MATTER.sub('', text).lstrip('\n')
  if text == _made_card(path):
    text = text[text.index('\n'):text.index('\n## Use\n')]
  return markdown(text)


def _made_card(path):
  try:
    return card.body(metadata.read(path))
  except Exception:  # module.json can hold anything
    return None


def markdown(text):
  """Markdown as markup that is safe whatever the text: no HTML, no images, links to the web only.

  Args:
    text: of a stranger. Headings go below those of a page.

  Returns:
    A `markupsafe.Markup`.
  """
  import markupsafe
  reader = _reader()
  tokens = reader.parse(text)
  for token in tokens:
    if token.type in ('heading_open', 'heading_close'):
      token.tag = f'h{min(int(token.tag[1]) + 2, 6)}'
    elif token.type in ('th_open', 'td_open') and token.attrs.pop('style', '').endswith('right'):
      token.attrs['class'] = 'n'
    for inner in token.children or ():
      if inner.type == 'link_open':
        inner.attrs['rel'] = 'nofollow noopener noreferrer'
  return markupsafe.Markup(reader.renderer.render(tokens, reader.options, {}))


@functools.cache
def _reader():
  import markdown_it
  reader = markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table').disable('image')
  reader.validateLink = lambda url: url.lower().startswith(_LINKS)
  return reader
