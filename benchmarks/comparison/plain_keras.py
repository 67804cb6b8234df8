"""Fine-tuning as Keras's own transfer-learning guide does it; a contender of `benchmarks.compare`.

Reference: keras.io, "Transfer learning & fine-tuning".
"""

import argparse
import json
import os
import pathlib
import time

from benchmarks.comparison import backbones, images

START = time.perf_counter()


def main() -> None:
    """Trains, measures on the test split and writes what it found."""
    options = parse()
    import keras

    keras.utils.set_random_seed(0)
    seconds = {"import": time.perf_counter() - START}
    start = time.perf_counter()
    train, validation, test = (
        keras.utils.image_dataset_from_directory(
            os.path.join(options.data, split),
            image_size=(options.size, options.size),
            batch_size=options.batch_size,
            shuffle=split == images.TRAIN,
            seed=0,
            verbose=False,
        )
        for split in images.SPLITS
    )
    model = make_model(options, num_classes=len(train.class_names))
    seconds["model and data"] = time.perf_counter() - start
    start = time.perf_counter()
    model.fit(train, validation_data=validation, epochs=options.epochs, verbose=2)
    seconds["train"] = time.perf_counter() - start
    _, accuracy = model.evaluate(test, verbose=0)
    facts = {"accuracy": accuracy, "parts": {key: round(secs, 2) for key, secs in seconds.items()}}
    pathlib.Path(options.facts).write_text(json.dumps(facts))


def parse() -> argparse.Namespace:
    """The options that all scripts of a training loop share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", choices=backbones.NETWORKS, required=True)
    parser.add_argument("--model", help="of random_model")
    parser.add_argument("--data", required=True, help="folder of train, validation and test")
    parser.add_argument("--facts", required=True, help="gets what was measured, as JSON")
    parser.add_argument("--what", choices=backbones.WHATS, required=True)
    parser.add_argument("--batch_norm", choices=("held", "train"), required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    return parser.parse_args()


def make_model(options: argparse.Namespace, *, num_classes: int):
    """The backbone, frozen as asked, with a new classifier, compiled."""
    import keras

    network = backbones.NETWORKS[options.backbone]
    base = keras.saving.load_model(options.model, compile=False)
    base.trainable = options.what != "frozen"
    if options.what == "partial":
        names = [layer.name for layer in base.layers]
        for layer in base.layers[: names.index(network.frozen_until) + 1]:
            layer.trainable = False
    inputs = keras.Input((options.size, options.size, 3))
    pixels = getattr(keras.applications, network.keras_module).preprocess_input(inputs)
    features = base(pixels) if options.batch_norm == "train" else base(pixels, training=False)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    outputs = keras.layers.Dense(num_classes, activation="softmax")(pooled)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(options.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


if __name__ == "__main__":
    main()
