"""A stored model as training would see it: cut, pooling, layer table, pixel range, without Keras.

One idea: the same rules (`cut_rules`, `classifier`, `pixel_rules`) that cut a real model run on the
graph of the configuration; sizes come from the arrays in the file.
"""

import dataclasses
import typing
from collections.abc import Iterator, Sequence

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import classifier, cut_rules, pixel_rules
from tf_finetune.models.stored import graph_reader, stored_graph, stored_pixels, weight_sizes

# Layers that loading opens as a class of ours by another name, see `private_layers`.
_OPENED_AS = {"CustomScaleLayer": "ScaledAdd"}
_FIRST_WEIGHTS = {
    "BatchNormalization": "gamma",
    "LayerNormalization": "gamma",
    "GroupNormalization": "gamma",
    "Embedding": "embeddings",
    "PReLU": "alpha",
}


@dataclasses.dataclass(frozen=True)
class End:
    """An input or output of a model.

    Attributes:
      name: of its layer.
      shape: with None for the batch and for free sizes; None: not known.
      dtype: for example "float32"; None: not known.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str | None


@dataclasses.dataclass(frozen=True)
class StoredBackbone:
    """What is kept of a stored model.

    Attributes:
      features_shape: what new heads are given, with None for the batch and for free sizes.
      pooling: "avg", "max", "flatten" or "none".
      reason: a sentence that says where it was cut and why.
      old_classifier: name of its layer; None: there is none, or --cut_layer decided.
      dropped: names of the layers that are cut off.
      pixel_range: what it expects; None: only a sample of the data can tell, or `unknown_scaling`.
      unknown_scaling: name of the layer before the first weights that only running the model
        explains; None: there is none.
      input_kind: "image", "text" or "columns".
    """

    features_shape: tuple[int | None, ...]
    pooling: str
    reason: str
    old_classifier: str | None
    dropped: tuple[str, ...]
    pixel_range: pixel_rules.PixelRange | None
    unknown_scaling: str | None = None
    input_kind: str = cut_rules.IMAGE


@dataclasses.dataclass(frozen=True)
class StoredTable:
    """A stored model, described.

    Attributes:
      inputs: of the whole model.
      outputs: of the whole model.
      table: layers of the backbone, or of the whole model where it cannot be one.
      backbone: what is kept; None where it cannot be fine-tuned as it is.
      refusal: why not; None where it can.
    """

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    table: layer_table.LayerTable
    backbone: StoredBackbone | None
    refusal: str | None = None


def describe_graph(
    graph: stored_graph.Graph, weights: weight_sizes.WeightFile, spec: specs.ModelSpec
) -> StoredTable:
    """Cuts a stored model and numbers its layers.

    Args:
      graph: of the whole model.
      weights: its open file, its arrays assigned to this graph.
      spec: where to cut, how it pools, which pixels it expects.

    Returns:
      The description.

    Raises:
      findings.RefusedError: a flag of the spec does not suit the model.
    """
    flat = stored_graph.flatten(graph)
    inputs = tuple(_input_end(tensor) for tensor in flat.inputs)
    outputs = tuple(_end(tensor) for tensor in flat.outputs)
    whole = make_table(*stored_graph.sort_calls(flat.inputs, flat.outputs), weights)
    try:
        backbone, table = _cut(graph, flat, weights, spec=spec, whole=whole)
    except findings.RefusedError as error:
        if any(problem.flag for problem in error.problems):
            raise
        message = " ".join(problem.message for problem in error.problems)
        return StoredTable(inputs, outputs, whole, None, message)
    except stored_graph.UnknownShapeError as error:
        message = (
            f"The output shape of layer '{findings.one_line(str(error))}' is only known once the "
            "model is built: where it is cut is decided then."
        )
        return StoredTable(inputs, outputs, whole, None, message)
    return StoredTable(inputs, outputs, table, backbone)


def is_rearranged(graph: stored_graph.Graph) -> bool:
    """Whether loading gives a model of images other layers than are stored.

    Args:
      graph: of the whole model.

    Returns:
      True for one input of rank 4 and a layer with the channels first, see `channels_first`.
    """
    shapes = [tensor.known_shape or () for tensor in graph.inputs]
    return [len(shape) for shape in shapes] == [4] and any(
        config.get("data_format") == "channels_first"
        for layer in _all_layers(graph)
        for config in _own_configs(layer.config)
    )


def describe_layers(graph: stored_graph.Graph, weights: weight_sizes.WeightFile) -> StoredTable:
    """Numbers the layers of a model whose calls are not known.

    Args:
      graph: its layers, see `graph_reader.read_layers`.
      weights: its open file, its arrays assigned to this graph.

    Returns:
      The description, without shapes, and with the reason why it cannot be a backbone.
    """
    refusal = cut_rules.refuse_without_graph(graph.class_name).problems[0].message
    return StoredTable((), (), make_table((), graph.layers, weights), None, refusal)


def make_table(
    calls: Sequence[stored_graph.Call],
    layers: Sequence[stored_graph.Layer],
    weights: weight_sizes.WeightFile,
) -> layer_table.LayerTable:
    """Numbers the layers of a graph, as `layer_table.table_from_model` those of a model.

    Args:
      calls: of the graph.
      layers: in Keras's order.
      weights: the open file.

    Returns:
      The table, inputs left out.
    """
    shapes = {call.layer: _row_shape(call) for call in calls}
    counted = [layer for layer in layers if weight_sizes.layer_counts(layer)]
    rows = [
        layer_table.LayerRow(
            number=number,
            name=layer.name,
            class_name=_class_name(layer),
            output_shape=shapes.get(layer),
            num_parameters=sum(weight.size for weight in weights.weights_of(layer)),
            is_batch_norm=layer.class_name == "BatchNormalization",
        )
        for number, layer in enumerate(counted, start=1)
    ]
    return layer_table.LayerTable(tuple(rows))


def _cut(
    graph: stored_graph.Graph,
    flat: stored_graph.FlatGraph,
    weights: weight_sizes.WeightFile,
    *,
    spec: specs.ModelSpec,
    whole: layer_table.LayerTable,
) -> tuple[StoredBackbone, layer_table.LayerTable]:
    inputs = _list_inputs(graph, flat)
    kind = cut_rules.find_input_kind(inputs)
    cut_rules.check_inputs(
        inputs,
        _weight_dtypes(graph, weights),
        channels_first=None,  # loading rearranges those, see `is_rearranged`
    )
    cut = _find_cut(flat, spec, whole, takes_text=kind == cut_rules.TEXT)
    if any(cut.features is tensor for tensor in flat.inputs):
        raise cut_rules.refuse_empty()
    calls, layers = stored_graph.sort_calls(flat.inputs, [cut.features])
    table = make_table(calls, layers, weights)
    kept, unknown, found = set(table.names), None, None
    dropped = tuple(name for name in whole.names if name not in kept)
    image = cut_rules.find_mixed_image(inputs)
    place = 0 if image is None else inputs.index(image)
    part = stored_pixels.StoredModelPart(flat.inputs[place], calls, weights)
    try:
        if kind == cut_rules.IMAGE:
            found = stored_pixels.find_pixel_range(
                part, requested=spec.pixel_range, dropped=dropped
            )
    except stored_pixels.UnknownScalingError as error:
        unknown = str(error)
    backbone = StoredBackbone(
        cut.features.shape,
        cut.pooling,
        cut.reason,
        cut.old_classifier,
        dropped,
        found,
        unknown,
        kind,
    )
    return backbone, table


def _list_inputs(graph: stored_graph.Graph, flat: stored_graph.FlatGraph) -> list[cut_rules.Input]:
    inputs: list[cut_rules.Input] = [
        (tensor.call.layer.name, _input_end(tensor).shape or (), tensor.dtype or "float32")
        for tensor in graph.inputs
    ]
    # --vocabulary puts a tokenizer in front, see `token_inputs`.
    return [(inputs[0][0], (None,), "string")] if _takes_tokens(flat) else inputs


def _find_cut(
    flat: stored_graph.FlatGraph,
    spec: specs.ModelSpec,
    whole: layer_table.LayerTable,
    *,
    takes_text: bool,
) -> cut_rules.Cut[stored_graph.Tensor]:
    if spec.cut_layer is None:
        named = [(tensor.call.layer.name, tensor) for tensor in flat.outputs]
        return cut_rules.find_cut(named, step_back, pooling=spec.pooling, takes_text=takes_text)
    if spec.cut_layer not in flat.by_name:
        problem = layer_table.unknown_layer(spec.cut_layer, whole.names, flag="--cut_layer")
        raise findings.RefusedError(problem)
    features = flat.by_name[spec.cut_layer]
    return cut_rules.cut_behind(
        spec.cut_layer, features, pooling=spec.pooling, takes_text=takes_text
    )


def step_back(tensor: stored_graph.Tensor) -> classifier.Step[stored_graph.Tensor] | None:
    """The layer that made a tensor, see `classifier.find_classifier`.

    Args:
      tensor: of a stored graph.

    Returns:
      The step; None for an input, an operation that is no layer, and several inputs.
    """
    call = tensor.call
    if len(call.inputs) != 1 or call.layer.is_operation:
        return None
    config = call.layer.config
    sizes = config.get("kernel_size")
    sizes = sizes.get("items") if isinstance(sizes, dict) else sizes
    return classifier.Step(
        name=call.layer.name,
        class_name=call.layer.class_name,
        before=call.inputs[0],
        activation=stored_pixels.activation_of(config),
        units=config.get("units", config.get("filters")),
        kernel_size=tuple(sizes) if isinstance(sizes, list | tuple) else None,
        channels_last=config.get("data_format") != "channels_first",
    )


def _takes_tokens(flat: stored_graph.FlatGraph) -> bool:
    # As `token_inputs` asks a model.
    shape = flat.inputs[0].known_shape or ()
    if len(flat.inputs) != 1 or len(shape) != 2 or shape[1] == 1:
        return False
    calls, _ = stored_graph.sort_calls(flat.inputs, flat.outputs)
    takers = [call for call in calls if flat.inputs[0] in call.inputs]
    return bool(takers) and all(
        call.layer.class_name.rpartition(">")[2] == "Embedding" for call in takers
    )


def _end(tensor: stored_graph.Tensor) -> End:
    return End(tensor.call.layer.name, tensor.known_shape, tensor.dtype)


def _input_end(tensor: stored_graph.Tensor) -> End:
    shape = graph_reader.read_input_shape(tensor.call.layer, tensor.known_shape)
    return dataclasses.replace(_end(tensor), shape=shape)


def _class_name(layer: stored_graph.Layer) -> str:
    name = layer.class_name.rpartition(">")[2]
    return _OPENED_AS.get(name, name)


def _row_shape(call: stored_graph.Call) -> tuple[int | None, ...] | None:
    return call.outputs[0].known_shape if len(call.outputs) == 1 else None


def _all_layers(graph: stored_graph.Graph) -> Iterator[stored_graph.Layer]:
    for layer in graph.layers:
        yield layer
        if layer.graph is not None:
            yield from _all_layers(layer.graph)


def _own_configs(config: dict[str, typing.Any]) -> Iterator[dict[str, typing.Any]]:
    yield config
    inner = config.get("layer")
    if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
        yield inner["config"]


def _weight_dtypes(
    graph: stored_graph.Graph, weights: weight_sizes.WeightFile
) -> Iterator[tuple[str, str]]:
    for layer in _all_layers(graph):
        arrays = weights.weights_of(layer) if layer.graph is None else []
        if not arrays:
            continue
        name = arrays[0].name.partition(":")[0].rpartition("/")[2]
        if name.isdigit():
            name = _FIRST_WEIGHTS.get(layer.class_name, "kernel")
        yield f"{layer.name}/{name}", stored_graph.variable_dtype(layer.config)
