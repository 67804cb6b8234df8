"""How many pixels an image says it has, read from its header alone.

One idea: a decoder makes room for what the header promises before it looks at the data, so 3 MB
of PNG ask for 3 GB of memory. The promise is read here, in plain Python, before a decoder sees the
file. What a header does not tell within bounds is no size at all.

Reference: W3C, Portable Network Graphics (PNG) Specification, third edition, section 11.2.1;
ITU-T T.81, section B.2.2 (JPEG); CompuServe, GIF89a Specification, 1990; Microsoft, Bitmap
Storage; RFC 9649, WebP Image Format, section 2.
"""

import dataclasses
import struct
from typing import BinaryIO

from tf_finetune import specs

# 2**30 // 4 // 3, a quarter of a GiB as 24-bit colour: where Pillow begins to warn of bombs.
MAX_PIXELS = specs.DataSpec.max_image_pixels
_RIFF_HEADER_BYTES = 12
_GIF_TRAILER, _GIF_EXTENSION, _GIF_IMAGE = 0x3B, 0x21, 0x2C
_GIF_HAS_COLORS = 0x80
_BMP_CORE_HEADER_BYTES = 12
_WEBP_ANIMATION_FLAG = 0x02
# Start of frame: all of C0 to CF but for the tables DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM, RST0 to RST7, SOI.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# More segments, chunks or blocks than any real image has: the file is made to be walked for long.
_MAX_STEPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class ImageSize:
    """What a header promises.

    Attributes:
      width: of one frame's canvas, pixels.
      height: of one frame's canvas, pixels.
      frames: of an animation, else 1.
      pixels: of all frames together, since a decoder of animations keeps them all.
    """

    width: int
    height: int
    frames: int
    pixels: int

    def __str__(self) -> str:
        times = f" x {self.frames} frames" if self.frames > 1 else ""
        return f"{self.width} x {self.height}{times} = {self.pixels:,} pixels"


def read_size(file: BinaryIO, kind: str) -> ImageSize | None:
    """The size that an image's header promises.

    Args:
      file: the encoded image, open at its first byte; it must be able to seek.
      kind: of `image_formats.find_format`.

    Returns:
      The size; None where the file ends before it, or holds none.
    """
    try:
        return _READERS[kind](file)
    except (struct.error, IndexError):
        return None  # the file ends within its header


def _make(width: int, height: int, *, frames: int = 1, pixels: int | None = None) -> ImageSize:
    return ImageSize(width, height, frames, width * height if pixels is None else pixels)


def _unpack(layout: str, file: BinaryIO) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_png(file: BinaryIO) -> ImageSize | None:
    _, name, width, height = _unpack(">8xI4sII", file)
    return _make(width, height) if name == b"IHDR" else None  # type: ignore[comparison-overlap]


def _read_jpeg(file: BinaryIO) -> ImageSize | None:
    """The largest frame: a second one would be what a decoder uses."""
    file.seek(2)
    found = None
    for _ in range(_MAX_STEPS):
        start = file.read(2)
        if len(start) < 2:
            break
        if start[0] != 0xFF:
            # As libjpeg does: what stands between segments is skipped.
            if not _skip_to_marker(file, start):
                break
            continue
        marker = start[1]
        if marker == 0xFF or marker in _JPEG_BARE:
            file.seek(-1 if marker == 0xFF else 0, 1)
            continue
        if marker in (_JPEG_SCAN, _JPEG_END):
            break
        length = file.read(2)
        if len(length) < 2:
            break
        num_bytes = int.from_bytes(length, "big") - 2
        if marker in _JPEG_FRAMES:
            height, width = _unpack(">xHH", file)
            size = _make(width, height)
            found = size if found is None or size.pixels > found.pixels else found
            num_bytes -= 5
        if num_bytes < 0:
            break
        file.seek(num_bytes, 1)
    return found


def _skip_to_marker(file: BinaryIO, start: bytes) -> bool:
    """Moves to the next 0xFF; False where there is none in the next 64 KiB."""
    position = file.tell() - len(start)
    file.seek(position)
    place = file.read(65536).find(b"\xff")
    file.seek(position + max(place, 0))
    return place >= 0


def _read_bmp(file: BinaryIO) -> ImageSize | None:
    (header_bytes,) = _unpack("<14xI", file)
    if header_bytes == _BMP_CORE_HEADER_BYTES:
        return _make(*_unpack("<HH", file))
    # A negative height counts rows from the top.
    width, height = _unpack("<ii", file)
    return _make(abs(width), abs(height))


def _read_gif(file: BinaryIO) -> ImageSize | None:
    width, height, flags = _unpack("<6xHHBxx", file)
    _skip_gif_colors(file, flags)
    frames = pixels = 0
    for _ in range(_MAX_STEPS):
        kind = file.read(1)
        if not kind or kind[0] == _GIF_TRAILER:
            break
        if kind[0] == _GIF_EXTENSION:
            file.seek(1, 1)
        elif kind[0] == _GIF_IMAGE:
            part = file.read(9)
            if len(part) < 9:
                break
            frame_width, frame_height, flags = struct.unpack("<4xHHB", part)
            frames += 1
            pixels += frame_width * frame_height
            _skip_gif_colors(file, flags)
            file.seek(1, 1)
        else:
            break
        _skip_gif_blocks(file)
    # The canvas is drawn even where the frames are small.
    return _make(width, height, frames=max(frames, 1), pixels=max(pixels, width * height))


def _skip_gif_colors(file: BinaryIO, flags: int) -> None:
    if flags & _GIF_HAS_COLORS:
        file.seek(3 * 2 ** ((flags & 7) + 1), 1)


def _skip_gif_blocks(file: BinaryIO) -> None:
    size = file.read(1)
    while size and size[0]:
        file.seek(size[0], 1)
        size = file.read(1)


def _read_webp(file: BinaryIO) -> ImageSize | None:
    file.seek(_RIFF_HEADER_BYTES)
    name = file.read(4)
    if name == b"VP8X":
        return _read_extended_webp(file)
    file.seek(4, 1)
    if name == b"VP8 ":
        mark, width, height = _unpack("<3x3sHH", file)
        is_key = mark == b"\x9d\x01\x2a"  # type: ignore[comparison-overlap]
        return _make(width & 0x3FFF, height & 0x3FFF) if is_key else None
    if name == b"VP8L":
        mark, bits = _unpack("<BI", file)
        return _make((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if mark == 0x2F else None
    return None


def _read_extended_webp(file: BinaryIO) -> ImageSize | None:
    num_bytes, flags = _unpack("<IB3x", file)
    sides = file.read(6)
    if len(sides) < 6:
        return None
    width = int.from_bytes(sides[:3], "little") + 1
    height = int.from_bytes(sides[3:], "little") + 1
    frames = 0
    if flags & _WEBP_ANIMATION_FLAG:
        file.seek(_RIFF_HEADER_BYTES + 8 + num_bytes + num_bytes % 2)
        for _ in range(_MAX_STEPS):
            head = file.read(8)
            if len(head) < 8:
                break
            frames += head[:4] == b"ANMF"
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, 1)
    frames = max(frames, 1)
    return _make(width, height, frames=frames, pixels=width * height * frames)


_READERS = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "BMP": _read_bmp,
    "GIF": _read_gif,
    "WebP": _read_webp,
}
