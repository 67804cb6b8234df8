import numpy as np
import pytest

from tf_finetune.data import columns, feature_cells, json_rows

KINDS = {"a": columns.NUMBER, "b": columns.STRING, "c": columns.NUMBER}


def parse(*rows):
    return feature_cells.FeatureParser(["c", "b", "a"], KINDS).parse(list(rows))


def test_numbers_and_strings_in_the_order_of_the_features():
    numbers, strings, wrong = parse(["1", "x", " 2.5"], ["-1e3", "", "0"])
    np.testing.assert_array_equal(numbers, [[2.5, 1], [0, -1000]])
    assert strings == [["x"], [""]] and wrong == {}


@pytest.mark.parametrize(
    ("row", "message", "is_missing"),
    [
        (["1", "x", ""], "column 'a' has no number", True),
        (["NaN", "x", "1"], "column 'c' has no number", True),
        (["1", "x", "has no number."], "column 'a': expected a number. Received 'has no number.'",
         False),
        (["1_0", "x", "1"], "column 'c': expected a number. Received '1_0'", False),
        ([json_rows.Numbers.make("12"), "x", "1"],
         "column 'c': expected a number. Received a list", False),
        (["1", ("x", "y"), "1"], "column 'b': expected text. Received a list", False),
    ],
)  # fmt: skip
def test_a_bad_row_has_a_fault(row, message, is_missing):
    _, _, wrong = parse(["1", "x", "1"], row)
    assert wrong == {1: feature_cells.Fault(message, is_missing=is_missing)}


def test_what_float32_would_change():
    numbers = np.array([[2.0**24 + 1, 0.5]])
    assert feature_cells.needs_float64(numbers)
    assert not feature_cells.needs_float64(numbers - [1, 0])
    assert not feature_cells.needs_float64(np.empty((0, 2)))
