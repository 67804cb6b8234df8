"""A SavedModel as training would see it, told from saved_model.pb without TensorFlow.

One idea: the rules that choose among the outputs of a restored module (`module_rules`) and that
group its variables (`variable_groups`) run on what the file says of them. Where only restoring or
running the graph can tell, that is said, and nothing is guessed.
"""

import dataclasses
from collections.abc import Sequence

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import pixel_rules
from tf_finetune.models.origins import hub_handles
from tf_finetune.models.saved import (
    module_calls,
    module_graph,
    module_operations,
    module_rules,
    output_rules,
    saved_model_files,
    tensor_specs,
    variable_groups,
)
from tf_finetune.models.stored import stored_table
from tf_finetune.trust import refusals, saved_model_ops

_SIGNATURES = "signatures"
_KNOWN_OPERATIONS = (
    saved_model_ops.ALLOWED
    | saved_model_ops.SAVER
    | saved_model_ops.TAKES_ELEMENT
    | set(saved_model_ops.READS_ASSET)
)


UnclearError = module_calls.UnclearError


@dataclasses.dataclass(frozen=True)
class ModuleDescription:
    """A SavedModel, described.

    Attributes:
      source: format and writer, for the user.
      inputs: what the backbone takes; where there is none, what the module takes.
      outputs: of the module.
      table: its weight groups.
      signatures: all that a user may call.
      refusal: why it cannot be fine-tuned as it is; None: it can.
      cut_reason: a sentence that says which output the features are; None where there are none.
      features_shape: what new heads are given, with None for the batch, for free sizes and for what
        only a run tells; None: only a run tells it.
      pooling: "avg", "max", "flatten" or "none"; None: only a run tells it.
      pixel_range: what an image module takes; None: it takes none.
      notes: lines for the user.
    """

    source: str
    inputs: tuple[stored_table.End, ...]
    outputs: tuple[stored_table.End, ...]
    table: layer_table.LayerTable
    signatures: tuple[saved_model_files.SignatureEnds, ...]
    refusal: str | None = None
    cut_reason: str | None = None
    features_shape: tuple[int | None, ...] | None = None
    pooling: str | None = None
    pixel_range: pixel_rules.PixelRange | None = None
    notes: tuple[str, ...] = ()


def describe_module(path: str, spec: specs.ModelSpec) -> ModuleDescription:
    """Describes a SavedModel as `saved_model.load_backbone` would make a backbone of it.

    Args:
      path: its folder.
      spec: the options of the model; see `saved_model.load_backbone`.

    Returns:
      The description.

    Raises:
      findings.RefusedError: the folder cannot be used, nothing in it can be called, or a flag does
        not suit it.
      UnclearError: only restoring the graph tells its variables or its inputs, or whether
        TensorFlow has its operations; only running it what its preprocessor makes.
    """
    try:
        return _describe_module(path, spec)
    except refusals.BrokenFileError as error:
        raise UnclearError(str(error)) from error
    except (IndexError, KeyError, TypeError) as error:
        # Parts that are not there, or of another form than TensorFlow writes.
        raise UnclearError(f"{type(error).__name__}: {error}") from error


def _describe_module(path: str, spec: specs.ModelSpec) -> ModuleDescription:
    stored = saved_model_files.read_module(path)
    signature, wanted = module_rules.read_cut(spec.cut_layer)
    called = _choose(stored, signature, preferred=module_rules.FEATURE_SIGNATURES)
    variables = _find_variables(stored, called)
    groups = variable_groups.group_variables(variables)
    facts = called.facts
    description = ModuleDescription(
        source=facts.source,
        inputs=saved_model_files.make_ends(facts.inputs),
        outputs=saved_model_files.make_ends(facts.outputs),
        table=variable_groups.make_table(
            (group.name, [variables[index] for index in group.indices]) for group in groups
        ),
        signatures=saved_model_files.list_signatures(stored),
        notes=module_rules.make_notes(facts, variables, fixed_by_strategy=False),
    )
    try:
        described = _add_features(description, facts, wanted, spec=spec)
    except findings.RefusedError as error:
        if _is_of_a_flag(error, spec):
            raise
        text = " ".join(problem.message for problem in error.problems)
        refusal = text.removeprefix(f"{findings.one_line(path)}: ")
        return dataclasses.replace(description, refusal=refusal)
    if spec.preprocessor is None:
        return described
    more = _check_preprocessor(facts, spec.preprocessor)
    return dataclasses.replace(described, notes=(*described.notes, *more))


def _is_of_a_flag(error: findings.RefusedError, spec: specs.ModelSpec) -> bool:
    given = {
        "--cut_layer": spec.cut_layer is not None,
        "--pooling": spec.pooling != "auto",
        "--pixel_range": spec.pixel_range != "auto",
        "--preprocessor": spec.preprocessor is not None,
    }
    return any(given.get(problem.flag) for problem in error.problems)


@dataclasses.dataclass(frozen=True)
class _Called:
    # The chosen way to call a module; functions: none of TensorFlow 1.
    facts: module_rules.ModuleFacts
    functions: tuple[module_graph.ConcreteFunction, ...]


def _choose(
    stored: saved_model_files.StoredModule, signature: str | None, *, preferred: Sequence[str]
) -> _Called:
    _check_operations(stored)
    graph = stored.meta_graph
    chosen = None
    name: str | None
    functions: tuple[module_graph.ConcreteFunction, ...]
    if signature is None and not stored.is_tensorflow_1:
        chosen = module_calls.choose_call(graph)
    if chosen is not None:
        inference, training = (form.function for form in chosen)
        inputs, outputs = chosen[0].inputs, _leaves(inference.outputs, "output")
        name, functions = None, (inference, training)
    else:
        name, inputs, outputs, functions = _find_signature(stored, signature, preferred)
    facts = module_rules.ModuleFacts(
        path=stored.path,
        kind=stored.kind,
        source=stored.source,
        signature=name,
        has_training=len(functions) == 2 and functions[0] is not functions[1],
        needs_text=stored.needs_text,
        inputs=inputs,
        outputs=outputs,
    )
    return _Called(module_calls.add_evidence(facts, stored), functions)


def _check_operations(stored: saved_model_files.StoredModule) -> None:
    unknown = stored.meta_graph.operations - _KNOWN_OPERATIONS
    if unknown or module_operations.needs_install(stored.meta_graph.operations):
        raise UnclearError("TensorFlow may not have all its operations")


def _find_signature(
    stored: saved_model_files.StoredModule, wanted: str | None, preferred: Sequence[str]
) -> tuple[
    str,
    tensor_specs.NamedSpecs,
    tensor_specs.NamedSpecs,
    tuple[module_graph.ConcreteFunction, ...],
]:
    graph = stored.meta_graph
    if stored.is_tensorflow_1:
        name = module_rules.choose_signature(
            stored.path, graph.signatures, wanted=wanted, preferred=preferred
        )
        signature = graph.signatures[name]
        inputs = _leaves(dict(signature.inputs), "input")
        return name, inputs, _leaves(dict(signature.outputs), "output"), ()
    names = graph.nodes[graph.root[_SIGNATURES]].children if _SIGNATURES in graph.root else {}
    name = module_rules.choose_signature(stored.path, names, wanted=wanted, preferred=preferred)
    node = graph.nodes[names[name]]
    if len(node.functions) != 1:
        raise UnclearError("a signature is not one function")
    function = graph.functions[node.functions[0]]
    if function.inputs is None or function.outputs is None:
        raise UnclearError("a signature does not say what it takes")
    return (
        name,
        _leaves(function.inputs[1], "input"),
        _leaves(function.outputs, "output"),
        (function,),
    )


def _leaves(structure: object, kind: str) -> tensor_specs.NamedSpecs:
    leaves = tensor_specs.name_leaves(structure, kind=kind)
    if any(not isinstance(leaf, tensor_specs.Spec) for _, leaf in leaves):
        raise UnclearError(f"an {kind} is not one tensor")
    return tuple(leaves)


def _find_variables(
    stored: saved_model_files.StoredModule, called: _Called
) -> list[variable_groups.StoredVariable]:
    graph = stored.meta_graph
    allowed: set[int] | None = None
    if stored.is_tensorflow_1:
        found = dict(enumerate(graph.graph_variables()))
    else:
        read = [number for function in called.functions for number in function.bound]
        listed = _listed(graph, "variables") or []
        numbers = module_rules.order_variables(stored.kind, read=read, listed=listed)
        found = {
            number: variable
            for number in numbers
            if (variable := graph.nodes[number].variable) is not None
        }
        trainable = _listed(graph, "trainable_variables")
        allowed = None if trainable is None else set(trainable)
    return [
        variable_groups.describe_variable(
            variable.name,
            _known(variable.spec.shape),
            variable.spec.dtype,
            trainable=variable.trainable and (allowed is None or number in allowed),
            path=stored.path,
        )
        for number, variable in found.items()
    ]


def _listed(graph: module_graph.MetaGraph, attribute: str) -> list[int] | None:
    # Numbers of the nodes in a list of variables that the module has; None: it has no such list.
    if attribute not in graph.root:
        return None
    node = graph.nodes[graph.root[attribute]]
    if node.kind != "user_object" or not all(name.isdecimal() for name in node.children):
        raise UnclearError(f"its {attribute} are not a list")
    return [node.children[name] for name in sorted(node.children, key=int)]


def _known(shape: tuple[int | None, ...] | None) -> tuple[int, ...]:
    sizes = tuple(size for size in shape or () if size is not None)
    if shape is None or len(sizes) != len(shape):
        raise UnclearError("the shape of a variable is not stored")
    return sizes


def _add_features(
    description: ModuleDescription,
    facts: module_rules.ModuleFacts,
    wanted: str | None,
    *,
    spec: specs.ModelSpec,
) -> ModuleDescription:
    output_rules.check_no_export(facts)
    pixels = None
    name, taken = module_rules.TEXT, tensor_specs.Spec("string", (None,))
    if spec.preprocessor is not None:
        module_rules.check_takes_tokens(facts)
    else:
        kind = module_rules.need_input_kind(facts)
        if kind == module_rules.IMAGE:
            sizes = _image_sizes(facts)
            name, taken = kind, tensor_specs.Spec("float32", (None, *sizes))
            pixels = module_rules.find_pixel_range(facts, sizes[2], requested=spec.pixel_range)
    output = output_rules.choose_output(facts, wanted)
    shape = module_rules.free_batch(dict(facts.outputs)[output]).shape
    pooling = None
    if shape is not None and (_is_complete(shape) or spec.pooling != "flatten"):
        pooling = output_rules.settle_pooling(output, shape, spec.pooling)
    return dataclasses.replace(
        description,
        inputs=saved_model_files.make_ends([(name, taken)]),
        cut_reason=output_rules.explain_output(facts, output),
        features_shape=shape,
        pooling=pooling,
        pixel_range=pixels,
        notes=(*description.notes, *output_rules.output_notes(facts, output)),
    )


def _is_complete(shape: tuple[int | None, ...]) -> bool:
    # Else loading runs the graph on zeros to learn the rest.
    return None not in shape[1:][-1:]


def _image_sizes(facts: module_rules.ModuleFacts) -> tuple[int | None, int | None, int]:
    ((_, spec),) = facts.inputs
    height, width, channels = (None, None, None) if spec.shape is None else spec.shape[1:]
    return height, width, channels or 3


def _check_preprocessor(facts: module_rules.ModuleFacts, path: str) -> tuple[str, ...]:
    stored = saved_model_files.read_module(hub_handles.fetch(path).path)
    found = _choose(stored, None, preferred=module_rules.PREFERRED_SIGNATURES).facts
    module_rules.check_preprocessor(path, found.inputs)
    made = {name: module_rules.free_batch(spec).shape for name, spec in found.outputs}
    if any(shape is None or not _is_complete(shape) for shape in made.values()):
        raise UnclearError("only a run tells the shapes that the preprocessor makes")
    module_rules.match_preprocessor(path, made, facts.inputs)
    return module_rules.preprocessor_notes(found)
