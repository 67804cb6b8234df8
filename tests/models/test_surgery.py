import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings
from tf_finetune.models import surgery

L = keras.layers


def _refusal(model, **arguments) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        surgery.cut_model(model, **arguments)
    (problem,) = caught.value.problems
    assert "\n" not in problem.message
    return problem.message


def _pixels(size=12, channels=3):
    return np.random.default_rng(0).uniform(0, 1, (3, size, size, channels)).astype(np.float32)


def test_old_classifier_and_pooling_are_cut_off_and_features_stay_equal():
    model = tiny.make_classifier()
    before = keras.Model(model.inputs[0], model.get_layer("relu_b").output)(_pixels())
    cut = surgery.cut_model(model)
    np.testing.assert_array_equal(cut.model(_pixels()), before)
    assert cut.pooling == "avg"
    assert cut.dropped == ("pool", "drop", "classifier")
    assert cut.reason == (
        "The old classifier 'classifier' (Dense, 5 units) and what follows it are cut off."
    )
    assert cut.outputs == (("classifier", (None, 5)),)
    assert cut.model.name == "tiny"


def test_teachable_machine_file_keeps_the_hidden_layer_of_its_head():
    base = keras.Sequential(
        [tiny.make_classifier(), L.Reshape((1, 1, 5)), L.GlobalAveragePooling2D()], name="base"
    )
    head = keras.Sequential(
        [L.Dense(100, activation="relu", name="hidden"), L.Dense(4, activation="softmax")]
    )
    model = keras.Sequential([keras.Input((12, 12, 3)), base, head])
    cut = surgery.cut_model(model)
    assert cut.pooling == "none"
    assert cut.model.output.shape == (None, 100)
    assert cut.model.layers[-1].name == "hidden"
    assert len(cut.dropped) == 1


def test_headless_model_is_kept():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3, name="conv")(inputs))
    cut = surgery.cut_model(model)
    assert cut.pooling == "avg"
    assert cut.dropped == ()
    assert cut.reason == "No old classifier at the end: every layer is kept."
    assert cut.model.inputs[0].shape == (None, None, None, 3)


def test_headless_model_with_pooling_gives_its_map():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.GlobalMaxPooling2D(name="pool")(L.Conv2D(4, 3)(inputs)))
    cut = surgery.cut_model(model)
    assert cut.pooling == "max"
    assert cut.dropped == ("pool",)
    assert cut.reason == "No old classifier at the end: every layer but the final pooling is kept."


def test_cut_layer_keeps_that_layer_whatever_it_is():
    cut = surgery.cut_model(tiny.make_classifier(), cut_layer="drop")
    assert cut.model.layers[-1].name == "drop"
    assert cut.pooling == "none"
    assert cut.dropped == ("classifier",)
    assert cut.reason == "Cut behind 'drop', as --cut_layer says."


def test_cut_layer_may_name_a_nested_model():
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv")], name="inner")
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, L.Flatten(), L.Dense(7)])
    cut = surgery.cut_model(model, cut_layer="inner")
    assert [layer.name for layer in cut.model.layers[1:]] == ["conv"]


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_requested_pooling_replaces_the_models_own(pooling):
    cut = surgery.cut_model(tiny.make_classifier(), pooling=pooling)
    assert cut.pooling == pooling
    assert cut.model.output.shape == (None, 6, 6, 8)


def test_pooling_none_keeps_the_models_own():
    cut = surgery.cut_model(tiny.make_classifier(), pooling="none")
    assert cut.pooling == "none"
    assert cut.model.layers[-1].name == "pool"


def test_flattened_features_are_flattened_by_the_heads():
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(5, activation="softmax")]
    )
    cut = surgery.cut_model(model)
    assert cut.pooling == "flatten"
    assert cut.model.output.shape == (None, 6, 6, 4)


def test_unknown_cut_layer_names_the_nearest():
    assert _refusal(tiny.make_classifier(), cut_layer="relu_c") == (
        "--cut_layer: unknown layer 'relu_c'. Did you mean 'relu_b'? --mode=inspect lists all 9."
    )


def test_cut_layer_of_another_rank_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Reshape((64, 3), name="rows"), L.Dense(2)])
    assert _refusal(model, cut_layer="rows") == (
        "--cut_layer: the output of 'rows' has the shape (None, 64, 3). Expected a feature map, "
        "(batch, height, width, channels), or a vector, (batch, features)."
    )


def test_features_of_another_rank_are_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Reshape((64, 3), name="rows")])
    assert _refusal(model) == (
        "The features have the shape (None, 64, 3). Expected a feature map, (batch, height, width, "
        "channels), or a vector, (batch, features): choose a layer with --cut_layer."
    )


def test_pooling_of_a_vector_is_refused():
    assert _refusal(tiny.make_classifier(), cut_layer="pool", pooling="max") == (
        "--pooling=max expects a feature map. The features are a vector of the shape (None, 8): "
        "use --pooling=auto, or another --cut_layer."
    )


def test_pooling_none_of_a_map_is_refused():
    assert _refusal(tiny.make_classifier(), cut_layer="relu_b", pooling="none") == (
        "--pooling=none expects features that are a vector. They are a map of the shape "
        "(None, 6, 6, 8): use --pooling=auto, avg, max or flatten."
    )


def test_flatten_of_a_free_size_is_refused():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3)(inputs))
    assert _refusal(model, pooling="flatten") == (
        "--pooling=flatten expects a map of known size. The features have the shape "
        "(None, None, None, 4): use --pooling=avg, or a model with a fixed input shape."
    )


def _detector() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="conv")(inputs)
    return keras.Model(inputs, [L.Conv2D(2, 1, name="faces")(x), L.Conv2D(4, 1, name="boxes")(x)])


def test_several_outputs_need_a_cut_layer():
    assert _refusal(_detector()) == (
        "The model has 2 outputs ('faces', 'boxes'). Name the layer whose output the new heads "
        "should get with --cut_layer."
    )
    assert surgery.cut_model(_detector(), cut_layer="conv").dropped == ("faces", "boxes")


def test_several_inputs_are_refused():
    inputs = [keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")]
    assert _refusal(keras.Model(inputs, L.Add()(inputs))) == (
        "The model has 2 inputs ('left', 'right'). This version fine-tunes models of one image "
        "input or one string input, and of several inputs that each take a column of a table: "
        "(batch,), (batch, 1) or floats of (batch, columns), one image among them."
    )


def _image_and_columns():
    kind = keras.Input((), name="kind", dtype="int32")
    image, sizes = keras.Input((8, 8, 3), name="photo"), keras.Input((4,), name="sizes")
    x = L.GlobalAveragePooling2D(name="pool")(L.Conv2D(6, 1, name="conv")(image))
    x = L.Concatenate(name="both")([x, sizes, L.Embedding(3, 2, name="rows")(kind)])
    return keras.Model([kind, image, sizes], L.Dense(2, name="old")(x))


def test_of_an_image_and_columns_the_image_is_the_first_input():
    model = _image_and_columns()
    values = [np.array([1, 2]), np.ones((2, 8, 8, 3)), np.arange(8.0).reshape(2, 4)]
    expected = keras.Model(model.inputs, model.get_layer("both").output)(values)
    cut = surgery.cut_model(model)
    assert (cut.input_kind, cut.dropped, cut.pooling) == ("image", ("old",), "none")
    names = [tensor._keras_history.operation.name for tensor in cut.model.inputs]
    assert names == ["photo", "kind", "sizes"]
    np.testing.assert_array_equal(cut.model([values[1], values[0], values[2]]), expected)


@pytest.mark.parametrize(
    ("layer", "kind", "names"), [("conv", "image", ["photo"]), ("rows", "columns", ["kind"])]
)
def test_a_cut_may_leave_the_image_or_the_columns_alone(layer, kind, names):
    cut = surgery.cut_model(_image_and_columns(), cut_layer=layer)
    assert cut.input_kind == kind
    assert [tensor._keras_history.operation.name for tensor in cut.model.inputs] == names


TOKENS = (
    " If it takes token ids, put the tokenizer into the model: a TextVectorization layer before "
    "its first layer."
)


@pytest.mark.parametrize("shape", [(70,), (8, 8), (8, 8, 4), (8, 8, None)])
def test_input_that_is_no_image_is_refused(shape):
    # A vector of floats is one of columns, of whole numbers one of token ids.
    inputs = keras.Input(shape, dtype="int32" if len(shape) == 1 else "float32")
    assert _refusal(keras.Model(inputs, L.Identity()(inputs))) == (
        f"The model's input has the shape {(None, *shape)}. This version fine-tunes models of one "
        "image input, (batch, height, width, channels) with 1 or 3 channels, or of one string "
        f"input.{TOKENS if len(shape) == 1 else ''}"
    )


def test_channels_first_is_refused():
    inputs = keras.Input((3, 8, 3))
    layer = L.Conv2D(2, 1, data_format="channels_first", name="conv")
    assert _refusal(keras.Model(inputs, layer(inputs))) == (
        "Layer 'conv' is channels_first. This version fine-tunes models of one image input, "
        "(batch, height, width, channels)."
    )


def test_channels_first_explains_an_odd_shape():
    inputs = keras.Input((1, 28, 28))
    layer = L.Conv2D(2, 1, data_format="channels_first", name="conv")
    assert _refusal(keras.Model(inputs, layer(inputs))) == (
        "The model's input has the shape (None, 1, 28, 28). Its layer 'conv' is channels_first. "
        "This version fine-tunes models of one image input, (batch, height, width, channels) with "
        "1 or 3 channels, or of one string input."
    )


def test_half_precision_weights_are_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Conv2D(2, 1, dtype="float16", name="conv")(inputs))
    assert _refusal(model) == (
        "Weight 'conv/kernel' is stored as float16. Expected float32: save the model again with "
        "float32 weights."
    )


def test_model_without_a_graph_is_refused():
    assert _refusal(keras.Sequential([L.Dense(2)])) == (
        "The model is a Sequential without a fixed graph of layers. Expected a functional model, "
        "or a Sequential one that knows its input shape."
    )


def test_nothing_left_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(10)])
    assert _refusal(model) == (
        "Cutting off the old classifier leaves no layer. Expected layers before it."
    )
