import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data import antialiasing

# Smaller, larger, of the same size, one way each, and single rows and columns.
SIZES = ((97, 131), (31, 300), (200, 17), (150, 90), (1, 40), (44, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_bits_are_those_of_tensorflow(dtype):
    generator = np.random.default_rng(0)
    for height, width in SIZES:
        for channels in (1, 3, 4):
            image = (generator.random((height, width, channels)) * 255).astype(dtype)
            for size in ((97, 131), (23, 24), (120, 30), (1, 1)):
                expected = tf.image.resize(image, size, antialias=True)
                resized = antialiasing.resize(tf.constant(image), *size)
                np.testing.assert_array_equal(
                    resized.numpy().view(np.int32), expected.numpy().view(np.int32)
                )


def test_sizes_may_be_known_only_to_the_graph():
    @tf.function(
        input_signature=[tf.TensorSpec([None] * 3, tf.uint8), tf.TensorSpec([2], tf.int32)]
    )
    def resize(image, size):
        return antialiasing.resize(image, size[0], size[1])

    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    expected = tf.image.resize(image, (7, 60), antialias=True)
    np.testing.assert_array_equal(resize(image, [7, 60]), expected)
