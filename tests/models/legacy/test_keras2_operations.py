import pytest

pytest.importorskip("tf_keras")
import tensorflow as tf
import tf_keras

from tests.models import keras2_files
from tf_finetune.models.legacy import keras2_operations, keras2_values, tensor_operations

K = tf_keras.backend

# Functions of tensors that a functional model of Keras 2 stores node by node.
FUNCTIONS = {
    "scaled": lambda x: x / 127.5 - 1.0,
    "one_minus": lambda x: 1.0 - x,
    "divided": lambda x: 2.0 / x + x / 2,
    "sliced": lambda x: x[:, ::2, 1:, None, ..., 0],
    "strided": lambda x: x[:, ::2, 1:],
    "last": lambda x: x[..., -1],
    "concat": lambda x: tf.concat([x, x], -1),
    "relu6": lambda x: tf.nn.relu6(x) * 2.0 + x,
    "clipped": lambda x: tf.clip_by_value(x, 0.2, 0.7),
    "dynamic_shape": lambda x: tf.reshape(x, (tf.shape(x)[0], -1)),
    "integer_arithmetic": lambda x: (tf.shape(x)[1] * 2) / 3,
    "power": lambda x: x**2.0 % 0.3 - x // 0.3,
    "mean": lambda x: tf.reduce_mean(x, axis=[1, 2], keepdims=True),
    "stack": lambda x: tf.stack([x, 2.0 * x], axis=1),
    "split": lambda x: tf.split(x, 3, axis=-1),
    "unstack": lambda x: tf.unstack(x, axis=1)[2],
    "cast": lambda x: tf.cast(x > 0.5, tf.float32),
    "logic": lambda x: tf.cast((x > 0.2) & (x < 0.6), "int32"),
    "transpose": lambda x: tf.transpose(x, [0, 2, 1, 3]),
    "where": lambda x: tf.where(x > 0.5, x, 0.0),
    "squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
    "matmul": lambda x: tf.matmul(x, x, transpose_b=True),
    "constants": lambda x: (x - [1.0, 2.0, 3.0]) * tf.constant([1.0, 2.0, 3.0]),
    "softmax": lambda x: tf.nn.softmax(x) + tf.nn.softmax(x, axis=1),
    "activations": lambda x: tf.nn.silu(x) + tf.nn.gelu(x) + tf.sigmoid(x) + tf.tanh(x),
    "hard_sigmoid": lambda x: tf_keras.activations.hard_sigmoid(x * 4.0 - 2.0),
    "resize": lambda x: tf.image.resize(x, (4, 5), method="nearest"),
    "norm": lambda x: tf.math.l2_normalize(x, -1) + tf.linalg.norm(x, axis=1, keepdims=True),
    "reduce": lambda x: tf.reduce_max(x, 1) - tf.reduce_sum(x, 1),
    "elementwise": lambda x: tf.exp(x) + tf.math.rsqrt(x) + tf.abs(x) + tf.math.log(x),
    "pool": lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID") + tf.nn.avg_pool2d(x, 2, 2, "SAME"),
    "maximum": lambda x: tf.maximum(x, 0.4) - tf.minimum(x, 0.6),
    "tile": lambda x: tf.tile(x, [1, 2, 1, 1]),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0], [2, 0]]),
    "depth": lambda x: tf.nn.depth_to_space(tf.concat([x] * 4, -1), 2),
    "space": lambda x: tf.nn.space_to_depth(x, 2),
    "bias": lambda x: tf.stop_gradient(tf.nn.bias_add(x, [1.0, 2.0, 3.0])),
    "top": lambda x: tf.math.top_k(x, 2)[0],
    "gather": lambda x: tf.gather(x, [0, 1], axis=1),
    "like": lambda x: tf.ones_like(x) + tf.zeros_like(x),
    "one_hot": lambda x: tf.one_hot(tf.cast(x * 3.0, tf.int32)[..., 0], 4),
    "boolean_mask": lambda x: tf.boolean_mask(x, [True, False] * 4, axis=1),
    "gather_nd": lambda x: tf.gather_nd(x, [[0, 1], [1, 2]]),
    "embedding_lookup": lambda x: tf.nn.embedding_lookup(x, [1, 0]),
    "lookup_in_a_constant": lambda x: tf.nn.embedding_lookup(
        tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), tf.argmax(x, -1)
    ),
    "lookup_in_parts": lambda x: tf.nn.embedding_lookup(
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], tf.argmax(x, -1)
    ),
    "gather_from_a_constant": lambda x: tf.gather(tf.eye(3), tf.argmax(x, -1)),
    "constant_first": lambda x: tf.pow(2.0, x) + tf.constant([1.0, 2.0, 3.0]) / x - (4.0 - x),
    "constants_in_lists": lambda x: tf.stack([tf.concat([tf.ones((2, 8, 6, 1)), x], -1)] * 2),
    "matmul_with_a_constant": lambda x: tf.matmul(tf.ones((2, 8, 4, 6)), x),
    "where_constant": lambda x: tf.where([True, False, True], x, [7.0, 8.0, 9.0]),
    "conv1d": lambda x: tf.nn.conv1d(x, [[[1.0, 2.0], [0.5, 0.1], [0.3, 3.0]]] * 2, 1, "SAME"),
    "windows": lambda x: tf.nn.pool(x, [2, 2], "MAX", [2, 2]),
    "cross_entropy": lambda x: tf.nn.sigmoid_cross_entropy_with_logits(x * 0.5, x),
    "bincount": lambda x: tf.math.bincount(tf.cast(x * 3.0, tf.int32), minlength=5, maxlength=5),
    "inverse": lambda x: tf.linalg.inv(tf.eye(3) * 9.0 + tf.matmul(x, x, transpose_a=True)),
    "determinant": lambda x: tf.linalg.det(tf.matmul(x, x, transpose_a=True)),
    "bits": lambda x: tf.bitwise.bitwise_and(tf.cast(x * 9.0, tf.int32), 3),
    "backend": lambda x: K.batch_flatten(K.repeat_elements(K.sqrt(x), 2, 1)),
}


def _model(function):
    inputs = tf_keras.Input((8, 6, 3))
    return tf_keras.Model(inputs, function(inputs))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_computes_what_tf_keras_says(tmp_path, name):
    saves_again = name in ("sliced", "dynamic_shape", "split", "where", "constants", "top")
    model = _model(FUNCTIONS[name])
    keras2_files.check_loads(model, tmp_path / "model.h5", saves_again=saves_again)


@pytest.mark.parametrize("name", ["strided", "dynamic_shape", "constants", "where"])
def test_function_in_an_archive(tmp_path, name):
    keras2_files.check_loads(_model(FUNCTIONS[name]), tmp_path / "model.keras", saves_again=False)


def test_scaling_becomes_a_layer_that_preprocessing_recognizes(tmp_path):
    loaded = keras2_files.check_loads(_model(FUNCTIONS["scaled"]), tmp_path / "model.h5")
    first, second = loaded.layers[1:]
    assert (type(first).__name__, first.scale) == ("Rescaling", pytest.approx(1 / 127.5))
    assert (type(second).__name__, second.scale, second.offset) == ("Rescaling", 1.0, -1.0)


def test_every_function_of_the_table_exists():
    for name in keras2_operations.FUNCTIONS:
        assert callable(tensor_operations.TensorOperation(name, {"args": [], "kwargs": {}}).call)


def test_unknown_function_is_refused_with_its_layer(tmp_path):
    model = _model(lambda x: tf.nn.dropout(x, 0.1))
    model.save(tmp_path / "model.h5")
    name = model.layers[-1].name
    assert keras2_files.refusal(tmp_path / "model.h5") == (
        f"layer '{name}' calls the TensorFlow function 'nn.dropout', which this program does not "
        "know. Build the model without it and save it again."
    )


def _translate(function, first, **keywords):
    stored = {"class_name": "TFOpLambda", "config": {"function": function, "dtype": "float32"}}
    layer, tensors = keras2_operations.translate_operation(
        stored, name="op", first=first, keywords=keywords
    )
    return layer["class_name"], layer["config"], tensors


def test_plain_layers_stand_in_only_where_they_compute_the_same():
    x, y = keras2_values.tensor("x", 0, 0), keras2_values.tensor("y", 0, 0)
    assert _translate("math.subtract", 1.0, y=x)[1:] == (
        {"name": "op", "dtype": "float32", "scale": -1.0, "offset": 1.0},
        x,
    )
    for second in (y, 2, [1.0, 2.0], True):
        assert _translate("math.multiply", x, y=second)[0] == "TensorOperation"
    assert _translate("math.truediv", 1.0, y=x)[0] == "TensorOperation"
    assert _translate("math.truediv", x, y=0.0)[0] == "TensorOperation"
    assert _translate("nn.softmax", x, axis=1)[0] == "TensorOperation"
    assert _translate("concat", [x, y], axis=-1) == (
        "Concatenate",
        {"name": "op", "dtype": "float32", "axis": -1},
        [x, y],
    )


def test_tensors_become_places():
    x, y = keras2_values.tensor("x", 0, 0), keras2_values.tensor("y", 1, 2)
    class_name, config, tensors = _translate("where", x, x=y, y=[y, 1])
    assert class_name == "TensorOperation"
    assert tensors == [x, y]
    assert config["arguments"] == {
        "args": [{"tensor": 0}],
        "kwargs": {"x": {"tensor": 1}, "y": [{"tensor": 1}, 1]},
    }


@pytest.mark.parametrize(
    ("function", "first"),
    [("einsum", "abc,acd->abd"), ("__operators__.ne", keras2_values.tensor("x", 0, 0))],
)
def test_calls_that_keras_stored_without_their_tensors(function, first):
    with pytest.raises(keras2_values.UntranslatableError) as caught:
        _translate(function, first)
    assert str(caught.value) == (
        "cannot be rebuilt: Keras stored it without the tensors that it is called with. Build the "
        "model with a layer in its place and save it again."
    )


def test_a_constant_among_the_inputs_of_a_layer_is_refused_by_its_name(tmp_path):
    inputs = tf_keras.Input((3,))
    added = tf_keras.layers.Add(name="plus")([inputs, tf.constant([[1.0, 2.0, 3.0]])])
    path = tmp_path / "model.h5"
    tf_keras.Model(inputs, added).save(path)
    assert keras2_files.refusal(path) == (
        "layer 'plus' is called with a constant, which a layer of Keras 3 does not take. Build the "
        "model with a layer that holds the constant (Rescaling, Embedding) and save it again."
    )
