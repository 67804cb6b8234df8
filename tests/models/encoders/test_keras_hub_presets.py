import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import findings, specs
from tf_finetune.models import loading

SIZES = {
    "vocabulary_size": 25,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 16,
}
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "film",
    "good",
    "the",
    "is",
    "!",
    "##s",
]
TOKENS = ["<s>", "<pad>", "</s>", "<mask>", "<unk>", "<|endoftext|>", *"thefilmĠ", "th", "the"]
TOKENS += ["fi", "lm", "film", "Ġthe", "Ġfilm"]
MERGES = ["t h", "th e", "f i", "l m", "fi lm", "Ġ the", "Ġ film"]
TEXTS = ["the film is good !", "", "the film " * 20]
PREPROCESSORS = {
    "Bert": "BertTextClassifierPreprocessor",
    "DistilBert": "DistilBertTextClassifierPreprocessor",
    "Roberta": "RobertaTextClassifierPreprocessor",
    "GPT2": "GPT2Preprocessor",
}


def load(model, **options):
    return loading.load_backbone(specs.ModelSpec(model=model, **options))


def randomise(model):
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + draw.normal(0, 0.3, weight.shape))


def make_tokenizer(models, name):
    if name in ("Bert", "DistilBert"):
        return getattr(models, f"{name}Tokenizer")(vocabulary=PIECES, lowercase=True)
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(TOKENS))}
    return getattr(models, f"{name}Tokenizer")(vocabulary=vocabulary, merges=MERGES)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """{name: (folder, keras_hub's backbone, its preprocessor)}."""
    models = pytest.importorskip("keras_hub").models
    written = {}
    for name, preprocessor in PREPROCESSORS.items():
        folder = str(tmp_path_factory.mktemp(name))
        backbone = getattr(models, f"{name}Backbone")(**SIZES)
        tokenizer = make_tokenizer(models, name)
        randomise(backbone)
        backbone.save_to_preset(folder)
        tokenizer.save_to_preset(folder)
        prepare = getattr(models, preprocessor)(tokenizer=tokenizer, sequence_length=16)
        written[name] = (folder, backbone, prepare)
    return written


def their_features(backbone, prepare, pool):
    inputs = prepare(TEXTS)
    inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    outputs = backbone(inputs)
    outputs = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    masks = np.array(inputs["padding_mask"], bool)
    rows = zip(np.array(outputs, np.float64), masks, strict=True)
    return np.stack([pool(row[mask]) for row, mask in rows])


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_features_are_those_of_keras_hub(presets, name):
    folder, theirs, prepare = presets[name]
    ours = load(f"kerashub:{folder}")
    expected = their_features(theirs, prepare, lambda x: x.mean(axis=0))
    np.testing.assert_allclose(ours.model(tf.constant(TEXTS)), expected, atol=1e-5)
    one = -1 if name == "GPT2" else 0
    expected = their_features(theirs, prepare, lambda x: x[one])
    single = load(f"kerashub:{folder}", pooling="none")
    np.testing.assert_allclose(single.model(tf.constant(TEXTS)), expected, atol=1e-5)
    last = ("final_norm",) if name == "GPT2" else ()
    assert ours.table.names == ("embeddings", "block_1", "block_2", *last)
    assert ours.source == f"keras_hub {name}Backbone"
    assert ours.sha256 == loading.formats.file_sha256(os.path.join(folder, "model.weights.h5"))
    assert ours.dropped == (("pooled_dense",) if name == "Bert" else ())
    assert ours.notes[0] == (
        "The weights were copied into this package's own layers: model.keras and the export need "
        "neither keras_hub nor TF-Text."
    )


def test_an_uncased_preset_strips_accents_as_bert_does(presets):
    model = load(f"kerashub:{presets['Bert'][0]}").model
    np.testing.assert_array_equal(
        model(tf.constant(["The FÍLM"])), model(tf.constant(["the film"]))
    )


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_saved_it_loads_in_plain_keras(presets, name, tmp_path):
    model = load(f"kerashub:{presets[name][0]}").model
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(tf.constant(TEXTS)), model(tf.constant(TEXTS)))


@pytest.mark.slow
def test_saved_they_load_without_keras_hub(presets, tmp_path):
    for name in ("Bert", "GPT2"):
        model = load(f"kerashub:{presets[name][0]}").model
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", model(tf.constant(TEXTS)))
    code = f"""
import sys, keras, numpy as np, tensorflow as tf
import tf_finetune.models.encoders.encoder_layers, tf_finetune.text.wordpiece
import tf_finetune.text.byte_pair_tokenizer
for name in ("Bert", "GPT2"):
    model = keras.models.load_model(f"{tmp_path}/{{name}}.keras")
    features = model(tf.constant({TEXTS!r}))
    print(np.array_equal(features, np.load(f"{tmp_path}/{{name}}.npy")))
print("keras_hub" in sys.modules, "tensorflow_text" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["True", "True", "False", "False"]


def refusal(model, **options):
    with pytest.raises(findings.RefusedError) as refused:
        load(model, **options)
    return str(refused.value)


def test_presets_that_are_refused(presets, tmp_path):
    folder = presets["Bert"][0]
    where = os.path.join(folder, "model.weights.h5")
    message = refusal(f"kerashub:{folder}", model_sha256="0" * 64)
    assert message.startswith(f"{where}: its SHA-256 is ")
    path = tmp_path / "config.json"
    assert refusal(f"kerashub:{tmp_path}") == (
        f"{tmp_path}: has no config.json. Expected a preset that keras_hub's save_to_preset wrote."
    )
    path.write_text('{"model_type": "bert"}')
    assert refusal(f"kerashub:{tmp_path}") == (
        f"{tmp_path}: is a Hugging Face folder. Open it with --model=hf:{tmp_path}."
    )
    stored = {"module": "os", "class_name": "system", "registered_name": "keras_hub>system"}
    path.write_text(json.dumps(stored))
    assert refusal(f"kerashub:{tmp_path}") == (
        f"kerashub:{tmp_path}: the model would call 'os.system', which is no layer and no part of "
        "one. --trust_model opens it all the same, if you know who made it."
    )
    stored = {"module": "keras_hub.src.x", "class_name": "system"}
    path.write_text(json.dumps({**stored, "registered_name": "keras_hub>other"}))
    assert refusal(f"kerashub:{tmp_path}") == f"{path}: names no class of keras_hub."
    stored = {"module": "keras_hub.src.x", "class_name": "AlbertBackbone"}
    path.write_text(json.dumps({**stored, "registered_name": "keras_hub>AlbertBackbone"}))
    assert refusal(f"kerashub:{tmp_path}") == (
        f"kerashub:{tmp_path}: a AlbertBackbone. This version opens BertBackbone, "
        "DistilBertBackbone, RobertaBackbone, GPT2Backbone: others split texts by SentencePiece, "
        "which would need TF-Text wherever the export is served, or have other layers."
    )
    stored = {"module": "keras_hub.src.x", "class_name": "BertBackbone"}
    path.write_text(json.dumps({**stored, "registered_name": "keras_hub>BertBackbone"}))
    assert refusal(f"kerashub:{tmp_path}") == (
        f"{tmp_path}: has no tokenizer.json. Expected a preset that keras_hub's save_to_preset "
        "wrote."
    )
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**stored, "registered_name": "mine>Tokenizer"}))
    assert "needs the custom class 'mine>Tokenizer'." in refusal(f"kerashub:{tmp_path}")
    path.write_text(json.dumps({**stored, "registered_name": "keras_hub>BertBackbone"}))
    assert refusal(f"kerashub:{tmp_path}") == f"{tmp_path}: has no model.weights.h5."


def test_presets_of_keras_nlp_open(presets, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(presets["Bert"][0], old)
    for name in ("config.json", "tokenizer.json"):
        text = (old / name).read_text().replace("keras_hub", "keras_nlp")
        (old / name).write_text(text)
    expected = load(f"kerashub:{presets['Bert'][0]}").model(tf.constant(TEXTS))
    np.testing.assert_array_equal(load(f"kerashub:{old}").model(tf.constant(TEXTS)), expected)


def test_a_name_that_keras_hub_does_not_know(presets):
    message = refusal("kerashub:no_such_preset")
    assert message.startswith("kerashub:no_such_preset: keras_hub does not open it: ")
    assert message.endswith(
        "Expected the name of a preset or a folder with config.json, tokenizer.json and "
        "model.weights.h5."
    )
    assert refusal("kerashub:bert_tiny_en_uncased", model_sha256="0" * 64) == (
        "--model_sha256 applies to files here. 'kerashub:bert_tiny_en_uncased' is no folder: give "
        "the folder of a preset, or leave it out."
    )


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert refusal("kerashub:bert_tiny_en_uncased") == (
        "--model=kerashub:... needs keras_hub, which cannot be imported: import of keras_hub "
        "halted; None in sys.modules. Run: pip install 'tf_finetune[text]'"
    )
