"""What the clients of other places raise, told as Python's own errors of one line each."""

import contextlib

from zoo import cli

# Names of classes, so that no client needs to be imported for them: urllib's, requests' and
# botocore's, aiohttp's, httpx's and google-auth's, of connections and of time that is up; what
# huggingface_hub raises if it cannot ask.
_UNREACHABLE = {
    'URLError', 'ConnectionError', 'ClientConnectionError', 'HTTPClientError', 'TransportError',
    'Timeout', 'TimeoutError', 'ServerTimeoutError', 'LocalEntryNotFoundError'}
_NO_LOGIN = {'PermissionError', 'NoCredentialsError', 'PartialCredentialsError',
             'DefaultCredentialsError', 'CredentialError', 'UnauthenticatedError'}


@contextlib.contextmanager
def explained(place, login):
  """Turns what a client raises in the block into errors that say what to do.

  Args:
    place: what is asked, for messages.
    login: how to say to it who one is, for messages.

  Raises:
    ConnectionError: it cannot be reached, or fails itself (status 429 or 5xx).
    PermissionError: it refuses (401, 403), or there is nothing to log in with.
    FileNotFoundError: it has no such thing (404).
    Exception: all else as it is.
  """
  try:
    yield
  except Exception as error:
    reason = cli.last_line(error).rstrip('.')
    status = _status(error)
    if status in (401, 403):
      raise PermissionError(f'{place} refuses ({reason}): {login}') from error
    if status == 404:
      raise FileNotFoundError(f'{place} has no such thing, or hides it ({reason}): {login}'
                              ) from error
    if status == 429 or status >= 500:
      raise ConnectionError(f'{place} cannot be reached ({reason})') from error
    raise


def _status(error):
  """The HTTP status that an error is about, or amounts to; 0 if to none."""
  if isinstance(error, OSError) and error.filename is not None:
    return 0  # of the disk here
  if str(error).startswith('Forbidden: '):  # gcsfs has no better
    return 403
  for status in (getattr(getattr(error, 'response', None), 'status_code', None),
                 getattr(error, 'code', None)):
    if isinstance(status, int):
      return status
  names = {kind.__name__ for kind in type(error).__mro__}
  return (503 if names & _UNREACHABLE else 401 if names & _NO_LOGIN
          else 404 if 'FileNotFoundError' in names else 0)


def missing(scheme, library, extra):
  """The error for a client that is not installed."""
  return ValueError(f'{scheme}:// needs {library}: pip install "expert-zoo[{extra}]".')
