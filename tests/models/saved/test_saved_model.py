"""Formats, choices and refusals of SavedModels; `test_saved_model_layer` trains them."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from tests.models import saved_models
from tf_finetune import findings, specs
from tf_finetune.models import loading
from tf_finetune.models.saved import restored_module, saved_model, saved_model_files

IMAGE = tf.TensorSpec([None, 4, 4, 3], tf.float32)


@pytest.fixture(scope="module")
def image_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "module"
    saved_models.write_image_module(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "module"
    saved_models.write_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preprocessor") / "module"
    saved_models.write_preprocessor(folder)
    return folder


def write(tmp_path, function, *specs, **options):
    saved_models.write_function(tmp_path / "module", function, *specs, **options)
    return str(tmp_path / "module")


def load_backbone(path, **options):
    return loading.load_backbone(specs.ModelSpec(model=str(path), **options))


def refusal(load, *args, **options):
    with pytest.raises(findings.RefusedError) as caught:
        load(*args, **options)
    return str(caught.value)


# --- whole models


def test_a_module_with_call_is_a_keras_model(image_module):
    model = loading.load_pretrained(str(image_module))
    images = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 3)).astype(np.float32)
    expected = tf.saved_model.load(str(image_module))(tf.constant(images), training=False)
    np.testing.assert_allclose(model(images), expected, rtol=1e-6)
    assert model.count_params() == 3 * 3 * 3 * 4 + 4 * 4 + 4 * 5
    assert len(model.trainable_weights) == 4


def test_dicts_go_in_and_come_out(encoder, preprocessor):
    tokens = loading.load_pretrained(str(preprocessor))(tf.constant(["good film", "awful"]))
    np.testing.assert_array_equal(
        tokens["input_word_ids"], [[2, 4, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    )
    outputs = loading.load_pretrained(str(encoder))(tokens)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "pooled_output": (2, 8),
        "sequence_output": (2, 6, 8),
    }


def test_unknown_ranks_take_any_tensor_and_load_again(tmp_path):
    path = write(tmp_path, lambda x: {"y": 2 * x}, tf.TensorSpec(None, tf.float32))
    model = loading.load_pretrained(path)
    model.save(tmp_path / "again.keras")
    for opened in (model, keras.saving.load_model(tmp_path / "again.keras")):
        np.testing.assert_array_equal(opened(tf.constant([1.0, 2.0]))["y"], [2, 4])
        np.testing.assert_array_equal(opened(tf.constant([[3.0]]))["y"], [[6]])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_takes_any_number_of_examples(tmp_path, batch):
    scale = tf.Variable(3.0, name="scale/value")

    def run(x):
        return {"y": scale * x, "n": tf.shape(x)[:1] * tf.ones([batch], tf.int32)}

    spec = tf.TensorSpec([batch, 2], tf.float32)
    model = loading.load_pretrained(write(tmp_path, run, spec, variables=[scale]))
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    outputs = model.predict(values, verbose=0)
    np.testing.assert_array_equal(outputs["y"], 3 * values)
    np.testing.assert_array_equal(outputs["n"], [batch] * 5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(values)["y"])
    (gradient,) = tape.gradient(loss, [model.trainable_weights[0].value])
    assert float(gradient) == values.sum()


def test_a_keras_savedmodel_of_tf_keras_loads_without_reading_its_layers(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(2, 3, input_shape=(8, 8, 3), name="conv"),
            tf_keras.layers.BatchNormalization(name="norm"),
            tf_keras.layers.Lambda(lambda x: 2 * x),
            tf_keras.layers.GlobalAveragePooling2D(),
        ]
    )
    old.save(tmp_path / "old", save_format="tf")
    (tmp_path / "old" / "keras_metadata.pb").write_bytes(b"not read")
    images = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)
    model = loading.load_pretrained(str(tmp_path / "old"))
    np.testing.assert_allclose(model(images), old(images), atol=1e-6)
    backbone = load_backbone(tmp_path / "old")
    assert [row.name for row in backbone.table.rows] == ["conv", "norm"]
    assert backbone.pixel_range.warning
    assert backbone.pixel_range.reason.startswith("a SavedModel of Keras of TensorFlow 2")


def test_an_export_of_keras_3_trains_in_groups_though_its_names_have_no_scopes(tmp_path):
    old = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(2, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    old.export(tmp_path / "module", verbose=False)
    backbone = load_backbone(tmp_path / "module")
    assert [(row.num_parameters, row.is_batch_norm) for row in backbone.table.rows] == [
        (56, False),
        (8, True),
    ]
    assert len(backbone.model.trainable_weights) == 4


def test_a_text_file_of_the_graph_is_read_too(tmp_path, image_module):
    folder = tmp_path / "text"
    shutil.copytree(image_module, folder)
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(saved))
    (folder / "saved_model.pb").unlink()
    assert len(restored_module.load_module(str(folder)).variables) == 6


# --- backbones


def test_an_image_module_is_a_backbone(image_module):
    backbone = load_backbone(image_module)
    assert backbone.input_shape == (8, 8, 3)
    assert backbone.input_kind == "image"
    assert (backbone.pooling, backbone.model.output.shape) == ("none", (None, 5))
    assert backbone.pixel_range.name == "0..1"
    assert backbone.pixel_range.reason == "TF-Hub image modules take 0 to 1"
    assert backbone.table.unit == "weight groups"
    assert [(row.name, row.num_parameters, row.is_batch_norm) for row in backbone.table.rows] == [
        ("conv", 108, False),
        ("norm", 16, True),
        ("dense", 20, False),
    ]
    assert backbone.source.startswith("SavedModel with __call__ of TensorFlow 2")
    assert backbone.cut_reason == "The features are the output 'output' of __call__."
    assert backbone.notes == (
        "The module runs in inference mode also while it trains (--batch_norm=frozen): its "
        "BatchNormalization keeps its statistics and its dropout is off. --batch_norm=train with "
        "--freeze=none runs it in training mode.",
    )


def test_half_precision_and_the_pixel_range_of_the_user(image_module):
    spec = specs.ModelSpec(model=str(image_module), pixel_range="-1..1")
    backbone = loading.load_backbone(spec, precision="bfloat16")
    assert backbone.model.output.dtype == "float32"
    assert backbone.pixel_range.name == "-1..1"
    assert backbone.notes[-1] == (
        "--precision=bfloat16 does not reach inside a restored graph, which computes in its own "
        "precision."
    )


def test_any_size_feature_maps_and_whole_numbers(tmp_path):
    def run(images):
        return {"map": tf.cast(images[:, ::2, ::2], tf.float32), "ids": tf.shape(images)[:1]}

    path = write(tmp_path, run, tf.TensorSpec([None, None, None, 3], tf.uint8))
    backbone = load_backbone(path)
    assert backbone.input_shape == (None, None, 3)
    assert backbone.pooling == "avg"
    assert (backbone.pixel_range.name, backbone.pixel_range.reason) == (
        "0..255",
        "its input is uint8",
    )
    pixels = np.full((1, 4, 6, 3), 254.7, np.float32)
    np.testing.assert_array_equal(backbone.model(pixels), np.full((1, 2, 3, 3), 255))


def test_shapes_that_the_graph_hides_are_learnt_from_a_run(tmp_path):
    def run(images):
        mean = tf.reduce_mean(images, [1, 2])
        return {"features": tf.raw_ops.PlaceholderWithDefault(input=mean, shape=None)}

    backbone = load_backbone(write(tmp_path, run, IMAGE))
    assert backbone.model.output.shape == (None, 3)


def test_the_best_output_is_chosen_and_the_user_may_choose_another(encoder, preprocessor):
    backbone = load_backbone(encoder, preprocessor=str(preprocessor))
    assert backbone.cut_reason == (
        "The features are the output 'pooled_output' of __call__. --cut_layer can name another: "
        "'sequence_output'."
    )
    other = load_backbone(encoder, preprocessor=str(preprocessor), cut_layer="sequence_output")
    assert (other.model.output.shape, other.pooling) == ((None, 6, 8), "avg")
    text = refusal(load_backbone, encoder, preprocessor=str(preprocessor), cut_layer="pooled")
    assert text == (
        "Unknown output 'pooled' of __call__. Did you mean 'pooled_output'? Its outputs of floats: "
        "'pooled_output', 'sequence_output'."
    )


def test_an_encoder_behind_its_preprocessor_takes_strings(encoder, preprocessor):
    backbone = load_backbone(encoder, preprocessor=str(preprocessor))
    assert (backbone.input_kind, backbone.input_shape, backbone.pixel_range) == ("text", (), None)
    assert [row.name for row in backbone.table.rows] == ["embeddings", "layer_0.dense", "pooler"]
    text = tf.constant(["very good film", "bad"])
    tokens = tf.saved_model.load(str(preprocessor))(text)
    expected = tf.saved_model.load(str(encoder))(tokens, training=False)["pooled_output"]
    np.testing.assert_allclose(backbone.model(text), expected, atol=1e-6)


def test_signatures_of_strings_give_their_floats(tmp_path):
    def run(inputs):
        scores = tf.strings.to_number(inputs)[:, 0, tf.newaxis] * [[1.0, 2.0]]
        return {"classes": tf.strings.as_string(scores), "scores": scores}

    backbone = load_backbone(write(tmp_path, run, tf.TensorSpec([None, 1], tf.string)))
    assert (backbone.input_kind, backbone.model.input.shape) == ("text", (None,))
    np.testing.assert_array_equal(backbone.model(tf.constant(["3", "4"])), [[3, 6], [4, 8]])


def test_tensorflow_1_modules_and_bare_signatures_of_the_zoo(shared):
    folder = shared / "zoo" / "savedmodel"
    module = load_backbone(folder / "google_tfexamples_hub_module_v1_mini_train")
    assert module.source == "TF1 hub module of TensorFlow 1.15.0"
    assert [row.name for row in module.table.rows] == ["a", "b"]
    assert len(module.model.trainable_weights) == 2
    guesslang = load_backbone(folder / "guesslang", cut_layer="predict:logits")
    assert guesslang.model.output.shape == (None, 54)
    assert guesslang.table.rows[0].num_parameters == 350000
    assert guesslang.notes == (
        "Called through its signature 'predict', which has no training mode.",
    )
    text = refusal(load_backbone, folder / "basic_pitch_nmp")
    assert text == (
        f"{folder / 'basic_pitch_nmp'}: its inputs are input float32 [?, 43844, 1]. Expected one "
        "image, float [batch, height, width, channels], or one string [batch]."
    )


def test_describe_signatures_needs_no_variables(tmp_path, encoder, preprocessor):
    folder = tmp_path / "graph"
    shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns("variables"))
    assert saved_model.describe_signatures(str(folder))[1:] == (
        ("tags", "serve"),
        ("callable", "__call__"),
        ("variables", "4"),
    )
    described = dict(saved_model.describe_signatures(str(preprocessor)))
    assert described["signature serving_default"] == (
        "text string [?] -> input_mask int32 [?, 6], input_type_ids int32 [?, 6], input_word_ids "
        "int32 [?, 6]"
    )
    assert described["assets"] == "'assets/vocabulary.txt'"


# --- refusals


def test_an_encoder_without_a_preprocessor_names_the_flag(encoder, image_module):
    assert refusal(load_backbone, encoder) == (
        f"{encoder}: its inputs are input_mask int32 [?, 6], input_type_ids int32 [?, 6], "
        "input_word_ids int32 [?, 6]. It takes tokens: name the SavedModel that makes them of "
        "strings with --preprocessor."
    )
    assert refusal(load_backbone, encoder, preprocessor=str(image_module)) == (
        f"--preprocessor={image_module}: expected one input, string [batch]. Choose the "
        "preprocessor made for --model."
    )


def test_a_preprocessor_of_another_encoder(tmp_path, encoder):
    path = write(tmp_path, lambda text: {"input_ids": tf.strings.length(text)},
                 tf.TensorSpec([None], tf.string))  # fmt: skip
    assert refusal(load_backbone, encoder, preprocessor=path) == (
        f"--preprocessor={path}: it returns 'input_ids'. The model of --model takes also "
        "'input_mask', 'input_type_ids', 'input_word_ids': choose the preprocessor made for it."
    )


def test_damaged_folders(tmp_path, image_module):
    def copy(name):
        shutil.copytree(image_module, tmp_path / name)
        return tmp_path / name

    truncated = copy("truncated")
    contents = (truncated / "saved_model.pb").read_bytes()
    (truncated / "saved_model.pb").write_bytes(contents[: len(contents) // 2])
    expected = (
        "its saved_model.pb is empty, truncated or damaged. Copy or download the folder again."
    )
    assert refusal(restored_module.load_module, str(truncated)) == f"{truncated}: {expected}"
    (truncated / "saved_model.pb").write_bytes(b"")
    assert refusal(restored_module.load_module, str(truncated)) == f"{truncated}: {expected}"
    missing = copy("missing")
    shutil.rmtree(missing / "variables")
    assert refusal(restored_module.load_module, str(missing)) == (
        f"{missing}: holds variables, and the file variables/variables.index is missing. Copy or "
        "download the whole folder again."
    )
    half = copy("half")
    data = half / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    text = refusal(restored_module.load_module, str(half))
    assert text.startswith(f"{half}: TensorFlow does not load this SavedModel: ")
    assert "\n" not in text


def test_nothing_to_call(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "module"))
    assert refusal(loading.load_pretrained, str(tmp_path / "module")) == (
        f"{tmp_path / 'module'}: has neither a __call__ of tensors nor a signature, so there is "
        "nothing to run. Save it with tf.saved_model.save(module, folder, signatures=...)."
    )


def test_no_floats_and_no_such_signature(tmp_path):
    path = write(tmp_path, lambda x: {"n": tf.shape(x)[:1]}, IMAGE)
    assert refusal(load_backbone, path) == (
        f"{path}: has no output of floats, which features are. It returns n int32."
    )
    assert refusal(load_backbone, path, cut_layer="predict:n") == (
        f"{path}: has no signature 'predict'. It has 'serving_default'."
    )


def edit_graph(folder, path, edit):
    shutil.copytree(folder, path)
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(saved)
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    return path


def test_operations_that_tensorflow_does_not_have(tmp_path, image_module):
    def use(name):
        def edit(saved):
            saved.meta_graphs[0].graph_def.library.function[0].node_def.add(name="x", op=name)

        return edit

    path = edit_graph(image_module, tmp_path / "own", use("Zero\nOut"))
    assert refusal(restored_module.load_module, str(path)) == (
        f"{path}: its graph needs operations that TensorFlow does not have: 'Zero\\nOut'. Expected "
        "a SavedModel of TensorFlow's own operations."
    )
    path = edit_graph(image_module, tmp_path / "text", use("TFText>NoSuchOperation"))
    assert refusal(restored_module.load_module, str(path)) == (
        f"{path}: its graph needs operations that TensorFlow does not have: "
        "'TFText>NoSuchOperation'. They are of TensorFlow Text: pip install tensorflow-text"
    )


def test_several_graphs(tmp_path, image_module):
    def retag(*tags):
        def edit(saved):
            saved.meta_graphs.add().CopyFrom(saved.meta_graphs[0])
            for graph, tag in zip(saved.meta_graphs, tags, strict=True):
                graph.meta_info_def.tags[:] = tag

        return edit

    path = edit_graph(image_module, tmp_path / "two", retag(["gpu", "serve"], ["train"]))
    assert refusal(loading.load_pretrained, str(path)) == (
        f"{path}: holds 2 graphs, with the tags gpu, serve; train. Expected one, or one with the "
        "tag 'serve' alone: save it again with that tag."
    )
    path = edit_graph(image_module, tmp_path / "train", retag(["train"], []))
    assert saved_model_files.read_module(str(path)).tags == ()
