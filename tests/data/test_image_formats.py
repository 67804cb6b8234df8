import numpy as np
import pytest

from tests.data import image_bytes
from tf_finetune.data import image_formats

RGB = image_bytes.gradient(4, 4)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("BMP", "BMP"), ("GIF", "GIF"), ("WEBP", "WebP")],
)
def test_find_format_knows_what_pillow_wrote(form, expected):
    assert image_formats.find_format(image_bytes.encode(RGB, form)) == expected


def test_find_format_finds_nothing_else():
    for head in (b"", b"BA", b"RIFF\0\0\0\0WAVE", b"\0" * 160, b"GIF80a"):
        assert image_formats.find_format(head) is None


def test_has_16_bits_only_for_such_png():
    wide = image_bytes.make_png(np.zeros((2, 2, 3), np.uint16))
    assert image_formats.has_16_bits(wide)
    assert not image_formats.has_16_bits(image_bytes.encode(RGB, "PNG"))
    assert not image_formats.has_16_bits(wide[:20])
    assert not image_formats.has_16_bits(b"\0" * 24 + b"\x10")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "it is empty"),
        (b"MM\0*", "it is a TIFF file, which is not supported; convert it to PNG"),
        (b"\0" * 128 + b"DICM", "it is a DICOM file, which is not supported; convert it to PNG"),
        (
            b"\0\0\0\x18ftypheic",
            "it is a HEIF or AVIF file, which is not supported; convert it to JPEG",
        ),
        (b"%PDF-1.7", "it is a PDF file, not an image"),
        (b"<html>\xe9\x1b[0m", "it begins with '<html>\\xe9\\x1b[0m'"),
        (b"BM....", "its BMP data is damaged, cut off or of an unsupported kind"),
    ],
)
def test_describe_bad_image(head, expected):
    assert image_formats.describe_bad_image(head) == f"is no image that can be decoded: {expected}"


def test_read_head_of_an_unreadable_file(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    head, reason = image_formats.read_head(bytes(loop))
    assert (head, reason) == (b"", "cannot be read: Too many levels of symbolic links")
