import dataclasses

import numpy as np
import pytest

from tests.data import mixed_files
from tf_finetune import option_values, specs
from tf_finetune.data import (
    column_encoding,
    loading,
    mixed_serving,
    mixed_spec,
    pipeline,
    preprocessing,
    samples,
    store_selection,
    text_store,
)
from tf_finetune.feature_cache import keys

PIXELS = preprocessing.PreprocessingSpec(8, 8, 3)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    path = mixed_files.write_images(tmp_path_factory.mktemp("data"), mixed_files.make_rows(40))
    return loading.load_data(
        specs.DataSpec(data=str(path), image_column="photo", feature_columns="age,sex")
    )


def make_spec(splits, main=PIXELS, column="photo"):
    return mixed_spec.MixedSpec(main, column, column_encoding.make_spec(splits.train.features))


def collect(dataset):
    """{name: [n, ...]} of inputs and of the label."""
    batches = [{**inputs, **labels} for inputs, labels in dataset.as_numpy_iterator()]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_batch_keeps_images_columns_and_labels_together(splits, in_memory, seed):
    spec = make_spec(splits)
    if in_memory:
        splits, spec, _ = pipeline.read_images(splits, spec, on_bad_example="error")
        assert isinstance(spec, mixed_spec.MixedSpec)
    dataset = pipeline.make_dataset(splits.train, spec, batch_size=7, shuffle_seed=seed)
    found = collect(dataset)
    assert list(dataset.element_spec[0]) == ["image", "numbers", "categories"]
    is_bright = found["image"].mean(axis=(1, 2, 3)) > 120
    is_old = found["numbers"][:, 0] > 50
    np.testing.assert_array_equal(found["categories"][:, 0] == b"f", is_old)
    np.testing.assert_array_equal(found["label"] == 1, is_bright ^ is_old)
    assert len(is_old) == len(splits.train)
    ages = splits.train.features.read(np.arange(len(is_old)), spec.columns)["numbers"]
    assert sorted(ages[:, 0]) == sorted(found["numbers"][:, 0])
    assert (seed is None) == bool(np.array_equal(ages, found["numbers"]))


def test_views_change_the_images_alone(splits):
    spec = make_spec(splits)
    options = {"batch_size": 8, "shuffle_seed": 1}
    plain = collect(pipeline.make_dataset(splits.train, spec, **options))
    views = option_values.read_augment("brightness:0.5")
    seen = collect(pipeline.make_dataset(splits.train, spec, views=views, **options))
    assert np.abs(plain["image"] - seen["image"]).max() > 10
    for name in ("numbers", "categories", "label"):
        np.testing.assert_array_equal(plain[name], seen[name])


def test_devices_share_the_last_batch(splits):
    dataset = pipeline.make_dataset(splits.train, make_spec(splits), batch_size=31, num_replicas=2)
    sizes = [len(inputs["numbers"]) for inputs, _ in dataset.as_numpy_iterator()]
    assert sum(sizes) == 32
    assert min(sizes) >= 2


def test_a_split_and_its_spec_agree_on_columns(splits):
    with pytest.raises(ValueError, match=r"Expected a MixedSpec\."):
        pipeline.make_dataset(splits.train, PIXELS, batch_size=8)
    alone = dataclasses.replace(splits.train, features=None)
    with pytest.raises(ValueError, match=r"Expected no MixedSpec\."):
        pipeline.make_dataset(alone, make_spec(splits), batch_size=8)


def test_texts_of_like_length_keep_their_columns(tmp_path):
    path = mixed_files.write_texts(tmp_path, mixed_files.make_rows(40))
    splits = loading.load_data(
        specs.DataSpec(data=str(path), text_column="review", feature_columns="age,sex")
    )
    train = splits.train
    lengths = np.arange(40, dtype=np.int32) % 7
    store = dataclasses.replace(train.inputs, lengths=lengths)
    train = dataclasses.replace(train, inputs=store)
    spec = make_spec(splits, text_store.TextSpec("review"), "review")
    found = collect(pipeline.make_dataset(train, spec, batch_size=8, shuffle_seed=2))
    is_bright = np.array([b"bright" in text for text in found["text"]])
    np.testing.assert_array_equal(found["label"] == 1, is_bright ^ (found["numbers"][:, 0] > 50))


def test_samples_of_one_seed_are_of_the_same_rows(splits):
    spec = make_spec(splits)
    pixels = samples.sample_pixels(splits.train, PIXELS, count=9, seed=4)
    rows = samples.sample_rows(splits.train, spec.columns, count=9, seed=4)
    labels = splits.train.labels["label"]
    chosen = np.sort(np.random.default_rng(4).choice(len(labels), 9, replace=False))
    is_old = np.array([row["numbers"][0, 0] > 50 for row in rows])
    np.testing.assert_array_equal(labels[chosen] == 1, (pixels.mean(axis=(1, 2, 3)) > 120) ^ is_old)


def test_a_request_names_the_image_and_each_column(splits):
    spec = make_spec(splits)
    values = {"numbers": np.array([[3.5]], np.float32), "categories": np.array([[b"f"]], object)}
    content = np.array([b"png"], object)
    request = mixed_serving.make_request(spec, content, values, encoded=True)
    assert list(request) == ["image_bytes", "age", "sex"]
    assert request["age"].tolist() == [3.5]
    assert request["sex"].tolist() == [b"f"]
    for encoded, name, rank in ((False, "image", 4), (True, "image_bytes", 1)):
        made = mixed_serving.make_specs(spec, encoded=encoded)
        assert [len(spec.shape) for spec in made.values()] == [rank, 1, 1]
        assert next(iter(made)) == name


def test_a_spec_reads_what_it_wrote(splits):
    for main in (PIXELS, text_store.TextSpec("review")):
        spec = make_spec(splits, main)
        assert preprocessing.read_input_spec(spec.to_dict()) == spec
        assert mixed_spec.find_main(spec) == main
        assert mixed_spec.find_main(main) == main
        assert mixed_spec.find_columns(main) is None
        assert mixed_spec.replace_main(main, PIXELS) == PIXELS
    assert preprocessing.find_kind(spec) == "text"
    assert preprocessing.find_image_shape(spec) is None
    assert preprocessing.find_image_shape(make_spec(splits)) == (8, 8, 3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_other_tables_and_rows_of_no_split_keep_their_columns(tmp_path, in_memory):
    rows = mixed_files.make_rows(40, seed=1)
    mixed_files.write_images(tmp_path, rows)
    folds = [("train", "", "valid", "train")[n * 7 % 4] for n in range(len(rows))]
    cells = [[f"photos/{n:03d}.png", *row[1:], folds[n]] for n, row in enumerate(rows)]
    data = mixed_files.write_table(tmp_path / "a.csv", cells, names=(*mixed_files.NAMES, "fold"))
    other = mixed_files.write_images(tmp_path / "b", mixed_files.make_rows(9, seed=2))
    splits = loading.load_data(
        specs.DataSpec(
            data=str(data),
            test_data=str(other),
            image_column="photo",
            feature_columns="age,sex",
            label_column="label",
            split_column="fold",
        )
    )
    spec = make_spec(splits)
    if in_memory:
        splits, spec, _ = pipeline.read_images(splits, spec, on_bad_example="error")
    counts = []
    for split in (splits.train, splits.validation, splits.test):
        found = collect(pipeline.make_dataset(split, spec, batch_size=4))
        is_bright = found["image"].mean(axis=(1, 2, 3)) > 120
        is_old = found["numbers"][:, 0] > 50
        np.testing.assert_array_equal(found["label"] == 1, is_bright ^ is_old)
        counts.append(len(is_old))
    assert counts == [20, 10, 9]


def test_features_are_of_an_image_and_its_columns(splits):
    spec = make_spec(splits)
    first = keys.digest_examples(splits.train, spec, fingerprint="")
    assert len(np.unique(first, axis=0)) == len(splits.train)
    np.testing.assert_array_equal(
        first[[3, 1]],
        keys.digest_examples(splits.train.take(np.array([3, 1])), spec, fingerprint=""),
    )
    # The same images beside the columns of other rows are other examples, and so are images alone.
    turned = store_selection.select_columns(
        splits.train.features, np.roll(np.arange(len(splits.train)), 1)
    )
    other = dataclasses.replace(splits.train, features=turned)
    alone = dataclasses.replace(splits.train, features=None)
    for part, own in ((other, spec), (alone, PIXELS)):
        assert not (keys.digest_examples(part, own, fingerprint="") == first).all(axis=1).any()
