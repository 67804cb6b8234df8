import numpy as np
import pytest

from tests.data import test_label_encoding
from tf_finetune import head_kinds, specs
from tf_finetune.data import label_cells

make_part, read = test_label_encoding.make_part, test_label_encoding.read
TAGS = specs.HeadSpec(name="tags", kind="multilabel")
AGE = specs.HeadSpec(name="age", kind="regression")


def convert(part, columns, head):
    labels, problems = label_cells.convert(part, columns, head=head, kind=head.kind)
    return labels.tolist(), [problem.message for problem in problems]


def test_one_column_of_names_per_cell():
    part = make_part(tags=[("a", "b"), (), "", ("b",)])
    assert convert(part, ("tags",), TAGS)[0] == [("a", "b"), (), "", ("b",)]
    words = make_part(tags=["a", "", "b"])
    assert convert(words, ("tags",), TAGS)[0] == [("a",), (), ("b",)]


def test_an_empty_cell_is_missing_where_the_head_says_so():
    head = specs.HeadSpec(name="tags", kind="multilabel", empty="missing")
    part = make_part(tags=[("a", "b"), (), "", ("b",)])
    assert convert(part, ("tags",), head)[0] == [("a", "b"), "", "", ("b",)]
    assert convert(make_part(tags=["a", ""]), ("tags",), head)[0] == [("a",), ""]


def test_a_column_of_zeros_and_ones_for_each_class():
    part = make_part(
        a=["1", "0", "", "yes", "", "1.0"],
        b=["0", "FALSE", "", "", "true", "0.0"],
        c=["1", "no", "", "1", "", "1"],
    )
    labels, problems = label_cells.convert(part, ("a", "b", "c"), head=TAGS, kind="multilabel")
    assert problems == []
    assert labels.tolist() == [("a", "c"), (), "", ("a", "c"), ("b",), ("a", "c")]
    assert [sorted(getattr(cell, "unknown", ())) for cell in labels] == [
        [], [], [], ["b"], ["a", "c"], [],
    ]  # fmt: skip
    encoded = head_kinds.encode_labels(labels, kind="multilabel", classes=("c", "b", "a"))
    nan = np.nan
    np.testing.assert_array_equal(
        encoded,
        [[1, 0, 1], [0, 0, 0], [nan, nan, nan], [1, nan, 1], [nan, 1, nan], [1, 0, 1]],
    )


def test_cells_that_are_neither_zero_nor_one():
    part = make_part(a=["1", "2", "0"], b=["0", "1", "maybe"])
    assert convert(part, ("a", "b"), TAGS)[1] == [
        f"labels.csv, line {line}: column '{column}': expected 0 or 1, true or false, yes or no, "
        f"or nothing. Received '{word}'."
        for line, column, word in ((3, "a", "2"), (4, "b", "maybe"))
    ]


def test_a_plus_sign_in_a_column_name_is_not_taken_apart():
    assert label_cells.split_columns("a+b", ["a+b", "a"]) == ("a+b",)
    assert label_cells.split_columns("a+b", ["a", "b"]) == ("a", "b")


def test_numbers():
    cells = ["1", "-2.5", "+.5", "3e-2", "", "7."]
    part = make_part(age=cells)
    labels, problems = label_cells.convert(part, ("age",), head=AGE, kind="regression")
    assert problems == []
    encoded = head_kinds.encode_labels(labels, kind="regression", classes=())
    np.testing.assert_allclose(encoded[:, 0], [1, -2.5, 0.5, 0.03, np.nan, 7], rtol=1e-7)
    assert encoded.dtype == np.float32 and encoded.shape == (6, 1)


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        ("12 cm", ""),
        ("nan", ""),
        ("inf", ""),
        ("1e39", ""),
        ("1_000", ""),
        ("1,5", " Write 1.5."),
        ("a\x1b", ""),
    ],
)
def test_cells_that_are_no_numbers(cell, advice):
    shown = cell.encode("unicode_escape").decode()
    assert convert(make_part(age=["1", cell]), ("age",), AGE)[1] == [
        f"labels.csv, line 3: column 'age': expected a number such as 1.5 or -2e3. Received "
        f"'{shown}'.{advice}"
    ]


def test_several_numbers_in_a_cell():
    assert convert(make_part(age=[("1",), ("1", "2")]), ("age",), AGE)[1] == [
        "labels.csv, line 3: '1|2' names 2 classes, and head 'age' is regression: it takes one "
        "number."
    ]


def test_the_kind_that_columns_tell():
    part = make_part(tags=["a", ("a", "b")], a=["0", "1"], b=["1", "0"])
    assert label_cells.find_kind(part, ("tags",)) == "multilabel"
    assert label_cells.find_kind(part, ("a", "b")) == "multilabel"
    assert label_cells.find_kind(part, ("a",)) == "multiclass"
