"""Some examples of a split, to measure or to check something on.

One idea: which they are follows from the seed and the number of examples alone, so that images and
the columns beside them are of the same examples.
"""

import numpy as np
import tensorflow as tf

from tf_finetune.data import (
    columns,
    feature_inputs,
    image_stores,
    loaders,
    loading,
    parallelism,
    preprocessing,
    text_store,
)


def sample_texts(split: loading.Split, *, count: int, seed: int) -> list[str]:
    """Some texts of a split.

    Args:
      split: the examples, texts.
      count: how many; all of a smaller split.
      seed: chooses which, 0 or more.

    Returns:
      At most `count` texts, in the split's order.
    """
    texts = split.texts
    return [texts[row] for row in _choose(split, count, seed)]


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
    return [store.read(indices[[row]], spec) for row in _choose(split, count, seed)]


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
        places = split.indices[_choose(split, count, seed)]
        if isinstance(images, image_stores.DecodedImages):
            return images.pixels[places].astype(np.float32)
        load = loaders.make_loader(images, places, pre)
        dataset = tf.data.Dataset.range(len(places)).map(
            load, num_parallel_calls=parallelism.count_cores()
        )
        pixels = list(parallelism.untuned(dataset).as_numpy_iterator())
    return np.array(pixels, np.float32).reshape(-1, pre.height, pre.width, pre.channels)


def _choose(split: loading.Split, count: int, seed: int) -> np.ndarray:
    """int64 [k], rows of a split in their order; k is at most `count`."""
    size = min(count, len(split))
    return np.sort(np.random.default_rng(seed).choice(len(split), size, replace=False))
