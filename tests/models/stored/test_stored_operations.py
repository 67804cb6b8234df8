"""Every rule against what TensorFlow makes of the same call."""

import keras
import pytest

from tf_finetune.models.legacy import tensor_operations
from tf_finetune.models.stored import stored_operations, stored_shapes

X, Y = {"tensor": 0}, {"tensor": 1}
ELLIPSIS = {"class_name": "__ellipsis__"}
ALL = {"start": None, "stop": None, "step": None}
PART = {"start": 1, "stop": -2, "step": 2}
BACKWARDS = {**ALL, "step": -1}


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "shapes"),
    [
        ("math.truediv", [X], {"y": 127.5}, [(8, 8, 3)]),
        ("__operators__.add", [X, Y], {}, [(8, 8, 3), (1, 1, 3)]),
        ("math.subtract", [X, [1.0, 2.0, 3.0]], {}, [(8, 8, 3)]),
        ("nn.relu", [X], {}, [(8, 8, 3)]),
        ("clip_by_value", [X, 0.0, 6.0], {}, [(8, 8, 3)]),
        ("cast", [X], {"dtype": "float32"}, [(8, 8, 3)]),
        ("math.reduce_mean", [X], {"axis": [1, 2]}, [(8, 8, 3)]),
        ("math.reduce_mean", [X, [1, 2]], {"keepdims": True}, [(8, 8, 3)]),
        ("math.reduce_max", [X], {"axis": -1}, [(8, 8, 3)]),
        ("__operators__.getitem", [X], {"slice_spec": [ELLIPSIS, BACKWARDS]}, [(8, 8, 3)]),
        ("__operators__.getitem", [X], {"slice_spec": [ALL, PART, None, 0]}, [(8, 8, 3)]),
        ("__operators__.getitem", [X, [ALL, ELLIPSIS, -1]], {}, [(8, 6, 3)]),
        ("image.resize", [X], {"size": [4, 5], "method": "nearest"}, [(8, 8, 3)]),
        ("image.upsample", [X], {"factors": [2, 3], "method": "gaussian"}, [(8, 8, 3)]),
        ("reshape", [X, [-1, 64, 3]], {}, [(8, 8, 3)]),
        ("compat.v1.transpose", [X], {"perm": [0, 3, 1, 2]}, [(8, 6, 3)]),
    ],
)
def test_shape_of_a_function(function, args, kwargs, shapes):
    arguments = {"args": args, "kwargs": kwargs}
    layer = tensor_operations.TensorOperation(function, arguments)
    inputs = [keras.Input(shape) for shape in shapes]
    output = layer(inputs if len(inputs) > 1 else inputs[0])
    given = [(None, *shape) for shape in shapes]
    made = stored_shapes.output_shapes("TensorOperation", layer.get_config(), given)
    assert made == [tuple(output.shape)]


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        ("reshape", [X, [-1, 4]], {}),
        ("__operators__.getitem", [X], {"slice_spec": 0}),
        ("__operators__.getitem", [X], {"slice_spec": [PART]}),
        ("transpose", [X], {"perm": [1, 0, 2, 3]}),
        ("math.betainc", [X], {}),
        ("math.reduce_sum", [X], {}),
        ("math.reduce_sum", [X], {"axis": 0}),
    ],
)
def test_other_functions_are_unknown(function, args, kwargs):
    config = {"function": function, "arguments": {"args": args, "kwargs": kwargs}}
    assert stored_operations.output_shape(config, [(None, 8, 8, 3)]) is None
