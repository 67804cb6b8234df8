import collections
import string

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.text import bert_reference, samples
from tf_finetune.text import word_pieces, wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = [*string.ascii_lowercase, *string.ascii_uppercase, *string.digits, *string.punctuation]
WORDS = ["film", "##s", "##ing", "un", "##aff", "##able", "unaff", "déjà", "deja", "日", "hello"]
VOCABULARY = [*SPECIAL, *LETTERS, *[f"##{letter}" for letter in LETTERS[:30]], *WORDS]
UNCASED = {"lower_case": True, "strip_accents": True, "space_cjk": True}
CASED = {"lower_case": False, "strip_accents": False, "space_cjk": True}


def make(vocabulary=VOCABULARY, **arguments):
    return wordpiece.WordPieceTokenizer("\n".join(vocabulary), **arguments)


def rows_of(layer, texts):
    return [[i for i in row if i != layer.padding_id] for row in layer(tf.constant(texts)).numpy()]


def train_vocabulary(sentences):
    words = collections.Counter(word for text in sentences for word in text.lower().split())
    frequent = [word for word, _ in words.most_common(1500)]
    endings = [f"##{word[-3:]}" for word in frequent] + [f"##{word[-2:]}" for word in frequent]
    return list(dict.fromkeys([*VOCABULARY, *frequent, *endings]))


@pytest.mark.parametrize("rules", [UNCASED, CASED], ids=["uncased", "cased"])
def test_ids_are_those_of_the_reference(rules):
    texts = [*samples.NASTY, *samples.random_texts(500, seed=2)]
    expected = [bert_reference.tokenize(t, VOCABULARY, length=64, **rules) for t in texts]
    assert rows_of(make(sequence_length=64, **rules), texts) == expected


def test_film_reviews_become_the_ids_of_the_reference(shared):
    texts = samples.read_reviews(shared, step=11)
    vocabulary = train_vocabulary(texts)
    expected = [bert_reference.tokenize(t, vocabulary, length=48, **UNCASED) for t in texts]
    rows = rows_of(make(vocabulary, sequence_length=48), texts)
    assert rows == expected
    unknown = sum(row.count(1) for row in rows)
    assert len(texts) > 900 and unknown < 0.2 * sum(map(len, rows))


@pytest.mark.parametrize("rules", [UNCASED, CASED], ids=["uncased", "cased"])
def test_ids_are_those_of_hugging_faces_tokenizers(rules):
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {piece: number for number, piece in enumerate(VOCABULARY)}
    model = tokenizers.models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)
    theirs = tokenizers.Tokenizer(model)
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=rules["lower_case"], strip_accents=rules["strip_accents"]
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    texts = [*samples.NASTY, *samples.random_texts(500, seed=3)]
    expected = [[2, *theirs.encode(text).ids, 3] for text in texts]
    assert rows_of(make(sequence_length=400, **rules), texts) == expected


def test_longest_pieces_come_first():
    ids = {piece: number for number, piece in enumerate(VOCABULARY)}
    names = ["[CLS]", "unaff", "##able", "film", "##s", "[SEP]"]
    assert rows_of(make(), ["unaffable films"]) == [[ids[name] for name in names]]


def test_a_word_without_pieces_is_unknown_as_a_whole():
    assert rows_of(make([*SPECIAL, "a", "##b"]), ["abx ab a xab"]) == [[2, 1, 4, 5, 4, 1, 3]]


def test_texts_are_cut_and_padded_to_the_longest_of_the_batch():
    layer = make([*SPECIAL, "a"], sequence_length=5)
    ids = layer(tf.constant(["a a a a a a", "a", ""])).numpy()
    np.testing.assert_array_equal(ids, [[2, 4, 4, 4, 3], [2, 4, 3, 0, 0], [2, 3, 0, 0, 0]])
    assert layer(tf.constant(["a", ""])).shape == (2, 3)
    assert layer(tf.constant([], tf.string)).shape[0] == 0


def test_a_special_token_in_a_text_is_text():
    rows = rows_of(make(), ["a [SEP] b", "[PAD]"])
    assert [row.count(3) for row in rows] == [1, 1]
    assert len(rows[1]) > 3


def test_the_last_of_equal_pieces_counts():
    assert rows_of(make([*SPECIAL, "a", "a"]), ["a"]) == [[2, 5, 3]]


def test_pieces_are_found_whatever_their_order():
    trie = word_pieces.make_trie(["##", "", "abc", "a", "##c"])
    assert (trie.depth, len(trie.keys)) == (3, 4)
    assert np.all(np.diff(trie.keys) > 0)


def test_a_saved_layer_carries_its_vocabulary(tmp_path):
    text = keras.Input((), dtype="string", name="text")
    model = keras.Model(text, make(sequence_length=9, first_token="[PAD]")(text))
    model.save(tmp_path / "here.keras")
    (tmp_path / "there").mkdir()
    (tmp_path / "here.keras").rename(tmp_path / "there" / "model.keras")
    again = keras.models.load_model(tmp_path / "there" / "model.keras")
    texts = tf.constant(list(samples.NASTY))
    np.testing.assert_array_equal(again(texts), model(texts))
    assert again.layers[-1].get_config() == model.layers[-1].get_config()


def test_the_graph_has_no_tables_and_no_python():
    graph = tf.function(make().call).get_concrete_function(tf.TensorSpec([None], tf.string)).graph
    kinds = {node.op for node in graph.as_graph_def().node}
    kinds |= {node.op for f in graph.as_graph_def().library.function for node in f.node_def}
    assert not [kind for kind in kinds if "Table" in kind or "PyFunc" in kind or "Text" in kind]
    assert "UnicodeDecode" in kinds


def test_a_vocabulary_without_a_special_token_is_refused():
    with pytest.raises(ValueError, match=r"^The vocabulary lacks the special token '\[UNK\]'\.$"):
        make(["[PAD]", "[CLS]", "[SEP]", "a"])
    with pytest.raises(ValueError, match=r"^sequence_length expects 3 or more. Received 2\.$"):
        make(sequence_length=2)
