import numpy as np

from tf_finetune import head_kinds
from tf_finetune.data import examples, label_encoding, strata


def make_head(name, kind, labels, classes=("a", "b", "c")) -> label_encoding.HeadLabels:
    info = head_kinds.HeadInfo(name, kind, () if kind == "regression" else classes)
    return label_encoding.HeadLabels(info, name, (examples.object_array(labels),))


def test_tags_of_every_kind_of_head():
    partial = head_kinds.PartialLabels.make(("b",), unknown=("c",))
    animal = make_head("animal", "multiclass", ["a", "", "b", "a"])
    tags = make_head("tags", "multilabel", [("b", "a"), (), "", partial])
    found = [[tag.replace("\0", "/") for tag in row] for row in strata.find_tags([animal, tags], 0)]
    assert found == [
        ["animal/a", "tags/a", "tags/b"],
        ["animal/", "tags//"],
        ["animal/b", "tags/"],
        ["animal/a", "tags/b", "tags//c"],
    ]
    classes = [
        [tag.replace("\0", "/") for tag in row] for row in strata.find_class_tags([animal, tags], 0)
    ]
    assert classes == [
        ["animal/a", "tags/a", "tags/b"],
        [""],
        ["animal/b"],
        ["animal/a", "tags/b"],
    ]
    required = {tag.replace("\0", "/") for tag in strata.find_required_tags([animal, tags])}
    assert required == {"animal/a", "animal/b", "animal/c"}
    assert strata.find_required_tags([tags, animal]) == frozenset()


def test_numbers_are_tagged_by_their_bin():
    numbers = [str(number) for number in range(60)] + [""]
    head = make_head("price", "regression", numbers)
    tags = [tag for (tag,) in strata.find_tags([head], 0)]
    assert tags == ["price\x0000"] * 20 + ["price\x0001"] * 20 + ["price\x0002"] * 20 + ["price\0"]


def test_bins_hold_equally_many_whatever_the_order():
    random = np.random.default_rng(0)
    numbers = np.exp(random.normal(size=1000))
    bins = strata.bin_numbers(numbers)
    assert np.bincount(bins).tolist() == [100] * 10
    assert np.all(np.diff(bins[np.argsort(numbers)]) >= 0)
    order = random.permutation(1000)
    assert strata.bin_numbers(numbers[order]).tolist() == bins[order].tolist()


def test_equal_numbers_share_a_bin_and_few_have_one():
    numbers = np.repeat([0.0, 1.0, 2.0], [700, 200, 100])
    assert np.unique(strata.bin_numbers(numbers)[:700]).size == 1
    assert np.unique(strata.bin_numbers(numbers)).size == 3
    assert strata.bin_numbers(np.arange(39.0)).tolist() == [0] * 39
    assert strata.bin_numbers(np.zeros(500)).tolist() == [0] * 500
    assert strata.bin_numbers(np.empty(0)).tolist() == []
