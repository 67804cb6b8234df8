import keras

from tests.feature_cache import test_prefix
from tf_finetune.feature_cache import costs


def test_a_kernel_counts_at_each_place_of_its_output():
    model = keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            keras.layers.Conv2D(5, 3, padding="same", strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(7),
            keras.layers.Dense(4),
        ]
    )
    # 4 x 3 places of 3*3*3 times 5; 2 x 1 places of 3*3*5; a product with 5 times 7.
    assert costs.count_products(test_prefix.cut(model, count=5)) == 12 * 135 + 2 * 45 + 35
