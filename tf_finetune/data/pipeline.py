"""From a split to the batches that Keras fits and evaluates on.

One idea: the order of an epoch is a pure function of (seed, epoch), drawn as a permutation of
positions; images follow it. So the same seed gives the same batches whether pixels come from
memory or from files, and a resumed run can ask for epoch 7 without living through the first six.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_finetune.data import (
    batching,
    image_stores,
    input_stores,
    loaders,
    loading,
    preprocessing,
    reading,
    text_store,
)

# The reading pass, where callers look for it: next to what it prepares.
read_images = reading.read_images
naming_bad_images = reading.naming_bad_images

_PREFETCHED_BATCHES = 2
# Streams cannot be permuted. tfds shuffles examples when it prepares a data set, so a buffer that
# mixes neighbours differently in each epoch is enough.
_STREAM_SHUFFLE_BUFFER = 1024
_INT64_RANGE = 2**63


def make_dataset(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    epoch: tf.Variable | None = None,
    with_weights: bool = False,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """One epoch of batches; finite, deterministic, the last partial batch kept.

    Pixels in memory are gathered a batch at a time; files are decoded in parallel. Memory does
    not grow with the number of images that are read. A file that cannot be decoded makes the
    iterator raise tf.errors.OpError; `naming_bad_images` says which it was.

    Args:
      split: the examples, as `read_images` returns them.
      pre: what the model takes.
      batch_size: examples of a batch, at least 1; over all replicas.
      shuffle_seed: any whole number, for an order that differs from epoch to epoch; None: the
        split's order. A stream that is not in memory keeps its own order, and is shuffled within
        a window of 1,024.
      epoch: int64 scalar, not negative; read once when an iterator gives its first batch. None: 0.
      with_weights: adds the weights under which a sum over examples is the mean of the batch.
      num_replicas: devices that share each batch; the last batches are such that all get examples.

    Returns:
      Dataset of (inputs, {HEAD: label [b, ...]}), and with weights also {HEAD: float32 [b] of
      1 / b}. The inputs are {"image": float32 [b, height, width, channels], values 0 to 255}, or
      {"text": string [b]}.

    Raises:
      ValueError: the split holds images and `pre` is of texts, or the reverse.
      SpecError: a device would get no example.
    """
    sizes = batching.plan_batches(len(split), batch_size=batch_size, num_replicas=num_replicas)
    batches = _make_batches(split, pre, _make_seeds(shuffle_seed, epoch), batch_size=batch_size)
    if sizes != batching.plan_batches(len(split), batch_size=batch_size):
        batches = batches.rebatch(tf.constant(sizes, tf.int64))
    labels = {head: tf.constant(values) for head, values in split.labels.items()}
    name, shape = text_store.INPUT, tuple[int | None, ...]((None,))
    if isinstance(pre, preprocessing.PreprocessingSpec):
        name, shape = image_stores.INPUT, (None, pre.height, pre.width, pre.channels)

    def assemble(values: tf.Tensor, positions: tf.Tensor) -> tuple[dict[str, tf.Tensor], ...]:
        inputs = {name: tf.ensure_shape(values, shape)}
        targets = {head: tf.gather(values, positions) for head, values in labels.items()}
        if not with_weights:
            return inputs, targets
        weights = tf.fill(tf.shape(positions), 1.0 / tf.cast(tf.size(positions), tf.float32))
        return inputs, targets, dict.fromkeys(labels, weights)

    dataset = batches.map(assemble, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(sizes)))
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(_make_options())


def sample_texts(split: loading.Split, *, count: int, seed: int) -> list[str]:
    """Some texts of a split.

    Args:
      split: the examples, texts.
      count: how many; all of a smaller split.
      seed: chooses which, 0 or more.

    Returns:
      At most `count` texts, in the split's order.
    """
    chosen = np.random.default_rng(seed).choice(len(split), min(count, len(split)), replace=False)
    texts = split.texts
    return [texts[row] for row in np.sort(chosen)]


def sample_pixels(
    split: loading.Split,
    pre: preprocessing.PreprocessingSpec,
    *,
    count: int,
    seed: int,
) -> np.ndarray:
    """Some images of a split, to measure pixel statistics on.

    Args:
      split: the examples, as `read_images` returns them.
      pre: what the model takes.
      count: how many; all of a smaller split.
      seed: chooses which, 0 or more; a stream that is not in memory gives its first.

    Returns:
      float32 [k, height, width, channels], values 0 to 255; k is at most `count`.

    Raises:
      ValueError: the split holds texts.
      tf.errors.OpError: an image cannot be read or decoded.
    """
    images = split.inputs
    if isinstance(images, text_store.Texts):
        raise ValueError("Texts have no pixels.")
    if isinstance(images, image_stores.StreamImages):
        elements = loaders.select_elements(images, split.indices).take(count)
        dataset = elements.map(lambda element, position: loaders.load_element(element, pre))
        pixels = list(dataset.as_numpy_iterator())
    else:
        size = min(count, len(split))
        chosen = np.sort(np.random.default_rng(seed).choice(len(split), size, replace=False))
        places = split.indices[chosen]
        if isinstance(images, image_stores.DecodedImages):
            return images.pixels[places].astype(np.float32)
        load = loaders.make_loader(images, places, pre)
        dataset = tf.data.Dataset.range(size).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        pixels = list(dataset.as_numpy_iterator())
    return np.array(pixels, np.float32).reshape(-1, pre.height, pre.width, pre.channels)


def _make_options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Splitting by file or by element would drop examples from an epoch whose order is ours;
    # strategies divide each global batch among their replicas all the same.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # The rewriting of graphs copies what functions capture: here gigabytes of pixels.
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _make_seeds(shuffle_seed: int | None, epoch: tf.Variable | None) -> tf.data.Dataset | None:
    """Dataset of the one int64 [2] (seed, epoch) that this iterator's order is drawn from."""
    if shuffle_seed is None:
        return None
    seed = shuffle_seed % _INT64_RANGE

    def read(unused: tf.Tensor) -> tf.Tensor:
        value = 0 if epoch is None else epoch.read_value()
        return tf.stack([tf.constant(seed, tf.int64), tf.cast(value, tf.int64)])

    return tf.data.Dataset.range(1).map(read)


def _make_positions(num_examples: int, seeds: tf.data.Dataset | None) -> tf.data.Dataset:
    """Dataset of int64 scalars, 0 to num_examples - 1 in the epoch's order."""
    if seeds is None:
        return tf.data.Dataset.range(num_examples)

    def shuffle(seed: tf.Tensor) -> tf.Tensor:
        # 8 bytes per example while the epoch lasts. index_shuffle would need none, but is far from
        # uniform on small sets (50 examples, TensorFlow 2.21: chi-square 7.8 per degree of
        # freedom, here 1.0).
        numbers = tf.range(num_examples, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, seed=seed)

    return seeds.map(shuffle).unbatch()


def _make_batches(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    seeds: tf.data.Dataset | None,
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """Dataset of (inputs of a batch, positions of a batch)."""
    store = split.inputs
    positions = _make_positions(len(split), seeds)
    if isinstance(store, text_store.Texts) and isinstance(pre, text_store.TextSpec):
        # Once as TensorFlow strings, and only this split's.
        texts = tf.constant(split.texts, tf.string, shape=(len(split),))
        return positions.batch(batch_size).map(lambda batch: (tf.gather(texts, batch), batch))
    if isinstance(store, text_store.Texts) or isinstance(pre, text_store.TextSpec):
        raise ValueError(
            f"The split holds {input_stores.find_kind(store)}s. Received {pre}. Expected a "
            "PreprocessingSpec for images, a TextSpec for texts."
        )
    if isinstance(store, image_stores.StreamImages):
        elements = loaders.select_elements(store, split.indices)
        return _stream_batches(elements, pre, seeds, batch_size=batch_size)
    if isinstance(store, image_stores.DecodedImages):
        positions = positions.batch(batch_size)
        return _gather_batches(store, split.indices, positions=positions)
    load = loaders.make_loader(store, split.indices, pre)
    return _load_batches(load, positions, batch_size=batch_size)


def _gather_batches(
    images: image_stores.DecodedImages, indices: np.ndarray, *, positions: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch) from memory, a batch at a time."""
    pixels, places = loaders.as_tensor(images.pixels), tf.constant(indices, tf.int64)

    def gather(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.gather(pixels, tf.gather(places, batch)), tf.float32), batch

    return positions.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _load_batches(
    load: Callable[[tf.Tensor], tf.Tensor], positions: tf.data.Dataset, *, batch_size: int
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch), read and resized one by one."""
    examples = positions.map(
        lambda position: (load(position), position), num_parallel_calls=tf.data.AUTOTUNE
    )
    return examples.batch(batch_size)


def _stream_batches(
    elements: tf.data.Dataset,
    pre: preprocessing.PreprocessingSpec,
    seeds: tf.data.Dataset | None,
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch) from a stream's elements."""

    def shuffle(seed: tf.Tensor) -> tf.data.Dataset:
        number = tf.random.stateless_uniform([], seed, None, None, tf.int64)
        # TensorFlow 2.21 compares (global seed, seed) with (0, 0): under a global seed of 0 it asks
        # a symbolic tensor for its truth. This graph is the function's own.
        tf.compat.v1.get_default_graph().seed = 1
        return elements.shuffle(_STREAM_SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    ordered = elements if seeds is None else seeds.flat_map(shuffle)
    examples = ordered.map(
        lambda element, position: (loaders.load_element(element, pre), position),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return examples.batch(batch_size)
