"""The kinds of heads, as a table: what differs between softmax, sigmoid and number tasks, once.

heads, objectives, evaluation, prediction and export read a row; none of them asks for a kind
by name where a column answers. A label that is missing is -1 among class numbers and NaN among
floats, so that it travels with the others and every loss and metric can pass it over.
"""

import dataclasses

import numpy as np

CROSS_ENTROPY = "cross_entropy"
ACCURACY = "accuracy"
SQUARED_ERROR = "mean_squared_error"
ABSOLUTE_ERROR = "mean_absolute_error"
MISSING_CLASS = -1
# What the export calls the classes of positions.
CLASS_IDS = "class_ids"


@dataclasses.dataclass(frozen=True)
class HeadKind:
    """A row of the table.

    Attributes:
      name: value of `--head=kind=`.
      activation: "softmax" or "sigmoid": logits to probabilities; "linear": to a number.
      exclusive: each example has exactly one label.
      has_classes: labels are names of classes, not numbers.
      train_metrics: names of the two numbers that training shows; the first is the loss, without
        smoothing, weights or focus.
      output: what the export calls the head's numbers.
      positions: what has a label of its own where that is not the example: "pixels" or "words";
        "" elsewhere. Such labels are in `loading.Split.positions`, and the encoded label of an
        example is its place there.
    """

    name: str
    activation: str
    exclusive: bool
    has_classes: bool = True
    train_metrics: tuple[str, str] = (CROSS_ENTROPY, ACCURACY)
    output: str = "probabilities"
    positions: str = ""

    @property
    def names_examples(self) -> bool:
        """An example as a whole has classes: neither numbers nor a class at each position."""
        return self.has_classes and not self.positions

    @property
    def has_thresholds(self) -> bool:
        """A probability decides at a threshold, and not by being the largest."""
        return self.activation == "sigmoid"

    def num_thresholds(self, num_classes: int) -> int:
        """How many thresholds `HeadInfo.thresholds` holds, for `num_classes` class names."""
        return (1 if self.exclusive else num_classes) if self.has_thresholds else 0


HEAD_KINDS = {
    kind.name: kind
    for kind in (
        HeadKind("multiclass", activation="softmax", exclusive=True),
        HeadKind("binary", activation="sigmoid", exclusive=True),
        HeadKind("multilabel", activation="sigmoid", exclusive=False),
        HeadKind(
            "regression",
            activation="linear",
            exclusive=True,
            has_classes=False,
            train_metrics=(SQUARED_ERROR, ABSOLUTE_ERROR),
            output="predictions",
        ),
        HeadKind("segmentation", activation="softmax", exclusive=True, positions="pixels"),
        HeadKind("token_classification", activation="softmax", exclusive=True, positions="words"),
    )
}


@dataclasses.dataclass(frozen=True)
class HeadInfo:
    """A head after the labels are known: what evaluation, export and model.json need.

    Attributes:
      name: the head's name, also its output's.
      kind: a key of HEAD_KINDS.
      classes: class names by index; binary: (negative, positive); regression: none.
      thresholds: a probability per class at or above which a multilabel class is predicted;
        binary: one, of the positive class; other kinds: empty.
      mean: regression: of the training labels, in their unit; other kinds: 0.
      deviation: regression: standard deviation of the training labels, above 0; other kinds: 1.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


class PartialLabels(tuple[str, ...]):
    """The names of a multilabel example for some of whose classes nobody said yes or no.

    Attributes:
      unknown: names of those classes.
    """

    unknown: frozenset[str] = frozenset()

    @classmethod
    def make(cls, names: tuple[str, ...], *, unknown: tuple[str, ...]) -> "PartialLabels":
        """`names` are present, `unknown` is unknown, every other class is absent."""
        labels = cls(names)
        labels.unknown = frozenset(unknown)
        return labels


def num_logits(kind: str, num_classes: int) -> int:
    """Units of the head's last Dense layer.

    Args:
      kind: a key of HEAD_KINDS.
      num_classes: number of class names.

    Returns:
      1 for binary and regression, else num_classes.
    """
    row = HEAD_KINDS[kind]
    return 1 if row.exclusive and row.activation != "softmax" else num_classes


def encode_labels(labels: np.ndarray, *, kind: str, classes: tuple[str, ...]) -> np.ndarray:
    """Labels as text to the numbers that the loss takes.

    Args:
      labels: object [n]; strings, for multilabel tuples of strings, for regression numbers as
        text; "" is a missing label.
      kind: a key of HEAD_KINDS.
      classes: class names by index.

    Returns:
      multiclass int32 [n], -1 where missing; binary float32 [n, 1], values 0 or 1; multilabel
      float32 [n, num_classes], values 0 or 1; regression float32 [n, 1]. Floats are NaN where
      missing.

    Raises:
      KeyError: a label is not in `classes`.
      ValueError: a label of a regression head is no number.
    """
    count = len(labels)
    if kind == "regression":
        values = (float(label) if label else np.nan for label in labels)
        return np.fromiter(values, np.float32, count).reshape(count, 1)
    index = {name: number for number, name in enumerate(classes)}
    if HEAD_KINDS[kind].exclusive:
        known = {**index, "": MISSING_CLASS}
        numbers = np.fromiter((known[label] for label in labels), np.int32, count)
        if HEAD_KINDS[kind].activation == "softmax":
            return numbers
        return np.where(numbers == MISSING_CLASS, np.nan, numbers).astype(np.float32)[:, np.newaxis]
    encoded = np.zeros((count, len(classes)), np.float32)
    for row, names in enumerate(labels):
        if names == "":
            encoded[row] = np.nan
        for name in names:
            encoded[row, index[name]] = 1.0
        for name in getattr(names, "unknown", ()):
            encoded[row, index[name]] = np.nan
    return encoded


def find_labelled(labels: np.ndarray) -> np.ndarray:
    """Tells labels that are there from missing ones.

    Args:
      labels: encoded, see `encode_labels`.

    Returns:
      bool, of the shape of `labels`.
    """
    if np.issubdtype(labels.dtype, np.integer):
        return labels != MISSING_CLASS
    return ~np.isnan(labels)


def count_labels(labels: np.ndarray, *, kind: str, num_classes: int) -> list[int]:
    """Examples of each class, from encoded labels; missing ones count nowhere.

    Args:
      labels: see `encode_labels`.
      kind: a key of HEAD_KINDS.
      num_classes: number of class names.

    Returns:
      A number per class; none for regression, zeros where positions and not examples have
      classes.
    """
    known = labels[find_labelled(labels)]
    if HEAD_KINDS[kind].positions:
        return [0] * num_classes
    if not HEAD_KINDS[kind].has_classes:
        return []
    if HEAD_KINDS[kind].exclusive:
        return np.bincount(known.astype(np.int64), minlength=num_classes).tolist()
    return np.nansum(labels, axis=0).astype(int).tolist()


def with_statistics(head: HeadInfo, labels: np.ndarray) -> HeadInfo:
    """A head with what is measured on its training labels.

    Args:
      head: the head.
      labels: encoded training labels.

    Returns:
      The head, of numbers with their mean and standard deviation (1 where all are equal).
    """
    known = labels[find_labelled(labels)].astype(np.float64)
    if HEAD_KINDS[head.kind].has_classes or not len(known):
        return head
    return dataclasses.replace(head, mean=float(known.mean()), deviation=float(known.std()) or 1.0)


def probabilities(logits: np.ndarray, kind: str) -> np.ndarray:
    """Logits to the probability of every class; of a regression head, to its number.

    Args:
      logits: float32 [n, num_logits(kind)]; of positions [n, ..., num_logits(kind)].
      kind: a key of HEAD_KINDS.

    Returns:
      float32 [n, num_classes], of positions [n, ..., num_classes]; rows sum to 1 where classes are
      exclusive; binary columns are (negative, positive). Regression: float32 [n, 1], in the
      labels' unit.
    """
    logits = np.asarray(logits, np.float32)
    row = HEAD_KINDS[kind]
    if row.activation == "linear":
        return logits
    if row.activation == "softmax":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    positive = _sigmoid(logits)
    # 1 - p would lose the digits of a small negative probability.
    return np.concatenate([_sigmoid(-logits), positive], axis=-1) if row.exclusive else positive


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # exp of a large positive number overflows; the two branches never compute one.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
