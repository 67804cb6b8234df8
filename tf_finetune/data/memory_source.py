"""Examples that are handed over in Python: NumPy arrays, lists, tensors, a tf.data.Dataset.

One idea: a spec is a value that can be printed and repeated, and arrays are not; so they stand
beside it, and in it only their name, "arrays:" and a hash of all they hold. A run with other arrays
is another run.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    array_inputs,
    array_labels,
    examples,
    image_stores,
    known_names,
    store_selection,
    text_store,
)

PREFIX = "arrays:"
IMAGE, FEATURES = image_stores.INPUT, "features"
EXPECTED = (
    "(inputs, labels), a dict of arrays, or a tf.data.Dataset of such pairs or dicts, each array "
    "with a row for each example"
)
_DIGEST_BYTES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in memory, all that was handed over as one source.

    Attributes:
      name: PREFIX and a hash of everything.
      values: {name: [n, ...]} of inputs and labels; images may be a stream.
      inputs: the names of what the model takes; (): the names and the options tell.
    """

    name: str
    values: dict[str, array_inputs.Values]
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def collect(source: Any, *, flag: str) -> Arrays:
    """Takes what was handed over.

    Args:
      source: (inputs, labels) or a dict {name: values} of both. Inputs are images [n, height,
        width] or [n, height, width, channels]; texts, [n] of strings; vectors [n, d] or numbers
        [n]; or a dict of them. Labels are [n], or a dict {label column: [n]}, see
        `array_labels.to_cells`. Or a finite tf.data.Dataset of pairs or dicts, in batches or not,
        see `dataset_arrays.collect`.
      flag: name of the argument, for messages.

    Returns:
      The examples.

    Raises:
      findings.RefusedError: another form, no example, arrays of different lengths, or a name twice.
    """
    if isinstance(source, Arrays):
        return source
    if hasattr(source, "element_spec"):
        from tf_finetune.data import dataset_arrays

        values, names, digest = dataset_arrays.collect(source, flag=flag)
        return make_arrays(values, names, flag=flag, stream_digest=digest)
    pair = split_pair(source, flag=flag)
    if isinstance(pair, dict):
        return make_arrays(pair, (), flag=flag)
    inputs = pair[0]
    if not isinstance(inputs, Mapping):
        array = _to_array("inputs", inputs, flag=flag)
        inputs = {name_input(array.dtype, array.ndim): array}
    return make_arrays(join_names(inputs, pair[1], flag=flag), tuple(map(str, inputs)), flag=flag)


def split_pair(source: Any, *, flag: str) -> tuple[Any, Any] | dict[str, Any]:
    """The two parts of a pair, or a dict.

    Args:
      source: what was handed over.
      flag: name of the argument, for messages.

    Returns:
      (inputs, labels), or the dict.

    Raises:
      findings.RefusedError: neither.
    """
    if isinstance(source, Mapping) and source:
        return {str(name): values for name, values in source.items()}
    if isinstance(source, tuple | list) and len(source) == 2:
        return source[0], source[1]
    received = type(source).__name__
    if isinstance(source, tuple | list):
        received += f" of {len(source)}"
    raise _refusal(f"{flag}: expected {EXPECTED}. Received {received}.", flag)


def name_input(dtype: Any, rank: int) -> str:
    """The name of a single input.

    Args:
      dtype: a NumPy type.
      rank: with the examples.

    Returns:
      "text" of strings, "image" of three or more axes, else "features".
    """
    if np.dtype(dtype).kind in "USOT":
        return text_store.INPUT
    return IMAGE if rank >= 3 else FEATURES


def join_names(inputs: Mapping, labels: Any, *, flag: str) -> dict[str, Any]:
    """Inputs and labels under one roof.

    Args:
      inputs: {name: values}.
      labels: {name: values}, or values, whose name is then "label".
      flag: name of the argument, for messages.

    Returns:
      Both.

    Raises:
      findings.RefusedError: a name is in both.
    """
    if not isinstance(labels, Mapping):
        labels = {examples.LABEL_COLUMN: labels}
    twice = sorted(map(str, set(inputs) & set(labels)))
    if twice:
        shown = findings.list_first(twice)
        raise _refusal(f"{flag}: {shown} is among the inputs and among the labels.", flag)
    return {str(name): values for name, values in (*inputs.items(), *labels.items())}


def make_arrays(
    values: Mapping[str, Any], inputs: tuple[str, ...], *, flag: str, stream_digest: str = ""
) -> Arrays:
    """Names the examples after what they hold.

    Args:
      values: {name: array, stream, or what becomes an array}.
      inputs: see `Arrays`.
      flag: name of the argument, for messages.
      stream_digest: a hash of what the stream among them gives.

    Returns:
      The examples.

    Raises:
      findings.RefusedError: no example, a single number for an array, or different lengths.
    """
    arrays = {
        name: array
        if isinstance(array, image_stores.StreamImages)
        else _to_array(name, array, flag=flag)
        for name, array in values.items()
    }
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{findings.one_line(name)}' {n}" for name, n in lengths.items())
        raise _refusal(f"{flag}: expected as many of each. Received {shown}.", flag)
    if not any(lengths.values()):
        raise _refusal(f"{flag} holds no example.", flag)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name in sorted(arrays):
        array = arrays[name]
        if isinstance(array, image_stores.StreamImages):
            digest.update(f"{name} {stream_digest}\n".encode())
            continue
        digest.update(f"{name} {array_labels.describe(array)}\n".encode())
        if array.dtype.kind in "OT":
            for value in map(array_labels.to_plain, array.tolist()):
                content = value if isinstance(value, bytes) else repr(value).encode()
                digest.update(b"%d:" % len(content) + content)
        else:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return Arrays(PREFIX + digest.hexdigest(), arrays, inputs)


def _to_array(name: str, values: Any, *, flag: str) -> np.ndarray:
    shown, is_list = findings.one_line(name), isinstance(values, list | tuple)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        if not is_list:
            raise _refusal(
                f"{flag}: NumPy makes no array of '{shown}', a {type(values).__name__}: "
                f"{findings.one_line(error)}. Expected a row for each example.",
                flag,
            ) from error
        array = examples.object_array(list(values))  # of different lengths or sizes
    collections = list | tuple | set | frozenset
    if is_list and array.dtype.kind in "USO" and any(isinstance(v, collections) for v in values):
        # Lists of names that happen to be of one length are no matrix.
        array = examples.object_array(list(values))
    if array.dtype.kind == "O" and array.ndim == 1:
        array = _stack_images(shown, array, flag=flag)
    if not array.ndim:
        raise _refusal(
            f"{flag}: '{shown}' is a single {type(values).__name__}. Expected a row for each "
            "example.",
            flag,
        )
    return array


def _stack_images(shown: str, values: np.ndarray, *, flag: str) -> np.ndarray:
    """Objects that are images of one size as one array; other objects as they are."""
    shapes = list(dict.fromkeys(map(_find_shape, values)))
    if all(len(shape) < 2 for shape in shapes):
        return values
    if len(shapes) == 1:
        return np.stack(list(values))
    row = next((row for row, value in enumerate(values) if len(_find_shape(value)) < 2), None)
    if row is not None:
        value = values[row]
        received = "None" if value is None else findings.one_line(type(value).__name__)
        raise _refusal(
            f"{flag}, example {row}: '{shown}': expected an image, as others are. Received "
            f"{received}.",
            flag,
        )
    sizes = " and ".join(str(list(shape)) for shape in shapes[:2])
    raise _refusal(
        f"{flag}: '{shown}': images have different sizes, as {sizes}. Expected one array of all: "
        "resize them, or hand over a tf.data.Dataset of single images.",
        flag,
    )


def _find_shape(value: Any) -> tuple[int, ...]:
    if value is None or isinstance(value, str | bytes):
        return ()
    try:
        return np.shape(value)
    except (ValueError, TypeError):  # no array
        return ()


def name_sources(spec: specs.DataSpec, given: Mapping[str, Any]) -> specs.DataSpec:
    """A spec that says what was handed over beside it.

    Args:
      spec: the data options.
      given: {"data", "validation_data" or "test_data": Arrays}.

    Returns:
      A copy in which the names of the arrays stand where a path would.

    Raises:
      findings.RefusedError: a source is named in the spec too.
    """
    for flag in given:
        named = getattr(spec, flag)
        if named and named != str(given[flag]):
            message = (
                f"--{flag}={findings.one_line(named)} and arrays are given both. Leave one of them "
                "out."
            )
            raise _refusal(message, flag)
    names: dict[str, Any] = {flag: str(arrays) for flag, arrays in given.items()}
    return dataclasses.replace(spec, **names)


def name_source(named: str | None, *, flag: str) -> str:
    """A source of a spec as its user gave it, for messages.

    Args:
      named: value of the flag; of arrays their name, see `name_sources`.
      flag: "data", "validation_data" or "test_data".

    Returns:
      For example "--data=photos", or "data" of arrays; printable, one line.
    """
    if str(named).startswith(PREFIX):
        return flag
    return f"--{flag}={findings.one_line(str(named))}"


def collect_all(**sources: Any) -> dict[str, Arrays]:
    """Takes what was handed over for several splits.

    Args:
      **sources: data, validation_data, test_data; see `collect`, None: not given.

    Returns:
      {name: examples} of those that are given.

    Raises:
      findings.RefusedError: see `collect`.
    """
    return {
        flag: collect(source, flag=flag) for flag, source in sources.items() if source is not None
    }


def load(spec: specs.DataSpec, arrays: Arrays, *, flag: str) -> examples.Examples:
    """Lists examples in memory.

    Args:
      spec: the data options: `image_column`, `text_column`, `feature_columns`, `label_column`,
        `classes`, `on_bad_example`.
      arrays: of `collect`.
      flag: name of the argument, for messages.

    Returns:
      The examples; keys are their places, from 0. What is no input is a label column.

    Raises:
      findings.RefusedError: nothing tells which arrays the model takes, --feature_columns names
        others, none is left for labels, or an array has a dtype, shape or range that cannot be
        used.
    """
    chosen = array_inputs.choose(spec, arrays.values, arrays.inputs, flag=flag)
    labels = {name: array for name, array in arrays.values.items() if name not in chosen.names}
    if not labels:
        shown = findings.list_first(list(chosen.names))
        raise _refusal(f"{flag}: nothing is left for labels beside {shown}.", flag)
    store, bad, warnings = array_inputs.make_store(arrays.values, chosen, flag=flag)
    kept = _leave_out(bad, num_rows=len(arrays), skip=spec.on_bad_example == "skip", flag=flag)
    if bad:
        rows = findings.list_values(sorted(bad))
        warnings.append(f"{flag}: {len(bad)} examples are left out: {rows}.")
        store = store_selection.select(store, kept)
    cells = _read_labels(labels, known_names.read_names(spec), flag=flag)
    width = len(str(len(arrays) - 1))
    return examples.Examples(
        source=flag,
        keys=examples.object_array([f"{row:0{width}d}" for row in kept]),
        inputs=store,
        labels={name: column[kept] for name, column in cells.items()},
        identity=arrays.name,
        in_memory=True,
        repeats=array_inputs.find_repeats(store),
        problems=tuple(
            findings.Problem(text, severity=findings.WARNING, flag=f"--{flag}") for text in warnings
        ),
    )


def _leave_out(bad: dict[int, str], *, num_rows: int, skip: bool, flag: str) -> np.ndarray:
    rows = sorted(bad)
    kept = np.setdiff1d(np.arange(num_rows), rows)
    if rows and (not skip or not len(kept)):
        advice = " No other is there." if skip else " on_bad_example='skip' leaves them out."
        place = f"{flag}, example {rows[0]}"
        shown = findings.list_values(rows)
        raise _refusal(f"{place}: {bad[rows[0]]} Bad examples: {shown}.{advice}", flag)
    return kept


def _read_labels(
    labels: dict[str, array_inputs.Values], classes: tuple[str, ...], *, flag: str
) -> dict[str, np.ndarray]:
    cells = {}
    for name, values in labels.items():
        try:
            if not isinstance(values, np.ndarray):
                raise array_labels.BadArrayError("expected labels. Received a stream of images.")
            cells[name] = array_labels.to_cells(values, classes=classes)
        except array_labels.BadArrayError as error:
            raise array_labels.refuse(error, flag=flag, name=name) from error
    return cells


def _refusal(message: str, flag: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag=f"--{flag}"))
