"""A translated configuration becomes a Keras 3 model, ready for its weights.

Shared by .h5 and .keras files; what is special to Keras 1 and to channels-first models is called
from here.
"""

import contextlib
import typing
import warnings
from collections.abc import Iterator, Sequence

import keras

from tf_finetune.models import backbone
from tf_finetune.models.legacy import (
    channels_first,
    keras1_config,
    keras1_layers,
    keras1_weights,
    keras2_values,
    locally_connected,
    masked_layers,
    private_layers,
    tensor_operations,
    theano_kernels,
)
from tf_finetune.models.stored import stored_config, stored_model, stored_weights

# What Keras raises for files that it does not understand, by experience; an error of the machine
# (out of memory, a failing disk) is not among them.
KERAS_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Imported because importing registers their layers with Keras.
LAYER_MODULES = (
    keras1_layers,
    locally_connected,
    masked_layers,
    private_layers,
    tensor_operations,
)

# Layers that keras.applications of Keras 3 does not export, by the names that its files use.
_PRIVATE = {
    "LayerScale": private_layers.LayerScale,
    "StochasticDepth": private_layers.StochasticDepth,
    "CustomScaleLayer": private_layers.ScaledAdd,
    # An .h5 names it as Python does, Keras exports it under another name.
    "GroupedQueryAttention": keras.layers.GroupQueryAttention,
}


@contextlib.contextmanager
def private_classes() -> Iterator[None]:
    """Lets Keras find the layers that its applications keep private, until the block ends.

    Yields:
      None.
    """
    with keras.saving.custom_object_scope(_PRIVATE):
        yield


def build_model(stored: stored_model.StoredModel, *, where: str, trust_model: bool) -> keras.Model:
    """Builds a model of Keras 1 or 2 with fresh weights.

    Args:
      stored: the header of its file.
      where: the file, for the errors' texts.
      trust_model: runs the Python code that it carries.

    Returns:
      The model, uncompiled.

    Raises:
      findings.RefusedError: it has a custom layer, records no input shape, or Keras refuses it.
    """
    try:
        with warnings.catch_warnings():
            # Advice for the author of the model, not for its user.
            warnings.simplefilter("ignore")
            model = keras.saving.deserialize_keras_object(
                _copied(stored.config), safe_mode=not trust_model
            )
    except KERAS_ERRORS as error:
        raise stored_config.explain(
            error, stored.stored_config, where=where, version=stored.keras_version
        ) from error
    if not model.built:
        raise stored_config.refused(
            where,
            "its configuration records no input shape, so its layers cannot be built. Build the "
            "model in Keras with an Input layer, load these weights and save it again.",
        )
    return model


def convert_layers(
    layers: Sequence[stored_weights.StoredLayer],
    stored: stored_model.StoredModel,
    *,
    where: str,
) -> tuple[Sequence[stored_weights.StoredLayer], tuple[str, ...]]:
    """Brings stored weights into the names and layout of Keras 2 under TensorFlow.

    Args:
      layers: as read from the file.
      stored: its header.
      where: the file, for the errors' texts.

    Returns:
      The layers, and lines for the user.

    Raises:
      findings.RefusedError: a layer's arrays do not suit its class.
    """
    notes = stored.notes
    if stored.generation == 1:
        notes = (*notes, *keras1_config.find_losses_dropped(stored.stored_config))
    is_theano, why = theano_kernels.find_theano(
        layers, stored.stored_config, version=stored.keras_version, backend=stored.backend
    )
    config = stored.stored_config
    if stored.generation == 1:
        layers = keras1_weights.convert_weights(layers, config, where=where)
        config = stored.config
    if is_theano:
        layers = theano_kernels.rotate_kernels(layers, config)
    return layers, (*notes, why) if why else notes


def finish(
    model: keras.Model,
    stored: stored_model.StoredModel,
    *,
    sha256: str | None,
    notes: Sequence[str] = (),
) -> backbone.LoadedModel:
    """Makes the result of a loader.

    Args:
      model: with its weights.
      stored: the header of its file.
      sha256: of the file.
      notes: lines for the user.

    Returns:
      The model, with channels last inside where it was stored with channels first.
    """
    lambdas = [
        layer.path
        for layer in stored_config.find_layers(stored.stored_config)
        if layer.class_name == "Lambda"
    ]
    if lambdas:
        notes = (*notes, f"Ran Python code of the file: {', '.join(lambdas)} (--trust_model).")
    first = channels_first.find_channels_first(model)
    if first:
        model = channels_first.to_channels_last(model)
        notes = (*notes, f"Computes with the channels last: '{first}' and others had them first.")
    return backbone.LoadedModel(
        model,
        f"{stored.format} of Keras {stored.keras_version}",
        sha256=sha256,
        notes=tuple(notes),
    )


def _users_own(key: str, value: typing.Any) -> typing.Any:
    # An activation named "sin" is TensorFlow's, unless the user offers a function of that name.
    if not key.endswith("activation") or not isinstance(value, dict):
        return value
    if value.get("class_name") != "TensorOperation":
        return value
    name = value["config"]["name"]
    if keras.saving.get_registered_object(name) is None:
        return value
    return keras2_values.builtin("builtins", "function", name) | {"registered_name": "function"}


def _copied(value: typing.Any) -> typing.Any:
    # Keras empties configurations while it reads them.
    if isinstance(value, dict):
        return {key: _copied(_users_own(key, element)) for key, element in value.items()}
    if isinstance(value, list):
        return [_copied(element) for element in value]
    return value
