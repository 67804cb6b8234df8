import dataclasses

import numpy as np
import pytest

from tests.data import mixed_files
from tf_finetune import findings, specs
from tf_finetune.data import (
    column_tables,
    columns,
    image_stores,
    leaks,
    loading,
    pipeline,
    store_selection,
    tables,
    text_store,
)
from tf_finetune.data import preprocessing as input_preprocessing


def load(path, **options):
    given = {"image_column": "photo", "feature_columns": "age,sex", **options}
    given = {name: value for name, value in given.items() if value is not None}
    return tables.load(specs.DataSpec(data=str(path), **given), str(path), flag="data")


def read(part):
    """{key: (age, sex, label)}."""
    spec = columns.ColumnsSpec(
        (
            columns.ModelInput("age", ("age",), "float32", ()),
            columns.ModelInput("sex", ("sex",), "string", ()),
        )
    )
    values = part.features.read(np.arange(len(part)), spec)
    cells = zip(values["age"].tolist(), values["sex"].tolist(), part.labels["label"], strict=True)
    return dict(zip(part.keys, cells, strict=True))


def test_each_row_has_its_image_its_columns_and_its_label(tmp_path):
    rows = mixed_files.make_rows(12)
    part = load(mixed_files.write_images(tmp_path, rows))
    assert isinstance(part.inputs, image_stores.PathImages)
    assert part.features.beside == "photo"
    assert list(part.labels) == ["label"]
    found = read(part)
    for number, (_, age, sex, label) in enumerate(rows):
        assert found[f"photos/{number:03d}.png"] == (
            pytest.approx(float(age)),
            sex.encode(),
            label,
        )
    assert [path.decode().rpartition("/")[2] for path in part.inputs.paths] == [
        key.rpartition("/")[2] for key in part.keys
    ]
    assert not part.problems


@pytest.mark.parametrize("name", ["b.jsonl", "b.tsv"])
def test_other_tables_say_the_same(tmp_path, name):
    rows = mixed_files.make_rows(12)
    first = load(mixed_files.write_images(tmp_path, rows))
    cells = [[f"photos/{n:03d}.png", *row[1:]] for n, row in enumerate(rows)]
    turned = mixed_files.write_table(
        tmp_path / name, [row[::-1] for row in cells], names=mixed_files.NAMES[::-1]
    )
    assert read(load(turned)) == read(first)


def test_texts_beside_columns(tmp_path):
    rows = mixed_files.make_rows(12)
    path = mixed_files.write_texts(tmp_path, rows)
    part = load(path, image_column=None, text_column="review", feature_columns="*,-label")
    assert isinstance(part.inputs, text_store.Texts)
    assert part.features.beside == part.inputs.column == "review"
    assert part.features.found.names == ("age", "sex")
    for text, (age, sex, label) in zip(part.inputs.texts, read(part).values(), strict=True):
        _, expected_age, expected_sex, expected = rows[int(text.split()[1])]
        assert (age, sex.decode(), label) == (
            pytest.approx(float(expected_age)),
            expected_sex,
            expected,
        )


def test_an_image_may_stand_beside_several_columns(tmp_path):
    mixed_files.write_images(tmp_path, mixed_files.make_rows(3))
    lines = [
        ["photos/001.png", "3", "f", "yes"],
        ["photos/000.png", "2", "f", "yes"],
        ["photos/000.png", "1", "m", "no"],
        ["photos/000.png", "2", "f", "yes"],
        ["photos/002.png", "1", "m", "no"],
        ["photos/000.png", "1", "f", "no"],
    ]
    part = load(mixed_files.write_table(tmp_path / "b.csv", lines))
    expected = {
        "photos/000.png": (1.0, b"f", "no"),
        "photos/000.png#2": (1.0, b"m", "no"),
        "photos/000.png#3": (2.0, b"f", "yes"),
        "photos/001.png": (3.0, b"f", "yes"),
        "photos/002.png": (1.0, b"m", "no"),
    }
    assert read(part) == expected
    assert part.repeats.tolist() == [0, 0, 0, 3, 4]
    (problem,) = part.problems
    assert problem.severity == findings.WARNING
    assert problem.message == f"{tmp_path}/b.csv: 1 rows repeat another: lines 5. Skipped."
    # The order of the file is nothing.
    turned = load(mixed_files.write_table(tmp_path / "b.csv", lines[::-1]))
    assert read(turned) == expected


def test_repeated_images_are_in_one_split(tmp_path):
    rows = mixed_files.make_rows(40)
    mixed_files.write_images(tmp_path, rows)
    lines = [
        [f"photos/{n:03d}.png", str(age), row[2], row[3]]
        for n, row in enumerate(rows)
        for age in (1, 2, 3)
    ]
    path = mixed_files.write_table(tmp_path / "b.csv", lines)
    spec = specs.DataSpec(data=str(path), image_column="photo", feature_columns="age,sex")
    splits = loading.load_data(spec)
    parts = (splits.train, splits.validation, splits.test)
    names = [{key.partition("#")[0] for key in part.keys} for part in parts]
    assert all(names)
    assert sum(map(len, parts)) == 120
    assert sum(map(len, names)) == len(set().union(*names)) == 40
    for part in parts:
        assert len(part.features) == len(part)


def test_mistakes_of_both_passes_are_told_in_order(tmp_path):
    path = mixed_files.write_images(tmp_path, mixed_files.make_rows(3))
    path.write_text(
        "photo,age,sex,label\nnope.png,1,f,a\nphotos/000.png,old,f,a\nphotos/001.png,1,f\n"
        "nope.png,,f,a\nphotos/002.png,1,f,a\n"
    )
    part = load(path, feature_columns="age=number,sex")
    assert [problem.message for problem in part.problems] == [
        f"{path}, line 2: 'nope.png' does not exist. Paths are relative to the table's folder.",
        f"{path}, line 3: column 'age': expected a number. Received 'old'.",
        f"{path}, line 4: expected 4 columns (photo, age, sex, label). Received 3.",
        f"{path}, line 5: 'nope.png' does not exist. Paths are relative to the table's folder.",
        f"{path}, line 5: column 'age' has no number. --on_bad_example=skip leaves such rows out.",
    ]
    assert list(part.keys) == ["photos/002.png"]


def test_skipped_rows_cost_themselves(tmp_path):
    path = mixed_files.write_images(tmp_path, mixed_files.make_rows(3))
    path.write_text(
        "photo,age,sex,label\nnope.png,1,f,a\nphotos/000.png,,f,a\nphotos/001.png,5,m,a\n"
        "photos/002.png,6,f,b\n"
    )
    part = load(path, on_bad_example="skip")
    assert {problem.severity for problem in part.problems} == {findings.WARNING}
    assert read(part) == {
        "photos/001.png": (5.0, b"m", "a"),
        "photos/002.png": (6.0, b"f", "b"),
    }
    assert part.lines.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("photo,age,sex\n1.png,1,f\n", {"on_bad_example": "skip"},
         "{}: no column is left for labels beside 'photo' and --feature_columns. Expected one "
         "more, or leave it out as in *,-price."),
        ("photo,age,sex,label\n1.png,,f,a\nphotos/000.png,,f,a\n", {"on_bad_example": "skip"},
         "{}: every row lacks a number."),
        ("photo,age,sex,label\n1.png,1,f,a\nphotos/000.png,,f,a\n", {"on_bad_example": "skip"},
         "{}: no row has both a 'photo' and its feature columns."),
        ("photo,age,sex,label\n1.png,1,f,a\n", {"feature_columns": "photo,sex"},
         "--feature_columns and --image_column both name the column 'photo'. Expected different "
         "columns."),
        ("photo,age,sex,label\n1.png,1,f,a\n", {"text_column": "sex", "feature_columns": "age"},
         "--text_column and --image_column exclude each other. Leave one of them out."),
        ("photo,age,sex,label\n1.png,1,f,a\n", {"image_column": "foto"},
         "--image_column=foto: {} has no such column. Did you mean 'photo'? It has 'photo', 'age', "
         "'sex', 'label'."),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, content, options, message):
    path = mixed_files.write_images(tmp_path, mixed_files.make_rows(1))
    path.write_text(content)
    with pytest.raises(findings.RefusedError) as caught:
        load(path, **options)
    assert [problem.message for problem in caught.value.problems] == [message.format(path)]


def load_splits(folder, count=40):
    rows = mixed_files.make_rows(count)
    # Ages that differ, so that no two rows have the same columns.
    rows = [(row[0], str(number), *row[2:]) for number, row in enumerate(rows)]
    return _load_all(mixed_files.write_images(folder, rows))


def _load_all(path):
    spec = specs.DataSpec(data=str(path), image_column="photo", feature_columns="age,sex")
    return loading.load_data(spec)


def test_the_fingerprint_sees_a_changed_column(tmp_path):
    first = load_splits(tmp_path).info.fingerprint
    path = tmp_path / "table.csv"
    assert _load_all(path).info.fingerprint == first
    lines = path.read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join([cells[0], "33.3", *cells[2:]])
    path.write_text("\n".join(lines) + "\n")
    assert _load_all(path).info.fingerprint != first


def test_unreadable_images_take_their_columns_along(tmp_path):
    splits = load_splits(tmp_path)
    (tmp_path / "photos" / "007.png").write_bytes(b"no image")
    pre = input_preprocessing.PreprocessingSpec(8, 8, 3)
    read_splits, _, _ = pipeline.read_images(splits, pre, on_bad_example="skip")
    before = {}
    for part in (splits.train, splits.validation, splits.test):
        before.update(zip(part.keys, part.features.digests, strict=True))
    after = {}
    for part in (read_splits.train, read_splits.validation, read_splits.test):
        after.update(zip(part.keys, part.features.digests, strict=True))
    del before["photos/007.png"]
    assert after == before


def test_equal_images_of_other_columns_are_no_copies(tmp_path):
    splits = load_splits(tmp_path)
    content = (tmp_path / splits.train.keys[0]).read_bytes()
    for part in (splits.validation, splits.test):
        for key in part.keys:
            (tmp_path / key).write_bytes(content)
    pre = input_preprocessing.PreprocessingSpec(8, 8, 3)
    splits, _, _ = pipeline.read_images(splits, pre, on_bad_example="error")
    assert leaks.find_equal_inputs(splits) == ()
    alone = {
        name: dataclasses.replace(getattr(splits, name), features=None)
        for name in ("train", "validation", "test")
    }
    assert leaks.find_equal_inputs(dataclasses.replace(splits, **alone))


def test_lists_that_differ_in_repeats_are_two_rows(tmp_path):
    mixed_files.write_images(tmp_path, mixed_files.make_rows(2))
    names = ("photo", "age", "label")
    rows = [["photos/000.png", [0, 0, 1], "a"], ["photos/000.png", [0, 1, 1], "a"],
            ["photos/000.png", [0, 0, 1], "a"], ["photos/001.png", [1, 0, 1], "b"]]  # fmt: skip
    part = load(mixed_files.write_table(tmp_path / "a.jsonl", rows, names=names),
                feature_columns="age")  # fmt: skip
    assert part.keys.tolist() == ["photos/000.png", "photos/000.png#2", "photos/001.png"]
    assert part.features.matrix.read(np.arange(3)).tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1]]
    assert [problem.message for problem in part.problems] == [
        f"{tmp_path}/a.jsonl: 1 rows repeat another: lines 3. Skipped."
    ]


def test_a_cell_that_reads_like_a_message_is_told(tmp_path):
    path = mixed_files.write_images(tmp_path, mixed_files.make_rows(3))
    path.write_text("photo,age,sex,label\nphotos/000.png,line 2: expected 3,f,a\n"
                    "photos/001.png,1,f,a\nphotos/002.png,2\n")  # fmt: skip
    part = load(path, feature_columns="age=number,sex")
    assert [problem.message for problem in part.problems] == [
        f"{path}, line 2: column 'age': expected a number. Received 'line 2: expected 3'.",
        f"{path}, line 4: expected 4 columns (photo, age, sex, label). Received 2.",
    ]


def test_rows_of_another_length_are_told_once(tmp_path):
    path = mixed_files.write_images(tmp_path, mixed_files.make_rows(1))
    path.write_text("photo,age,sex,label\nphotos/000.png,1\n")
    part = load(path)
    assert len(part) == len(part.features) == 0
    assert [problem.message for problem in part.problems] == [
        f"{path}, line 2: expected 4 columns (photo, age, sex, label). Received 2."
    ]
    # Without a row, too, the columns are settled for other tables.
    path.write_text("photo,age,sex,label\nphotos/000.png,1,f,a\n")
    part = load(path)
    none = store_selection.select_columns(part.features, np.empty(0, np.int64))
    part = dataclasses.replace(part, features=none)
    spec = specs.DataSpec(feature_columns="age,sex")
    assert column_tables.settle_kinds(spec, part).feature_columns == "age=number,sex=string"
