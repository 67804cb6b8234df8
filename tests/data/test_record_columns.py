import numpy as np

from tf_finetune.data import record_columns


def read(rows, order=None):
    columns = record_columns.RecordColumns()
    for row in rows:
        columns.add(row)
    found = columns.finish(np.arange(len(rows)) if order is None else np.array(order))
    return {name: list(cells) for name, cells in found.items()}


def test_columns_are_sorted_and_have_a_cell_for_each_record():
    rows = [{"b": "x"}, {}, {"a": "1", "b": "y"}, {"a": "1"}]
    assert read(rows) == {"a": ["", "", "1", "1"], "b": ["x", "", "y", ""]}
    assert list(read(rows)) == ["a", "b"]
    assert read(rows, order=[2, 3, 0, 1]) == {"a": ["1", "1", "", ""], "b": ["y", "", "x", ""]}
    assert read([]) == {}


def test_one_list_makes_lists_of_all():
    rows = [{"a": "x"}, {"a": ("x", "y")}, {}, {"a": "x"}]
    assert read(rows) == {"a": [("x",), ("x", "y"), (), ("x",)]}


def test_a_column_that_appears_late_and_one_of_very_many_names():
    rows = [{"id": f"{number:06d}"} for number in range(80_000)]
    rows[70_000]["late"] = "x"
    found = read(rows, order=range(79_999, -1, -1))
    assert found["id"] == [f"{number:06d}" for number in range(79_999, -1, -1)]
    assert found["late"].index("x") == 9_999 and found["late"].count("") == 79_999
