import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.text import samples
from tf_finetune.text import byte_pair_tokenizer, byte_pairs

TOKENS = ["<s>", "</s>", "<unk>", "t", "h", "e", "f", "i", "l", "m", "Ġ", "a"]
MERGES = ["t h", "th e", "f i", "l m", "fi lm", "Ġ the", "a a", "aa aa"]
VOCABULARY = {
    token: number
    for number, token in enumerate([*TOKENS, *[merge.replace(" ", "") for merge in MERGES]])
}
CONTRACTIONS = (
    "it's 'tis  y'all're  !'s 's 's's",
    "'S 'LL 'll'll don't've end'",
    "x\n\n y\t\tz  ",
    "  lead   three    and trailing   ",
    "\u2028a\u00a0b \u00a0 c\n",
    "45a6 '''re '",
)


def make(**arguments):
    arguments = {"first_token": "<s>", "last_token": "</s>", **arguments}
    return byte_pair_tokenizer.BytePairTokenizer(
        json.dumps(VOCABULARY), "\n".join(MERGES), **arguments
    )


def tokens_of(layer, texts):
    names = {number: token for token, number in VOCABULARY.items()}
    return [[names[i] for i in row if i >= 0] for row in layer(tf.constant(texts)).numpy()]


def test_pairs_merge_by_rank():
    assert tokens_of(make(), ["the film", "film the", ""]) == [
        ["<s>", "the", "Ġ", "film", "</s>"],
        ["<s>", "film", "Ġthe", "</s>"],
        ["<s>", "</s>"],
    ]


def test_overlapping_pairs_merge_from_the_left():
    found = tokens_of(make(), ["a" * count for count in range(1, 8)])
    assert [row[1:-1] for row in found] == [
        ["a"],
        ["aa"],
        ["aa", "a"],
        ["aaaa"],
        ["aaaa", "a"],
        ["aaaa", "aa"],
        ["aaaa", "aa", "a"],
    ]


def test_bytes_that_the_vocabulary_lacks():
    assert tokens_of(make(), ["the é"]) == [["<s>", "the", "Ġ", "</s>"]]
    row = ["<s>", "the", "Ġ", "<unk>", "<unk>", "</s>"]
    assert tokens_of(make(unknown_token="<unk>"), ["the é"]) == [row]


def test_texts_are_cut_and_padded_and_a_space_may_lead():
    ids = make(sequence_length=4)(tf.constant(["the the the", "a"])).numpy()
    assert ids[:, 0].tolist() == [0, 0] and ids[0, -1] == 1 and ids[1].tolist() == [0, 11, 1, -1]
    assert tokens_of(make(space_first=True), ["the"]) == [["<s>", "Ġthe", "</s>"]]


def test_ids_are_those_of_hugging_faces_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [*CONTRACTIONS, *samples.NASTY, *samples.random_texts(1000, seed=4)]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    stored = json.loads(theirs.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in stored["merges"]]
    layer = byte_pair_tokenizer.BytePairTokenizer(
        json.dumps(stored["vocab"]),
        "\n".join(merges),
        first_token="<s>",
        last_token="<s>",
        sequence_length=500,
    )
    for text, row in zip(texts, layer(tf.constant(texts)).numpy(), strict=True):
        assert [i for i in row if i >= 0][1:-1] == theirs.encode(text).ids, text


def test_a_saved_layer_carries_its_vocabulary(tmp_path):
    text = keras.Input((), dtype="string", name="text")
    model = keras.Model(text, make()(text))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    texts = tf.constant(list(CONTRACTIONS))
    np.testing.assert_array_equal(again(texts), model(texts))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^The vocabulary lacks the special token 'x'\.$"):
        make(first_token="x")
    with pytest.raises(ValueError, match=r"^sequence_length expects 3 or more. Received 1\.$"):
        make(sequence_length=1)
    with pytest.raises(ValueError, match=r"^merge 2 joins what nothing makes: 'th e'\.$"):
        byte_pairs.make_merges(VOCABULARY, ["h t", "th e"])
