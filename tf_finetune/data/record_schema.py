"""The value of --record_schema: what each record of TFRecord files must hold.

One idea: without a schema the records tell what they are, and a record that differs from the others
is found late or never; with one, each is held against it.
"""

import dataclasses
import math
import re

from tf_finetune import findings
from tf_finetune.data import record_features, value_files

FLAG = "--record_schema"
_FIELD = re.compile(
    r"(?P<name>.+?)\s*=\s*(?P<type>bytes|float32|int64|uint8|uint16)"
    r"(?:\[(?P<shape>[0-9x]*)\])?(?P<optional>\?)?",
    re.DOTALL,
)
_KINDS = {"bytes": "bytes", "float32": "float", "int64": "int64"}
_PIXEL_BYTES = {"uint8": 1, "uint16": 2}
_MAX_VALUES = 2**24
EXPECTED = (
    "NAME=TYPE joined by commas, or @FILE with one on each line; TYPE is bytes, int64 or float32, "
    "behind it [N] for N values or [] for any number, uint8[HEIGHTxWIDTHxCHANNELS] or uint16 for "
    "raw pixels, and ? where a record may lack it"
)


@dataclasses.dataclass(frozen=True)
class Field:
    """What a record holds under a name.

    Attributes:
      name: of the feature.
      kind: "bytes", "float" or "int64": of its list.
      count: values in it; None: any number.
      optional: a record may lack it.
      dtype: of raw pixels "uint8" or "uint16", else "".
      shape: of raw pixels (height, width, channels), else ().
    """

    name: str
    kind: str
    count: int | None
    optional: bool
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of raw pixels."""
        return math.prod(self.shape) * _PIXEL_BYTES.get(self.dtype, 0)


Schema = dict[str, Field]


def read_schema(text: str | None) -> Schema:
    """Parses --record_schema.

    Args:
      text: see EXPECTED; None: not given.

    Returns:
      {feature: its field}, in order; empty where it is not given.

    Raises:
      findings.RefusedError: it is nothing of the kind, a name is there twice, or the file cannot be
        read.
    """
    if text is None:
        return {}
    parts = value_files.read_lines(text, flag=FLAG)
    if parts is None:
        parts = text.split(",")
    schema: Schema = {}
    for part in filter(None, (part.strip() for part in parts)):
        field = _read_field(part)
        if field is None:
            message = (
                f"{FLAG}: '{findings.one_line(part)[:80]}' is no feature. Expected {EXPECTED}."
            )
            raise _refusal(message)
        if field.name in schema:
            raise _refusal(f"{FLAG} names '{findings.one_line(field.name)}' twice.")
        schema[field.name] = field
    if not schema:
        raise _refusal(f"{FLAG} names no feature. Expected {EXPECTED}.")
    return schema


def _refusal(message: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag=FLAG))


def _read_field(part: str) -> Field | None:
    match = _FIELD.fullmatch(part)
    if match is None:
        return None
    name, dtype, optional = match["name"].strip(), match["type"], bool(match["optional"])
    sizes = match["shape"].split("x") if match["shape"] else []
    if not all(size.isdigit() and 0 < int(size) <= _MAX_VALUES for size in sizes):
        return None
    shape = tuple(map(int, sizes))
    if math.prod(shape) > _MAX_VALUES:
        return None
    if dtype in _PIXEL_BYTES:
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > 4):
            return None
        shape = (*shape, 1)[:3]
        return Field(name, "bytes", 1, optional, dtype, shape)
    count = 1 if match["shape"] is None else (math.prod(shape) if shape else None)
    return Field(name, _KINDS[dtype], count, optional)


def find_fault(
    schema: Schema,
    features: dict[str, record_features.Feature],
    reader: record_features.ExampleReader,
) -> str:
    """What a record does not keep to.

    Args:
      schema: of `read_schema`; an empty one is always kept to.
      features: of the record.
      reader: that has read them.

    Returns:
      What is wrong, following the record's place, without a full stop; or "".

    Raises:
      refusals.BrokenFileError: the bytes of a feature are no list.
    """
    for name, field in schema.items():
        shown = f"feature '{findings.one_line(name)}'"
        if name not in features:
            if field.optional:
                continue
            found = record_features.describe(sorted(features))
            return f"has no {shown} of {FLAG}. It has {found}"
        kind, count, num_bytes = reader.measure(features[name])
        if kind != field.kind and count:
            return f"is not as {FLAG} says: its {shown} holds {kind} values. Expected {field.kind}"
        if field.optional and not count:
            continue
        if field.count is not None and count != field.count:
            return (
                f"is not as {FLAG} says: its {shown} holds {count} values. Expected {field.count}"
            )
        if field.dtype and num_bytes != field.num_bytes:
            size = "x".join(map(str, field.shape))
            return (
                f"is not as {FLAG} says: its {shown} holds {num_bytes} bytes. Expected "
                f"{field.num_bytes}, {field.dtype} {size}"
            )
    return ""


def find_pixels(schema: Schema, column: str | None) -> Field | None:
    """The raw pixels that are the images.

    Args:
      schema: of `read_schema`.
      column: value of --image_column.

    Returns:
      The field; None where images are encoded.
    """
    for name, field in schema.items():
        if field.dtype and column in (None, name):
            return field
    return None
