import json

import numpy as np
import pytest

from tests import tag_data
from tests.data import record_files
from tf_finetune import objectives, specs
from tf_finetune.data import (
    examples,
    loading,
    pipeline,
    position_batches,
    position_labels,
    sources,
    text_store,
)

EVERY = ("B-PER O", "B-LOC O", "B-PER B-LOC")
HEAD = specs.HeadSpec(name="tags", kind="token_classification", label="tags")


def load(path, **options):
    return loading.load_data(specs.DataSpec(data=str(path), **options), heads=(HEAD,))


def collect(split):
    dataset = pipeline.make_dataset(split, text_store.TextSpec(), batch_size=4)
    found = {}
    for inputs, labels in dataset.as_numpy_iterator():
        widths = [len(text.split()) for text in inputs["text"]]
        assert labels["tags"].shape == (len(widths), max(widths))
        for text, tags, width in zip(inputs["text"], labels["tags"], widths, strict=True):
            assert (tags[width:] == -1).all()
            found[text.decode()] = tags[:width].tolist()
    return found


def test_batches_have_a_tag_for_each_word(tmp_path):
    sentences = tag_data.make_sentences(30)
    splits = load(tag_data.write_csv(tmp_path / "tags.csv", sentences))
    classes = splits.heads[0].classes
    assert classes == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    true = {" ".join(words): [classes.index(tag) for tag in tags] for words, tags in sentences}
    for split in splits.parts:
        for text, tags in collect(split).items():
            assert tags == true[text]
    counts = splits.train.positions["tags"].counts.sum(axis=0)
    assert counts.sum() == sum(len(text.split()) for text in splits.train.texts)
    again = load(tag_data.write_jsonl(tmp_path / "t.jsonl", sentences), text_column="tokens")
    assert collect(again.train) == collect(splits.train)


@pytest.mark.parametrize("make", [list, examples.object_array])
def test_lists_from_python_are_lists_of_a_file(tmp_path, make):
    sentences = tag_data.make_sentences(30)
    texts = make([" ".join(words) for words, _ in sentences])
    spec = specs.DataSpec(split=(1.0, 0.0, 0.0))
    source = {"text": texts, "tags": make([tags for _, tags in sentences])}
    splits = loading.load_data(spec, heads=(HEAD,), data=source)
    path = tag_data.write_jsonl(tmp_path / "t.jsonl", sentences)
    of_file = load(path, text_column="tokens", split=(1.0, 0.0, 0.0))
    assert splits.heads == of_file.heads
    assert collect(splits.train) == collect(of_file.train)


def test_mistakes_are_told_with_their_lines(tmp_path):
    path = tmp_path / "tags.jsonl"
    rows = ('["a", "b"], "tags": ["O"]', '["a", "c"], "tags": ["O", "X Y"]', '["a b"], "tags": "O"')
    path.write_text("".join(f'{{"tokens": {row}}}\n' for row in rows))
    spec = specs.DataSpec(data=str(path), text_column="tokens")
    parts, problems = loading.load_parts(spec)
    assert [problem.message for problem in problems] == [
        f"{path}, line 3: expected a text, or a list of words without spaces in them."
    ]
    _, problems = loading.examine_parts(parts, spec, heads=(HEAD,))
    messages = sorted(problem.message for problem in problems)
    assert messages[:2] == [
        f"{path}, line 1: expected a tag for each of 2 words. Received 1 tags.",
        f"{path}, line 2: tag 'X Y': expected one word.",
    ]


def test_an_empty_cell_has_no_tags_beside_another_head(tmp_path):
    path = tmp_path / "tags.csv"
    rows = [f"{' '.join(words)},{' '.join(tags)}" for words, tags in tag_data.make_sentences(20)]
    path.write_text("text,tags\n" + "\n".join(rows) + "\nthe film,\n")
    heads = (HEAD, specs.HeadSpec(name="other", kind="token_classification", label="tags"))
    splits = loading.load_data(specs.DataSpec(data=str(path)), heads=heads)
    labels = np.concatenate([part.labels["tags"] for part in splits.parts])
    assert (labels < 0).sum() == 1


def test_tags_may_be_numbers(tmp_path):
    path = tmp_path / "tags.jsonl"
    rows = [["the", "cat", "the"], [0, 0, 1]], [["the", "dog", "the"], [0, 1, 1]]
    lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows * 5]
    path.write_text("\n".join(lines) + "\n")
    part = sources.load_source(specs.DataSpec(text_column="tokens"), str(path), flag="data")
    found = set(zip(part.inputs.texts, map(str, part.labels["tags"]), strict=True))
    assert found == {("the cat the", "('0', '0', '1')"), ("the dog the", "('0', '1', '1')")}
    splits = load(path, text_column="tokens")
    for split in splits.parts:
        for text, tags in collect(split).items():
            assert tags == ([0, 0, 1] if "cat" in text else [0, 1, 1])
    assert splits.heads[0].classes == ("0", "1")


def test_records_keep_every_word_and_tag(tmp_path):
    rows = [([b"the", b"cat", b"the", b"dog"], [0, 0, 0, 1]), ([b"a", b"a"], [1, 1])] * 6
    records = [record_files.example(tokens=words, tags=tags) for words, tags in rows]
    named = [
        record_files.example(tokens=words, tags=[b"OB"[tag : tag + 1] for tag in tags])
        for words, tags in rows
    ]
    for name, content in (("a.tfrecord", records), ("b.tfrecord", named)):
        path = tmp_path / name
        path.write_bytes(b"".join(map(record_files.frame, content)))
        splits = load(path, text_column="tokens", classes="O,B")
        assert splits.heads[0].classes == ("O", "B")
        texts = {text for split in splits.parts for text in split.texts}
        assert texts == {"the cat the dog", "a a"}
        for split in splits.parts:
            for text, tags in collect(split).items():
                assert tags == ([0, 0, 0, 1] if "cat" in text else [1, 1])


def test_an_untagged_text_may_be_the_longest_of_its_batch(tmp_path):
    """Two heads, of which one has no tags for it: labels are as wide as what the model gives."""
    path = tmp_path / "tags.csv"
    rows = [f"{' '.join(words)},{' '.join(tags)},X Y" for words, tags in make_short(20)]
    rows += [f"{'w ' * 9},,{'X ' * 9}"]
    path.write_text("text,tags,other\n" + "\n".join(rows) + "\n")
    heads = (HEAD, specs.HeadSpec(name="other", kind="token_classification", label="other"))
    spec = specs.DataSpec(data=str(path), split=(1.0, 0.0, 0.0))
    split = loading.load_data(spec, heads=heads).train
    dataset = pipeline.make_dataset(split, text_store.TextSpec(), batch_size=21)
    ((inputs, labels),) = dataset.as_numpy_iterator()
    (row,) = [row for row, text in enumerate(inputs["text"]) if len(text.split()) == 9]
    assert labels["tags"].shape == labels["other"].shape == (21, 9)
    assert (labels["tags"][row] == -1).all() and (labels["other"][row] >= 0).all()
    assert (labels["tags"][:, 2:] == -1).all()
    loss = objectives.HeadLoss("token_classification", labelled_fraction=40 / 21)
    found = loss(labels["tags"], np.zeros((21, 9, 2), np.float32), sample_weight=np.ones(21) / 21)
    assert float(found) == pytest.approx(np.log(2), rel=1e-5)


def test_words_are_counted_where_no_tags_tell_them():
    texts = examples.object_array(["a b c", "d e f g", "h"])
    store = position_labels.TagLabels(
        np.array([1, 1], np.int32), np.array([2, 0, 0]), np.zeros((3, 2), np.int64)
    )
    split = loading.Split(
        name="train",
        keys=texts,
        inputs=text_store.Texts(texts),
        indices=np.arange(3),
        labels={"tags": np.array([0, -1, -1], np.int32)},
        positions={"tags": store},
    )
    make = position_batches.make_targets(split, text_store.TextSpec(), view=None)
    # No file has two tags for three words: this text shows what is asked about it.
    assert make(np.array([0, 2]))["tags"].numpy().tolist() == [[1, 1], [-1, -1]]
    assert make(np.array([0, 1]))["tags"].numpy().tolist() == [[1, 1, -1, -1], [-1] * 4]


def make_short(count):
    return [(("a", f"b{number}"), ("O", "B-PER")) for number in range(count)]


def find_problems(folder, *, train):
    """Of `train` for training, and both other splits with every tag."""
    rows = [f"{row},train" for row in train]
    rows += [f"x{name} y,{tags},{name}" for name in ("validation", "test") for tags in EVERY]
    path = folder / "tags.csv"
    path.write_text("text,tags,split\n" + "\n".join(rows) + "\n")
    spec = specs.DataSpec(data=str(path), split_column="split")
    parts, _ = loading.load_parts(spec)
    splits, problems = loading.examine_parts(parts, spec, heads=(HEAD,))
    return splits is None, [problem.message for problem in problems]


def test_tags_that_training_lacks(tmp_path):
    assert find_problems(tmp_path, train=["a b,O O", "a c,O O"]) == (
        True,
        [
            "all words of the train split of head 'tags' are of class 'O'. Expected two classes or "
            "more."
        ],
    )
    assert find_problems(tmp_path, train=["a b,O B-PER", "a c,O O"]) == (
        False,
        ["the train split has no word of 1 of 3 classes of head 'tags': 'B-LOC'."],
    )
    assert find_problems(tmp_path, train=["a b,O B-PER", "a c,B-LOC O"]) == (False, [])
