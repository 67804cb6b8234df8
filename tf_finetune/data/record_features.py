"""The features of one tf.train.Example, read from its wire format without TensorFlow.

Reference: tensorflow/core/example/example.proto and feature.proto.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from tf_finetune import findings
from tf_finetune.data import examples, json_rows
from tf_finetune.trust import protobuf

# Field numbers: Example.features, Features.feature, then key and value of a map's entry.
_FEATURES, _FEATURE, _KEY, _VALUE = 1, 1, 1, 2
# Feature.bytes_list, float_list, int64_list; each has its values in field 1.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VALUES = 1
_WHAT = "the Example"
_KINDS = {_BYTES_LIST: "bytes", _FLOAT_LIST: "float", _INT64_LIST: "int64"}
# What is longer is no name of a class.
_MAX_LABEL_BYTES = 1024
_MAX_LABELS = 1024
_MAX_TEXT_BYTES = 4 * 2**20
_MAX_NAME_BYTES = 1024
_MAX_FIELDS = 100_000

Feature = tuple[int, memoryview]


class ExampleReader:
    """Reads one Example, and gives up on one that is made to be read for ever."""

    def __init__(self) -> None:
        self._left = _MAX_FIELDS

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        for field in protobuf.read_fields(data, what=_WHAT):
            self._left -= 1
            if self._left < 0:
                raise protobuf.damaged(_WHAT)
            yield field

    def _messages(self, data: memoryview, wanted: int) -> Iterator[memoryview]:
        for number, _, value in self._fields(data):
            if number == wanted:
                if isinstance(value, int):
                    raise protobuf.damaged(_WHAT)
                yield value

    def read_features(self, data: memoryview) -> dict[str, Feature]:
        """Splits an Example into its features.

        Args:
          data: a record.

        Returns:
          {name: (kind of list, its bytes)}; of equal names the last, as protobuf has it. Features
          without a list are missing.

        Raises:
          refusals.BrokenFileError: the bytes are no Example, or one of very many fields.
        """
        found: dict[str, Feature] = {}
        for features in self._messages(data, _FEATURES):
            for entry in self._messages(features, _FEATURE):
                name, value = b"", None
                for number, _, part in self._fields(entry):
                    if isinstance(part, int):
                        raise protobuf.damaged(_WHAT)
                    if number == _KEY:
                        name = bytes(part[:_MAX_NAME_BYTES])
                    elif number == _VALUE:
                        value = part
                for kind, _, values in self._fields(value or memoryview(b"")):
                    if kind in _KINDS and isinstance(values, memoryview):
                        found[name.decode("utf-8", "backslashreplace")] = (kind, values)
        return found

    def read_image(self, feature: Feature) -> tuple[memoryview, str]:
        """The encoded image in a feature.

        Args:
          feature: of `read_features`.

        Returns:
          (the image's bytes, ""), or (no bytes, what is wrong, following the feature's name).

        Raises:
          refusals.BrokenFileError: the bytes are no list.
        """
        kind, data = feature
        nothing = memoryview(b"")
        if kind != _BYTES_LIST:
            return nothing, f"holds {_KINDS[kind]} values. Expected the bytes of an encoded image"
        values = list(itertools.islice(self._messages(data, _VALUES), 2))
        if len(values) != 1:
            count = "several values" if values else "no value"
            return nothing, f"holds {count}. Expected one, an encoded image"
        return values[0], ""

    def read_label(self, feature: Feature) -> str | tuple[str, ...] | None:
        """The values of a feature as class names.

        Args:
          feature: of `read_features`.

        Returns:
          A name; a tuple where there are several, "" where there is none; numbers in decimal. None
          of a feature that cannot be a label: of several floats, of long values, or of many.

        Raises:
          refusals.BrokenFileError: the bytes are no list.
        """
        kind, data = feature
        if kind == _FLOAT_LIST:
            floats = self._floats(data) if len(data) <= _MAX_LABEL_BYTES else np.empty(2)
            if len(floats) > 1:
                return None
            return "" if not len(floats) or np.isnan(floats[0]) else str(floats[0])
        names: list[str] = []
        values = self._messages(data, _VALUES) if kind == _BYTES_LIST else self._numbers(data)
        for value in values:
            if len(names) >= _MAX_LABELS:
                return None
            if isinstance(value, int):
                names.append(str(value))
            elif len(value) > _MAX_LABEL_BYTES:
                return None
            else:
                names.append(bytes(value).decode("utf-8", "backslashreplace").strip())
        return names[0] if len(names) == 1 else (tuple(dict.fromkeys(names)) or "")

    def read_cell(self, feature: Feature) -> json_rows.Cell | None:
        """The values of a feature as a cell of a table.

        Args:
          feature: of `read_features`.

        Returns:
          Text: a string, or a number in decimal; `json_rows.Numbers` of several numbers, a
          `json_rows.ListCell` of several names, "" of none. None of bytes that are no text in
          UTF-8, or a very long one.

        Raises:
          refusals.BrokenFileError: the bytes are no list.
        """
        kind, data = feature
        if kind == _FLOAT_LIST:
            numbers = [str(number) for number in self._floats(data)]
        elif kind == _INT64_LIST:
            numbers = [str(number) for number in self._numbers(data)]
        else:
            values = list(self._messages(data, _VALUES))
            if sum(map(len, values)) > _MAX_TEXT_BYTES:
                return None
            try:
                names = [bytes(value).decode() for value in values]
            except UnicodeDecodeError:
                return None
            if len(names) > 1:
                return json_rows.ListCell.make(names)
            return names[0] if names else ""
        if len(numbers) > 1:
            return json_rows.Numbers.make(numbers)
        return numbers[0] if numbers else ""

    def measure(self, feature: Feature) -> tuple[str, int, int]:
        """What a feature holds.

        Args:
          feature: of `read_features`.

        Returns:
          ("bytes", "float" or "int64"; number of values; bytes of them all).

        Raises:
          refusals.BrokenFileError: the bytes are no list.
        """
        kind, data = feature
        if kind == _FLOAT_LIST:
            count = len(self._floats(data))
        elif kind == _INT64_LIST:
            count = sum(1 for _ in self._numbers(data))
        else:
            sizes = [len(value) for value in self._messages(data, _VALUES)]
            return _KINDS[kind], len(sizes), sum(sizes)
        return _KINDS[kind], count, len(data)

    def _floats(self, data: memoryview) -> np.ndarray:
        parts = []
        for number, _, value in self._fields(data):
            if number == _VALUES:
                if isinstance(value, int) or len(value) % 4:
                    raise protobuf.damaged(_WHAT)
                parts.append(np.frombuffer(value, "<f4"))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _numbers(self, data: memoryview) -> Iterator[int]:
        for number, _, value in self._fields(data):
            if number != _VALUES:
                continue
            if isinstance(value, int):
                yield protobuf.signed(value)
                continue
            position = 0
            while position < len(value):  # packed
                packed, position = protobuf.read_varint(value, position, what=_WHAT)
                yield protobuf.signed(packed)


def is_float(feature: Feature) -> bool:
    """Whether a feature is a list of floats.

    Args:
      feature: of `ExampleReader.read_features`.

    Returns:
      True of a float_list.
    """
    return feature[0] == _FLOAT_LIST


def find_offset(part: memoryview, whole: memoryview) -> int:
    """Where a slice begins in the bytes that it was cut from.

    Args:
      part: a slice of `whole`.
      whole: bytes.

    Returns:
      The place; 0 of an empty slice.
    """
    if not len(part):
        return 0
    ends = [np.frombuffer(view, np.uint8).ctypes.data for view in (part, whole)]
    return ends[0] - ends[1]


def describe(names: list[str]) -> str:
    """Names of features for an error text.

    Args:
      names: of `read_features`.

    Returns:
      For example "'image', 'label'", or "none".
    """
    return findings.list_first(names, limit=20) or "none"


def describe_labels(source: str, names: list[str]) -> str:
    """Why no feature is the label by itself.

    Args:
      source: printable, for messages.
      names: of the features that can be labels.

    Returns:
      An error's text; "" where there is only one, or one is called "label".
    """
    if len(names) == 1 or examples.LABEL_COLUMN in names:
        return ""
    return (
        f"{source}: no record has the feature '{examples.LABEL_COLUMN}'. They have "
        f"{describe(sorted(names))}. --label_column names another."
    )
