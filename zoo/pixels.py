"""Images of any kind as uint8 RGB of a given size."""

import numpy as np
from PIL import Image
from PIL import ImageOps


def to_rgb(image):
  """An image as uint8 RGB.

  Args:
    image: array [H, W] or [H, W, 1] (grey, repeated), [H, W, 2] (grey and alpha),
      [H, W, 3], or [H, W, 4] (RGB and alpha); uint8, uint16 (scaled to 8 bits) or bool.
      Alpha is dropped over white.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: another dtype or shape.
  """
  image = np.asarray(image)
  if image.dtype == bool:
    image = image.astype(np.uint8) * 255
  elif image.dtype == np.uint16:
    image = ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
  elif image.dtype != np.uint8:
    raise ValueError(f'an image has dtype {image.dtype}; uint8, uint16 or bool is needed.')
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or not image.size:
    raise ValueError(f'an image has shape {image.shape}; [H, W, 1 to 4] is needed.')
  if image.shape[2] in (2, 4):
    alpha = image[..., -1:].astype(np.uint32)
    over_white = image[..., :-1].astype(np.uint32) * alpha + 255 * (255 - alpha)
    image = ((over_white + 127) // 255).astype(np.uint8)
  return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def resize(image, size):
  """Resizes uint8 [H, W, 3] to [size, size, 3], bilinear with antialiasing (Pillow's)."""
  if image.shape[:2] == (size, size):
    return image
  return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def decode(path):
  """Reads an image file as an array that `to_rgb` takes, turned as its EXIF says.

  Raises:
    OSError, ValueError: it is not a whole image that Pillow reads.
  """
  with Image.open(path) as file:
    file.load()
    image = ImageOps.exif_transpose(file)
  if image.mode.startswith('I'):  # 16-bit grey
    return np.clip(np.asarray(image, np.int64), 0, 65535).astype(np.uint16)
  if image.mode in ('1', 'L', 'LA', 'RGB', 'RGBA'):
    return np.asarray(image)
  transparent = 'transparency' in image.info or image.mode == 'PA'
  return np.asarray(image.convert('RGBA' if transparent else 'RGB'))
