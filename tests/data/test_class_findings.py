"""Classes, gaps and numbers; what the doctor says of whole data sets is in e2e/test_doctor.py."""

import numpy as np
import pytest

from tf_finetune import specs
from tf_finetune.data import class_findings, doctor_rows, examples, text_store


def find(labels, *, other=None, **head):
    """What is said of a table with these labels."""
    part = examples.Examples(
        source="a.csv",
        keys=np.array([f"{row:03d}" for row in range(len(labels))], object),
        inputs=text_store.Texts(np.array([f"text {row}" for row in range(len(labels))], object)),
        labels={
            "label": examples.object_array(labels),
            "other": examples.object_array(["x"] * len(labels)),
        },
        lines=np.arange(len(labels)) + 2,
    )
    if other is not None:
        part.labels["other"] = examples.object_array(other)
    spec = specs.DataSpec(data="a.csv", label_column="label")
    heads = (specs.HeadSpec(name="task", **head),)
    rows = doctor_rows.collect_rows({"data": part}, heads, spec, splits=None)
    counts = class_findings.count_classes(rows)
    found = class_findings.find_odd_classes(rows, counts)
    found += class_findings.find_missing_cells(rows)
    return [(problem.line, problem.message) for problem in found]


def test_good_classes():
    assert find(["a", "b"] * 20) == []
    assert find(["0", "1", "2"] * 20) == []


def test_a_number_that_is_left_out():
    assert find(["0"] * 12 + ["1"] * 12 + ["3"] * 12) == [
        (
            26,
            "a.csv, line 26: the labels of head 'task' are numbers from 0 to 3 without '2'. Is a "
            "class missing?",
        )
    ]
    assert find(["10"] * 12 + ["20"] * 12) == []  # no count from 0 or 1 on
    assert find(["0"] * 12 + ["100"] * 12) == []  # a code, not a count


def test_a_label_of_each_example():
    labels = [f"name {number}" for number in range(30)]
    assert find(labels) == [
        (
            2,
            "a.csv, line 2: column 'label' has 30 different labels in 30 examples. Is it a number "
            "to predict, or a name of each example? Choose another --label_column.",
        )
    ]


def test_classes_of_several_labels():
    labels = [("a", "b"), ("a",), ()] * 20 + [("c", "a")]
    assert find(labels) == [
        (
            62,
            "a.csv, line 62: class 'a' has 41 examples and 'c' 1, more than 20 to 1. "
            "--head=name=task,class_weight=balanced weighs them alike; look at the recall of each "
            "class.",
        )
    ]


def test_a_number_that_stands_for_a_missing_one():
    numbers = [str(number / 7) for number in range(30)]
    assert find(numbers, kind="regression") == []
    numbers[4] = numbers[8] = "-9999"
    numbers[5] = ""
    assert find(numbers, kind="regression") == [
        (
            6,
            "a.csv, line 6: the label -9999 of head 'task' is far from the others, half of which "
            "are between 1 and 3.14286; so are 1 more. Does it stand for a missing one? "
            "Leave such cells empty.",
        )
    ]


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        ((3,), "column 'other' is empty here and nowhere else."),
        ((3, 5, 6), "column 'other' is empty here and 2 times more."),
    ],
)
def test_empty_cells_of_another_column(empty, message):
    other = ["" if row in empty else "x" for row in range(40)]
    assert find(["a", "b"] * 20, other=other) == [(5, f"a.csv, line 5: {message}")]
    assert find(["a", "b"] * 20, other=[""] * 40) == []
