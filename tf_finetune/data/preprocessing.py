"""From an encoded image to what the model takes: decode, upright, over white, channels, resize.

One idea: these graph operations are the only preprocessing there is. Training, evaluation and the
exported signature call them with the same PreprocessingSpec, so a server sees the pixels that the
model was trained on. Scaling to the model's pixel range is not here: it is layers of the model.
"""

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from tf_finetune import findings, option_values, specs
from tf_finetune.data import (
    antialiasing,
    columns,
    decoding,
    input_stores,
    mixed_spec,
    text_store,
)

_WHITE = 255.0
_MAX_16_BITS = 65535.0
# ITU-R BT.601-7, 2011, section 2.5.1: luma, as in JPEG and in Pillow's "L".
# https://www.itu.int/rec/R-REC-BT.601
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class PreprocessingSpec:
    """Everything that serving needs to know to repeat the preprocessing.

    Attributes:
      height: of the model's input, pixels.
      width: of the model's input, pixels.
      channels: 1 (grey) or 3 (colour).
      resize: "squash", "crop" or "pad".
      pixel_max: the value of a 16-bit image that becomes white, 1 to 65535; None: 65535. Where it
        is set, pixels stay fractions, because rounding to 256 steps would waste the 16 bits.
    """

    height: int
    width: int
    channels: int
    resize: str = "squash"
    pixel_max: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values.

        Returns:
          What JSON can hold and `from_dict` reads.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PreprocessingSpec":
        """Reads what `to_dict` gave.

        Args:
          values: {field: value}.

        Returns:
          The spec.

        Raises:
          TypeError: a field is missing or unknown.
        """
        return cls(**values)


# How an example of any kind becomes the model's input.
InputSpec = PreprocessingSpec | text_store.TextSpec | columns.ColumnsSpec | mixed_spec.MixedSpec


def read_input_spec(values: dict[str, Any]) -> InputSpec:
    """Reads what `to_dict` of any kind gave.

    Args:
      values: {field: value}; without "kind" they are of images.

    Returns:
      The spec.

    Raises:
      TypeError: a field is missing or unknown.
    """
    if values.get("kind") == mixed_spec.MixedSpec.kind:
        stored = dict(values["main"])
        kind = stored.get("kind")
        if kind not in (None, text_store.TextSpec.kind):
            raise TypeError("main: expected images or texts")
        main = text_store.TextSpec(**stored) if kind else PreprocessingSpec.from_dict(stored)
        beside = columns.ColumnsSpec.from_dict(values["columns"])
        return mixed_spec.MixedSpec(main, values["column"], beside)
    if values.get("kind") == columns.ColumnsSpec.kind:
        return columns.ColumnsSpec.from_dict(values)
    if "kind" in values:
        return text_store.TextSpec(**values)
    return PreprocessingSpec.from_dict(values)


def find_kind(spec: InputSpec) -> str:
    """What a spec is about.

    Args:
      spec: of any kind.

    Returns:
      "image", "text" or "columns", as `input_stores.find_kind` calls a store of such examples;
      of images or texts with columns beside them "image" or "text".
    """
    spec = mixed_spec.find_main(spec)
    if isinstance(spec, columns.ColumnsSpec):
        return input_stores.COLUMNS
    return input_stores.TEXT if isinstance(spec, text_store.TextSpec) else input_stores.IMAGE


def find_image_shape(spec: InputSpec) -> tuple[int, int, int] | None:
    """What decoded images have.

    Args:
      spec: of any kind.

    Returns:
      (height, width, channels); None without images.
    """
    main = mixed_spec.find_main(spec)
    if not isinstance(main, PreprocessingSpec):
        return None
    return main.height, main.width, main.channels


def make_preprocessing(
    spec: specs.DataSpec,
    *,
    input_shape: tuple[int | None, ...],
    default_size: int = 224,
) -> PreprocessingSpec:
    """Settles the size and channels of the images.

    Args:
      spec: the data options; --image_size, --resize and --pixel_max are read.
      input_shape: (height, width, channels) of the model's input; None where any size fits.
      default_size: pixels of a side that neither the model nor --image_size fixes.

    Returns:
      The preprocessing of every image of the run.

    Raises:
      findings.RefusedError: --image_size contradicts the model's input, or that has neither 1
        nor 3 channels.
    """
    fixed, channels = tuple(input_shape[:2]), input_shape[2] or 0
    sides: tuple[int | None, ...] = fixed
    problems = []
    if spec.image_size is not None:
        sides = option_values.read_image_size(spec.image_size)
        if any(side not in (None, wanted) for side, wanted in zip(fixed, sides, strict=True)):
            shown = "x".join("any" if side is None else str(side) for side in fixed)
            message = (
                f"--image_size={spec.image_size} contradicts the model, whose input is {shown} "
                "(height x width). Leave --image_size out, or choose a model of that size."
            )
            problems.append(findings.Problem(message, flag="--image_size"))
    if channels not in (1, 3):
        message = (
            "--model: expected an input of 1 (grey) or 3 (colour) channels. "
            f"Received {channels}. Choose a model for images."
        )
        problems.append(findings.Problem(message, flag="--model"))
    if problems:
        raise findings.RefusedError(*problems)
    height, width = (default_size if side is None else side for side in sides)
    return PreprocessingSpec(height, width, channels, spec.resize, spec.pixel_max)


def decode_image(contents: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """One encoded image as the model takes it.

    JPEG (grey, RGB, CMYK; turned as EXIF says), PNG (8 and 16 bits; alpha over white), BMP, GIF
    (first frame) and WebP (first frame; alpha over white). Graph operations only, so that it runs
    inside `tf.map_fn` in an exported SavedModel.

    Args:
      contents: string scalar, the bytes of the file.
      spec: size, channels and scale.

    Returns:
      float32 [height, width, channels], values 0 to 255; whole numbers unless `spec.pixel_max`
      is set.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no such image.
    """
    return _make_decoder(spec)(contents)


def decode_images(contents: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """Encoded images as the model takes them, see `decode_image`.

    Args:
      contents: string [n], the bytes of the files.
      spec: size, channels and scale.

    Returns:
      float32 [n, height, width, channels], values 0 to 255.

    Raises:
      tf.errors.InvalidArgumentError: the bytes of one are no such image.
    """
    shape = (spec.height, spec.width, spec.channels)
    return tf.map_fn(
        lambda content: decode_image(content, spec),
        contents,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
    )


def decode_plain_jpeg(contents: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """`decode_image` of a JPEG that `decoding.is_plain_jpeg`: the same bits, no other formats.

    Args:
      contents: string scalar, the bytes of the file.
      spec: size, channels and scale.

    Returns:
      float32 [height, width, channels], values 0 to 255.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged.
    """
    return _fit(decoding.decode_plain_jpeg(contents), spec)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def find_maximum(contents: tf.Tensor) -> tf.Tensor:
    """The largest value of an encoded image, to see whether it can be decoded.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      int32 scalar.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image that `decode_image` takes.
    """
    return tf.cond(
        decoding.has_16_bits(contents),
        lambda: tf.reduce_max(tf.cast(decoding.decode_16_bits(contents)[:1], tf.int32)),
        lambda: tf.reduce_max(tf.cast(decoding.decode_8_bits(contents)[:1], tf.int32)),
    )


@tf.autograph.experimental.do_not_convert
def resize_pixels(image: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """One decoded image as the model takes it; the second half of `decode_image`.

    Args:
      image: [height, width, 1 to 4]; uint8 or float32, values 0 to 255, or uint16, values 0 to
        65535. 2 and 4 channels end with alpha.
      spec: size, channels and scale.

    Returns:
      float32 [height, width, channels], values 0 to 255; whole numbers unless `spec.pixel_max`
      is set.
    """
    image = tf.convert_to_tensor(image)
    alpha_max = _MAX_16_BITS if image.dtype == tf.uint16 else _WHITE
    white = _WHITE
    if image.dtype == tf.uint16:
        white = spec.pixel_max or _MAX_16_BITS
    image = _put_over_white(image, white=white, alpha_max=alpha_max)
    if image.dtype == tf.uint16:
        image = tf.minimum(tf.cast(image, tf.float32) * (_WHITE / white), _WHITE)
    return _fit(image, spec)


def _fit(image: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """The wanted channels and size; of 1 or 3 channels, values 0 to 255."""
    if spec.channels == 1:
        image = _make_grey(image)
    image = _RESIZES[spec.resize](image, spec)
    # Grey becomes colour last, when there are fewest pixels.
    image = tf.broadcast_to(image, (spec.height, spec.width, spec.channels))
    if spec.pixel_max is None:
        # The same whole numbers from here and from a cache of bytes.
        image = tf.round(image)
    return tf.clip_by_value(image, 0.0, _WHITE)


@functools.cache
def _make_decoder(spec: PreprocessingSpec) -> Any:
    """The graph of `decode_image`; building it takes as long as decoding 1,000 small images."""

    def decode_other(contents: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            decoding.has_16_bits(contents),
            lambda: resize_pixels(decoding.decode_16_bits(contents), spec),
            lambda: resize_pixels(decoding.decode_8_bits(contents), spec),
        )

    def decode(contents: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            decoding.is_plain_jpeg(contents),
            lambda: _fit(decoding.decode_plain_jpeg(contents), spec),
            lambda: decode_other(contents),
        )

    return tf.function(decode, [tf.TensorSpec([], tf.string)], autograph=False)


def _put_over_white(image: tf.Tensor, *, white: float, alpha_max: float) -> tf.Tensor:
    """Blends away an alpha channel: transparent pixels hide colours that nobody ever saw."""
    num_channels = tf.shape(image)[-1]

    def blend() -> tf.Tensor:
        colors = tf.cast(image[..., : num_channels - 1], tf.float32)
        alpha = tf.cast(image[..., num_channels - 1 :], tf.float32) / alpha_max
        blended = tf.minimum(colors, white) * alpha + white * (1.0 - alpha)
        return tf.cast(tf.round(blended) if image.dtype.is_integer else blended, image.dtype)

    return tf.cond(num_channels % 2 == 0, blend, lambda: image)


def _make_grey(image: tf.Tensor) -> tf.Tensor:
    def weigh() -> tf.Tensor:
        return tf.tensordot(tf.cast(image, tf.float32), tf.constant(_LUMA), 1)[..., tf.newaxis]

    is_grey = tf.shape(image)[-1] == 1
    return tf.cond(is_grey, lambda: tf.cast(image, tf.float32), weigh)


def _scale(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Bilinear, averaging where it shrinks: without that, fine patterns turn into false ones."""
    # Where nothing shrinks both are the same up to rounding, and TensorFlow 2.21's plain one is
    # quicker.
    size = tf.stack([height, width])
    return tf.cond(
        tf.reduce_all(tf.shape(image)[:2] <= size),
        lambda: tf.image.resize(image, size, method="bilinear"),
        lambda: antialiasing.resize(image, height, width),
    )


def _squash(image: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    return _scale(image, spec.height, spec.width)


def _crop(image: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """Cuts the largest centred part of the wanted shape, then scales it."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    part_height = _round_side(width, numerator=spec.height, denominator=spec.width, most=height)
    part_width = _round_side(height, numerator=spec.width, denominator=spec.height, most=width)
    top, left = (height - part_height) // 2, (width - part_width) // 2
    part = image[top : top + part_height, left : left + part_width]
    return _scale(part, spec.height, spec.width)


def _pad(image: tf.Tensor, spec: PreprocessingSpec) -> tf.Tensor:
    """Scales until it fits, then centres it on black."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    # Cross-multiplied, so that whole numbers decide which side touches.
    new_height = _round_side(height, numerator=spec.width, denominator=width, most=spec.height)
    new_width = _round_side(width, numerator=spec.height, denominator=height, most=spec.width)
    scaled = _scale(image, new_height, new_width)
    top, left = (spec.height - new_height) // 2, (spec.width - new_width) // 2
    paddings = [
        [top, spec.height - new_height - top],
        [left, spec.width - new_width - left],
        [0, 0],
    ]
    return tf.pad(scaled, paddings)


def _round_side(
    side: tf.Tensor,
    *,
    numerator: tf.Tensor | int,
    denominator: tf.Tensor | int,
    most: tf.Tensor | int,
) -> tf.Tensor:
    """int32: side * numerator / denominator, rounded, within 1 and `most`."""
    product = tf.cast(side, tf.float64) * tf.cast(numerator, tf.float64)
    rounded = tf.round(product / tf.cast(denominator, tf.float64))
    return tf.cast(tf.clip_by_value(rounded, 1.0, tf.cast(most, tf.float64)), tf.int32)


_RESIZES = {"squash": _squash, "crop": _crop, "pad": _pad}
