"""Which pixel values the pretrained model was trained on: the rules, without Keras.

One idea: the wrong range costs accuracy without any error, so it is settled from evidence, in
this order, and the evidence is printed: scaling inside the model; the application or the
architecture, known by its layer names; the first BatchNormalization layers, whose stored
statistics only fit the data in the right range; else 0..1, with a warning.

Training looks at a loaded model (`pixel_range`), --mode=inspect at a stored configuration
(`stored_pixels`); both decide here.
"""

import dataclasses
import typing
from collections.abc import Hashable, Iterable

import numpy as np

from tf_finetune import findings

COLOR_ONLY = ("caffe", "torch")

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
LAYER_NAME = "scale_pixels"


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


FALLBACK = "0..1 is the most common range; set --pixel_range if you know better"
UNKNOWN = PixelRange("0..1", f"nothing in the model tells its range: {FALLBACK}", warning=True)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of a model.

    Attributes:
      channels: of its input.
      application: the module of keras.applications that made it, for example "mobilenet_v2"; None:
        not known.
      names: of its layers.
      find_inside: looks for scaling inside the model.
      has_statistics: tells whether it has a trained BatchNormalization of feature maps.
    """

    channels: int
    application: str | None
    names: frozenset[str]
    find_inside: typing.Callable[[], PixelRange | None]
    has_statistics: typing.Callable[[], bool]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer, in the order of the graph.

    Attributes:
      name: of the layer.
      class_name: for example "Rescaling".
      inputs: what stands for the tensors it was given.
      outputs: what stands for the tensors it returned.
      has_weights: the layer has weights.
    """

    name: str
    class_name: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    has_weights: bool


@dataclasses.dataclass(frozen=True)
class Scaled:
    """What pixels became before a layer with weights saw them.

    Attributes:
      tensor: what enters that layer.
      names: of the layers that pixels went through.
    """

    tensor: Hashable
    names: tuple[str, ...]


def decide(evidence: Evidence, *, requested: str) -> PixelRange | None:
    """Settles the range from the model alone.

    Args:
      evidence: what is known of the model.
      requested: value of --pixel_range.

    Returns:
      The range; None where only a sample of the data can tell.

    Raises:
      findings.RefusedError: `requested` is of three channels and the model has one.
    """
    channels, application = evidence.channels, evidence.application
    if requested != "auto":
        check_channels(requested, channels)
        return PixelRange(requested, "as --pixel_range says")
    found = evidence.find_inside()
    if found is None and application is not None:
        name = _APPLICATION_RANGES[application]
        found = PixelRange(name, f"keras.applications.{application} expects it")
    if found is None:
        found = _find_by_names(evidence.names)
    if found is None and not evidence.has_statistics():
        return UNKNOWN
    if found and found.name in COLOR_ONLY and channels != 3:
        reason = f"{found.name} is for 3 channels, the model has {channels}: set --pixel_range"
        return PixelRange("0..1", reason, warning=True)
    return found


def before_first_weights(pixels: Hashable, calls: Iterable[Call]) -> Scaled | None:
    """Finds what enters the first layer with weights.

    Args:
      pixels: what stands for the model's input.
      calls: in the order of the graph.

    Returns:
      What enters it; None where nothing scales before it, or there is none.
    """
    scaled: dict[Hashable, tuple[str, ...]] = {pixels: ()}
    for call in calls:
        if len(call.inputs) != 1 or call.inputs[0] not in scaled:
            continue
        passed = scaled[call.inputs[0]]
        scales = call.class_name == "Normalization" or call.name == LAYER_NAME
        if call.has_weights and not scales:
            return Scaled(call.inputs[0], passed) if passed else None
        if len(call.outputs) == 1:
            shifts = call.class_name not in ("ZeroPadding2D", "InputLayer")
            scaled[call.outputs[0]] = (*passed, call.name) if shifts else passed
    return None


def judge_scaling(
    dark: np.ndarray, bright: np.ndarray, names: tuple[str, ...]
) -> PixelRange | None:
    """Tells from what black and white became which pixels the model expects.

    Args:
      dark: float [channels], what a pixel of 0 becomes.
      bright: float [channels], what a pixel of 255 becomes.
      names: of the layers that did it.

    Returns:
      The range; None where the pixels stay as they are.
    """
    low, high = np.asarray(dark, np.float64), np.asarray(bright, np.float64)
    offset, slope = float(low.mean()), float((high - low).mean() / 255)
    if abs(slope - 1) < 1e-3 and abs(offset) < 1e-3:
        return None
    named = findings.list_first(list(names), limit=3)
    return PixelRange(_expected_range(slope, offset), f"the model scales pixels itself ({named})")


def is_trained(moving_mean: typing.Any, moving_variance: typing.Any) -> bool:
    """Whether the statistics of a BatchNormalization are not those it starts with.

    Args:
      moving_mean: float [channels].
      moving_variance: float [channels].

    Returns:
      False for means of 0 and equal variances.
    """
    return bool(np.ptp(np.asarray(moving_variance)) > 0 or np.any(np.asarray(moving_mean)))


def check_channels(name: str, channels: int) -> None:
    """Refuses a range of three channels for a model of one.

    Args:
      name: a value of --pixel_range.
      channels: 1 or 3.

    Raises:
      findings.RefusedError: "caffe" or "torch" with one channel.
    """
    if name in COLOR_ONLY and channels != 3:
        raise findings.RefusedError(
            findings.Problem(
                f"--pixel_range={name} is for models of 3 channels. The model has {channels}: use "
                "0..1, -1..1 or 0..255.",
                flag="--pixel_range",
            )
        )


def _expected_range(slope: float, offset: float) -> str:
    if abs(slope) < 0.1 or (abs(slope - 1) < 1e-3 and offset < -20):
        return "0..255"
    # (x + 1) / 2 and (x + 1) * 127.5: what is made non-negative was -1..1.
    if offset > 0 and abs(slope - offset) < 0.05 * slope:
        return "-1..1"
    return "0..1"


def _find_by_names(names: frozenset[str]) -> PixelRange | None:
    for architecture, required, name in _ARCHITECTURES:
        if names.issuperset(required):
            return PixelRange(name, f"its layers are named as those of {architecture}")
    return None
