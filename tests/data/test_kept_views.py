"""A few views of each example, with which the epochs take turns: of images, masks and features."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.data import test_augmentation, test_pipeline
from tests.data.test_position_batches import splits  # noqa: F401 a fixture
from tf_finetune import option_values
from tf_finetune.data import feature_inputs, image_stores, pipeline

STEPS = option_values.read_augment("rotate:45,flip,brightness")
SEED, NUMBER = 3, 2


def make_dataset(split, pre, *, epoch, strata=None, views=STEPS, number=NUMBER, first=0):
    return pipeline.make_dataset(
        split,
        pre,
        batch_size=5,
        shuffle_seed=SEED,
        epoch=tf.Variable(epoch, dtype=tf.int64, trainable=False),
        views=views,
        num_views=number,
        strata=strata,
        first_batch=first,
    )


def collect(store, epoch, *, number):
    """{key: view} of an epoch."""
    images = test_pipeline.make_pixels(12)
    split = test_pipeline.make_split(store(images), np.arange(12))
    dataset = make_dataset(split, test_pipeline.PRE, epoch=epoch, number=number)
    images, labels = test_pipeline.collect(dataset)
    return {split.keys[label]: image for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("store", [image_stores.DecodedImages, image_stores.ArrayImages])
def test_the_first_views_come_again(store):
    own = [collect(store, epoch, number=NUMBER) for epoch in range(4)]
    for epoch in range(4):
        expected = collect(store, epoch % NUMBER, number=None)
        test_augmentation.assert_equal(own[epoch], expected)
    assert not any(np.array_equal(own[0][key], own[1][key]) for key in own[0])


def make_feature_split(train, pre, *, in_memory):
    """The split with features that are the views themselves."""
    rows = np.arange(len(train))
    numbered = dataclasses.replace(train, labels={"row": rows}, positions={})
    shown = np.empty((len(train), NUMBER, pre.height, pre.width, 1), np.float32)
    for view in range(NUMBER):
        for inputs, labels in make_dataset(numbered, pre, epoch=view):
            shown[labels["row"].numpy(), view] = inputs["image"]
    arrays = {"image": shown.reshape(-1, *shown.shape[2:])}
    features = feature_inputs.Features(
        names=("image",),
        shapes=(shown.shape[2:],),
        dtypes=("float32",),
        size=len(train),
        arrays=arrays if in_memory else None,
        read=None if in_memory else lambda places: [arrays["image"][places]],
        num_views=NUMBER,
    )
    return dataclasses.replace(train, inputs=features, indices=rows)


@pytest.mark.parametrize("strata", [None, np.repeat([0, 1], [10, 2])])
@pytest.mark.parametrize("in_memory", [True, False])
def test_features_of_views_come_as_the_views_do(splits, strata, in_memory):  # noqa: F811
    """With their masks, and where an example comes several times in an epoch."""
    loaded, pre, _ = splits
    # Other places in the store than in the split.
    chosen = np.array([11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    train = loaded.train.take(chosen)
    features = make_feature_split(loaded.train, pre, in_memory=in_memory).take(chosen)
    epochs = []
    for epoch in range(3):
        options = {"epoch": epoch, "strata": strata}
        whole, own = (
            list(make_dataset(split, pre, **options).as_numpy_iterator())
            for split in (train, features)
        )
        for expected, batch in zip(whole, own, strict=True):
            np.testing.assert_array_equal(batch[0]["image"], expected[0]["image"])
            np.testing.assert_array_equal(batch[1]["mask"], expected[1]["mask"])
        for split in (train, features):
            (last,) = make_dataset(split, pre, first=2, **options).as_numpy_iterator()
            np.testing.assert_array_equal(last[0]["image"], whole[2][0]["image"])
            np.testing.assert_array_equal(last[1]["mask"], whole[2][1]["mask"])
        epochs.append(np.concatenate([batch[0]["image"] for batch in own]))
    assert not np.array_equal(epochs[0], epochs[2])  # the order is another


def test_features_know_of_which_views_they_are(splits):  # noqa: F811
    loaded, pre, _ = splits
    features = make_feature_split(loaded.train, pre, in_memory=True)
    told = "Features were made of 2 views of each image. Expected views with num_views=2. Received "
    for options, received in (
        ({"number": 3}, "num_views=3."),
        ({"number": None}, "num_views=None."),
        ({"views": None}, "no views."),
    ):
        with pytest.raises(ValueError) as caught:
            make_dataset(features, pre, epoch=0, **options)
        assert str(caught.value) == told + received
