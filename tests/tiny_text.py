"""Texts that a bag of words separates, and a small Keras model that takes strings."""

import csv
import pathlib
import random

GOOD = ("lovely", "wonderful", "great", "brilliant")
BAD = ("awful", "dull", "terrible", "boring")
_OTHERS = ("the", "film", "was", "a", "story", "of", "people", "in", "town", "with", "music")


def make_rows(count: int = 60) -> list[tuple[str, str]]:
    """(text, "pos" or "neg") of alternating classes; every text is another."""
    generator = random.Random(0)
    rows = []
    for number in range(count):
        words = generator.sample(_OTHERS, 5) + generator.sample(GOOD if number % 2 else BAD, 2)
        generator.shuffle(words)
        rows.append((f"{' '.join(words)}, {number}", "pos" if number % 2 else "neg"))
    return rows


def write_table(path: pathlib.Path, rows, *, header=("review", "sentiment")) -> str:
    """Writes a CSV in UTF-8 with a BOM."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def make_classifier(*, shape: tuple[int, ...] = (), pooled: bool = True):
    """TextVectorization, Embedding, pooling and a softmax over three classes."""
    import keras

    keras.utils.set_random_seed(0)
    tokens = keras.layers.TextVectorization(output_sequence_length=10, name="tokens")
    tokens.adapt([text for text, _ in make_rows()])
    words = keras.Input(shape, dtype="string", name="words")
    size = tokens.vocabulary_size()
    x = keras.layers.Embedding(size, 8, mask_zero=True, name="embedding")(tokens(words))
    if pooled:
        x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
        x = keras.layers.Dense(3, activation="softmax", name="classes")(x)
    return keras.Model(words, x, name="words_to_classes")
