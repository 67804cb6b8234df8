"""A pretrained model of any kind becomes a Backbone.

One idea: the bytes of a file tell its format, a table tells the loader, and whatever was loaded
is flattened and cut in the same way.
"""

import dataclasses
import hashlib
import typing

import keras

from tf_finetune import findings, layer_table, specs
from tf_finetune.models import applications, formats, hdf5, keras_file, pixel_range, surgery

# Format -> its loader. A further kind of file is a row here and a line in _detect_format.
_LOADERS: dict[str, typing.Callable[[str], tuple[keras.Model, str]]] = {
    "hdf5": hdf5.load_model,
    "keras": keras_file.load_model,
}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained model without its old classifier, ready for new heads.

    Attributes:
      model: flat functional model; one input, float32 [batch, height, width, channels] in
        `pixel_range`; one output, the features before pooling, [batch, h, w, c] or [batch, c].
      input_shape: (height, width, channels) in pixels; None: any size.
      pooling: how the features become a vector: "avg", "max", "flatten", or "none" where they
        are one already.
      pixel_range: what the model expects; None: only a sample of the data can tell (see
        `pixel_range.settle`).
      table: its numbered layers.
      dropped: names of the layers that were cut off.
      cut_reason: a sentence that says where it was cut and why.
      source: format and writer, for example "HDF5 of Keras 3.15.1".
      sha256: of the file; None for an application without one.
      requested_pixel_range: value of --pixel_range.
      outputs: (layer name, shape) of each output of the whole model.
    """

    model: keras.Model
    input_shape: tuple[int | None, int | None, int]
    pooling: str
    pixel_range: pixel_range.PixelRange | None
    table: layer_table.LayerTable
    dropped: tuple[str, ...]
    cut_reason: str
    source: str
    sha256: str | None
    requested_pixel_range: str = "auto"
    outputs: tuple[tuple[str, tuple[int | None, ...]], ...] = ()


def load_pretrained(path: str) -> keras.Model:
    """Loads a whole saved model, old classifier included, without running code from the file.

    Args:
      path: a .h5, .hdf5 or .keras file; its bytes count, not its name.

    Returns:
      The model, uncompiled.

    Raises:
      findings.RefusedError: the path does not exist, is a folder, a text file, of another format,
        truncated or damaged; the file holds weights only, a Lambda or a custom layer; Keras does
        not open it.
    """
    return _LOADERS[formats.detect_format(path)](path)[0]


def load_backbone(spec: specs.ModelSpec, *, precision: str = "float32") -> Backbone:
    """Loads a pretrained model and cuts off its old classifier.

    Args:
      spec: which model, where to cut, how it pools, which pixels it expects.
      precision: "float32", "bfloat16" or "float16": what its layers compute in; their variables
        stay float32.

    Returns:
      The backbone.

    Raises:
      findings.RefusedError: as for `load_pretrained`, `applications.load_application` and
        `surgery.cut_model`; or --pixel_range needs three channels and the model has one.
    """
    known = None
    if applications.is_application(spec.model):
        model, source, known = applications.load_application(spec.model)
        weights = applications.weights_path(spec.model)
        digest = file_sha256(weights) if weights else None
    else:
        model, source = _LOADERS[formats.detect_format(spec.model)](spec.model)
        digest = file_sha256(spec.model)
    try:
        cut = surgery.cut_model(
            model, cut_layer=spec.cut_layer, pooling=spec.pooling, precision=precision
        )
    except findings.RefusedError as error:
        raise _led_by_path(error, spec.model) from error
    height, width, channels = cut.model.inputs[0].shape[1:]
    return Backbone(
        model=cut.model,
        input_shape=(height, width, channels),
        pooling=cut.pooling,
        pixel_range=pixel_range.find_pixel_range(
            cut.model, requested=spec.pixel_range, application=known
        ),
        table=layer_table.table_from_model(cut.model),
        dropped=cut.dropped,
        cut_reason=cut.reason,
        source=source,
        sha256=digest,
        requested_pixel_range=spec.pixel_range,
        outputs=cut.outputs,
    )


def file_sha256(path: str) -> str:
    """The SHA-256 of a file.

    Args:
      path: an existing file.

    Returns:
      64 hex digits.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
