"""From a whole pretrained model to the part that makes features.

One idea: flatten the graph, find the old classifier or the layer that --cut_layer names, and
build a new model that ends there, over the same layers and weights.
"""

import dataclasses

import keras

from tf_finetune import findings, layer_table
from tf_finetune.models import classifier, cut_rules, flattening
from tf_finetune.models.legacy import channels_first


@dataclasses.dataclass(frozen=True)
class CutModel:
    """The part of a pretrained model that is kept.

    Attributes:
      model: flat functional model, one output: the features before pooling, [batch, h, w, c] or
        [batch, c]. Of an image and columns the image is the first input.
      input_kind: "image", "text" or "columns".
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
    input_kind: str


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
      model: functional or sequential, built, with inputs as `cut_rules.check_inputs` wants them.
        Its layers are taken over: it should not be used afterwards.
      cut_layer: name of the layer, or of the nested model, whose output becomes the features;
        None: the input of the old classifier, or all of a model that has none.
      pooling: a value of --pooling.
      precision: "float32", "bfloat16" or "float16": what the layers compute in.

    Returns:
      The part that is kept.

    Raises:
      findings.RefusedError: the model has no fixed graph, inputs of another kind than images,
        strings or columns, channels_first layers, half-precision or quantized weights, several
        outputs and no cut_layer; the layer does not exist; its output is no map and no vector; the
        pooling does not suit it; nothing would be left.
    """
    model = channels_first.drop_input_permute(model)
    functional = check_supported(model)
    graph = flattening.flatten_graph(model, precision=precision)
    everything = keras.Model(graph.input, list(graph.outputs))
    named = [(_name(tensor), tensor) for tensor in graph.outputs]
    kind = cut_rules.find_input_kind(_inputs(functional))
    takes_text = kind == cut_rules.TEXT
    if cut_layer is not None:
        features = _find_layer(graph, everything, cut_layer)
        cut = cut_rules.cut_behind(cut_layer, features, pooling=pooling, takes_text=takes_text)
    else:
        cut = cut_rules.find_cut(named, step_back, pooling=pooling, takes_text=takes_text)
    if any(cut.features is tensor for tensor in graph.inputs):
        raise cut_rules.refuse_empty()
    features = channels_first.undo_permute(cut.features)
    used = _find_used(graph.inputs, features)
    if kind == cut_rules.IMAGE and len(graph.inputs) > 1:
        used, kind = _put_image_first(used)
    kept = keras.Model(used[0] if len(used) == 1 else used, features, name=functional.name)
    names = {layer.name for layer in kept.layers}
    dropped = tuple(layer.name for layer in everything.layers if layer.name not in names)
    outputs = tuple((name, tuple(tensor.shape)) for name, tensor in named)
    return CutModel(kept, cut.pooling, dropped, cut.reason, outputs, kind)


def _find_used(
    inputs: tuple[keras.KerasTensor, ...], features: keras.KerasTensor
) -> list[keras.KerasTensor]:
    """The inputs that the features depend on: behind --cut_layer there may be fewer."""
    seen, pending = set(), [features]
    while pending:
        tensor = pending.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            layer, node_index, _ = tensor._keras_history
            pending += layer._inbound_nodes[node_index].input_tensors
    return [tensor for tensor in inputs if id(tensor) in seen]


def _put_image_first(used: list[keras.KerasTensor]) -> tuple[list[keras.KerasTensor], str]:
    """(the inputs, what the model takes without those that --cut_layer has cut off)."""
    inputs = [(_name(tensor), tuple(tensor.shape), tensor.dtype) for tensor in used]
    # All that is about pixels asks for the first; the others keep their order.
    return sorted(used, key=lambda tensor: len(tensor.shape) != 4), cut_rules.find_input_kind(
        inputs
    )


def _inputs(functional: keras.Model) -> list[tuple[str, tuple[int | None, ...], str]]:
    return [(_name(tensor), tuple(tensor.shape), tensor.dtype) for tensor in functional.inputs]


def check_supported(model: keras.Model) -> keras.Model:
    """Says at once whether a model can be a backbone.

    Args:
      model: any built Keras model.

    Returns:
      Its functional form.

    Raises:
      findings.RefusedError: it has no fixed graph, inputs that are no image with the channels last,
        no text and no columns, or weights in half precision or quantized.
    """
    functional = flattening.functional_of(model)
    if functional is None:
        raise cut_rules.refuse_without_graph(type(model).__name__)
    cut_rules.check_inputs(
        _inputs(functional),
        ((weight.path, str(weight.dtype)) for weight in functional.weights),
        channels_first=_find_channels_first(functional),
    )
    return functional


def step_back(tensor: keras.KerasTensor) -> classifier.Step[keras.KerasTensor] | None:
    """The layer that made a tensor, see `classifier.find_classifier`.

    Args:
      tensor: of a functional graph.

    Returns:
      The step; None for an input, an operation that is no layer, and several inputs.
    """
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    if node.is_input or len(node.input_tensors) != 1 or not isinstance(layer, keras.layers.Layer):
        return None
    function = getattr(layer, "activation", None)
    return classifier.Step(
        name=layer.name,
        class_name=type(layer).__name__,
        before=node.input_tensors[0],
        activation=(
            "linear" if function is None else getattr(function, "__name__", type(function).__name__)
        ),
        units=getattr(layer, "units", getattr(layer, "filters", None)),
        kernel_size=getattr(layer, "kernel_size", None),
        channels_last=getattr(layer, "data_format", None) != "channels_first",
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
    return graph.by_name[name]


def _name(tensor: keras.KerasTensor) -> str:
    return tensor._keras_history.operation.name
