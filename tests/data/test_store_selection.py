import numpy as np
import pytest

from tf_finetune import specs
from tf_finetune.data import image_stores, loading, store_selection, text_store

ROWS = np.array([4, 0, 2])


def make_objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_every_store_gives_the_chosen_inputs():
    texts = text_store.Texts(make_objects(*"abcde"), "review", np.arange(5, dtype=np.int32))
    found = store_selection.select(texts, ROWS)
    assert (list(found.texts), found.column, found.lengths.tolist()) == (
        ["e", "a", "c"],
        "review",
        [4, 0, 2],
    )
    plain = store_selection.select(text_store.Texts(make_objects(*"abcde")), ROWS)
    assert plain.lengths is None
    paths = image_stores.PathImages(make_objects(b"a", b"b", b"c", b"d", b"e"))
    assert list(store_selection.select(paths, ROWS).paths) == [b"e", b"a", b"c"]
    numbers = [np.arange(5) + 10 * place for place in range(5)]
    slices = image_stores.SliceImages(make_objects(b"f"), *numbers)
    found = store_selection.select(slices, ROWS)
    assert found.files.tolist() == [4, 0, 2] and found.footers.tolist() == [44, 40, 42]
    assert list(found.paths) == [b"f"] and len(found) == 3
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None]
    for store in (image_stores.ArrayImages(pixels), image_stores.DecodedImages(pixels)):
        found = store_selection.select(store, ROWS)
        assert type(found) is type(store) and found.pixels[:, 0, 0, 0].tolist() == [4, 0, 2]
    with pytest.raises(TypeError) as caught:
        store_selection.select(image_stores.StreamImages(list, 5), ROWS)
    assert str(caught.value) == "A stream has no rows to choose from."


def test_columns_of_a_table_keep_their_rows(tmp_path):
    path = tmp_path / "a.csv"
    rows = [
        f"{n},{n * 2},{'yn'[n % 2]},s{n // 4},{'' if n % 5 == 0 else 'train'}" for n in range(60)
    ]
    path.write_text("\n".join(["x,z,label,site,fold", *rows]) + "\n")
    spec = specs.DataSpec(
        data=str(path),
        feature_columns="x,z",
        label_column="label",
        split_by="site",
        split_column="fold",
    )
    splits = loading.load_data(spec)
    seen: list[set[int]] = []
    for split in (splits.train, splits.validation, splits.test):
        numbers = split.inputs.matrix.read(split.indices)
        assert np.array_equal(numbers[:, 1], 2 * numbers[:, 0])
        assert np.array_equal(1 - numbers[:, 0] % 2, split.labels["label"])  # n, y by name
        assert not (numbers[:, 0] % 5 == 0).any()
        seen.append({int(number) // 4 for number in numbers[:, 0]})
    assert sum(map(len, seen)) == len(set().union(*seen)) == 15
    assert sum(len(split) for split in (splits.train, splits.validation, splits.test)) == 48
