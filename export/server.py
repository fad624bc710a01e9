"""A hub over HTTP: TensorFlow Hub's protocol for its stock client, JSON for programs, pages.

  /publisher/name/version?tf-hub-format=compressed   the module as a tar.gz
  /publisher/name/version                            its module.json; browsers go to its page
  /publisher/name/version/index.html                 its page
  /publisher/name                                    redirects to the newest version
  /index.json                                        all modules
  /, /compare.html                                   the catalogue (`export.catalogue_pages`)

It only reads. A module's archive is made once, when it is first asked for, kept in a folder and
streamed from there. A published version never changes, so clients may keep it for ever; its ETag
is the module's fingerprint and a digest of its other files, and equal files make equal archives
(`export.archives`), so that ranges go on after a restart.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import ipaddress
import json
import logging
import os
import socket
import threading

import uvicorn
from starlette import applications
from starlette import concurrency
from starlette import exceptions
from starlette import responses
from starlette import routing
from starlette.middleware import trustedhost

from export import archives
from export import caches
from export import catalogue_pages
from export import hub
from export import metadata

logger = logging.getLogger(__name__)

FORMAT = 'tf-hub-format'
FOREVER = 'public, max-age=31536000, immutable'
GRACE = 1  # seconds that running transfers get when the server ends; they can go on later
_VARY = {'Vary': 'Accept', 'Cache-Control': 'no-cache'}
_LOCAL = ('localhost', '127.0.0.1', '[::1]')
WORKERS = 2  # threads that read whole modules, to check or to pack them


@dataclasses.dataclass(frozen=True)
class _Known:
  """What reading a module gave.

  Attributes:
    files: its files as `export.archives.files` found them then.
    description: its module.json.
    etag: without quotes.
    wrong: why it cannot be served, in one line; None if it can.
  """
  files: list
  description: dict | None = None
  etag: str | None = None
  wrong: str | None = None


class _Shelf:
  """The modules of a hub, each read whole once and again when its files have changed."""

  def __init__(self, root, cache):
    self.root, self.cache = os.path.realpath(root), cache
    self._known = {}

  def path(self, handle):
    """The folder of a module.

    Raises:
      HTTPException: 404, there is none, or a link leads to it.
    """
    try:
      path = os.path.join(self.root, *hub.split_handle(handle))
    except ValueError as error:
      raise exceptions.HTTPException(404, str(error)) from None
    # No link at all: one could lead out of the root, now or later.
    if os.path.realpath(path) != path or not os.path.isfile(os.path.join(path, 'saved_model.pb')):
      raise exceptions.HTTPException(404, f'no module {handle!r} is here')
    return path

  def now(self, handle):
    """The `_Known` of a module if its files are still those, else None."""
    known, path = self._known.get(handle), self.path(handle)
    try:
      return known if known and known.files == archives.state(path) else None
    except (ValueError, OSError):
      return None

  def read(self, handle):
    """Reads a module: its `_Known`, which `now` gives from here on."""
    path, files = self.path(handle), None
    try:
      files = archives.state(path)
      description = metadata.read(path)
      hub.check(hub.Module(handle, path, description), trust=True)  # to load it is the client's
      json.dumps(description, allow_nan=False)
      known = _Known(files, description, f'{description["fingerprint"]}-{_rest(path, files)}')
    except Exception as error:  # module.json can hold anything, and the others go on
      logger.warning('%s is not served: %s', handle, error)
      known = _Known(files, wrong=str(error).replace(self.root + os.sep, ''))
    self._known[handle] = known
    return known

  def archive(self, handle, known):
    """The path of a module's archive, made if it is not there.

    Raises:
      HTTPException: 503, the files changed meanwhile, or there is no room.
    """
    path = self.archive_path(known)
    if not os.path.exists(path):
      try:
        archives.pack(self.path(handle), path)
        if self.now(handle) != known:
          os.unlink(path)
          raise ValueError('its files are changing')
      except (ValueError, OSError) as error:
        logger.warning('%s cannot be packed: %s', handle, error)
        raise _unavailable(handle, 'it cannot be packed') from None
    return path

  def archive_path(self, known):
    return os.path.join(self.cache, known.etag + caches.SUFFIX[caches.ARCHIVES])


def _rest(path, files):
  """A digest of the files that the fingerprint leaves out, and of how archives are made."""
  digest = hashlib.sha256(archives.FORMAT.encode())
  for name, size, *_ in files:
    digest.update(f'{name}\0{size}\0'.encode())
    file = os.path.join(path, name)
    if name != 'saved_model.pb' and not name.startswith('variables/') and os.path.isfile(file):
      with open(file, 'rb') as content:
        digest.update(hashlib.file_digest(content, 'sha256').digest())
  return digest.hexdigest()[:16]


def _unavailable(handle, why):
  return exceptions.HTTPException(503, f'{handle} is not served: {why}')


class _Once:
  """Runs functions in a few threads; who asks for what runs already waits for that run."""

  def __init__(self):
    self._pool = concurrent.futures.ThreadPoolExecutor(WORKERS, 'hub')
    self._running, self._lock = {}, threading.Lock()

  async def __call__(self, function, *arguments, key):
    with self._lock:
      future = self._running.get(key)
      if future is None:
        future = self._running[key] = self._pool.submit(function, *arguments)
        future.add_done_callback(lambda _: self._running.pop(key, None))
    # A client that goes away takes nothing from those who wait for the same.
    return await asyncio.shield(asyncio.wrap_future(future))


class _Archive(responses.FileResponse):
  """Streams an archive; ranges are the library's.

  It is read in the event loop, as nginx does it: to have a thread read each chunk costs several
  times what reading it does (`benchmarks.serving`).
  """
  chunk_size = 1 << 18

  @contextlib.asynccontextmanager
  async def _open_file(self):
    with open(self.path, 'rb', buffering=0) as file:
      yield _Here(file)


class _Here:
  """A file that is read at once where the library awaits it."""

  def __init__(self, file):
    self._file = file

  async def read(self, size):
    return self._file.read(size)

  async def seek(self, position):
    return self._file.seek(position)


def application(root, cache=None):
  """A hub as an ASGI application, for any server of such.

  Args:
    root: folder of the hub. Modules published while the application runs appear.
    cache: folder where archives are kept; None for this machine's own.

  Returns:
    The application. It answers one line of text with each error: 400 for another format than
    'compressed' or a malformed range, 404 where no module is, 405 for methods but GET and HEAD,
    416 for a range behind the end, 503 for a module that is damaged.

  Raises:
    ValueError: the root is no folder.
  """
  if not os.path.isdir(root):
    raise ValueError(f'--root={root} is not a folder.')
  shelf, once = _Shelf(root, cache or caches.folder(caches.ARCHIVES)), _Once()
  pages = catalogue_pages.Catalogue(root)

  async def module(request):
    handle = _handle(request)
    known = await concurrency.run_in_threadpool(shelf.now, handle)
    if known is None:
      known = await once(shelf.read, handle, key=handle)
    if known.wrong:
      raise _unavailable(handle, known.wrong)
    form = request.query_params.get(FORMAT)
    if form is None:
      if 'text/html' in request.headers.get('accept', ''):  # programs do not name it
        return responses.RedirectResponse('/' + catalogue_pages.page_of(handle), 302, _VARY)
      why = await concurrency.run_in_threadpool(pages.deprecated, handle)
      return _json(json.dumps({'handle': handle, 'deprecated': why, **known.description}, indent=1),
                   _VARY)
    if form != 'compressed':
      raise exceptions.HTTPException(400, f'{FORMAT}={form!r} is not served; use compressed')
    headers = {'ETag': f'"{known.etag}"', 'Cache-Control': FOREVER}
    if _matches(request.headers.get('if-none-match'), known.etag):
      return responses.Response(status_code=304, headers=headers)
    path = shelf.archive_path(known)
    if not os.path.exists(path):
      await once(shelf.archive, handle, known, key=path)
    _without_foreign_range(request)
    return _Archive(path, headers=headers, stat_result=os.stat(path), media_type='application/gzip',
                    filename=f'{handle.replace("/", "-")}.tar.gz')

  async def newest(request):
    publisher, name = request.path_params['publisher'], request.path_params['name']
    try:
      version = await concurrency.run_in_threadpool(hub.newest, shelf.root, publisher, name, False)
    except ValueError as error:
      why = str(error).replace(shelf.root + os.sep, '')
      raise _unavailable(f'{publisher}/{name}', why) from None
    if version is None:
      raise exceptions.HTTPException(404, f'no module {f"{publisher}/{name}"!r} is here')
    return responses.RedirectResponse(
        f'/{publisher}/{name}/{version}?{request.url.query}'.rstrip('?'), 302,
        {'Cache-Control': 'no-cache'})

  async def index(request):
    return _json(await once(pages.index_json, key='/index.json'))

  async def page(request):
    name = request.url.path.removeprefix('/') or 'index.html'
    return _page(await once(pages.page, name, key=name))

  async def module_page(request):
    # The lines that load it name the address at which the client has found it.
    key = _handle(request), f'{request.url.scheme}://{request.url.netloc}'
    text = await once(pages.module, *key, key=key)
    if text is None:
      raise exceptions.HTTPException(404, f'no page of {key[0]!r} is here')
    return _page(text)

  async def asset(request):
    name = request.url.path.removeprefix('/')
    return _page(catalogue_pages.asset(name), catalogue_pages.ASSETS[name])

  app = applications.Starlette(routes=[
      routing.Route('/', page), routing.Route('/index.json', index),
      *(routing.Route(f'/{name}', page) for name in catalogue_pages.PAGES),
      *(routing.Route(f'/{name}', asset) for name in catalogue_pages.ASSETS),
      routing.Route('/{publisher}/{name}', newest),
      routing.Route(f'/{{publisher}}/{{name}}/{hub.LATEST}', newest),
      routing.Route('/{publisher}/{name}/{version}', module),
      routing.Route('/{publisher}/{name}/{version}/index.html', module_page),
  ], exception_handlers={exceptions.HTTPException: _one_line})
  app.router.redirect_slashes = False
  return app


async def _one_line(request, error):
  """An error's answer. Browsers shall not guess that it is a page."""
  return responses.PlainTextResponse(
      ' '.join(error.detail.split()) + '\n', error.status_code,
      {'X-Content-Type-Options': 'nosniff', **(error.headers or {})})


def _handle(request):
  return '{publisher}/{name}/{version}'.format(**request.path_params)


def _json(text, headers=None):
  return responses.Response(text, media_type='application/json', headers={
      'Cache-Control': 'no-cache', 'X-Content-Type-Options': 'nosniff', **(headers or {})})


def _page(text, media_type='text/html'):
  return responses.Response(text, media_type=media_type, headers={
      'Cache-Control': 'no-cache', 'X-Content-Type-Options': 'nosniff',
      'Content-Security-Policy': f"{catalogue_pages.CSP}; frame-ancestors 'none'",
      'Referrer-Policy': 'no-referrer'})


def _matches(header, etag):
  """Whether If-None-Match (RFC 9110, 13.1.2) names an ETag."""
  tags = [tag.strip().removeprefix('W/') for tag in (header or '').split(',')]
  return '*' in tags or f'"{etag}"' in tags


def _without_foreign_range(request):
  """Drops a Range that RFC 9110, 14.2 says to ignore: for HEAD, or not of bytes."""
  if request.method != 'GET' or not request.headers.get('range', '').lower().startswith('bytes'):
    request.scope['headers'] = [
        header for header in request.scope['headers'] if header[0].lower() != b'range']


def _listen(host, port):
  """A listening socket, and its URL.

  Raises:
    ValueError: there is no such address, or the port is taken.
  """
  try:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address, family=family)
  except (OSError, OverflowError) as error:
    raise ValueError(f'--host={host} --port={port} cannot be listened on ({error}); --port=0 '
                     'takes a free port.') from None
  shown = f'[{host}]' if ':' in host else host
  return listener, f'http://{shown}:{listener.getsockname()[1]}'


class _Server(uvicorn.Server):
  """Serves an application, and cuts transfers off quietly when it ends.

  Args:
    app: the application.
    listener: the socket it will listen on. On the loopback address only clients are answered that
      call it by a name of this machine: a page of the web whose own name was made to mean this
      machine (DNS rebinding) could read all modules otherwise.
    names: further names by which it may be called.
  """

  def __init__(self, app, listener, names=()):
    if ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
      app = trustedhost.TrustedHostMiddleware(app, [*_LOCAL, *names], www_redirect=False)
    super().__init__(uvicorn.Config(
        app, log_config=None, log_level=logging.ERROR, access_log=False, lifespan='off',
        server_header=False, timeout_graceful_shutdown=GRACE))

  async def shutdown(self, sockets=None):
    logging.getLogger('uvicorn.error').setLevel(logging.CRITICAL)
    await super().shutdown(sockets)


def serve(root, host='127.0.0.1', port=8080, cache=None, names=(), started=print):
  """Serves a hub until the process is interrupted, which is no error.

  Args:
    root, cache: as of `application`.
    host: address to listen on; the loopback address serves this machine alone.
    port: 0 for a free one.
    names: by which it is called from elsewhere, if `host` is a loopback address and a proxy in
      front passes on how it was called.
    started: is called with the URL once connections are taken.

  Raises:
    ValueError: the root is no folder, or the port is taken.
  """
  app = application(root, cache)
  listener, url = _listen(host, port)
  server = _Server(app, listener, names)
  with contextlib.suppress(KeyboardInterrupt):
    started(url)
    server.run([listener])


@contextlib.contextmanager
def running(root, cache=None):
  """Serves a hub on a free port of the loopback address while the block runs.

  Args:
    root, cache: as of `application`.

  Yields:
    The URL, such as 'http://127.0.0.1:40001'.
  """
  app = application(root, cache)
  listener, url = _listen('127.0.0.1', 0)
  server = _Server(app, listener)
  thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
  thread.start()
  try:
    yield url
  finally:
    server.should_exit = True
    thread.join()
