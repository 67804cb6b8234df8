import pytest

from tests.data import image_bytes
from tf_finetune.data import image_ends, image_formats

FORMS = {
    "JPEG": "is cut off: a JPEG without its end mark",
    "PNG": "is cut off: a PNG without its last chunk",
    "GIF": "is cut off: a GIF without its trailer",
    "WebP": "is cut off: a WebP of ",
}


def encode(form, **options):
    content = image_bytes.encode(image_bytes.gradient(), form.upper(), **options)
    assert image_formats.find_format(content) == form
    return content


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_image_and_a_cut_one(form):
    content = encode(form)
    assert image_ends.find_cut(content, form) == ""
    assert image_ends.find_cut(content + bytes(9), form) == ""
    for part in (len(content) // 2, len(content) - 8 if form == "PNG" else len(content) - 1):
        assert image_ends.find_cut(content[:part], form).startswith(FORMS[form])


def test_the_end_of_a_thumbnail_is_not_the_end():
    thumbnail = encode("JPEG")
    segment = image_bytes.make_segment(0xE1, b"Exif\0\0" + thumbnail)
    content = image_bytes.insert_segments(encode("JPEG"), segment)
    assert image_ends.find_cut(content, "JPEG") == ""
    assert image_ends.find_cut(content[:-2], "JPEG") == FORMS["JPEG"]
    # Photographs may carry more behind their end.
    assert image_ends.find_cut(content + b"Samsung trailer", "JPEG") == ""


def test_odd_segments():
    start, rest = encode("JPEG")[:2], encode("JPEG")[2:]
    assert image_ends.find_cut(start + b"\0\0\xff" + rest, "JPEG") == ""
    assert image_ends.find_cut(start + b"\xff\x01" + rest, "JPEG") == ""
    assert image_ends.find_cut(start + b"no segment at all", "JPEG") == FORMS["JPEG"]
    assert image_ends.find_cut(b"BM", "BMP") == ""
