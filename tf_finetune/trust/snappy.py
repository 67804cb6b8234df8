"""Unpacks Snappy, in which TensorFlow 1 and some later ones wrote the index of variables.

Reference: Snappy compressed format description,
https://github.com/google/snappy/blob/main/format_description.txt.
"""

from tf_finetune.trust import protobuf


def decompress(data: memoryview, *, what: str, limit: int) -> bytes:
    """Unpacks one block.

    Args:
      data: the packed bytes.
      what: what holds them, for the error's text.
      limit: largest size that is unpacked, in bytes.

    Returns:
      The unpacked bytes.

    Raises:
      refusals.BrokenFileError: the bytes are damaged, or unpack to more than the limit.
    """
    size, position = protobuf.read_varint(data, 0, what=what)
    if size > limit:
        raise protobuf.damaged(what)
    result = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        if tag & 3 == 0:
            length = tag >> 2
            if length >= 60:
                extra = length - 59
                length = int.from_bytes(data[position : position + extra], "little")
                position += extra
            length += 1
            result += data[position : position + length]
            position += length
        else:
            length, offset, position = _read_copy(tag, data, position)
            if not 0 < offset <= len(result):
                raise protobuf.damaged(what)
            for _ in range(length):  # source and target may overlap
                result.append(result[-offset])
        if len(result) > size:
            raise protobuf.damaged(what)
    if len(result) != size:
        raise protobuf.damaged(what)
    return bytes(result)


def _read_copy(tag: int, data: memoryview, position: int) -> tuple[int, int, int]:
    kind = tag & 3
    if kind == 1:
        low = int.from_bytes(data[position : position + 1], "little")
        return ((tag >> 2) & 7) + 4, ((tag >> 5) << 8) | low, position + 1
    width = 2 if kind == 2 else 4
    offset = int.from_bytes(data[position : position + width], "little")
    return (tag >> 2) + 1, offset, position + width
