import numpy as np
import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import columns, image_stores, input_stores, loading, memory_source

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3
VECTORS = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
TEXTS = [f"text {number}" for number in range(30)]


def load(source, **options):
    spec = specs.DataSpec(**options)
    return memory_source.load(spec, memory_source.collect(source, flag="data"), flag="data")


def refused(source, **options):
    (line,) = data_files.refusal(load, source, **options)
    return line


def test_images_keep_their_labels_and_places():
    splits = loading.load_data(specs.DataSpec(), data=(IMAGES, LABELS))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 3, 3)
    assert splits.heads[0].classes == ("0", "1", "2")
    for split in (splits.train, splits.validation, splits.test):
        assert split.inputs.pixels is IMAGES
        assert [int(key) for key in split.keys] == split.indices.tolist()
        assert split.labels["label"].tolist() == LABELS[split.indices].tolist()
    assert splits.info.source.startswith("arrays:") and splits.info.num_examples == 30


@pytest.mark.parametrize(
    ("source", "options", "kind", "labels"),
    [
        ((IMAGES, LABELS), {}, "image", ["label"]),
        (({"image": IMAGES}, {"a": LABELS, "b": LABELS}), {}, "image", ["a", "b"]),
        (({"pixels": IMAGES}, LABELS), {}, "image", ["label"]),
        ({"image": IMAGES, "label": LABELS, "id": TEXTS}, {}, "image", ["label", "id"]),
        ({"x": IMAGES, "label": LABELS}, {"image_column": "x"}, "image", ["label"]),
        ((TEXTS, LABELS), {}, "text", ["label"]),
        ({"review": np.array(TEXTS), "stars": LABELS}, {}, "text", ["stars"]),
        ({"body": TEXTS, "stars": LABELS}, {"text_column": "body"}, "text", ["stars"]),
        ((VECTORS, LABELS), {}, "columns", ["label"]),
        ((VECTORS.tolist(), LABELS.tolist()), {}, "columns", ["label"]),
        (({"age": LABELS, "color": TEXTS}, LABELS), {}, "columns", ["label"]),
        ({"v": VECTORS, "y": LABELS}, {"feature_columns": "v"}, "columns", ["y"]),
        ({"a": LABELS, "b": LABELS, "y": LABELS}, {"feature_columns": "*,-y"}, "columns", ["y"]),
    ],
)
def test_what_is_an_input_and_what_a_label(source, options, kind, labels):
    part = load(source, **options)
    assert input_stores.find_kind(part.inputs) == kind
    assert list(part.labels) == labels
    assert len(part) == len(part.inputs) == 30 and part.problems == ()


def test_vectors_and_strings_are_columns():
    store = load(({"v": VECTORS, "color": TEXTS, "old": LABELS > 1}, LABELS)).inputs
    assert store.found.names == ("v[0]", "v[1]", "v[2]", "v[3]", "color", "old")
    assert store.number_names == ("v[0]", "v[1]", "v[2]", "v[3]", "old")
    numbers = store.matrix.read(np.arange(30))
    np.testing.assert_array_equal(numbers, np.c_[VECTORS, LABELS > 1])
    assert numbers.dtype == np.float32 and list(store.strings["color"]) == TEXTS
    large = load((np.array([[2**24 + 1], [3]]), [0, 1])).inputs.matrix.read(np.array([0]))
    assert large.tolist() == [[2**24 + 1]]
    store = load({"zip": np.array([10, 20]), "y": [0, 1]}, feature_columns="zip=string").inputs
    assert list(store.strings["zip"]) == ["10", "20"] and store.kinds == {"zip": columns.STRING}


def test_equal_texts_and_rows_stay_together():
    assert load((["a", "b", "a"], [0, 1, 1])).repeats.tolist() == [0, 1, 0]
    assert load((np.array([[1.0], [2.0], [1.0]]), [0, 1, 1])).repeats.tolist() == [0, 1, 0]
    assert load((IMAGES, LABELS)).repeats is None


def test_the_name_is_a_hash_of_everything():
    def name(*source):
        return str(memory_source.collect(source, flag="data"))

    first = name(IMAGES, LABELS)
    assert first == name(IMAGES.copy(), LABELS.copy())
    other = IMAGES.copy()
    other[7, 0, 0, 0] ^= 1
    names = [first, name(other, LABELS), name(IMAGES, LABELS[::-1]), name({"x": IMAGES}, LABELS),
             name(TEXTS, LABELS), name([*TEXTS[:-1], "x"], LABELS)]  # fmt: skip
    assert len(set(names)) == len(names)


def test_bad_examples_are_left_out_when_asked():
    vectors = VECTORS.copy()
    vectors[[3, 8], 1] = np.nan, np.inf
    assert refused((vectors, LABELS)) == (
        "data: 'features' has no finite number. Examples 3, 8. on_bad_example='skip' leaves them "
        "out."
    )
    part = load((vectors, LABELS), on_bad_example="skip")
    assert data_files.warnings_of(part.problems) == ["data: 2 examples are left out: 3, 8."]
    assert len(part) == len(part.inputs) == 28 and "03" not in part.keys
    assert part.labels["label"].tolist() == [str(n % 3) for n in range(30) if n not in (3, 8)]
    np.testing.assert_array_equal(
        part.inputs.matrix.read(np.arange(28)), np.delete(VECTORS, [3, 8], axis=0)
    )
    part = load((["a", " ", "b"], [0, 1, 0]), on_bad_example="skip")
    assert part.inputs.texts.tolist() == ["a", "b"] and part.keys.tolist() == ["0", "2"]
    assert refused((["", " "], [0, 1]), on_bad_example="skip") == (
        "data: 'text' has empty texts. Examples 0, 1. No other is there."
    )


def test_several_sources_and_options():
    splits = loading.load_data(
        specs.DataSpec(classes="cat,dog,cow"),
        data=(IMAGES, LABELS),
        test_data={"image": IMAGES[:6], "label": ["cat", "dog", "cow"] * 2},
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 6)
    assert splits.test.keys[0] == "test_data/0"
    assert splits.test.labels["label"].tolist() == [0, 1, 2] * 2
    assert data_files.refusal(
        loading.load_data, specs.DataSpec(data="a"), data=(IMAGES, LABELS)
    ) == ["--data=a and arrays are given both. Leave one of them out."]
    assert data_files.refusal(loading.load_data, specs.DataSpec(data="arrays:0123")) == [
        "--data=arrays:0123 names examples that were handed over in Python, and they are on no "
        "disk. Hand them over again, or give --data a file."
    ]


FORMS = (
    "data: expected (inputs, labels), a dict of arrays, or a tf.data.Dataset of such pairs or "
    "dicts, each array with a row for each example. Received "
)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (IMAGES, FORMS + "ndarray."),
        ((IMAGES, LABELS, LABELS), FORMS + "tuple of 3."),
        ({}, FORMS + "dict."),
        ((IMAGES, LABELS[1:]), "data: expected as many of each. Received 'image' 30, 'label' 29."),
        ((IMAGES[:0], LABELS[:0]), "data holds no example."),
        ((IMAGES, 3), "data: 'label' is a single int. Expected a row for each example."),
        (({"a": LABELS}, {"a": LABELS}), "data: 'a' is among the inputs and among the labels."),
        (({"image": IMAGES}, {}), "data: nothing is left for labels beside 'image'."),
        (({"image": IMAGES, "age": LABELS}, LABELS), "data: the inputs are 'image', 'age'. Images "
         "beside other inputs are not supported: hand over one."),
        ({"age": LABELS, "y": LABELS}, "data has 'age', 'y'. Say which of them the model takes: "
         "hand over (inputs, labels), name an array 'image' or 'text', or set image_column, "
         "text_column or feature_columns of the DataSpec."),
        ((IMAGES / 255, LABELS), "data: 'image': float64 pixels from 0 to 1 look scaled. Expected "
         "0 to 255: multiply them by 255. Scaling is the model's own, see --pixel_range."),
        ((IMAGES, IMAGES), "data: 'label': expected a label for each example, [n], or a 0 or 1 for "
         "each class, [n, classes]. Received uint8 [30, 5, 4, 3]."),
        (({"text": LABELS}, LABELS), "data: 'text': expected texts, [n]. Received int64 [30]."),
        (({"a": LABELS * 1j}, LABELS), "data: 'a': expected numbers, [n] or [n, d], or strings, "
         "[n]. Received complex128 [30]."),
    ],
)  # fmt: skip
def test_what_is_refused(source, message):
    assert refused(source) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "imag"}, "data has no array 'imag'. Did you mean 'image'? It has "
         "'image', 'label'."),
        ({"image_column": "image", "text_column": "label"}, "data: image_column, text_column and "
         "feature_columns exclude each other."),
        ({"feature_columns": "labels"}, "--feature_columns: data has no column 'labels'. Did you "
         "mean 'label'? It has 'image', 'label'."),
    ],
)  # fmt: skip
def test_options_that_name_nothing(options, message):
    assert refused({"image": IMAGES, "label": LABELS}, **options) == message


def test_a_column_of_another_kind():
    source = {"a": TEXTS, "y": LABELS}
    assert refused(source, feature_columns="a=number") == (
        "data: 'a': expected numbers. Received <U7 [30]."
    )
    assert isinstance(load((IMAGES, LABELS)).inputs, image_stores.ArrayImages)
