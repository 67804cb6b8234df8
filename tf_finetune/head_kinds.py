"""The kinds of heads, as a table: what differs between softmax and sigmoid tasks, once.

heads, objectives, evaluation, prediction and export read a row; none of them asks for a kind
by name where a column answers.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class HeadKind:
    """A row of the table.

    Attributes:
      name: value of `--head=kind=`.
      activation: "softmax" or "sigmoid": logits to probabilities.
      exclusive: each example has exactly one class.
    """

    name: str
    activation: str
    exclusive: bool


HEAD_KINDS = {
    kind.name: kind
    for kind in (
        HeadKind("multiclass", activation="softmax", exclusive=True),
        HeadKind("binary", activation="sigmoid", exclusive=True),
        HeadKind("multilabel", activation="sigmoid", exclusive=False),
    )
}


@dataclasses.dataclass(frozen=True)
class HeadInfo:
    """A head after the labels are known: what evaluation, export and model.json need.

    Attributes:
      name: the head's name, also its output's.
      kind: a key of HEAD_KINDS.
      classes: class names by index; binary: (negative, positive).
      thresholds: a probability per class at or above which a multilabel class is predicted;
        binary: one, of the positive class; multiclass: empty.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...] = ()


def num_logits(kind: str, num_classes: int) -> int:
    """Units of the head's last Dense layer.

    Args:
      kind: a key of HEAD_KINDS.
      num_classes: number of class names.

    Returns:
      1 for binary, else num_classes.
    """
    return 1 if kind == "binary" else num_classes


def encode_labels(labels: np.ndarray, *, kind: str, classes: tuple[str, ...]) -> np.ndarray:
    """Class names to the numbers that the loss takes.

    Args:
      labels: object [n]; strings, for multilabel tuples of strings.
      kind: a key of HEAD_KINDS.
      classes: class names by index.

    Returns:
      multiclass int32 [n]; binary float32 [n, 1], values 0 or 1; multilabel float32
      [n, num_classes], values 0 or 1.

    Raises:
      KeyError: a label is not in `classes`.
    """
    index = {name: number for number, name in enumerate(classes)}
    if kind == "multiclass":
        return np.array([index[label] for label in labels], np.int32).reshape(len(labels))
    if kind == "binary":
        return np.array([[index[label]] for label in labels], np.float32).reshape(len(labels), 1)
    encoded = np.zeros((len(labels), len(classes)), np.float32)
    for row, names in enumerate(labels):
        for name in names:
            encoded[row, index[name]] = 1.0
    return encoded


def probabilities(logits: np.ndarray, kind: str) -> np.ndarray:
    """Logits to the probability of every class.

    Args:
      logits: float32 [n, num_logits(kind)].
      kind: a key of HEAD_KINDS.

    Returns:
      float32 [n, num_classes]; rows sum to 1 where classes are exclusive; binary columns are
      (negative, positive).
    """
    logits = np.asarray(logits, np.float32)
    if kind == "multiclass":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    positive = _sigmoid(logits)
    # 1 - p would lose the digits of a small negative probability.
    return np.concatenate([_sigmoid(-logits), positive], axis=-1) if kind == "binary" else positive


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # exp of a large positive number overflows; the two branches never compute one.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
