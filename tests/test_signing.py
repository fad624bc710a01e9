"""Signatures: a module is what the holder of a key signed, to the last file."""

import os
import pathlib
import shutil

import pytest
from conftest import tiny_backbone
from conftest import tiny_description

from export import hub_verify
from export import publish
from export import signing

pytest.importorskip('model_signing', reason="pip install 'expert-zoo[sign]'")


def _pair(folder, name, password=None):
  """Writes a key pair; returns the paths of the private and the public key."""
  from cryptography.hazmat.primitives import serialization
  from cryptography.hazmat.primitives.asymmetric import ec
  key = ec.generate_private_key(ec.SECP256R1())
  private, public = folder / f'{name}.pem', folder / f'{name}.pub'
  private.write_bytes(key.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
      serialization.BestAvailableEncryption(password) if password
      else serialization.NoEncryption()))
  public.write_bytes(key.public_key().public_bytes(
      serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
  return str(private), str(public)


@pytest.fixture
def module(tiny_hub, tmp_path):
  """The folder of a module."""
  return pathlib.Path(shutil.copytree(f'{tiny_hub}/test/expert/1', tmp_path / 'hub/test/expert/1'))


@pytest.fixture
def keys(tmp_path):
  return _pair(tmp_path, 'mine')


def _wrong(path, public):
  with pytest.raises(ValueError) as caught:
    signing.verify(str(path), signing.Signer(public))
  message = str(caught.value)
  assert '\n' not in message
  assert str(path) in message
  return message


def test_what_was_signed_is_known_anywhere_by_the_public_key(module, keys, tmp_path):
  private, public = keys
  signing.sign(str(module), private)
  signing.verify(str(module), signing.Signer(public))
  moved = shutil.copytree(module, tmp_path / 'elsewhere')
  signing.verify(str(moved), signing.Signer(public))


def test_another_signed_it_or_nobody(module, keys, tmp_path):
  assert 'is not signed' in _wrong(module, keys[1])
  signing.sign(str(module), _pair(tmp_path, 'theirs')[0])
  assert 'is not what' in _wrong(module, keys[1])


@pytest.mark.parametrize('spoil', [
    lambda m: (m / 'saved_model.pb').open('ab').write(b'x'),
    lambda m: (m / 'README.md').unlink(),
    lambda m: (m / 'SHA256SUMS').write_text(''),
    lambda m: (m / 'variables/more').touch(),
    lambda m: (m / 'model.sig').write_text('{}'),
    lambda m: (m / 'model.sig').write_bytes(b'\xff\x00'),
    lambda m: (m / 'model.sig').write_text('[' * 100000),
])
def test_no_file_can_be_changed_lost_or_added_after_signing(module, keys, spoil):
  signing.sign(str(module), keys[0])
  spoil(module)
  _wrong(module, keys[1])


def test_a_signature_cannot_be_moved_to_another_module(module, keys, tiny_hub, tmp_path):
  signing.sign(str(module), keys[0])
  other = shutil.copytree(f'{tiny_hub}/test/baseline/1', tmp_path / 'other')
  shutil.copy(module / 'model.sig', other)
  _wrong(other, keys[1])


def test_a_key_may_have_a_password(module, tmp_path, monkeypatch):
  private, public = _pair(tmp_path, 'locked', b'open sesame')
  with pytest.raises(ValueError, match='cannot be signed'):
    signing.sign(str(module), private)
  assert not (module / 'model.sig').exists()
  monkeypatch.setenv('ZOO_KEY_PASSWORD', 'open sesame')
  signing.sign(str(module), private)
  signing.verify(str(module), signing.Signer(public))


def test_a_key_that_is_none_is_named(module, keys, tmp_path):
  for path in (str(tmp_path / 'nothing'), str(module / 'README.md'), keys[1]):
    with pytest.raises(ValueError, match='cannot be signed'):
      signing.sign(str(module), path)
  signing.sign(str(module), keys[0])
  _wrong(module, keys[0])


def test_zoo_publish_signs_what_it_publishes_and_nothing_if_it_cannot(
    module, keys, tmp_path, console):
  private, public = keys
  code, _, err = console(publish, f'--module={module}', '--hub=theirs', f'--sign={public}')
  assert code == 1
  assert 'cannot be signed' in err
  assert not os.path.exists('theirs')
  assert console(publish, f'--module={module}', '--hub=theirs', f'--sign={private}')[0] == 0
  assert console(hub_verify, '--hub=theirs', f'--key={public}')[0] == 0
  other, known = _pair(tmp_path, 'other')
  again = ['--module=theirs/test/expert/1', '--hub=again', f'--sign={other}']
  assert console(publish, *again)[0] == 0
  assert console(hub_verify, '--hub=again', f'--key={known}')[0] == 0


def test_a_network_is_signed_as_it_is_published(keys, tmp_path):
  path = publish.publish(tiny_backbone(0), tiny_description('baseline'), str(tmp_path / 'new'),
                         'test/new/1', keys[0])
  signing.verify(path, signing.Signer(keys[1]))


def test_verify_wants_one_signer(console, tiny_hub):
  for flags in (['--key=k', '--identity=i', '--issuer=s'], ['--identity=i'], ['--issuer=s']):
    code, _, err = console(hub_verify, f'--hub={tiny_hub}', *flags)
    assert code == 1
    assert 'give --key, or both of --identity and --issuer' in err


def test_zoo_hub_verify_tells_signed_modules_from_others(module, keys, tiny_hub, console):
  root = str(module.parent.parent.parent)
  signing.sign(str(module), keys[0])
  code, out, _ = console(hub_verify, f'--hub={root}', f'--key={keys[1]}')
  assert (code, out) == (0, 'test/expert/1 is whole and signed\n')
  shutil.copytree(f'{tiny_hub}/test/baseline/1', os.path.join(root, 'test/baseline/1'))
  code, out, err = console(hub_verify, f'--hub={root}', f'--key={keys[1]}')
  assert (code, out) == (1, 'test/expert/1 is whole and signed\n')
  assert 'test/baseline/1 is not signed' in err
  assert '1 of 2 modules failed' in err
