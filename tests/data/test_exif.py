import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune.data import exif, preprocessing

JPEG = image_bytes.encode(image_bytes.gradient(24, 40), "JPEG", quality=95)


READ = tf.function(exif.read_orientation, [tf.TensorSpec([], tf.string)], autograph=False)


def read(contents):
    return int(READ(tf.constant(contents)))


def decode(contents, height, width):
    spec = preprocessing.PreprocessingSpec(height, width, 3)
    return preprocessing.decode_image(tf.constant(contents), spec).numpy()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_turns_photographs_like_pillow(orientation, order):
    contents = image_bytes.insert_segments(JPEG, image_bytes.make_exif(orientation, order=order))
    expected = image_bytes.decode_with_pillow(contents)
    assert expected.shape == ((40, 24, 3) if orientation >= 5 else (24, 40, 3))
    np.testing.assert_array_equal(decode(contents, *expected.shape[:2]), expected)
    assert read(contents) == orientation


def test_exif_written_by_pillow_is_read():
    entries = PIL.Image.Exif()
    entries[0x010F] = "A camera maker of some length"
    entries[0x0112] = 6
    contents = image_bytes.encode(
        PIL.Image.fromarray(image_bytes.gradient(24, 40)), "JPEG", exif=entries
    )
    assert PIL.Image.open(io.BytesIO(contents)).getexif()[0x0112] == 6
    assert read(contents) == 6


def test_exif_before_app0_behind_other_segments_and_fill_bytes():
    six = image_bytes.make_exif(6, before=5)
    profile = image_bytes.make_segment(0xE2, b"ICC_PROFILE\0" + bytes(65000))
    comment = image_bytes.make_segment(0xFE, b"Exif\0\0 is the text of this comment")
    xmp = image_bytes.make_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    assert read(image_bytes.insert_segments(JPEG, six, after_app0=False)) == 6
    assert read(image_bytes.insert_segments(JPEG, profile, profile, comment, xmp, six)) == 6
    assert read(image_bytes.insert_segments(JPEG, b"\xff\xff\xff" + six)) == 6
    assert read(image_bytes.insert_segments(JPEG, six, image_bytes.make_exif(3))) == 6


def test_no_exif_is_upright():
    assert read(JPEG) == 1


def make_malformed():
    six = image_bytes.make_exif(6)
    tiff = 10
    cases = {
        "cut_segment": image_bytes.make_segment(0xE1, six[4:20]),
        "only_identifier": image_bytes.make_segment(0xE1, b"Exif\0\0"),
        "no_byte_order": six.replace(b"MM", b"XX"),
        "wrong_magic": six[: tiff + 2] + b"\0\x2b" + six[tiff + 4 :],
        "directory_far_away": six[: tiff + 4] + b"\xff\xff\xff\xff" + six[tiff + 8 :],
        "directory_behind_the_end": six[: tiff + 4] + b"\0\0\0\x40" + six[tiff + 8 :],
        "no_entries": six[: tiff + 8] + b"\0\0" + six[tiff + 10 :],
        "value_0": image_bytes.make_exif(0),
        "value_9": image_bytes.make_exif(9),
        "value_of_another_type": image_bytes.make_exif(6, kind=2),
        "zeros": image_bytes.make_segment(0xE1, b"Exif\0\0" + bytes(50)),
    }
    return {name: image_bytes.insert_segments(JPEG, segment) for name, segment in cases.items()}


@pytest.mark.parametrize("name", make_malformed())
def test_malformed_exif_is_harmless(name):
    contents = make_malformed()[name]
    assert read(contents) == 1
    np.testing.assert_array_equal(decode(contents, 24, 40), decode(JPEG, 24, 40))


def test_more_entries_promised_than_there_are():
    six = image_bytes.make_exif(6)
    contents = image_bytes.insert_segments(JPEG, six[:18] + b"\xff\xff" + six[20:])
    assert read(contents) == 6


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8\xff\xe1\0\0",
        b"\xff\xd8" + b"\xff" * 5000,
        b"\xff\xd8" + b"\xff\xe1\0\2" * 5000,
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0MM\0\x2a",
    ],
)
def test_damaged_jpegs_end_the_search(contents):
    assert read(contents) == 1


def test_exif_behind_the_frame_header_is_not_looked_for():
    start_of_frame = JPEG.index(b"\xff\xc0")
    contents = JPEG[:start_of_frame] + image_bytes.make_segment(0xC0, b"") + JPEG[2:]
    assert read(contents + image_bytes.make_exif(6)) == 1


JPEGS = {
    "plain": JPEG,
    "turned": image_bytes.insert_segments(JPEG, image_bytes.make_exif(6)),
    "behind_profiles": image_bytes.insert_segments(
        JPEG,
        *[image_bytes.make_segment(0xE2, b"ICC_PROFILE\0" + bytes(65000))] * 3,
        b"\xff\xff\xff" + image_bytes.make_exif(8),
    ),
    "endless": b"\xff\xd8" + b"\xff\xe1\0\2" * 5000,
    "fill_bytes": b"\xff\xd8" + b"\xff" * 5000,
    "empty": b"",
    "one_byte": b"\xff",
    "cut_in_a_segment": image_bytes.insert_segments(JPEG, image_bytes.make_exif(6))[:40],
    **make_malformed(),
}


@pytest.mark.parametrize("name", JPEGS)
def test_the_head_of_a_file_says_what_the_file_says(name):
    contents = JPEGS[name]
    head = exif.read_head(io.BytesIO(contents))
    assert contents.startswith(head)
    assert read(head) == read(contents)


def test_only_the_head_is_read():
    contents = JPEGS["behind_profiles"]
    start_of_frame = contents.index(b"\xff\xc0")
    file = Counted(contents + bytes(10**7))
    head = exif.read_head(file)
    assert (len(head), read(head)) == (start_of_frame + 10, 8)
    assert file.num_read < len(head) + 1000


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    num_read = 0

    def read(self, size=-1):
        content = super().read(size)
        self.num_read += len(content)
        return content
