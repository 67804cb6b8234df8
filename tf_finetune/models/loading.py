"""A pretrained model of any kind becomes a Backbone.

One idea: the bytes of a file tell its format, a table tells the loader, and whatever was loaded
is flattened and cut in the same way.
"""

import dataclasses
import typing

import keras

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import applications, formats, hdf5, keras_file, pixel_range, surgery
from tf_finetune.models import backbone as results

Backbone = results.Backbone

# Format -> what loads a whole Keras model of it, which is then cut.
_MODEL_LOADERS: dict[str, typing.Callable[[str, specs.ModelSpec], results.LoadedModel]] = {
    formats.HDF5: hdf5.load_model,
    formats.KERAS: keras_file.load_model,
    formats.APPLICATION: applications.load_model,
}
# Format -> what makes a backbone of a model that has no Keras layers to cut.
_BACKBONE_LOADERS: dict[str, typing.Callable[[str, specs.ModelSpec, str], results.Backbone]] = {}


def load_pretrained(path: str, *, trust_model: bool = False) -> keras.Model:
    """Loads a whole saved model, old classifier included, without running code from the file.

    Args:
      path: a value of --model; of a file its bytes count, not its name.
      trust_model: runs the Python code that a model carries.

    Returns:
      The model, uncompiled.

    Raises:
      findings.RefusedError: the path does not exist, is a folder, a text file, of another format,
        truncated or damaged; the file holds weights only, a Lambda or a custom layer; Keras does
        not open it.
    """
    spec = specs.ModelSpec(model=path, trust_model=trust_model)
    return _MODEL_LOADERS[formats.detect_format(path)](path, spec).model


def load_backbone(spec: specs.ModelSpec, *, precision: str = "float32") -> Backbone:
    """Loads a pretrained model and cuts off its old classifier.

    Args:
      spec: which model, where to cut, how it pools, which pixels it expects.
      precision: "float32", "bfloat16" or "float16": what its layers compute in; their variables
        stay float32.

    Returns:
      The backbone.

    Raises:
      findings.RefusedError: as for `load_pretrained`, `applications.load_model` and
        `surgery.cut_model`; or --pixel_range needs three channels and the model has one.
    """
    kind = formats.detect_format(spec.model)
    if kind in _BACKBONE_LOADERS:
        return _BACKBONE_LOADERS[kind](spec.model, spec, precision)
    return _cut(_MODEL_LOADERS[kind](spec.model, spec), spec, precision=precision)


def _cut(loaded: results.LoadedModel, spec: specs.ModelSpec, *, precision: str) -> Backbone:
    try:
        cut = surgery.cut_model(
            loaded.model, cut_layer=spec.cut_layer, pooling=spec.pooling, precision=precision
        )
    except findings.RefusedError as error:
        raise _led_by_path(error, spec.model) from error
    height, width, channels = cut.model.inputs[0].shape[1:]
    return Backbone(
        model=cut.model,
        input_shape=(height, width, channels),
        pooling=cut.pooling,
        pixel_range=pixel_range.find_pixel_range(
            cut.model, requested=spec.pixel_range, application=loaded.application
        ),
        table=layer_table.table_from_model(cut.model),
        dropped=cut.dropped,
        cut_reason=cut.reason,
        source=loaded.source,
        sha256=loaded.sha256,
        requested_pixel_range=spec.pixel_range,
        outputs=cut.outputs,
        notes=loaded.notes,
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
