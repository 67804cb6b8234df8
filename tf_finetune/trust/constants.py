"""Constants of a graph as TensorFlow would read them: of what type, and of what size.

One idea: protobuf merges a field that comes twice, so the first occurrence says nothing: types are
the last ones, shapes are joined.

Reference: tensor.proto and types.proto of TensorFlow 2.21 (field numbers below).
"""

import math

from tf_finetune.trust import protobuf, tensor_bundle

INT32, TEXT, RESOURCE = 3, 7, 20
# Bytes of an element, by number of its type; 1 for the others.
_ELEMENT_BYTES = {
    1: 4,
    2: 8,
    3: 4,
    5: 2,
    7: 24,
    8: 8,
    9: 8,
    13: 4,
    14: 2,
    15: 2,
    16: 2,
    17: 2,
    18: 16,
    19: 2,
    22: 4,
    23: 8,
}


def read_dtype(tensor: memoryview, *, what: str) -> int:
    """Reads the type of a TensorProto.

    Args:
      tensor: its bytes.
      what: what holds it, for the error's text.

    Returns:
      A number of types.proto; 0 where it has none.

    Raises:
      refusals.BrokenFileError: the bytes are no message.
    """
    return protobuf.number(tensor, 1, what=what)


def read_texts(tensor: memoryview, *, what: str) -> tuple[bytes, ...]:
    """Reads the elements of a TensorProto of texts.

    Args:
      tensor: its bytes.
      what: what holds it, for the error's text.

    Returns:
      The texts; none where it holds something else, or holds them packed.

    Raises:
      refusals.BrokenFileError: the bytes are no message.
    """
    packed = any(len(part) for part in protobuf.messages(tensor, 4, what=what))
    if packed or read_dtype(tensor, what=what) != TEXT:
        return ()
    return tuple(bytes(part) for part in protobuf.messages(tensor, 8, what=what))


def filled_bytes(tensor: memoryview, *, what: str) -> int:
    """How much larger a constant is in memory than in the file.

    Fewer values than elements are allowed: TensorFlow repeats the last one.

    Args:
      tensor: bytes of a TensorProto.
      what: what holds it, for the error's text.

    Returns:
      Bytes, at least 0.

    Raises:
      refusals.BrokenFileError: the bytes are no message.
    """
    shape = b"".join(bytes(part) for part in protobuf.messages(tensor, 2, what=what))
    sides = tensor_bundle.read_shape(memoryview(shape), what=what)
    size = _ELEMENT_BYTES.get(read_dtype(tensor, what=what), 1)
    return max(0, math.prod(sides) * size - len(tensor))
