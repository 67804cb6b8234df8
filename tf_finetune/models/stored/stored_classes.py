"""Which classes of a stored configuration this program knows, without asking Keras.

One idea: a class that Keras does not have is the user's own. It is refused as loading refuses it,
with the layer's name, before anything else is said of the model.
"""

import typing
from collections.abc import Iterator

from tf_finetune.models.legacy import keras2_layers
from tf_finetune.models.stored import stored_config, stored_model

# Layers that came with Keras 3; older ones are known to `keras2_layers`. A test compares the two
# with the Keras that is installed.
_NAMES = """
AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
AdaptiveMaxPooling2D AdaptiveMaxPooling3D AugMix AutoContrast
ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization GroupedQueryAttention
MaxNumBoundingBoxes MelSpectrogram MixUp Pipeline RMSNormalization RandAugment
RandomColorDegeneration RandomColorJitter RandomElasticTransform RandomErasing
RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization
RandomSaturation RandomSharpness RandomShear ReversibleEmbedding STFTSpectrogram Solarization
Wrapper
"""
_KERAS3_ONLY = frozenset(_NAMES.split())
_GRAPHS = ("Functional", "Model", "Sequential")
_OURS = "tf_finetune"
_KNOWN_MODULES = ("keras", "builtins", _OURS)


def check_classes(stored: stored_model.StoredModel, *, where: str) -> None:
    """Refuses a model with a class of the user's own.

    Args:
      stored: the header of the file.
      where: the file, for the error's text.

    Raises:
      findings.RefusedError: a class that neither Keras nor this package has; the text names the
        first layer of it.
    """
    for class_name in _find_custom(stored.config):
        # The text is the one that loading the file ends with.
        missing = ValueError(f"Could not locate class '{class_name}'")
        raise stored_config.explain(
            missing, stored.stored_config, where=where, version=stored.keras_version
        )


def _find_custom(config: dict[str, typing.Any]) -> Iterator[str]:
    layers = {id(value) for value in _layers(config)} | {id(config)}
    for value in _objects(config):
        name, module = value["class_name"], value.get("module")
        if isinstance(module, str):
            known = module.partition(".")[0] in _KNOWN_MODULES
        elif id(value) in layers:
            # An .h5 names classes alone, the user's own as "package>Class".
            known = (
                name in _GRAPHS
                or name in _KERAS3_ONLY
                or keras2_layers.plain_class(name) is not None
            )
            known = known or name.partition(">")[0] in _KNOWN_MODULES
        else:
            known = True
        if not known:
            yield name


def _layers(config: dict[str, typing.Any]) -> Iterator[dict[str, typing.Any]]:
    inner = config.get("config")
    if not isinstance(inner, dict):
        return
    held = inner.get("layers", ()), inner.get("cells", ()), [inner.get("layer"), inner.get("cell")]
    for values in held:
        for value in values if isinstance(values, list) else ():
            if isinstance(value, dict) and "class_name" in value:
                yield value
                yield from _layers(value)


def _objects(value: typing.Any) -> Iterator[dict[str, typing.Any]]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
