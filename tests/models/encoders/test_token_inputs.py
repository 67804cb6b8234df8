"""Models of token ids with their tokenizer in front, and what does not fit together."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import hugging_face_folders
from tf_finetune import findings, inspection, specs
from tf_finetune.models import loading

L = keras.layers


def write_words(folder, count=7):
    path = folder / "words.txt"
    path.write_text("".join(f"w{number}\n" for number in range(2, count + 2)))
    return str(path)


def load(model, **data):
    return loading.load_backbone(specs.ModelSpec(model=str(model)), data=specs.DataSpec(**data))


def refusal(model, **data):
    with pytest.raises(findings.RefusedError) as caught:
        load(model, **data)
    (problem,) = caught.value.problems
    return problem.flag, problem.message


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "lstm.h5"
    inputs = keras.Input((4,), dtype="int32", name="ids")
    words = L.Embedding(10, 3, mask_zero=True, name="words")
    layers = [inputs, words, L.LSTM(5, name="lstm"), L.Dense(2, "softmax", name="old")]
    keras.Sequential(layers).save(path)
    return path


def make_nested(folder, *, length=4, dtype="float32"):
    """Ids as floats into a model in a model, as Keras 2 had them."""
    inner_in = keras.Input((length,), dtype=dtype, name="inner_ids")
    x = L.Embedding(10, 3, name="words")(inner_in)
    inner = keras.Model(inner_in, L.GlobalAveragePooling1D(name="mean")(x), name="inner")
    ids = keras.Input((length,), dtype=dtype, name="ids")
    path = folder / "nested.keras"
    keras.Model(ids, L.Dense(2, name="old")(inner(ids))).save(path)
    return path


def test_a_text_gets_what_its_ids_got(sequential, tmp_path):
    found = load(sequential, vocabulary=write_words(tmp_path))
    assert (found.input_kind, found.pooling, found.dropped) == ("text", "none", ("old",))
    assert found.table.names == ("words", "lstm")
    assert [row.number for row in found.table.rows] == [1, 2]
    whole = loading.load_pretrained(str(sequential))
    features = keras.Model(whole.inputs, whole.get_layer("lstm").output)
    texts = tf.constant(["W2 w8, w3", "", "nothing w4 w5 w6 w7"])
    ids = np.array([[2, 8, 3, 0], [0, 0, 0, 0], [1, 4, 5, 6]], np.int32)
    np.testing.assert_allclose(found.model(texts), features(ids), atol=1e-6)
    assert found.notes == (
        "Vocabulary: 7 words (a list of words, ids by line from 2; padding 0, unknown words 1); "
        "texts are lower-cased; vanish: !\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'. Each text has 4 "
        "tokens, padded and cut at its end.",
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ids_as_floats_in_a_model_in_a_model(tmp_path, precision):
    path = make_nested(tmp_path)
    words = {f"w{number}": number for number in range(1, 9)}
    (tmp_path / "index.json").write_text(json.dumps(words))
    spec = specs.ModelSpec(model=str(path))
    data = specs.DataSpec(vocabulary=str(tmp_path / "index.json"))
    found = loading.load_backbone(spec, precision=precision, data=data)
    # Opened, so that each of its layers can be frozen.
    assert found.table.names == ("words", "mean") and found.dropped == ("old",)
    assert found.notes[0].endswith("Each text has 4 tokens, padded and cut at its beginning.")
    table = loading.load_pretrained(str(path)).get_layer("inner").get_layer("words").weights[0]
    features = tf.cast(found.model(tf.constant(["w1 w2 w3 w4 w5", "w8"])), tf.float32)
    expected = table.numpy()[np.array([[2, 3, 4, 5], [0, 0, 0, 8]])].mean(axis=1)
    np.testing.assert_allclose(features, expected, atol=1e-6 if precision == "float32" else 1e-3)


def test_pieces_are_padded_to_the_length(tmp_path):
    path = make_nested(tmp_path, length=6, dtype="int32")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    found = load(path, vocabulary=str(tmp_path / "vocab.txt"))
    tokens = keras.Model(found.model.inputs, found.model.get_layer("tokenizer").output)
    assert tokens(tf.constant(["Films", "x film film film film"])).numpy().tolist() == [
        [2, 4, 5, 3, 0, 0],
        [2, 1, 4, 4, 4, 3],
    ]
    assert tokens.output.shape == (None, 6)
    flag, message = refusal(path, vocabulary=str(tmp_path / "vocab.txt"), token_padding="pre")
    assert (flag, message) == (
        "--token_padding",
        "--vocabulary is of WordPiece, whose texts have 3 tokens or more and are padded at the "
        "end. Received 6 tokens, --token_padding=pre.",
    )


def test_a_model_of_any_length_needs_one(tmp_path):
    path = make_nested(tmp_path, length=None)
    words = write_words(tmp_path)
    assert refusal(path, vocabulary=words) == (
        "--sequence_length",
        "--model takes token ids of any length. Give the length that it was trained with: "
        "--sequence_length=N, in tokens.",
    )
    found = load(path, vocabulary=words, sequence_length=3, token_padding="pre")
    assert found.model.get_layer("tokenizer")(tf.constant(["w2"])).numpy().tolist() == [[0, 0, 2]]
    assert found.notes[0].endswith("Each text has 3 tokens, padded and cut at its beginning.")


def test_what_does_not_fit_together(sequential, tmp_path):
    words = write_words(tmp_path)
    assert refusal(sequential) == (
        "--vocabulary",
        "--model takes token ids: its input goes into the Embedding 'words' of 10 rows. Give the "
        "vocabulary that it was trained with: --vocabulary=FILE, a word on each line, or the .json "
        "of a Tokenizer.",
    )
    assert refusal(sequential, vocabulary=words, sequence_length=5) == (
        "--sequence_length",
        "--sequence_length=5: --model takes 4 token ids of each text. Leave it out.",
    )
    many = write_words(tmp_path, count=9)
    assert refusal(sequential, vocabulary=many) == (
        "--vocabulary",
        f"{many}: 'w10' has the id 10, and the Embedding 'words' only 10 rows, ids 0 to 9. Give "
        "the vocabulary that the model was trained with. If it was a Tokenizer(num_words=...), "
        "give its to_json(), which tells the number.",
    )
    path = tmp_path / "vector.keras"
    keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)]).save(path)
    assert refusal(path, vocabulary=words) == (
        "--vocabulary",
        f"--vocabulary={words} has no effect: --model has no one input of token ids, (batch, "
        "length), that goes into an Embedding. Leave it out.",
    )
    assert refusal(path, sequence_length=9) == (
        "--sequence_length",
        "--sequence_length=9 has no effect: --model takes no tokens of ours, or decides the length "
        "of its texts itself. Leave it out.",
    )


def test_categories_and_ids_that_go_elsewhere_are_no_tokens(tmp_path):
    ids = keras.Input((1,), dtype="int32", name="ids")
    keras.Model(ids, L.Dense(2)(L.Flatten()(L.Embedding(9, 3)(ids)))).save(tmp_path / "one.keras")
    several = keras.Input((4,), name="several")
    x = L.Flatten()(L.Embedding(9, 3)(several))
    both = L.Concatenate()([x, several])
    keras.Model(several, L.Dense(2)(both)).save(tmp_path / "two.keras")
    for name in ("one", "two"):
        flag, message = refusal(tmp_path / f"{name}.keras", vocabulary=write_words(tmp_path))
        assert flag == "--vocabulary" and "has no effect" in message


def test_inspect_counts_what_training_counts(sequential, tmp_path):
    stored = inspection.describe(specs.ModelSpec(model=str(sequential)), freeze="1")
    found = load(sequential, vocabulary=write_words(tmp_path))
    assert stored.table == found.table
    assert (stored.dropped, stored.pooling) == (found.dropped, found.pooling)
    assert stored.notes[-1] == (
        "It takes token ids: --vocabulary names the words that it was trained with."
    )


def test_the_length_of_a_text_encoder(tmp_path):
    weights = hugging_face_folders.make_weights()
    model = hugging_face_folders.write(tmp_path / "bert", weights)
    tokenizer = load(model).model.get_layer("tokenizer")
    longest = tokenizer.sequence_length
    found = load(model, sequence_length=4)
    assert found.notes[-1] == "--sequence_length: texts are cut behind 4 tokens."
    short = found.model.get_layer("tokenizer")
    assert short(tf.constant(["good good good good"])).shape == (1, 4)
    assert type(short).from_config(short.get_config()).sequence_length == 4
    assert refusal(model, sequence_length=longest + 1) == (
        "--sequence_length",
        f"--sequence_length={longest + 1}: --model takes 3 to {longest} tokens of a text. Give one "
        "of these.",
    )
    words = write_words(tmp_path)
    assert refusal(model, vocabulary=words) == (
        "--vocabulary",
        f"--vocabulary={words} has no effect: --model makes tokens of texts itself. Leave it out.",
    )
