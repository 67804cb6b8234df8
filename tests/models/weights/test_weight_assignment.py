import keras
import numpy as np
import pytest

from tf_finetune import findings
from tf_finetune.models.stored import stored_model, stored_weights
from tf_finetune.models.weights import recurrent_weights, weight_assignment


class _Variable:
    def __init__(self, shape, trainable=True):
        self.shape = shape
        self.trainable = trainable


def _slots(*described):
    return [
        weight_assignment.Slot(_Variable(shape, trainable), owner, name)
        for owner, name, shape, trainable in described
    ]


def _stored(*paths):
    return [(path, np.full((2,), number)) for number, path in enumerate(paths)]


def _numbers(pairs):
    return [int(value.flat[0]) for _, value in pairs]


TWO_NORMS = [
    (owner, name, (2,), name in ("gamma", "beta"))
    for owner in ("a", "b")
    for name in ("gamma", "beta", "moving_mean", "moving_variance")
]


def test_names_decide_where_they_can():
    stored = _stored(
        "b/gamma:0",
        "b/beta:0",
        "a/gamma:0",
        "a/beta:0",
        "b/moving_mean:0",
        "b/moving_variance:0",
        "a/moving_mean:0",
        "a/moving_variance:0",
    )
    pairs = weight_assignment.match_weights(_slots(*TWO_NORMS), stored)
    assert _numbers(pairs) == [2, 3, 6, 7, 0, 1, 4, 5]


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        # Layer by layer, as Keras 1 and early 2 wrote.
        (["gamma", "beta", "moving_mean", "moving_variance"] * 2, [0, 1, 2, 3, 4, 5, 6, 7]),
        # Trained first, as later versions.
        (
            ["gamma", "beta"] * 2 + ["moving_mean", "moving_variance"] * 2,
            [0, 1, 2, 3, 4, 5, 6, 7],
        ),
    ],
)
def test_orders_of_versions_that_wrote_no_layer_names(leaves, expected):
    stored = _stored(*(f"x_{number}/{leaf}:0" for number, leaf in enumerate(leaves)))
    pairs = weight_assignment.match_weights(_slots(*TWO_NORMS), stored)
    assert _numbers(pairs) == expected
    assert [slot.name for slot, _ in pairs] == leaves


def test_order_within_a_layer_follows_names():
    slots = _slots(("n", "gamma", (2,), True), ("n", "beta", (2,), True))
    pairs = weight_assignment.match_weights(slots, _stored("n_1/beta_3:0", "n_1/gamma_3:0"))
    assert {slot.name: int(value[0]) for slot, value in pairs} == {"gamma": 1, "beta": 0}


def test_generator_states_are_left_out():
    slots = _slots(("n", "kernel", (2,), True))
    pairs = weight_assignment.match_weights(slots, _stored("n/StateVar:0", "n/kernel:0"))
    assert _numbers(pairs) == [1]


def test_number_and_shape_must_agree():
    slots = _slots(("n", "kernel", (2,), True), ("n", "bias", (3,), True))
    assert weight_assignment.match_weights(slots, _stored("n/kernel:0")) is None
    assert weight_assignment.match_weights(slots, _stored("n/kernel:0", "n/bias:0")) is None


def _cudnn(kernel, recurrent, gates):
    """To the layout of cuDNN, see tf_keras's _convert_rnn_weights."""
    kernels = [part.T.reshape(part.shape) for part in np.split(kernel, gates, axis=1)]
    kernels = [
        np.ascontiguousarray(part.T).reshape(part.shape) for part in np.split(kernel, gates, 1)
    ]
    return np.hstack(kernels), np.hstack([part.T for part in np.split(recurrent, gates, axis=1)])


@pytest.mark.parametrize(("gates", "shape"), [(4, (12,)), (3, (2, 9))])
def test_cudnn_cells_are_converted(gates, shape):
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(5, 3 * gates))
    recurrent = generator.normal(size=(3, 3 * gates))
    biases = generator.normal(size=(2, 3 * gates))
    stored = [*_cudnn(kernel, recurrent, gates), biases.reshape(-1)]
    names = ("kernel", "recurrent_kernel", "bias")
    shapes = (kernel.shape, recurrent.shape, shape)
    converted = recurrent_weights.convert_cells(list(zip(names, shapes, stored, strict=True)))
    expected_bias = biases.sum(axis=0) if gates == 4 else biases
    for value, expected in zip(converted, (kernel, recurrent, expected_bias), strict=True):
        np.testing.assert_allclose(value, expected)


def test_other_shapes_are_no_cells():
    weights = [("kernel", (2, 3), np.zeros((3, 2)))]
    assert recurrent_weights.convert_cells(weights) is None


def _model():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    )


CONFIG = {
    "class_name": "Sequential",
    "config": {
        "name": "m",
        "layers": [
            {"class_name": "Dense", "config": {"name": "a"}},
            {"class_name": "Dense", "config": {"name": "b"}},
        ],
    },
}


def _assign(groups):
    layers = [
        stored_weights.StoredLayer(
            name, tuple((f"{name}/{leaf}:0", np.ones(shape)) for leaf, shape in weights)
        )
        for name, weights in groups.items()
    ]
    stored = stored_model.StoredModel(CONFIG, "2", "tensorflow", "HDF5")
    weight_assignment.assign_weights(_model(), layers, stored, where="m.h5")


A = [("kernel", (4, 3)), ("bias", (3,))]
B = [("kernel", (3, 3)), ("bias", (3,))]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (
            {"a": A, "b": [("kernel", (3, 4)), ("bias", (4,))]},
            "the weights of layer 'b' do not fit its configuration: expected kernel (3, 3), the "
            "file holds kernel (3, 4). The file is damaged.",
        ),
        (
            {"a": A, "b": B[:1]},
            "the weights of layer 'b' do not fit its configuration: expected kernel (3, 3) and "
            "bias (3,), the file holds kernel (3, 3). The file is damaged.",
        ),
        (
            {"a": A},
            "holds no weights of layer 'b', which expects kernel (3, 3) and bias (3,). The file is "
            "incomplete: copy or download it again.",
        ),
        (
            {"a": A, "b": B, "c": B},
            "holds weights of layer 'c', kernel (3, 3) and bias (3,), which its own configuration "
            "does not have. The file is damaged.",
        ),
    ],
)
def test_what_does_not_fit_is_named(groups, reason):
    with pytest.raises(findings.RefusedError) as caught:
        _assign(groups)
    assert str(caught.value) == f"m.h5: {reason}"


def test_unnamed_models_come_in_order():
    _assign({"a": A, "dense_7": B})
