"""Whether an encoded image is whole, told by its last bytes. No TensorFlow.

One idea: every format marks its end, or its length. So a file that was lost in part while copying
is told from one that never was an image, and from one that its decoder forgives.

Reference: W3C, Portable Network Graphics (PNG) Specification, third edition, section 5.6; ITU-T
T.81, section B.1.1 (JPEG); CompuServe, GIF89a Specification, 1990, section 27; RFC 9649, WebP Image
Format, section 2.4.
"""

import struct

_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_GIF_TRAILER = b";"


def find_cut(content: bytes, kind: str) -> str:
    """Looks for the mark that ends an image.

    Args:
      content: the whole file.
      kind: of `image_formats.find_format`.

    Returns:
      "" where the image is whole (or of a format without a mark), else a reason that follows the
      image's name.
    """
    if kind == "JPEG" and not _ends_jpeg(content):
        return "is cut off: a JPEG without its end mark"
    if kind == "PNG" and content.rfind(b"IEND") < 0:
        return "is cut off: a PNG without its last chunk"
    if kind == "GIF" and not content.rstrip(b"\0").endswith(_GIF_TRAILER):
        return "is cut off: a GIF without its trailer"
    if kind == "WebP":
        (expected,) = struct.unpack("<I", content[4:8])
        if len(content) < expected + 8:
            return f"is cut off: a WebP of {len(content):,} of {expected + 8:,} bytes"
    return ""


def _ends_jpeg(content: bytes) -> bool:
    """Whether an end mark follows the first scan; one before it ends a thumbnail."""
    place = 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            place = content.find(b"\xff", place)
            if place < 0:
                return False
            continue
        marker = content[place + 1]
        if marker == _JPEG_SCAN:
            return content.find(_JPEG_END, place) >= 0
        if marker == 0xFF:
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 2
        else:
            place += 2 + max(int.from_bytes(content[place + 2 : place + 4], "big"), 2)
    return False
