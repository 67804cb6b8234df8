"""A tag for each word through the door: names are found, noise is refused, strings in, tags out."""

import csv
import json

import keras
import numpy as np
import pytest

from tests import tag_data
from tests.models import hugging_face_folders
from tf_finetune import main

HEAD = "--head=name=tags,kind=token_classification,label=tags,dropout=0"
FLAGS = ("--phase=name=all,epochs=8,learning_rate=0.03,freeze=none", "--batch_size=16")
# Parts of random weights that are made small, so that the blocks add little to a token's vector: a
# tag of `tag_data` can be told by its word, and is learnt in seconds.
SMALL = {".output.dense": 0.1, "position_embeddings": 0.3, "token_type_embeddings": 0.3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = hugging_face_folders.make_weights()
    for part, factor in SMALL.items():
        weights |= {name: factor * value for name, value in weights.items() if part in name}
    return hugging_face_folders.write(tmp_path_factory.mktemp("model") / "bert", weights)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tags.csv"
    return tag_data.write_csv(path, tag_data.make_sentences(160))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = (f"--model={model}", f"--data={data}", f"--workdir={folder}", HEAD, *FLAGS)
    assert main.main([*flags, "--require_min=test/entity_f1:1"]) == 0
    return folder


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_names_are_found(finished):
    measured = read_summary(finished)["test"]["tags"]
    assert list(measured) == ["token_accuracy", "f1_macro", "f1_micro", "entity_f1", "log_loss"]
    assert [measured[name] for name in list(measured)[:4]] == [1.0] * 4
    assert measured["log_loss"] < 0.05
    page = (finished / "evaluation" / "test" / "report.md").read_text()
    assert page.splitlines()[2] == "**Entity F1 1.0000 (16 examples).**"
    assert "| class | precision | recall | f1 | words | predicted |" in page


def test_noise_is_not_learnt(tmp_path, model):
    """Tags of the same sentences, drawn evenly out of three: one in three is right by chance."""
    path = tag_data.write_csv(tmp_path / "tags.csv", tag_data.make_sentences(160, shuffled=True))
    flags = (f"--model={model}", f"--data={path}", f"--workdir={tmp_path / 'run'}", HEAD, *FLAGS)
    assert main.main([*flags, "--require_min=test/entity_f1:0.9"]) == 3
    measured = read_summary(tmp_path / "run")["test"]["tags"]
    assert measured["token_accuracy"] < 0.5
    assert measured["entity_f1"] < 0.5
    assert measured["log_loss"] > 0.95 * np.log(3)


def test_run_and_export_tag_alike(finished, data, tmp_path):
    version = read_summary(finished)["export"]["path"]
    for name, source in (("run", f"--workdir={finished}"), ("export", f"--model={version}")):
        flags = (source, f"--input={data}", f"--output={tmp_path / name}.csv")
        assert main.main(["--mode=predict", *flags]) == 0
    assert (tmp_path / "run.csv").read_bytes() == (tmp_path / "export.csv").read_bytes()
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["line", "text", "tags", "error"]
    true = [tags for _, tags in tag_data.make_sentences(160)]
    found = [row["tags"].split() for row in rows]
    assert [len(tags) for tags in found] == [len(tags) for tags in true]
    assert found == true
    flags = (f"--workdir={finished}", f"--input={data}", f"--output={tmp_path / 'run.jsonl'}")
    assert main.main(["--mode=predict", *flags]) == 0
    first = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])
    assert first["predictions"]["tags"] == {"words": rows[0]["text"].split(), "tags": found[0]}


def test_the_export_takes_strings(finished):
    import tensorflow as tf

    served = tf.saved_model.load(read_summary(finished)["export"]["path"]).signatures
    texts = tf.constant(["the  goods was m t", "", "film r"])
    answer = {name: value.numpy() for name, value in served["serving_default"](text=texts).items()}
    assert sorted(answer) == ["class_ids", "classes", "probabilities"]
    assert [(row != b"").sum() for row in answer["classes"]] == [5, 0, 2]
    # "goods" is two pieces, and the name behind it is found all the same.
    assert answer["classes"][0, 3] == b"B-PER"
    assert answer["classes"][2].tolist() == [b"O", b"B-LOC", b"", b"", b""]
    assert (answer["class_ids"] == -1).tolist() == (answer["classes"] == b"").tolist()
    assert np.allclose(answer["probabilities"].sum(axis=-1), 1, atol=1e-5)


def test_lists_of_words_say_the_same(finished, tmp_path, capsys):
    """The same sentences as lists get the same numbers, and the config runs on them."""
    path = tag_data.write_jsonl(tmp_path / "text.jsonl", tag_data.make_sentences(160))
    path.write_text(path.read_text().replace('"tokens"', '"text"'))
    other = tag_data.write_csv(tmp_path / "text.csv", tag_data.make_sentences(160))
    pages = []
    for source in (path, other):
        assert main.main(["--mode=evaluate", f"--workdir={finished}", f"--test_data={source}"]) == 0
        pages.append(next(x for x in capsys.readouterr().out.splitlines() if "  tags: " in x))
    assert pages[0] == pages[1]


def test_the_config_runs(tmp_path, model, repository):
    path = tag_data.write_jsonl(tmp_path / "tags.jsonl", tag_data.make_sentences(60))
    flags = (
        f"--flagfile={repository / 'configs' / 'token_tags.flags'}",
        f"--model={model}",
        f"--data={path}",
        "--text_column=tokens",
        "--phase=name=all,epochs=3,freeze=none,learning_rate=0.01",
        f"--workdir={tmp_path / 'run'}",
    )
    assert main.main(flags) == 0
    labels = tmp_path / "run" / "export" / "1" / "assets" / "labels_tags.txt"
    assert labels.read_text().split() == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]


@pytest.mark.slow
def test_a_model_of_token_ids(tmp_path):
    """Its vector of each token is in front of the pooling, its vocabulary is WordPiece."""
    pieces = hugging_face_folders.PIECES
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    keras.utils.set_random_seed(0)
    tokens = keras.Input((24,), dtype="int32")
    x = keras.layers.Embedding(len(pieces), 8, mask_zero=True)(tokens)
    x = keras.layers.Bidirectional(keras.layers.GRU(6, return_sequences=True))(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    keras.Model(tokens, outputs).save(tmp_path / "gru.keras")
    path = tag_data.write_csv(tmp_path / "tags.csv", tag_data.make_sentences(160))
    flags = (
        f"--model={tmp_path / 'gru.keras'}",
        f"--vocabulary={tmp_path / 'vocab.txt'}",
        f"--data={path}",
        f"--workdir={tmp_path / 'run'}",
        HEAD,
        *FLAGS,
    )
    assert main.main([*flags, "--require_min=test/f1_micro:0.9"]) == 0


def test_mistakes_have_their_lines(tmp_path, model, capsys):
    path = tmp_path / "tags.csv"
    path.write_text("text,tags\nthe film was good,O O O\na film,O\nr o,B-LOC I-LOC\n")
    flags = (f"--model={model}", f"--data={path}", f"--workdir={tmp_path / 'run'}", HEAD)
    assert main.main(flags) == 2
    assert sorted(capsys.readouterr().err.splitlines())[:2] == [
        f"error: {path}, line 2: expected a tag for each of 4 words. Received 3 tags.",
        f"error: {path}, line 3: expected a tag for each of 2 words. Received 1 tags.",
    ]


def test_what_does_not_fit_is_refused(tmp_path, data, model, capsys):
    from tests import tiny_text

    path = tmp_path / "words.keras"
    tiny_text.make_classifier().save(path)
    given = (f"--data={data}", f"--workdir={tmp_path / 'run'}", HEAD)
    assert main.main([f"--model={path}", *given]) == 2
    assert capsys.readouterr().err == (
        f"error: --head=name=tags,kind=token_classification: --model={path} has no WordPiece "
        "tokenizer of ours. Choose hf:DIR or kerashub:PRESET of a BERT, or a model of token ids "
        "with --vocabulary of WordPiece.\n"
    )
    table = tmp_path / "both.csv"
    table.write_text(
        "text,tags,label\n"
        + "".join(
            f"{' '.join(words)},{' '.join(tags)},{'xy'[number % 2]}\n"
            for number, (words, tags) in enumerate(tag_data.make_sentences(30))
        )
    )
    given = (f"--model={model}", f"--data={table}", f"--workdir={tmp_path / 'run'}", HEAD)
    assert main.main([*given, "--head=name=label,kind=multiclass"]) == 2
    assert capsys.readouterr().err == (
        "error: --head=name=tags,kind=token_classification stands alone. Train a head of the whole "
        "text in another run.\n"
    )
