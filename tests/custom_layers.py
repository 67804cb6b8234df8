"""A user's module of custom layers, written as text into a test's folder."""

import pathlib

# One layer is registered, one is only defined, and a function is an activation.
SOURCE = """
import keras
import numpy as np
from keras import ops
from math import sqrt


@keras.saving.register_keras_serializable(package="{package}")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


class Shift(keras.layers.Layer):
    def __init__(self, by=1.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return x + self.by

    def get_config(self):
        return {{**super().get_config(), "by": self.by}}


def soft_steps(x):
    return ops.tanh(x) + 0.1 * x
"""


def write_module(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Writes the module NAME.py; its registered layer's package is NAME."""
    path = folder / f"{name}.py"
    path.write_text(SOURCE.format(package=name))
    return path


def save_classifier(module, *paths: pathlib.Path) -> None:
    """Saves an image classifier that has both layers and the function, to each path."""
    import keras

    from tests import tiny

    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3), name="pixels")
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv")(inputs)
    x = module.Scale(name="scale")(x)
    x = keras.layers.Activation(module.soft_steps, name="steps")(x)
    x = module.Shift(0.5, name="shift")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_b")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(5, activation="softmax", name="classifier")(x)
    model = keras.Model(inputs, outputs)
    tiny.randomize_statistics(model)
    model.get_layer("scale").factor.assign([0.5, 1.5, 1, 2, 0.7, 1.2])
    for path in paths:
        model.save(path)
