"""Which pixel values the pretrained model was trained on, and the layers that make them.

One idea: the wrong range costs accuracy without any error, so it is settled from evidence, in
this order, and the evidence is printed: scaling inside the model; the application or the
architecture, known by its layer names; the first BatchNormalization layers, whose stored
statistics only fit the data in the right range; else 0..1, with a warning.
"""

import dataclasses
import typing

import keras
import numpy as np

from tf_finetune import findings, layer_table

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_COLOR_ONLY = ("caffe", "torch")

# The module of keras.applications -> what its models expect, where nothing inside them scales.
_APPLICATION_RANGES = {
    "convnext": "torch",
    "densenet": "torch",
    "efficientnet": "0..255",
    "efficientnet_v2": "-1..1",
    "inception_resnet_v2": "-1..1",
    "inception_v3": "-1..1",
    "mobilenet": "-1..1",
    "mobilenet_v2": "-1..1",
    "mobilenet_v3": "-1..1",
    "nasnet": "-1..1",
    "resnet": "caffe",
    "resnet_v2": "-1..1",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "-1..1",
}

# Architecture, layer names that together occur in no other, range. The first row that fits wins.
_ARCHITECTURES = (
    ("MobileNet", ("conv_dw_1", "conv_pw_1", "conv_pw_13"), "-1..1"),
    ("MobileNetV2", ("Conv1", "expanded_conv_depthwise", "block_1_expand"), "-1..1"),
    ("MobileNetV3", ("expanded_conv_depthwise", "expanded_conv_project", "conv_bn"), "-1..1"),
    ("ResNet V2", ("conv2_block1_preact_bn", "post_bn"), "-1..1"),
    ("DenseNet", ("conv2_block1_0_bn", "pool2_conv"), "torch"),
    ("ResNet", ("conv1_conv", "conv2_block1_1_conv", "conv5_block1_0_conv"), "caffe"),
    ("ResNet50", ("bn_conv1", "res2a_branch2a"), "caffe"),
    ("Xception", ("block1_conv1", "block2_sepconv1"), "-1..1"),
    ("VGG", ("block1_conv1", "block1_conv2", "block4_conv3", "block5_conv3"), "caffe"),
    ("InceptionResNetV2", ("mixed_5b", "conv_7b"), "-1..1"),
    ("InceptionV3", ("mixed0", "mixed10"), "-1..1"),
    ("NASNet", ("stem_conv1", "stem_bn1", "normal_conv_1_0"), "-1..1"),
)

# By this name a model that we trained is known to scale its pixels, also where Dense does it.
_LAYER_NAME = "scale_pixels"

_MAX_BATCH_NORMS = 4
_GOOD_FIT = 0.3
_CLEAR_MARGIN = 0.75

_HasRange = typing.TypeVar("_HasRange")


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The pixel values a backbone expects, and how that is known.

    Attributes:
      name: "0..1", "-1..1", "0..255", "caffe" or "torch", as in --pixel_range.
      reason: one line for the user.
      warning: the range is a fallback that the user should check.
    """

    name: str
    reason: str
    warning: bool = False


_FALLBACK = "0..1 is the most common range; set --pixel_range if you know better"
_UNKNOWN = PixelRange("0..1", f"nothing in the model tells its range: {_FALLBACK}", warning=True)


def find_pixel_range(
    model: keras.Model, *, requested: str = "auto", application: str | None = None
) -> PixelRange | None:
    """Settles the range from the model alone.

    Args:
      model: flat functional model, input [None, height, width, channels].
      requested: value of --pixel_range.
      application: the module of keras.applications that made it, for example "mobilenet_v2";
        None: a file.

    Returns:
      The range; None where only a sample of the data can tell (`settle`).

    Raises:
      findings.RefusedError: `requested` is of three channels and the model has one.
    """
    channels = model.inputs[0].shape[-1]
    if requested != "auto":
        check_channels(requested, channels)
        return PixelRange(requested, "as --pixel_range says")
    found = _find_inside(model)
    if found is None and application is not None:
        name = _APPLICATION_RANGES[application]
        found = PixelRange(name, f"keras.applications.{application} expects it")
    if found is None:
        found = _find_by_names(model)
    if found is None and not _first_batch_norms(model):
        return _UNKNOWN
    if found and found.name in _COLOR_ONLY and channels != 3:
        reason = f"{found.name} is for 3 channels, the model has {channels}: set --pixel_range"
        return PixelRange("0..1", reason, warning=True)
    return found


def settle(backbone: _HasRange, sample: np.ndarray) -> _HasRange:
    """Settles the range of a backbone with a sample of the data, where the model did not tell.

    Args:
      backbone: a `loading.Backbone`.
      sample: float32 [n, height, width, channels], values 0 to 255.

    Returns:
      The backbone with a pixel range.
    """
    value = typing.cast(typing.Any, backbone)
    if value.pixel_range is not None:
        return backbone
    return dataclasses.replace(value, pixel_range=range_from_statistics(value.model, sample))


# The name under which the package publishes it.
settle_pixel_range = settle


def range_from_statistics(model: keras.Model, sample: np.ndarray) -> PixelRange:
    """Chooses the range under which a sample looks like the data the model was trained on.

    What enters the first BatchNormalization layers is compared, channel by channel, with the mean
    and variance that they stored in training: the mean of log(1 + KL divergence) of the two normal
    distributions. Of a range and its half the sample's contrast decides, so a winner must fit well
    and clearly better than the next.

    Args:
      model: flat functional model, input [None, height, width, channels].
      sample: float32 [n, height, width, channels], values 0 to 255; 30 or more images.

    Returns:
      The winner; without BatchNormalization, trained statistics or a clear winner "0..1" with a
      warning.

    Reference: Kullback and Leibler 1951, "On Information and Sufficiency",
      https://doi.org/10.1214/aoms/1177729694.
    """
    norms = _first_batch_norms(model)
    if not norms:
        return _UNKNOWN
    probe = keras.Model(model.inputs[0], [tensor for _, tensor in norms])
    channels = sample.shape[-1]
    names = [name for name in _SCALES if channels == 3 or name not in _COLOR_ONLY]
    scores = {name: _score(probe, norms, scale_pixels(sample, name)) for name in names}
    best, second = sorted(scores, key=lambda name: scores[name])[:2]
    numbers = f"{best}: {scores[best]:.2f}, then {second}: {scores[second]:.2f}, 0 is equal"
    if scores[best] > _GOOD_FIT or scores[best] > _CLEAR_MARGIN * scores[second]:
        reason = (
            "the statistics of the first BatchNormalization fit no range clearly "
            f"({numbers}): {_FALLBACK}"
        )
        return PixelRange("0..1", reason, warning=True)
    return PixelRange(
        best, f"the data then fits the statistics of the first BatchNormalization ({numbers})"
    )


def scale_pixels(pixels: np.ndarray, name: str) -> np.ndarray:
    """Brings pixels into a range, as `scaling_layers` does inside a model.

    Args:
      pixels: float32 [n, height, width, channels], values 0 to 255, RGB.
      name: "0..1", "-1..1", "0..255", "caffe" or "torch".

    Returns:
      float32 of the same shape.
    """
    return _SCALES[name](np.asarray(pixels, np.float32)).astype(np.float32)


def scaling_layers(name: str, channels: int) -> list[keras.layers.Layer]:
    """Plain layers that map pixels of 0 to 255 to a range, equal to Keras's preprocess_input.

    Args:
      name: "0..1", "-1..1", "0..255", "caffe" (BGR minus the ImageNet mean) or "torch" (0..1,
        then ImageNet mean 0 and deviation 1 per channel).
      channels: 1 or 3.

    Returns:
      Layers to call one after another on float32 [batch, height, width, channels], RGB; none for
      "0..255". They compute in float32 and do not train.

    Raises:
      findings.RefusedError: "caffe" or "torch" with one channel.

    Reference: `keras.applications.imagenet_utils.preprocess_input`,
      https://keras.io/api/applications/.
    """
    check_channels(name, channels)
    if name == "0..255":
        return []
    if name == "caffe":
        return [_caffe_layer()]
    scale: float | list[float]
    offset: float | list[float]
    if name == "0..1":
        scale, offset = 1 / 255, 0.0
    elif name == "-1..1":
        scale, offset = 1 / 127.5, -1.0
    else:
        scale = [1 / (255 * std) for std in _IMAGENET_STD]
        offset = [-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)]
    return [keras.layers.Rescaling(scale, offset=offset, dtype="float32", name=_LAYER_NAME)]


def check_channels(name: str, channels: int) -> None:
    """Refuses a range of three channels for a model of one.

    Args:
      name: a value of --pixel_range.
      channels: 1 or 3.

    Raises:
      findings.RefusedError: "caffe" or "torch" with one channel.
    """
    if name in _COLOR_ONLY and channels != 3:
        raise findings.RefusedError(
            findings.Problem(
                f"--pixel_range={name} is for models of 3 channels. The model has {channels}: use "
                "0..1, -1..1 or 0..255.",
                flag="--pixel_range",
            )
        )


def _caffe_layer() -> keras.layers.Layer:
    # Rescaling cannot reorder channels; a Dense layer with a permutation as kernel is exact and
    # opens everywhere.
    layer = keras.layers.Dense(3, trainable=False, dtype="float32", name=_LAYER_NAME)
    layer.build((None, None, None, 3))
    layer.set_weights([np.eye(3, dtype=np.float32)[::-1], -np.array(_CAFFE_MEAN_BGR, np.float32)])
    return layer


_SCALES: dict[str, typing.Callable[[np.ndarray], np.ndarray]] = {
    "0..1": lambda pixels: pixels / 255,
    "-1..1": lambda pixels: pixels / 127.5 - 1,
    "0..255": lambda pixels: pixels,
    "caffe": lambda pixels: pixels[..., ::-1] - np.array(_CAFFE_MEAN_BGR, np.float32),
    "torch": lambda pixels: (pixels / 255 - np.array(_IMAGENET_MEAN)) / np.array(_IMAGENET_STD),
}


def _find_inside(model: keras.Model) -> PixelRange | None:
    tensor, layers = _before_first_weights(model)
    if tensor is None or len(tensor.shape) != 4:
        return None
    sides = [side or 64 for side in model.inputs[0].shape[1:3]]
    shape = (1, *sides, model.inputs[0].shape[3])
    images = np.concatenate([np.full(shape, value, np.float32) for value in (0, 255)])
    scaled = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], tensor)(images))
    dark, bright = scaled[:, scaled.shape[1] // 2, scaled.shape[2] // 2].astype(np.float64)
    offset, slope = float(dark.mean()), float((bright - dark).mean() / 255)
    if abs(slope - 1) < 1e-3 and abs(offset) < 1e-3:
        return None
    named = findings.list_first([layer.name for layer in layers], limit=3)
    return PixelRange(_expected_range(slope, offset), f"the model scales pixels itself ({named})")


def _expected_range(slope: float, offset: float) -> str:
    if abs(slope) < 0.1 or (abs(slope - 1) < 1e-3 and offset < -20):
        return "0..255"
    # (x + 1) / 2 and (x + 1) * 127.5: what is made non-negative was -1..1.
    if offset > 0 and abs(slope - offset) < 0.05 * slope:
        return "-1..1"
    return "0..1"


def _before_first_weights(
    model: keras.Model,
) -> tuple[keras.KerasTensor | None, list[typing.Any]]:
    """What enters the first layer with weights, and the layers before it that scale."""
    scaled: dict[int, list[typing.Any]] = {id(model.inputs[0]): []}
    for node in _nodes(model):
        inputs = node.input_tensors
        operation = node.operation
        if len(inputs) != 1 or id(inputs[0]) not in scaled:
            continue
        passed = scaled[id(inputs[0])]
        has_weights = bool(getattr(operation, "weights", ()))
        scales = type(operation).__name__ == "Normalization" or operation.name == _LAYER_NAME
        if has_weights and not scales:
            return (inputs[0], passed) if passed else (None, [])
        if len(node.output_tensors) == 1:
            shifts = type(operation).__name__ not in ("ZeroPadding2D", "InputLayer")
            scaled[id(node.output_tensors[0])] = passed + [operation] * shifts
    return None, []


def _find_by_names(model: keras.Model) -> PixelRange | None:
    names = {layer.name for layer in model.layers}
    for architecture, required, name in _ARCHITECTURES:
        if names.issuperset(required):
            return PixelRange(name, f"its layers are named as those of {architecture}")
    return None


def _first_batch_norms(model: keras.Model) -> list[tuple[typing.Any, keras.KerasTensor]]:
    norms = []
    for node in _nodes(model):
        layer = node.operation
        if not layer_table.is_batch_norm(layer) or len(node.input_tensors[0].shape) != 4:
            continue
        trained = np.ptp(layer.moving_variance) > 0 or np.any(np.asarray(layer.moving_mean))
        if layer.axis in (3, -1) and trained:
            norms.append((layer, node.input_tensors[0]))
    return norms[:_MAX_BATCH_NORMS]


def _score(
    probe: keras.Model, norms: list[tuple[typing.Any, keras.KerasTensor]], pixels: np.ndarray
) -> float:
    outputs = keras.tree.flatten(probe.predict(pixels, batch_size=32, verbose=0))
    return float(
        np.mean([_divergence(layer, out) for (layer, _), out in zip(norms, outputs, strict=True)])
    )


def _divergence(layer: typing.Any, outputs: np.ndarray) -> float:
    values = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    stored_mean = np.asarray(layer.moving_mean, np.float64)
    stored_variance = np.asarray(layer.moving_variance, np.float64)
    # Dead channels have variance 0 on both sides.
    floor = 1e-3 * np.median(stored_variance) + 1e-12
    ratio = (values.var(axis=0) + floor) / (stored_variance + floor)
    shift = np.square(values.mean(axis=0) - stored_mean) / (stored_variance + floor)
    divergence = (ratio - 1 - np.log(ratio) + shift) / 2
    return float(np.mean(np.log1p(divergence)))


def _nodes(model: keras.Model) -> list[typing.Any]:
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
