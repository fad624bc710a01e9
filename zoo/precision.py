"""Keras precision policies, and which one suits this machine."""

POLICIES = ('float32', 'mixed_bfloat16', 'mixed_float16')


def best():
  """'mixed_bfloat16' where the processor multiplies such numbers by itself, else 'float32'.

  These are CPUs with AMX, GPUs of compute capability 8 or more, and TPUs.
  """
  import keras
  if keras.backend.backend() == 'jax':
    import jax
    first = jax.devices()[0]
    if first.platform == 'gpu':
      return 'mixed_bfloat16' if float(first.compute_capability) >= 8 else 'float32'
    return 'mixed_bfloat16' if first.platform == 'tpu' or 'amx_bf16' in _cpu_flags() else 'float32'
  import tensorflow as tf
  if tf.config.list_physical_devices('TPU'):
    return 'mixed_bfloat16'
  gpus = tf.config.list_physical_devices('GPU')
  if gpus:
    details = tf.config.experimental.get_device_details(gpus[0])
    return 'mixed_bfloat16' if details.get('compute_capability', (0, 0))[0] >= 8 else 'float32'
  return 'mixed_bfloat16' if 'amx_bf16' in _cpu_flags() else 'float32'


def _cpu_flags():
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      return next((line for line in file if line.startswith('flags')), '').split()
  except OSError:  # not Linux
    return []
