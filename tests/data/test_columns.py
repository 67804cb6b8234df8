import json
import os
import subprocess

import numpy as np
import pytest

from tests.data import data_files, table_files
from tf_finetune import specs
from tf_finetune.data import column_inputs, columns, preprocessing, sources

VECTOR = (("features", (4,), "float32"),)
MIXED = (
    ("age", (), "float32"),
    ("income", (1,), "float32"),
    ("color", (), "string"),
    ("kids", (), "int32"),
)


def load(tmp_path, content, feature_columns, **options):
    path = tmp_path / "a.csv"
    path.write_text(content)
    spec = specs.DataSpec(feature_columns=feature_columns, **options)
    return sources.load_source(spec, str(path), flag="data").inputs


@pytest.fixture
def mixed(tmp_path):
    content = "age,income,color,kids,label\n1.5,2,red,3,x\n2.5,4,blue,0,y\n"
    return load(tmp_path, content, "*", label_column="label")


def test_one_vector_takes_the_columns_in_order(tmp_path):
    store = load(tmp_path, "a,b,c,d,label\n1,2,3,4,x\n", "d,c,b,a")
    spec = column_inputs.match_inputs(VECTOR, store, model="m")
    assert spec.inputs == (columns.ModelInput("features", ("d", "c", "b", "a"), "float32", (4,)),)
    values = store.read(np.array([0, 0]), spec)
    assert values["features"].tolist() == [[4, 3, 2, 1]] * 2
    assert values["features"].dtype == np.float32


def test_several_inputs_take_columns_by_name(mixed):
    spec = column_inputs.match_inputs(MIXED, mixed, model="m")
    values = mixed.read(np.arange(2), spec)
    assert {name: array.shape for name, array in values.items()} == {
        "age": (2,), "income": (2, 1), "color": (2,), "kids": (2,)
    }  # fmt: skip
    assert sorted(values["color"].tolist()) == [b"blue", b"red"]
    assert values["kids"].dtype == np.int32
    assert column_inputs.find_bad_ids(spec, mixed, num_rows={"kids": 4}) == []
    (problem,) = column_inputs.find_bad_ids(spec, mixed, num_rows={"kids": 3})
    assert problem.message == (
        "The model's input 'kids' takes int32, and the column 'kids' has 3. Expected whole numbers "
        "from 0 to 2."
    )
    again = preprocessing.read_input_spec(json.loads(json.dumps(spec.to_dict())))
    assert again == spec


def test_several_inputs_take_what_they_are_given(tmp_path):
    content = "a,b,c,label\n1,2,red,x\n"
    store = load(tmp_path, content, "wide:a+b,code:c")
    inputs = (("code", (), "string"), ("wide", (2,), "float32"))
    spec = column_inputs.match_inputs(inputs, store, model="m")
    assert [part.columns for part in spec.inputs] == [("c",), ("a", "b")]


@pytest.mark.parametrize(
    ("inputs", "feature_columns", "messages"),
    [
        (VECTOR, "a,b", ["--model=m takes 4 numbers in its input 'features', and "
         "--feature_columns names 2 columns. Expected as many."]),
        ((("v", (2,), "float32"),), "a,c", ["The model's input 'v' takes float32, and there is "
         "text in 'c', such as 'red'. Leave text out, or write --feature_columns=c=number to have "
         "each cell named that is no number."]),
        ((("c", (), "string"), ("a", (), "string")), "a,c", ["The model's input 'a' takes string, "
         "and there are only numbers in 'a'. --feature_columns=a=string reads them as strings."]),
        ((("a", (), "float32"), ("z", (), "float32")), "a,b", ["--model=m has the inputs 'a', 'z', "
         "and --feature_columns gives none to 'z'. Name a column as the input, or write "
         "INPUT:a+b,OTHER:c.", "--model=m has no input for 'b'. It has 'a', 'z'. Leave the others "
         "out of --feature_columns."]),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit(tmp_path, inputs, feature_columns, messages):
    store = load(tmp_path, "a,b,c,label\n1,2,red,x\n", feature_columns)
    assert data_files.refusal(column_inputs.match_inputs, inputs, store, model="m") == messages


@pytest.mark.parametrize("cell", ["1.5", "3000000000"])
def test_fractions_for_whole_numbers(tmp_path, cell):
    store = load(tmp_path, f"kids,label\n1,x\n{cell},y\n", "kids")
    spec = column_inputs.match_inputs((("kids", (), "int32"),), store, model="m")
    (problem,) = column_inputs.find_bad_ids(spec, store, num_rows={})
    assert problem.message == (
        f"The model's input 'kids' takes int32, and the column 'kids' has {float(cell):.12g}. "
        "Expected whole numbers."
    )


def test_arguments_of_a_signature():
    names = ["sepal length (cm)", "sepal_length__cm_", "1", "größe", "", "_a"]
    arguments = columns.make_arguments(names)
    assert list(arguments.values()) == [
        "sepal_length__cm_", "sepal_length__cm__2", "column_1", "gr__e", "column_", "column_a"
    ]  # fmt: skip
    many = columns.ModelInput("v", tuple(f"x{n}" for n in range(65)), "float32", (65,))
    assert columns.serving_arguments(columns.ColumnsSpec((many,))) == {}


def test_numbers_of_a_file_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    writer = columns.MatrixWriter(2, np.float64, max_bytes=10)
    writer.write(np.array([[1, 2], [3, 4]]))
    writer.write(np.array([[5, 6]]))
    matrix = writer.finish(np.array([2, 0, 1]))
    assert isinstance(matrix, columns.FileMatrix)
    assert matrix.read(np.array([0, 2])).tolist() == [[5, 6], [3, 4]]
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error(tmp_path):
    rows = table_files.make_rows(3)
    path = table_files.write_table(tmp_path / "a.csv", rows * 2000)
    script = (
        "import resource, sys; from tf_finetune import findings, specs;"
        "from tf_finetune.data import columns, sources;"
        "columns.MatrixWriter.__init__.__kwdefaults__['max_bytes'] = 10;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: sources.load_source(specs.DataSpec(feature_columns='x*'), sys.argv[1], flag='data')\n"
        "except findings.RefusedError as error: print(error.problems[0].message)"
    )
    done = subprocess.run(
        [os.sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        f"{path}: its numbers cannot be stored in a temporary file: File too large."
    )
