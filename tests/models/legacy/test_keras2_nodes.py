import json

import pytest

from tf_finetune.models.legacy import keras2_nodes, keras2_values

X, Y = keras2_values.tensor("x", 0, 0), keras2_values.tensor("y", 0, 0)


def _read(operation, first, *, inputs=2, constants=None, attr=None):
    node = {"name": "n", "op": operation, "input": ["i"] * inputs, "attr": attr or {}}
    config = {"node_def": json.dumps(node), "constants": constants or {}}
    return keras2_nodes.read_node(config, first)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((("Mul", X), {"constants": {"1": 2.0}}), ("math.multiply", [X], {"y": 2.0})),
        ((("Sub", X), {"constants": {"0": 1.0}}), ("math.subtract", [1.0], {"y": X})),
        ((("AddV2", [X, Y]), {}), ("math.add", [X], {"y": Y})),
        ((("Relu6", X), {"inputs": 1}), ("nn.relu6", [X], {})),
        (
            (("Mean", X), {"constants": {"1": [1, 2]}, "attr": {"keep_dims": {"b": True}}}),
            ("math.reduce_mean", [X], {"axis": [1, 2], "keepdims": True}),
        ),
        (
            (("ConcatV2", [X, Y]), {"inputs": 3, "constants": {"2": -1}}),
            ("concat", [[X, Y]], {"axis": -1}),
        ),
        (
            (("Pack", [X, Y]), {"attr": {"axis": {"i": "1"}}}),
            ("stack", [[X, Y]], {"axis": 1}),
        ),
        (
            (("Squeeze", X), {"inputs": 1, "attr": {"squeeze_dims": {"list": {"i": ["1"]}}}}),
            ("squeeze", [X], {"axis": [1]}),
        ),
        (
            (("Cast", X), {"inputs": 1, "attr": {"DstT": {"type": "DT_FLOAT"}}}),
            ("cast", [X], {"dtype": "float32"}),
        ),
        (
            (("Split", X), {"constants": {"0": 3}, "attr": {"num_split": {"i": "2"}}}),
            ("split", [X], {"num_or_size_splits": 2, "axis": 3}),
        ),
    ],
)
def test_nodes_become_functions(arguments, expected):
    positional, named = arguments
    assert _read(*positional, **named) == expected


def test_strided_slice_keeps_its_masks():
    function, first, keywords = _read(
        "StridedSlice",
        X,
        inputs=4,
        constants={"1": [0, 0], "2": [0, 1], "3": [1, 1]},
        attr={"begin_mask": {"i": "1"}, "end_mask": {"i": "1"}, "shrink_axis_mask": {"i": "2"}},
    )
    assert (function, first) == ("strided_slice", [X])
    assert keywords["begin"] == [0, 0]
    assert (keywords["begin_mask"], keywords["shrink_axis_mask"]) == (1, 2)
    assert keywords["new_axis_mask"] == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"node_def": "\x08\x01"}, "holds a graph node in a form that is no JSON."),
        ({"node_def": '{"op": "PyFunc"}'}, "is the TensorFlow operation 'PyFunc', which"),
    ],
)
def test_unknown_nodes_are_refused(config, reason):
    with pytest.raises(keras2_values.UntranslatableError) as caught:
        keras2_nodes.read_node(config, X)
    assert str(caught.value).startswith(reason)
