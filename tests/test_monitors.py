import pytest

from tf_finetune import head_kinds, monitors, specs

ONE = (specs.HeadSpec(name="a"),)
TWO = (specs.HeadSpec(name="a", loss_weight=2.0), specs.HeadSpec(name="b", loss_weight=0.5))
INFOS = tuple(head_kinds.HeadInfo(name, "multiclass", ("x", "y")) for name in "ab")


def test_one_head_has_plain_names():
    logs = {"loss": 9.0, "cross_entropy": 0.5, "accuracy": 0.7, "val_cross_entropy": 0.6}
    assert monitors.read_logs(logs, ONE, INFOS[:1]) == {
        "cross_entropy": 0.5, "accuracy": 0.7, "val_cross_entropy": 0.6,
    }  # fmt: skip


def test_several_heads_are_summed_by_weight():
    logs = {"loss": 9.0, "a_cross_entropy": 0.5, "b_cross_entropy": 1.0, "a_accuracy": 0.7}
    assert monitors.read_logs(logs, TWO, INFOS) == {
        "a/cross_entropy": 0.5, "a/accuracy": 0.7, "b/cross_entropy": 1.0, "cross_entropy": 1.5,
    }  # fmt: skip


def test_known_monitors():
    monitors.check_monitor("accuracy", INFOS[:1])
    monitors.check_monitor("b/accuracy", INFOS)
    with pytest.raises(specs.SpecError) as caught:
        monitors.check_monitor("accuracy", INFOS)
    assert str(caught.value) == (
        "--monitor expects one of cross_entropy, a/cross_entropy, a/accuracy, b/cross_entropy, "
        "b/accuracy. Received 'accuracy'."
    )


AGE = head_kinds.HeadInfo("b", "regression", (), deviation=2.0)


def test_one_regression_head():
    logs = {"loss": 9.0, "mean_squared_error": 8.0, "mean_absolute_error": 2.0}
    assert monitors.read_logs(logs, ONE, (AGE,)) == {
        "mean_squared_error": 8.0, "mean_absolute_error": 2.0,
    }  # fmt: skip
    monitors.check_monitor("mean_absolute_error", (AGE,))


def test_regression_beside_classes_is_summed_in_its_variance():
    infos = (INFOS[0], AGE)
    assert monitors.name_total(infos) == "loss"
    logs = {"loss": 9.0, "a_cross_entropy": 0.5, "b_mean_squared_error": 8.0}
    assert monitors.read_logs(logs, TWO, infos) == {
        "a/cross_entropy": 0.5, "b/mean_squared_error": 8.0, "loss": 2.0,
    }  # fmt: skip
    with pytest.raises(specs.SpecError) as caught:
        monitors.check_monitor("cross_entropy", infos)
    assert str(caught.value) == (
        "--monitor expects one of loss, a/cross_entropy, a/accuracy, b/mean_squared_error, "
        "b/mean_absolute_error. Received 'cross_entropy'."
    )
    assert set(monitors.HIGHER_IS_BETTER) >= {"loss", "mean_squared_error"}
