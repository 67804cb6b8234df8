"""A SavedModel as a Keras 3 layer that trains, saves and loads like any other.

One idea: Keras's variables are kept in the very tf.Variables that the restored graph reads, so
whatever Keras does to its weights (training, loading, counting) is done to the graph. A model.keras
with such a layer holds the graph and its assets as files of the layer, and the weights once, as
those of its weight groups.

Reference: TensorFlow Hub, "Reusable SavedModels",
https://www.tensorflow.org/hub/reusable_saved_models; Keras, "Customizing saving and serialization",
https://keras.io/guides/customizing_saving_and_serialization/ (save_assets, load_assets).
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.models.saved import (
    lookup_tables,
    restored_module,
    saved_model_files,
    tensor_specs,
    variable_groups,
    weight_groups,
)


@keras.saving.register_keras_serializable(package="tf_finetune")
class SavedModelLayer(keras.layers.Layer):
    """Calls a restored module.

    A module cannot hold single BatchNormalizations in inference mode, only all or none: it runs
    in training mode when asked to, if `batch_norm` is "train" and every group is trainable. Its
    own losses are added where they are.

    Args:
      signature: the signature that is called; None: `__call__`.
      inputs: nested dicts and lists of specs as text, see `write_spec`.
      outputs: likewise, of all outputs.
      output: name of the only output to return; None: all, in their structure.
      groups: `WeightGroup.describe` of each group.
      batch_norm: "frozen" or "train".
      module: the module; default: none yet, until `load_assets`.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        *,
        signature: str | None,
        inputs: Any,
        outputs: Any,
        groups: Sequence[dict[str, Any]],
        output: str | None = None,
        batch_norm: str = "frozen",
        module: restored_module.RestoredModule | None = None,
        **kwargs: Any,
    ):
        # The graph computes in its own precision.
        super().__init__(**{**kwargs, "dtype": "float32"}, autocast=False)
        self.supports_jit = False
        self.batch_norm = batch_norm
        self._form = _Form(signature, inputs, outputs, output)
        self._indices = tuple(tuple(described["indices"]) for described in groups)
        self._module = module
        self.weight_groups = [weight_groups.make_group(described) for described in groups]
        if module is not None:
            self._hold(module)
        self.built = True

    @property
    def module(self) -> restored_module.RestoredModule:
        """The restored module.

        Raises:
          RuntimeError: the layer was made from a configuration alone.
        """
        if self._module is None:
            raise RuntimeError(
                f"Layer '{self.name}' has no graph: it was made from a configuration. Expected a "
                "whole model.keras, opened with keras.saving.load_model."
            )
        return self._module

    @property
    def has_training_mode(self) -> bool:
        """Whether the module runs in training mode when asked to."""
        return (
            self.trainable
            and self.batch_norm == "train"
            and all(group.trainable for group in self.weight_groups)
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the module; see `RestoredModule.call`."""
        module = self.module
        outputs = module.call(inputs, training=bool(training) and self.has_training_mode)
        for loss in module.regularization_losses():
            self.add_loss(loss)
        outputs = keras.tree.map_structure(
            lambda leaf, text: tf.ensure_shape(leaf, read_spec(text)[1]),
            outputs,
            self._form.outputs,
        )
        return self._form.choose(outputs)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Shapes and dtypes of the outputs, from the configuration."""
        del inputs, training
        return self._form.choose(keras.tree.map_structure(_make_keras_tensor, self._form.outputs))

    def get_config(self) -> dict[str, Any]:
        """See `keras.layers.Layer`."""
        groups = [
            {**group.describe(), "indices": list(indices)}
            for group, indices in zip(self.weight_groups, self._indices, strict=True)
        ]
        own = {"groups": groups, "batch_norm": self.batch_norm}
        return {**super().get_config(), **dataclasses.asdict(self._form), **own}

    def save_assets(self, folder: str) -> None:
        """Writes the graph, its assets and tables, without the weights; Keras calls it."""
        saved_model_files.write_files(self.module.stored.files, folder)
        lookup_tables.write_tables(self.module.trackables(), folder)

    def load_assets(self, folder: str) -> None:
        """Reads what `save_assets` wrote; Keras calls it before it loads the weights."""
        module = restored_module.load_graph(folder, signature=self._form.signature)
        self._check_variables(module)
        lookup_tables.read_tables(module.trackables(), folder)
        self._hold(module)
        self._module = module

    def list_inputs(self) -> list[tuple[str, str]]:
        """The inputs.

        Returns:
          (name, spec as text) of each, see `read_spec`.
        """
        return tensor_specs.name_leaves(self._form.inputs, kind="input")

    def pack_inputs(self, tensors: Sequence[Any]) -> Any:
        """Brings tensors into the structure of the inputs.

        Args:
          tensors: in the order of `list_inputs`.

        Returns:
          Nested tensors; alone where it is one.
        """
        if len(tensors) == 1:
            return tensors[0]
        return keras.tree.pack_sequence_as(self._form.inputs, list(tensors))

    def match_variables(
        self, module: restored_module.RestoredModule
    ) -> list[tuple[keras.Variable, tf.Variable]]:
        """Pairs Keras's variables with those of a module of the same graph.

        Args:
          module: this layer's or a copy.

        Returns:
          A pair for each weight.
        """
        return [
            (member, module.variables[index][1])
            for group, indices in zip(self.weight_groups, self._indices, strict=True)
            for member, index in zip(group.members, indices, strict=True)
        ]

    @contextlib.contextmanager
    def calling(self, module: restored_module.RestoredModule) -> Iterator[None]:
        """Runs another copy of the module for a while.

        Args:
          module: from `copy_module`.
        """
        own, self._module = self._module, module
        try:
            yield
        finally:
            self._module = own

    def _hold(self, module: restored_module.RestoredModule) -> None:
        for group, indices in zip(self.weight_groups, self._indices, strict=True):
            group.hold([module.variables[index][1] for index in indices])

    def _check_variables(self, module: restored_module.RestoredModule) -> None:
        expected = {
            index: (stored.name, stored.shape)
            for group, indices in zip(self.weight_groups, self._indices, strict=True)
            for index, stored in zip(indices, group.stored, strict=True)
        }
        received = {
            index: (stored.name, stored.shape) for index, (stored, _) in enumerate(module.variables)
        }
        if expected != received:
            raise ValueError(
                f"Layer '{self.name}': the graph's variables are not those of its configuration. "
                "The file is damaged."
            )


@dataclasses.dataclass(frozen=True)
class ModuleCopy:
    """A second copy of a layer's module, with plain variables of the same values.

    Attributes:
      layer: the layer.
      module: the copy.
      variables: {id of the layer's Keras variable: the copy's tf.Variable}.
      trackables: what a graph that calls the copy needs when it is saved.
      folder: the copy's files, there until this is forgotten.
    """

    layer: SavedModelLayer
    module: restored_module.RestoredModule
    variables: dict[int, tf.Variable]
    trackables: tuple[Any, ...]
    folder: tempfile.TemporaryDirectory[str]


def make_layer(
    module: restored_module.RestoredModule,
    *,
    name: str,
    output: str | None = None,
    complete: bool = True,
) -> SavedModelLayer:
    """Makes a layer of a module.

    Args:
      module: the module; the layer trains its very variables.
      name: of the layer.
      output: name of the only output to return; None: all, in their structure.
      complete: find out shapes that the graph does not tell, by running it on zeros.

    Returns:
      The layer; `batch_norm` is "frozen".

    Raises:
      tf.errors.OpError, ValueError: it does not run on zeros.
    """
    stored = [description for description, _ in module.variables]
    groups = [
        {
            "name": group.name,
            "trainable": True,
            "variables": [dataclasses.asdict(stored[index]) for index in group.indices],
            "indices": list(group.indices),
        }
        for group in variable_groups.group_variables(stored)
    ]
    outputs = keras.tree.map_structure(_cast_spec, module.endpoint.outputs)
    if complete:
        outputs = _complete_outputs(module, outputs, output)
    return SavedModelLayer(
        signature=module.endpoint.signature,
        inputs=keras.tree.map_structure(write_spec, module.endpoint.inputs),
        outputs=keras.tree.map_structure(write_spec, outputs),
        output=output,
        groups=groups,
        module=module,
        name=name,
    )


def find_layers(model: keras.Model) -> list[SavedModelLayer]:
    """The layers of this kind in a model, nested ones too.

    Args:
      model: any model.

    Returns:
      The layers, each once.
    """
    return [layer for layer in model._flatten_layers() if isinstance(layer, SavedModelLayer)]


def copy_module(layer: SavedModelLayer) -> ModuleCopy:
    """Copies a layer's module, so that what is later done to the layer does not reach the copy.

    Args:
      layer: the layer; its variables may be mirrored by a strategy.

    Returns:
      The copy, its variables on the CPU.
    """
    folder = tempfile.TemporaryDirectory(prefix="saved_model_")
    saved_model_files.write_files(layer.module.stored.files, folder.name)
    with tf.device("CPU:0"):
        module = restored_module.load_graph(folder.name, signature=layer.module.endpoint.signature)
        lookup_tables.copy_tables(layer.module.trackables(), module.trackables())
    variables = {}
    for member, variable in layer.match_variables(module):
        variable.assign(keras.ops.convert_to_numpy(member))
        variables[id(member)] = variable
    return ModuleCopy(layer, module, variables, tuple(module.trackables()), folder)


def write_spec(spec: tf.TensorSpec) -> str:
    """A TensorSpec as text, for a configuration.

    Args:
      spec: any spec; its first axis is taken as the batch.

    Returns:
      For example "float32 ? 128 128 3", the batch free; "float32 *" of unknown rank.
    """
    if spec.shape.rank is None:
        return f"{spec.dtype.name} *"
    sizes = ["?" if size is None else str(size) for size in spec.shape.as_list()]
    return " ".join([spec.dtype.name, *(["?"] if sizes else []), *sizes[1:]])


def read_spec(text: str) -> tuple[str, tuple[int | None, ...] | None]:
    """Reads what `write_spec` wrote.

    Args:
      text: a spec as text.

    Returns:
      dtype and shape, None for an unknown rank.
    """
    dtype, *sizes = text.split(" ")
    if sizes == ["*"]:
        return dtype, None
    return dtype, tuple(None if size == "?" else int(size) for size in sizes)


@dataclasses.dataclass(frozen=True)
class _Form:
    # A plain object, whose dicts and lists TensorFlow does not wrap to track them.
    signature: str | None
    inputs: Any
    outputs: Any
    output: str | None

    def choose(self, outputs: Any) -> Any:
        if self.output is None:
            return outputs
        return dict(tensor_specs.name_leaves(outputs))[self.output]


def _make_keras_tensor(text: str) -> keras.KerasTensor:
    dtype, shape = read_spec(text)
    return keras.KerasTensor(shape, dtype)


def _complete_outputs(
    module: restored_module.RestoredModule, outputs: Any, wanted: str | None
) -> Any:
    named = tensor_specs.name_leaves(outputs)
    shapes = [spec.shape for name, spec in named if wanted in (None, name)]
    if all(shape.rank is not None and None not in shape[-1:] for shape in shapes if shape != []):
        return outputs
    found = keras.tree.flatten(restored_module.run_on_dummy(module))
    known = [
        _complete_spec(spec, tensor.shape) for (_, spec), tensor in zip(named, found, strict=True)
    ]
    return keras.tree.pack_sequence_as(outputs, known)


def _cast_spec(spec: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec(spec.shape, tf.float32 if spec.dtype.is_floating else spec.dtype)


def _complete_spec(spec: tf.TensorSpec, found: tf.TensorShape) -> tf.TensorSpec:
    # Sizes between batch and features may follow those of the input.
    sizes = [None] * found.rank if spec.shape.rank is None else spec.shape.as_list()
    if len(sizes) > 1 and sizes[-1] is None:
        sizes[-1] = found[-1]
    return tf.TensorSpec(sizes, spec.dtype)
