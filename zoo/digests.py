"""Digests of files."""

import hashlib


def of_file(path):
  """SHA-256 of a file, as hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
