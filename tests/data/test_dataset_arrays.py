import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import dataset_arrays, image_stores, loading, memory_source, pipeline
from tf_finetune.data import preprocessing as preprocessing_module

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3


def pairs():
    # Inside of tests: the devices are set up when the first of them begins.
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))


def collect(dataset):
    return memory_source.collect(dataset, flag="data")


def sized(count=30, dtype=tf.uint8):
    """Images of different sizes, whose first pixel is their number."""

    def generate():
        for number in range(count):
            yield np.full((3, 3 + number % 2, 3), number), number % 3

    form = (tf.TensorSpec((None, None, 3), dtype), tf.TensorSpec((), tf.int32))
    return tf.data.Dataset.from_generator(generate, output_signature=form)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.batch(7),
        lambda data: data.batch(6, drop_remainder=True),
        lambda data: data.map(lambda x, y: {"image": x, "label": y}),
        lambda data: data.batch(7).map(lambda x, y: ({"image": x}, {"label": y})),
        lambda data: data.map(lambda x, y: (x, tf.one_hot(y, 3))),
        lambda data: data.batch(7).map(lambda x, y: (tf.cast(x, tf.float32), y[:, tf.newaxis])),
        lambda data: data.filter(lambda x, y: True),
    ],
)
def test_every_form_gives_the_same_examples(change):
    splits = loading.load_data(specs.DataSpec(), data=change(pairs()))
    np.testing.assert_array_equal(splits.train.inputs.pixels, IMAGES)
    assert splits.info.num_examples == 30
    for split in (splits.train, splits.test):
        assert split.labels["label"].tolist() == LABELS[split.indices].tolist()


def test_a_shuffled_data_set_keeps_its_pairs():
    splits = loading.load_data(specs.DataSpec(), data=pairs().shuffle(30))
    places = {image.tobytes(): place for place, image in enumerate(IMAGES)}
    for row, index in enumerate(splits.train.indices):
        place = places[splits.train.inputs.pixels[index].tobytes()]
        assert splits.train.labels["label"][row] == LABELS[place]


@pytest.mark.parametrize("batched", [False, True])
def test_texts_and_vectors(batched):
    texts = [f"text {number}" for number in range(30)]
    vectors = np.arange(60, dtype=np.float32).reshape(30, 2)
    for values, kind in ((texts, "text"), (vectors, "columns")):
        dataset = tf.data.Dataset.from_tensor_slices((values, LABELS))
        splits = loading.load_data(specs.DataSpec(), data=dataset.batch(4) if batched else dataset)
        assert splits.input_kind == kind and splits.info.num_examples == 30
    dataset = tf.data.Dataset.from_tensor_slices({"v": vectors, "n": vectors[:, 0], "y": LABELS})
    spec = specs.DataSpec(feature_columns="v,n")
    splits = loading.load_data(spec, data=dataset.batch(4) if batched else dataset)
    assert splits.train.inputs.found.names == ("v[0]", "v[1]", "n")


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_images_of_different_sizes_are_read_again(dtype):
    splits = loading.load_data(specs.DataSpec(), data=sized(dtype=dtype))
    assert isinstance(splits.train.inputs, image_stores.StreamImages)
    pre = preprocessing_module.PreprocessingSpec(3, 3, 3)
    splits, _, _ = pipeline.read_images(splits, pre, on_bad_example="error")
    for split in (splits.train, splits.validation, splits.test):
        numbers = split.inputs.pixels[split.indices][:, 0, 0, 0].astype(int)
        assert split.labels["label"].tolist() == (numbers % 3).tolist()
    assert str(collect(sized())) == str(collect(sized())) != str(collect(sized(29)))


def test_many_images_are_read_again(monkeypatch):
    monkeypatch.setattr(dataset_arrays, "_MAX_BYTES_KEPT", 600)
    for dataset in (pairs(), pairs().batch(7)):
        store = collect(dataset).values["image"]
        assert isinstance(store, image_stores.StreamImages)
        np.testing.assert_array_equal(list(store.make_dataset().as_numpy_iterator()), IMAGES)
    assert data_files.refusal(collect, pairs().shuffle(30)) == [
        "data: the images are too many to be kept in memory, or of different sizes, and the data "
        "set gives them in another order each time. Leave shuffle out (training shuffles), or give "
        "it reshuffle_each_iteration=False."
    ]
    same = pairs().shuffle(30, reshuffle_each_iteration=False)
    assert len(collect(same)) == 30


@pytest.mark.parametrize("wrap", [lambda x, y: (x, y), lambda x, y: {"features": x, "label": y}])
@pytest.mark.parametrize("shape", [(3,), (3, 5)])
def test_what_may_be_a_batch_is_refused(wrap, shape):
    values = np.zeros((6, *shape), np.float32)
    data = tf.data.Dataset.from_tensor_slices((values, np.eye(6, 3))).map(wrap)
    assert data_files.refusal(collect, data) == [
        f"data: each element holds 'features' {list(shape)}, 'label' [3], and nothing tells "
        "whether that is one example or a batch of 3. Single examples: batch(n) the data set. "
        "A batch: batch(n) without drop_remainder, or unbatch()."
    ]
    assert len(collect(data.batch(4))) == 6 and len(collect(data.unbatch())) == 18


def test_what_is_one_of_each_or_of_texts_is_no_guess():
    numbers = np.arange(6, dtype=np.float32)
    data = tf.data.Dataset.from_tensor_slices((numbers, LABELS[:6]))
    for size in (1, 3):
        batched = data.batch(size, drop_remainder=size == 1)
        assert collect(batched).values["features"].shape == (6,)
    # A matrix is no label, and an image has not 28 channels.
    for shape, labels in (((5,), np.eye(6)), ((5, 28), LABELS[:6])):
        values = np.zeros((6, *shape), np.float32)
        data = tf.data.Dataset.from_tensor_slices((values, labels)).batch(3, drop_remainder=True)
        (name,) = collect(data).inputs
        assert collect(data).values[name].shape == values.shape
    images = np.zeros((6, 3, 4, 3), np.uint8)
    for labels in (np.eye(6, 3), [["a", "b", "c"]] * 6):
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        assert collect(data).values["image"].shape == images.shape
    texts = tf.data.Dataset.from_tensor_slices((list("abcdef"), LABELS[:6]))
    assert collect(texts.batch(3, drop_remainder=True)).values["text"].tolist() == [
        letter.encode() for letter in "abcdef"
    ]


def test_channels_that_only_the_images_tell():
    def generate():
        for number in range(4):
            yield np.zeros((3, 3, 2)), number

    form = (tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((), tf.int32))
    (line,) = data_files.refusal(
        collect, tf.data.Dataset.from_generator(generate, output_signature=form)
    )
    assert line.startswith("data: 'image': images of two channels. Expected 1 (grey), 3 (RGB)")
    assert line.endswith("Received uint8 [3, 3, 2] each.")


def endless():
    return tf.data.Dataset.from_generator(
        lambda: itertools.repeat((1.0, 2)),
        output_signature=(tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.int32)),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.repeat(),
         "the data set has no end (repeat). Hand over one epoch; --epochs says how many."),
        (lambda data: data.take(0), "the data set holds no example."),
        (lambda data: data.map(lambda x, y: x), f"expected {memory_source.EXPECTED}. Received "
         "TensorSpec."),
        (lambda data: data.map(lambda x, y: (x, y, y)), f"expected {memory_source.EXPECTED}. "
         "Received tuple of 3."),
        (lambda data: data.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y)),
         "'image': float32 pixels from 0 to 1 look scaled. Expected 0 to 255: multiply them by "
         "255. Scaling is the model's own, see --pixel_range."),
        (lambda data: data.map(lambda x, y: (tf.transpose(tf.tile(x, [1, 2, 1]), [2, 0, 1]), y)),
         "'image': expected images [n, height, width] or [n, height, width, 1, 3 or 4 channels]. "
         "Received uint8 [3, 5, 8] each. Channels come last: numpy.moveaxis(images, 1, -1)."),
        (lambda data: data.map(lambda x, y: (x > 3, y)), "'image': expected pixels. Received "
         "bool."),
        (lambda data: data.map(lambda x, y: (x, {"label": {"a": y}})), "'label' is {'a': "
         "TensorSpec(shape=(), dtype=tf.int64, name=None)}. Expected dense tensors of a known "
         "rank."),
        (lambda data: data.batch(2).map(lambda x, y: (x, y[:1])), "a batch has different numbers "
         "of examples: 'image' 2, 'label' 1."),
        (lambda data: sized(dtype=tf.float32).map(lambda x, y: (x - 1, y)),
         "'image': float32 pixels from -1 to 28. Expected 0 to 255, or uint16. Undo what scaled "
         "them."),
        (lambda data: sized(dtype=tf.float32).map(lambda x, y: (9 * x / x, y)),
         "'image': pixels that are no finite number, examples 0."),
    ],
)  # fmt: skip
def test_what_is_refused(change, message):
    lines = data_files.refusal(loading.load_data, specs.DataSpec(), data=change(pairs()))
    assert lines == [f"data: {message}"]


def test_what_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(dataset_arrays, "_MAX_UNCOUNTED", 1000)
    assert data_files.refusal(collect, endless()) == [
        "data: the data set does not say how many elements it has, and has more than 1,000. If it "
        "ends, tell so with apply(tf.data.experimental.assert_cardinality(n)); if not, take(n) "
        "ends it."
    ]
