"""What predict reads of files that somebody else made."""

import os

import numpy as np

from tests.data import image_bytes
from tf_finetune import prediction_images

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def write(path, content):
    path.write_bytes(content)
    return str(path)


def test_an_image_comes_as_it_is(tmp_path):
    content = image_bytes.make_png(PIXELS)
    assert prediction_images.read_image(write(tmp_path / "a.png", content)) == (content, "")


def test_a_promise_of_too_many_pixels(tmp_path):
    content = bytearray(image_bytes.make_png(PIXELS))
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    path = write(tmp_path / "bomb.png", bytes(content))
    assert prediction_images.read_image(path) == (
        b"",
        "is too large: 40000 x 40000 = 1,600,000,000 pixels, more than --max_image_pixels=89478485",
    )
    assert prediction_images.read_image(path, max_pixels=2 * 10**9) == (bytes(content), "")


def test_what_is_no_image(tmp_path):
    path = write(tmp_path / "a.txt", b"hello")
    assert prediction_images.read_image(path) == (
        b"",
        "is no image that can be decoded: it begins with 'hello'",
    )
    cut = write(tmp_path / "cut.png", image_bytes.make_png(PIXELS)[:18])
    assert prediction_images.read_image(cut) == (
        b"",
        "is no image that can be decoded: its PNG data is damaged, cut off or of an unsupported "
        "kind",
    )
    os.mkfifo(tmp_path / "fifo")
    assert prediction_images.read_image(str(tmp_path / "fifo")) == (b"", "is a pipe, not a file")
    assert prediction_images.read_image(str(tmp_path / "none.png")) == (
        b"",
        "does not exist (a broken link, or removed meanwhile)",
    )
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(prediction_images.MAX_FILE_BYTES + 1)
    assert prediction_images.read_image(str(tmp_path / "sparse.jpg")) == (
        b"",
        "is larger than 512 MiB",
    )
