"""A pretrained model of any kind becomes a Backbone.

One idea: the bytes of a file tell its format, a table tells the loader, and whatever was loaded
is flattened and cut in the same way. Nothing is opened that was not examined (`hub_handles.fetch`).
"""

import contextlib
import dataclasses
import typing
import warnings
from collections.abc import Iterator

import keras
import tensorflow as tf

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import (
    admission,
    applications,
    architectures,
    formats,
    hdf5,
    keras_file,
    pixel_range,
    surgery,
)
from tf_finetune.models import backbone as results
from tf_finetune.models import custom_objects as objects
from tf_finetune.models.encoders import hugging_face, keras_hub_presets, token_inputs
from tf_finetune.models.origins import hub_handles
from tf_finetune.models.saved import saved_model
from tf_finetune.models.stored import stored_config

Backbone = results.Backbone

# Format -> what loads a whole Keras model of it, which is then cut.
_MODEL_LOADERS: dict[str, typing.Callable[[str, specs.ModelSpec], results.LoadedModel]] = {
    formats.HDF5: hdf5.load_model,
    formats.KERAS: keras_file.load_model,
    formats.APPLICATION: applications.load_model,
    formats.ARCHITECTURE: architectures.load_model,
    formats.SAVED_MODEL: saved_model.load_model,
}
# Format -> what makes a backbone of a model that has no Keras layers to cut.
_BACKBONE_LOADERS: dict[str, typing.Callable[[str, specs.ModelSpec, str], results.Backbone]] = {
    formats.SAVED_MODEL: saved_model.load_backbone,
    formats.HUGGING_FACE: hugging_face.load_backbone,
    formats.KERAS_HUB: keras_hub_presets.load_backbone,
}


def load_pretrained(
    path: str,
    *,
    weights: str | None = None,
    custom_objects: str | None = None,
    trust_model: bool = False,
) -> keras.Model:
    """Loads a whole saved model, old classifier included, without running code from the file.

    Args:
      path: a value of --model; of a file its bytes count, not its name.
      weights: a weights-only .h5 for a path that is an architecture.
      custom_objects: module that registers the model's custom layers; it is imported.
      trust_model: runs the Python code that a model carries.

    Returns:
      The model, uncompiled.

    Raises:
      trust.UntrustedModelError: it could run code or reach outside itself, is truncated, damaged
        or no whole model; it has a custom layer.
      findings.RefusedError: the path does not exist, is a folder, a text file, of another format;
        Keras does not open it.
    """
    spec = specs.ModelSpec(
        model=path, weights=weights, custom_objects=custom_objects, trust_model=trust_model
    )
    with _examined(spec) as local:
        kind = formats.detect_format(local.path)
        _check_weights_flag(spec, kind)
        for finding in local.found or ():
            if finding.severity == findings.WARNING:
                warnings.warn(f"{findings.one_line(path)}: {finding.message}", stacklevel=2)
        with objects.offered(custom_objects), _named_by_user(local.path, spec):
            if kind in _MODEL_LOADERS:
                return _MODEL_LOADERS[kind](local.path, spec).model
            # A text encoder ends with its features: the backbone is the whole model.
            return _BACKBONE_LOADERS[kind](local.path, spec, "float32").model


def load_backbone(
    spec: specs.ModelSpec, *, precision: str = "float32", data: specs.DataSpec | None = None
) -> Backbone:
    """Loads a pretrained model and cuts off its old classifier.

    Args:
      spec: which model, where to cut, how it pools, which pixels it expects.
      precision: "float32", "bfloat16" or "float16": what its layers compute in; their variables
        stay float32.
      data: vocabulary, sequence_length and token_padding, for models of texts; default:
        none is given.

    Returns:
      The backbone.

    Raises:
      trust.UntrustedModelError: as for `load_pretrained`.
      findings.RefusedError: as for `load_pretrained`, `applications.load_model`,
        `token_inputs.put_tokenizer` and `surgery.cut_model`; or --pixel_range needs three
        channels and the model has one.
    """
    data = data or specs.DataSpec()
    with _examined(spec) as local:
        kind = formats.detect_format(local.path)
        _check_weights_flag(spec, kind)
        if spec.preprocessor:
            formats.check_preprocessor(spec.preprocessor, model=spec.model)
        with objects.offered(spec.custom_objects), _named_by_user(local.path, spec):
            if kind in _BACKBONE_LOADERS:
                loaded = _BACKBONE_LOADERS[kind](local.path, spec, precision)
                notes = token_inputs.limit_length(loaded.model, data)
                loaded = dataclasses.replace(loaded, notes=(*loaded.notes, *notes))
            else:
                model = _MODEL_LOADERS[kind](local.path, spec)
                model = token_inputs.put_tokenizer(model, data)
                loaded = _cut(model, spec, precision=precision, data=data)
    found = loaded.found if local.found is None else local.found
    return dataclasses.replace(loaded, sha256=local.sha256 or loaded.sha256, found=found)


def load_architecture(spec: specs.ModelSpec) -> results.LoadedModel:
    """Builds the architecture of a .json file without weights, to describe it.

    Args:
      spec: which model; without weights.

    Returns:
      The model, its weights fresh.

    Raises:
      trust.UntrustedModelError: as for `load_pretrained`.
      findings.RefusedError: as for `architectures.load_without_weights`.
    """
    with _examined(spec) as local, objects.offered(spec.custom_objects):
        return architectures.load_without_weights(local.path, spec)


@contextlib.contextmanager
def _examined(spec: specs.ModelSpec) -> Iterator[hub_handles.LocalModel]:
    # The user's own code is imported only for a file that may be opened. In Python, classes may
    # have been registered without a flag.
    with (
        admission.unchanged(admission.locate(spec.model)[0], spec.weights, spec.preprocessor),
        refusing_what_does_not_run(spec.model),
    ):
        yield hub_handles.fetch(
            spec.model,
            sha256=spec.model_sha256,
            trust_model=spec.trust_model,
            custom_objects=objects.offered_names(spec.custom_objects),
            meanwhile=_start_tensorflow,
        )


def _start_tensorflow() -> None:
    # Its first operations take their time whenever they come.
    keras.random.uniform((2, 2), seed=0)


@contextlib.contextmanager
def refusing_what_does_not_run(model: str) -> Iterator[None]:
    """The last net: what the examination let through, and this computer cannot hold or run.

    Args:
      model: a value of --model.

    Yields:
      None.

    Raises:
      findings.RefusedError: the block ran out of memory, or TensorFlow does not run the model.
    """
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        reason = "building it needs more memory than there is. Expected a model that fits"
        raise stored_config.refused(model, f"{reason} this computer.") from error
    except (AssertionError, tf.errors.OpError) as error:
        reason = stored_config.one_reason(ValueError(str(error)))
        raise stored_config.refused(model, f"does not run on this computer: {reason}") from error


@contextlib.contextmanager
def _named_by_user(path: str, spec: specs.ModelSpec) -> Iterator[None]:
    # Of a download or archive, the user knows the handle, not the folder in the cache. A module
    # that was named need not be asked for.
    model, module = spec.model, findings.one_line(spec.custom_objects or "")
    try:
        yield
    except findings.RefusedError as error:
        if path == model and not module:
            raise
        there, here = findings.one_line(path), findings.one_line(model)
        named = f"The module of --custom_objects={module} does not define it."
        problems = []
        for problem in error.problems:
            text = problem.message
            if module:
                text = text.replace(stored_config.NAME_THE_MODULE, named)
            if path != model:
                problem = dataclasses.replace(problem, path=model)
                text = text.replace(there, here)
            problems.append(dataclasses.replace(problem, message=text))
        raise findings.RefusedError(*problems) from error


def _check_weights_flag(spec: specs.ModelSpec, kind: str) -> None:
    if spec.weights and kind not in (formats.APPLICATION, formats.ARCHITECTURE):
        shown = findings.one_line(spec.model)
        message = (
            f"--weights needs an architecture: --model=keras:NAME, or a .json file of "
            f"model.to_json(). Received --model={shown}, which has weights of its own."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--weights"))


def _cut(
    loaded: results.LoadedModel, spec: specs.ModelSpec, *, precision: str, data: specs.DataSpec
) -> Backbone:
    try:
        cut = surgery.cut_model(
            loaded.model, cut_layer=spec.cut_layer, pooling=spec.pooling, precision=precision
        )
    except findings.RefusedError as error:
        raise _led_by_path(error, spec.model) from error
    pixels, is_image = None, cut.input_kind == results.IMAGE
    if is_image:
        pixels = pixel_range.find_pixel_range(
            cut.model,
            requested=spec.pixel_range,
            application=loaded.application,
            dropped=cut.dropped,
        )
    return Backbone(
        model=cut.model,
        input_shape=tuple(cut.model.inputs[0].shape[1:]) if is_image else (),
        pooling=cut.pooling,
        pixel_range=pixels,
        table=(_count_own if data.vocabulary else layer_table.table_from_model)(cut.model),
        dropped=cut.dropped,
        cut_reason=cut.reason,
        source=loaded.source,
        sha256=loaded.sha256,
        requested_pixel_range=spec.pixel_range,
        outputs=cut.outputs,
        input_kind=cut.input_kind,
        notes=loaded.notes,
    )


def _count_own(model: keras.Model) -> layer_table.LayerTable:
    # A tokenizer that we put in front is no layer of the user's model.
    rows = [
        row
        for row in layer_table.table_from_model(model).rows
        if row.name not in token_inputs.LAYERS
    ]
    return layer_table.LayerTable(
        tuple(dataclasses.replace(row, number=number) for number, row in enumerate(rows, start=1))
    )


def _led_by_path(error: findings.RefusedError, where: str) -> findings.RefusedError:
    # A wrong flag is said as such; what is wrong with the model is said of its file.
    problems = [
        problem
        if problem.flag
        else dataclasses.replace(
            problem, message=f"{findings.one_line(where)}: {problem.message}", path=where
        )
        for problem in error.problems
    ]
    return findings.RefusedError(*problems)
