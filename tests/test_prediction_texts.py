import json

import numpy as np
import pytest

from tf_finetune import findings, head_kinds, prediction, prediction_files, prediction_texts
from tf_finetune.data import text_tables

HEAD = head_kinds.HeadInfo("label", "multiclass", ("neg", "pos"))


def listed(*paths, trained_column="review", text_column=None):
    texts = prediction_texts.iterate_texts(
        tuple(map(str, paths)), trained_column=trained_column, text_column=text_column
    )
    return [(given.line, given.text) for given in texts]


def refusal(*paths, **options):
    with pytest.raises(findings.RefusedError) as caught:
        listed(*paths, **options)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("header", "options", "column"),
    [
        ("text,review", {}, 1),
        ("text,id", {}, 0),
        ("comment,review", {"text_column": "comment"}, 0),
        ("id,Sentence", {"trained_column": None}, 1),
        ("review", {}, 0),
    ],
)
def test_the_column_of_a_table(tmp_path, header, options, column):
    path = tmp_path / "t.csv"
    path.write_text(f'{header}\n"a\n1","b"\nc,d\n\ne,f\n', "utf-8-sig")
    expected = [["a\n1", "b"], ["c", "d"], ["e", "f"]]
    assert listed(path, **options) == [
        (line, row[column]) for line, row in zip((2, 4, 6), expected, strict=True)
    ]


def test_a_text_on_each_line(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.TXT"
    first.write_bytes('\ufeffso good\r\n\r\nwith\u2028in, "it"\r\n'.encode())
    second.write_bytes(b"last")
    assert listed(first, second) == [
        (1, "so good"), (2, ""), (3, 'with\u2028in, "it"'), (1, "last"),
    ]  # fmt: skip
    rows = prediction_texts.iterate_texts((str(first),), trained_column=None, text_column=None)
    assert [row.error for row in rows] == ["", "the text is empty", ""]


def test_a_list_with_more_than_words_is_told_as_in_training(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ["mary", "sees"]}\n{"text": ["mary", "new york"]}\n{"text": []}\n')
    rows = prediction_texts.iterate_texts((str(path),), trained_column="text", text_column=None)
    assert [(row.text, row.error) for row in rows] == [
        ("mary sees", ""),
        ("mary new york", "expected a text, or a list of words without spaces in them"),
        ("", "the text is empty"),
    ]


def test_every_bad_input_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("id,comment\n1,good\n")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_bytes(b"fine\n\xe9\n")
    (tmp_path / "d.jpg").write_bytes(b"")
    (tmp_path / "e.csv").write_text("review\n")
    names = ("a.csv", "b.txt", "c.txt", "d.jpg", "e.csv", "gone.txt")
    a, b, c, d, e, gone = (str(tmp_path / name) for name in names)
    expected = "a .csv, .tsv or .jsonl with a column of texts, or a .txt with a text on each line"
    assert refusal(a, b, c, d, e, gone) == [
        f"{a}: expected a column of texts 'review', as in training. It has 'id', 'comment'. Name "
        "one with --text_column.",
        f"{b} is empty. Expected a text on each line.",
        f"{c}, line 2: byte 0xe9 is not UTF-8. Save the file as UTF-8, or name its encoding with "
        "--encoding.",
        f"--input={d}: the model takes texts. Expected {expected}.",
        f"{e}: no row below the header.",
        f"--input={gone} does not exist. The model takes texts: expected {expected}.",
    ]
    assert refusal() == [f"--input is needed: {expected}."]
    assert refusal(a, text_column="coment") == [
        f"--text_column=coment: {a} has no such column. Did you mean 'comment'? It has 'id', "
        "'comment'."
    ]


def predict_batch(contents):
    if b"broken" in contents:
        raise prediction.BadInputError("graph node")
    chances = np.array([[0.25, 0.75] if b"good" in text else [0.9, 0.1] for text in contents])
    return {"label": prediction.HeadOutput(chances, chances > 0.5)}


def predict(texts, batch_size=3):
    given = [
        prediction_texts.TextInput(text, line, text_tables.find_fault(text))
        for line, text in enumerate(texts, start=5)
    ]
    predictor = prediction.Predictor(predict_batch, (HEAD,), "text")
    return prediction.predict_texts(given, predictor=predictor, batch_size=batch_size, top_k=1)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_a_bad_text_costs_its_own_row(batch_size):
    rows = list(predict(["good", " ", "bad", "broken", "so good"], batch_size))
    assert [(row.line, row.text, row.error) for row in rows] == [
        (5, "good", ""),
        (6, " ", "the text is empty"),
        (7, "bad", ""),
        (8, "broken", "cannot be made tokens of"),
        (9, "so good", ""),
    ]
    answers = [row.heads["label"].predicted for row in rows if not row.error]
    assert answers == [("pos",), ("neg",), ("pos",)]


def test_batches_are_of_like_length_and_rows_in_order():
    seen = []

    def predict_lengths(contents):
        seen.extend(len(content) for content in contents)
        chances = np.array([[0.5, 0.5 - len(text) / 1e4] for text in contents])
        return {"label": prediction.HeadOutput(chances, chances == 0.5)}

    lengths = np.random.default_rng(0).integers(1, 99, 250).tolist()
    given = [prediction_texts.TextInput("x" * length, 1) for length in lengths]
    predictor = prediction.Predictor(predict_lengths, (HEAD,), "text")
    rows = list(prediction.predict_texts(given, predictor=predictor, batch_size=2, top_k=2))
    assert [len(row.text) for row in rows] == lengths
    for row in rows:
        assert row.heads["label"].probabilities[1] == pytest.approx(0.5 - len(row.text) / 1e4)
    # Windows of 50 batches, each from its longest to its shortest text.
    assert seen == [
        length
        for start in (0, 100, 200)
        for length in sorted(lengths[start : start + 100], reverse=True)
    ]


def test_rows_of_texts_as_csv_and_jsonl(tmp_path):
    texts = ["=good\n1", "", "bad"]
    for name, expected in (
        (
            "p.csv",
            "line,text,class,probability,error\n5,'=good\\n1,pos,0.75,\n6,,,,the text is empty\n"
            "7,bad,neg,0.9,\n",
        ),
        (
            "p.jsonl",
            '{"line": 5, "text": "=good\\n1", "predictions": {"label": {"predicted": ["pos"], '
            '"classes": ["pos"], "probabilities": [0.75]}}}\n'
            '{"line": 6, "text": "", "error": "the text is empty"}\n'
            '{"line": 7, "text": "bad", "predictions": {"label": {"predicted": ["neg"], '
            '"classes": ["neg"], "probabilities": [0.9]}}}\n',
        ),
    ):
        counts = prediction_files.write_predictions(
            predict(texts), str(tmp_path / name), heads=(HEAD,), top_k=1, of_texts=True
        )
        assert (counts.num_predicted, counts.num_errors) == (2, 1)
        assert (tmp_path / name).read_text("utf-8") == expected


def test_a_list_of_words_is_the_text_that_training_reads(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"review": ["EU", "rejects", "EU"]}\n{"review": [3, 3]}\n{"review": "a b"}\n')
    assert listed(path) == [(1, "EU rejects EU"), (2, "3 3"), (3, "a b")]


def test_a_line_that_is_no_json_costs_its_own_row(tmp_path):
    path, output = tmp_path / "a.jsonl", tmp_path / "found.jsonl"
    path.write_text('[1]\n{"review": "so good"}\n{"review": "x", "b": {}}\n{"review": \n')
    given = prediction_texts.iterate_texts((str(path),), trained_column=None, text_column=None)
    errors = [
        "expected an object such as {...}. Received another value",
        "",
        "the value of 'b' is an object. Expected text, a number or a list of names",
        "no valid JSON: Expecting value at character 13. Expected an object on one line",
    ]
    assert [(row.line, row.error) for row in given] == list(enumerate(errors, start=1))
    predictor = prediction.Predictor(predict_batch, (HEAD,), "text")
    rows = prediction.predict_texts(given, predictor=predictor, batch_size=2, top_k=1)
    counts = prediction_files.write_predictions(
        rows, str(output), heads=(HEAD,), top_k=1, of_texts=True
    )
    assert (counts.num_predicted, counts.num_errors) == (1, 3)
    found = [json.loads(row) for row in output.read_text().splitlines()]
    assert [row["line"] for row in found] == [1, 2, 3, 4]
    assert [row.get("error", "") for row in found] == errors
    assert found[1]["predictions"]["label"]["predicted"] == ["pos"]


def test_a_file_without_any_good_line_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("[1]\n7\n")
    assert refusal(path) == [
        f"{path}, line {line}: expected an object such as {{...}}. Received another value."
        for line in (1, 2)
    ]
