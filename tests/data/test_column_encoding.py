import numpy as np
import pytest

from tests.data import table_files
from tf_finetune import findings, specs
from tf_finetune.data import column_encoding, column_tables


def load(path, rows, names, **options):
    data = table_files.write_table(path / "a.csv", rows, header=(*names, "label"))
    spec = specs.DataSpec(data=data, feature_columns=",".join(names), **options)
    return column_tables.load(spec, data).inputs


def measure(store):
    return column_encoding.measure(store, column_encoding.make_spec(store))


def test_numbers_and_categories_are_those_of_the_rows(tmp_path):
    generator = np.random.default_rng(0)
    numbers = generator.normal([3, 1e6, -0.01], [2, 10, 0.001], (200, 3))
    words = ["red", "", "green", "Grün, hell"]
    rows = [[*map(repr, map(float, row)), words[n % 4], "x"] for n, row in enumerate(numbers)]
    store = load(tmp_path, rows, ("a", "b", "c", "word"))
    spec = column_encoding.make_spec(store)
    assert [(part.name, part.columns, part.dtype, part.shape) for part in spec.inputs] == [
        ("numbers", ("a", "b", "c"), "float32", (3,)),
        ("categories", ("word",), "string", (1,)),
    ]
    found = column_encoding.measure(store, spec)
    np.testing.assert_allclose(found.means, numbers.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.variances, numbers.var(axis=0), rtol=1e-3)
    assert found.categories == (("Grün, hell", "green", "red"),)


def test_columns_of_one_kind_make_one_input(tmp_path):
    store = load(tmp_path, [["1", "x"], ["2", "y"]], ("a",))
    (part,) = column_encoding.make_spec(store).inputs
    assert part.name == "numbers"
    assert measure(store).categories == ()
    store = load(tmp_path, [["u", "x"], ["v", "y"]], ("a",))
    (part,) = column_encoding.make_spec(store).inputs
    assert part.name == "categories"
    assert measure(store) == column_encoding.Encoding((), (), (("u", "v"),))


@pytest.mark.parametrize("number", ["0", "7", "0.1", "123456.7"])
def test_a_number_that_is_always_the_same_is_not_blown_up(tmp_path, number):
    found = measure(load(tmp_path, [[number, "x"]] * 7, ("a",)))
    assert found.variances == (1.0,)


def test_small_numbers_are_no_constants(tmp_path):
    found = measure(load(tmp_path, [["1e-12", "x"], ["3e-12", "y"]], ("a",)))
    np.testing.assert_allclose(found.variances, [1e-24], rtol=1e-5)


def test_columns_that_are_no_categories(tmp_path):
    rows = [[f"id {n}", "", "x"] for n in range(1001)]
    data = table_files.write_table(tmp_path / "a.csv", rows, header=("name", "none", "label"))
    spec = specs.DataSpec(data=data, feature_columns="name,none=string")
    with pytest.raises(findings.RefusedError) as caught:
        measure(column_tables.load(spec, data).inputs)
    assert [problem.message for problem in caught.value.problems] == [
        "--feature_columns: the column 'name' has 1,001 different texts in the training rows, such "
        "as 'id 0', 'id 1', 'id 10' and 998 more. Expected categories, at most 1,000. Leave it "
        "out, or group them.",
        "--feature_columns: the column 'none' is empty in all training rows. Leave it out.",
    ]
