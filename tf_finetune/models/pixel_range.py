"""Which pixel values a loaded model was trained on, and the layers that make them.

One idea: `pixel_rules` holds the order of evidence; here the evidence is taken from a real model:
it is run on a black and a white image, and on a sample of the data.
"""

import dataclasses
import typing
from collections.abc import Sequence

import keras
import numpy as np

from tf_finetune import layer_table
from tf_finetune.models import pixel_rules

PixelRange = pixel_rules.PixelRange
check_channels = pixel_rules.check_channels

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

_MAX_BATCH_NORMS = 4
_GOOD_FIT = 0.3
_CLEAR_MARGIN = 0.75

_HasRange = typing.TypeVar("_HasRange")


def find_pixel_range(
    model: keras.Model,
    *,
    requested: str = "auto",
    application: str | None = None,
    dropped: Sequence[str] = (),
) -> PixelRange | None:
    """Settles the range from the model alone.

    Args:
      model: flat functional model, input [None, height, width, channels].
      requested: value of --pixel_range.
      application: the module of keras.applications that made it, for example "mobilenet_v2";
        None: a file.
      dropped: names of layers that were cut off; with the rest they tell the architecture.

    Returns:
      The range; None where only a sample of the data can tell (`settle`).

    Raises:
      findings.RefusedError: `requested` is of three channels and the model has one.
    """
    return pixel_rules.decide(
        pixel_rules.Evidence(
            channels=model.inputs[0].shape[-1],
            application=application,
            names=frozenset([*(layer.name for layer in model.layers), *dropped]),
            find_inside=lambda: _find_inside(model),
            has_statistics=lambda: bool(_first_batch_norms(model)),
        ),
        requested=requested,
    )


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
        return pixel_rules.UNKNOWN
    probe = keras.Model(model.inputs[0], [tensor for _, tensor in norms])
    channels = sample.shape[-1]
    names = [name for name in _SCALES if channels == 3 or name not in pixel_rules.COLOR_ONLY]
    scores = {name: _score(probe, norms, scale_pixels(sample, name)) for name in names}
    best, second = sorted(scores, key=lambda name: scores[name])[:2]
    numbers = f"{best}: {scores[best]:.2f}, then {second}: {scores[second]:.2f}, 0 is equal"
    if scores[best] > _GOOD_FIT or scores[best] > _CLEAR_MARGIN * scores[second]:
        reason = (
            "the statistics of the first BatchNormalization fit no range clearly "
            f"({numbers}): {pixel_rules.FALLBACK}"
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
    pixel_rules.check_channels(name, channels)
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
    return [
        keras.layers.Rescaling(scale, offset=offset, dtype="float32", name=pixel_rules.LAYER_NAME)
    ]


def _caffe_layer() -> keras.layers.Layer:
    # Rescaling cannot reorder channels; a Dense layer with a permutation as kernel is exact and
    # opens everywhere.
    layer = keras.layers.Dense(3, trainable=False, dtype="float32", name=pixel_rules.LAYER_NAME)
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
    calls = [
        pixel_rules.Call(
            name=node.operation.name,
            class_name=type(node.operation).__name__,
            inputs=tuple(map(id, node.input_tensors)),
            outputs=tuple(map(id, node.output_tensors)),
            has_weights=bool(getattr(node.operation, "weights", ())),
        )
        for node in _nodes(model)
    ]
    passed = pixel_rules.before_first_weights(id(model.inputs[0]), calls)
    if passed is None:
        return None
    by_id: dict[typing.Hashable, keras.KerasTensor] = {
        id(tensor): tensor for node in _nodes(model) for tensor in node.output_tensors
    }
    tensor = by_id[passed.tensor]
    if len(tensor.shape) != 4:
        return None
    sides = [side or 64 for side in model.inputs[0].shape[1:3]]
    shape = (1, *sides, model.inputs[0].shape[3])
    images = np.concatenate([np.full(shape, value, np.float32) for value in (0, 255)])
    scaled = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], tensor)(images))
    dark, bright = scaled[:, scaled.shape[1] // 2, scaled.shape[2] // 2]
    return pixel_rules.judge_scaling(dark, bright, passed.names)


def _first_batch_norms(model: keras.Model) -> list[tuple[typing.Any, keras.KerasTensor]]:
    norms = []
    # Columns beside the image may lead to others, of which pixels alone say nothing.
    known = {id(model.inputs[0])}
    for node in _nodes(model):
        layer = node.operation
        if node.is_input or not known.issuperset(map(id, node.input_tensors)):
            continue
        known.update(map(id, node.output_tensors))
        if not layer_table.is_batch_norm(layer) or len(node.input_tensors[0].shape) != 4:
            continue
        trained = pixel_rules.is_trained(layer.moving_mean, layer.moving_variance)
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
