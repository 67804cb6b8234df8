"""From a whole pretrained model to the part that makes features.

One idea: flatten the graph, find the old classifier or the layer that --cut_layer names, and
build a new model that ends there, over the same layers and weights.
"""

import dataclasses

import keras

from tf_finetune import findings, layer_table
from tf_finetune.models import classifier, flattening

_OTHER_DTYPES = ("float16", "bfloat16", "float64", "int8", "uint8", "float8_e4m3fn")


@dataclasses.dataclass(frozen=True)
class CutModel:
    """The part of a pretrained model that is kept.

    Attributes:
      model: flat functional model, one input [None, height, width, channels], one output: the
        features before pooling, [batch, h, w, c] or [batch, c].
      pooling: "avg", "max", "flatten", or "none" where the features are a vector.
      dropped: names of the layers that were cut off, in order.
      reason: a sentence that says where it was cut and why.
      outputs: (layer name, shape) of each output of the whole model.
    """

    model: keras.Model
    pooling: str
    dropped: tuple[str, ...]
    reason: str
    outputs: tuple[tuple[str, tuple[int | None, ...]], ...]


def cut_model(
    model: keras.Model,
    *,
    cut_layer: str | None = None,
    pooling: str = "auto",
    precision: str = "float32",
) -> CutModel:
    """Removes the old classifier from a model, or everything behind one layer.

    A final Dropout goes too, and so does the pooling, which the new heads do themselves: the
    features keep their positions. A layer that `cut_layer` names stays, whatever it is.

    Args:
      model: functional or sequential, built; one input of rank 4, channels last. Its layers are
        taken over: it should not be used afterwards.
      cut_layer: name of the layer, or of the nested model, whose output becomes the features;
        None: the input of the old classifier, or all of a model that has none.
      pooling: a value of --pooling.
      precision: "float32", "bfloat16" or "float16": what the layers compute in.

    Returns:
      The part that is kept.

    Raises:
      findings.RefusedError: the model has no fixed graph, several inputs, an input that is no
        image, channels_first layers, half-precision or quantized weights, several outputs and no
        cut_layer; the layer does not exist; its output is no map and no vector; the pooling does
        not suit it; nothing would be left.
    """
    functional = check_supported(model)
    graph = flattening.flatten_graph(model, precision=precision)
    everything = keras.Model(graph.input, list(graph.outputs))
    if cut_layer is not None:
        features, found_pooling = _find_layer(graph, everything, cut_layer), None
        reason = f"Cut behind '{findings.one_line(cut_layer)}', as --cut_layer says."
    else:
        features, found_pooling, reason = _find_features(graph, pooling=pooling)
    if features is graph.input:
        raise _refused("Cutting off the old classifier leaves no layer. Expected layers before it.")
    pooling = _settle_pooling(pooling, found_pooling, features)
    kept = keras.Model(graph.input, features, name=functional.name)
    names = {layer.name for layer in kept.layers}
    dropped = tuple(layer.name for layer in everything.layers if layer.name not in names)
    outputs = tuple((_name(tensor), tuple(tensor.shape)) for tensor in graph.outputs)
    return CutModel(kept, pooling, dropped, reason, outputs)


def check_supported(model: keras.Model) -> keras.Model:
    """Says at once whether a model can be a backbone.

    Args:
      model: any built Keras model.

    Returns:
      Its functional form.

    Raises:
      findings.RefusedError: it has no fixed graph, several inputs, an input that is no image with
        the channels last, or weights in half precision or quantized.
    """
    functional = flattening.functional_of(model)
    if functional is None:
        raise _refused(
            f"The model is a {type(model).__name__} without a fixed graph of layers. Expected a "
            "functional model, or a Sequential one that knows its input shape."
        )
    if len(functional.inputs) != 1:
        names = [_name(tensor) for tensor in functional.inputs]
        raise _refused(
            f"The model has {len(names)} inputs ({findings.list_first(names)}). This version "
            "fine-tunes models of one image input."
        )
    shape = tuple(functional.inputs[0].shape)
    if len(shape) != 4 or shape[3] not in (1, 3):
        first = _find_channels_first(functional)
        why = f" Its layer '{findings.one_line(first)}' is channels_first." if first else ""
        raise _refused(
            f"The model's input has the shape {shape}.{why} This version fine-tunes models of one "
            "image input, (batch, height, width, channels) with 1 or 3 channels."
        )
    _check_weights(functional)
    return functional


def _check_weights(functional: keras.Model) -> None:
    first = _find_channels_first(functional)
    if first:
        raise _refused(
            f"Layer '{findings.one_line(first)}' is channels_first. This version fine-tunes models "
            "of one image input, (batch, height, width, channels)."
        )
    for weight in functional.weights:
        dtype = str(weight.dtype)
        if dtype in _OTHER_DTYPES:
            raise _refused(
                f"Weight '{findings.one_line(weight.path)}' is stored as {dtype}. Expected "
                "float32: save the model again with float32 weights."
            )


def _find_channels_first(functional: keras.Model) -> str | None:
    for layer in functional._flatten_layers():
        if getattr(layer, "data_format", None) == "channels_first":
            return layer.name
    return None


def _find_layer(
    graph: flattening.FlatGraph, everything: keras.Model, name: str
) -> keras.KerasTensor:
    if name not in graph.by_name:
        names = layer_table.table_from_model(everything).names
        raise findings.RefusedError(layer_table.unknown_layer(name, names, flag="--cut_layer"))
    features = graph.by_name[name]
    if len(features.shape) not in (2, 4):
        raise _refused(
            f"--cut_layer: the output of '{findings.one_line(name)}' has the shape "
            f"{tuple(features.shape)}. Expected a feature map, (batch, height, width, channels), "
            "or a vector, (batch, features).",
            flag="--cut_layer",
        )
    return features


def _find_features(
    graph: flattening.FlatGraph, *, pooling: str
) -> tuple[keras.KerasTensor, str | None, str]:
    if len(graph.outputs) != 1:
        names = [_name(tensor) for tensor in graph.outputs]
        raise _refused(
            f"The model has {len(names)} outputs ({findings.list_first(names)}). Name the layer "
            "whose output the new heads should get with --cut_layer."
        )
    found = classifier.find_classifier(graph.outputs[0])
    if found:
        reason = (
            f"The old classifier '{findings.one_line(found.layer)}' ({found.class_name}, "
            f"{found.units} units) and what follows it are cut off."
        )
        features = found.features
    else:
        reason = "No old classifier at the end: every layer but the final pooling is kept."
        features = graph.outputs[0]
    features, found_pooling = classifier.strip_tail(features, keep_pooling=pooling == "none")
    if not found and found_pooling is None:
        reason = "No old classifier at the end: every layer is kept."
    if len(features.shape) not in (2, 4):
        raise _refused(
            f"The features have the shape {tuple(features.shape)}. Expected a feature map, (batch, "
            "height, width, channels), or a vector, (batch, features): choose a layer with "
            "--cut_layer."
        )
    return features, found_pooling, reason


def _settle_pooling(requested: str, found: str | None, features: keras.KerasTensor) -> str:
    shape = tuple(features.shape)
    if len(shape) == 2:
        if requested in ("auto", "none"):
            return "none"
        raise _refused(
            f"--pooling={requested} expects a feature map. The features are a vector of the shape "
            f"{shape}: use --pooling=auto, or another --cut_layer.",
            flag="--pooling",
        )
    if requested == "none":
        raise _refused(
            f"--pooling=none expects features that are a vector. They are a map of the shape "
            f"{shape}: use --pooling=auto, avg, max or flatten.",
            flag="--pooling",
        )
    if requested == "flatten" and None in shape[1:]:
        raise _refused(
            f"--pooling=flatten expects a map of known size. The features have the shape {shape}: "
            "use --pooling=avg, or a model with a fixed input shape.",
            flag="--pooling",
        )
    return (found or "avg") if requested == "auto" else requested


def _name(tensor: keras.KerasTensor) -> str:
    return tensor._keras_history.operation.name


def _refused(message: str, *, flag: str = "") -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag=flag))
