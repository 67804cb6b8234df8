import json

from tf_finetune import prediction_mixed, specs
from tf_finetune.data import columns, mixed_spec, preprocessing, text_store

COLUMNS = columns.ColumnsSpec((columns.ModelInput("age", ("age",), "float32", ()),))


def read(path, main):
    spec = mixed_spec.MixedSpec(main, "main", COLUMNS)
    rows = prediction_mixed.open_rows((str(path),), spec, data=specs.DataSpec())
    return [(row.line, row.values and row.values.content, row.error) for row in rows]


def write(path, *cells):
    path.write_text("".join(json.dumps({"main": cell, "age": 3}) + "\n" for cell in cells))
    return path


def test_a_list_of_words_is_the_text_that_training_reads(tmp_path):
    path = write(tmp_path / "a.jsonl", ["EU", "rejects", "EU"], "EU rejects EU", [3, 3], [])
    assert read(path, text_store.TextSpec()) == [
        (1, b"EU rejects EU", ""),
        (2, b"EU rejects EU", ""),
        (3, b"3 3", ""),
        (4, b"", "the text is empty"),
    ]


def test_a_list_is_no_path_of_an_image(tmp_path):
    path = write(tmp_path / "a.jsonl", ["a.png"])
    main = preprocessing.PreprocessingSpec(8, 8, 3)
    assert read(path, main) == [
        (1, b"", "column 'main': expected a path. Received a list"),
    ]
