"""Devices by name for Keras' JAX backend, in the place of TensorFlow's strategies."""

import contextlib
import dataclasses

import keras

from zoo import sparse

KINDS = ('default', 'mirrored', 'experts')


@dataclasses.dataclass(frozen=True)
class Devices:
  """Where a model is, and its batches.

  Attributes:
    distribution: a `keras.distribution` class, or None for one device.
  """
  distribution: object = None

  cluster_resolver = extended = None  # there is one process

  @property
  def num_replicas_in_sync(self):
    return 1 if self.distribution is None else self.distribution.device_mesh.devices.size

  def scope(self):
    """What is made within is on these devices."""
    return contextlib.nullcontext() if self.distribution is None else self.distribution.scope()


def make(name):
  """The `Devices` that --strategy names.

  Args:
    name: 'default' (one), 'mirrored' (all of this machine, each with the whole model and a part
      of every batch) or 'experts' (the same, but the experts of sparse layers are dealt out to
      them).

  Raises:
    ValueError: the name is another one.
  """
  if name not in KINDS:
    raise ValueError(f'--strategy={name} is none of {", ".join(KINDS)}, which there are for '
                     "Keras' JAX backend.")
  if name == 'default':
    return Devices()
  devices = keras.distribution.list_devices()
  mesh = keras.distribution.DeviceMesh((len(devices),), ['batch'], devices)
  if name == 'mirrored':
    return Devices(keras.distribution.DataParallel(device_mesh=mesh))
  return Devices(keras.distribution.ModelParallel(
      layout_map=sparse.layout(mesh, 'batch'), batch_dim_name='batch'))


def current():
  """The `Devices` in whose scope this is."""
  return Devices(keras.distribution.distribution())
