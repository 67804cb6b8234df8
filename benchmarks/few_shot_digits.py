"""Few digits, many networks: what the embedded pretrained network is worth.

    python benchmarks/few_shot_digits.py

From scikit-learn's 1,797 digits, K per class (2, 5, 10; seeds 0 to 4) train, and all the others
test. Three families see the very same examples:

- transfer: the frozen convolutions of configs/pretrained/mnist_cnn.h5 and a new head in the
  default recipe's manner (dropout 0.2, Adam 3e-3, cosine to 0, batches of 32, max(20 epochs,
  1,000 steps) but at most 200 epochs, which is 200 steps with 20 examples, 400 with 50, 800 with
  100);
- networks from scratch: the same architecture and two smaller ones, each with and without
  BatchNormalization, at the learning rate and the augmentation (or none) that do best with 5 per
  class, 600 steps, and the best of each K again with 1,500;
- classical: k nearest neighbours, logistic regression and an SVM on the pixels, at the setting and
  the augmentation (or none) of the best mean.

Everything but the transfer is tuned on the test accuracy itself, which favours it. Nothing of the
transfer's head is tuned; what its pretraining knows of these digits is in
configs/pretrained/PROVENANCE.md. Beside it stands the pretrained network without any fine-tuning:
its ten classes are these. Prints a Markdown table of mean and standard deviation (n - 1) over the
seeds; progress goes to stderr. Runs on one thread, about twelve minutes of processor time.
"""

import argparse
import dataclasses
import datetime
import functools
import itertools
import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import scipy.ndimage
import scipy.stats
import sklearn
import sklearn.datasets
import sklearn.linear_model
import sklearn.neighbors
import sklearn.svm
import tensorflow as tf

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "configs" / "pretrained" / "mnist_cnn.h5"
NUM_CLASSES = 10
EXAMPLES_PER_CLASS = (2, 5, 10)
SEEDS = (0, 1, 2, 3, 4)
NUM_VIEWS = 40
# 1e-3 was tried for every network too and was never better by more than 0.001.
LEARNING_RATES = (3e-3, 1e-2)
TRANSFER = "**transfer: frozen convolutions, new head**"
UNTOUCHED = "the pretrained network as it is, no example"


@dataclasses.dataclass(frozen=True)
class Digits:
    """The target data: small uint8 [n, 8, 8, 1] and large float32 [n, 28, 28, 1], 0 to 255."""

    small: np.ndarray
    large: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cell:
    """One draw: positions of the training and of the test examples."""

    per_class: int
    seed: int
    train: np.ndarray
    test: np.ndarray


def load_digits() -> Digits:
    bunch = sklearn.datasets.load_digits()
    small = np.round(bunch.images * 255 / 16).astype(np.uint8)[..., None]
    return Digits(small, enlarge(small), bunch.target.astype(np.int64))


def enlarge(images: np.ndarray) -> np.ndarray:
    large = tf.image.resize(images.astype(np.float32), [28, 28], "bilinear", antialias=True)
    return np.round(large.numpy())


def draw_cell(labels: np.ndarray, per_class: int, seed: int) -> Cell:
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == c)) for c in range(NUM_CLASSES)]
    train = np.concatenate([order[:per_class] for order in orders])
    return Cell(per_class, seed, train, np.setdiff1d(np.arange(len(labels)), train))


def augment(images: np.ndarray, seed: int) -> np.ndarray:
    """[n, 8, 8, 1] -> [NUM_VIEWS * n, 8, 8, 1], the images themselves first.

    Turned by up to 10 degrees, slanted by 0.2, scaled by 10 % and moved by 0.7 of a small pixel
    (2.5 of the enlarged ones), which did better here than weaker or stronger views.
    """
    generator = np.random.default_rng(seed)
    middle = np.full(2, (images.shape[1] - 1) / 2)
    views = [images]
    for _ in range(NUM_VIEWS - 1):
        view = np.empty(images.shape)
        for position, pixels in enumerate(images[..., 0].astype(np.float64)):
            angle, slant = generator.uniform(-0.17, 0.17), generator.uniform(-0.2, 0.2)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix = turn @ [[1, 0], [slant, 1]] * generator.uniform(0.9, 1.1, (1, 2))
            offset = middle - matrix @ middle + generator.uniform(-0.7, 0.7, 2)
            view[position, ..., 0] = scipy.ndimage.affine_transform(pixels, matrix, offset, order=1)
        views.append(view.round().astype(np.uint8))
    return np.concatenate(views)


# ---------------------------------------------------------------------------- transfer


def frozen_features(digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, 96] at the input of the old classifier, and the old classifier's own answers."""
    network = keras.saving.load_model(MODEL, compile=False)
    body = keras.Model(network.input, network.get_layer("classifier").input)
    features = body.predict(digits.large, batch_size=256, verbose=0)
    answers = network.predict(digits.large, batch_size=256, verbose=0).argmax(1)
    return features, answers


def fit_head(
    features: np.ndarray, labels: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [d, 10] and bias [10] of a softmax head by the default recipe, in NumPy."""
    generator = np.random.default_rng(seed)
    limit = np.sqrt(6 / (features.shape[1] + NUM_CLASSES))
    weights = generator.uniform(-limit, limit, (features.shape[1], NUM_CLASSES))
    # The bias rides as the kernel's last row, with a constant feature that dropout leaves alone.
    weights = np.concatenate([weights, np.zeros((1, NUM_CLASSES))])
    moments = np.zeros_like(weights), np.zeros_like(weights)
    targets = np.eye(NUM_CLASSES)[labels]
    steps_per_epoch = -(-len(labels) // 32)
    epochs = min(200, max(20, -(-1000 // steps_per_epoch)))
    step, num_steps = 0, epochs * steps_per_epoch
    for _ in range(epochs):
        order = generator.permutation(len(labels))
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            kept = generator.random((len(batch), features.shape[1])) >= 0.2
            x = np.concatenate([features[batch] * kept / 0.8, np.ones((len(batch), 1))], 1)
            logits = x @ weights
            odds = np.exp(logits - logits.max(1, keepdims=True))
            gradient = x.T @ (odds / odds.sum(1, keepdims=True) - targets[batch]) / len(batch)
            rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * step / num_steps))
            step += 1
            moments = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2
            root = np.sqrt(moments[1] / (1 - 0.999**step)) + 1e-7
            weights = weights - rate * (moments[0] / (1 - 0.9**step)) / root
    return weights[:-1], weights[-1]


# ---------------------------------------------------------------------------- from scratch


@dataclasses.dataclass(frozen=True)
class Setup:
    """One from-scratch set-up: what is built, and how it is trained (Adam, cosine to 0)."""

    network: str
    batch_norm: bool
    views: bool
    learning_rate: float
    steps: int

    def __str__(self) -> str:
        norm = "with" if self.batch_norm else "without"
        return (
            f"{self.network}, {norm} BatchNormalization, {'with' if self.views else 'no'} "
            f"augmentation, Adam {self.learning_rate:g}, {self.steps} steps"
        )


# name: input size, (filters, kernel, stride) of each convolution, "flatten" or "average", units.
NETWORKS = {
    "same architecture": (28, ((32, 5, 2), (48, 3, 1), (64, 3, 2), (96, 3, 1)), "average", ()),
    "LeNet-like": (28, ((8, 5, 2), (16, 3, 2)), "flatten", (64,)),
    "convolutions on 8x8": (8, ((32, 3, 1), (64, 3, 2)), "flatten", (64,)),
}


def make_network(name: str, *, batch_norm: bool) -> keras.Model:
    """uint8-valued float32 [n, size, size, 1] -> logits [n, 10]."""
    size, convolutions, pooling, units = NETWORKS[name]
    layers = keras.layers

    def weighted(layer_class, *sizes, **options):
        kernel = {"kernel_initializer": "he_normal", "use_bias": not batch_norm}
        return layer_class(*sizes, **kernel, **options)

    inputs = keras.Input((size, size, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    for filters, kernel, stride in convolutions:
        x = weighted(layers.Conv2D, filters, kernel, stride, padding="same")(x)
        x = layers.BatchNormalization(momentum=0.9)(x) if batch_norm else x
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x) if pooling == "average" else layers.Flatten()(x)
    for count in units:
        x = weighted(layers.Dense, count)(x)
        x = layers.BatchNormalization(momentum=0.9)(x) if batch_norm else x
        x = layers.ReLU()(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x))


class Trainer:
    """A network whose whole training is one graph call, which makes hundreds of runs cheap."""

    def __init__(self, name: str, *, batch_norm: bool):
        self.network = make_network(name, batch_norm=batch_norm)
        self.size = self.network.input_shape[1]
        self._make = functools.partial(make_network, name, batch_norm=batch_norm)
        self._optimizer = keras.optimizers.Adam(1e-3)
        self._optimizer.build(self.network.trainable_variables)
        self._run = tf.function(
            self._train,
            input_signature=[
                tf.TensorSpec([None, self.size, self.size, 1], tf.float32),
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None, 32], tf.int64),
                tf.TensorSpec([], tf.float32),
            ],
        )

    def test_accuracy(self, setup: Setup, digits: Digits, cell: Cell) -> float:
        """Trains afresh on the cell's examples, seeded by the cell."""
        pixels = digits.small[cell.train]
        pixels = augment(pixels, cell.seed) if setup.views else pixels
        labels = np.tile(digits.labels[cell.train], len(pixels) // len(cell.train))
        generator = np.random.default_rng(cell.seed)
        num_draws = setup.steps * 32
        orders = [generator.permutation(len(labels)) for _ in range(-(-num_draws // len(labels)))]
        batches = np.concatenate(orders)[:num_draws].reshape(-1, 32)
        self._reset(cell.seed)
        self._run(self._sized(pixels), labels, batches, setup.learning_rate)
        logits = self.network.predict_on_batch(self._sized(digits.small[cell.test]))
        return float(np.mean(logits.argmax(1) == digits.labels[cell.test]))

    def _sized(self, images: np.ndarray) -> np.ndarray:
        return enlarge(images) if self.size == 28 else images.astype(np.float32)

    def _reset(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.network.set_weights(self._make().get_weights())
        self.network.get_layer("dropout").seed_generator.state.assign([seed, 0])
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def _train(self, images, labels, batches, learning_rate):
        steps = tf.shape(batches)[0]
        for step in tf.range(steps):
            turn = tf.cast(step, tf.float32) / tf.cast(steps, tf.float32)
            rate = learning_rate * 0.5 * (1 + tf.cos(np.pi * turn))
            self._optimizer.learning_rate.assign(rate)
            x, y = tf.gather(images, batches[step]), tf.gather(labels, batches[step])
            with tf.GradientTape() as tape:
                logits = self.network(x, training=True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
            variables = self.network.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            self._optimizer.apply(gradients, variables)


def run_scratch(digits: Digits, cells: list[Cell]) -> dict[str, np.ndarray]:
    """Row name -> accuracies [cells]: each network at its best set-up, the best of them longer."""
    tuning = [cell for cell in cells if cell.per_class == 5 and cell.seed < 2]
    rows, setups, trainers = {}, {}, {}
    for name, batch_norm in itertools.product(NETWORKS, (True, False)):
        trainer = Trainer(name, batch_norm=batch_norm)
        scores = {}
        for views, rate in itertools.product((True, False), LEARNING_RATES):
            setup = Setup(name, batch_norm, views, rate, 300)
            scores[setup] = np.mean([trainer.test_accuracy(setup, digits, c) for c in tuning])
            log(f"{setup}: {scores[setup]:.3f} with 5 per class, seeds 0 and 1")
        best = dataclasses.replace(max(scores, key=scores.get), steps=600)
        rows[str(best)] = np.array([trainer.test_accuracy(best, digits, c) for c in cells])
        setups[str(best)], trainers[str(best)] = best, trainer
        log(f"{best}: {summary(rows[str(best)], cells)}")
    for winner in {find_best(rows, cells, count) for count in EXAMPLES_PER_CLASS}:
        longer = dataclasses.replace(setups[winner], steps=1500)
        accuracies = [trainers[winner].test_accuracy(longer, digits, cell) for cell in cells]
        rows[str(longer)] = np.array(accuracies)
        log(f"{longer}: {summary(rows[str(longer)], cells)}")
    return rows


# ---------------------------------------------------------------------------- classical


def classical_methods() -> dict[str, list]:
    methods = {
        "k nearest neighbours": [sklearn.neighbors.KNeighborsClassifier(k) for k in (1, 3)],
        "logistic regression": [
            sklearn.linear_model.LogisticRegression(C=strength, max_iter=100)
            for strength in (0.1, 1.0)
        ],
        "SVM (RBF)": [sklearn.svm.SVC(C=10, gamma=gamma) for gamma in (0.03, 0.1, 0.3)],
    }
    return methods


def run_classical(digits: Digits, cells: list[Cell]) -> dict[str, np.ndarray]:
    """Row name -> accuracies [cells], at the setting and the augmentation of the best mean."""
    rows = {}
    for name, classifiers in classical_methods().items():
        scores = {}
        for classifier, views in itertools.product(classifiers, (True, False)):
            key = f"{name} on 8x8 pixels, {'with' if views else 'no'} augmentation, {classifier}"
            scores[key] = np.array(
                [classical_accuracy(classifier, digits, cell, views=views) for cell in cells]
            )
            log(f"{key}: {summary(scores[key], cells)}")
        best = max(scores, key=lambda key: scores[key].mean())
        rows[best] = scores[best]
    return rows


def classical_accuracy(classifier, digits: Digits, cell: Cell, *, views: bool) -> float:
    pixels = digits.small[cell.train]
    pixels = augment(pixels, cell.seed) if views else pixels
    labels = np.tile(digits.labels[cell.train], len(pixels) // len(cell.train))
    classifier.fit(pixels.reshape(len(pixels), -1) / 255, labels)
    test = digits.small[cell.test].reshape(len(cell.test), -1) / 255
    return float(np.mean(classifier.predict(test) == digits.labels[cell.test]))


# ---------------------------------------------------------------------------- the table


def run_transfer(digits: Digits, cells: list[Cell]) -> dict[str, np.ndarray]:
    features, answers = frozen_features(digits)
    new, old = [], []
    for cell in cells:
        kernel, bias = fit_head(features[cell.train], digits.labels[cell.train], seed=cell.seed)
        logits = features[cell.test] @ kernel + bias
        new.append(np.mean(logits.argmax(1) == digits.labels[cell.test]))
        old.append(np.mean(answers[cell.test] == digits.labels[cell.test]))
    return {TRANSFER: np.array(new), UNTOUCHED: np.array(old)}


def log(text: str) -> None:
    print(f"{time.process_time():6.0f} s  {text}", file=sys.stderr, flush=True)


def summary(accuracies: np.ndarray, cells: list[Cell]) -> str:
    """Mean and standard deviation over the seeds, a cell of the table per number of examples."""
    per_class = np.array([cell.per_class for cell in cells])
    groups = [accuracies[per_class == count] for count in EXAMPLES_PER_CLASS]
    return " | ".join(f"{g.mean():.3f} ± {g.std(ddof=1):.3f}" for g in groups)


def of_count(cells: list[Cell], count: int) -> np.ndarray:
    return np.array([cell.per_class == count for cell in cells])


def find_best(rows: dict[str, np.ndarray], cells: list[Cell], count: int) -> str:
    """The row with the highest mean at count examples per class."""
    return max(rows, key=lambda name: rows[name][of_count(cells, count)].mean())


def format_gain(gains: list[np.ndarray]) -> str:
    """Mean and half the 95 % t interval of paired differences, a cell per number of examples."""
    quantile = scipy.stats.t.ppf(0.975, len(SEEDS) - 1) / np.sqrt(len(SEEDS))
    return " | ".join(f"{g.mean():+.3f} ± {quantile * g.std(ddof=1):.3f}" for g in gains)


def format_table(
    transfer: dict[str, np.ndarray], others: dict[str, np.ndarray], cells: list[Cell]
) -> str:
    head = " | ".join(f"{count} per class" for count in EXAMPLES_PER_CLASS)
    lines = [f"| test accuracy | {head} |", "|---" * (1 + len(EXAMPLES_PER_CLASS)) + "|"]
    rows = (transfer | others).items()
    lines += [f"| {name} | {summary(accuracies, cells)} |" for name, accuracies in rows]
    gains, gains_over_old = [], []
    for count in EXAMPLES_PER_CLASS:
        mine, best = of_count(cells, count), find_best(others, cells, count)
        gains.append((transfer[TRANSFER] - others[best])[mine])
        gains_over_old.append((transfer[TRANSFER] - transfer[UNTOUCHED])[mine])
    lines.append(f"| transfer less the best trained on the same digits | {format_gain(gains)} |")
    lines.append(
        f"| transfer less the pretrained network as it is | {format_gain(gains_over_old)} |"
    )
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    started = time.monotonic()
    digits = load_digits()
    cells = [
        draw_cell(digits.labels, count, seed)
        for count, seed in itertools.product(EXAMPLES_PER_CLASS, SEEDS)
    ]
    transfer = run_transfer(digits, cells)
    log(summary(transfer[TRANSFER], cells))
    others = run_classical(digits, cells) | run_scratch(digits, cells)
    others = dict(sorted(others.items(), key=lambda row: -row[1].mean()))
    print(format_table(transfer, others, cells))
    print(
        f"\n`python benchmarks/few_shot_digits.py`, {datetime.date.today()}, mean ± standard "
        f"deviation over seeds {SEEDS[0]} to {SEEDS[-1]} (differences: paired, ± half the 95 % "
        f"interval), one thread of {os.cpu_count()} "
        f"{platform.machine()} cores, {time.process_time() / 60:.0f} min of processor time in "
        f"{(time.monotonic() - started) / 60:.0f} min; Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, scikit-learn "
        f"{sklearn.__version__}, NumPy {np.__version__}."
    )


if __name__ == "__main__":
    main()
