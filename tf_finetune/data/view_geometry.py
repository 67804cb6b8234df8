"""Flips, crops, rotations, translations and zooms of an image as one resampling.

One idea: each step is a matrix from places in its result to places in what it was given; their
product is applied once. A flip of a crop needs no matrix: rows and columns stay rows and columns,
which TensorFlow 2.21 resizes ten times as fast on a CPU.
"""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

_MAX_CROP_ASPECT = 4 / 3
STEPS = ("flip", "crop", "rotate", "translate", "zoom")
BILINEAR, NEAREST = "bilinear", "nearest"
_UPRIGHT = ("flip", "crop")

Values = Mapping[str, tuple[float | str, ...]]
Draws = Mapping[str, list[tf.Tensor]]


def move(image: tf.Tensor, values: Values, draws: Draws, *, method: str = BILINEAR) -> tf.Tensor:
    """Applies the steps that move pixels.

    Args:
      image: float32 [height, width, channels], static shape.
      values: {step: its numbers}; other steps are left aside.
      draws: {step: float32 scalars from 0 to 1}.
      method: BILINEAR, or NEAREST for a mask, uint8.

    Returns:
      An image of the same shape. Edges are reflected (dcba|abcd|dcba), as by Keras's layers.
    """
    steps = [name for name in STEPS if name in values]
    if all(name in _UPRIGHT for name in steps):
        return _flip_and_crop(image, values, draws, method=method)
    height, width = image.shape[0], image.shape[1]
    matrix = tf.eye(3)
    for name in steps:
        matrix @= _MATRICES[name](values[name], draws[name], height, width)
    return resample(image, matrix, method=method)


def resample(image: tf.Tensor, matrix: tf.Tensor, *, method: str = BILINEAR) -> tf.Tensor:
    """Fetches each pixel from where a matrix says.

    Args:
      image: float32 [height, width, channels].
      matrix: float32 [3, 3]; (x, y, 1) from the centre of the result to the centre of the image,
        pixels; the last row is (0, 0, 1).
      method: BILINEAR or NEAREST.

    Returns:
      An image of the same shape; edges are reflected.
    """
    height, width = image.shape[0], image.shape[1]
    middle = tf.constant([(width - 1) / 2, (height - 1) / 2])
    turn = matrix[:2, :2]
    offset = matrix[:2, 2] + middle - tf.linalg.matvec(turn, middle)
    rows = tf.concat([turn, offset[:, tf.newaxis]], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.concat([tf.reshape(rows, [1, 6]), tf.zeros([1, 2])], axis=1),
        output_shape=[height, width],
        interpolation=method.upper(),
        fill_mode="REFLECT",
        fill_value=0.0,
    )[0]


def rotation(degrees: tf.Tensor) -> tf.Tensor:
    """A turn about the centre.

    Args:
      degrees: float32 scalar.

    Returns:
      float32 [3, 3].
    """
    angle = degrees * (math.pi / 180)
    sine, cosine = tf.sin(angle), tf.cos(angle)
    return _matrix(cosine, -sine, 0.0, sine, cosine, 0.0)


def translation(right: tf.Tensor | float, down: tf.Tensor | float) -> tf.Tensor:
    """A shift.

    Args:
      right: float32 scalar, pixels.
      down: float32 scalar, pixels.

    Returns:
      float32 [3, 3].
    """
    return _matrix(1.0, 0.0, -right, 0.0, 1.0, -down)


def shear(across: tf.Tensor | float, along: tf.Tensor | float) -> tf.Tensor:
    """A slant.

    Args:
      across: pixels that a row moves per pixel below the centre.
      along: pixels that a column moves per pixel right of the centre.

    Returns:
      float32 [3, 3].
    """
    return _matrix(1.0, across, 0.0, along, 1.0, 0.0)


def _matrix(*numbers: tf.Tensor | float) -> tf.Tensor:
    return tf.reshape(tf.stack([*numbers, 0.0, 0.0, 1.0]), (3, 3))


def _flips(values: tuple[float | str, ...], draws: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """bool scalars: whether rows and columns are mirrored."""
    return (
        (draws[0] < 0.5) & ("vertical" in values),
        (draws[1] < 0.5) & ("horizontal" in values),
    )


def _box(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tuple[tf.Tensor, ...]:
    """int32 scalars: top, left, height and width of a crop."""
    low, high = (float(value) for value in values)
    area = low + (high - low) * draws[0]
    aspect = tf.exp((2 * draws[1] - 1) * math.log(_MAX_CROP_ASPECT))
    # A longer side than the image's would be cut off; the other one keeps the area.
    aspect = tf.clip_by_value(aspect, area, 1 / area)
    sides = [
        tf.cast(tf.clip_by_value(tf.round(side), 1.0, float(most)), tf.int32)
        for side, most in (
            (height * tf.sqrt(area / aspect), height),
            (width * tf.sqrt(area * aspect), width),
        )
    ]
    places = [
        tf.cast(draw * tf.cast(most - side + 1, tf.float32), tf.int32)
        for draw, side, most in zip(draws[2:], sides, (height, width), strict=True)
    ]
    # A draw just below 1 may be rounded up.
    places = [
        tf.minimum(place, most - side)
        for place, side, most in zip(places, sides, (height, width), strict=True)
    ]
    return (*places, *sides)


def _flip_and_crop(image: tf.Tensor, values: Values, draws: Draws, *, method: str) -> tf.Tensor:
    height, width = image.shape[0], image.shape[1]
    if "crop" in values:
        top, left, part_height, part_width = _box(values["crop"], draws["crop"], height, width)
        image = image[top : top + part_height, left : left + part_width]
    if "flip" in values:
        rows, columns = _flips(values["flip"], draws["flip"])
        image = tf.raw_ops.Reverse(tensor=image, dims=tf.stack([rows, columns, False]))
    if "crop" in values:
        resize = tf.raw_ops.ResizeBilinear
        if method == NEAREST:
            resize = tf.raw_ops.ResizeNearestNeighbor
        image = resize(images=image[tf.newaxis], size=[height, width], half_pixel_centers=True)[0]
    return image


def _flip_matrix(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tf.Tensor:
    rows, columns = _flips(values, draws)
    return _matrix(tf.where(columns, -1.0, 1.0), 0.0, 0.0, 0.0, tf.where(rows, -1.0, 1.0), 0.0)


def _crop_matrix(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tf.Tensor:
    top, left, part_height, part_width = (
        tf.cast(side, tf.float32) for side in _box(values, draws, height, width)
    )
    return _matrix(
        part_width / width,
        0.0,
        left + part_width / 2 - width / 2,
        0.0,
        part_height / height,
        top + part_height / 2 - height / 2,
    )


def _rotation_matrix(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tf.Tensor:
    return rotation((2 * draws[0] - 1) * float(values[0]))


def _translation_matrix(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tf.Tensor:
    part = float(values[0])
    return translation((2 * draws[0] - 1) * part * width, (2 * draws[1] - 1) * part * height)


def _zoom_matrix(
    values: tuple[float | str, ...], draws: list[tf.Tensor], height: int, width: int
) -> tf.Tensor:
    # As Keras's RandomZoom: above 1 shows more than the image, below 1 less.
    scale = 1 + (2 * draws[0] - 1) * float(values[0])
    return _matrix(scale, 0.0, 0.0, 0.0, scale, 0.0)


_MATRICES: dict[str, Callable[..., tf.Tensor]] = {
    "flip": _flip_matrix,
    "crop": _crop_matrix,
    "rotate": _rotation_matrix,
    "translate": _translation_matrix,
    "zoom": _zoom_matrix,
}
