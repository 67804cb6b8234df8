"""A mask where its image went: the same crop, scale and padding, by nearest neighbours.

One idea: the places are those of `preprocessing`, computed by the same rules in NumPy. A class
number cannot be averaged, so each pixel takes the number at its centre; where the image was padded
there is no class.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tf_finetune.data import mask_files

if TYPE_CHECKING:
    from tf_finetune.data import preprocessing


@dataclasses.dataclass(frozen=True)
class _Placing:
    """Which box of the image is in which box of the model's input: (top, left, height, width)."""

    image: tuple[int, int, int, int]
    model: tuple[int, int, int, int]


def fit_mask(mask: np.ndarray, spec: "preprocessing.PreprocessingSpec") -> np.ndarray:
    """A mask as the model's input shows it.

    Args:
      mask: uint8 [height, width], of the upright image.
      spec: what happens to the image.

    Returns:
      uint8 [spec.height, spec.width]; 255 where the image was padded.
    """
    placing = _place(mask.shape[0], mask.shape[1], spec)
    return _move(mask, placing.image, placing.model, shape=(spec.height, spec.width))


def restore_mask(
    mask: np.ndarray, spec: "preprocessing.PreprocessingSpec", *, height: int, width: int
) -> np.ndarray:
    """A mask of the model's input as the image shows it; the reverse of `fit_mask`.

    Args:
      mask: uint8 [spec.height, spec.width].
      spec: what happened to the image.
      height: of the upright image, pixels.
      width: of the upright image, pixels.

    Returns:
      uint8 [height, width]; 255 where the model did not see the image.
    """
    placing = _place(height, width, spec)
    return _move(mask, placing.model, placing.image, shape=(height, width))


def _place(height: int, width: int, spec: "preprocessing.PreprocessingSpec") -> _Placing:
    whole, target = (0, 0, height, width), (0, 0, spec.height, spec.width)
    if spec.resize == "crop":
        part_height = _round_side(width, spec.height, spec.width, most=height)
        part_width = _round_side(height, spec.width, spec.height, most=width)
        top, left = (height - part_height) // 2, (width - part_width) // 2
        return _Placing((top, left, part_height, part_width), target)
    if spec.resize == "pad":
        new_height = _round_side(height, spec.width, width, most=spec.height)
        new_width = _round_side(width, spec.height, height, most=spec.width)
        top, left = (spec.height - new_height) // 2, (spec.width - new_width) // 2
        return _Placing(whole, (top, left, new_height, new_width))
    return _Placing(whole, target)


def _round_side(side: int, numerator: int, denominator: int, *, most: int) -> int:
    # As in `preprocessing`: halves go to the even number in both libraries.
    return int(np.clip(np.round(float(side) * numerator / denominator), 1, most))


def _move(
    mask: np.ndarray,
    source: tuple[int, int, int, int],
    target: tuple[int, int, int, int],
    *,
    shape: tuple[int, int],
) -> np.ndarray:
    moved = np.full(shape, mask_files.IGNORED, np.uint8)
    (top, left, height, width), (to_top, to_left, to_height, to_width) = source, target
    rows = top + _nearest(to_height, height)
    columns = left + _nearest(to_width, width)
    moved[to_top : to_top + to_height, to_left : to_left + to_width] = mask[rows[:, None], columns]
    return moved


def _nearest(size: int, other: int) -> np.ndarray:
    """int64 [size]: for each place the one of `other` in which its centre lies."""
    # In whole numbers: a float may fall to the wrong side of a border.
    return (2 * np.arange(size, dtype=np.int64) + 1) * other // (2 * size)
