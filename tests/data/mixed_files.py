"""Tables of images or texts beside columns, and networks that take both."""

import csv
import pathlib

import numpy as np

NAMES = ("photo", "age", "sex", "label")
# (bright, age above 50) -> sums of bits, in the order of the rows.
_WORDS = (("plain", "dull"), ("bright", "shiny"))


def make_rows(count: int = 120, *, decides: str = "both", seed: int = 0):
    """Which of two pictures each row has, its columns and its label.

    Args:
      count: of rows.
      decides: "columns" (age and sex say the label), "image" (bright or dark says it) or "both"
        (the image's bit exclusive-or the columns').
      seed: of ages and order.

    Returns:
      [(whether it is bright, age, sex, label)].
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        is_bright, is_old = number % 2, number // 2 % 2
        age = f"{generator.uniform(60, 90) if is_old else generator.uniform(5, 30):.1f}"
        sex = "f" if is_old else ("m", "d")[number // 4 % 2]
        bit = {"columns": is_old, "image": is_bright, "both": is_bright ^ is_old}[decides]
        rows.append((is_bright, age, sex, ("no", "yes")[bit]))
    return rows


def write_images(folder: pathlib.Path, rows, *, size: int = 8) -> pathlib.Path:
    """Writes photos/NNN.png, dark or bright with noise, and table.csv."""
    import PIL.Image

    generator = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    cells = []
    for number, (is_bright, *others) in enumerate(rows):
        pixels = (190 if is_bright else 40) + generator.integers(-30, 31, (size, size, 3))
        name = f"photos/{number:03d}.png"
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        cells.append([name, *others])
    return write_table(folder / "table.csv", cells)


def write_texts(folder: pathlib.Path, rows) -> pathlib.Path:
    """Writes table.csv with a sentence of dull or bright words in each row."""
    cells = []
    for number, (is_bright, *others) in enumerate(rows):
        words = _WORDS[is_bright]
        text = f"number {number} {words[number // 8 % 2]} thing {words[0]}"
        cells.append([text, *others])
    return write_table(folder / "table.csv", cells, names=("review", *NAMES[1:]))


def write_table(path: pathlib.Path, rows, *, names=NAMES) -> pathlib.Path:
    """Writes a .csv, .tsv or .jsonl of cells."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
        else:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(names)
            writer.writerows(rows)
    return path


def make_image_network(*, size: int = 8):
    """A classifier of images whose features are brightness and its lack."""
    import keras

    keras.utils.set_random_seed(0)
    pixels = keras.Input((size, size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pixels)
    x = keras.layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="old")(x))
    kernel = np.array([1.0, -1.0, 1.0, -1.0]) * np.ones((1, 1, 3, 4)) / 2
    model.get_layer("conv").set_weights([kernel, np.zeros(4)])
    return model


def make_text_network(*, name: str = "text"):
    """A classifier of texts by the mean of trained vectors of words."""
    import keras

    keras.utils.set_random_seed(0)
    text = keras.Input((), name=name, dtype="string")
    words = ["plain", "dull", "bright", "shiny", "thing", "number"]
    ids = keras.layers.TextVectorization(vocabulary=words, output_sequence_length=5, name="words")(
        text
    )
    x = keras.layers.Embedding(len(words) + 2, 8, name="vectors")(ids)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(text, keras.layers.Dense(3, activation="softmax", name="old")(x))


def make_named_network(*, of_text: bool = False, size: int = 8):
    """A classifier of an image or a text, an age and a sex, each an input by its name."""
    import keras

    keras.utils.set_random_seed(0)
    age = keras.Input((1,), name="age")
    sex = keras.Input((), name="sex", dtype="string")
    alone = make_text_network(name="review") if of_text else make_image_network(size=size)
    main = alone.inputs[0]
    scaled = keras.layers.Normalization(mean=[50.0], variance=[900.0], name="scaled")(age)
    code = keras.layers.StringLookup(vocabulary=["f", "m"], output_mode="one_hot", name="code")(sex)
    x = keras.layers.Concatenate(name="together")([alone.layers[-2].output, scaled, code])
    x = keras.layers.Dense(32, activation="relu", name="mix")(x)
    return keras.Model(
        [age, main, sex], keras.layers.Dense(3, activation="softmax", name="old")(x), name="named"
    )
