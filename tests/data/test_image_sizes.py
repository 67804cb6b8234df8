import io
import struct

import numpy as np
import PIL.Image
import pytest

from tests.data import image_bytes
from tf_finetune.data import image_formats, image_sizes

PIXELS = image_bytes.gradient(40, 56)


def read(content):
    kind = image_formats.find_format(content[: image_formats.HEAD_BYTES])
    return image_sizes.read_size(io.BytesIO(content), kind)


def animate(form, count, **options):
    frames = [PIL.Image.fromarray(np.roll(PIXELS, 5 * number, 0)) for number in range(count)]
    return image_bytes.encode(frames[0], form, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(60_000)}),
        ("JPEG", {"icc_profile": bytes(200_000)}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": False}),
        ("WEBP", {"lossless": False, "exif": b"Exif\0\0"}),
    ],
)
def test_one_image(form, options):
    content = image_bytes.encode(PIXELS, form, **options)
    assert read(content) == image_sizes.ImageSize(56, 40, 1, 56 * 40)


def test_16_bits():
    wide = image_bytes.make_png(np.zeros((3, 5, 4), np.uint16))
    assert read(wide) == image_sizes.ImageSize(5, 3, 1, 15)


def test_old_and_upside_down_bitmaps():
    old = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 7, 9, 1, 24)
    assert read(old) == image_sizes.ImageSize(7, 9, 1, 63)
    down = b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -9)
    assert read(down) == image_sizes.ImageSize(7, 9, 1, 63)


def test_frames_count():
    assert read(animate("WEBP", 4)) == image_sizes.ImageSize(56, 40, 4, 4 * 56 * 40)
    gif = read(animate("GIF", 4))
    # Pillow stores of later frames what has changed.
    assert (gif.width, gif.height, gif.frames) == (56, 40, 4)
    assert 56 * 40 < gif.pixels <= 4 * 56 * 40
    assert str(read(animate("WEBP", 2))) == "56 x 40 x 2 frames = 4,480 pixels"


def test_a_gif_of_small_frames_has_its_canvas():
    frame = b"," + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\2\2ab\0"
    content = b"GIF89a" + struct.pack("<HHB", 1000, 100, 0) + b"\0\0" + 3 * frame + b";"
    assert read(content) == image_sizes.ImageSize(1000, 100, 3, 100_000)


def test_the_larger_frame_of_a_jpeg_counts():
    content = image_bytes.encode(PIXELS, "JPEG")
    frame = image_bytes.make_segment(0xC0, struct.pack(">BHHB", 8, 30_000, 20_000, 3))
    assert read(image_bytes.insert_segments(content, frame)).pixels == 600_000_000
    # Fill bytes before a marker, and bytes between segments that libjpeg passes over.
    filled = content[:2] + b"\xff\xff" + content[2:20] + b"\0\1\2" + content[20:]
    assert read(filled) == image_sizes.ImageSize(56, 40, 1, 56 * 40)


@pytest.mark.parametrize("form", ["PNG", "BMP", "JPEG", "GIF", "WEBP"])
def test_headers_that_end_early(form):
    content = image_bytes.encode(PIXELS, form)
    whole = read(content)
    sizes = [read(content[:length]) for length in range(12, min(len(content), 400))]
    assert sizes[0] is None
    assert set(sizes) <= {None, whole}


def test_what_is_inside_may_be_of_another_kind():
    assert read(b"RIFF0000WEBPVP9 " + bytes(40)) is None
    assert read(b"RIFF0000WEBPVP8 " + bytes(40)) is None
    assert read(b"RIFF0000WEBPVP8L" + bytes(40)) is None
    assert read(b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT" + bytes(40)) is None
    assert read(b"\xff\xd8\xff\xd9" + bytes(40)) is None


def test_random_damage_never_raises():
    rng = np.random.default_rng(0)
    for form in ("PNG", "BMP", "JPEG", "GIF", "WEBP"):
        content = animate(form, 3) if form in ("GIF", "WEBP") else image_bytes.encode(PIXELS, form)
        for _ in range(200):
            damaged = bytearray(content)
            for place in rng.integers(12, len(content), 8):
                damaged[place] = rng.integers(256)
            read(bytes(damaged))
