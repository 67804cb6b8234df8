"""Which examples an epoch puts into which batch, told without reading any.

One idea: the order is drawn before anything is loaded, so a run that goes on skips what it has
seen, and a run that fails names the examples of one step.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_finetune.data import (
    batching,
    example_order,
    feature_inputs,
    image_stores,
    length_batches,
    loaders,
    loading,
    text_store,
)

# Streams cannot be permuted. tfds shuffles examples when it prepares a data set, so a buffer that
# mixes neighbours differently in each epoch is enough.
_STREAM_SHUFFLE_BUFFER = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which examples come in which batch, and which are left out.

    What is left out has its place all the same: it is skipped where the order is drawn, before
    anything is loaded.

    Attributes:
      seeds: of `example_order.make_seeds`.
      strata: see `pipeline.make_dataset`.
      batch_size: examples of a full batch.
      own_size: those of them that are read.
      chosen: bool [n], which examples of an epoch are read; None: all.
      num_skipped: so many of those are left out at the beginning.
    """

    seeds: tf.data.Dataset | None
    strata: np.ndarray | None
    batch_size: int
    own_size: int
    chosen: np.ndarray | None
    num_skipped: int

    def make_positions(self, split: loading.Split) -> tf.data.Dataset:
        """The examples of an epoch.

        Args:
          split: the examples, which are no stream.

        Returns:
          Dataset of int64 scalars; texts of like length together where lengths are known.
        """
        positions = example_order.make_positions(len(split), self.seeds, self.strata)
        store = split.inputs
        lengths = None
        if isinstance(store, feature_inputs.Features | text_store.Texts):
            lengths = store.lengths
        if self.seeds is not None and lengths is not None:
            lengths = lengths[split.indices]
            positions = length_batches.group_positions(
                positions, lengths, batch_size=self.batch_size
            )
        return self.skip(positions)

    def make_turns(self, split: loading.Split) -> tf.data.Dataset:
        """The examples of an epoch, and how often each came in it before.

        Args:
          split: the examples, which are no stream.

        Returns:
          Dataset of (position, how often it came before).
        """
        return self.skip(example_order.make_turns(len(split), self.seeds, self.strata))

    def skip(self, items: tf.data.Dataset) -> tf.data.Dataset:
        """Leaves out what is not read.

        Args:
          items: of a whole epoch, in order.

        Returns:
          The others.
        """
        items = batching.take_chosen(items, self.chosen)
        return items.skip(self.num_skipped) if self.num_skipped else items


def order_stream(
    images: image_stores.StreamImages, indices: np.ndarray, order: Order
) -> tf.data.Dataset:
    """The elements of a stream as an epoch has them.

    Args:
      images: the stream.
      indices: int64 [n], places in the stream.
      order: of the epoch.

    Returns:
      Dataset of (element, position in the split).
    """
    elements, seeds = loaders.select_elements(images, indices), order.seeds

    def shuffle(seed: tf.Tensor) -> tf.data.Dataset:
        number = tf.random.stateless_uniform([], seed, None, None, tf.int64)
        # TensorFlow 2.21 compares (global seed, seed) with (0, 0): under a global seed of 0 it asks
        # a symbolic tensor for its truth. This graph is the function's own.
        tf.compat.v1.get_default_graph().seed = 1
        return elements.shuffle(_STREAM_SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    return order.skip(elements if seeds is None else seeds.flat_map(shuffle))


def find_examples(
    split: loading.Split,
    *,
    batch_size: int,
    shuffle_seed: int,
    epoch: int,
    steps: tuple[int, int],
    num_replicas: int = 1,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Which examples `pipeline.make_dataset` puts into some batches; nothing of them is decoded.

    Args:
      split: see `pipeline.make_dataset`; so are the other options.
      batch_size: examples of a batch.
      shuffle_seed: of the order.
      epoch: the value that the variable has.
      steps: the first batch, and the one behind the last; 0-based.
      num_replicas: devices that share each batch.
      strata: what is drawn evenly.

    Returns:
      int64 [n], places in the split in the order of the batches.
    """
    sizes = batching.plan_batches(len(split), batch_size=batch_size, num_replicas=num_replicas)
    first, last = (sum(sizes[:step]) for step in steps)
    seeds = example_order.make_seeds(
        shuffle_seed, tf.Variable(epoch, dtype=tf.int64, trainable=False)
    )
    order = Order(seeds, strata, batch_size, own_size=batch_size, chosen=None, num_skipped=first)
    if isinstance(split.inputs, image_stores.StreamImages):
        numbered = order_stream(split.inputs, split.indices, order)
        positions = numbered.map(lambda element, position: position)
    else:
        positions = order.make_positions(split)
    found = positions.take(last - first).as_numpy_iterator()
    return np.fromiter(found, np.int64)
