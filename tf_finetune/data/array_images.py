"""Pixels that were handed over in Python: what they must be, and how they become bytes.

One idea: a float says nothing about its range, and scaled twice or not at all it trains a bad model
without an error. So pixels are 0 to 255 here whatever their dtype, and other ranges are refused.
"""

import dataclasses

import numpy as np

from tf_finetune.data import array_labels, image_stores

MAX_CHANNELS = 4
_CHUNK_IMAGES = 256
_WHITE = 255


@dataclasses.dataclass
class PixelRange:
    """What is known of the pixels so far.

    Attributes:
      low: the least, infinity before the first.
      high: the largest.
      has_fractions: some are no whole numbers.
      bad: places of images with NaN or infinity.
    """

    low: float = np.inf
    high: float = -np.inf
    has_fractions: bool = False
    bad: list[int] = dataclasses.field(default_factory=list)

    def add(self, pixels: np.ndarray, *, first: int) -> None:
        """Looks at some images.

        Args:
          pixels: [k, ...] of numbers.
          first: place of the first of them.
        """
        if not pixels.size:
            return
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1)
            self.bad += (first + np.flatnonzero(~finite)).tolist()
            pixels = pixels[finite]
            if not pixels.size:
                return
            self.has_fractions |= bool((pixels != np.floor(pixels)).any())
        self.low = min(self.low, float(pixels.min()))
        self.high = max(self.high, float(pixels.max()))

    def check(self, dtype: np.dtype) -> None:
        """Refuses a range that is not 0 to 255.

        Args:
          dtype: of the pixels.

        Raises:
          array_labels.BadArrayError: of floats, values from 0 to 1 or below 0; values above 255; no
            finite pixel at all.
        """
        if self.low > self.high:
            raise array_labels.BadArrayError("no image has finite pixels.")
        found = f"{dtype} pixels from {self.low:g} to {self.high:g}"
        if dtype.kind == "f" and self.low >= 0 and 0 < self.high <= 1:
            raise array_labels.BadArrayError(
                f"{found} look scaled. Expected 0 to 255: multiply them by 255. Scaling is the "
                "model's own, see --pixel_range."
            )
        if self.low < 0 or self.high > _WHITE:
            raise array_labels.BadArrayError(
                f"{found}. Expected 0 to 255, or uint16. Undo what scaled them."
            )


def check_shape(shape: tuple[int | None, ...], name: str) -> None:
    """Refuses what are no images.

    Args:
      shape: of one image, None where it is not known.
      name: of the array and its dtype, for messages.

    Raises:
      array_labels.BadArrayError: another rank than [height, width] or [height, width, channels],
        no pixel, two channels, or more than four.
    """
    if 0 in shape:
        raise array_labels.BadArrayError(f"images without a pixel. Received {name}.")
    if len(shape) == 3 and shape[2] == 2:
        raise array_labels.BadArrayError(
            "images of two channels. Expected 1 (grey), 3 (RGB) or 4 (RGB and alpha). "
            "images[..., :1] is the first channel alone; numpy.take(images, [0, 0, 0, 1], -1) "
            f"makes RGB and alpha of grey and alpha. Received {name}."
        )
    if len(shape) == 2 or (len(shape) == 3 and (shape[2] or 1) <= MAX_CHANNELS):
        return
    hint = ""
    if len(shape) == 3 and (shape[0] or _WHITE) <= MAX_CHANNELS:
        hint = " Channels come last: numpy.moveaxis(images, 1, -1)."
    raise array_labels.BadArrayError(
        "expected images [n, height, width] or [n, height, width, 1, 3 or 4 channels]. Received "
        f"{name}.{hint}"
    )


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Checked pixels as a store takes them.

    Args:
      images: [..., height, width, channels], 0 to 255, or uint16.

    Returns:
      The same as uint8, fractions rounded; uint16 as it is.
    """
    if images.dtype in (np.uint8, np.uint16):
        return images
    return np.rint(images).astype(np.uint8) if images.dtype.kind == "f" else images.astype(np.uint8)


def make_store(images: np.ndarray) -> tuple[image_stores.ImageStore, list[int], str]:
    """Images of one shape as a store.

    Args:
      images: [n, height, width] or [n, height, width, channels], uint8 or any number from 0 to 255,
        or uint16; or object [n] of bytes, encoded images.

    Returns:
      (the store; places of images with NaN; what to warn of, or ""). uint8 is not copied.

    Raises:
      array_labels.BadArrayError: another dtype, shape or range.
    """
    if images.ndim == 1 and images.dtype.kind in "SO" and all(isinstance(i, bytes) for i in images):
        return _make_stream(images), [], ""
    if images.dtype.kind not in "uif":
        raise array_labels.BadArrayError(
            f"expected pixels, or the bytes of encoded images. Received "
            f"{array_labels.describe(images)}."
        )
    check_shape(images.shape[1:], array_labels.describe(images))
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype == np.uint8:
        return image_stores.ArrayImages(images), [], ""
    if images.dtype == np.uint16:
        return _make_stream(images), [], ""
    found = PixelRange()
    pixels = np.empty(images.shape, np.uint8)
    for first in range(0, len(images), _CHUNK_IMAGES):
        found.add(images[first : first + _CHUNK_IMAGES], first=first)
    found.check(images.dtype)
    for first in range(0, len(images), _CHUNK_IMAGES):
        chunk = images[first : first + _CHUNK_IMAGES]
        if found.bad:
            chunk = np.nan_to_num(chunk, nan=0.0, posinf=0.0, neginf=0.0)
        pixels[first : first + _CHUNK_IMAGES] = to_pixels(chunk)
    return image_stores.ArrayImages(pixels), found.bad, describe_rounding(found)


def describe_rounding(found: PixelRange) -> str:
    """What is done to fractions.

    Args:
      found: of all pixels.

    Returns:
      A sentence, or "".
    """
    if not found.has_fractions:
        return ""
    return "pixels with fractions are rounded to whole numbers, as those of resized images are."


def _make_stream(images: np.ndarray) -> image_stores.StreamImages:
    def make_dataset() -> object:
        import tensorflow as tf

        with tf.device("/CPU:0"):
            return tf.data.Dataset.from_tensor_slices(images)

    return image_stores.StreamImages(make_dataset, len(images))
