"""How many examples each batch of an epoch has, so that no device is left without one.

One idea: a batch is divided among R devices in parts of ceil(size / R), so the last device may get
nothing (1 example on 2 devices, 5 on 4), and convolutions and BatchNormalization of TensorFlow 2.21
fail on an empty batch. Only the end of an epoch is changed for it.

Where several processes train together, each reads only its own part of every batch.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_finetune import options


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each batch a process reads.

    Attributes:
      index: of the process, from 0.
      number: of processes; 1: all of each batch.
    """

    index: int = 0
    number: int = 1

    def count(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many examples of each batch are its own.

        Args:
          sizes: of the batches.

        Returns:
          The sizes of its parts; over all processes they differ by at most 1.
        """
        return tuple(last - first for first, last in self._bounds(sizes))

    def choose(self, sizes: Sequence[int]) -> np.ndarray:
        """Which examples of an epoch are its own.

        Args:
          sizes: of the batches.

        Returns:
          bool [n], by place in the epoch.
        """
        chosen, begin = np.zeros(sum(sizes), bool), 0
        for size, (first, last) in zip(sizes, self._bounds(sizes), strict=True):
            chosen[begin + first : begin + last] = True
            begin += size
        return chosen

    def _bounds(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        return [
            (self.index * size // self.number, (self.index + 1) * size // self.number)
            for size in sizes
        ]


WHOLE = Share()


def take_chosen(ordered: tf.data.Dataset, chosen: np.ndarray | None) -> tf.data.Dataset:
    """The examples of an epoch that a process reads.

    Args:
      ordered: an epoch, an element for each example.
      chosen: bool [n], from `Share.choose`; None: all.

    Returns:
      The chosen elements, in the same order.
    """
    if chosen is None:
        return ordered
    mask = tf.constant(chosen)
    numbered = ordered.enumerate().filter(lambda number, element: mask[number])
    return numbered.map(lambda number, element: element)


def weigh(batches: tf.data.Dataset, sizes: Sequence[int]) -> tf.data.Dataset:
    """Gives the examples of parts of batches the weights that they have in the whole ones.

    Args:
      batches: dataset of (inputs, targets, {HEAD: float32 [b]}).
      sizes: of the whole batches.

    Returns:
      The same with weights of 1 / size.
    """
    one = np.float32(1)
    weights = tf.data.Dataset.from_tensor_slices(one / np.asarray(sizes, np.float32))

    def fill(batch: tuple[tf.Tensor, ...], weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        inputs, targets, own = batch
        filled = {head: tf.fill(tf.shape(values), weight) for head, values in own.items()}
        return inputs, targets, filled

    return tf.data.Dataset.zip(batches, weights).map(fill)


def plan_batches(num_examples: int, *, batch_size: int, num_replicas: int = 1) -> tuple[int, ...]:
    """The sizes of an epoch's batches.

    Args:
      num_examples: at least 0.
      batch_size: examples of a batch over all devices, at least 1.
      num_replicas: devices.

    Returns:
      As many full batches as there are, then the rest; where the rest would leave a device without
      examples, it goes with the last full batches into one or two that do not.

    Raises:
      options.SpecError: full batches, or so few examples, leave a device without any.
    """
    sizes = [batch_size] * (num_examples // batch_size)
    if sizes and not _reaches_all(batch_size, num_replicas):
        raise options.SpecError(
            f"A step of {batch_size} examples leaves one of {num_replicas} devices without any. "
            f"Expected a --batch_size that is a multiple of {num_replicas}."
        )
    rest = num_examples % batch_size
    if not rest:
        return tuple(sizes)
    if _reaches_all(rest, num_replicas):
        return (*sizes, rest)
    together = rest
    while sizes:
        together += sizes.pop()
        for first in range(together, together // 2, -1):
            parts = [part for part in (first, together - first) if part]
            if all(_reaches_all(part, num_replicas) for part in parts):
                return (*sizes, *parts)
    raise options.SpecError(
        f"{num_examples} examples leave one of {num_replicas} devices without any. Expected at "
        f"least {num_replicas}: use --strategy=one_device."
    )


def _reaches_all(size: int, num_replicas: int) -> bool:
    return -(-size // num_replicas) * (num_replicas - 1) < size
