"""Encoded images for the tests of data/, and Pillow's opinion of them."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    """uint8 [height, width, 3]; smooth, and different in every corner and channel."""
    rows, columns = np.mgrid[0:height, 0:width]
    red = rows * 255 // max(height - 1, 1)
    green = columns * 255 // max(width - 1, 1)
    return np.stack([red, green, (red + 2 * green) // 3], -1).astype(np.uint8)


def encode(image: np.ndarray | PIL.Image.Image, form: str, **options) -> bytes:
    """Encodes with Pillow; arrays of 1 to 4 channels."""
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decode_with_pillow(contents: bytes) -> np.ndarray:
    """uint8 [height, width, 3], upright and over white."""
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(contents)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = PIL.Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def make_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per value, which Pillow cannot write in colour; uint16 [h, w, 1 to 4]."""
    height, width, channels = pixels.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def make_exif(orientation: int, *, order: str = ">", kind: int = 3, before: int = 0) -> bytes:
    """An APP1 segment of EXIF; `before` other entries precede the orientation."""
    mark = {">": b"MM", "<": b"II"}[order]
    entries = [struct.pack(order + "HHII", 0x0100 + i, 4, 1, 77) for i in range(before)]
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else bytes(4)
    entries.append(struct.pack(order + "HHI", 0x0112, kind, 1) + value)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return make_segment(0xE1, b"Exif\0\0" + mark + struct.pack(order + "HI", 42, 8) + directory)


def make_segment(marker: int, payload: bytes) -> bytes:
    """A marker segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def insert_segments(jpeg: bytes, *segments: bytes, after_app0: bool = True) -> bytes:
    """Puts segments behind the JPEG's APP0 segment, or in front of it."""
    position = 2
    if after_app0:
        position = 4 + struct.unpack(">H", jpeg[4:6])[0]
    return jpeg[:position] + b"".join(segments) + jpeg[position:]
