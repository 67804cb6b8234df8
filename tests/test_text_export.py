"""Heads, export and run folder of a model that takes texts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_text
from tf_finetune import exporting, findings, head_kinds, heads, serving_graph, specs, trained
from tf_finetune.data import preprocessing, text_store
from tf_finetune.models import backbone as backbones
from tf_finetune.models import loading

HEADS = (
    head_kinds.HeadInfo("mood", "multiclass", ("neg", "pos")),
    head_kinds.HeadInfo("tags", "multilabel", ("a", "b", "c"), (0.2, 0.5, 0.5)),
)
HEAD_SPECS = tuple(specs.HeadSpec(name=head.name, kind=head.kind) for head in HEADS)
TEXTS = ["a lovely story", "dull, dull music", "", "é 🎬 \n"]
SPEC = text_store.TextSpec(column="review")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for shape in ((), (1,)):
        for pooled in (True, False):
            path = folder / f"{len(shape)}{pooled}.keras"
            tiny_text.make_classifier(shape=shape, pooled=pooled).save(path)
            paths[shape, pooled] = str(path)
    return paths


@pytest.fixture(scope="module")
def model(files):
    backbone = loading.load_backbone(specs.ModelSpec(model=files[(), True]))
    return heads.attach_heads(backbone, heads=HEAD_SPECS, infos=HEADS)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("pooled", [True, False])
def test_a_model_of_strings_becomes_a_backbone(files, shape, pooled):
    backbone = loading.load_backbone(specs.ModelSpec(model=files[shape, pooled]))
    assert (backbone.input_kind, backbone.input_shape) == (backbones.TEXT, ())
    assert backbone.pixel_range is None
    assert backbone.pooling == ("none" if pooled else "avg")
    assert backbone.dropped == (("classes",) if pooled else ())
    names = ("tokens", "embedding", "pool") if pooled else ("tokens", "embedding")
    assert backbone.table.names == names


@pytest.mark.parametrize("shape", [(), (1,)])
def test_heads_pool_as_the_model_did(files, shape):
    """Padding is masked in the pooling of the heads as in the pretrained model's own."""
    features = []
    for pooled in (True, False):
        backbone = loading.load_backbone(specs.ModelSpec(model=files[shape, pooled]))
        head = specs.HeadSpec(name="mood", dropout=0.0)
        model = heads.attach_heads(backbone, heads=(head,), infos=HEADS[:1])
        assert model.input["text"].dtype == "string" and model.input["text"].shape == (None,)
        before_logits = keras.Model(model.input, model.get_layer("mood_logits").input)
        # Keras's masked mean over no token at all is not a number.
        texts = [text for text in TEXTS if text]
        features.append(before_logits({"text": tf.constant(texts)}).numpy())
    np.testing.assert_allclose(features[0], features[1], rtol=0, atol=1e-7)
    assert np.abs(features[0]).max() > 0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_leaves_the_tokens_alone(files, precision):
    spec = specs.ModelSpec(model=files[(), True])
    outputs = []
    for chosen in ("float32", precision):
        backbone = loading.load_backbone(spec, precision=chosen)
        outputs.append(keras.ops.cast(backbone.model(tf.constant(TEXTS)), "float32").numpy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-3)
    assert not np.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2,), "The model's input of strings has the shape (None, 2). This version fine-tunes "
         "models of one text for each example, (batch,) or (batch, 1)."),
    ],
)  # fmt: skip
def test_several_strings_for_each_example_are_refused(tmp_path, shape, message):
    words = keras.Input(shape, dtype="string")
    x = keras.layers.Embedding(9, 2)(keras.layers.Hashing(9)(words))
    keras.Model(words, keras.layers.Flatten()(x)).save(tmp_path / "m.keras")
    path = str(tmp_path / "m.keras")
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=path))
    assert str(caught.value) == f"{path}: {message}"


def export(model, folder, *, heads=HEADS, texts=()):
    return exporting.write_export(
        model,
        heads=heads,
        preprocessing=SPEC,
        export_dir=str(folder),
        warmup_inputs=[text.encode() for text in texts],
    )


@pytest.mark.parametrize("texts", [(), ("so lovely", "é")])
def test_an_export_answers_as_the_model_does(model, tmp_path, texts):
    exported = export(model, tmp_path, texts=texts)
    assert exported.signatures == ("serving_default",)
    served = tf.saved_model.load(exported.path).signatures["serving_default"]
    logits = model({"text": tf.constant(TEXTS)}, training=False)
    answers = served(text=tf.constant(TEXTS))
    for head in HEADS:
        expected = head_kinds.probabilities(logits[head.name].numpy(), head.kind)
        received = answers[f"{head.name}_probabilities"].numpy()
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)
    replays = tf.data.TFRecordDataset(f"{exported.path}/assets.extra/tf_serving_warmup_requests")
    records = [record.numpy() for record in replays]
    wanted = texts or ("The quick brown fox jumps over the lazy dog.",)
    assert all(text.encode() in record for text, record in zip(wanted, records, strict=True))


def test_only_tables_in_use_are_exported(model):
    """TextVectorization has a second table, which counts words while it adapts."""
    graph = serving_graph.make_serving_graph(model, SPEC, heads=HEADS)
    (table,) = graph.module.resources
    assert type(table).__name__ == "StaticHashTable"


def test_the_other_preprocessing_is_told(model, tmp_path):
    with pytest.raises(ValueError, match="The preprocessing is of images, and the model's input"):
        exporting.write_export(
            model,
            heads=HEADS,
            preprocessing=preprocessing.PreprocessingSpec(4, 4, 3),
            export_dir=str(tmp_path),
            warmup_inputs=[],
        )


def test_a_run_of_texts_is_read_back(model, tmp_path):
    facts = {"loss_weights": {"mood": 1.0, "tags": 2.0}}
    trained.write_trained(str(tmp_path), trained.TrainedModel(model, HEADS, SPEC, facts))
    assert trained.read_input_spec(str(tmp_path)) == SPEC
    outcome = trained.load_run(str(tmp_path))
    assert (outcome.preprocessing, outcome.heads, outcome.facts) == (SPEC, HEADS, facts)
    inputs = {"text": tf.constant(TEXTS)}
    for name in ("mood", "tags"):
        np.testing.assert_array_equal(outcome.model(inputs)[name], model(inputs)[name])
