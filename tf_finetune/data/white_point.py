"""What counts as white in 16-bit images, measured on the training images.

Microscopes and scanners store 10, 12 or 14 bits in 16: divided by 65535 such an image is black.
The 99.9th percentile is robust against single hot pixels.
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tf_finetune.data import decoding, image_stores, loaders, parallelism

MAX_IMAGES = 500
MAX_VALUE = 65535.0
_FRACTION = 0.999
_NUM_VALUES = 2**16


def measure_files(images: image_stores.EncodedImages, indices: np.ndarray) -> float | None:
    """White point of 16-bit PNG files.

    Args:
      images: the store.
      indices: int64 [n], places in it; at most MAX_IMAGES of them, evenly spaced, are read. What
        cannot be decoded is passed over here: the reading pass names it.

    Returns:
      The value, 1 to 65535, that 99.9 % of the colour values do not exceed; None if no file could
      be decoded.
    """
    chosen = np.linspace(0, len(indices) - 1, min(len(indices), MAX_IMAGES)).round()
    read = loaders.make_reader(images, indices[chosen.astype(np.int64)])
    dataset = tf.data.Dataset.range(len(chosen)).map(
        lambda position: decoding.decode_16_bits(read(position)),
        num_parallel_calls=parallelism.count_cores(),
    )
    return _find_percentile(
        parallelism.untuned(dataset.ignore_errors().prefetch(2)).as_numpy_iterator()
    )


def measure_stream(images: image_stores.StreamImages, indices: np.ndarray) -> float | None:
    """White point of a stream's 16-bit images.

    Args:
      images: the stream.
      indices: int64 [n], the training examples' places in it; the first MAX_IMAGES are read.

    Returns:
      As `measure_files`; None also if those images have 8 bits.
    """
    dataset = loaders.select_elements(images, indices).take(MAX_IMAGES)
    dataset = dataset.map(lambda element, position: element)
    if dataset.element_spec.dtype == tf.string:
        dataset = dataset.filter(decoding.has_16_bits).map(decoding.decode_16_bits).ignore_errors()
    elif dataset.element_spec.dtype != tf.uint16:
        return None
    return _find_percentile(dataset.as_numpy_iterator())


def _find_percentile(images: Iterable[np.ndarray]) -> float | None:
    """Counts values, so that 500 large images never are in memory together."""
    counts = np.zeros(_NUM_VALUES, np.int64)
    for image in images:
        num_colors = image.shape[-1] - (image.shape[-1] + 1) % 2
        counts += np.bincount(image[..., :num_colors].ravel(), minlength=_NUM_VALUES)
    total = counts.sum()
    if not total:
        return None
    value = int(np.searchsorted(np.cumsum(counts), _FRACTION * total))
    # An all-black sample must not divide by zero.
    return float(max(value, 1))
