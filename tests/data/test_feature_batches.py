import dataclasses

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data import feature_batches, feature_inputs, loading, pipeline, text_store

ARRAYS = {
    "features_0": np.random.default_rng(0).normal(size=(20, 3)).astype(ml_dtypes.bfloat16),
    "features_0_mask": np.arange(40).reshape(20, 2) % 3 == 0,
    "features_1": np.arange(20, dtype=np.float32).reshape(20, 1, 1),
    "features_2": np.arange(20, dtype=np.int32),
}


def make_features(*, in_memory, lengths=None):
    def read(rows):
        return [array[rows] for array in ARRAYS.values()]

    return feature_inputs.Features(
        names=tuple(ARRAYS),
        shapes=tuple(array.shape[1:] for array in ARRAYS.values()),
        dtypes=tuple(array.dtype.name for array in ARRAYS.values()),
        size=20,
        arrays=ARRAYS if in_memory else None,
        read=None if in_memory else read,
        lengths=lengths,
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_hold_the_rows_that_are_asked_for(in_memory):
    indices = np.array([5, 0, 19, 7, 7, 3])
    positions = tf.data.Dataset.from_tensor_slices(np.array([3, 0, 5, 2], np.int64)).batch(3)
    store = make_features(in_memory=in_memory)
    assert len(store) == 20
    batches = list(feature_batches.make_batches(store, indices, positions=positions))
    assert [len(rows) for _, rows in batches] == [3, 1]
    for values, rows in batches:
        assert set(values) == set(ARRAYS)
        for name, value in values.items():
            array = ARRAYS[name][indices[rows.numpy()]]
            if name == "features_0":
                assert value.dtype == tf.float32
            np.testing.assert_array_equal(value, array.astype(value.dtype.as_numpy_dtype))
            assert value.shape[1:] == array.shape[1:]


def test_features_in_no_place_are_refused():
    store = make_features(in_memory=False)
    object.__setattr__(store, "read", None)
    positions = tf.data.Dataset.range(4).batch(2)
    with pytest.raises(ValueError, match="Features are in memory, or can be read"):
        feature_batches.make_batches(store, np.arange(4), positions=positions)


def make_split(store):
    return loading.Split(
        name="train",
        keys=np.array([f"{number:02d}" for number in range(20)], object),
        inputs=store,
        indices=np.arange(20),
        labels={"label": np.arange(20, dtype=np.int32)},
    )


@pytest.mark.parametrize("kind", ["texts", "memory", "disk"])
def test_what_is_left_of_an_epoch_of_like_lengths(kind):
    lengths = np.random.default_rng(1).integers(1, 30, 20).astype(np.int32)
    store, asked = make_features(in_memory=kind == "memory", lengths=lengths), []
    if kind == "texts":
        texts = np.array([f"text {number}" for number in range(20)], object)
        store = text_store.Texts(texts, lengths=lengths)
    if kind == "disk":
        read = store.read
        store = dataclasses.replace(store, read=lambda rows: asked.append(rows) or read(rows))
    options = {"batch_size": 3, "shuffle_seed": 3}
    whole, rest = (
        [
            tf.nest.map_structure(lambda leaf: leaf.numpy().tolist(), batch)
            for batch in pipeline.make_dataset(
                make_split(store), text_store.TextSpec(), first_batch=first, **options
            )
        ]
        for first in (0, 5)
    )
    assert len(whole) == 7 and rest == whole[5:]
    if kind == "disk":
        assert len(asked) == 7 + 2


@pytest.mark.parametrize("with_lengths", [False, True])
def test_the_order_is_that_of_the_inputs_themselves(with_lengths):
    """Shuffling, and grouping texts by length, see features as they see texts."""
    lengths = np.random.default_rng(1).integers(1, 30, 20).astype(np.int32)
    lengths = lengths if with_lengths else None
    texts = np.array([f"text {number}" for number in range(20)], object)
    orders = []
    for store in (
        text_store.Texts(texts, lengths=lengths),
        make_features(in_memory=True, lengths=lengths),
        make_features(in_memory=False, lengths=lengths),
    ):
        dataset = pipeline.make_dataset(
            make_split(store), text_store.TextSpec(), batch_size=6, shuffle_seed=3
        )
        orders.append([labels["label"].numpy().tolist() for _, labels in dataset])
    assert orders[0] == orders[1] == orders[2]
    assert [row for batch in orders[0] for row in batch] != list(range(20))
