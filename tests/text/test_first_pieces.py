import keras
import numpy as np
import tensorflow as tf

from tf_finetune.text import first_pieces, spaces, wordpiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##s", "##er", "film", "!", "a"]
TEXTS = ["goods film!", "", "a goodser\u2003goods\u00a0film a", "film"]


def test_words_are_those_of_the_data():
    texts = [
        "a b\u00a0c  \u2003d\n",
        "",
        "  x\x1cy\x85z\u3000w ",
        "ünï 漢字 e\u200bf",
        "\t",
        "\u2028 a",
    ]
    found = first_pieces.split_at_space(tf.constant(texts)).to_list()
    expected = [spaces.split_words(text) for text in texts]
    assert [[word.decode() for word in words] for words in found] == expected
    assert expected[0] == ["a", "b", "c", "d"]
    # A control character is part of a word, whatever C thinks of it.
    odd = first_pieces.split_at_space(tf.constant(["a\x0bb \x0c"])).row_lengths()
    assert odd.numpy().tolist() == [2] == [len(spaces.split_words("a\x0bb \x0c"))]


def make_model(sequence_length):
    text = keras.Input((), dtype="string", name="text")
    tokenizer = wordpiece.WordPieceTokenizer("\n".join(PIECES), sequence_length=sequence_length)
    hidden = keras.layers.Embedding(len(PIECES), 1, name="ids")(tokenizer(text))
    words = first_pieces.SplitAtSpace()(text)
    again = wordpiece.WordPieceTokenizer("\n".join(PIECES), sequence_length=sequence_length)
    picked = first_pieces.FirstPieces(tokenizer.padding_id)(text, again(words), hidden)
    model = keras.Model(text, picked)
    # Each piece's vector is its id.
    model.get_layer("ids").set_weights([np.arange(len(PIECES))[:, None]])
    return model


def pick(model):
    pieces = model(tf.constant(TEXTS)).numpy()[..., 0].astype(int)
    return [[PIECES[number] for number in row] for row in pieces]


PAD = "[PAD]"


def test_each_word_has_its_first_piece(tmp_path):
    expected = [
        ["good", "film", PAD, PAD, PAD],
        [PAD] * 5,
        ["a", "good", "good", "film", "a"],
        ["film", PAD, PAD, PAD, PAD],
    ]
    model = make_model(20)
    assert pick(model) == expected
    model.save(tmp_path / "model.keras")
    assert pick(keras.saving.load_model(tmp_path / "model.keras")) == expected


def test_a_word_that_was_cut_off_gets_zeros():
    # [CLS] a good ##s ##er good [SEP]: the second goods is cut in half, film and a are gone.
    assert pick(make_model(7))[2] == ["a", "good", "good", PAD, PAD]
