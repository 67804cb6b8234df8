"""SavedModels and TF-Hub modules as pretrained models.

One idea: a graph cannot be cut at a layer, so what it returns are the features, and which of its
outputs they are is decided here, by name and shape, and said.

Reference: TensorFlow Hub, "Common Signatures for Images",
https://www.tensorflow.org/hub/common_signatures/images (0 to 1, feature_vector), and "Common
SavedModel APIs for Text Tasks", https://www.tensorflow.org/hub/common_saved_model_apis/text
(pooled_output, input_word_ids, preprocessors).
"""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import backbone, cut_rules, pixel_range
from tf_finetune.models.origins import hub_handles
from tf_finetune.models.saved import (
    module_endpoints,
    restored_module,
    saved_model_files,
    saved_model_layer,
    weight_groups,
)
from tf_finetune.models.stored import stored_config

describe_signatures = saved_model_files.describe_signatures

LAYER = "module"
PREPROCESSOR = "preprocessor"
# Names that modules give to one vector per example, the best first.
_FEATURE_NAMES = ("pooled_output", "feature_vector", "default", "features", "embeddings", "logits")
_IMAGE_RANK = 4
_Input = tuple[str, str, tuple[int | None, ...] | None]
_RUN_ERRORS = (tf.errors.OpError, TypeError, ValueError)
_NEEDS_TEXT = "Its graph runs operations of TensorFlow Text: what loads the export needs them too."


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
    if any(not shape for _, _, shape in inputs):
        model: keras.Model = ModuleModel(layer, name="saved_model")
    else:
        tensors = layer.pack_inputs(
            [_make_input(name, dtype, shape or ()) for name, dtype, shape in inputs]
        )
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
    signature, wanted = _read_cut(spec.cut_layer)
    module = restored_module.load_module(
        path, signature=signature, preferred=module_endpoints.FEATURE_SIGNATURES
    )
    output = _choose_output(module, wanted)
    layer = _make_layer(module, name=LAYER, output=output)
    notes = _make_notes(module, layer)
    if precision != "float32":
        notes += (
            f"--precision={precision} does not reach inside a restored graph, which computes in "
            "its own precision.",
        )
    if spec.preprocessor is not None:
        kind = backbone.TEXT
        model, more = _attach_preprocessor(layer, spec.preprocessor)
        notes += more
    else:
        guessed = _guess_input_kind(layer)
        if guessed is None:
            raise _refuse_inputs(path, layer)
        kind, model = guessed, _make_single(layer, guessed)
    shape = tuple(model.output.shape)
    chosen = None
    if kind == backbone.IMAGE:
        chosen = _find_pixel_range(module, model, requested=spec.pixel_range)
    return backbone.Backbone(
        model=model,
        input_shape=() if kind == backbone.TEXT else tuple(model.input.shape[1:]),
        pooling=_settle_pooling(output, shape, spec.pooling),
        pixel_range=chosen,
        table=weight_groups.make_table(layer.weight_groups),
        dropped=(),
        cut_reason=_explain_output(module, output),
        source=module.stored.source,
        sha256=None,
        requested_pixel_range=spec.pixel_range,
        outputs=tuple(
            (name, () if spec.shape.rank is None else tuple(spec.shape.as_list()))
            for name, spec in module_endpoints.name_leaves(module.endpoint.outputs)
        ),
        input_kind=kind,
        notes=notes,
    )


def _read_cut(cut_layer: str | None) -> tuple[str | None, str | None]:
    if cut_layer is None:
        return None, None
    signature, _, output = cut_layer.rpartition(":")
    return signature or None, output


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
    specs_in = keras.tree.flatten(module.endpoint.inputs)
    return any(spec.shape.rank is None for spec in specs_in)


def _make_input(name: str, dtype: str, shape: tuple[int | None, ...]) -> keras.KerasTensor:
    return keras.Input(batch_shape=shape, dtype=dtype, name=name.replace("/", "_"))


def _choose_output(module: restored_module.RestoredModule, wanted: str | None) -> str:
    named = module_endpoints.name_leaves(module.endpoint.outputs)
    floats = {name: spec for name, spec in named if spec.dtype.is_floating}
    names = tuple(floats)
    if wanted is not None:
        if wanted not in floats:
            raise findings.RefusedError(
                layer_table.unknown_layer(wanted, names, unit="outputs", flag="--cut_layer")
            )
        return wanted
    if not floats:
        received = ", ".join(f"{findings.one_line(n)} {s.dtype.name}" for n, s in named) or "none"
        raise stored_config.refused(
            module.stored.path,
            f"has no output of floats, which features are. It returns {received}.",
        )
    for name in _FEATURE_NAMES:
        if name in floats:
            return name
    vectors = [name for name, spec in floats.items() if spec.shape.rank in (2, None)]
    return (vectors or list(names))[0]


def _explain_output(module: restored_module.RestoredModule, output: str) -> str:
    called = module.endpoint.signature
    by = "__call__" if called is None else f"the signature '{findings.one_line(called)}'"
    named = module_endpoints.name_leaves(module.endpoint.outputs)
    others = [name for name, spec in named if name != output and spec.dtype.is_floating]
    text = f"A graph is not cut: the features are the output of {by}"
    if not others:
        return f"{text}."
    return (
        f"{text} named '{findings.one_line(output)}'. --cut_layer can name another: "
        f"{findings.list_first(others)}."
    )


def _guess_input_kind(layer: saved_model_layer.SavedModelLayer) -> str | None:
    inputs = _read_inputs(layer)
    if len(inputs) == 1:
        ((_, dtype, shape),) = inputs
        if dtype == "string" and (shape is None or shape[1:] in ((), (1,))):
            return backbone.TEXT
        if dtype != "string" and (shape is None or _is_image(shape)):
            return backbone.IMAGE
    return None


def _read_inputs(layer: saved_model_layer.SavedModelLayer) -> list[_Input]:
    return [(name, *saved_model_layer.read_spec(text)) for name, text in layer.list_inputs()]


def _refuse_inputs(path: str, layer: saved_model_layer.SavedModelLayer) -> findings.RefusedError:
    inputs = _read_inputs(layer)
    shown = ", ".join(f"{findings.one_line(name)} {_show(d, shape)}" for name, d, shape in inputs)
    flag = ""
    hint = "Expected one image, float [batch, height, width, channels], or one string [batch]."
    if all(dtype in ("int32", "int64") for _, dtype, _ in inputs):
        flag = "--preprocessor"
        hint = (
            "It takes tokens: name the SavedModel that makes them of strings with --preprocessor."
        )
    message = f"{findings.one_line(path)}: its inputs are {shown}. {hint}"
    return findings.RefusedError(findings.Problem(message, path=path, flag=flag))


def _is_image(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == _IMAGE_RANK and shape[3] in (None, 1, 3)


def _show(dtype: str, shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return f"{dtype} of any shape"
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"


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
    if _guess_input_kind(layer) != backbone.TEXT:
        raise _refuse_preprocessor(
            path, "expected one input, string [batch]. Choose the preprocessor made for --model."
        )
    strings = _make_single(layer, backbone.TEXT)
    made = dict(module_endpoints.name_leaves(strings.output))
    wanted = encoder.list_inputs()
    if len(wanted) == 1 and len(made) == 1:
        tensors = list(made.values())
    else:
        missing = [name for name, _ in wanted if name not in made]
        if missing:
            raise _refuse_preprocessor(
                path,
                f"it returns {findings.list_first(list(made))}. The model of --model takes also "
                f"{findings.list_first(missing)}: choose the preprocessor made for it.",
            )
        tensors = [made[name] for name, _ in wanted]
    for (name, text), tensor in zip(wanted, tensors, strict=True):
        _, shape = saved_model_layer.read_spec(text)
        if shape is not None and not tf.TensorShape(tensor.shape).is_compatible_with(shape):
            raise _refuse_preprocessor(
                path,
                f"it returns '{findings.one_line(name)}' of the shape {tuple(tensor.shape)}. The "
                f"model of --model takes {shape}: choose the preprocessor made for it.",
            )
    features = encoder(encoder.pack_inputs(tensors))
    model = keras.Model(strings.input, features, name="saved_model")
    notes = tuple(note for note in _make_notes(module, layer) if note == _NEEDS_TEXT)
    return model, (f"Preprocessor: {module.stored.source}, not trained.", *notes)


def _refuse_preprocessor(path: str, message: str) -> findings.RefusedError:
    text = f"--preprocessor={findings.one_line(path)}: {message}"
    return findings.RefusedError(findings.Problem(text, path=path, flag="--preprocessor"))


def _settle_pooling(output: str, shape: tuple[int | None, ...], requested: str) -> str:
    if len(shape) == 3 and requested in ("auto", "avg", "max"):
        return "avg" if requested == "auto" else requested
    return cut_rules.cut_behind(output, _Features(shape), pooling=requested).pooling


def _find_pixel_range(
    module: restored_module.RestoredModule, model: keras.Model, *, requested: str
) -> pixel_range.PixelRange:
    if requested != "auto":
        pixel_range.check_channels(requested, model.input.shape[-1])
        return pixel_range.PixelRange(requested, "as --pixel_range says")
    (spec,) = keras.tree.flatten(module.endpoint.inputs)
    if spec.dtype.is_integer:
        return pixel_range.PixelRange("0..255", f"its input is {spec.dtype.name}")
    if module.stored.kind in ("hub1", "hub2"):
        return pixel_range.PixelRange("0..1", "TF-Hub image modules take 0 to 1")
    reason = (
        f"a {module.stored.source} does not tell its range: 0..1 is the most common range; set "
        "--pixel_range if you know better"
    )
    return pixel_range.PixelRange("0..1", reason, warning=True)


def _make_notes(
    module: restored_module.RestoredModule, layer: saved_model_layer.SavedModelLayer
) -> tuple[str, ...]:
    norms = any(weight_groups.is_batch_norm(group.stored) for group in layer.weight_groups)
    held = "its BatchNormalization keeps its statistics and its dropout is off"
    if not norms:
        held = "its dropout is off"
    notes = []
    if module.endpoint.has_training:
        notes.append(
            f"The module runs in inference mode also while it trains (--batch_norm=frozen): {held}."
            " --batch_norm=train with --freeze=none runs it in training mode."
        )
    elif module.endpoint.signature is not None:
        called = findings.one_line(module.endpoint.signature)
        notes.append(f"Called through its signature '{called}', which has no training mode.")
    if module.stored.needs_text:
        notes.append(_NEEDS_TEXT)
    if module.fixed_by_strategy:
        notes.append(
            "Variables of TensorFlow 1 train on one device only: under this strategy they stay as "
            "they are. --strategy=one_device trains them."
        )
    elif layer.weights and not layer.trainable_weights:
        notes.append("None of its variables can be trained: its features stay as they are.")
    return tuple(notes)


@dataclasses.dataclass(frozen=True)
class _Features:
    # What `cut_rules` asks of a tensor.
    shape: tuple[int | None, ...]
