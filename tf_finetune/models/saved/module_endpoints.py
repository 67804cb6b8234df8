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

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

_CALL = "__call__"
PREFERRED_SIGNATURES = ("default", "serving_default", "serve", "image_feature_vector")
FEATURE_SIGNATURES = ("image_feature_vector", *PREFERRED_SIGNATURES)


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
    if signature is not None:
        if signature not in signatures:
            raise stored_config.refused(
                path,
                f"has no signature '{findings.one_line(signature)}'. It has "
                f"{findings.list_first(sorted(signatures))}.",
            )
        return _signature_endpoint(signature, signatures[signature])
    called = _call_endpoint(root)
    if called is not None:
        return called
    names = [name for name in preferred if name in signatures] + sorted(signatures)
    if not names:
        raise stored_config.refused(
            path,
            "has neither a __call__ of tensors nor a signature, so there is nothing to run. Save "
            "it with tf.saved_model.save(module, folder, signatures=...).",
        )
    return _signature_endpoint(names[0], signatures[names[0]])


def _signature_endpoint(name: str, function: Any) -> Endpoint:
    _, named = function.structured_input_signature

    def call(inputs: dict[str, tf.Tensor], training: bool) -> Any:
        del training
        return function(**inputs)

    outputs = keras.tree.map_structure(_to_spec, dict(function.structured_outputs))
    return Endpoint(name, dict(named), outputs, call, (function,))


def name_leaves(structure: Any, *, kind: str = "output") -> list[tuple[str, Any]]:
    """Names the tensors of a nested structure.

    Args:
      structure: nested dicts and lists.
      kind: what the tensors are.

    Returns:
      (name, leaf) pairs: keys joined by "/", KIND_N for elements of a list; KIND alone.
    """
    named = []
    for path, leaf in keras.tree.flatten_with_path(structure):
        parts = [f"{kind}_{part}" if isinstance(part, int) else str(part) for part in path]
        named.append(("/".join(parts) or kind, leaf))
    return named


@dataclasses.dataclass(frozen=True)
class _CallForm:
    """A concrete function of `__call__`: what follows the inputs are Python constants."""

    function: Any
    inputs: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: bool | None

    def score(self) -> tuple[int, ...]:
        """More free sizes are better, above all that of the batch; so is float32."""
        leaves = keras.tree.flatten(self.inputs)
        shapes = [leaf.shape for leaf in leaves]
        free_batch = all(shape.rank and shape[0] is None for shape in shapes)
        free = sum(size is None for shape in shapes if shape.rank for size in shape)
        is_float32 = sum(leaf.dtype == tf.float32 for leaf in leaves)
        return int(free_batch), is_float32, free


def _call_endpoint(root: Any) -> Endpoint | None:
    function = getattr(root, _CALL, None)
    forms = [_read_form(one) for one in getattr(function, "concrete_functions", ())]
    usable = sorted(
        (form for form in forms if form is not None), key=lambda form: form.score(), reverse=True
    )
    inference = next((form for form in usable if form.training is not True), None)
    inference = inference or next(iter(usable), None)
    if inference is None:
        return None
    same = [form for form in usable if _same_specs(form.inputs, inference.inputs)]
    training = next((form for form in same if form.training is True), inference)

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


def _read_form(function: Any) -> _CallForm | None:
    args, kwargs = function.structured_input_signature
    if not args or not _all_specs(args[0]):
        return None
    rest = [*args[1:], *kwargs.values()]
    if any(isinstance(leaf, tf.TypeSpec) for leaf in keras.tree.flatten(rest)):
        return None
    flags = [value for value in args[1:] if isinstance(value, bool)]
    if isinstance(kwargs.get("training"), bool):
        flags = [kwargs["training"]]
    return _CallForm(
        function=function,
        inputs=to_plain(args[0]),
        args=tuple(args[1:]),
        kwargs=dict(kwargs),
        training=flags[0] if flags else None,
    )


def _all_specs(structure: Any) -> bool:
    leaves = keras.tree.flatten(structure)
    return bool(leaves) and all(isinstance(leaf, tf.TensorSpec) for leaf in leaves)


def _same_specs(one: Any, other: Any) -> bool:
    first, second = name_leaves(one), name_leaves(other)
    return [(name, spec.shape, spec.dtype) for name, spec in first] == [
        (name, spec.shape, spec.dtype) for name, spec in second
    ]


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
