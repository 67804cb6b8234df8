"""Rows with an image or a text to predict: what is refused, and what costs one row."""

import json

import numpy as np
import pytest

from tests.data import data_files, image_bytes
from tf_finetune import prediction_mixed, specs
from tf_finetune.data import columns, mixed_spec, preprocessing, text_store

COLUMNS = columns.ColumnsSpec((columns.ModelInput("age", ("age",), "float32", ()),))
IMAGE = preprocessing.PreprocessingSpec(8, 8, 3)
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
TABLES = ".csv, .tsv, .tab, .jsonl or .ndjson"


def read(path, main, *, column="main", taken=COLUMNS, data=None, **options):
    spec = mixed_spec.MixedSpec(main, column, taken)
    rows = prediction_mixed.open_rows((str(path),), spec, data=data or specs.DataSpec(), **options)
    return [(row.line, row.values and row.values.content, row.error) for row in rows]


def refused(*paths, spec=None, data=None):
    spec = spec or mixed_spec.MixedSpec(text_store.TextSpec(), "main", COLUMNS)
    paths = tuple(map(str, paths))
    return data_files.refusal(
        prediction_mixed.open_rows, paths, spec, data=data or specs.DataSpec()
    )


@pytest.mark.parametrize("is_mixed", [False, True])
def test_inputs_that_are_no_tables(tmp_path, monkeypatch, is_mixed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.csv").mkdir()
    spec = None if is_mixed else COLUMNS
    assert refused(spec=spec) == [f"--input is needed: a {TABLES} with columns."]
    assert refused("no.csv", "a.png", "b.csv", spec=spec) == [
        f"--input=no.csv does not exist. The model takes columns: expected a {TABLES}.",
        f"--input=a.png: the model takes columns. Expected a {TABLES}.",
        f"--input=b.csv: the model takes columns. Expected a {TABLES}.",
    ]


def test_tables_that_lack_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Main,age\nx,3\n")
    assert refused(path) == [
        f"{path} lacks 'main' of the columns that the model takes. Did you mean 'Main'? It has "
        "'Main', 'age'."
    ]
    path.write_text("x,y\n1,3\n")
    assert refused(path) == [
        f"{path} lacks 'main', 'age' of the columns that the model takes. It has 'x', 'y'."
    ]
    path.write_text("4,5\n1,3\n")
    assert refused(path) == [
        f"{path} lacks 'main', 'age' of the columns that the model takes. Its first row holds "
        "numbers: --header=none names its columns 1, 2, 3 and so on. It has '4', '5'."
    ]


def test_vectors_of_another_length(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"main": "x", "v": [1, 2, 3]}\n')
    taken = columns.ColumnsSpec((columns.ModelInput("v", ("v[0]", "v[1]"), "float32", (2,)),))
    spec = mixed_spec.MixedSpec(text_store.TextSpec(), "main", taken)
    assert refused(path, spec=spec) == [
        f"{path} has 3 numbers in the first cell of 'v'. The model takes 2."
    ]
    path.write_text('{"main": "x", "v": [1, 2]}\n{"main": "y", "v": [1]}\n')
    assert read(path, text_store.TextSpec(), taken=taken) == [
        (1, b"x", ""),
        (2, {}, "column 'v': expected a list of 2 numbers, as in the first row. Received 1"),
    ]


def test_a_row_that_cannot_be_predicted_says_why(tmp_path):
    good = image_bytes.make_png(PIXELS)
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "b.png").write_bytes(b"hello")
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"main,age\na.png,1\n,2\nhttp://e/x.png,3\nno.png,4\nb.png,5\na\0.png,6\na.png,old\na.png,\n"
        b"a.png\n"
    )
    assert read(path, IMAGE) == [
        (2, good, ""),
        (3, b"", "the path is empty"),
        (4, b"", "'http://e/x.png' is a URL. Expected the path of a file"),
        (5, b"", "'no.png' does not exist. Paths are relative to the table's folder"),
        (6, b"", "'b.png' is no image that can be decoded: it begins with 'hello'"),
        (7, b"", "'a\\x00.png' is no path"),
        (8, {}, "column 'age': expected a number. Received 'old'"),
        (9, {}, "column 'age' has no number"),
        (10, {}, "expected 2 columns. Received 1"),
    ]
    assert read(path, IMAGE, max_pixels=3)[0] == (
        2,
        b"",
        "'a.png' is too large: 2 x 2 = 4 pixels, more than --max_image_pixels=3",
    )


def test_texts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("main,other,age\nü,x,1\n  ,y,2\n")
    assert read(path, text_store.TextSpec()) == [
        (2, "ü".encode(), ""),
        (3, b"  ", "the text is empty"),
    ]
    assert read(path, text_store.TextSpec(), text_column="other") == [(2, b"x", ""), (3, b"y", "")]


def test_whole_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ({"main": "x", "id": number} for number in (2, 2.5, 3e9))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = columns.ColumnsSpec((columns.ModelInput("id", ("id",), "int32", ()),))
    assert read(path, text_store.TextSpec(), taken=taken) == [
        (1, b"x", ""),
        (2, {}, "column 'id': expected a whole number. Received 2.5"),
        (3, {}, "column 'id': expected a whole number. Received 3e+09"),
    ]


def test_columns_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age\n3\n")
    (row,) = prediction_mixed.open_rows((str(path),), COLUMNS, data=specs.DataSpec())
    assert row.error == "" and row.values["age"].tolist() == [3.0]


def write(path, *cells):
    path.write_text("".join(json.dumps({"main": cell, "age": 3}) + "\n" for cell in cells))
    return path


def test_a_list_of_words_is_the_text_that_training_reads(tmp_path):
    path = write(
        tmp_path / "a.jsonl", ["EU", "rejects", "EU"], "EU rejects EU", [3, 3], [], ["New York"]
    )
    assert read(path, text_store.TextSpec()) == [
        (1, b"EU rejects EU", ""),
        (2, b"EU rejects EU", ""),
        (3, b"3 3", ""),
        (4, b"", "the text is empty"),
        (5, b"New York", "expected a text, or a list of words without spaces in them"),
    ]


def test_a_list_is_no_path_of_an_image(tmp_path):
    path = write(tmp_path / "a.jsonl", ["a.png"])
    assert read(path, IMAGE) == [
        (1, b"", "column 'main': expected a path. Received a list"),
    ]
