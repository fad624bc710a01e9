"""Pages of results: one self-contained HTML file each, in the look of `page.html.j2`."""

import base64
import io
import os

from selection import show
from zoo import atomic

HERE = os.path.dirname(__file__)


def write(path, template, **values):
  """Writes a page whole or not at all.

  Args:
    path: where it goes.
    template: path of a Jinja template that extends 'page.html.j2'.
    **values: what the template shows. Text is escaped; markup of `svg` is not, if the
      template says `| safe`.
  """
  import jinja2
  folder, name = os.path.split(template)
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader([folder, HERE]), autoescape=True)
  atomic.write_text(path, environment.get_template(name).render(values))


def check_path(flag, path):
  """Raises ValueError unless a page could be written to `path`, which `flag` gave."""
  if not path.endswith('.html') or os.path.isdir(path):
    raise ValueError(f'{flag}={path} must be a file that ends in .html.')
  folder = os.path.dirname(os.path.abspath(path))
  while not os.path.exists(folder):  # it will be made
    folder = os.path.dirname(folder)
  if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
    raise ValueError(f'{flag}={path} cannot be written: {folder} is not a folder that takes '
                     'files.')


def svg(draw, *arguments):
  """A figure as markup for a page.

  Args:
    draw: function that returns a matplotlib figure.
    *arguments: of that function.
  """
  import matplotlib
  with matplotlib.rc_context({'savefig.transparent': True}):  # pages have a dark side
    text = show.render(draw, *arguments).decode()
  return text[text.index('<svg'):]


def data_url(image, size):
  """An image as a PNG in a data URL, for a page that shows it at `size` pixels.

  Args:
    image: uint8 [H, W, 3].
    size: in pixels of the page; screens may have two to one of these, more would be wasted.
  """
  from PIL import Image
  picture = Image.fromarray(image)
  picture.thumbnail((2 * size, 2 * size))
  buffer = io.BytesIO()
  picture.save(buffer, format='PNG')
  return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
