import pytest

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import column_names

AVAILABLE = ["id", "x1", "x2", "x3", "x10", "a:b", "pixel_7", "zip", "label"]


def read(text, *, available=AVAILABLE, **options):
    spec = specs.DataSpec(feature_columns=text, **options)
    return column_names.read_feature_columns(spec, available, path="t.csv")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("x2,x1", ("x2", "x1")),
        ("x1..x3", ("x1", "x2", "x3")),
        ("x1..3", ("x1", "x2", "x3")),
        ("x*", ("x1", "x2", "x3", "x10")),
        ("*,-id,-zip", ("x1", "x2", "x3", "x10", "a:b", "pixel_7")),
        ("pixel_?,x1..x2,x1", ("pixel_7", "x1", "x2")),
        ("a:b", ("a:b",)),
    ],
)
def test_names_ranges_and_patterns(text, names):
    assert read(text, label_column="label").names == names


def test_patterns_leave_out_what_splits():
    found = read("*", label_column="label", split_by="id", split_column="zip")
    assert found.names == ("x1", "x2", "x3", "x10", "a:b", "pixel_7")


def test_zeros_of_a_range_stay():
    available = [f"f{number:03d}" for number in range(101)]
    assert read("f008..f011", available=available).names == ("f008", "f009", "f010", "f011")


def test_inputs_and_kinds():
    found = read("wide:x1+x2,code:zip=string")
    assert found.inputs == {"wide": ("x1", "x2"), "code": ("zip",)}
    assert found.names == ("x1", "x2", "zip")
    assert found.kinds == {"zip": "string"}


def test_what_describe_writes_is_read_back():
    for text in ("a:b,zip=string,x1", "wide:x1+x2,code:zip"):
        found = read(text)
        kinds = dict.fromkeys(found.names, "number") | {"zip": "string"}
        again = read(column_names.describe(found, kinds))
        assert (again.names, again.inputs, again.kinds) == (found.names, found.inputs, kinds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x4", "--feature_columns: t.csv has no column 'x4'. It has 'id', 'x1', "
         "'x2', 'x3', 'x10', 'a:b', 'pixel_7', 'zip', 'label'."),
        ("x1..x5", "--feature_columns: t.csv has not all columns of 'x1..x5': 'x4', 'x5' missing."),
        ("x3..x1", "--feature_columns: 'x3..x1' is no range. Expected the smaller number first, "
         "for example x0..x99."),
        ("x1,wide:x2", "--feature_columns names the input of some columns, and not of 'x1'. "
         "Expected INPUT:a+b,OTHER:c for all or none."),
        ("x1,-x1", "--feature_columns names no column."),
        ("x1,label", "--feature_columns and --label_column both name the column 'label'. Expected "
         "different columns."),
    ],
)  # fmt: skip
def test_what_is_refused(text, message):
    assert data_files.refusal(read, text, label_column="label") == [message]


def test_a_table_without_a_header_is_told():
    (message,) = data_files.refusal(read, "x0", available=["5.1", "3.5", "0.2", "setosa"])
    assert message == (
        "--feature_columns: t.csv has no column 'x0'. Its first row holds numbers: add a line with "
        "the names of the columns, or --header=none names them 1, 2, 3 and so on. It has '5.1', "
        "'3.5', '0.2', 'setosa'."
    )


@pytest.mark.parametrize("cell", ["1", "-2.5e3", " 4 ", "0x", "nan", "inf", "", "1_000", "1,5"])
def test_what_is_a_number(cell):
    assert column_names.is_number(cell) == (cell in ("1", "-2.5e3", " 4 "))
