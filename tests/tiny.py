"""Real models and data, small enough for a test."""

import pathlib

import numpy as np

COLORS = {"blue": (30, 40, 220), "green": (30, 200, 60), "red": (220, 40, 30)}


def write_color_folder(folder: pathlib.Path, *, per_class: int = 10, size: int = 12) -> None:
    """Writes class folders of solid colours with a little noise, as PNG."""
    import PIL.Image

    generator = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = generator.integers(-20, 21, (size, size, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")


def make_classifier(*, size: int = 12, channels: int = 3, num_classes: int = 5, seed: int = 0):
    """A functional image classifier with BatchNormalization of random statistics."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, channels), name="pixels")
    x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv_a")(inputs)
    x = keras.layers.BatchNormalization(name="norm_a")(x)
    x = keras.layers.ReLU(name="relu_a")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv_b")(x)
    x = keras.layers.BatchNormalization(name="norm_b")(x)
    x = keras.layers.ReLU(name="relu_b")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax", name="classifier")(x)
    model = keras.Model(inputs, outputs, name="tiny")
    randomize_statistics(model, seed=seed)
    return model


def randomize_statistics(model, *, seed: int = 0) -> None:
    """Gives biases and BatchNormalization random values: fresh ones hide swapped weights."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(generator.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
