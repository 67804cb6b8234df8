import numpy as np
import pytest
import tensorflow as tf

from tests import serving_models
from tf_finetune import head_kinds, serving_graph

SPEC = serving_models.make_spec()
HEADS = (serving_models.MULTICLASS, serving_models.BINARY, serving_models.MULTILABEL)


def trace(*heads, dtype: str = "float32"):
    model = serving_models.make_model(*heads, dtype=dtype)
    graph = serving_graph.make_serving_graph(model, SPEC, heads=heads)
    return model, graph


@pytest.fixture(scope="module")
def multiclass():
    return trace(serving_models.MULTICLASS)


@pytest.fixture(scope="module")
def three_heads():
    return trace(*HEADS)


def decode(names: tf.Tensor) -> list:
    return np.char.decode(names.numpy().astype(bytes), "utf-8").tolist()


def answer_logits(head: head_kinds.HeadInfo, logits) -> dict[str, tf.Tensor]:
    """Both outputs for chosen logits: a model whose head is a constant."""
    import keras

    image = keras.Input((SPEC.height, SPEC.width, 3), name="image")
    flat = keras.layers.Flatten()(image)
    outputs = keras.layers.Dense(len(logits[0]), use_bias=False, name="dense")(flat)
    model = keras.Model({"image": image}, {head.name: outputs})
    kernel = np.zeros(model.layers[-1].kernel.shape, np.float32)
    # Row i of the request lights up pixel i, whose weights are the logits of row i.
    kernel[: len(logits)] = logits
    model.layers[-1].kernel.assign(kernel)
    pixels = np.eye(len(logits), len(kernel), dtype=np.float32)
    graph = serving_graph.make_serving_graph(model, SPEC, heads=[head])
    function = graph.signatures["serving_default"]
    return function(image=tf.constant(pixels.reshape(-1, SPEC.height, SPEC.width, 3)))


def test_both_signatures_give_the_models_probabilities(multiclass):
    head = serving_models.MULTICLASS
    model, graph = multiclass
    pixels = serving_models.make_pixels(5)

    from_pixels = graph.signatures["serving_default"](image=tf.constant(pixels, tf.float32))
    from_bytes = graph.signatures["serve_bytes"](
        image_bytes=tf.constant(serving_models.encode_pngs(pixels))
    )

    expected = serving_models.model_probabilities(model, pixels, head)
    assert len({tuple(row) for row in expected.round(3)}) == 5, "the model ignores its input"
    for outputs in (from_pixels, from_bytes):
        np.testing.assert_allclose(outputs["probabilities"].numpy(), expected, atol=1e-6)
        assert decode(outputs["classes"]) == [head.classes[row.argmax()] for row in expected]


def test_images_of_any_size_share_a_request(multiclass):
    _, graph = multiclass
    images = [
        serving_models.encode_pngs(serving_models.make_pixels(1, size=size))[0]
        for size in ((12, 12), (40, 9), (3, 30))
    ]

    together = graph.signatures["serve_bytes"](image_bytes=tf.constant(images))
    for row, image in enumerate(images):
        alone = graph.signatures["serve_bytes"](image_bytes=tf.constant([image]))
        np.testing.assert_allclose(
            together["probabilities"][row], alone["probabilities"][0], atol=1e-6
        )


def test_inference_mode_has_neither_dropout_nor_batch_statistics(multiclass):
    _, graph = multiclass
    pixels = tf.constant(serving_models.make_pixels(4), tf.float32)
    function = graph.signatures["serving_default"]

    batch = function(image=pixels)["probabilities"]

    np.testing.assert_array_equal(batch, function(image=pixels)["probabilities"])
    for row in range(4):
        alone = function(image=pixels[row : row + 1])["probabilities"]
        np.testing.assert_allclose(alone[0], batch[row], atol=1e-6)


def test_later_training_does_not_reach_the_graph():
    model, graph = trace(serving_models.MULTICLASS)
    pixels = tf.constant(serving_models.make_pixels(2), tf.float32)
    before = graph.signatures["serving_default"](image=pixels)["probabilities"].numpy()

    for weight in model.weights:
        weight.assign(weight + 1.0)

    after = graph.signatures["serving_default"](image=pixels)["probabilities"].numpy()
    np.testing.assert_array_equal(before, after)


def test_each_weight_is_held_once(three_heads):
    model, graph = three_heads

    sizes = [int(tf.size(variable)) for variable in graph.module.variables]
    assert len(sizes) == len(model.variables)
    assert sum(sizes) == sum(int(np.prod(variable.shape)) for variable in model.variables)


def test_several_heads_have_outputs_of_their_own(three_heads):
    model, graph = three_heads
    pixels = serving_models.make_pixels(3)

    outputs = graph.signatures["serving_default"](image=tf.constant(pixels, tf.float32))

    assert sorted(outputs) == [
        "label_classes",
        "label_probabilities",
        "sharp_classes",
        "sharp_probabilities",
        "tags_classes",
        "tags_probabilities",
    ]
    for head in HEADS:
        expected = serving_models.model_probabilities(model, pixels, head)
        received = outputs[f"{head.name}_probabilities"].numpy()
        np.testing.assert_allclose(received, expected, atol=1e-6)


def test_binary_gives_both_probabilities_and_obeys_the_threshold():
    logits = [[-2.0], [0.0], [0.5], [1.0], [100.0], [-100.0]]
    head = head_kinds.HeadInfo("label", "binary", ("no", "yes"), thresholds=(0.6,))

    outputs = answer_logits(head, logits)

    positive = 1 / (1 + np.exp(-np.array(logits)))
    np.testing.assert_allclose(
        outputs["probabilities"].numpy(), np.hstack([1 - positive, positive]), atol=1e-6
    )
    # sigmoid(0.5) = 0.622, sigmoid(0) = 0.5
    assert decode(outputs["classes"]) == ["no", "no", "yes", "yes", "yes", "no"]
    # 1 - p would be 0 here.
    assert outputs["probabilities"].numpy()[4, 0] == pytest.approx(np.exp(-100.0), rel=1e-3)


def test_threshold_itself_is_positive():
    head = head_kinds.HeadInfo("label", "binary", ("no", "yes"), thresholds=(0.5,))

    assert decode(answer_logits(head, [[0.0]])["classes"]) == ["yes"]


def test_multilabel_rows_hold_the_classes_reached_then_empty_strings():
    head = head_kinds.HeadInfo(
        "label", "multilabel", ("a", "b", "c", "d"), thresholds=(0.5, 0.5, 0.9, 0.1)
    )
    logits = [
        [9.0, -9.0, 9.0, -9.0],
        [-9.0, -9.0, -9.0, -9.0],
        [9.0, 9.0, 9.0, 9.0],
        [-9.0, 9.0, 2.0, -2.0],  # sigmoid(2) = 0.881, sigmoid(-2) = 0.119
    ]

    outputs = answer_logits(head, logits)

    assert decode(outputs["classes"]) == [
        ["a", "c", "", ""],
        ["", "", "", ""],
        ["a", "b", "c", "d"],
        ["b", "d", "", ""],
    ]
    np.testing.assert_allclose(
        outputs["probabilities"].numpy(), 1 / (1 + np.exp(-np.array(logits))), atol=1e-6
    )


def test_class_names_are_utf8_in_any_script():
    names = ("größe", "猫", "صقر", "a b", "c,d", "🦋")
    head = head_kinds.HeadInfo("label", "multiclass", names)

    outputs = answer_logits(head, 9 * np.eye(6, dtype=np.float32))

    assert decode(outputs["classes"]) == list(names)


@pytest.mark.parametrize("contents", [b"no image", b"", b"\xff\xd8\xff\xe0truncated"])
def test_one_bad_image_fails_the_request(contents, multiclass):
    _, graph = multiclass
    good = serving_models.encode_pngs(serving_models.make_pixels(2))

    with pytest.raises(tf.errors.InvalidArgumentError):
        graph.signatures["serve_bytes"](image_bytes=tf.constant([good[0], contents, good[1]]))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_backbone_gives_float32_probabilities(dtype):
    head = serving_models.MULTICLASS
    model, graph = trace(head, dtype=dtype)
    assert model.get_layer("backbone").layers[1].compute_dtype == dtype.removeprefix("mixed_")
    pixels = serving_models.make_pixels(3)

    outputs = graph.signatures["serving_default"](image=tf.constant(pixels, tf.float32))

    assert outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(
        outputs["probabilities"].numpy(),
        serving_models.model_probabilities(model, pixels, head),
        atol=1e-5,
    )


def test_half_precision_logits_meet_a_float32_softmax():
    import keras

    head = serving_models.MULTICLASS
    image = keras.Input((SPEC.height, SPEC.width, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(image)
    outputs = keras.layers.Dense(3, dtype="bfloat16", name="logits")(x)
    model = keras.Model({"image": image}, {head.name: outputs})
    graph = serving_graph.make_serving_graph(model, SPEC, heads=[head])
    pixels = serving_models.make_pixels(2)

    outputs = graph.signatures["serving_default"](image=tf.constant(pixels, tf.float32))

    total = outputs["probabilities"].numpy().sum(axis=-1)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)  # bfloat16 would be 0.004 off


def test_outputs_have_a_free_batch_dimension_and_a_known_width(three_heads):
    _, graph = three_heads

    for name, expected in {
        "serving_default": ("image", [None, SPEC.height, SPEC.width, 3], tf.float32),
        "serve_bytes": ("image_bytes", [None], tf.string),
    }.items():
        function = graph.signatures[name]
        (spec,) = function.structured_input_signature[0]
        assert (spec.name, spec.shape.as_list(), spec.dtype) == expected
        outputs = function.structured_outputs
        assert {key: value.shape.as_list() for key, value in outputs.items()} == {
            "label_classes": [None],
            "label_probabilities": [None, 3],
            "sharp_classes": [None],
            "sharp_probabilities": [None, 2],
            "tags_classes": [None, 4],
            "tags_probabilities": [None, 4],
        }


def test_numbers_are_served_as_they_are():
    outputs = answer_logits(serving_models.REGRESSION, [[3.5], [-700.0]])
    assert list(outputs) == ["predictions"]
    np.testing.assert_array_equal(outputs["predictions"].numpy(), [3.5, -700.0])
