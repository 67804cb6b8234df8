"""What a file of --vocabulary says, and what is wrong with one."""

import json

import pytest

from tf_finetune import findings
from tf_finetune.models.encoders import vocabulary_files

MARKS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'


def write(folder, content, name="words.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(folder, content, name="words.txt"):
    return vocabulary_files.read_vocabulary(write(folder, content, name))


def refusals(folder, content, name="words.txt"):
    with pytest.raises(findings.RefusedError) as caught:
        read(folder, content, name)
    assert {problem.flag for problem in caught.value.problems} == {"--vocabulary"}
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("lines", "ids", "unknown_id"),
    [
        # As TextVectorization(vocabulary=...) takes them, and as its get_vocabulary() gives them.
        (["good", "bad"], {"good": 2, "bad": 3}, 1),
        (["", "[UNK]", "good", "bad"], {"good": 2, "bad": 3}, 1),
        (["<pad>", "<unk>", "good"], {"good": 2}, 1),
        (["[UNK]", "good"], {"good": 2}, 1),
        (["<PAD>", "good", "<OOV>"], {"good": 1}, 2),
        (["[PAD]", "good"], {"good": 1}, None),
    ],
)
def test_a_list_of_words(tmp_path, lines, ids, unknown_id):
    for end in ("", "\n", "\r\n"):
        separator = "\r\n" if end == "\r\n" else "\n"
        found = read(tmp_path, "\ufeff" + separator.join(lines) + end)
        assert (found.pieces, found.ids, found.padding) == ((), ids, "post")
        assert found.rules == {
            "unknown_id": unknown_id,
            "lower_case": "ascii",
            "parted_at": "",
            "dropped": MARKS + "'",
        }
    assert found.highest_id == max([*ids.values(), unknown_id or 0])
    start = 2 - lines.index("good") if unknown_id == 1 else 0
    assert f"ids by line from {start}; padding 0, " in found.description


def test_what_words_have_in_them_is_no_punctuation(tmp_path):
    found = read(tmp_path, "don't\nNew\n,")
    assert found.rules["dropped"] == MARKS.replace(",", "")
    assert found.rules["lower_case"] is None
    assert found.description == (
        "3 words (a list of words, ids by line from 2; padding 0, unknown words 1); capital "
        f"letters stay; vanish: {found.rules['dropped']}"
    )


def test_pieces(tmp_path):
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "##s", "!"]
    found = read(tmp_path, "\n".join(lines) + "\n")
    assert found.pieces == tuple(lines)
    assert (found.rules, found.padding, found.highest_id) == ({"lower_case": True}, "post", 6)
    assert read(tmp_path, "\n".join([*lines, "Film"])).rules == {"lower_case": False}
    assert refusals(tmp_path, "[PAD]\n[CLS]\nfilm\n##s") == [
        f"{tmp_path}/words.txt: has pieces of words (## or [CLS]) but not '[UNK]', '[SEP]'. "
        "Expected the vocab.txt of a WordPiece tokenizer."
    ]


def test_a_word_index(tmp_path):
    found = read(tmp_path, json.dumps({"<OOV>": 1, "the": 2, "don't": 9}), "index.json")
    assert (found.ids, found.padding, found.highest_id) == ({"the": 2, "don't": 9}, "pre", 9)
    assert found.highest_word == "don't"
    assert found.rules == {
        "unknown_id": 1,
        "lower_case": "unicode",
        "parted_at": MARKS,
        "dropped": "",
    }
    found = read(tmp_path, '{"<pad>": 0, "the": 1}', "index.json")
    assert (found.ids, found.rules["unknown_id"]) == ({"the": 1}, None)
    assert "unknown words are left out); texts are lower-cased; part words: !" in found.description


def test_a_saved_tokenizer_keeps_its_rules(tmp_path):
    text = pytest.importorskip("tf_keras").preprocessing.text
    texts = ["The film; the story.", "a Film of the town"]
    for options, ids, rules in (
        ({"num_words": 4, "oov_token": "?"}, {"the": 2, "film": 3}, (1, "unicode", MARKS)),
        ({"num_words": 3}, {"the": 1, "film": 2}, (None, "unicode", MARKS)),
        (
            {"filters": ".", "lower": False},
            {"the": 1, "The": 2, "film;": 3, "story": 4, "a": 5, "Film": 6, "of": 7, "town": 8},
            (None, None, "."),
        ),
    ):
        tokenizer = text.Tokenizer(**options)
        tokenizer.fit_on_texts(texts)
        found = read(tmp_path, tokenizer.to_json(), "tokenizer.json")
        assert (found.ids, found.padding) == (ids, "pre")
        assert tuple(found.rules[name] for name in ("unknown_id", "lower_case")) == rules[:2]
        assert found.rules["parted_at"].split() == [rules[2]]
    kept = read(
        tmp_path,
        text.Tokenizer(char_level=False).to_json().replace('"{}"', '"{\\"a\\": 1}"'),
        "t.json",
    )
    assert kept.ids == {"a": 1}


def test_what_is_no_tokenizer_of_words(tmp_path):
    def saved(**config):
        config = {"word_index": '{"a": 1}', **config}
        return json.dumps({"class_name": "Tokenizer", "config": config})

    path = f"{tmp_path}/t.json"
    assert refusals(tmp_path, saved(char_level=True), "t.json") == [
        f"{path}: is a Tokenizer of characters (char_level). Expected one of words."
    ]
    assert refusals(tmp_path, saved(split="|"), "t.json") == [
        f"{path}: is a Tokenizer that splits at '|'. Expected one of blanks."
    ]
    assert refusals(tmp_path, saved(word_index=None), "t.json") == [
        f"{path}: is a Tokenizer without a word_index. The file is damaged."
    ]
    for content in ("[1]", "{}", '{"class_name": "Tokenizer", "config": {"word_index": "{}"}}'):
        assert refusals(tmp_path, content, "t.json") == [
            f"{path}: expects an object {{word: id}}, or a Tokenizer's to_json()."
        ]
    for content in ('{"a": 1', "[" * 9999, saved(word_index="{")):
        assert refusals(tmp_path, content, "t.json") == [
            f"{path}: is not JSON. The file is damaged."
        ]


def test_every_bad_id_is_told(tmp_path):
    ids = {"a": 0, "b": 1.5, "c\n": "2", "d": -1, "e": True, "f": 3, "g": 3}
    path = f"{tmp_path}/t.json"
    assert refusals(tmp_path, json.dumps(ids), "t.json") == [
        f"{path}: 'a' has the id 0, which is the padding's. Expected 1 or more.",
        f"{path}: the id of 'b' is no whole number from 1. Received 1.5.",
        f"{path}: the id of 'c\\n' is no whole number from 1. Received '2'.",
        f"{path}: the id of 'd' is no whole number from 1. Received -1.",
        f"{path}: the id of 'e' is no whole number from 1. Received True.",
    ]
    assert refusals(tmp_path, '{"f": 3, "g": 3}', "t.json") == [
        f"{path}: 'g' and 'f' have the same id 3. Expected each id once."
    ]


def test_every_bad_line_is_told(tmp_path):
    path = f"{tmp_path}/words.txt"
    assert refusals(tmp_path, "good\n\nbad\ngood\n \n") == [
        f"{path}, line 2: is empty. Expected a word or piece of a word on each line.",
        f"{path}, line 4: 'good' stands in line 1 already. Expected each once.",
        f"{path}, line 5: is empty. Expected a word or piece of a word on each line.",
    ]
    assert refusals(tmp_path, b"good\nb\xe4d\n") == [
        f"{path}, line 2: is not UTF-8. Save it as UTF-8."
    ]
    assert refusals(tmp_path, "") == [
        f"{path}, line 1: is empty. Expected a word or piece of a word on each line."
    ]
    with pytest.raises(findings.RefusedError, match=r"gone\.txt: cannot be read: No such file"):
        vocabulary_files.read_vocabulary(str(tmp_path / "gone.txt"))
