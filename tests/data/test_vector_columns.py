import json

import numpy as np
import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import column_inputs, column_tables, columns, sources, vector_columns

ROWS = [
    {"id": "a", "embedding": [0.5, 0, 0, 1e-3], "tags": [1, 1, 2], "label": "x"},
    {"id": "b", "embedding": [0, 0, 0, -2], "tags": [], "label": "y"},
    {"id": "c", "embedding": [1, 2, 3, 4], "tags": [2], "label": "x"},
]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(path, feature_columns="embedding", **options):
    spec = specs.DataSpec(feature_columns=feature_columns, **options)
    return sources.load_source(spec, str(path), flag="data")


def numbers_of(part):
    return part.inputs.matrix.read(np.argsort(part.lines)).tolist()


def test_runs_of_elements_are_vectors():
    names = ["a", "x[0]", "x[1]", "y[0]", "z[1]", "x[2]", "w[0]", "w[2]", "[0]", "v[00]"]
    assert vector_columns.find_vectors(names) == {"x": 2, "y": 1, "w": 1}
    assert vector_columns.find_vectors(vector_columns.name_elements("e", 3)) == {"e": 3}


def test_a_list_of_numbers_is_a_vector(tmp_path):
    part = load(write(tmp_path / "a.jsonl"))
    assert part.problems == ()
    assert part.inputs.found.names == tuple(f"embedding[{place}]" for place in range(4))
    assert set(part.inputs.kinds.values()) == {columns.NUMBER}
    np.testing.assert_array_equal(numbers_of(part), np.float32([row["embedding"] for row in ROWS]))
    # Other lists stay what they were: names, each once.
    rows = np.argsort(part.lines)
    assert part.labels["tags"][rows].tolist() == [("1", "2"), (), ("2",)]
    assert part.labels["label"][rows].tolist() == ["x", "y", "x"]


def test_patterns_and_single_numbers_beside_vectors(tmp_path):
    rows = [{**row, "age": 3} for row in ROWS]
    path = write(tmp_path / "a.jsonl", rows)
    part = load(path, "age,emb*")
    assert part.inputs.found.names[:2] == ("age", "embedding[0]")
    part = load(path, "*,-id,-tags", label_column="label")
    assert part.inputs.found.names == ("embedding[0]", "embedding[1]", "embedding[2]",
                                       "embedding[3]", "age")  # fmt: skip
    assert list(part.labels) == ["id", "tags", "label"]


def test_each_input_takes_the_vector_of_its_name(tmp_path):
    store = load(write(tmp_path / "a.jsonl", [{**row, "age": 3} for row in ROWS]),
                 "age,embedding").inputs  # fmt: skip
    inputs = [("embedding", (4,), "float32"), ("age", (), "float32")]
    spec = column_inputs.match_inputs(inputs, store, model="m")
    assert [part.columns for part in spec.inputs] == [store.found.names[1:], ("age",)]
    assert columns.serving_arguments(spec) == {}
    values = store.read(np.array([0]), spec)
    assert {name: value.shape for name, value in values.items()} == {
        "embedding": (1, 4), "age": (1,),
    }  # fmt: skip


def test_settled_columns_hold_for_another_table(tmp_path):
    part = load(write(tmp_path / "a.jsonl"))
    spec = column_tables.settle_kinds(specs.DataSpec(feature_columns="embedding"), part)
    assert spec.feature_columns == "embedding=number[4]"
    again = sources.load_source(spec, write(tmp_path / "b.jsonl"), flag="data")
    assert again.inputs.found.names == part.inputs.found.names
    table = tmp_path / "b.csv"
    table.write_text("embedding[0],embedding[1],embedding[2],embedding[3],label\n1,2,3,4,x\n")
    assert numbers_of(sources.load_source(spec, str(table), flag="data")) == [[1, 2, 3, 4]]
    short = write(tmp_path / "c.jsonl", [{"embedding": [1, 2], "label": "x"}])
    assert data_files.refusal(sources.load_source, spec, short, flag="test_data") == [
        f"--feature_columns: {short} has 2 numbers in the first cell of 'embedding'. Expected 4 "
        "numbers."
    ]
    short = write(tmp_path / "c.jsonl", [{"embedding": "1 2", "label": "x"}])
    assert data_files.refusal(sources.load_source, spec, short, flag="test_data") == [
        f"--feature_columns: {short} has no list in the first cell of 'embedding'. Expected 4 "
        "numbers."
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3], "expected a list of 4 numbers, as in the first row. Received 3."),
        ([1, 2, 3, 4, 5], "expected a list of 4 numbers, as in the first row. Received 5."),
        (7, "expected a list of 4 numbers, as in the first row. Received '7'."),
        (["1", "2"], "expected a list of 4 numbers, as in the first row. Received a list of other "
         "things."),
        ([], "expected a list of 4 numbers, as in the first row. Received a list of other "
         "things."),
    ],
)  # fmt: skip
def test_a_vector_of_another_length_has_a_line(tmp_path, value, message):
    path = write(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "embedding": value}])
    part = load(path)
    assert [problem.message for problem in part.problems] == [
        f"{path}, line 4: column 'embedding': {message}"
    ]


def test_a_missing_vector_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", [*ROWS, {"label": "x", "embedding": None}])
    (problem,) = load(path).problems
    assert problem.message == (
        f"{path}, line 4: column 'embedding[0]' has no number. --on_bad_example=skip leaves such "
        "rows out."
    )
    part = load(path, on_bad_example="skip")
    assert len(part) == 3 and data_files.warnings_of(part.problems)
