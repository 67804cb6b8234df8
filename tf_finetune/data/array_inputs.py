"""Which of the arrays that were handed over a model takes, and the store that they become."""

import dataclasses

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    array_columns,
    array_images,
    array_labels,
    columns,
    examples,
    image_stores,
    input_stores,
    text_store,
    text_tables,
)

Values = np.ndarray | image_stores.StreamImages


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a model takes.

    Attributes:
      kind: a kind of `input_stores`.
      names: of the arrays.
      found: of columns, those that the arrays become.
    """

    kind: str
    names: tuple[str, ...]
    found: columns.FeatureColumns | None = None


def choose(
    spec: specs.DataSpec, values: dict[str, Values], inputs: tuple[str, ...], *, flag: str
) -> Inputs:
    """Tells inputs from labels.

    Args:
      spec: the data options: `image_column`, `text_column`, `feature_columns`.
      values: {name: [n, ...]} of everything.
      inputs: the names that were handed over as inputs; (): the names tell.
      flag: name of the argument, for messages.

    Returns:
      The inputs.

    Raises:
      findings.RefusedError: two options that exclude each other, an array that does not exist,
        inputs of several kinds, or nothing tells.
    """
    asked = [
        (input_stores.IMAGE, spec.image_column),
        (input_stores.TEXT, spec.text_column),
        (input_stores.COLUMNS, spec.feature_columns),
    ]
    told = [(kind, column) for kind, column in asked if column is not None]
    if len(told) > 1:
        message = f"{flag}: image_column, text_column and feature_columns exclude each other."
        raise findings.RefusedError(findings.Problem(message, flag=f"--{flag}"))
    if not told:
        kind, own = _guess(values, inputs, flag=flag)
        if kind != input_stores.COLUMNS:
            return Inputs(kind, own)
    elif told[0][0] == input_stores.COLUMNS:
        own = ()
    else:
        ((kind, column),) = told
        _check_name(values, str(column), flag=flag)
        return Inputs(kind, (str(column),))
    arrays = {name: array for name, array in values.items() if isinstance(array, np.ndarray)}
    found = array_columns.find_columns(spec, arrays, own, flag=flag)
    names = tuple(
        name
        for name, array in arrays.items()
        if set(array_columns.name_columns(name, array)) & set(found.names)
    )
    return Inputs(input_stores.COLUMNS, names, found)


def _check_name(values: dict[str, Values], column: str, *, flag: str) -> None:
    if column not in values:
        message = (
            f"{flag} has no array '{findings.one_line(column)}'."
            f"{examples.nearest_name(column, list(values))} It has "
            f"{findings.list_first(list(values), limit=20)}."
        )
        raise findings.RefusedError(findings.Problem(message, flag=f"--{flag}"))


def _guess(
    values: dict[str, Values], inputs: tuple[str, ...], *, flag: str
) -> tuple[str, tuple[str, ...]]:
    """(kind, names of the arrays)."""
    own = inputs or tuple(values)
    texts = [name for name in text_tables.TEXT_COLUMNS if name in own]
    shown = findings.list_first(list(own), limit=20)
    message = (
        f"{flag} has {shown}. Say which of them the model takes: hand over (inputs, labels), name "
        "an array 'image' or 'text', or set image_column, text_column or feature_columns of the "
        "DataSpec."
    )
    images = [
        name for name in own if name == image_stores.INPUT or (inputs and _is_image(values[name]))
    ]
    if images and (len(own) == 1 or not inputs):
        return input_stores.IMAGE, (images[0],)
    if images:
        message = (
            f"{flag}: the inputs are {shown}. Images beside other inputs are not supported: hand "
            "over one."
        )
    elif texts and (len(own) == 1 or not inputs):
        return input_stores.TEXT, (texts[0],)
    elif inputs:
        return input_stores.COLUMNS, own
    raise findings.RefusedError(findings.Problem(message, flag=f"--{flag}"))


def _is_image(values: Values) -> bool:
    return isinstance(values, image_stores.StreamImages) or values.ndim >= 3


def make_store(
    values: dict[str, Values], inputs: Inputs, *, flag: str
) -> tuple[input_stores.InputStore, dict[int, str], list[str]]:
    """The inputs of all examples.

    Args:
      values: {name: [n, ...]} of everything.
      inputs: of `choose`.
      flag: name of the argument, for messages.

    Returns:
      (the store; {bad example: what is wrong}; warnings).

    Raises:
      findings.RefusedError: an array has a dtype, shape or range that cannot be used.
    """
    if inputs.found is not None:
        arrays = {name: np.asarray(values[name]) for name in inputs.names}
        store, bad = array_columns.make_columns(arrays, inputs.found, flag=flag)
        return store, bad, []
    (name,) = inputs.names
    array = values[name]
    try:
        if isinstance(array, image_stores.StreamImages):
            if inputs.kind != input_stores.IMAGE:
                raise array_labels.BadArrayError("expected texts. Received images.")
            return array, {}, []
        if inputs.kind == input_stores.TEXT:
            texts, rows = _read_texts(array)
            bad = dict.fromkeys(rows, f"'{findings.one_line(name)}' is empty.")
            return text_store.Texts(texts, name), bad, []
        images, rows, warning = array_images.make_store(array)
    except array_labels.BadArrayError as error:
        raise array_labels.refuse(error, flag=flag, name=name) from error
    bad = dict.fromkeys(rows, f"'{findings.one_line(name)}' has pixels that are no finite number.")
    return images, bad, [f"{flag}: '{findings.one_line(name)}': {warning}"] if warning else []


def _read_texts(array: np.ndarray) -> tuple[np.ndarray, list[int]]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "USOT":
        received = array_labels.describe(array)
        raise array_labels.BadArrayError(f"expected texts, [n]. Received {received}.")
    texts = [array_labels.read_text(value, row) for row, value in enumerate(array.tolist())]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    return examples.object_array(texts), empty


def find_repeats(store: input_stores.InputStore) -> np.ndarray | None:
    """Examples with the same content, which must stay in one split.

    Args:
      store: of a source.

    Returns:
      `Examples.repeats` of texts and columns; None where none repeats another, and of images.
    """
    if isinstance(store, text_store.Texts):
        contents = store.texts
    elif isinstance(store, columns.Columns):
        contents = store.digests
    else:
        return None
    first: dict[object, int] = {}
    repeats = [first.setdefault(content, row) for row, content in enumerate(contents.tolist())]
    return None if len(first) == len(repeats) else np.array(repeats, np.int64)
