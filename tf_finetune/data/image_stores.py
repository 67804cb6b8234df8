"""Where the pixels of examples are before they are read: files, their parts, arrays, a stream.

One idea: a split is a list of indices into a store, so that splits of one data set share their
images and a million of them are shuffled by permuting numbers. The decoding of what a store
holds is the work of `pipeline`; nothing here opens a file or imports TensorFlow.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

INPUT = "image"
# What a server takes encoded images as.
ENCODED_INPUT = "image_bytes"


@dataclasses.dataclass(frozen=True, eq=False)
class PathImages:
    """Encoded images in files of their own.

    Attributes:
      paths: object [n] of bytes, as `os.fsencode` makes them: names that are not UTF-8 stay
        readable. An array of object costs one pointer per image and is never copied per epoch.
    """

    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclasses.dataclass(frozen=True, eq=False)
class SliceImages:
    """Encoded images inside of larger files, each in one stretch.

    Attributes:
      paths: object [f] of bytes, the files.
      files: int64 [n], each image's place in `paths`.
      numbers: int64 [n], which record of its file holds it, from 1.
      offsets: int64 [n], where it begins, bytes.
      sizes: int64 [n], its length, bytes.
      footers: int64 [n], how many bytes of the file follow it.
    """

    paths: np.ndarray
    files: np.ndarray
    numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    footers: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one shape that the source already holds in memory.

    Attributes:
      pixels: uint8 [n, height, width, 1 or 3], values 0 to 255.
    """

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamImages:
    """Images that can only be read one after another, from the first on.

    Attributes:
      make_dataset: starts reading; returns a `tf.data.Dataset` of `size` elements, always in the
        same order, each either a string scalar (an encoded image) or uint8 or uint16
        [height, width, 1 or 3].
      size: number of images.
    """

    make_dataset: Callable[[], Any]
    size: int

    def __len__(self) -> int:
        return self.size


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images as the model takes them: decoded, resized, in memory. Made by `read_images`.

    Attributes:
      pixels: [n, height, width, channels] of the PreprocessingSpec, values 0 to 255; uint8, or
        float32 where `pixel_max` scales 16-bit images to fractions.
    """

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


EncodedImages = PathImages | SliceImages
ImageStore = PathImages | SliceImages | ArrayImages | StreamImages | DecodedImages
