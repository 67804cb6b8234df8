import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import option_values, specs
from tf_finetune.data import (
    image_stores,
    loading,
    pipeline,
    preprocessing,
    resampling,
    text_store,
)

PRE = preprocessing.PreprocessingSpec(2, 2, 1)
STRATA = np.repeat([0, 1, 2], [30, 8, 2])


def make_split(inputs):
    keys = np.array([f"{number:02d}" for number in range(40)], object)
    labels = {"label": np.arange(40, dtype=np.int32)}
    return loading.Split("train", keys, inputs, np.arange(40), labels)


def make_pixels():
    return np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 2, 2, 1))


def make_inputs(name):
    if name == "texts":
        return text_store.Texts(np.array([str(number) for number in range(40)], object))
    if name == "array":
        return image_stores.ArrayImages(np.ascontiguousarray(make_pixels()))
    return image_stores.DecodedImages(np.ascontiguousarray(make_pixels()))


def make_dataset(split, *, seed=7, epoch=None, strata=STRATA, **options):
    is_text = isinstance(split.inputs, text_store.Texts)
    pre = text_store.TextSpec() if is_text else PRE
    return pipeline.make_dataset(
        split, pre, batch_size=6, shuffle_seed=seed, epoch=epoch, strata=strata, **options
    )


def rows_of(dataset):
    """Rows of an epoch; inputs and labels must belong together."""
    rows = []
    for inputs, labels, *_ in dataset:
        (values,) = inputs.values()
        numbers = labels["label"].numpy()
        if values.dtype == tf.string:
            assert [int(value) for value in values.numpy()] == numbers.tolist()
        else:
            assert values.numpy()[:, 0, 0, 0].tolist() == numbers.tolist()
        rows += numbers.tolist()
    return rows


@pytest.mark.parametrize("name", ["decoded", "array", "texts"])
def test_batches_follow_the_drawn_order(name):
    epoch = tf.Variable(0, dtype=tf.int64)
    dataset = make_dataset(make_split(make_inputs(name)), epoch=epoch, with_weights=True)
    assert int(dataset.cardinality()) == 7
    for number in (0, 5):
        epoch.assign(number)
        keras.utils.set_random_seed(number)  # the global seed is none of its business
        rows = rows_of(dataset)
        assert rows == resampling.draw_epoch(STRATA, seed=7, epoch=number).tolist()
        for start in range(0, 36, 6):
            # A batch of later epochs may begin within a round of the three classes.
            counts = np.bincount(STRATA[rows[start : start + 6]], minlength=3)
            assert np.abs(counts - 2).max() <= (number > 0)


def test_training_only_and_no_stream():
    split = make_split(make_inputs("decoded"))
    with pytest.raises(ValueError) as missing:
        make_dataset(split, seed=None)
    assert str(missing.value) == "Strata need a shuffle_seed: only training is resampled."
    stream = image_stores.StreamImages(
        lambda: tf.data.Dataset.from_tensor_slices(np.ascontiguousarray(make_pixels())), 40
    )
    with pytest.raises(specs.SpecError) as caught:
        make_dataset(make_split(stream))
    assert caught.value.problems == (
        "--resample=balanced draws examples in any order, and this data set is too large for the "
        "memory and can only be read one after another. Leave it out, or give image files, a "
        "table or TFRecords.",
    )


def collect_views(name, *, strata):
    """{example: its views in the order of an epoch} of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
    store = {"array": image_stores.ArrayImages, "decoded": image_stores.DecodedImages}[name]
    dataset = pipeline.make_dataset(
        make_split(store(pixels)),
        preprocessing.PreprocessingSpec(6, 6, 1),
        batch_size=6,
        shuffle_seed=7,
        strata=strata,
        views=option_values.read_augment("crop,brightness"),
    )
    views: dict[int, list[bytes]] = {}
    for inputs, labels in dataset:
        for image, label in zip(inputs["image"].numpy(), labels["label"].numpy(), strict=True):
            views.setdefault(int(label), []).append(image.tobytes())
    return views


def test_an_example_that_comes_again_has_another_view():
    views = collect_views("array", strata=STRATA)
    assert [len(views[row]) for row in (38, 39)] in ([6, 7], [7, 6], [7, 7])
    assert all(len(set(shown)) == len(shown) for shown in views.values())
    assert collect_views("decoded", strata=STRATA) == views
    # The first view is the one that the example has anyway.
    plain = collect_views("array", strata=None)
    assert all(shown[0] == plain[row][0] for row, shown in views.items())
