"""From a split to the batches that Keras fits and evaluates on.

One idea: the order of an epoch is a pure function of (seed, epoch), drawn as a permutation of
positions; images follow it. So the same seed gives the same batches whether pixels come from
memory or from files, and a resumed run can ask for epoch 7 without living through the first six.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune import specs
from tf_finetune.data import (
    augmentation,
    batch_order,
    batching,
    column_batches,
    columns,
    data_service,
    example_order,
    feature_batches,
    feature_inputs,
    image_stores,
    input_stores,
    loaders,
    loading,
    mixed_spec,
    mixing,
    parallelism,
    position_batches,
    preprocessing,
    reading,
    text_store,
)

# The reading pass, where callers look for it: next to what it prepares.
read_images = reading.read_images
naming_bad_images = reading.naming_bad_images

_PREFETCHED_BATCHES = 2


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
    num_views: int | None = None,
    strata: np.ndarray | None = None,
    first_batch: int = 0,
    share: batching.Share = batching.WHOLE,
    service: str | None = None,
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
      num_views: how many views an image has, with which the epochs take turns, see
        `augmentation.number_view`; None: each epoch has its own.
      strata: int64 [n], what is drawn evenly, see `resampling`; needs `shuffle_seed`. None: each
        example comes once.
      first_batch: so many batches are left out at the beginning. Their examples are not loaded;
        a stream gives them, and they are not decoded.
      share: which part of each batch is read; default: all of it. Images are mixed within a part.
      service: address of a tf.data service whose workers read the images; None: this process
        does. Features are read here in any case.

    Returns:
      Dataset of (inputs, {HEAD: label [b, ...]}), and with weights also {HEAD: float32 [b] of
      1 / b}, of parts of batches 1 / the size of the whole one. In place of the labels are
      `mixing.MixedLabels` where images are mixed. The inputs are {"image": float32 [b, height,
      width, channels], values 0 to 255}, or {"text": string [b]}, or {input: [b, ...]} of columns,
      or of a MixedSpec both. Labels of pixels are int32 [b, height, width], of words [b, most
      words], -1 without a class; those of pixels are moved by `views` as their image is.

    Raises:
      ValueError: the split holds images and `pre` is of texts, or the reverse; it has columns
        beside them that `pre` does not know, or the reverse; views of anything but images and
        features of as many views, or without a `shuffle_seed`; labels of positions of images that
        are mixed; strata without a `shuffle_seed`; a service for anything but image files.
      SpecError: a device would get no example; strata of a stream that is not in memory.
    """
    beside, pre = _make_beside(split, pre), mixed_spec.find_main(pre)
    sizes = batching.plan_batches(len(split), batch_size=batch_size, num_replicas=num_replicas)
    seeds = example_order.make_seeds(shuffle_seed, epoch)
    shown = _make_views(split, views, seed=shuffle_seed, num_views=num_views)
    own = share.count(sizes)
    order = batch_order.Order(
        seeds,
        strata,
        batch_size,
        own_size=batch_size if share == batching.WHOLE else max(own, default=1),
        chosen=None if share == batching.WHOLE else share.choose(sizes),
        num_skipped=sum(own[:first_batch]),
    )
    if service is None or isinstance(split.inputs, feature_inputs.Features):
        batches = _make_batches(split, pre, order, view=shown.image)
    else:
        batches = _serve_batches(split, pre, order, shown=shown, service=service)
    left = own[first_batch:]
    if left and own != batching.plan_batches(sum(own), batch_size=order.own_size):
        batches = batches.rebatch(tf.constant(left, tf.int64))
    if seeds is not None and shown.mix is not None:
        batches = _mix_batches(batches, shown.mix, seeds)
    if seeds is not None and shown.mask is not None:
        batches = position_batches.number_epochs(batches, seeds)
    find_targets = _make_target_finder(split, pre, shown)
    assemble = _make_assembler(
        split, pre, beside=beside, find_targets=find_targets, with_weights=with_weights
    )
    dataset = batches.map(assemble, num_parallel_calls=parallelism.count_batches())
    if share != batching.WHOLE and with_weights:
        dataset = batching.weigh(dataset, sizes[first_batch:])
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(left)))
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(_make_options())


@dataclasses.dataclass(frozen=True, eq=False)
class _Views:
    """What is done to images one by one, to their masks, and to batches of images."""

    image: augmentation.Viewer | None = None
    mask: augmentation.Viewer | None = None
    mix: mixing.Mixer | None = None
    # What `image` is made of, for other processes.
    drawn: data_service.Views | None = None


def _make_views(
    split: loading.Split,
    views: augmentation.Steps | None,
    *,
    seed: int | None,
    num_views: int | None,
) -> _Views:
    if isinstance(split.inputs, feature_inputs.Features):
        feature_batches.check_views(split.inputs, has_views=views is not None, num_views=num_views)
    if views is None:
        return _Views()
    if seed is None:
        raise ValueError("Views need a shuffle_seed: only the images of training vary.")
    if isinstance(split.inputs, text_store.Texts | columns.Columns):
        shown = input_stores.PLURALS[input_stores.find_kind(split.inputs)]
        raise ValueError(f"{shown.capitalize()} have no views. Expected a split of images.")
    seeds = augmentation.make_seeds(split.keys, seed=seed)
    image = augmentation.make_viewer(views, seeds, num_views=num_views)
    mix = mixing.make_mixer(views, seeds)
    drawn = None if image is None else data_service.Views(views, seeds, num_views)
    if not split.positions:
        return _Views(image, None, mix, drawn)
    if mix is not None:
        raise ValueError("Images with masks are not mixed: a pixel has one class.")
    if image is None:
        return _Views()
    mask = augmentation.make_mask_viewer(views, seeds, num_views=num_views)
    return _Views(image, mask, None, drawn)


def _make_target_finder(
    split: loading.Split, pre: preprocessing.InputSpec, shown: _Views
) -> Callable[..., Any]:
    """Function of (positions of a batch, ...) to its labels.

    Behind the positions is what the batches have there: where images are viewed how often each came
    before, where masks are the epoch too, and where images are mixed their shares instead.
    """
    labels = {
        head: tf.constant(values)
        for head, values in split.labels.items()
        if head not in split.positions
    }
    make_targets = None
    if split.positions:
        make_targets = position_batches.make_targets(split, pre, view=shown.mask)

    def find(positions: tf.Tensor, *more: tf.Tensor) -> Any:
        targets = {head: tf.gather(values, positions) for head, values in labels.items()}
        if make_targets is not None:
            return targets | make_targets(positions, *more)
        if shown.mix is None:
            return targets
        partners = {head: mixing.choose_partners(own) for head, own in targets.items()}
        return mixing.MixedLabels(targets, partners, *more)

    return find


def _make_assembler(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    *,
    beside: Callable[[tf.Tensor], dict[str, tf.Tensor]] | None,
    find_targets: Callable[..., Any],
    with_weights: bool,
) -> Callable[..., tuple[Any, ...]]:
    """Function of (inputs of a batch, positions of a batch, ...) to a batch of the data set."""
    name, shape = text_store.INPUT, tuple[int | None, ...]((None,))
    if isinstance(pre, preprocessing.PreprocessingSpec):
        name, shape = image_stores.INPUT, (None, pre.height, pre.width, pre.channels)

    def assemble(values: Any, positions: tf.Tensor, *more: tf.Tensor) -> tuple[Any, ...]:
        # Columns have their names already.
        inputs = values if isinstance(values, dict) else {name: tf.ensure_shape(values, shape)}
        if beside is not None:
            inputs = inputs | beside(positions)
        targets = find_targets(positions, *more)
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


def _make_options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    # Splitting by file or by element would drop examples from an epoch whose order is ours;
    # strategies divide each global batch among their replicas all the same.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # The rewriting of graphs copies what functions capture: here gigabytes of pixels.
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _make_batches(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    order: batch_order.Order,
    *,
    view: augmentation.Viewer | None,
) -> tf.data.Dataset:
    """Dataset of (inputs of a batch, positions of a batch), with a view also repeats of those."""
    store, seeds = split.inputs, order.seeds
    if isinstance(store, feature_inputs.Features) and store.num_views is not None:
        turns = order.make_turns(split).batch(order.own_size)
        return feature_batches.make_view_batches(store, split.indices, seeds, turns=turns)
    if isinstance(store, feature_inputs.Features):
        batched = order.make_positions(split).batch(order.own_size)
        return feature_batches.make_batches(store, split.indices, positions=batched)
    if isinstance(store, columns.Columns) and isinstance(pre, columns.ColumnsSpec):
        batched = order.make_positions(split).batch(order.own_size)
        return column_batches.make_batches(store, pre, split.indices, positions=batched)
    if isinstance(store, text_store.Texts) and isinstance(pre, text_store.TextSpec):
        # Once as TensorFlow strings, and only this split's.
        texts = tf.constant(split.texts, tf.string, shape=(len(split),))
        batched = order.make_positions(split).batch(order.own_size)
        return batched.map(lambda batch: (tf.gather(texts, batch), batch))
    no_images = text_store.Texts | columns.Columns
    if isinstance(store, no_images) or not isinstance(pre, preprocessing.PreprocessingSpec):
        shown = input_stores.PLURALS[input_stores.find_kind(store)]
        raise ValueError(
            f"The split holds {shown}. Received {pre}. Expected a PreprocessingSpec for images, a "
            "TextSpec for texts, a ColumnsSpec for columns."
        )
    if isinstance(store, image_stores.StreamImages):
        return _stream_batches(store, split.indices, pre, order, view=view)
    if isinstance(store, image_stores.DecodedImages) and view is None:
        batched = order.make_positions(split).batch(order.own_size)
        return _gather_batches(store, split.indices, positions=batched)
    load = loaders.make_loader(store, split.indices, pre)
    if view is None or seeds is None:
        examples = _map(lambda position: (load(position), position), order.make_positions(split))
    else:
        examples = _map_views(
            lambda position, repeat: (load(position), position, repeat),
            order.make_turns(split),
            seeds,
            view=view,
        )
    return examples.batch(order.own_size)


def _serve_batches(
    split: loading.Split,
    pre: preprocessing.InputSpec,
    order: batch_order.Order,
    *,
    shown: _Views,
    service: str,
) -> tf.data.Dataset:
    """As `_make_batches`, of images that the workers of a service read."""
    store = split.inputs
    if not isinstance(store, image_stores.PathImages) or not isinstance(
        pre, preprocessing.PreprocessingSpec
    ):
        raise ValueError(
            f"A data service reads images that are files. Received {type(store).__name__}. Pass "
            "memory_bytes=0 to read_images, or no service."
        )
    batches = data_service.read_batches(
        order.make_turns(split),
        store,
        split.indices,
        pre,
        views=shown.drawn,
        seeds=order.seeds,
        batch_size=order.own_size,
        service=service,
    )
    if shown.drawn is not None:
        return batches
    return batches.map(lambda images, positions, repeats: (images, positions))


def _gather_batches(
    images: image_stores.DecodedImages, indices: np.ndarray, *, positions: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (images of a batch, positions of a batch) from memory, a batch at a time."""
    pixels, places = loaders.as_tensor(images.pixels), tf.constant(indices, tf.int64)

    def gather(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.gather(pixels, tf.gather(places, batch)), tf.float32), batch

    return positions.map(gather, num_parallel_calls=parallelism.count_batches())


def _mix_batches(
    batches: tf.data.Dataset, mix: mixing.Mixer, seeds: tf.data.Dataset
) -> tf.data.Dataset:
    """Dataset of (images of a batch, their positions, what each kept of itself)."""

    def apply(batch: tuple[tf.Tensor, ...], epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images, positions, *_ = batch
        mixed, shares = mix(images, positions, epoch)
        return mixed, positions, shares

    numbered = tf.data.Dataset.zip(batches, augmentation.repeat_epoch(seeds))
    return numbered.map(apply, num_parallel_calls=parallelism.count_batches())


def _map(load: Callable[..., tuple[tf.Tensor, ...]], items: tf.data.Dataset) -> tf.data.Dataset:
    return items.map(load, num_parallel_calls=parallelism.count_cores())


def _map_views(
    load: Callable[..., tuple[tf.Tensor, ...]],
    items: tf.data.Dataset,
    seeds: tf.data.Dataset,
    *,
    view: augmentation.Viewer,
) -> tf.data.Dataset:
    """Dataset of (image, position, repeat), as `load` gives them but in the epoch's view."""

    def show(item: tuple[tf.Tensor, ...], epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, position, repeat = load(*item)
        return view(image, position, epoch, repeat), position, repeat

    return _map(show, tf.data.Dataset.zip(items, augmentation.repeat_epoch(seeds)))


def _stream_batches(
    images: image_stores.StreamImages,
    indices: np.ndarray,
    pre: preprocessing.PreprocessingSpec,
    order: batch_order.Order,
    *,
    view: augmentation.Viewer | None,
) -> tf.data.Dataset:
    """As `_make_batches`, from a stream's elements."""
    if order.strata is not None:
        raise specs.SpecError(
            "--resample=balanced draws examples in any order, and this data set is too large "
            "for the memory and can only be read one after another. Leave it out, or give "
            "image files, a table or TFRecords."
        )
    ordered, seeds = batch_order.order_stream(images, indices, order), order.seeds

    def load(element: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return loaders.load_element(element, pre), position

    if view is None or seeds is None:
        return _map(load, ordered).batch(order.own_size)
    never = tf.constant(0, tf.int64)
    examples = _map_views(lambda *item: (*load(*item), never), ordered, seeds, view=view)
    return examples.batch(order.own_size)
