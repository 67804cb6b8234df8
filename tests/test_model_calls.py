import keras
import numpy as np
import tensorflow as tf

from tf_finetune import model_calls


def make_model():
    inputs = {
        "age": keras.Input((2,), name="age"),
        "id": keras.Input((1,), dtype="int32", name="id"),
    }
    joined = keras.layers.Concatenate()([inputs["age"], keras.ops.cast(inputs["id"], "float32")])
    dropped = keras.layers.Dropout(0.9, dtype="float16")(joined)
    return keras.Model(inputs, {"sum": keras.ops.sum(dropped, axis=-1, keepdims=True)})


def test_a_model_is_compiled_once_and_does_not_train():
    compute = model_calls.compile_model(make_model())
    for count in (1, 3):
        inputs = {"age": tf.ones((count, 2)), "id": tf.fill((count, 1), 3)}
        logits = compute(inputs)["sum"]
        assert logits.dtype == tf.float32
        np.testing.assert_array_equal(logits, np.full((count, 1), 5.0))
    assert compute.experimental_get_tracing_count() == 1


def test_inputs_as_the_caller_says():
    inputs = {"image": keras.Input((None, None, 1), name="image")}
    model = keras.Model(inputs, {"size": keras.layers.Flatten()(inputs["image"][:, :2, :2])})
    taken = {"image": tf.TensorSpec([None, 2, 2, 1], tf.float32)}
    compute = model_calls.compile_model(model, taken)
    assert compute({"image": tf.ones((5, 2, 2, 1))})["size"].shape == (5, 4)
    assert compute.input_signature[0]["image"].shape.as_list() == [None, 2, 2, 1]
