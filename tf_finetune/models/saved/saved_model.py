"""SavedModels and TF-Hub modules as pretrained models.

One idea: a graph cannot be cut at a layer, so what it returns are the features; which of its
outputs they are `module_rules` decides, by name and shape.
"""

from typing import Any

import keras
import tensorflow as tf

from tf_finetune import specs
from tf_finetune.models import backbone
from tf_finetune.models.origins import hub_handles
from tf_finetune.models.saved import (
    module_rules,
    output_rules,
    restored_module,
    saved_model_files,
    saved_model_layer,
    tensor_specs,
    weight_groups,
)
from tf_finetune.models.stored import stored_config

describe_signatures = saved_model_files.describe_signatures

LAYER = "module"
PREPROCESSOR = "preprocessor"
_RUN_ERRORS = (tf.errors.OpError, TypeError, ValueError)


@keras.saving.register_keras_serializable(package="tf_finetune")
class ModuleModel(keras.Model):
    """A module that takes tensors of any rank, which a functional model cannot say.

    Args:
      layer: the module.
      **kwargs: of `keras.Model`.
    """

    def __init__(self, layer: saved_model_layer.SavedModelLayer, **kwargs: Any):
        super().__init__(**kwargs)
        self.module_layer = layer
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the module."""
        return self.module_layer(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """See `keras.Model`."""
        layer = keras.saving.serialize_keras_object(self.module_layer)
        return {"name": self.name, "layer": layer}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ModuleModel":
        """See `keras.Model`."""
        del custom_objects
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(layer, name=config["name"])


def load_model(path: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Loads a whole SavedModel.

    Args:
      path: its folder.
      spec: the options of the model.

    Returns:
      A model of one `SavedModelLayer` that takes and returns what the module does: a tensor, or a
      dict or list of tensors.

    Raises:
      findings.RefusedError: as for `restored_module.load_module`; it does not run.
    """
    del spec
    module = restored_module.load_module(path)
    layer = _make_layer(module, name=LAYER, complete=not _has_free_rank(module))
    inputs = _read_inputs(layer)
    if any(not spec.shape for _, spec in inputs):
        model: keras.Model = ModuleModel(layer, name="saved_model")
    else:
        tensors = layer.pack_inputs([_make_input(name, spec) for name, spec in inputs])
        model = keras.Model(tensors, layer(tensors), name="saved_model")
    return backbone.LoadedModel(model, module.stored.source, notes=_make_notes(module, layer))


def load_backbone(path: str, spec: specs.ModelSpec, precision: str) -> backbone.Backbone:
    """Loads a SavedModel as features for new heads.

    Args:
      path: its folder.
      spec: `cut_layer` names an output, or SIGNATURE:OUTPUT; `preprocessor` turns strings into
        the tokens that a text encoder takes; pooling and pixel range.
      precision: what layers compute in; a restored graph keeps its own.

    Returns:
      The backbone; its table numbers weight groups.

    Raises:
      findings.RefusedError: as for `load_model`; no output of floats, no such output; the inputs
        are neither an image nor a text, and no preprocessor makes them.
    """
    signature, wanted = module_rules.read_cut(spec.cut_layer)
    module = restored_module.load_module(
        path, signature=signature, preferred=module_rules.FEATURE_SIGNATURES
    )
    facts = module.facts
    output_rules.check_no_export(facts)
    guessed = None
    if spec.preprocessor is not None:
        module_rules.check_takes_tokens(facts)
    else:
        guessed = module_rules.need_input_kind(facts)
    output = output_rules.choose_output(facts, wanted)
    layer = _make_layer(module, name=LAYER, output=output)
    notes = (*_make_notes(module, layer), *output_rules.output_notes(facts, output))
    if precision != "float32":
        notes += (
            f"--precision={precision} does not reach inside a restored graph, which computes in "
            "its own precision.",
        )
    if guessed is not None:
        kind, model = guessed, _make_single(layer, guessed)
    else:
        kind = backbone.TEXT
        model, more = _attach_preprocessor(layer, spec.preprocessor or "")
        notes += more
    shape = tuple(model.output.shape)
    chosen = None
    if kind == backbone.IMAGE:
        chosen = module_rules.find_pixel_range(
            facts, model.input.shape[-1], requested=spec.pixel_range
        )
    return backbone.Backbone(
        model=model,
        input_shape=() if kind == backbone.TEXT else tuple(model.input.shape[1:]),
        pooling=output_rules.settle_pooling(output, shape, spec.pooling),
        pixel_range=chosen,
        table=weight_groups.make_table(layer.weight_groups),
        dropped=(),
        cut_reason=output_rules.explain_output(facts, output),
        source=facts.source,
        sha256=None,
        requested_pixel_range=spec.pixel_range,
        outputs=tuple((name, found.shape) for name, found in facts.outputs),
        input_kind=kind,
        notes=notes,
    )


def _make_layer(
    module: restored_module.RestoredModule,
    *,
    name: str,
    output: str | None = None,
    complete: bool = True,
) -> saved_model_layer.SavedModelLayer:
    try:
        return saved_model_layer.make_layer(module, name=name, output=output, complete=complete)
    except _RUN_ERRORS as error:
        raise stored_config.refused(
            module.stored.path,
            "its graph does not tell the shape of its outputs, and it does not run on zeros: "
            f"{restored_module.one_reason(error)}",
        ) from error


def _has_free_rank(module: restored_module.RestoredModule) -> bool:
    return any(spec.shape is None for _, spec in module.facts.inputs)


def _make_input(name: str, spec: tensor_specs.Spec) -> keras.KerasTensor:
    return keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=name.replace("/", "_"))


def _read_inputs(layer: saved_model_layer.SavedModelLayer) -> tensor_specs.NamedSpecs:
    # Their batch is free.
    return tuple(
        (name, tensor_specs.Spec(*saved_model_layer.read_spec(text)))
        for name, text in layer.list_inputs()
    )


def _make_single(layer: saved_model_layer.SavedModelLayer, kind: str) -> keras.Model:
    ((_, text),) = layer.list_inputs()
    _, shape = saved_model_layer.read_spec(text)
    if kind == backbone.TEXT:
        inputs = keras.Input((), dtype="string", name=backbone.TEXT)
        strings = inputs
        if shape is not None and len(shape) == 2:
            strings = keras.layers.Reshape((1,), dtype="string", name="column")(inputs)
        return keras.Model(inputs, layer(strings), name="saved_model")
    height, width, channels = (None, None, None) if shape is None else shape[1:]
    inputs = keras.Input((height, width, channels or 3), dtype="float32", name=backbone.IMAGE)
    return keras.Model(inputs, layer(inputs), name="saved_model")


def _attach_preprocessor(
    encoder: saved_model_layer.SavedModelLayer, path: str
) -> tuple[keras.Model, tuple[str, ...]]:
    module = restored_module.load_module(hub_handles.fetch(path).path)
    layer = _make_layer(module, name=PREPROCESSOR)
    layer.trainable = False
    module_rules.check_preprocessor(path, module.facts.inputs)
    strings = _make_single(layer, backbone.TEXT)
    made = dict(tensor_specs.name_leaves(strings.output))
    shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
    names = module_rules.match_preprocessor(path, shapes, _read_inputs(encoder))
    features = encoder(encoder.pack_inputs([made[name] for name in names]))
    model = keras.Model(strings.input, features, name="saved_model")
    return model, module_rules.preprocessor_notes(module.facts)


def _make_notes(
    module: restored_module.RestoredModule, layer: saved_model_layer.SavedModelLayer
) -> tuple[str, ...]:
    return module_rules.make_notes(
        module.facts,
        [variable for group in layer.weight_groups for variable in group.stored],
        fixed_by_strategy=module.fixed_by_strategy,
    )
