"""Signatures of modules by OpenSSF model signing: who made it, where SHA256SUMS says what it is.

model.sig beside the other files is a Sigstore bundle over their digests, as the model_signing
tool writes and checks it: with a key pair (ECDSA on a NIST curve, PEM), or with an identity that
Sigstore vouches for, which needs the network.
"""

import contextlib
import dataclasses
import os

from export import manifest
from zoo import cli

PASSWORD = 'ZOO_KEY_PASSWORD'  # the environment's, of an encrypted private key
SIGSTORE = 'sigstore'


@dataclasses.dataclass(frozen=True)
class Signer:
  """Whose signature is wanted: a public key's, or an identity's at its issuer.

  Attributes:
    key: path of a public key.
    identity: such as a mail address, as Sigstore's certificate has it.
    issuer: URL of the OpenID Connect provider that vouches for the identity.
  """
  key: str | None = None
  identity: str | None = None
  issuer: str | None = None

  def __post_init__(self):
    if bool(self.key) == bool(self.identity) or bool(self.identity) != bool(self.issuer):
      raise ValueError('give --key, or both of --identity and --issuer.')


def sign(path, key):
  """Signs a module that has all of its other files.

  Args:
    path: folder of the module.
    key: path of a private key, whose password $ZOO_KEY_PASSWORD may have; or 'sigstore', which
      asks for an identity unless the environment has one.

  Raises:
    ValueError: the key cannot be used, or Sigstore does not sign.
  """
  signing = _library('signing')
  with _one_line(f'{path} cannot be signed'):
    config = signing.Config()
    if key == SIGSTORE:
      config.use_sigstore_signer(use_ambient_credentials=True)
    else:
      password = os.environ.get(PASSWORD)
      config.use_elliptic_key_signer(private_key=key, password=password and password.encode())
    # All but the signature: git's own files, which the library would pass over, are none of ours.
    config.set_hashing_config(_library('hashing').Config().set_ignored_paths(
        paths=[manifest.SIGNATURE], ignore_git_paths=False))
    with contextlib.suppress(FileNotFoundError):
      os.unlink(os.path.join(path, manifest.SIGNATURE))
    config.sign(path, os.path.join(path, manifest.SIGNATURE))


def verify(path, signer):
  """Checks that a module is, file by file, what someone signed.

  Args:
    path: folder of the module.
    signer: a `Signer`.

  Raises:
    ValueError: it is not signed, by another, or its files are not those that were signed.
  """
  verifying = _library('verifying')
  signature = os.path.join(path, manifest.SIGNATURE)
  if not os.path.isfile(signature):
    raise ValueError(f'{path} is not signed: it has no {manifest.SIGNATURE}.')
  with _one_line(f'{path} is not what {signer.key or signer.identity} signed'):
    config = verifying.Config()
    if signer.key:
      config.use_elliptic_key_verifier(public_key=signer.key)
    else:
      config.use_sigstore_verifier(identity=signer.identity, oidc_issuer=signer.issuer)
    config.verify(path, signature)


def _library(name):
  """A module of model_signing."""
  import importlib
  try:
    return importlib.import_module(f'model_signing.{name}')
  except ModuleNotFoundError:
    raise ValueError("signatures need a library more: pip install 'expert-zoo[sign]'.") from None


@contextlib.contextmanager
def _one_line(problem):
  """Turns what the libraries below raise, of many kinds, into a line."""
  try:
    yield
  except Exception as error:
    why = cli.last_line(error).split(': Expected')[0].rstrip('.')  # the digests are no help
    raise ValueError(f'{problem} ({type(error).__name__}: {why}).') from None
