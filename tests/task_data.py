"""Tables of solid colours for each task, small enough for a test."""

import csv
import pathlib
import random

import numpy as np

# Each colour is a set of primaries, so that a sigmoid per primary can be right everywhere.
PRIMARIES = {"red": (210, 30, 30), "green": (30, 210, 30), "blue": (30, 30, 210)}


def write_images(folder: pathlib.Path, *, count: int, size: int = 12) -> list[np.ndarray]:
    """Writes images/NNN.png of one of eight colours each; returns which primaries each has."""
    import PIL.Image

    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    present = []
    for number in range(count):
        flags = np.array([(number >> bit) & 1 for bit in range(3)])
        noise = generator.integers(-15, 16, (size, size, 3))
        pixels = np.clip(40 + 170 * flags + noise, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        present.append(flags)
    return present


def write_model(path: pathlib.Path, *, size: tuple[int, int] = (12, 12)) -> pathlib.Path:
    """Writes a classifier of images of a height and width that heads learn on in seconds.

    Its features are each primary and its lack, as is its map at every pixel.
    """
    import keras

    pixels = keras.Input((*size, 3), name="pixels")
    x = keras.layers.Conv2D(6, 1, activation="relu", name="primaries")(pixels)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(5, activation="softmax", name="classifier")(x)
    model = keras.Model(pixels, outputs)
    kernel = 2 * np.concatenate([np.eye(3), -np.eye(3)], axis=1)
    model.get_layer("primaries").set_weights(
        [kernel.reshape(1, 1, 3, 6), np.array([-1.0] * 3 + [1.0] * 3)]
    )
    model.save(path)
    return path


def write_table(
    folder: pathlib.Path,
    columns: dict[str, list[str]],
    *,
    first: int = 0,
    shuffled: bool = False,
) -> pathlib.Path:
    """Writes labels.csv of the images from `first` on; `shuffled` makes the labels random."""
    rows = list(zip(*columns.values(), strict=True))
    if shuffled:
        random.Random(0).shuffle(rows)
    path = folder / "labels.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *columns])
        for number, row in enumerate(rows, start=first):
            writer.writerow([f"images/{number:03d}.png", *row])
    return path


def make_columns(present: list[np.ndarray]) -> dict[str, list[str]]:
    """Label columns of every form, from which primaries each image has.

    Returns:
      count: "none", "one", "two" or "three" primaries; tags: their names joined by "|"; has_red,
      has_green, has_blue: 0 or 1; brightness: a number; bright: "no" or "yes".
    """
    names = tuple(PRIMARIES)
    words = ("none", "one", "two", "three")
    return {
        "count": [words[int(flags.sum())] for flags in present],
        "tags": ["|".join(np.array(names)[flags == 1]) for flags in present],
        **{f"has_{name}": [str(f[bit]) for f in present] for bit, name in enumerate(names)},
        "brightness": [f"{1000 + 10.5 * flags.sum():g}" for flags in present],
        "bright": ["yes" if flags.sum() >= 2 else "no" for flags in present],
    }
