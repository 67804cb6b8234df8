"""Which head phase is best on frozen features: rate, epochs, dropout.

    python benchmarks/head_recipe.py --model=MODEL --data=FOLDER [--seeds=5] [--repeats=3]

Computes the features of all images once, then trains the head alone for each setting and seed,
with the run's own splits, loss, optimizer and batch size, and prints the mean test accuracy of the
weights with the best validation cross-entropy. README.md, "The recipe", quotes it.
"""

import argparse
import itertools
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tf_finetune as tff
from tf_finetune import optimizers
from tf_finetune.data import pipeline, samples

BATCH_SIZE = 32


def compute_features(model_path, data):
    """(features float32 [n, d], row of each key)"""
    spec = tff.DataSpec(data=data)
    splits = tff.load_data(spec)
    backbone = tff.load_backbone(tff.ModelSpec(model=model_path))
    prepared = tff.make_preprocessing(spec, input_shape=backbone.input_shape)
    splits, prepared, _ = tff.read_images(splits, prepared, on_bad_example="error")
    if backbone.pixel_range is None:
        sample = samples.sample_pixels(splits.train, prepared, count=64, seed=0)
        backbone = tff.settle_pixel_range(backbone, sample)
    infos = splits.heads
    model = tff.attach_heads(backbone, heads=[tff.HeadSpec(name="label", dropout=0.0)], infos=infos)
    extract = keras.Model(model.input, model.get_layer("label_logits").input)
    rows, features = {}, []
    for split in (splits.train, splits.validation, splits.test):
        dataset = pipeline.make_dataset(split, prepared, batch_size=64)
        for key in split.keys:
            rows[key] = len(rows)
        features.append(extract.predict(dataset, verbose=0))
    return np.concatenate(features), rows


def train_head(parts, *, seed, rate, epochs, dropout, num_classes):
    """(test, validation) accuracy of the epoch with the best validation cross-entropy"""
    keras.utils.set_random_seed(seed)
    (x, y), (x_validation, y_validation), (x_test, y_test) = parts
    inputs = keras.Input(x.shape[1:])
    outputs = keras.layers.Dense(num_classes)(keras.layers.Dropout(dropout)(inputs))
    model = keras.Model(inputs, outputs)
    phase = tff.PhaseSpec(
        name="head", epochs=epochs, learning_rate=rate, schedule="cosine",
        warmup_fraction=0.0, gradient_clip_norm=0.0,
    )  # fmt: skip
    steps = math.ceil(len(x) / BATCH_SIZE) * epochs
    model.compile(
        optimizer=optimizers.make_optimizer(
            phase, num_steps=steps, weight_decay=0.0, variables=model.variables, precision="float32"
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    best = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    model.fit(
        x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[best],
        validation_data=(x_validation, y_validation), validation_batch_size=4096,
    )  # fmt: skip

    def accuracy(features, labels):
        return float((model(features).numpy().argmax(1) == labels).mean())

    return accuracy(x_test, y_test), accuracy(x_validation, y_validation)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="initialisations per split")
    parser.add_argument("--rates", default="1e-3,3e-3,1e-2")
    parser.add_argument("--epochs", default="20,40")
    parser.add_argument("--dropouts", default="0.2")
    options = parser.parse_args()
    features, rows = compute_features(options.model, options.data)
    print("| rate | epochs | dropout | test accuracy | validation accuracy |")
    print("|---|---|---|---|---|")
    settings = itertools.product(
        map(float, options.rates.split(",")),
        map(int, options.epochs.split(",")),
        map(float, options.dropouts.split(",")),
    )
    for rate, epochs, dropout in settings:
        results = []
        for seed, repeat in itertools.product(range(options.seeds), range(options.repeats)):
            splits = tff.load_data(tff.DataSpec(data=options.data), seed=seed)
            parts = [
                (features[[rows[key] for key in split.keys]], split.labels["label"])
                for split in (splits.train, splits.validation, splits.test)
            ]
            results.append(
                train_head(
                    parts,
                    seed=seed + 1000 * repeat,
                    rate=rate,
                    epochs=epochs,
                    dropout=dropout,
                    num_classes=len(splits.heads[0].classes),
                )
            )
        test, validation = np.array(results).T
        print(
            f"| {rate:g} | {epochs} | {dropout:g} | {test.mean():.4f} +- {test.std(ddof=1):.4f} "
            f"| {validation.mean():.4f} +- {validation.std(ddof=1):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
