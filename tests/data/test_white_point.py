import os

import numpy as np
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune.data import image_stores, white_point


def write_pngs(folder, images):
    paths = np.empty(len(images), object)
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        path.write_bytes(image_bytes.make_png(image))
        paths[number] = os.fsencode(path)
    return paths


def measure(paths):
    return white_point.measure_files(image_stores.PathImages(paths), np.arange(len(paths)))


def test_hot_pixels_and_alpha_do_not_set_the_white(tmp_path):
    image = np.full((100, 100, 4), 1000, np.uint16)
    image[0, 0, :3] = 60000
    image[..., 3] = 65535
    assert measure(write_pngs(tmp_path, [image, image])) == 1000


def test_white_is_a_percentile_over_all_images(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 65536, (5, 61, 60, 3)).astype(np.uint16)
    white = measure(write_pngs(tmp_path, images))
    assert white == np.percentile(images, 99.9, method="inverted_cdf")


def test_black_images_have_a_white(tmp_path):
    assert measure(write_pngs(tmp_path, np.zeros((1, 4, 4, 1), np.uint16))) == 1


def test_at_most_500_images_are_read(tmp_path):
    images = [np.full((1, 1, 1), number, np.uint16) for number in (7, 50000)]
    dark, bright = write_pngs(tmp_path, images)
    paths = np.full(1000, dark, object)
    # The first and the last are read, and every second in between.
    paths[499] = bright
    assert measure(paths) == 7
    paths[0] = paths[999] = bright
    assert measure(paths) == 50000


def test_files_that_cannot_be_decoded_are_passed_over(tmp_path):
    paths = write_pngs(tmp_path, np.full((3, 4, 4, 1), 9, np.uint16))
    os.truncate(paths[0], 40)
    assert measure(paths) == 9
    assert measure(paths[:1]) is None


@pytest.mark.parametrize("encoded", [True, False])
def test_a_stream_is_measured_on_the_examples_asked_for(encoded):
    images = np.arange(1, 6, dtype=np.uint16)[:, None, None, None] * np.ones(
        (1, 3, 3, 1), np.uint16
    )
    elements = [image_bytes.make_png(image) for image in images] if encoded else images
    stream = image_stores.StreamImages(
        lambda: tf.data.Dataset.from_tensor_slices(elements), len(images)
    )
    assert white_point.measure_stream(stream, np.array([3, 0])) == 4


def test_a_stream_of_8_bits_has_no_white():
    files = [image_bytes.encode(image_bytes.gradient(), "PNG")]
    stream = image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(files), 1)
    assert white_point.measure_stream(stream, np.array([0])) is None
