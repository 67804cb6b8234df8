"""One image of a store as a tensor, for the reading pass and for training alike.

One idea: both use the same graph operations here, so that a pixel that was cached while reading
and one that is decoded again in every epoch have the same bits.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import decoding, image_heads, image_stores, preprocessing

# EIGEN_MAX_ALIGN_BYTES of builds with AVX-512: kernels abort on tensors that start elsewhere.
_ALIGNMENT_BYTES = 64


def make_aligned(shape: tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
    """Memory for pixels that `as_tensor` can lend to TensorFlow without a copy.

    Args:
      shape: of the array.
      dtype: NumPy type of an element.

    Returns:
      Uninitialized array; its memory begins at a multiple of 64 bytes.
    """
    num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(num_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """An array as a tensor on the CPU; one from `make_aligned` shares its memory.

    `tf.constant` would hold a second copy of gigabytes of pixels, for every split again.

    Args:
      array: numbers of any shape. Do not write to it afterwards.

    Returns:
      The tensor.
    """
    is_aligned = array.ctypes.data % _ALIGNMENT_BYTES == 0
    if is_aligned and array.size and array.flags.c_contiguous and array.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("/CPU:0"):
        return tf.constant(array)


def make_loader(
    images: image_stores.EncodedImages | image_stores.ArrayImages | image_stores.DecodedImages,
    indices: np.ndarray,
    spec: preprocessing.PreprocessingSpec,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads, decodes and resizes one image.

    Args:
      images: a store with random access.
      indices: int64 [n], places in the store.
      spec: what the model takes.

    Returns:
      Function of a position (int64 scalar, 0 to n - 1) to float32 [height, width, channels],
      values 0 to 255. It raises tf.errors.OpError where the file cannot be read or decoded.
    """
    if isinstance(images, image_stores.EncodedImages):
        read, decode = make_reader(images, indices), choose_decoder(images, indices)
        return lambda position: decode(read(position), spec)
    pixels, places = as_tensor(images.pixels), tf.constant(indices, tf.int64)
    is_ready = images.pixels.shape[1:] == (spec.height, spec.width, spec.channels)
    if isinstance(images, image_stores.DecodedImages) and is_ready:
        return lambda position: tf.cast(pixels[places[position]], tf.float32)
    return lambda position: preprocessing.resize_pixels(pixels[places[position]], spec)


def choose_decoder(
    images: image_stores.EncodedImages, indices: np.ndarray
) -> Callable[[tf.Tensor, preprocessing.PreprocessingSpec], tf.Tensor]:
    """What decodes the images of a split.

    Args:
      images: files, or stretches of files.
      indices: int64 [n], places in the store.

    Returns:
      `preprocessing.decode_image`, or the quicker one of plain JPEGs where all of them are.
    """
    if are_plain_jpegs(images, indices):
        return preprocessing.decode_plain_jpeg
    return preprocessing.decode_image


def are_plain_jpegs(images: image_stores.EncodedImages, indices: np.ndarray) -> bool:
    """Whether every image is a JPEG that needs no look for EXIF; asks until one is not.

    Args:
      images: files, or stretches of files.
      indices: int64 [n], places in the store.

    Returns:
      False too where an image cannot be read.
    """
    try:
        for index in indices:
            with image_heads.read_image(images, index) as file:
                if not decoding.begins_plain_jpeg(file.read(decoding.PLAIN_JPEG_BYTES)):
                    return False
    except OSError:
        return False
    return len(indices) > 0


def make_reader(
    images: image_stores.EncodedImages, indices: np.ndarray
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads one encoded image.

    Args:
      images: files, or stretches of files.
      indices: int64 [n], places in the store.

    Returns:
      Function of a position (int64 scalar, 0 to n - 1) to a string scalar. It raises
      tf.errors.OpError where the file cannot be read.
    """
    if isinstance(images, image_stores.PathImages):
        # Only this split's paths: as TensorFlow strings once, not once per split and epoch.
        paths = tf.constant(images.paths[indices], tf.string, shape=(len(indices),))
        return lambda position: tf.io.read_file(paths[position])

    def read(position: np.ndarray) -> bytes:
        return image_heads.read_slice(images, int(indices[position]))

    def read_slice(position: tf.Tensor) -> tf.Tensor:
        # tf.io reads whole files only, and a FixedLengthRecordDataset with a header reads what is
        # in front of the stretch too: of a file of 28 MB that is 25 times slower than this.
        return tf.ensure_shape(tf.numpy_function(read, [position], tf.string), ())

    return read_slice


def load_element(element: tf.Tensor, spec: preprocessing.PreprocessingSpec) -> tf.Tensor:
    """An element of a stream as the model takes it.

    Args:
      element: string scalar, an encoded image; or uint8 or uint16 [height, width, 1 to 4].
      spec: what the model takes.

    Returns:
      float32 [height, width, channels], values 0 to 255.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image.
    """
    if element.dtype == tf.string:
        return preprocessing.decode_image(element, spec)
    return preprocessing.resize_pixels(element, spec)


def select_elements(images: image_stores.StreamImages, indices: np.ndarray) -> tf.data.Dataset:
    """The elements of a stream that belong to a split, in the stream's order.

    Args:
      images: the stream.
      indices: int64 [n], places in the stream, in any order.

    Returns:
      Dataset of (element, position): position int64 scalar is the element's place in `indices`.
    """
    positions = np.full(len(images), -1, np.int64)
    positions[indices] = np.arange(len(indices))
    lookup = tf.constant(positions)
    numbered = images.make_dataset().enumerate()
    placed = numbered.map(lambda number, element: (element, lookup[number]))
    return placed.filter(lambda element, position: position >= 0)
