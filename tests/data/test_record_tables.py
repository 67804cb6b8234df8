import os
import shutil

import numpy as np
import pytest

from tests.data import data_files, record_files
from tf_finetune import specs
from tf_finetune.data import examples, leaks, loading, record_tables, sources

SKIP = "Repair the file; --on_bad_example=skip leaves the record out."


def write(path, *records):
    path.write_bytes(b"".join(map(record_files.frame, records)))
    return str(path)


def make_texts(numbers=range(20)):
    return [
        record_files.example(text=f"text {n} é".encode(), label=n % 2, tags=[n % 3, 2], score=n / 4)
        for n in numbers
    ]


def make_vectors(numbers=range(20)):
    return [
        record_files.example(x=[n + 0.5, n / 3.0], age=n, color=b"red", label=b"ab"[n % 2 :][:1])
        for n in numbers
    ]


def load(path, **options):
    return sources.load_source(specs.DataSpec(**options), str(path), flag="data")


def test_texts_and_their_labels(tmp_path):
    part = load(write(tmp_path / "a.tfrecord", *make_texts()))
    assert part.problems == () and part.lines is None
    assert part.keys.tolist() == [f"a.tfrecord/{n:08d}" for n in range(1, 21)]
    assert part.inputs.texts.tolist() == [f"text {n} é" for n in range(20)]
    assert part.labels["label"].tolist() == [str(n % 2) for n in range(20)]
    assert part.labels["tags"].tolist() == [tuple(dict.fromkeys((str(n % 3), "2"))) for n in
                                            range(20)]  # fmt: skip
    assert part.labels["score"][5] == "1.25"
    splits = loading.load_data(
        specs.DataSpec(data=str(tmp_path / "a.tfrecord"), label_column="label", classes="no,yes")
    )
    assert splits.heads[0].classes == ("no", "yes")
    numbers = [int(text.split()[1]) for text in splits.train.texts]
    assert splits.train.labels["label"].tolist() == [n % 2 for n in numbers]


def test_names_of_features_are_on_no_line(tmp_path):
    path = write(tmp_path / "a.tfrecord", record_files.example(**{"text": b"x", " text": b"y"}))
    assert data_files.refusal(load, path) == [
        f"{path}: expected a name of its own for each column. Received  text,text."
    ]
    path = write(tmp_path / "a.tfrecord", record_files.example(text=b"x"))
    assert data_files.refusal(load, path) == [
        f"{path}: expected at least 2 columns (text,label). Received 1."
    ]


def test_another_feature_of_texts(tmp_path):
    record = record_files.example(image=b"x", body=b"a text", label=1)
    path = write(tmp_path / "a.tfrecord", record, record)
    assert not record_tables.holds_texts(specs.DataSpec(), [path])
    part = load(path, text_column="body")
    assert part.inputs.texts.tolist() == ["a text"] * 2 and part.inputs.column == "body"
    assert part.repeats.tolist() == [0, 0]
    assert data_files.refusal(load, path, text_column="bodi") == [
        f"--text_column=bodi: {path} has no such column. Did you mean 'body'? It has 'body', "
        "'image', 'label'."
    ]


def test_numbers_vectors_and_strings(tmp_path):
    path = write(tmp_path / "a.tfrecord", *make_vectors())
    part = load(path, feature_columns="x,age,color")
    assert part.problems == ()
    assert part.keys.tolist() == [f"a.tfrecord/{n:08d}" for n in range(1, 21)]
    store = part.inputs
    assert store.number_names == ("x[0]", "x[1]", "age")
    np.testing.assert_array_equal(
        store.matrix.read(np.arange(20)), np.float32([[n + 0.5, n / 3.0, n] for n in range(20)])
    )
    assert list(store.strings["color"]) == ["red"] * 20
    assert part.labels["label"].tolist() == ["a", "b"] * 10
    splits = loading.load_data(specs.DataSpec(data=path, test_data=path, feature_columns="x"))
    assert leaks.count_shared(splits.test, splits.train) == 18


def test_several_files_say_where(tmp_path):
    write(tmp_path / "a.tfrecord-00000-of-00002", *make_vectors(range(10)))
    bad = record_files.example(x=[1.0, float("nan")], age=3, label=b"a")
    short = record_files.example(x=[1.0], age=3, label=b"a")
    other = write(tmp_path / "a.tfrecord-00001-of-00002", *make_vectors(range(10, 14)), bad, short)
    pattern = f"{tmp_path}/a.tfrecord-*"
    part = load(pattern, feature_columns="x")
    assert len(part) == 14 and part.keys[10] == "a.tfrecord-00001-of-00002/00000001"
    assert [problem.message for problem in part.problems] == [
        f"{other}, record 5: column 'x[1]' has no number. --on_bad_example=skip leaves such rows "
        "out.",
        f"{other}, record 6: column 'x': expected a list of 2 numbers, as in the first row. "
        "Received '1.0'.",
    ]
    (line,) = data_files.refusal(load, pattern, feature_columns="y")
    assert line == (
        f"--feature_columns: {pattern} has no column 'y'. It has 'age', 'color', 'label', 'x'."
    )


def test_bad_records_cost_themselves(tmp_path):
    path = tmp_path / "a.tfrecord"
    write(path, *make_texts(range(8)), record_files.example(text=b"\xe9", label=1))
    content = bytearray(path.read_bytes() + record_files.frame(b"\x0a\xff"))
    content[15] ^= 1
    path.write_bytes(content)
    part = load(path, text_column="text")
    assert len(part) == 7
    assert [problem.message for problem in part.problems] == [
        f"{path}, record 1 is damaged: the checksum of its data is wrong. {SKIP}",
        f"{path}, record 9 is not usable: its feature 'text' is no text in UTF-8. {SKIP}",
        f"{path}, record 10 is not a valid tf.train.Example. {SKIP}",
    ]
    part = load(path, text_column="text", on_bad_example="skip")
    assert len(data_files.warnings_of(part.problems)) == 3
    empty = write(tmp_path / "b.tfrecord", *make_texts(range(3)), record_files.example(text=b""))
    (problem,) = load(empty).problems
    assert problem.message == (
        f"{empty}, record 4: the text is empty. --on_bad_example=skip leaves such rows out."
    )
    part = load(empty, on_bad_example="skip")
    assert data_files.warnings_of(part.problems) == [
        f"{empty}: 1 rows without a text are left out, records 4."
    ]


def test_a_schema_chooses_and_checks(tmp_path):
    path = write(tmp_path / "a.tfrecord", *make_vectors(), record_files.example(x=[1.0], label=3))
    options = {"feature_columns": "x", "record_schema": "x=float32[2],label=bytes"}
    part = load(path, **options)
    assert list(part.labels) == ["label"]
    assert [problem.message for problem in part.problems] == [
        f"{path}, record 21 is not as --record_schema says: its feature 'x' holds 1 values. "
        f"Expected 2. {SKIP}"
    ]
    assert len(load(path, **options, on_bad_example="skip")) == 20


def test_no_record_is_as_the_schema_says(tmp_path):
    path = write(tmp_path / "a.tfrecord", *make_vectors(range(7)))
    options = {"feature_columns": "x", "record_schema": "x=float32[3],label=bytes"}
    lines = data_files.refusal(load, path, **options)
    assert lines[0] == (
        f"{path}, record 1 is not as --record_schema says: its feature 'x' holds 2 values. "
        f"Expected 3. {SKIP}"
    )
    assert len(lines) == 6 and lines[5] == f"{path}: and 2 more."


def test_records_without_images_tell_how_they_are_read(tmp_path):
    path = write(tmp_path / "a.tfrecord", *make_vectors())
    assert data_files.refusal(load, path) == [
        f"{path}: no record has the feature 'image'. They have 'age', 'color', 'label', 'x'. "
        "--image_column names another; --text_column reads texts, --feature_columns numbers and "
        "vectors."
    ]


def test_a_feature_that_comes_late_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(record_tables, "_FIRST_RECORDS", 5)
    late = record_files.example(text=b"late", label=1, other=b"x")
    path = write(tmp_path / "a.tfrecord", *make_texts(range(6)), late)
    (message,) = data_files.warnings_of(load(path).problems)
    assert message == (
        f"{path}, record 7: 'other' is in none of the first 5 records, and is not used. "
        "--record_schema names the features that are."
    )


@pytest.mark.parametrize("options", [{"text_column": "text"}, {"feature_columns": "x"}])
def test_nothing_to_read(tmp_path, options):
    path = write(tmp_path / "a.tfrecord")
    assert data_files.refusal(load, path, **options) == [
        f"{path} holds no record. Expected tf.train.Example records."
    ]


def test_a_number_to_predict_beside_an_image(tmp_path):
    records = [record_files.example(image=b"x%d" % n, price=n / 4) for n in range(12)]
    part = load(write(tmp_path / "a.tfrecord", *records), label_column="price")
    assert part.labels["price"].tolist() == [str(n / 4) for n in range(12)]


@pytest.mark.parametrize("options", [{"text_column": "text"}, {"feature_columns": "score"}, {}])
def test_records_that_have_moved_are_the_same(tmp_path, options):
    content = make_texts() if options else [record_files.example(image=b"x", label=1)] * 3
    for name in ("p/x.tfrecord", "q/y.tfrecord"):
        (tmp_path / "a" / name).parent.mkdir(parents=True)
        write(tmp_path / "a" / name, *content)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    found = []
    for folder in ("a", "c"):
        for pattern in ("p/x.tfrecord", "*/*.tfrecord"):
            part = load(tmp_path / folder / pattern, **options)
            found.append(examples.fingerprint([part]))
    assert found[:2] == found[2:]
    path = tmp_path / "c" / "p" / "x.tfrecord"
    os.utime(path, (1, 1))
    assert examples.fingerprint([load(path, **options)]) != found[0] != found[1]


def test_a_name_that_reads_like_a_message_stays(tmp_path):
    bad = record_files.example(text=b"")
    path = write(tmp_path / "1 left out, lines 2.tfrecord", *make_texts(range(3)), bad)
    part = load(path, on_bad_example="skip")
    assert data_files.warnings_of(part.problems) == [
        f"{path}: 1 rows without a text are left out, records 4."
    ]


@pytest.mark.parametrize(
    ("options", "bad", "message"),
    [
        ({"text_column": "text"}, {"text": b""}, "7 rows without a text"),
        ({"feature_columns": "x"}, {"x": float("nan"), "label": 1}, "7 rows that lack a number"),
    ],
)
def test_rows_of_several_files_that_are_left_out(tmp_path, options, bad, message):
    good = record_files.example(text=b"a", x=1.0, label=1)
    write(tmp_path / "0.tfrecord", good, record_files.example(**bad), good)
    write(tmp_path / "1.tfrecord", good, *[record_files.example(**bad)] * 6)
    part = load(tmp_path / "*.tfrecord", **options, on_bad_example="skip")
    assert data_files.warnings_of(part.problems)[0] == (
        f"{tmp_path}/*.tfrecord: {message} are left out, records 0.tfrecord/00000002, "
        "1.tfrecord/00000002, 1.tfrecord/00000003, 1.tfrecord/00000004, 1.tfrecord/00000005 and 2 "
        "more."
    )


def test_what_is_no_file_is_never_opened(tmp_path):
    write(tmp_path / "a.tfrecord", *make_texts())
    os.mkfifo(tmp_path / "b.tfrecord")
    part = load(tmp_path / "*.tfrecord", text_column="text")
    assert [problem.message for problem in part.problems] == [
        f"{tmp_path}/b.tfrecord is a pipe, not a file."
    ]


def test_texts_without_a_label(tmp_path):
    path = write(tmp_path / "a.tfrecord", *[record_files.example(text=b"a")] * 3)
    assert data_files.refusal(load, path) == [
        f"{path}: expected at least 2 columns (text,label). Received 1."
    ]
