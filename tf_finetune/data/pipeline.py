"""From a split to the batches that Keras fits and evaluates on.

One idea: the order of an epoch is a pure function of (seed, epoch), drawn as a permutation of
positions; images follow it. So the same seed gives the same batches whether pixels come from
memory or from files, and a resumed run can ask for epoch 7 without living through the first six.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import specs
from tf_finetune.data import (
    augmentation,
    batching,
    column_batches,
    columns,
    feature_batches,
    feature_inputs,
    image_stores,
    input_stores,
    length_batches,
    loaders,
    loading,
    mixed_spec,
    mixing,
    position_batches,
    preprocessing,
    reading,
    resampling,
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
    views: augmentation.Steps | None = None,
    strata: np.ndarray | None = None,
    first_batch: int = 0,
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
      views: how images vary with (seed, epoch, key), and whether pairs of them are mixed; needs
        `shuffle_seed`. None: they are given as they are.
      strata: int64 [n], what is drawn evenly, see `resampling`; needs `shuffle_seed`. None: each
        example comes once.
      first_batch: so many batches are left out at the beginning: they are read, and given to
        nobody.

    Returns:
      Dataset of (inputs, {HEAD: label [b, ...]}), and with weights also {HEAD: float32 [b] of
      1 / b}. In place of the labels are `mixing.MixedLabels` where images are mixed. The inputs
      are {"image": float32 [b, height, width, channels], values 0 to 255}, or {"text": string
      [b]}, or {input: [b, ...]} of columns, or of a MixedSpec both. Labels of pixels are int32 [b,
      height, width], of words [b, most words], -1 without a class; those of pixels are moved by
      `views` as their image is.

    Raises:
      ValueError: the split holds images and `pre` is of texts, or the reverse; it has columns
        beside them that `pre` does not know, or the reverse; views of texts, or without a
        `shuffle_seed`; strata without one.
      SpecError: a device would get no example; strata of a stream that is not in memory.
    """
    beside, pre = _make_beside(split, pre), mixed_spec.find_main(pre)
    sizes = batching.plan_batches(len(split), batch_size=batch_size, num_replicas=num_replicas)
    seeds = _make_seeds(shuffle_seed, epoch)
    view, mix = _make_viewers(split, views, seed=shuffle_seed)
    batches = _make_batches(split, pre, seeds, batch_size=batch_size, view=view, strata=strata)
    if sizes != batching.plan_batches(len(split), batch_size=batch_size):
        batches = batches.rebatch(tf.constant(sizes, tf.int64))
    batches = batches.skip(first_batch)
    if mix is not None and seeds is not None:
        batches = _mix_batches(batches, mix, seeds)
    make_targets = position_batches.make_targets(split, pre, views=views, seed=shuffle_seed)
    assemble = _make_assembler(
        split, pre, beside=beside, make_targets=make_targets, with_weights=with_weights
    )
    if split.positions:
        batches = position_batches.number_epochs(batches, seeds)
    dataset = batches.map(assemble, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(sizes) - first_batch))
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(_make_options())


def _make_assembler(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    beside: Callable[[tf.Tensor], dict[str, tf.Tensor]] | None,
    make_targets: position_batches.MakeTargets,
    with_weights: bool,
) -> Callable[..., tuple[Any, ...]]:
    """Function of (inputs of a batch, positions of a batch, ...) to a batch of the data set."""
    labels = {
        head: tf.constant(values)
        for head, values in split.labels.items()
        if head not in split.positions
    }
    name, shape = text_store.INPUT, tuple[int | None, ...]((None,))
    if isinstance(pre, preprocessing.PreprocessingSpec):
        name, shape = image_stores.INPUT, (None, pre.height, pre.width, pre.channels)

    # Behind the positions: the epoch where positions have labels, shares where images are mixed.
    def assemble(values: Any, positions: tf.Tensor, *more: tf.Tensor) -> tuple[Any, ...]:
        # Columns have their names already.
        inputs = values if isinstance(values, dict) else {name: tf.ensure_shape(values, shape)}
        if beside is not None:
            inputs = inputs | beside(positions)
        targets: Any = {head: tf.gather(values, positions) for head, values in labels.items()}
        if split.positions:
            targets |= make_targets(positions, *more)
        elif more:
            partners = {head: mixing.choose_partners(own) for head, own in targets.items()}
            targets = mixing.MixedLabels(targets, partners, *more)
        if not with_weights:
            return inputs, targets
        weights = tf.fill(tf.shape(positions), 1.0 / tf.cast(tf.size(positions), tf.float32))
        return inputs, targets, dict.fromkeys(split.labels, weights)

    return assemble


def _make_beside(
    split: loading.Split, pre: preprocessing.InputSpec
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]] | None:
    """What reads the columns beside the images or texts at some positions."""
    if isinstance(split.inputs, feature_inputs.Features):
        return None
    if not isinstance(pre, mixed_spec.MixedSpec):
        if split.features is not None:
            raise ValueError("The split has columns too. Expected a MixedSpec.")
        return None
    if split.features is None:
        raise ValueError("The split has no columns. Expected no MixedSpec.")
    return column_batches.make_reader(split.features, pre.columns, np.arange(len(split)))


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


def sample_rows(
    split: loading.Split, spec: columns.ColumnsSpec, *, count: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Some rows of a split.

    Args:
      split: the examples, columns, or images or texts with columns beside them.
      spec: the inputs of the model.
      count: how many; all of a smaller split.
      seed: chooses which, 0 or more.

    Returns:
      At most `count` times {input: [1, ...]}, in the split's order.

    Raises:
      ValueError: the split holds no columns.
    """
    store = split.inputs
    indices = split.indices
    if split.features is not None:
        store, indices = split.features, np.arange(len(split))
    if not isinstance(store, columns.Columns):
        raise ValueError("Only tables have rows.")
    chosen = np.random.default_rng(seed).choice(len(split), min(count, len(split)), replace=False)
    return [store.read(indices[[row]], spec) for row in np.sort(chosen)]


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
    if isinstance(images, text_store.Texts | columns.Columns | feature_inputs.Features):
        raise ValueError("Only images have pixels.")
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


def _make_positions(
    num_examples: int, seeds: tf.data.Dataset | None, strata: np.ndarray | None
) -> tf.data.Dataset:
    """Dataset of int64 scalars, 0 to num_examples - 1 in the epoch's order."""
    if strata is not None:
        return _make_balanced_positions(strata, seeds)
    if seeds is None:
        return tf.data.Dataset.range(num_examples)

    def shuffle(seed: tf.Tensor) -> tf.Tensor:
        # 8 bytes per example while the epoch lasts. index_shuffle would need none, but is far from
        # uniform on small sets (50 examples, TensorFlow 2.21: chi-square 7.8 per degree of
        # freedom, here 1.0).
        numbers = tf.range(num_examples, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, seed=seed)

    return seeds.map(shuffle).unbatch()


def _make_balanced_positions(strata: np.ndarray, seeds: tf.data.Dataset | None) -> tf.data.Dataset:
    """Dataset of as many int64 scalars, in which each stratum comes equally often."""
    if seeds is None:
        raise ValueError("Strata need a shuffle_seed: only training is resampled.")
    return _draw_epochs(strata, seeds, then=lambda rows: rows)


def _count_repeats(
    split: loading.Split, strata: np.ndarray | None, seeds: tf.data.Dataset | None
) -> tf.data.Dataset | None:
    """Dataset of int64 scalars: how often each position came in the epoch before; None: never."""
    # Labels of positions are moved as their image is, and know nothing of repeats.
    if strata is None or seeds is None or split.positions:
        return None
    return _draw_epochs(strata, seeds, then=resampling.count_repeats)


def _draw_epochs(
    strata: np.ndarray, seeds: tf.data.Dataset, *, then: Callable[[np.ndarray], np.ndarray]
) -> tf.data.Dataset:
    """Dataset of what `then` makes of the rows of an epoch, one by one."""

    def draw(seed: np.ndarray) -> np.ndarray:
        return then(resampling.draw_epoch(strata, seed=int(seed[0]), epoch=int(seed[1])))

    def draw_rows(seed: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(draw, [seed], tf.int64, stateful=False)
        return tf.ensure_shape(rows, [len(strata)])

    return seeds.map(draw_rows).unbatch()


def _make_batches(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    seeds: tf.data.Dataset | None,
    *,
    batch_size: int,
    view: augmentation.Viewer | None = None,
    strata: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Dataset of (inputs of a batch, positions of a batch)."""
    store = split.inputs
    positions = _make_positions(len(split), seeds, strata)
    if isinstance(store, feature_inputs.Features):
        if seeds is not None and store.lengths is not None:
            lengths = store.lengths[split.indices]
            positions = length_batches.group_positions(positions, lengths, batch_size=batch_size)
        batched = positions.batch(batch_size)
        return feature_batches.make_batches(store, split.indices, positions=batched)
    if isinstance(store, columns.Columns) and isinstance(pre, columns.ColumnsSpec):
        batched = positions.batch(batch_size)
        return column_batches.make_batches(store, pre, split.indices, positions=batched)
    if isinstance(store, text_store.Texts) and isinstance(pre, text_store.TextSpec):
        # Once as TensorFlow strings, and only this split's.
        texts = tf.constant(split.texts, tf.string, shape=(len(split),))
        if seeds is not None and store.lengths is not None:
            lengths = store.lengths[split.indices]
            positions = length_batches.group_positions(positions, lengths, batch_size=batch_size)
        return positions.batch(batch_size).map(lambda batch: (tf.gather(texts, batch), batch))
    no_images = text_store.Texts | columns.Columns
    if isinstance(store, no_images) or not isinstance(pre, preprocessing.PreprocessingSpec):
        shown = input_stores.PLURALS[input_stores.find_kind(store)]
        raise ValueError(
            f"The split holds {shown}. Received {pre}. Expected a PreprocessingSpec for images, a "
            "TextSpec for texts, a ColumnsSpec for columns."
        )
    if isinstance(store, image_stores.StreamImages):
        return _stream_batches(
            store, split.indices, pre, seeds, batch_size=batch_size, view=view, strata=strata
        )
    if isinstance(store, image_stores.DecodedImages) and view is None:
        positions = positions.batch(batch_size)
        return _gather_batches(store, split.indices, positions=positions)
    load = loaders.make_loader(store, split.indices, pre)
    examples = _map_images(
        lambda position: (load(position), position),
        positions,
        seeds,
        view=view,
        repeats=_count_repeats(split, strata, seeds),
    )
    return examples.batch(batch_size)


def _gather_batches(
    images: image_stores.DecodedImages, indices: np.ndarray, *, positions: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch) from memory, a batch at a time."""
    pixels, places = loaders.as_tensor(images.pixels), tf.constant(indices, tf.int64)

    def gather(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.gather(pixels, tf.gather(places, batch)), tf.float32), batch

    return positions.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _make_viewers(
    split: loading.Split, views: augmentation.Steps | None, *, seed: int | None
) -> tuple[augmentation.Viewer | None, mixing.Mixer | None]:
    """What is done to images one by one, and to batches of them."""
    if views is None:
        return None, None
    if seed is None:
        raise ValueError("Views need a shuffle_seed: only the images of training vary.")
    if isinstance(split.inputs, text_store.Texts | columns.Columns):
        shown = input_stores.PLURALS[input_stores.find_kind(split.inputs)]
        raise ValueError(f"{shown.capitalize()} have no views. Expected a split of images.")
    seeds = augmentation.make_seeds(split.keys, seed=seed)
    return augmentation.make_viewer(views, seeds), mixing.make_mixer(views, seeds)


def _mix_batches(
    batches: tf.data.Dataset, mix: mixing.Mixer, seeds: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (images of a batch, their positions, what each kept of itself)."""

    def apply(batch: tuple[tf.Tensor, ...], epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images, positions = batch
        mixed, shares = mix(images, positions, epoch)
        return mixed, positions, shares

    numbered = tf.data.Dataset.zip(batches, augmentation.repeat_epoch(seeds))
    return numbered.map(apply, num_parallel_calls=tf.data.AUTOTUNE)


def _map_images(
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    items: tf.data.Dataset,
    seeds: tf.data.Dataset | None,
    *,
    view: augmentation.Viewer | None,
    repeats: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
    """Dataset of (image, position), as `load` gives them or in the epoch's view."""
    if view is None or seeds is None:
        return items.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    if repeats is None:
        repeats = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()

    def show(item: Any, epoch: tf.Tensor, repeat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, position = load(*item) if isinstance(item, tuple) else load(item)
        return view(image, position, epoch, repeat), position

    numbered = tf.data.Dataset.zip(items, augmentation.repeat_epoch(seeds), repeats)
    return numbered.map(show, num_parallel_calls=tf.data.AUTOTUNE)


def _stream_batches(
    images: image_stores.StreamImages,
    indices: np.ndarray,
    pre: preprocessing.PreprocessingSpec,
    seeds: tf.data.Dataset | None,
    *,
    batch_size: int,
    view: augmentation.Viewer | None,
    strata: np.ndarray | None,
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch) from a stream's elements."""
    if strata is not None:
        raise specs.SpecError(
            "--resample=balanced draws examples in any order, and this data set is too large "
            "for the memory and can only be read one after another. Leave it out, or give "
            "image files, a table or TFRecords."
        )
    elements = loaders.select_elements(images, indices)

    def shuffle(seed: tf.Tensor) -> tf.data.Dataset:
        number = tf.random.stateless_uniform([], seed, None, None, tf.int64)
        # TensorFlow 2.21 compares (global seed, seed) with (0, 0): under a global seed of 0 it asks
        # a symbolic tensor for its truth. This graph is the function's own.
        tf.compat.v1.get_default_graph().seed = 1
        return elements.shuffle(_STREAM_SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    ordered = elements if seeds is None else seeds.flat_map(shuffle)

    def load(element: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return loaders.load_element(element, pre), position

    return _map_images(load, ordered, seeds, view=view).batch(batch_size)
