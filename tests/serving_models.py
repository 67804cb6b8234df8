"""Small trained-looking models, specs and encoded images for the tests of the export."""

import keras
import numpy as np
import tensorflow as tf

from tests import tiny
from tf_finetune import head_kinds
from tf_finetune.data import preprocessing

SIZE = 12
MULTICLASS = head_kinds.HeadInfo("label", "multiclass", ("blue", "green", "red"))
REGRESSION = head_kinds.HeadInfo("age", "regression", (), mean=3.0, deviation=2.0)
BINARY = head_kinds.HeadInfo("sharp", "binary", ("no", "yes"), thresholds=(0.5,))
MULTILABEL = head_kinds.HeadInfo(
    "tags", "multilabel", ("indoor", "night", "snow", "water"), thresholds=(0.5,) * 4
)


def make_spec(*, channels: int = 3) -> preprocessing.PreprocessingSpec:
    return preprocessing.PreprocessingSpec(
        height=SIZE, width=SIZE, channels=channels, resize="squash", pixel_max=None
    )


def make_model(*heads: head_kinds.HeadInfo, channels: int = 3, dtype: str = "float32"):
    """Pixels 0..255 to logits, with random BatchNormalization statistics and a nested backbone."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIZE, SIZE, channels), name="pixels")
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, dtype=dtype)(pixels)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.ReLU(dtype=dtype)(x)
    backbone = keras.Model(pixels, x, name="backbone")
    image = keras.Input((SIZE, SIZE, channels), name="image")
    x = backbone(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    x = keras.layers.Dropout(0.5)(x)
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    outputs = {
        head.name: keras.layers.Dense(
            head_kinds.num_logits(head.kind, len(head.classes)),
            kernel_initializer=wide,
            name=f"{head.name}_logits",
        )(x)
        for head in heads
    }
    model = keras.Model({"image": image}, outputs)
    tiny.randomize_statistics(model)
    return model


def make_pixels(count: int, *, size: tuple[int, int] = (SIZE, SIZE), channels: int = 3):
    generator = np.random.default_rng(3)
    return generator.integers(0, 256, (count, *size, channels)).astype(np.uint8)


def encode_pngs(pixels: np.ndarray) -> list[bytes]:
    return [tf.io.encode_png(image).numpy() for image in pixels]


def model_probabilities(model, pixels: np.ndarray, head: head_kinds.HeadInfo) -> np.ndarray:
    logits = model({"image": tf.constant(pixels, tf.float32)}, training=False)[head.name]
    return head_kinds.probabilities(logits.numpy(), head.kind)
