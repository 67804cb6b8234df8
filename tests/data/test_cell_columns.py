import numpy as np
import pytest

from tf_finetune.data import cell_columns


def make_column(cells, *, strip=True, chunk=1000):
    column = cell_columns.CellColumn(strip=strip)
    for start in range(0, len(cells), chunk):
        column.extend(cells[start : start + chunk])
    return column


def test_labels_that_repeat_are_one_text():
    column = make_column([" a ", "b", "", "a"] * 500)
    labels = column.labels("|", np.arange(1999, -1, -1))
    assert labels.dtype == object
    assert labels.tolist() == ["a", "", "b", "a"] * 500
    assert labels[0] is labels[3]
    assert make_column([" a "], strip=False).texts(np.arange(1)).tolist() == [" a "]


def test_delimiters_and_lists_make_tuples():
    order = np.arange(3)
    assert make_column(["a|b", "", "c"]).labels("|", order).tolist() == [("a", "b"), (), ("c",)]
    assert make_column(["a|b", "", "c"]).labels(None, order).tolist() == ["a|b", "", "c"]
    assert make_column([("a", "b"), "x", ""]).labels(None, order).tolist() == [("a", "b"), "x", ""]


@pytest.mark.parametrize("joint", ["", "|"])
def test_very_many_different_cells_are_packed_in_their_order(joint):
    cells = [f"{number:06d}{joint}long name of an example" for number in range(90_000)]
    cells[80_000] = cells[0]
    order = np.random.default_rng(0).permutation(90_000)
    column = make_column(cells)
    assert column._packed
    labels = column.labels("|" if joint else None, order)
    expected = [tuple(cells[row].split("|")) if joint else cells[row] for row in order]
    assert labels.tolist() == expected
