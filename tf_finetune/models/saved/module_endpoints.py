"""The ways to call a restored SavedModel, brought into one form.

One idea: a restored `__call__` is a set of traced graphs, one for each set of inputs and Python
constants (`training`) that its author called it with. The most general pair, for inference and for
training, is chosen; else a signature is.

Reference: TensorFlow Hub, "Reusable SavedModels",
https://www.tensorflow.org/hub/reusable_saved_models.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.models.saved import module_rules, tensor_specs

_CALL = "__call__"


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One way to call a module.

    Attributes:
      signature: its name; None: `__call__`.
      inputs: nested dicts and lists of tf.TensorSpec.
      outputs: likewise.
      call: takes the inputs and `training`.
      functions: the concrete functions behind it.
      has_training: it distinguishes training from inference.
    """

    signature: str | None
    inputs: Any
    outputs: Any
    call: Callable[[Any, bool], Any]
    functions: tuple[Any, ...]
    has_training: bool = False

    @property
    def batch(self) -> int | None:
        """The only batch size that it takes; None: any."""
        leaves = keras.tree.flatten(self.inputs)
        sizes = {leaf.shape[0] for leaf in leaves if leaf.shape.rank}
        fixed = len(sizes) == 1 and all(leaf.shape.rank for leaf in leaves)
        return sizes.pop() if fixed else None


def choose_endpoint(
    path: str,
    root: Any,
    *,
    signature: str | None,
    preferred: Sequence[str],
) -> Endpoint:
    """Decides how a module is called.

    Args:
      path: its folder, for the error's text.
      root: what TensorFlow restored.
      signature: the signature to call; None: `__call__`, else the first of `preferred` that exists,
        else the first of all.
      preferred: names of signatures.

    Returns:
      The endpoint.

    Raises:
      findings.RefusedError: there is no such signature, or nothing to call at all.
    """
    signatures = dict(getattr(root, "signatures", {}))
    if signature is None:
        called = _call_endpoint(root)
        if called is not None:
            return called
    name = module_rules.choose_signature(path, signatures, wanted=signature, preferred=preferred)
    return _signature_endpoint(name, signatures[name])


def _signature_endpoint(name: str, function: Any) -> Endpoint:
    _, named = function.structured_input_signature

    def call(inputs: dict[str, tf.Tensor], training: bool) -> Any:
        del training
        return function(**inputs)

    outputs = keras.tree.map_structure(_to_spec, dict(function.structured_outputs))
    return Endpoint(name, dict(named), outputs, call, (function,))


def describe_leaves(structure: Any, *, kind: str = "output") -> tensor_specs.NamedSpecs:
    """Describes the tensors of a nested structure.

    Args:
      structure: nested dicts and lists of tf.TensorSpec.
      kind: what the tensors are.

    Returns:
      (name, spec) pairs, see `tensor_specs.name_leaves`.
    """
    return tuple(
        (name, describe_spec(spec)) for name, spec in tensor_specs.name_leaves(structure, kind=kind)
    )


def describe_spec(spec: tf.TensorSpec) -> tensor_specs.Spec:
    """Describes a tensor.

    Args:
      spec: any spec.

    Returns:
      The same without TensorFlow.
    """
    known = spec.shape.rank is not None
    return tensor_specs.Spec(spec.dtype.name, tuple(spec.shape.as_list()) if known else None)


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A concrete function of `__call__`: what follows the inputs are Python constants."""

    function: Any
    inputs: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _call_endpoint(root: Any) -> Endpoint | None:
    function = getattr(root, _CALL, None)
    forms = [_read_form(one) for one in getattr(function, "concrete_functions", ())]
    chosen = module_rules.choose_forms([form for form in forms if form is not None])
    if chosen is None:
        return None
    inference, training = (form.function for form in chosen)

    def call(inputs: Any, is_training: bool) -> Any:
        form = training if is_training else inference
        return root(inputs, *form.args, **form.kwargs)

    outputs = keras.tree.map_structure(_to_spec, inference.function.structured_outputs)
    return Endpoint(
        signature=None,
        inputs=inference.inputs,
        outputs=to_plain(outputs),
        call=call,
        functions=(inference.function, training.function),
        has_training=training is not inference,
    )


def _read_form(function: Any) -> module_rules.CallForm[_Traced] | None:
    args, kwargs = function.structured_input_signature
    if not args or not _all_specs(args[0]):
        return None
    rest = [*args[1:], *kwargs.values()]
    if any(isinstance(leaf, tf.TypeSpec) for leaf in keras.tree.flatten(rest)):
        return None
    inputs = to_plain(args[0])
    return module_rules.CallForm(
        function=_Traced(function, inputs, tuple(args[1:]), dict(kwargs)),
        inputs=describe_leaves(inputs, kind="input"),
        training=module_rules.read_training(args[1:], kwargs),
    )


def _all_specs(structure: Any) -> bool:
    leaves = keras.tree.flatten(structure)
    return bool(leaves) and all(isinstance(leaf, tf.TensorSpec) for leaf in leaves)


def to_plain(structure: Any) -> Any:
    """Replaces the wrappers of dicts and lists that TensorFlow restores.

    Args:
      structure: nested.

    Returns:
      The same of plain dicts and lists.
    """
    if isinstance(structure, dict):
        return {str(key): to_plain(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [to_plain(value) for value in structure]
    return structure


def _to_spec(value: Any) -> tf.TensorSpec:
    return tf.TensorSpec(value.shape, value.dtype)
