"""What the loaders of pretrained models return.

One idea: every kind of file ends as one of two values. A `LoadedModel` is a whole Keras model, cut
later; a `Backbone` is what new heads are attached to.
"""

import dataclasses
import typing

import keras

from tf_finetune import findings, layer_table

if typing.TYPE_CHECKING:
    from tf_finetune.models import pixel_range

IMAGE, TEXT, COLUMNS = "image", "text", "columns"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A whole pretrained model, old classifier included.

    Attributes:
      model: uncompiled.
      source: format and writer, for example "HDF5 of Keras 2.4.0".
      application: module of keras.applications that made it, for example "mobilenet_v2", where
        its loader knows.
      sha256: of the file; None where there is no single file.
      notes: lines for the user: what was translated, matched by order, or left out.
    """

    model: keras.Model
    source: str
    application: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained model without its old classifier, ready for new heads.

    Attributes:
      model: functional model of one output, the features before pooling, [batch, h, w, c] or
        [batch, c]. Images: one input, float32 [batch, height, width, channels] in `pixel_range`,
        and behind it inputs for columns where it has such. Text: string [batch]. Columns: inputs
        [batch], [batch, 1] or [batch, columns], see `inputs`.
      input_shape: (height, width, channels) in pixels; None inside: any size. () for text and
        columns.
      pooling: how the features become a vector: "avg", "max", "flatten", or "none" where they
        are one already.
      pixel_range: what the model expects; None: only a sample of the data can tell (see
        `pixel_range.settle`), or it takes no pixels.
      table: what --freeze counts: layers, or weight groups of a SavedModel.
      dropped: names of the layers that were cut off.
      cut_reason: a sentence that says where it was cut and why.
      source: format and writer, for example "HDF5 of Keras 3.15.1".
      sha256: of the file; None for an application without one.
      requested_pixel_range: value of --pixel_range.
      outputs: (layer name, shape) of each output of the whole model; shape None: any rank.
      input_kind: "image", "text" or "columns".
      notes: lines for the user, see `LoadedModel`.
      found: what the examination of its files found, see `trust.examine`; None: it has none.
    """

    model: keras.Model
    input_shape: tuple[int | None, ...]
    pooling: str
    pixel_range: "pixel_range.PixelRange | None"
    table: layer_table.LayerTable
    dropped: tuple[str, ...]
    cut_reason: str
    source: str
    sha256: str | None
    requested_pixel_range: str = "auto"
    outputs: tuple[tuple[str, tuple[int | None, ...] | None], ...] = ()
    input_kind: str = IMAGE
    notes: tuple[str, ...] = ()
    found: tuple[findings.Finding, ...] | None = None

    @property
    def inputs(self) -> tuple[tuple[str, tuple[int | None, ...], str], ...]:
        """(name, shape without the batch, dtype) of each input of the model."""
        return tuple(
            (tensor._keras_history.operation.name, tuple(tensor.shape[1:]), tensor.dtype)
            for tensor in self.model.inputs
        )
