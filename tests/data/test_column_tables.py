import csv
import subprocess
import sys

import numpy as np
import pytest

from tests.data import data_files, table_files
from tf_finetune import specs
from tf_finetune.data import column_tables, columns, leaks, loading, sources


def load(path, feature_columns="x0..x3", **options):
    spec = specs.DataSpec(data=str(path), feature_columns=feature_columns, **options)
    return sources.load_source(spec, str(path), flag="data")


def numbers_of(part):
    return part.inputs.matrix.read(np.arange(len(part)))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_rows_labels_and_lines(tmp_path, ending):
    rows = table_files.make_rows(30)
    part = load(table_files.write_table(tmp_path / f"a.{ending}", rows))
    assert len(part) == len(part.inputs) == 30
    assert list(part.keys) == sorted(part.keys)
    assert len(set(part.keys)) == 30
    assert part.repeats is None
    assert part.problems == ()
    shift = 1 if ending == "jsonl" else 2
    for row in range(30):
        cells = rows[part.lines[row] - shift]
        assert part.labels["label"][row] == cells[4]
        np.testing.assert_array_equal(numbers_of(part)[row], np.array(cells[:4], np.float32))


def test_keys_are_of_the_features_alone(tmp_path):
    rows = table_files.make_rows(30)
    first = load(table_files.write_table(tmp_path / "a.csv", rows))
    shuffled = [[*row[:4], "other"] for row in rows[::-1]]
    shuffled[0][0] = f"{float(shuffled[0][0]):.6f}"
    other = load(table_files.write_table(tmp_path / "b.jsonl", shuffled))
    assert list(first.keys) == list(other.keys)
    np.testing.assert_array_equal(first.inputs.digests, other.inputs.digests)


def test_equal_features_are_repeats(tmp_path):
    rows = [["1", "0", "0", "0", "a"]] * 12 + [["1.0", "-0", "0", "0", "b"]]
    rows += [["2", "0", "0", "0", "a"]]
    part = load(table_files.write_table(tmp_path / "a.csv", rows))
    groups = [key.partition("-")[0] for key in part.keys]
    assert len(set(part.keys)) == 14
    assert len(set(groups)) == 2
    assert all(groups[row] == groups[first] for row, first in enumerate(part.repeats))
    assert len(set(part.repeats)) == 2
    assert data_files.warnings_of(part.problems) == [
        f"{tmp_path}/a.csv: 12 of 14 rows repeat the features of another, and are in its split."
    ]


def test_without_a_header(tmp_path):
    rows = table_files.make_rows(6)
    path = table_files.write_table(tmp_path / "a.csv", rows, header=None)
    part = load(path, "1..4", header="none")
    assert list(part.labels) == ["5"]
    assert sorted(part.lines) == [1, 2, 3, 4, 5, 6]


def test_strings_and_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c,label\n1, red,007,x\n2,5,8,y\n")
    part = load(path, "*,c=string", label_column="label")
    assert part.inputs.kinds == {"a": "number", "b": "string", "c": "string"}
    order = np.argsort(part.lines)
    assert list(part.inputs.strings["b"][order]) == [" red", "5"]
    assert list(part.inputs.strings["c"][order]) == ["007", "8"]


def test_large_whole_numbers_are_exact(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,label\n123456789,x\n0.5,y\n")
    assert sorted(numbers_of(load(path, "a"))[:, 0]) == [0.5, 123456789.0]


def test_bad_cells_have_lines_and_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n1,2,x\n1,,x\n1,two\x1b,x\n1,nan,x\n1,inf,x\n1_0,2,x\n1,2\n3,4,y\n")
    part = load(path, "a=number,b=number")
    shown = [problem.message.removeprefix(f"{path}, ") for problem in part.problems]
    advice = "--on_bad_example=skip leaves such rows out."
    assert shown == [
        f"line 3: column 'b' has no number. {advice}",
        "line 4: column 'b': expected a number. Received 'two\\x1b'.",
        f"line 5: column 'b' has no number. {advice}",
        "line 6: column 'b': expected a number. Received 'inf'.",
        "line 7: column 'a': expected a number. Received '1_0'.",
        "line 8: expected 3 columns ('a', 'b', 'label'). Received 2.",
    ]
    assert all(problem.line for problem in part.problems)


def test_missing_numbers_are_skipped_when_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,label\n" + "1,x\n,y\n" * 7 + "2,z\n")
    part = load(path, "a", on_bad_example="skip")
    assert len(part) == 8
    assert f"{path}: 7 rows that lack a number are left out, lines 3, 5, 7, 9, 11 and 2 more." in (
        data_files.warnings_of(part.problems)
    )


def test_labels_of_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"a": 1, "l": ["x", "y"], "n": 3}\n{"a": 2, "l": null, "n": 0.50}\n'
        '{"a": 3, "l": [], "n": null}\n{"a": 4, "l": "x|y", "n": true}\n'
    )
    part = load(path, "a")
    order = np.argsort(part.lines)
    assert part.labels["l"][order].tolist() == [("x", "y"), "", (), "x|y"]
    assert part.labels["n"][order].tolist() == ["3", "0.50", "", "true"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,label\n", {}, "{}: no row below the header. Expected rows of numbers and a label."),
        ("", {}, "{}: the file is empty. Expected rows of numbers and a label."),
        ("a,a\n1,2\n", {}, "{}, line 1: expected a name of its own for each column. Received a,a."),
        ("a,label\n,x\n", {"on_bad_example": "skip"}, "{}: every row lacks a number."),
        ("a\n1\n", {}, "--feature_columns=a takes every column of {}, and none is left for labels. "
         "Name it with --label_column, or leave it out as in *,-price."),
        ("a,label\n1,x\n", {"image_column": "a"}, "--feature_columns and --image_column both name "
         "the column 'a'. Expected different columns."),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, content, options, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert data_files.refusal(load, path, "a", **options) == [message.format(path)]


def test_a_late_key_of_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "l": "x"}\n' * 1000 + '{"a": 1, "b": 2}\n')
    assert data_files.refusal(load, path, "a") == [
        f"{path}, line 1001: the key 'b' is in none of the first 1,000 objects, which tell the "
        "columns. Put an object that has it among them."
    ]


def test_features_of_a_folder_are_refused(tmp_path):
    data_files.write_files(tmp_path, cat=1)
    assert data_files.refusal(load, tmp_path, "a") == [
        "--feature_columns=a needs a .csv, .tsv, .jsonl or .tfrecord with such columns. Received "
        f"--data={tmp_path}."
    ]


def test_a_file_and_memory_hold_the_same(tmp_path, monkeypatch):
    rows = table_files.make_rows(5000)
    path = table_files.write_table(tmp_path / "a.csv", rows)
    kept = load(path)
    monkeypatch.setattr(columns, "_MAX_BYTES_IN_MEMORY", 1000)
    monkeypatch.setattr(columns.MatrixWriter.__init__, "__kwdefaults__", {"max_bytes": 1000})
    filed = load(path)
    assert isinstance(kept.inputs.matrix, columns.MemoryMatrix)
    assert isinstance(filed.inputs.matrix, columns.FileMatrix)
    wanted = np.array([4999, 0, 17, 17])
    np.testing.assert_array_equal(kept.inputs.matrix.read(wanted), filed.inputs.matrix.read(wanted))
    assert list(kept.keys) == list(filed.keys)


def test_another_table_is_read_in_the_same_way(tmp_path):
    (tmp_path / "a.csv").write_text("zip,label\n" + "".join(f"a{n},x\nb{n},y\n" for n in range(9)))
    (tmp_path / "b.csv").write_text(
        "zip,label\n1,x\n" + "".join(f"a{n},x\nb{n},y\n" for n in range(9))
    )
    spec = specs.DataSpec(
        data=str(tmp_path / "a.csv"), test_data=str(tmp_path / "b.csv"), feature_columns="zip"
    )
    splits = loading.load_data(spec)
    assert splits.input_kind == "columns"
    assert splits.test.inputs.kinds == {"zip": "string"}
    assert data_files.warnings_of(leaks.find_equal_inputs(splits)) == [
        f"{len(splits.train)} of 19 test rows have the features of a training row, so test numbers "
        "are too good. Remove one of each."
    ]
    assert leaks.count_shared(splits.test, splits.train, splits.validation) == 18


def test_splits_follow_repeats_and_are_written_in_parts(tmp_path):
    rows = table_files.make_rows(40)
    path = table_files.write_table(tmp_path / "a.csv", [*rows, *rows])
    spec = specs.DataSpec(data=path, feature_columns="x0..x3")
    splits = loading.load_data(spec)
    parts = (splits.train, splits.validation, splits.test)
    groups = [{key.partition("-")[0] for key in part.keys} for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    lines = "".join(loading.iterate_split_rows(splits)).splitlines()
    assert lines[0] == "key,split"
    assert lines[1:] == sorted(lines[1:])
    assert len(lines) == 81


def test_settled_options_name_every_kind(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n1,r,x\n2,s,y\n")
    spec = specs.DataSpec(data=str(path), feature_columns="*", label_column="label")
    part = sources.load_source(spec, str(path), flag="data")
    assert column_tables.settle_kinds(spec, part).feature_columns == "a=number,b=string"


_PEAK = """
import re, sys
from tf_finetune import specs
from tf_finetune.data import loading
splits = loading.load_data(specs.DataSpec(data=sys.argv[1], feature_columns="x*"))
print(sum(map(len, loading.iterate_split_rows(splits))))
# Not ru_maxrss: that one remembers the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_hardly_grows_with_the_table(tmp_path):
    """10 and 100 MB: their numbers alone are 8 and 80 MB, their cells as text 500."""
    generator = np.random.default_rng(0)
    numbers = [f"{value:.6f}" for value in generator.normal(size=5000)]
    peaks = []
    for num_rows in (10_000, 100_000):
        path = tmp_path / f"{num_rows}.csv"
        with path.open("w") as file:
            file.write(",".join(f"x{number}" for number in range(100)) + ",label\n")
            for row in range(num_rows):
                start = int(generator.integers(0, 4900))
                cells = numbers[start : start + 100]
                cells[0] = f"{row}.5"
                file.write(",".join(cells) + f",{'ab'[row % 2]}\n")
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 120


def test_a_quoted_line_end_anywhere_in_a_table_of_many_read_buffers(tmp_path):
    """Of 3 MB each quoted cell is read as one, with the line of its own."""
    path = tmp_path / "a.csv"
    notes = [f"{'é' * (row % 37)}\n{'x' * (row % 91)},\r\n{row}" for row in range(20_000)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("note", "x", "label"))
        writer.writerows((note, row, "ab"[row % 2]) for row, note in enumerate(notes))
    assert path.stat().st_size > 100 * 8192
    part = load(path, feature_columns="note,x")
    assert part.problems == ()
    order = np.argsort(part.lines)
    assert part.inputs.strings["note"][order].tolist() == notes
    assert part.lines[order].tolist() == list(range(2, 2 + 3 * 20_000, 3))
    numbers = part.inputs.matrix.read(order)[:, 0]
    np.testing.assert_array_equal(numbers, np.arange(20_000))
    assert part.labels["label"][order].tolist() == ["a", "b"] * 10_000


def test_lists_order_equal_features_by_all_that_stands_in_them(tmp_path):
    lines = [f'{{"x": 1, "tags": {tags}}}' for tags in ("[0, 0, 1]", "[0, 1, 1]", "[0, 1]")]
    found = []
    for name, ordered in (("a.jsonl", lines), ("b.jsonl", lines[::-1])):
        (tmp_path / name).write_text("\n".join(ordered) + "\n")
        spec = specs.DataSpec(feature_columns="x")
        part = column_tables.load(spec, str(tmp_path / name))
        found.append([str(cell) for cell in part.labels["tags"]])
    assert found[0] == found[1] and len(set(found[0])) == 3


def test_a_name_that_reads_like_a_message_says_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("it has no number,label\n1,x\ntwo,y\n,z\n")
    part = load(path, "it has no number=number", on_bad_example="skip")
    assert [(problem.severity, problem.message) for problem in part.problems] == [
        ("error", f"{path}, line 3: column 'it has no number': expected a number. Received 'two'."),
        ("warning", f"{path}: 1 rows that lack a number are left out, lines 4."),
    ]
