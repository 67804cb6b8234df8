import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tf_finetune
from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import (
    columns,
    examples,
    image_stores,
    input_stores,
    loading,
    memory_source,
)

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


_NAME_OF_SETS = """
import numpy as np
from tf_finetune import specs
from tf_finetune.data import examples, memory_source
cells = [{"ant", "bee", "cow", "dog"}, frozenset(("elk", "fox", "gnu")), {1, "1"}] * 5
arrays = memory_source.collect((np.eye(15), cells), flag="data")
part = memory_source.load(specs.DataSpec(), arrays, flag="data")
print(arrays.name, examples.fingerprint([part]), part.labels["label"][0])
"""


def test_the_name_of_sets_is_the_same_in_every_process():
    folder = str(pathlib.Path(tf_finetune.__file__).parents[1])
    printed = {
        subprocess.run(
            [sys.executable, "-c", _NAME_OF_SETS],
            env={**os.environ, "PYTHONPATH": folder, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    (line,) = printed
    assert line.endswith("('ant', 'bee', 'cow', 'dog')\n")


def test_long_arrays_of_names_are_hashed_whole():
    names = np.array([f"name {number}" for number in range(1100)])
    other = names.copy()
    other[500] = "another"
    cells = [examples.object_array([array, names[:2]]) for array in (names, other)]
    first, second = (memory_source.collect((np.eye(2), own), flag="data").name for own in cells)
    assert first != second


def test_lists_of_arrays():
    cells = [np.array(["a", "b"]), np.array(["a"]), np.array([], str)]
    part = load((VECTORS[:3], cells))
    assert part.labels["label"].tolist() == [("a", "b"), ("a",), ()]
    store = load((list(IMAGES), LABELS)).inputs
    np.testing.assert_array_equal(store.pixels, IMAGES)
    store = load((examples.object_array(list(IMAGES)), LABELS)).inputs
    np.testing.assert_array_equal(store.pixels, IMAGES)


@pytest.mark.parametrize("change", [list, examples.object_array])
@pytest.mark.parametrize("shapes", [((5, 4, 3), (6, 4, 3)), ((5, 4), (5, 6))])
def test_images_of_different_sizes_are_refused(change, shapes):
    images = change([np.zeros(shape, np.uint8) for shape in shapes])
    sizes = " and ".join(map(str, map(list, shapes)))
    message = (
        f"images have different sizes, as {sizes}. Expected one array of all: resize them, or hand "
        "over a tf.data.Dataset of single images."
    )
    assert refused((images, [0, 1])) == f"data: 'inputs': {message}"
    assert refused({"image": images, "label": [0, 1]}) == f"data: 'image': {message}"


@pytest.mark.parametrize("change", [list, examples.object_array])
@pytest.mark.parametrize(
    ("value", "received"),
    [(None, "None"), (float("nan"), "float"), ("a.jpg", "str"), (np.zeros(3), "ndarray")],
)
def test_what_is_no_image_among_images_is_named(change, value, received):
    message = f"expected an image, as others are. Received {received}."
    for image in (np.zeros((5, 4, 3), np.uint8), np.zeros((5, 4), np.uint8), [[1, 2], [3, 4]]):
        images = change([image, image, value, image])
        assert refused((images, [0, 1, 0, 1])) == f"data, example 2: 'inputs': {message}"
        source = {"image": images[2:], "label": [0, 1]}
        assert refused(source) == f"data, example 0: 'image': {message}"


def test_what_numpy_cannot_take():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ValueError("no\nway")

    assert refused((Broken(), LABELS)) == (
        "data: NumPy makes no array of 'inputs', a Broken: no\\nway. Expected a row for each "
        "example."
    )


def test_examples_are_named_by_the_argument():
    cells = examples.object_array(["a", "b", *["a"] * 27, None])
    (line,) = data_files.refusal(loading.load_data, specs.DataSpec(), data=(VECTORS, cells))
    assert line.startswith("data, example 29: no label")
    cells[1] = "\ud800"
    assert refused((VECTORS, cells)) == "data, example 1: 'label': its text is not UTF-8."
    (line,) = data_files.refusal(loading.load_data, specs.DataSpec(), data=(VECTORS, ["a"] * 30))
    assert line == "data has only one class, 'a'. Expected two or more."
    assert data_files.refusal(
        loading.load_data,
        specs.DataSpec(split_by="person"),
        data=(TEXTS, LABELS),
        test_data=(IMAGES, LABELS),
    ) == [
        "--split_by=person: data has no such column. It has 'label'.",
        "data holds texts and test_data holds images. Expected the same of both.",
    ]


def test_of_many_bad_labels_the_first_are_named():
    labels = [None] * 7 + ["a", "b"] * 10 + [None] * 3
    assert data_files.refusal(loading.load_data, specs.DataSpec(), data=(VECTORS, labels)) == [
        *(f"data, example {row}: no label in column 'label'." for row in range(5)),
        "data: and 5 more.",
    ]


def test_a_folder_of_the_same_name_is_no_source(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data_files.refusal(
        loading.load_data, specs.DataSpec(split_by="person"), data=(VECTORS, LABELS)
    ) == ["--split_by=person: data has no such column. It has 'label'."]


def test_bad_examples_are_left_out_when_asked():
    vectors = VECTORS.copy()
    vectors[[3, 8], 1] = np.nan, np.inf
    assert refused((vectors, LABELS)) == (
        "data, example 3: 'features[1]' is nan. Expected a finite number. Bad examples: 3, 8. "
        "on_bad_example='skip' leaves them out."
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
        "data, example 0: 'text' is empty. Bad examples: 0, 1. No other is there."
    )
    images = IMAGES.astype(np.float32)
    images[7, 0, 0, 0] = np.inf
    assert refused((images, LABELS)) == (
        "data, example 7: 'image' has pixels that are no finite number. Bad examples: 7. "
        "on_bad_example='skip' leaves them out."
    )


def test_splits_of_arrays_that_contradict_each_other():
    own = {"text": TEXTS, "label": LABELS, "split": (["train"] * 8 + ["validation", "test"]) * 3}
    for flag, name in (("validation_data", "validation"), ("test_data", "test")):
        given = {"data": own, flag: (TEXTS[:2], [0, 1])}
        spec = specs.DataSpec(split_column="split")
        assert data_files.refusal(loading.load_data, spec, **given) == [
            f"{flag} and data both have {name} examples. Give one of them."
        ]
    sources = {"data": own | {"split": ["train"] * 30}, "test_data": own | {"split": ["val"] * 30}}
    assert data_files.refusal(
        loading.load_data, specs.DataSpec(split_column="split"), **sources
    ) == [
        "test_data is split itself, and has no test split. Expected examples that are not split, "
        "or a source with that split."
    ]


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
        (([[1, 2], [3]], [0, 1]), "data, example 0: 'text': expected a number or text. Received "
         "list."),
        (([np.zeros(2), np.zeros(1)], [0, 1]), "data, example 0: 'text': expected a number or "
         "text. Received ndarray."),
        ((VECTORS[:, :0], LABELS), "data: 'features': expected a number or more for each example. "
         "Received float32 [30, 0]."),
        (({"a": LABELS, "b": VECTORS[:, :0]}, LABELS), "data: 'b': expected a number or more for "
         "each example. Received float32 [30, 0]."),
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
