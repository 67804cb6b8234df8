"""A restored graph that can be called: one function of tensors for each kind of SavedModel.

One idea: whatever a SavedModel offers (`__call__` with or without `training`, or a signature) is
brought into one form: inputs in a structure of TensorSpecs, outputs in another, and the variables
that are read, in the order of reading.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from google.protobuf import message

# tf.saved_model has the public name of one of the two kinds of resources only.
from tensorflow.python.trackable import asset, resource

from tf_finetune import findings
from tf_finetune.models.saved import (
    module_calls,
    module_endpoints,
    module_operations,
    module_rules,
    saved_model_files,
    tensor_specs,
    variable_groups,
)
from tf_finetune.models.stored import stored_config

_LOAD_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    message.DecodeError,
    tf.errors.OpError,
)
# Of reading variables and assets; what a graph lacks is of another kind.
_FILE_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError)
_RESOURCES = (resource.CapturableResource, asset.Asset)
_DUMMY_SIDE, _DUMMY_LENGTH = 224, 8


@dataclasses.dataclass(frozen=True)
class RestoredModule:
    """A loaded SavedModel with one way to call it.

    Attributes:
      stored: its files.
      root: what TensorFlow restored.
      endpoint: how it is called.
      variables: (description, tf.Variable) of what the endpoint reads and what `root.variables`
        lists, in the order of `module_rules.order_variables`.
    """

    stored: saved_model_files.StoredModule
    root: Any
    endpoint: module_endpoints.Endpoint
    variables: tuple[tuple[variable_groups.StoredVariable, tf.Variable], ...]

    @functools.cached_property
    def facts(self) -> module_rules.ModuleFacts:
        """What the rules ask of a module."""
        facts = module_rules.ModuleFacts(
            path=self.stored.path,
            kind=self.stored.kind,
            source=self.stored.source,
            signature=self.endpoint.signature,
            has_training=self.endpoint.has_training,
            needs_text=self.stored.needs_text,
            inputs=module_endpoints.describe_leaves(self.endpoint.inputs, kind="input"),
            outputs=module_endpoints.describe_leaves(self.endpoint.outputs),
        )
        return module_calls.add_evidence(facts, self.stored)

    @property
    def fixed_by_strategy(self) -> bool:
        """Its variables cannot be trained under the present strategy."""
        return bool(self.variables) and _is_fixed_by_strategy(self.stored)

    def call(self, inputs: Any, *, training: bool) -> Any:
        """Runs the graph.

        Args:
          inputs: tensors in the structure of `endpoint.inputs`, or alone where it is one; numbers
            are cast to what the graph takes.
          training: whether BatchNormalization updates its statistics and dropout drops.

        Returns:
          Tensors in the structure of `endpoint.outputs`; floats are float32.
        """
        specs = keras.tree.flatten(self.endpoint.inputs)
        leaves = keras.tree.flatten(inputs)
        if len(specs) != len(leaves):
            names = findings.list_first(
                [name for name, _ in tensor_specs.name_leaves(self.endpoint.inputs, kind="input")]
            )
            raise ValueError(f"The module takes {names}. Received {len(leaves)} tensors.")
        tensors = [_cast_input(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]
        if self.endpoint.batch is None:
            outputs = self._call_once(tensors, training)
        else:
            outputs = self._call_in_chunks(tensors, training, batch=self.endpoint.batch)
        return keras.tree.map_structure(_cast_output, outputs)

    def regularization_losses(self) -> list[tf.Tensor]:
        """The module's own losses, float32 scalars, of its present weights."""
        losses = getattr(self.root, "regularization_losses", None) or ()
        return [tf.cast(tf.reduce_sum(loss()), tf.float32) for loss in losses]

    def trackables(self) -> list[Any]:
        """The resources that a graph which calls this module needs when it is saved again.

        Returns:
          Tables, assets and initializers, without functions and variables.
        """
        found = tf.train.TrackableView(self.root).descendants()
        return [item for item in found if isinstance(item, _RESOURCES)]

    def _call_once(self, tensors: Sequence[tf.Tensor], training: bool) -> Any:
        packed = keras.tree.pack_sequence_as(self.endpoint.inputs, list(tensors))
        return module_endpoints.to_plain(self.endpoint.call(packed, training))

    def _call_in_chunks(self, tensors: Sequence[tf.Tensor], training: bool, *, batch: int) -> Any:
        # The graph takes one batch size only: the last chunk is padded.
        outputs = tf.map_fn(
            lambda chunk: keras.tree.flatten(self._call_once(chunk, training)),
            [_cut_in_chunks(tensor, batch) for tensor in tensors],
            fn_output_signature=keras.tree.flatten(self.endpoint.outputs),
        )
        count = tf.shape(tensors[0])[0]
        joined = [
            tf.reshape(leaf, tf.concat([[-1], tf.shape(leaf)[2:]], axis=0))[:count]
            for leaf in outputs
        ]
        return keras.tree.pack_sequence_as(self.endpoint.outputs, joined)


def load_module(
    path: str,
    *,
    signature: str | None = None,
    preferred: Sequence[str] = module_rules.PREFERRED_SIGNATURES,
) -> RestoredModule:
    """Loads a SavedModel.

    Args:
      path: its folder.
      signature: the signature to call; default: `__call__`, else the first of `preferred`.
      preferred: names of signatures.

    Returns:
      The module; in a strategy's scope its variables belong to the strategy.

    Raises:
      findings.RefusedError: the folder cannot be used, see `saved_model_files.read_module`, or
        TensorFlow does not load it, or nothing in it can be called.
    """
    stored = saved_model_files.read_module(path)
    root = _load(stored, path, with_variables=True)
    found = module_endpoints.choose_endpoint(path, root, signature=signature, preferred=preferred)
    return RestoredModule(stored, root, found, _find_variables(stored, root, found))


def load_graph(path: str, *, signature: str | None) -> RestoredModule:
    """Loads a SavedModel whose variables get their values from elsewhere.

    Args:
      path: a folder from `saved_model_files.write_files`.
      signature: name of the signature to call; None: `__call__`.

    Returns:
      The module, its variables without values.

    Raises:
      findings.RefusedError: as for `load_module`.
    """
    stored = saved_model_files.read_module(path, with_variables=False)
    root = _load(stored, path, with_variables=False)
    preferred = () if signature is None else (signature,)
    found = module_endpoints.choose_endpoint(path, root, signature=signature, preferred=preferred)
    return RestoredModule(stored, root, found, _find_variables(stored, root, found))


def run_on_dummy(module: RestoredModule) -> Any:
    """Runs a module on zeros, to learn shapes that its graph does not tell.

    Args:
      module: the module.

    Returns:
      Its outputs, for a batch of two where any batch is taken.

    Raises:
      tf.errors.OpError: zeros of the sizes tried here do not suit the graph.
    """
    return module.call(
        keras.tree.map_structure(_make_dummy, module.endpoint.inputs), training=False
    )


def _load(stored: saved_model_files.StoredModule, path: str, *, with_variables: bool) -> Any:
    module_operations.check_operations(path, stored.meta_graph.operations)
    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=not with_variables)
    try:
        return tf.saved_model.load(path, tags=list(stored.tags), options=options)
    except _FILE_ERRORS as error:
        raise stored_config.refused(
            path,
            f"its files are incomplete or damaged ({one_reason(error)[:-1]}). "
            "Copy or download the whole folder again.",
        ) from error
    except _LOAD_ERRORS as error:
        raise stored_config.refused(
            path, f"TensorFlow does not load this SavedModel: {one_reason(error)}"
        ) from error


def one_reason(error: BaseException) -> str:
    """The gist of a TensorFlow error.

    Args:
      error: any exception.

    Returns:
      One printable line that ends with a full stop.
    """
    return stored_config.one_reason(
        ValueError(error.message) if isinstance(error, tf.errors.OpError) else error
    )


def _find_variables(
    stored: saved_model_files.StoredModule, root: Any, endpoint: module_endpoints.Endpoint
) -> tuple[tuple[variable_groups.StoredVariable, tf.Variable], ...]:
    # tf_keras lists the table of an adapted vocabulary too, which TensorFlow restores as None.
    listed = [
        variable
        for variable in getattr(root, "variables", None) or ()
        if isinstance(variable, tf.Variable)
    ]
    read = [variable for function in endpoint.functions for variable in function.variables]
    ordered = module_rules.order_variables(stored.kind, read=read, listed=listed)
    found = {id(variable): variable for variable in ordered}
    trainable = getattr(root, "trainable_variables", None)
    allowed = None if trainable is None else {id(variable) for variable in trainable}
    fixed = _is_fixed_by_strategy(stored)
    variables = []
    for key, variable in found.items():
        stored_variable = variable_groups.describe_variable(
            variable.name.rpartition(":")[0] or variable.name,
            tuple(variable.shape.as_list()),
            variable.dtype.name,
            trainable=variable.trainable and not fixed and (allowed is None or key in allowed),
            path=stored.path,
        )
        variables.append((stored_variable, variable))
    return tuple(variables)


def _is_fixed_by_strategy(stored: saved_model_files.StoredModule) -> bool:
    # What has no object graph is of TensorFlow 1, whose variables no strategy takes over: several
    # replicas cannot update them.
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas > 1 and not stored.meta_graph.nodes


def _cast_input(value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    if tensor.dtype == spec.dtype:
        return tensor
    if spec.dtype.is_integer and tensor.dtype.is_floating:
        return tf.saturate_cast(tf.round(tensor), spec.dtype)
    return tf.cast(tensor, spec.dtype)


def _cast_output(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor


def _cut_in_chunks(tensor: tf.Tensor, batch: int) -> tf.Tensor:
    # Padded by repeats of the first example, which are as valid as the data.
    padding = tf.repeat(tensor[:1], -tf.shape(tensor)[0] % batch, axis=0)
    padded = tf.concat([tensor, padding], axis=0)
    chunks = tf.reshape(padded, tf.concat([[-1, batch], tf.shape(padded)[1:]], axis=0))
    chunks.set_shape([None, batch, *tensor.shape[1:]])
    return chunks


def _make_dummy(spec: tf.TensorSpec) -> tf.Tensor:
    if spec.shape.rank is None:
        shape: list[int | None] = [None] if spec.dtype == tf.string else [None, None, None, 3]
    else:
        shape = spec.shape.as_list()
    side = _DUMMY_SIDE if len(shape) == 4 else _DUMMY_LENGTH
    sizes = [size or (2 if axis == 0 else side) for axis, size in enumerate(shape)]
    if len(shape) == 4 and shape[3] is None:
        sizes[3] = 3
    if spec.dtype == tf.string:
        return tf.fill(sizes, "a")
    return tf.zeros(sizes, spec.dtype)
