import numpy as np
import pytest

from tf_finetune.data import array_labels, examples, json_rows, known_names


def cells(values, *, classes=()):
    array = values if isinstance(values, np.ndarray) else np.array(values)
    return array_labels.to_cells(array, classes=classes).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([2, 0], np.uint8), ["2", "0"]),
        (np.array([[2], [0]]), ["2", "0"]),
        (np.array([True, False]), ["true", "false"]),
        (np.array([1.0, np.nan, 0.0]), ["1", "", "0"]),
        (np.array([1.1, np.nan], np.float32), ["1.1", ""]),
        ([" cat ", ""], ["cat", ""]),
        (np.array([b"c\xc3\xa4t", b"dog"]), ["cät", "dog"]),
        (examples.object_array(["a", None, 3, 0.5, True]), ["a", "", "3", "0.5", "true"]),
        (examples.object_array([("a", "b", "a"), [], [1]]), [("a", "b"), (), ("1",)]),
        (np.array([["a", "b"], ["c", ""]]), [("a", "b"), ("c",)]),
        (np.eye(3)[[2, 0]], ["2", "0"]),
        (np.array([[1, 1, 0], [0, 0, 0]]), [("0", "1"), ()]),
    ],
)
def test_labels_are_cells(values, expected):
    assert cells(values) == expected


class Unknown:
    """Like pandas.NA: nobody can say whether it equals itself."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("ambiguous")


def test_what_is_missing_in_tables_of_others_is_no_label():
    assert cells(examples.object_array(["a", Unknown(), np.nan])) == ["a", "", ""]


def test_numbers_are_places_in_classes():
    assert cells([1, 0, 7], classes=("cat", "dog")) == ["dog", "cat", "7"]
    assert cells([[1, 1], [0, 1]], classes=("cat", "dog")) == [("cat", "dog"), ("dog",)]
    assert cells(["0", "1"], classes=("1", "0")) == ["0", "1"]
    assert known_names.name_numbers(examples.object_array(["1"]), ()).tolist() == ["1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, np.inf]), "1: expected a finite number. Received inf."),
        (np.array([[1, 2], [0, 1]]), "None: expected 0 and 1 in a matrix of labels, a column for "
         "each class. Received other numbers."),
        (np.zeros((2, 3, 4), np.float32), "None: expected a label for each example, [n], or a 0 "
         "or 1 for each class, [n, classes]. Received float32 [2, 3, 4]."),
        (np.array([1j]), "None: expected a label for each example, [n], or a 0 or 1 for each "
         "class, [n, classes]. Received complex128 [1]."),
        (np.array([b"\xe9"]), "0: its text is not UTF-8."),
        (examples.object_array(["a", "\ud800"]), "1: its text is not UTF-8."),
        (examples.object_array([{}]), "0: expected a number or text. Received dict."),
    ],
)  # fmt: skip
def test_what_is_refused(values, message):
    with pytest.raises(array_labels.BadArrayError) as caught:
        cells(values)
    assert f"{caught.value.row}: {caught.value}" == message


def test_sets_and_arrays_are_names_in_one_order():
    assert array_labels.to_plain({"b", "a", 1, "1"}) == ("1", "a", "b", 1)
    assert array_labels.to_plain(np.array(["b", "a"])) == ["b", "a"]
    assert cells(examples.object_array([{"b", "a"}, np.array(["b", "a"])])) == [
        ("a", "b"),
        ("b", "a"),
    ]


def test_lists_keep_their_repeats_beside_their_names():
    """A tag for each word has repeats; a set of classes has none."""
    lists = examples.object_array([["O", "B", "O", ""], (0, 0, 1), np.array(["O", "O"])])
    found = array_labels.to_cells(lists, classes=())
    assert found.tolist() == [("O", "B"), ("0", "1"), ("O",)]
    assert [json_rows.read_elements(cell) for cell in found] == [
        ("O", "B", "O"),
        ("0", "0", "1"),
        ("O", "O"),
    ]
    matrix = array_labels.to_cells(np.array([["O", "B", "O"]]), classes=())
    assert json_rows.read_elements(matrix[0]) == ("O", "B", "O")


def test_a_refusal_names_argument_example_and_array():
    error = array_labels.BadArrayError("wrong.", row=3)
    refusal = array_labels.refuse(error, flag="data", name="a\nb")
    assert str(refusal) == "data, example 3: 'a\\nb': wrong."
    assert refusal.problems[0].flag == "--data"
    error = array_labels.BadArrayError("wrong.")
    assert str(array_labels.refuse(error, flag="data", name="a")) == "data: 'a': wrong."
