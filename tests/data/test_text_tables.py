import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_text
from tests.data import data_files
from tf_finetune import findings, specs
from tf_finetune.data import input_stores, loading, sources, tables, text_tables

ROWS = tiny_text.make_rows()


def write(folder, rows=ROWS, name="reviews.csv", **options):
    return tiny_text.write_table(folder / name, rows, **options)


def load(path, **options):
    return tables.load(specs.DataSpec(**options), path, flag="data")


def split_of(path, **options):
    splits = loading.load_data(specs.DataSpec(data=path, **options))
    parts = (splits.train, splits.validation, splits.test)
    return {key: part.name for part in parts for key in part.keys}, splits


@pytest.mark.parametrize(
    ("header", "options", "column"),
    [
        (["text", "label"], {}, "text"),
        ([" Review ", "label"], {}, "Review"),
        (["id", "sentence", "text"], {}, "text"),
        (["id", "comment"], {"text_column": "comment"}, "comment"),
        (["path", "text"], {"text_column": "text"}, "text"),
        (["path", "text"], {"text_column": "txet"}, "txet"),
        (["path", "text"], {}, None),
        (["FileName", "text"], {}, None),
        (["photo", "text"], {"image_column": "photo"}, None),
        (["id", "comment"], {}, None),
    ],
)
def test_which_column_holds_texts(header, options, column):
    spec = specs.DataSpec(**options)
    assert text_tables.find_text_column(header, spec) == column
    assert text_tables.holds_texts(header, spec) == (column is not None)


def test_texts_stay_as_they_are(tmp_path):
    rows = [(' "so"\ngood, é ', "x"), ("bad\0\u2028", " y ")]
    part = load(write(tmp_path, rows))
    assert sorted(part.inputs.texts) == sorted(text for text, _ in rows)
    assert part.inputs.column == "review"
    assert input_stores.find_kind(part.inputs) == input_stores.TEXT
    assert sorted(part.labels["sentiment"]) == ["x", "y"]
    assert sorted(part.lines) == [2, 4]
    assert part.problems == ()


def test_an_image_in_the_first_cell_is_no_header(tmp_path):
    data_files.write_files(tmp_path, cat=2)
    (tmp_path / "list.csv").write_text("cat/0.jpg,text\ncat/1.jpg,other\n")
    part = load(str(tmp_path / "list.csv"))
    assert part.labels["label"].tolist() == ["text", "other"]


def test_neither_order_nor_new_rows_move_an_example(tmp_path):
    first, splits = split_of(write(tmp_path))
    assert splits.input_kind == "text"
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [48, 6, 6]
    second, again = split_of(write(tmp_path, ROWS[::-1], "b.csv"))
    assert second == first
    assert again.info.fingerprint == splits.info.fingerprint
    assert again.train.texts == splits.train.texts
    changed = [(text, "pos") for text, _ in ROWS[:1]] + ROWS[1:]
    _, other = split_of(write(tmp_path, changed, "c.csv"))
    assert other.info.fingerprint != splits.info.fingerprint


def test_equal_texts_share_a_split(tmp_path):
    rows = [*ROWS, *ROWS[:30], *[("same", "pos"), ("same", "neg")] * 4]
    path = write(tmp_path, rows)
    places, splits = split_of(path)
    assert len(places) == 98
    parts = (splits.train, splits.validation, splits.test)
    texts = [set(part.texts) for part in parts]
    assert all(len(part) for part in parts)
    assert sum(map(len, texts)) == len(set().union(*texts)) == 61
    assert [problem.message for problem in splits.problems] == [
        f"{path}: 37 of 98 rows repeat the text of another, and are in its split."
    ]
    shuffled = [rows[number] for number in np.random.default_rng(0).permutation(98)]
    assert split_of(write(tmp_path, shuffled, "b.csv"))[0] == places


def test_few_shot_leaves_repeated_texts_out_of_the_test(tmp_path):
    path = write(tmp_path, [*ROWS, *ROWS[:30]])
    _, splits = split_of(path, examples_per_class=3)
    assert len(splits.train) == 6
    seen = {*splits.train.texts, *splits.validation.texts}
    assert not seen & set(splits.test.texts)
    assert any(
        "examples that repeat one of training or validation" in problem.message
        for problem in splits.problems
    )


def test_a_split_file_is_followed_by_new_copies(tmp_path):
    places, splits = split_of(write(tmp_path))
    (tmp_path / "split.csv").write_text(loading.split_rows(splits))
    path = write(tmp_path, [*ROWS, *ROWS], "twice.csv")
    twice, _ = split_of(path, split_file=str(tmp_path / "split.csv"))
    for key, split in places.items():
        assert twice[key] == twice[f"{key.removesuffix('-1')}-2"] == split


def test_every_bad_row_is_told(tmp_path):
    rows = [("good", "x"), ("", "x"), (" \t", "y"), ("a", "b", "c"), ("z", "y")]
    path = write(tmp_path, rows)
    part = load(str(path))
    assert [(problem.line, problem.message) for problem in part.problems] == [
        (5, f"{path}, line 5: expected 2 columns (review, sentiment). Received 3."),
        (3, f"{path}, line 3: the text is empty. --on_bad_example=skip leaves such rows out."),
        (4, f"{path}, line 4: the text is empty. --on_bad_example=skip leaves such rows out."),
    ]
    part = load(path, on_bad_example="skip")
    assert len(part) == 2
    assert [(problem.severity, problem.message) for problem in part.problems] == [
        (findings.ERROR, f"{path}, line 5: expected 2 columns (review, sentiment). Received 3."),
        (findings.WARNING, f"{path}: 2 rows without a text are left out, lines 3, 4."),
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"text,label\n", {}, "{}: no row below the header. Expected a row text,label for each "
         "text."),
        (b"text\nhello\n", {}, "{}, line 1: expected at least 2 columns (text,label). Received 1."),
        (b"text,label\n,x\n", {"on_bad_example": "skip"}, "{}: no row has a text in the column "
         "'text'."),
        (b"text,label\n\xe9,x\n", {}, "{}, line 2: byte 0xe9 is not UTF-8. Save the file as "
         "UTF-8, or name its encoding with --encoding."),
        (b"text,label\nhello,x\n", {"text_column": "texts"}, "--text_column=texts: {} has no such "
         "column. Did you mean 'text'? It has 'text', 'label'."),
        (b"text,label\nhello,x\n", {"text_column": "text", "image_column": "label"},
         "--text_column and --image_column exclude each other. Leave one of them out."),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, content, options, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert data_files.refusal(load, str(path), **options) == [message.format(path)]


@pytest.mark.parametrize("name", ["text", "image"])
def test_keys_of_objects_are_on_no_line(tmp_path, name):
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"{name}": "x", "label": 1}}\n{{"{name}": "y", "": 1}}\n')
    assert data_files.refusal(load, str(path)) == [
        f"{path}: expected a name of its own for each column. Received {name},label,."
    ]
    path.write_text(f'{{"{name}": "x"}}\n')
    first = "path" if name == "image" else "text"
    assert data_files.refusal(load, str(path)) == [
        f"{path}: expected at least 2 columns ({first},label). Received 1."
    ]


def test_a_table_whose_images_do_not_exist_may_hold_texts(tmp_path):
    path = write(tmp_path, [("so good", "x"), ("so bad", "y")], header=("comment", "label"))
    assert load(path).problems[-1].message == (
        f"{path}: no cell of the column 'comment' names a file. If a column holds texts, name it "
        "with --text_column."
    )


def test_only_tables_hold_texts(tmp_path):
    data_files.write_files(tmp_path, cat=1)
    spec = specs.DataSpec(text_column="x")
    refusal = data_files.refusal(sources.load_source, spec, str(tmp_path), flag="data")
    assert refusal == [
        "--text_column=x needs a .csv, .tsv, .jsonl or .tfrecord with that column. Received "
        f"--data={tmp_path}."
    ]


def test_texts_and_images_do_not_mix(tmp_path):
    data_files.write_files(tmp_path / "images", cat=4, dog=4)
    path = write(tmp_path, [(text, "cat" if label == "pos" else "dog") for text, label in ROWS])
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_data(specs.DataSpec(data=path, test_data=str(tmp_path / "images")))
    assert caught.value.problems[0].message == (
        f"--data={path} holds texts and --test_data={tmp_path}/images holds images. Expected the "
        "same of both."
    )


def test_a_single_column_is_refused_at_the_line_of_its_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n\ntext\ngood\n")
    assert data_files.refusal(load, str(path)) == [
        f"{path}, line 3: expected at least 2 columns (text,label). Received 1."
    ]


def test_ten_of_the_same_text_keep_their_keys_apart(tmp_path):
    path = tmp_path / "a.csv"
    rows = [("same", f"{number:02d}") for number in range(12)] + [("other", "00")]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows[::-1]))
    part = load(str(path))
    digest = hashlib.sha256(b"same").hexdigest()[:16]
    labels = dict(zip(part.keys.tolist(), part.labels["label"].tolist(), strict=True))
    # The number follows the label, not the line; as text, 10 comes before 2.
    assert [labels[f"{digest}-{count}"] for count in range(1, 13)] == [row[1] for row in rows[:12]]
    assert part.keys.tolist() == sorted(part.keys.tolist())
    first = part.keys.tolist().index(f"{digest}-1")
    of_same = [row for row, key in enumerate(part.keys) if key.startswith(digest)]
    assert part.repeats[of_same].tolist() == [first] * 12
    assert data_files.warnings_of(part.problems) == [
        f"{path}: 11 of 13 rows repeat the text of another, and are in its split."
    ]


_PEAK = """
import re, sys
from tf_finetune import specs
from tf_finetune.data import loading
splits = loading.load_data(specs.DataSpec(data=sys.argv[1], split_file=sys.argv[2] or None))
with open(sys.argv[3], "w") as file:
    file.writelines(loading.iterate_split_rows(splits))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
def test_texts_take_little_more_memory_than_themselves(tmp_path):
    """2 and 20 MB, without and with the split.csv of an earlier run. A text of 100 bytes is 160 as
    a Python string and its key 80; with all else, 390 and 420 were measured."""
    peaks = []
    for count in (20_000, 200_000):
        path, rows = tmp_path / f"{count}.csv", tmp_path / f"{count}.split"
        with path.open("w") as file:
            file.write("text,label\n")
            file.writelines(f"{row:08d} {'word ' * 18},{'ab'[row % 2]}\n" for row in range(count))
        for before in ("", str(rows)):
            command = [sys.executable, "-c", _PEAK, str(path), before, str(rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout))
    assert peaks[2] - peaks[0] < 0.18 * 500
    assert peaks[3] - peaks[1] < 0.18 * 550


def test_a_list_of_numbers_is_a_text_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": [3, 3, 1], "label": "x"}\n{"text": ["3", "1"], "label": "y"}\n')
    assert sorted(load(str(path)).inputs.texts) == ["3 1", "3 3 1"]


@pytest.mark.parametrize("lists", [([0, 0, 1], [0, 1, 1]), (["a", "a", "b"], ["a", "b", "b"])])
def test_lists_order_equal_texts_by_all_that_stands_in_them(tmp_path, lists):
    lines = [json.dumps({"text": "t", "tags": tags}) for tags in lists]
    found = []
    for name, ordered in (("a.jsonl", lines), ("b.jsonl", lines[::-1])):
        (tmp_path / name).write_text("\n".join(ordered) + "\n")
        part = load(str(tmp_path / name))
        found.append([cell.elements for cell in part.labels["tags"]])
    assert found[0] == found[1] == [tuple(map(str, tags)) for tags in lists]
