import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune import distribution, findings, head_kinds, option_values
from tf_finetune.data import (
    batching,
    image_stores,
    loading,
    pipeline,
    preprocessing,
    samples,
)

PRE = preprocessing.PreprocessingSpec(8, 10, 3)
CLASSES = tuple(f"class {number}" for number in range(40))
HEADS = (head_kinds.HeadInfo("label", "multiclass", CLASSES),)
INFO = loading.DatasetInfo("photos", 0, ("label",), "")


def make_split(images, indices, *, name="train"):
    """Labels are the example's number, so that a mixed-up row shows."""
    indices = np.array(indices, np.int64)
    keys = np.array([f"{index:04d}" for index in indices], object)
    labels = {"label": np.arange(len(indices), dtype=np.int32)}
    return loading.Split(name, keys, images, indices, labels)


def make_pixels(count, *, height=8, width=10):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def write_images(folder, pixels):
    paths = np.empty(len(pixels), object)
    for number, image in enumerate(pixels):
        path = folder / f"{number:04d} [ä].png"
        path.write_bytes(image_bytes.encode(image, "PNG"))
        paths[number] = os.fsencode(path)
    return image_stores.PathImages(paths)


def make_stream(pixels, *, encoded):
    if not encoded:
        return image_stores.StreamImages(
            lambda: tf.data.Dataset.from_tensor_slices(pixels), len(pixels)
        )
    files = [image_bytes.encode(image, "PNG") for image in pixels]
    return image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(files), len(files))


def collect(dataset):
    """(images, labels) of all batches."""
    batches = list(dataset)
    images = np.concatenate([batch[0]["image"] for batch in batches])
    return images, np.concatenate([batch[1]["label"] for batch in batches])


def make_store(name, pixels, folder):
    if name == "decoded":
        return image_stores.DecodedImages(pixels)
    if name == "array":
        return image_stores.ArrayImages(pixels)
    if name == "paths":
        return write_images(folder, pixels)
    return make_stream(pixels, encoded=name == "stream_bytes")


def test_devices_share_the_last_batches():
    pixels = make_pixels(9)
    split = make_split(image_stores.DecodedImages(pixels), range(9))
    dataset = pipeline.make_dataset(split, PRE, batch_size=4, num_replicas=2, with_weights=True)
    sizes = [len(labels["label"]) for _, labels, _ in dataset]
    assert sizes == [4, 5]
    assert int(dataset.cardinality()) == 2
    assert [float(weights["label"][0]) for *_, weights in dataset] == pytest.approx([0.25, 0.2])
    np.testing.assert_array_equal(collect(dataset.map(lambda *row: row[:2]))[1], range(9))


@pytest.mark.parametrize("name", ["decoded", "array", "stream_bytes"])
def test_batches_hold_each_example_once_in_order(name, tmp_path):
    pixels = make_pixels(30)
    indices = np.arange(2, 25)
    split = make_split(make_store(name, pixels, tmp_path), indices)
    dataset = pipeline.make_dataset(split, PRE, batch_size=5)
    assert int(dataset.cardinality()) == 5
    sizes = [batch[0]["image"].shape for batch in dataset]
    assert sizes == [(5, 8, 10, 3)] * 4 + [(3, 8, 10, 3)]
    assert dataset.element_spec[0]["image"] == tf.TensorSpec((None, 8, 10, 3), tf.float32)
    images, labels = collect(dataset)
    np.testing.assert_array_equal(images, pixels[indices])
    np.testing.assert_array_equal(labels, np.arange(23))


@pytest.mark.parametrize("name", ["decoded", "array", "paths", "stream_pixels"])
def test_order_is_a_function_of_seed_and_epoch(name, tmp_path):
    keras.utils.set_random_seed(0)  # as every run does
    pixels = make_pixels(40)
    indices = np.arange(5, 40)
    split = make_split(make_store(name, pixels, tmp_path), indices)
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    dataset = pipeline.make_dataset(split, PRE, batch_size=8, shuffle_seed=3, epoch=epoch)
    orders = {}
    for number in (0, 1, 0):
        epoch.assign(number)
        images, labels = collect(dataset)
        np.testing.assert_array_equal(images, pixels[indices][labels])
        assert sorted(labels) == list(range(35))
        order = orders.setdefault(number, labels.tolist())
        assert labels.tolist() == order
    assert orders[0] != orders[1]
    assert orders[0] != list(range(35))
    other = pipeline.make_dataset(split, PRE, batch_size=8, shuffle_seed=4, epoch=epoch)
    epoch.assign(0)
    assert collect(other)[1].tolist() not in orders.values()


def test_the_order_is_the_same_from_memory_and_from_files(tmp_path):
    pixels = make_pixels(20)
    orders = [
        collect(
            pipeline.make_dataset(
                make_split(make_store(name, pixels, tmp_path), np.arange(20)),
                PRE,
                batch_size=6,
                shuffle_seed=9,
            )
        )[1].tolist()
        for name in ("decoded", "array", "paths")
    ]
    assert orders[0] == orders[1] == orders[2]


def test_a_changed_epoch_does_not_touch_a_running_iterator():
    split = make_split(image_stores.DecodedImages(make_pixels(300)), np.arange(300))
    epoch = tf.Variable(0, dtype=tf.int64)
    dataset = pipeline.make_dataset(split, PRE, batch_size=4, shuffle_seed=0, epoch=epoch)
    expected = collect(dataset)[1]
    labels = []
    for number, batch in enumerate(dataset):
        epoch.assign(number + 1)
        labels.append(batch[1]["label"])
    np.testing.assert_array_equal(np.concatenate(labels), expected)


def test_every_place_is_equally_likely():
    split = make_split(image_stores.DecodedImages(make_pixels(10)), np.arange(10))
    epoch = tf.Variable(0, dtype=tf.int64)
    dataset = pipeline.make_dataset(split, PRE, batch_size=10, shuffle_seed=1, epoch=epoch)
    counts = np.zeros((10, 10))
    for number in range(40):
        epoch.assign(number)
        counts[np.arange(10), collect(dataset)[1]] += 1
    # 81 degrees of freedom: mean 81, deviation 13.
    assert ((counts - 4) ** 2 / 4).sum() < 81 + 5 * 13


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63 - 1, 2**64 + 5])
def test_any_seed_is_taken(seed):
    split = make_split(image_stores.DecodedImages(make_pixels(2)), [0, 1])
    dataset = pipeline.make_dataset(split, PRE, batch_size=1, shuffle_seed=seed)
    assert sorted(collect(dataset)[1]) == [0, 1]


def test_weights_sum_to_one_in_every_batch():
    split = make_split(image_stores.DecodedImages(make_pixels(7)), np.arange(7))
    split.labels["other"] = np.zeros((7, 1), np.float32)
    dataset = pipeline.make_dataset(split, PRE, batch_size=4, with_weights=True)
    batches = [
        {head: w.numpy().tolist() for head, w in weights.items()} for _, _, weights in dataset
    ]
    third = np.float32(1) / np.float32(3)
    assert batches == [
        {"label": [0.25] * 4, "other": [0.25] * 4},
        {"label": [third] * 3, "other": [third] * 3},
    ]


def test_an_empty_split_has_no_batches():
    split = make_split(image_stores.DecodedImages(make_pixels(3)), [])
    dataset = pipeline.make_dataset(split, PRE, batch_size=4, shuffle_seed=0)
    assert list(dataset) == []
    assert samples.sample_pixels(split, PRE, count=3, seed=0).shape == (0, 8, 10, 3)


def list_bits(dataset):
    """Every tensor of every batch."""
    return [[leaf.numpy().tobytes() for leaf in tf.nest.flatten(batch)] for batch in dataset]


@pytest.mark.parametrize("steps", ["", "flip,mixup"])
@pytest.mark.parametrize("name", ["decoded", "paths", "stream_bytes"])
def test_what_is_left_of_an_epoch_has_the_same_bits(name, steps, tmp_path):
    keras.utils.set_random_seed(0)
    split = make_split(make_store(name, make_pixels(30), tmp_path), np.arange(3, 24))
    options = {
        "batch_size": 4,
        "shuffle_seed": 3,
        "epoch": tf.Variable(2, dtype=tf.int64),
        "num_replicas": 2,
        "with_weights": True,
        "views": option_values.read_augment(steps) if steps else None,
        "strata": None if name.startswith("stream") else np.arange(21) % 5 // 4,
    }
    whole = list_bits(pipeline.make_dataset(split, PRE, **options))
    assert len(whole) == 5  # Of 4, and the last of 5: both devices get some.
    for first in (3, 4, 5):
        rest = pipeline.make_dataset(split, PRE, first_batch=first, **options)
        assert int(rest.cardinality()) == 5 - first
        assert list_bits(rest) == whole[first:]


@pytest.mark.parametrize("steps", ["", "flip"])
def test_files_of_batches_that_are_left_out_are_not_read(steps, tmp_path):
    images = write_images(tmp_path, make_pixels(40))
    split = make_split(images, range(40))
    options = {"batch_size": 4, "shuffle_seed": 3}
    if steps:
        options["views"] = option_values.read_augment(steps)
    batches = list(pipeline.make_dataset(split, PRE, **options))
    for _, labels in batches[:6]:
        for number in labels["label"].numpy():
            os.remove(images.paths[number])
    rest = pipeline.make_dataset(split, PRE, first_batch=6, **options)
    assert list_bits(rest) == list_bits(batches[6:])


def test_elements_of_a_stream_that_are_left_out_are_not_decoded():
    files = [image_bytes.encode(image, "PNG") for image in make_pixels(12)]
    files[:8] = [b"no image"] * 8
    stream = image_stores.StreamImages(lambda: tf.data.Dataset.from_tensor_slices(files), 12)
    rest = pipeline.make_dataset(make_split(stream, range(12)), PRE, batch_size=4, first_batch=2)
    images, labels = collect(rest)
    np.testing.assert_array_equal(images, make_pixels(12)[8:])
    assert labels.tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("first_batch", [0, 2])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("decoded", ""), ("paths", ""), ("paths", "flip,crop"), ("stream_bytes", "crop")],
)
def test_the_shares_of_batches_are_the_batches(name, steps, first_batch, tmp_path):
    # 29 examples: three batches of 8, and one of 5 that leaves one worker two of them.
    keras.utils.set_random_seed(0)
    views = option_values.read_augment(steps) if steps else None
    split = make_split(make_store(name, make_pixels(29), tmp_path), range(29))

    def read(**options):
        return list(
            pipeline.make_dataset(
                split, PRE, batch_size=8, shuffle_seed=4, with_weights=True, views=views,
                num_replicas=2, first_batch=first_batch, **options,
            )
        )  # fmt: skip

    whole = read()
    shares = [read(share=batching.Share(index, 2)) for index in range(2)]
    assert [len(share) for share in shares] == [len(whole)] * 2
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = tf.nest.map_structure(lambda *values: np.concatenate(values), *parts)
        # The weights too: those of the whole batch.
        tf.nest.map_structure(np.testing.assert_array_equal, joined, batch)
        sizes = [len(labels["label"]) for _, labels, _ in parts]
        assert sizes[1] - sizes[0] in (0, 1)


def test_kept_and_streamed_pixels_have_the_same_bits(tmp_path):
    images = write_images(tmp_path, make_pixels(6, height=33, width=21))
    split = make_split(images, range(6))
    splits = loading.Splits(split, make_split(images, []), make_split(images, []), HEADS, INFO)
    kept, pre, _ = pipeline.read_images(splits, PRE, on_bad_example="error")
    assert isinstance(kept.train.inputs, image_stores.DecodedImages)
    from_memory, _ = collect(pipeline.make_dataset(kept.train, pre, batch_size=4))
    from_files, _ = collect(pipeline.make_dataset(split, pre, batch_size=4))
    np.testing.assert_array_equal(from_memory, from_files)


def make_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 10, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Dense(40, name="label")(keras.layers.Flatten()(x))
    return keras.Model({"image": inputs}, {"label": x})


def fit_losses(strategy, split, *, epochs):
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    dataset = pipeline.make_dataset(
        split, PRE, batch_size=8, shuffle_seed=5, epoch=epoch, with_weights=True
    )
    with strategy.scope():
        model = make_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        model.compile(keras.optimizers.SGD(0.1), loss={"label": loss})
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda number, logs: epoch.assign(number)
    )
    model.fit(dataset, epochs=epochs, verbose=0, callbacks=[callback], shuffle=False)
    return model.get_weights()[-1]


def test_fit_under_a_mirrored_strategy_sees_the_same_examples(capfd):
    split = make_split(image_stores.DecodedImages(make_pixels(38)), np.arange(38))
    two = fit_losses(distribution.make_strategy("mirrored"), split, epochs=2)
    one = fit_losses(tf.distribute.get_strategy(), split, epochs=2)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
    assert "auto_shard" not in capfd.readouterr().err.lower()


def test_a_bad_file_met_in_training_is_named(tmp_path):
    images = write_images(tmp_path, make_pixels(6))
    split = make_split(images, range(6))
    path = os.fsdecode(images.paths[4])
    os.truncate(path, 60)
    with pytest.raises(findings.RefusedError) as caught, pipeline.naming_bad_images(split, pre=PRE):
        collect(pipeline.make_dataset(split, PRE, batch_size=2))
    assert str(caught.value) == (
        f"{path} is no image that can be decoded: its PNG data is damaged, cut off or of an "
        "unsupported kind. Expected JPEG, PNG, BMP, GIF or WebP; --on_bad_example=skip leaves it "
        "out."
    )


def test_an_error_of_another_kind_passes_through(tmp_path):
    split = make_split(write_images(tmp_path, make_pixels(2)), range(2))
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="another"),
        pipeline.naming_bad_images(split, pre=PRE),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "another")


MEASURE = """
import sys
import numpy as np
import tensorflow as tf
from tf_finetune.data import image_stores, loaders, loading, pipeline, preprocessing

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

with open(sys.argv[1], "rb") as file:
    names = file.read().split(b"\\n")
paths = np.empty(len(names), object)
paths[:] = names
pre = preprocessing.PreprocessingSpec(96, 96, 3)

def run(store, count, places):
    split = loading.Split(
        "train", np.full(count, "key", object), store, places, {"label": np.zeros(count, np.int32)}
    )
    dataset = pipeline.make_dataset(split, pre, batch_size=32, shuffle_seed=0)
    assert sum(int(batch[1]["label"].shape[0]) for batch in dataset) == count
    return rss()

def stream(count):
    return run(image_stores.PathImages(paths), count, np.resize(np.arange(len(paths)), count))

stream(1000)
first = stream(1000)
print(stream(4000) - first)
pixels = loaders.make_aligned((10000, 96, 96, 3), np.uint8)
pixels[:] = 1
first = rss()
print(run(image_stores.DecodedImages(pixels), 10000, np.arange(10000)) - first)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    # 3,000 more images would be 81 MB as bytes and 324 MB as floats; a copy of those in memory
    # 264 MB.
    images = write_images(tmp_path, make_pixels(50, height=96, width=96))
    (tmp_path / "paths").write_bytes(b"\n".join(images.paths))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "paths")]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    from_files, from_memory = map(float, finished.stdout.split())
    assert from_files < 30
    assert from_memory < 60


def test_nobody_waits_for_the_thread_that_tunes():
    split = make_split(image_stores.DecodedImages(make_pixels(4)), range(4))
    dataset = pipeline.make_dataset(split, PRE, batch_size=2)
    assert dataset.options().autotune.enabled is False
