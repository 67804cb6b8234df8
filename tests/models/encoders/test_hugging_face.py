import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import hugging_face_folders as folders
from tests.models import text_reference
from tests.text import bert_reference
from tf_finetune import findings, specs
from tf_finetune.models import loading

RULES = {"lower_case": True, "strip_accents": True, "space_cjk": True}
NAMES = ("embeddings", "block_1", "block_2")


def encoded_texts():
    return tf.constant(folders.TEXTS)


def load(model, *, precision="float32", **options):
    return loading.load_backbone(specs.ModelSpec(model=model, **options), precision=precision)


def reference(weights, texts=folders.TEXTS, pool=lambda x: x.mean(axis=0), **options):
    ids = [
        bert_reference.tokenize(text, folders.PIECES, length=folders.POSITIONS, **RULES)
        for text in texts
    ]
    sizes = {"num_layers": folders.LAYERS, "num_heads": folders.HEADS, **options}
    return np.stack([pool(text_reference.encode(weights, row, **sizes)) for row in ids])


@pytest.fixture(scope="module")
def weights():
    return folders.make_weights()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory, weights):
    heads = {
        "pooler.dense.weight": np.zeros([folders.HIDDEN, folders.HIDDEN], np.float32),
        "embeddings.position_ids": np.arange(folders.POSITIONS)[np.newaxis],
    }
    return folders.write(tmp_path_factory.mktemp("bert"), {**weights, **heads})


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("auto", lambda x: x.mean(axis=0)),
        ("avg", lambda x: x.mean(axis=0)),
        ("max", lambda x: x.max(axis=0)),
        ("none", lambda x: x[0]),
    ],
)
def test_features_are_those_of_the_float64_reference(model_path, weights, pooling, pool):
    features = load(model_path, pooling=pooling).model(encoded_texts())
    assert features.dtype == "float32"
    np.testing.assert_allclose(features, reference(weights, pool=pool), atol=1e-5)


def test_what_the_backbone_says(model_path):
    loaded = load(model_path)
    weights_path = os.path.join(model_path.removeprefix("hf:"), "model.safetensors")
    assert (loaded.input_kind, loaded.input_shape, loaded.pooling) == ("text", (), "none")
    assert loaded.pixel_range is None
    assert loaded.source == "Hugging Face folder, bert"
    assert loaded.sha256 == loading.formats.file_sha256(weights_path)
    assert loaded.dropped == ("pooler.dense",)
    assert loaded.cut_reason == "The features are averaged over the tokens of a text."
    assert loaded.outputs == (("mean_pooling", (None, folders.HIDDEN)),)
    assert loaded.notes == (
        "No file says whether texts are lower-cased; its vocabulary has no capital letters.",
        "Texts are lower-cased: yes; cut behind 20 tokens.",
    )
    assert loaded.table.names == NAMES
    assert [row.number for row in loaded.table.rows] == [1, 2, 3]
    counted = sum(row.num_parameters for row in loaded.table.rows)
    assert counted == loaded.model.count_params()


def test_the_whole_model_opens_as_well(model_path):
    model = loading.load_pretrained(model_path)
    np.testing.assert_array_equal(model(encoded_texts()), load(model_path).model(encoded_texts()))


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_activations_and_epsilon_of_the_configuration(tmp_path, weights, activation):
    config = {**folders.CONFIG, "hidden_act": activation, "layer_norm_eps": 0.3}
    path = folders.write(tmp_path, weights, config=config)
    expected = reference(weights, activation=activation, epsilon=0.3)
    np.testing.assert_allclose(load(path).model(encoded_texts()), expected, atol=1e-5)


def test_names_with_prefix_and_those_of_tensorflow_1(tmp_path, weights, model_path):
    renamed = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in weights.items()
    }
    renamed["cls.predictions.bias"] = np.zeros(3, np.float32)
    config = {**folders.CONFIG, "architectures": ["BertForMaskedLM"]}
    del config["model_type"]
    loaded = load(folders.write(tmp_path, renamed, config=config))
    assert loaded.dropped == ("cls.predictions",)
    np.testing.assert_array_equal(
        loaded.model(encoded_texts()), load(model_path).model(encoded_texts())
    )


def test_distilbert(tmp_path):
    weights = folders.make_weights(segments=0)
    config = {
        "model_type": "distilbert",
        "vocab_size": folders.CONFIG["vocab_size"],
        "dim": folders.HIDDEN,
        "n_layers": folders.LAYERS,
        "n_heads": folders.HEADS,
        "hidden_dim": folders.INNER,
        "max_position_embeddings": folders.POSITIONS,
        "activation": "gelu",
    }
    renamed = folders.rename_to_distilbert(weights)
    named = {f"distilbert.{name}": value for name, value in renamed.items()}
    loaded = load(folders.write(tmp_path, named, config=config))
    assert (loaded.dropped, loaded.table.names) == ((), NAMES)
    np.testing.assert_allclose(loaded.model(encoded_texts()), reference(weights), atol=1e-5)


def test_electra_projects_its_embeddings(tmp_path):
    weights = folders.make_weights(embedding_size=6)
    config = {**folders.CONFIG, "model_type": "electra", "embedding_size": 6}
    named = {f"electra.{name}": value for name, value in weights.items()}
    loaded = load(folders.write(tmp_path, named, config=config))
    assert loaded.dropped == ()
    np.testing.assert_allclose(loaded.model(encoded_texts()), reference(weights), atol=1e-5)


def test_roberta_counts_positions_from_its_padding(tmp_path):
    weights = folders.make_weights(segments=1)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"theĠ", "th", "the"]
    config = {**folders.CONFIG, "model_type": "roberta", "type_vocab_size": 1}
    del config["layer_norm_eps"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    named = {f"roberta.{name}": value for name, value in weights.items()}
    path = folders.write(tmp_path, named, config=config, pieces=None, vocab=vocabulary)
    shifted = dict(weights)
    positions = "embeddings.position_embeddings.weight"
    shifted[positions] = shifted[positions][2:]
    ids = [[0, 9, 7, 4, 2], [0, 2], [0, 3, 2]]
    sizes = {"num_layers": folders.LAYERS, "num_heads": folders.HEADS, "epsilon": 1e-5}
    expected = [text_reference.encode(shifted, row, **sizes).mean(axis=0) for row in ids]
    loaded = load(path)
    np.testing.assert_allclose(loaded.model(tf.constant(["the t", "", "x"])), expected, atol=1e-5)
    assert loaded.notes == ("Texts are cut behind 18 tokens.",)


def test_pooling_and_length_follow_the_folder(tmp_path, weights):
    folder = tmp_path / "sentences"
    path = folders.write(folder, weights, sentence_bert_config={"max_seq_length": 7})
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    loaded = load(path)
    assert loaded.cut_reason == (
        "The features are those of the first token, as its 1_Pooling/config.json says."
    )
    np.testing.assert_array_equal(
        loaded.model(encoded_texts()), load(path, pooling="none").model(encoded_texts())
    )
    assert load(path, pooling="avg").cut_reason.endswith("averaged over the tokens of a text.")
    assert loaded.model.get_layer("tokenizer").sequence_length == 7


def test_settings_of_the_tokenizer(tmp_path, weights):
    settings = {
        "do_lower_case": False,
        "strip_accents": True,
        "tokenize_chinese_chars": False,
        "model_max_length": 9,
        "unk_token": {"content": "[MASK]"},
    }
    path = folders.write(
        tmp_path, weights, pieces=[*folders.PIECES, "[MASK]"], tokenizer_config=settings
    )
    layer = load(path).model.get_layer("tokenizer")
    config = layer.get_config()
    assert (config["lower_case"], config["strip_accents"], config["space_cjk"]) == (
        False,
        True,
        False,
    )
    assert (config["sequence_length"], config["unknown_token"]) == (9, "[MASK]")


def test_a_cased_vocabulary_and_tokenizer_json_speak_where_no_setting_does(tmp_path, weights):
    cased = folders.write(tmp_path / "cased", weights, pieces=[*folders.PIECES, "Film"])
    loaded = load(cased)
    assert not loaded.model.get_layer("tokenizer").get_config()["lower_case"]
    assert loaded.notes[0].endswith("its vocabulary has some capital letters.")
    whole = {
        "model": {"type": "WordPiece", "vocab": {p: n for n, p in enumerate(folders.PIECES)}},
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": False},
    }
    path = folders.write(tmp_path / "json", weights, pieces=None, tokenizer=whole)
    config = load(path).model.get_layer("tokenizer").get_config()
    assert config["vocabulary"] == "\n".join(folders.PIECES)
    assert (config["lower_case"], config["strip_accents"]) == (True, False)


@pytest.mark.parametrize(("precision", "error"), [("float16", 5e-3), ("bfloat16", 4e-2)])
def test_half_precision_keeps_float32_weights_and_features(model_path, precision, error):
    exact = load(model_path).model(encoded_texts())
    model = load(model_path, precision=precision).model
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert model.get_layer("block_1").compute_dtype == precision
    features = model(encoded_texts())
    assert features.dtype == "float32"
    difference = np.abs(features - exact).max()
    assert 0 < difference < error * np.abs(exact).max()


def test_half_precision_weights_in_the_file(tmp_path, weights):
    halves = {name: value.astype(np.float16) for name, value in weights.items()}
    exact = {name: value.astype(np.float32) for name, value in halves.items()}
    loaded = load(folders.write(tmp_path, halves))
    np.testing.assert_allclose(loaded.model(encoded_texts()), reference(exact), atol=1e-5)


def test_saved_it_loads_in_plain_keras(model_path, tmp_path):
    model = load(model_path, precision="bfloat16").model
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(encoded_texts()), model(encoded_texts()))
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]


def test_its_number_must_be_that_of_the_flag(model_path):
    where = os.path.join(model_path.removeprefix("hf:"), "model.safetensors")
    with pytest.raises(findings.RefusedError) as refused:
        load(model_path, model_sha256="0" * 64)
    assert str(refused.value).startswith(f"{where}: its SHA-256 is ")
    assert load(model_path, model_sha256=load(model_path).sha256).sha256 is not None


CONFIG_ERRORS = {
    "type": (
        {"model_type": "t5"},
        "the model is of the type 't5'. hf: opens encoders of the types bert, distilbert, electra, "
        "roberta.",
    ),
    "relative": (
        {"position_embedding_type": "relative_key"},
        "the model has relative positions or is a decoder. hf: opens encoders with absolute "
        "positions.",
    ),
    "activation": (
        {"hidden_act": "mish"},
        "hidden_act expects one of gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, "
        "relu, silu, swish. Received 'mish'.",
    ),
    "sizes": (
        {"hidden_size": "16"},
        "hidden_size expects a whole number above 0. Received 16.",
    ),
    "rates": (
        {"hidden_dropout_prob": 1},
        "hidden_dropout_prob expects a number from 0 to 1. Received 1.",
    ),
    "heads": ({"num_attention_heads": 3}, "its 3 attention heads do not divide 16 units."),
}


@pytest.mark.parametrize("name", CONFIG_ERRORS)
def test_configurations_that_are_refused(tmp_path, weights, name):
    change, message = CONFIG_ERRORS[name]
    path = folders.write(tmp_path, weights, config={**folders.CONFIG, **change})
    with pytest.raises(findings.RefusedError) as refused:
        load(path)
    assert str(refused.value) == f"{tmp_path}/config.json: {message}"


def drop(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def cut(name):
    return lambda weights: {**weights, name: weights[name][..., :-1]}


QUERY = "encoder.layer.1.attention.self.query.weight"
WEIGHT_ERRORS = {
    "missing": (
        drop(QUERY),
        f"the weight '{QUERY}' of layer 'block_2' is missing. The file belongs to another model "
        "than its configuration.",
    ),
    "shape": (
        cut(QUERY),
        "layer 'block_2' expects query/kernel of the shape (16, 16). Received (15, 16).",
    ),
    "another model": (
        lambda weights: {"transformer.wte.weight": weights[QUERY]},
        "the weight 'embeddings.word_embeddings.weight' of layer 'embeddings' is missing. The file "
        "belongs to another model than its configuration.",
    ),
}


@pytest.mark.parametrize("name", WEIGHT_ERRORS)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, name):
    change, message = WEIGHT_ERRORS[name]
    path = folders.write(tmp_path, change(weights))
    with pytest.raises(findings.RefusedError) as refused:
        load(path)
    assert str(refused.value) == f"{tmp_path}/model.safetensors: {message}"


def refusal(model, **options):
    with pytest.raises(findings.RefusedError) as refused:
        load(model, **options)
    return str(refused.value)


def test_what_the_folder_lacks_is_named(tmp_path, weights):
    here = tmp_path
    assert refusal(f"hf:{here}/nothing") == (
        f"--model: 'hf:{here}/nothing' names no folder. Expected hf:DIR, a local folder with "
        "config.json, model.safetensors and vocab.txt."
    )
    path = folders.write(here / "a", weights, config=None)
    assert refusal(path) == (
        f"{here}/a: has no config.json. Expected a folder with it, model.safetensors, vocab.txt."
    )
    (here / "a" / "config.json").write_text("{}")
    assert refusal(path) == (
        f"{here}/a/config.json: names no type of model (model_type). hf: opens encoders of the "
        "types bert, distilbert, electra, roberta."
    )
    path = folders.write(here / "b", None)
    assert refusal(path) == f"{here}/b: has no model.safetensors."
    (here / "b" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert refusal(path) == (
        f"{here}/b: its weights are pytorch_model.bin, a Python pickle, which is never run. "
        "Expected model.safetensors in one part: save the model again with transformers' "
        "save_pretrained."
    )
    path = folders.write(here / "c", weights, pieces=None)
    assert refusal(path) == (
        f"{here}/c: has no vocabulary. Expected vocab.txt, or tokenizer.json of the kind WordPiece."
    )
    path = folders.write(here / "d", weights, pieces=folders.PIECES[1:])
    assert refusal(path) == (
        f"{here}/d: its vocabulary lacks the special token '[PAD]', which its "
        "tokenizer_config.json names or BERT has."
    )
    path = folders.write(here / "e", weights, pieces=[*folders.PIECES, *"123456"])
    assert refusal(path) == (
        f"{here}/e/model.safetensors: its vocabulary has 37 pieces, and its token table only 34 "
        "rows. The files belong to different models."
    )


def test_tokenizers_that_are_refused(tmp_path, weights):
    settings = {"tokenizer_class": "BertJapaneseTokenizer"}
    path = folders.write(tmp_path / "a", weights, tokenizer_config=settings)
    assert refusal(path) == (
        f"{tmp_path}/a/tokenizer_config.json: BertJapaneseTokenizer splits words with a "
        "dictionary. Expected a tokenizer by BERT's rules."
    )
    whole = {"model": {"type": "Unigram", "vocab": {}}}
    path = folders.write(tmp_path / "b", weights, pieces=None, tokenizer=whole)
    assert refusal(path) == (
        f"{tmp_path}/b/tokenizer.json: is a tokenizer of the kind Unigram. Expected WordPiece."
    )
    whole = {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 2}}}
    path = folders.write(tmp_path / "c", weights, pieces=None, tokenizer=whole)
    assert refusal(path) == (
        f"{tmp_path}/c/tokenizer.json: its vocabulary is not numbered from 0 without gaps."
    )
    (tmp_path / "c" / "tokenizer.json").write_text("{")
    assert refusal(path) == (f"{path}: 'tokenizer.json' is not JSON. Copy or download it again.")
    (tmp_path / "c" / "tokenizer.json").write_text("[]")
    assert refusal(path) == (
        f"{tmp_path}/c/tokenizer.json: expects a JSON object. The file is damaged."
    )


def test_flags_that_do_not_apply_to_texts(model_path):
    assert refusal(model_path, cut_layer="block_1") == (
        "--cut_layer does not apply to a text transformer, whose features are those of its last "
        "block. Received block_1. Leave it out."
    )
    assert refusal(model_path, pooling="flatten") == (
        "--pooling=flatten does not apply to texts, whose lengths differ. Expected auto, avg, max "
        "or none."
    )


def test_a_vocabulary_keeps_odd_lines(tmp_path, weights):
    path = folders.write(tmp_path, weights, pieces=[*folders.PIECES, "a\u2028b", "c\x85d"])
    pieces = load(path).model.get_layer("tokenizer").get_config()["vocabulary"].split("\n")
    assert pieces[-2:] == ["a\u2028b", "c\x85d"] and len(pieces) == len(folders.PIECES) + 2


def test_prefix_of_the_handle_is_another_format():
    formats = loading.formats
    assert formats.detect_format("hf:org") == formats.HUGGING_FACE
    assert formats.detect_format("hf://org/name") == formats.HANDLE
