"""Protocol buffers in wire format, read without generated classes and without recursion.

One idea: a message is a run of (field, value) pairs, and the caller knows which fields hold
messages. Values stay slices of the file's bytes, so a large constant costs nothing until somebody
looks at it.

Reference: Protocol Buffers, "Encoding", https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator

from tf_finetune.trust import refusals

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10


def read_fields(data: memoryview, *, what: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Reads one message.

    Args:
      data: its bytes.
      what: what holds it, for the error's text.

    Yields:
      (field number, wire type, value): an int for a varint, otherwise the bytes.

    Raises:
      refusals.BrokenFileError: the bytes end too early, or are no message.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = read_varint(data, position, what=what)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise damaged(what)
        if wire == VARINT:
            value, position = read_varint(data, position, what=what)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = read_varint(data, position, what=what)
        elif wire in _FIXED_BYTES:
            length = _FIXED_BYTES[wire]
        else:
            raise damaged(what)  # groups: no message of TensorFlow has one
        if length > end - position:
            raise damaged(what)
        yield number, wire, data[position : position + length]
        position += length


def numbers(data: memoryview, wanted: int, *, what: str) -> Iterator[int]:
    """Reads the values of a repeated whole number, packed or not.

    Args:
      data: a message.
      wanted: number of the field.
      what: what holds it, for the error's text.

    Yields:
      The values in order, unsigned.

    Raises:
      refusals.BrokenFileError: the bytes end too early, or are no message.
    """
    for number, _, value in read_fields(data, what=what):
        if number != wanted:
            continue
        if isinstance(value, int):
            yield value
            continue
        position = 0
        while position < len(value):
            item, position = read_varint(value, position, what=what)
            yield item


def read_varint(data: memoryview, position: int, *, what: str) -> tuple[int, int]:
    """Reads an unsigned number of variable length.

    Args:
      data: bytes.
      position: where it begins.
      what: what holds it, for the error's text.

    Returns:
      The number, below 2**70, and where the next byte stands.

    Raises:
      refusals.BrokenFileError: the bytes end within it, or it has more than ten.
    """
    result = shift = 0
    for offset in range(position, min(len(data), position + _MAX_VARINT_BYTES)):
        byte = data[offset]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, offset + 1
        shift += 7
    raise damaged(what)


def messages(data: memoryview, wanted: int, *, what: str) -> Iterator[memoryview]:
    """The values of one field that holds messages, strings or bytes.

    Args:
      data: the message around them.
      wanted: the field's number.
      what: what holds it, for the error's text.

    Yields:
      Their bytes.

    Raises:
      refusals.BrokenFileError: the bytes are no message, or the field is of another type.
    """
    for number, _, value in read_fields(data, what=what):
        if number == wanted:
            if isinstance(value, int):
                raise damaged(what)
            yield value


def text(data: memoryview, wanted: int, *, what: str) -> str:
    """The last value of a string field, as protobuf has it.

    Args:
      data: the message around it.
      wanted: the field's number.
      what: what holds it, for the error's text.

    Returns:
      The text; "" where the field is absent.

    Raises:
      refusals.BrokenFileError: the bytes are no message, or the field is of another type.
    """
    result = b""
    for value in messages(data, wanted, what=what):
        result = bytes(value)
    return result.decode("utf-8", "backslashreplace")


def number(data: memoryview, wanted: int, *, what: str, default: int = 0) -> int:
    """The last value of a varint field.

    Args:
      data: the message around it.
      wanted: the field's number.
      what: what holds it, for the error's text.
      default: where the field is absent.

    Returns:
      The number, unsigned.

    Raises:
      refusals.BrokenFileError: the bytes are no message, or the field is of another type.
    """
    result = default
    for found, _, value in read_fields(data, what=what):
        if found == wanted:
            if not isinstance(value, int):
                raise damaged(what)
            result = value
    return result


def signed(value: int) -> int:
    """A varint as the int64 that it stands for.

    Args:
      value: unsigned, as read.

    Returns:
      -2**63 to 2**63 - 1.
    """
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def damaged(what: str) -> refusals.BrokenFileError:
    """The error of bytes that are no message.

    Args:
      what: what holds them.

    Returns:
      The error to raise.
    """
    return refusals.BrokenFileError(refusals.broken(what, f"{what} is truncated or damaged."))
