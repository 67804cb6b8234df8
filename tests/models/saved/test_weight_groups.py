import numpy as np
import tensorflow as tf

from tf_finetune.models.saved import variable_groups, weight_groups


def stored(*names, dtype="float32"):
    return [variable_groups.StoredVariable(name, (2,), dtype, trainable=True) for name in names]


def grouped(*names):
    groups = variable_groups.group_variables(stored(*names))
    return [(group.name, group.indices) for group in groups]


def test_one_group_per_innermost_scope_in_the_order_of_reading():
    names = ("net/conv1/kernel", "net/bn/gamma", "net/conv1/bias", "net/bn/moving_mean", "fc/w")
    assert grouped(*names) == [("net.conv1", (0, 2)), ("net.bn", (1, 3)), ("fc", (4,))]


def test_names_without_scopes_are_put_together_as_layers_write_them():
    names = ("kernel", "bias", "kernel", "gamma", "beta", "moving_mean", "moving_variance", "beta")
    assert [indices for _, indices in grouped(*names)] == [(0, 1), (2,), (3, 4, 5, 6), (7,)]
    assert [name for name, _ in grouped(*names)] == ["kernel", "kernel_1", "gamma", "beta"]
    assert [indices for _, indices in grouped("a", "b")] == [(0,), (1,)]


def test_group_names_are_names_of_layers_and_unique():
    names = [name for name, _ in grouped("a/b/w", "a.b/w", "é ü/w", "a.b_1/w")]
    assert names == ["a.b", "a.b_1", "é_ü", "a.b_1_1"]


def test_moving_statistics_make_a_batch_normalization():
    assert variable_groups.is_batch_norm(stored("x/beta", "x/moving_mean", "x/moving_variance"))
    assert variable_groups.is_batch_norm(stored("x/running_mean", "x/running_var"))
    assert not variable_groups.is_batch_norm(stored("x/gamma", "x/beta"))


def make_group(name, *variables, dtype="float32"):
    held = [tf.Variable([1, 2], dtype=dtype) for _ in variables]
    described = {
        "name": name,
        "trainable": True,
        "variables": [
            {"name": variable, "shape": [2], "dtype": dtype, "trainable": dtype == "float32"}
            for variable in variables
        ],
    }
    group = weight_groups.make_group(described)
    group.hold(held)
    return group, held


def test_a_group_holds_the_very_variables_of_the_graph():
    group, (kernel, _) = make_group("conv", "conv/kernel", "conv/bias")
    group.members[0].assign([5.0, 6.0])
    np.testing.assert_array_equal(kernel.numpy(), [5, 6])
    kernel.assign([7.0, 8.0])
    np.testing.assert_array_equal(group.get_weights()[0], [7, 8])
    group.trainable = False
    assert group.trainable_weights == []
    assert [variable.path for variable in group.weights] == ["conv/kernel", "conv/bias"]


def test_the_table_counts_groups_with_floats():
    conv, _ = make_group("conv", "conv/kernel")
    steps, _ = make_group("steps", "steps/count", dtype="int64")
    norm, _ = make_group("norm", "norm/moving_mean", "norm/moving_variance")
    table = weight_groups.make_table([steps, conv, norm])
    assert table.unit == "weight groups"
    assert [(row.number, row.name, row.num_parameters) for row in table.rows] == [
        (1, "conv", 2),
        (2, "norm", 4),
    ]
    assert [row.is_batch_norm for row in table.rows] == [False, True]
