"""Small tables of numbers, and the networks that take them."""

import csv
import json
import pathlib

import numpy as np

NAMES = ("x0", "x1", "x2", "x3")
CLASSES = ("left", "middle", "right")


def make_rows(count: int = 60, *, seed: int = 0) -> list[list[str]]:
    """x0 to x3 and a class that they separate, as cells."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        numbers = generator.normal(0, 1, len(NAMES))
        numbers[number % 3] += 8
        rows.append([*(f"{value:.4f}" for value in numbers), CLASSES[number % 3]])
    return rows


def write_table(path: pathlib.Path, rows, *, header=(*NAMES, "label")) -> str:
    """Writes a .csv, .tsv or .jsonl."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(header, row, strict=True))) + "\n")
        return str(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def make_network(num_columns: int = len(NAMES)):
    """A classifier of one vector, of five other classes."""
    import keras

    keras.utils.set_random_seed(0)
    features = keras.Input((num_columns,), name="features")
    x = keras.layers.Dense(32, activation="relu", name="dense_a")(features)
    x = keras.layers.Dense(16, activation="relu", name="dense_b")(x)
    return keras.Model(features, keras.layers.Dense(5, activation="softmax", name="old")(x))


def make_mixed_network():
    """A classifier of a number, a number of shape [1], a string and a whole number."""
    import keras

    keras.utils.set_random_seed(0)
    age = keras.Input((), name="age")
    income = keras.Input((1,), name="income")
    color = keras.Input((), name="color", dtype="string")
    kids = keras.Input((), name="kids", dtype="int32")
    lookup = keras.layers.StringLookup(vocabulary=["red", "green", "blue"], name="lookup")
    parts = [
        keras.layers.Reshape((1,), name="column")(age),
        income,
        keras.layers.Embedding(4, 3, name="color_rows")(lookup(color)),
        keras.layers.Embedding(10, 2, name="kids_rows")(kids),
    ]
    x = keras.layers.Concatenate(name="together")(parts)
    x = keras.layers.Dense(16, activation="relu", name="dense")(x)
    x = keras.layers.Dense(2, activation="softmax", name="old")(x)
    return keras.Model([age, income, color, kids], x, name="mixed")
