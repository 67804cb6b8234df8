import numpy as np
import pytest

from tf_finetune import head_kinds, specs
from tf_finetune.data import resampling

MULTICLASS = head_kinds.HeadInfo("animal", "multiclass", ("cat", "dog", "owl"))
MULTILABEL = head_kinds.HeadInfo("tags", "multilabel", ("a", "b", "c"))
REGRESSION = head_kinds.HeadInfo("price", "regression", ())
STRATA = np.repeat([0, 1, 2], [80, 15, 5])


def draw(strata=STRATA, *, seed=0, epoch=0):
    return resampling.draw_epoch(strata, seed=seed, epoch=epoch)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first = draw()
    assert first.shape == (100,) and first.dtype == np.int64
    assert draw().tolist() == first.tolist()
    assert draw(epoch=1).tolist() != first.tolist() != draw(seed=1).tolist()


def test_classes_come_evenly_everywhere():
    for epoch in range(5):
        classes = STRATA[draw(epoch=epoch)]
        assert np.abs(np.bincount(classes) - 100 / 3).max() <= 1
        for start in range(0, 90, 7):
            counts = np.bincount(classes[start : start + 9], minlength=3)
            assert counts.min() >= 2 and counts.max() <= 4


def test_a_class_is_used_up_before_it_comes_again():
    rows = np.concatenate([draw(epoch=epoch) for epoch in range(12)])
    for name, size in enumerate((80, 15, 5)):
        drawn = rows[STRATA[rows] == name]
        assert len(drawn) == 400
        for start in range(0, 400 - size + 1, size):
            assert len(set(drawn[start : start + size].tolist())) == size
    assert rows[STRATA[rows] == 2][:5].tolist() != rows[STRATA[rows] == 2][5:10].tolist()


def test_examples_without_label_come_once():
    strata = np.array([-1] * 6 + [0] * 10 + [1] * 4)
    places = []
    for epoch in range(3):
        rows = draw(strata, epoch=epoch)
        assert sorted(rows[rows < 6].tolist()) == list(range(6))
        assert np.bincount(strata[rows[rows >= 6]]).tolist() == [7, 7]
        places.append(np.flatnonzero(rows < 6).tolist())
    assert places[0] != places[1]
    assert sorted(draw(np.full(4, -1)).tolist()) == [0, 1, 2, 3]


def test_a_class_larger_than_an_epoch_and_a_class_alone():
    rows = draw(np.array([0] * 3000 + [5]))
    assert np.bincount((rows == 3000).astype(int)).tolist() in ([1500, 1501], [1501, 1500])
    assert sorted(draw(np.zeros(50, int), epoch=3).tolist()) == list(range(50))


def test_strata_are_classes_or_the_rarest_of_several():
    labels = np.array([2, -1, 0], np.int32)
    assert resampling.find_strata(MULTICLASS, {"animal": labels}).tolist() == [2, -1, 0]
    binary = head_kinds.HeadInfo("label", "binary", ("no", "yes"))
    labels = np.array([[1.0], [np.nan], [0.0]], np.float32)
    assert resampling.find_strata(binary, {"label": labels}).tolist() == [1, -1, 0]
    nan = np.nan
    labels = np.array(
        [[1, 1, 0], [1, 0, 0], [0, 0, 0], [nan, nan, nan], [1, 0, 1], [0, 1, 1], [nan, 1, 0]],
        np.float32,
    )
    found = resampling.find_strata(MULTILABEL, {"tags": labels})
    assert found.tolist() == [0, 0, 3, -1, 2, 2, 1]


def test_the_head_that_is_drawn_by():
    assert resampling.find_head((), (MULTILABEL, MULTICLASS)) is MULTICLASS
    assert resampling.find_head((), (REGRESSION, MULTILABEL)) is MULTILABEL
    other = specs.HeadSpec(name="tags", class_weight="balanced")
    assert resampling.find_head((other,), (MULTILABEL, MULTICLASS)) is MULTICLASS
    with pytest.raises(specs.SpecError) as caught:
        resampling.find_head((), (REGRESSION,))
    assert caught.value.problems == (
        "--resample=balanced draws classes evenly, and no head has classes. Leave it out.",
    )
    with pytest.raises(specs.SpecError) as caught:
        resampling.find_head((other,), (MULTILABEL,))
    assert caught.value.problems == (
        "--resample=balanced and class_weight=balanced of --head=name=tags both make up for rare "
        "classes. Leave one of them out.",
    )


def test_repeats_are_counted_in_order():
    rows = np.array([3, 1, 3, 3, 0, 1])
    assert resampling.count_repeats(rows).tolist() == [0, 0, 1, 2, 0, 1]
    assert resampling.count_repeats(rows[:0]).tolist() == []
