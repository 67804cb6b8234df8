import os

import numpy as np
import pytest

from tf_finetune import head_kinds
from tf_finetune.data import examples, position_labels

HEAD = head_kinds.HeadInfo("mask", "segmentation", ("a", "b", "c"))


def test_labels_are_places_in_a_store():
    cells = examples.object_array(["x/1.png", "", "x/\udcff.png"])
    labels, store = position_labels.encode(cells, HEAD)
    assert (labels.dtype, labels.tolist()) == (np.int32, [0, -1, 2])
    assert store.paths.tolist() == [b"x/1.png", b"", b"x/\xff.png"]
    assert os.fsdecode(store.paths[2]) == "x/\udcff.png"
    assert head_kinds.find_labelled(labels).tolist() == [True, False, True]


def test_other_heads_have_no_store():
    head = head_kinds.HeadInfo("label", "multiclass", ("a", "b"))
    labels, store = position_labels.encode(examples.object_array(["b", "a"]), head)
    assert (labels.tolist(), store) == ([1, 0], None)


def test_only_examples_of_the_split_are_counted():
    counts = np.array([[1, 2, 0], [10, 0, 0], [4, 4, 4]])
    store = position_labels.MaskLabels(np.empty(3, object), 3, counts)
    found = position_labels.count_classes({"mask": np.array([0, -1, 2])}, {"mask": store})
    assert found["mask"].tolist() == [5, 6, 4]


def test_masks_that_nobody_read_are_not_counted():
    store = position_labels.MaskLabels(np.empty(3, object), 3)
    with pytest.raises(ValueError, match="labels of positions were not read"):
        position_labels.count_classes({"mask": np.arange(3)}, {"mask": store})
