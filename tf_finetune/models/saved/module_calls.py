"""How a SavedModel is called, and what its graph tells of the outputs and the pixels.

One idea: training and --mode=inspect both know saved_model.pb. What is told by walking through its
graph is told here, to both.
"""

import dataclasses

from tf_finetune.models.saved import (
    graph_walk,
    module_graph,
    module_rules,
    output_rules,
    saved_model_files,
    tensor_specs,
)
from tf_finetune.trust import refusals

Form = module_rules.CallForm[module_graph.ConcreteFunction]
_CALL = "__call__"


class UnclearError(LookupError):
    """The file does not tell; TensorFlow may."""


def choose_call(graph: module_graph.MetaGraph) -> tuple[Form, Form] | None:
    """Chooses among the traced graphs of `__call__`.

    Args:
      graph: of TensorFlow 2.

    Returns:
      For inference and for training, see `module_rules.choose_forms`; None where there is none.

    Raises:
      UnclearError: a function does not say what it takes.
    """
    if _CALL not in graph.root:
        return None
    node = graph.nodes[graph.root[_CALL]]
    if node.kind != "function":
        return None
    functions = [graph.functions[name] for name in node.functions]
    forms = [_read_form(function) for function in functions]
    return module_rules.choose_forms([form for form in forms if form is not None])


def add_evidence(
    facts: module_rules.ModuleFacts, stored: saved_model_files.StoredModule
) -> module_rules.ModuleFacts:
    """Adds to what is known of a module what its graph tells.

    Args:
      facts: of the module.
      stored: its files.

    Returns:
      The same with `probabilities`, `elsewhere`, `scaling` and `is_export`; where the graph does
      not tell, they stay empty.
    """
    graph = stored.meta_graph
    facts = dataclasses.replace(facts, is_export=_is_export(stored))
    try:
        walk = graph_walk.GraphWalk(graph)
        function = _called_function(graph) if facts.signature is None else None
        return dataclasses.replace(
            facts,
            probabilities=_find_probabilities(facts, graph, walk, function=function),
            elsewhere=_find_elsewhere(facts, graph, walk),
            scaling=_find_scaling(facts, graph, walk, function=function),
        )
    except (refusals.BrokenFileError, UnclearError, IndexError, KeyError, TypeError):
        # Parts of another form than TensorFlow writes: it may load them all the same.
        return facts


def _read_form(function: module_graph.ConcreteFunction) -> Form | None:
    if function.inputs is None:
        raise UnclearError("a function does not say what it takes")
    args, kwargs = function.inputs
    if not args:
        return None
    inputs = tensor_specs.name_leaves(args[0], kind="input")
    rest = [leaf for _, leaf in tensor_specs.name_leaves([args[1:], kwargs])]
    if not inputs or not all(isinstance(leaf, tensor_specs.Spec) for _, leaf in inputs):
        return None
    if any(isinstance(leaf, tensor_specs.Spec) or leaf is tensor_specs.OTHER for leaf in rest):
        return None
    return module_rules.CallForm(
        function, tuple(inputs), module_rules.read_training(args[1:], kwargs)
    )


def _called_function(graph: module_graph.MetaGraph) -> str | None:
    chosen = choose_call(graph)
    if chosen is None:
        return None
    inference = chosen[0].function
    return next(name for name, function in graph.functions.items() if function is inference)


def _find_probabilities(
    facts: module_rules.ModuleFacts,
    graph: module_graph.MetaGraph,
    walk: graph_walk.GraphWalk,
    *,
    function: str | None,
) -> dict[str, str]:
    names = [name for name, _ in facts.outputs]
    if function is not None:
        makers = walk.find_makers(function)
        found = dict(zip(names, makers, strict=True)) if len(makers) == len(names) else {}
    else:
        tensors = graph.signatures[facts.signature or ""].tensors
        found = {name: walk.find_maker(tensors["output", name]) for name in names}
    return {
        name: maker for name, maker in found.items() if maker in output_rules.PROBABILITY_MAKERS
    }


def _find_elsewhere(
    facts: module_rules.ModuleFacts, graph: module_graph.MetaGraph, walk: graph_walk.GraphWalk
) -> tuple[str, ...]:
    # Floats of other signatures that take the same, SIGNATURE:OUTPUT.
    kind = module_rules.guess_input_kind(facts.inputs)
    found = []
    for name, signature in sorted(graph.signatures.items()):
        if name == facts.signature or name in module_rules.PRIVATE_SIGNATURES:
            continue
        taken = [(key, spec) for key, spec in signature.inputs.items() if spec is not None]
        if len(taken) != len(signature.inputs):
            continue
        if kind is None or module_rules.guess_input_kind(tuple(taken)) != kind:
            continue
        for output, spec in sorted(signature.outputs.items()):
            maker = walk.find_maker(signature.tensors["output", output])
            if spec is not None and spec.is_float and maker not in output_rules.PROBABILITY_MAKERS:
                found.append(f"{name}:{output}")
    return tuple(found)


def _find_scaling(
    facts: module_rules.ModuleFacts,
    graph: module_graph.MetaGraph,
    walk: graph_walk.GraphWalk,
    *,
    function: str | None,
) -> graph_walk.Scaling | None:
    if module_rules.guess_input_kind(facts.inputs) != module_rules.IMAGE:
        return None
    if function is not None:
        return walk.find_scaling("0", function=function)
    ((name, _),) = facts.inputs
    return walk.find_scaling(graph.signatures[facts.signature or ""].tensors["input", name])


def _is_export(stored: saved_model_files.StoredModule) -> bool:
    # What exporting.write_export of this package writes.
    labels = f"{saved_model_files.ASSETS_DIR}/labels_"
    if not any(name.startswith(labels) and name.endswith(".txt") for name in stored.files):
        return False
    signature = stored.meta_graph.signatures.get("serving_default")
    if signature is None:
        return False
    ends = ("probabilities", "classes")
    made = all(any(name.endswith(end) for name in signature.outputs) for end in ends)
    return made and list(signature.inputs) in (["image"], ["text"])
