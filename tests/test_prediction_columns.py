from tf_finetune import prediction_columns, specs
from tf_finetune.data import columns

SPEC = columns.ColumnsSpec((columns.ModelInput("a", ("a",), "float32", ()),))


def test_a_bad_cell_is_told_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a\n1\nx --on_bad_example=skip.\n""\n')
    rows = prediction_columns.iterate_rows((str(path),), SPEC, data=specs.DataSpec())
    assert [(row.line, row.error) for row in rows] == [
        (2, ""),
        (3, "column 'a': expected a number. Received 'x --on_bad_example=skip.'"),
        (4, "column 'a' has no number"),
    ]


def test_a_line_that_is_no_json_costs_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[1]\n{"a": 3}\n')
    rows = prediction_columns.iterate_rows((str(path),), SPEC, data=specs.DataSpec())
    assert [(row.line, row.error) for row in rows] == [
        (1, ""),
        (2, "expected an object such as {...}. Received another value"),
        (3, ""),
    ]
