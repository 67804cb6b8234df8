import os

import numpy as np
import pytest
import tensorflow as tf

from tests.data import data_files, image_bytes, record_files
from tf_finetune import findings, specs
from tf_finetune.data import (
    doctor,
    examples,
    image_heads,
    leaks,
    loaders,
    loading,
    pipeline,
    preprocessing,
    sources,
    tfrecord_source,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3)).astype(np.uint8)
PNGS = [image_bytes.encode(image, "PNG") for image in PIXELS]
PRE = preprocessing.PreprocessingSpec(8, 10, 3)
ADVICE = "Repair the file; --on_bad_example=skip leaves the record out."


def write(path, *records):
    path.write_bytes(b"".join(map(record_files.frame, records)))
    return str(path)


def write_good(path, numbers=range(12)):
    return write(
        path, *(record_files.example(image=PNGS[n], label=n % 2, id=b"%d" % n) for n in numbers)
    )


def load(path, **options):
    return sources.load_source(specs.DataSpec(**options), str(path), flag="data")


def test_images_and_labels(tmp_path):
    part = load(write_good(tmp_path / "a.tfrecord"))
    assert part.keys.tolist() == [f"a.tfrecord/{n:08d}" for n in range(1, 13)]
    assert list(part.labels) == ["label", "id"]
    assert part.labels["label"].tolist() == ["0", "1"] * 6
    assert part.labels["id"].tolist() == [str(n) for n in range(12)]
    assert part.problems == ()
    content = (tmp_path / "a.tfrecord").read_bytes()
    images = part.inputs
    for n in range(12):
        start = images.offsets[n]
        assert content[start : start + images.sizes[n]] == PNGS[n]
        assert start + images.sizes[n] + images.footers[n] == len(content)


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_pixels_arrive_with_their_labels(tmp_path, memory_bytes):
    splits = loading.load_data(specs.DataSpec(data=write_good(tmp_path / "a.tfrecord")))
    splits, pre, problems = pipeline.read_images(
        splits, PRE, on_bad_example="error", memory_bytes=memory_bytes
    )
    assert problems == ()
    for split in (splits.train, splits.validation, splits.test):
        dataset = pipeline.make_dataset(split, pre, batch_size=5, shuffle_seed=3)
        for inputs, labels in dataset.as_numpy_iterator():
            for pixels, label in zip(inputs["image"], labels["label"], strict=True):
                (number,) = np.flatnonzero((pixels == PIXELS).all((1, 2, 3)))
                assert number % 2 == label


def test_16_bits(tmp_path):
    wide = [image_bytes.make_png(np.full((4, 4, 1), 100 + n, np.uint16)) for n in range(8)]
    path = write(
        tmp_path / "a.tfrecord",
        *(record_files.example(image=png, label=n % 2) for n, png in enumerate(wide)),
    )
    splits = loading.load_data(specs.DataSpec(data=path))
    _, pre, _ = pipeline.read_images(splits, PRE, on_bad_example="error")
    assert 100 < pre.pixel_max < 108


def test_shards_by_pattern(tmp_path):
    (tmp_path / "b").mkdir()
    write_good(tmp_path / "x.tfrecord-00000-of-00002", range(4))
    write_good(tmp_path / "x.tfrecord-00001-of-00002", range(4, 7))
    write_good(tmp_path / "b" / "y.tfrecords", range(2))
    part = load(tmp_path / "x.tfrecord-*")
    assert part.keys.tolist()[3:5] == [
        "x.tfrecord-00000-of-00002/00000004",
        "x.tfrecord-00001-of-00002/00000001",
    ]
    assert len(part) == 7
    assert len(load(tmp_path / "x.tfrecord-00001-of-00002")) == 3
    assert load(tmp_path / "*" / "*").keys.tolist() == [
        "y.tfrecords/00000001",
        "y.tfrecords/00000002",
    ]
    # A file whose name looks like a pattern is that file.
    write_good(tmp_path / "[x].tfrecord", range(2))
    assert len(load(tmp_path / "[x].tfrecord")) == 2
    (line,) = data_files.refusal(load, tmp_path / "z*.tfrecord")
    assert line.startswith(f"--data={tmp_path}/z*.tfrecord does not exist. Expected a folder")


def test_numbers_are_places_in_the_classes(tmp_path):
    path = write(
        tmp_path / "a.tfrecord",
        *(record_files.example(image=PNGS[n], label=n % 2) for n in range(8)),
        record_files.example(image=PNGS[8], label=99),
        record_files.example(image=PNGS[9], label=-1),
    )
    part = load(path, classes="cat,dog")
    assert part.labels["label"].tolist() == ["cat", "dog"] * 4 + ["99", "-1"]
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_data(specs.DataSpec(data=path, classes="cat,dog"))
    assert str(caught.value).splitlines() == [
        f"{path}, example a.tfrecord/00000009: label '99' is not a class of --classes: 'cat', "
        "'dog'.",
        f"{path}, example a.tfrecord/00000010: label '-1' is not a class of --classes: 'cat', "
        "'dog'.",
    ]
    # Numbers that are names themselves stay names.
    assert load(path, classes="1,0,99,-1").labels["label"].tolist()[:2] == ["0", "1"]


def test_other_features(tmp_path):
    path = write(
        tmp_path / "a.tfrecord",
        record_files.example(
            **{
                "image/encoded": PNGS[0],
                "image/class/label": [3, 3, 5],
                "image/class/text": "Kätzchen".encode(),
                "box": [0.5, 0.1],
                "raw": bytes(5000),
            }
        ),
        record_files.example(**{"image/encoded": PNGS[1], "image/class/label": 4}),
    )
    part = load(path)
    assert list(part.labels) == ["image/class/label", "image/class/text"]
    assert part.labels["image/class/label"].tolist() == [("3", "5"), ("4",)]
    assert part.labels["image/class/text"].tolist() == ["Kätzchen", ""]
    assert data_files.refusal(load, path, image_column="image/encode") == [
        f"{path}: no record has the feature 'image/encode'. Did you mean 'image/encoded'? They "
        "have 'box', 'image/class/label', 'image/class/text', 'image/encoded', 'raw'. "
        "--image_column names another."
    ]


def test_no_label_feature(tmp_path):
    records = [record_files.example(image=PNGS[n], kind=n % 2, size=3) for n in range(4)]
    path = write(tmp_path / "a.tfrecord", *records)
    assert data_files.refusal(loading.load_data, specs.DataSpec(data=path)) == [
        f"{path}: no record has the feature 'label'. They have 'kind', 'size'. --label_column "
        "names another."
    ]
    assert load(path, label_column="kind").labels["kind"].tolist() == ["0", "1", "0", "1"]


def make_bad(path):
    content = b"".join(
        record_files.frame(data)
        for data in (
            record_files.example(image=PNGS[0], label=0),
            record_files.example(label=0),
            b"no Example at all",
            record_files.example(image=[PNGS[0], PNGS[1]], label=0),
            record_files.example(image=7, label=0),
            b"",
        )
    )
    damaged = bytearray(record_files.frame(record_files.example(image=PNGS[1], label=1)))
    damaged[30] ^= 1
    good = record_files.frame(record_files.example(image=PNGS[2], label=1))
    path.write_bytes(content + bytes(damaged) + good + good[:-3])
    return str(path)


FAULTS = [
    "record 2 has no feature 'image'. It has 'label'.",
    "record 3 is not a valid tf.train.Example.",
    "record 4 is not usable: its feature 'image' holds several values. Expected one, an encoded "
    "image.",
    "record 5 is not usable: its feature 'image' holds int64 values. Expected the bytes of an "
    "encoded image.",
    "record 6 has no feature 'image'. It has none.",
    "record 7 is damaged: the checksum of its data is wrong.",
]


def test_bad_records_are_named(tmp_path):
    path = make_bad(tmp_path / "a.tfrecord")
    part = load(path)
    assert part.keys.tolist() == ["a.tfrecord/00000001", "a.tfrecord/00000008"]
    messages = [problem.message for problem in part.problems]
    assert messages[:-1] == [f"{path}, {fault} {ADVICE}" for fault in FAULTS]
    assert messages[-1].startswith(f"{path}, record 9 is truncated: its length is ")
    assert {problem.severity for problem in part.problems} == {findings.ERROR}
    skipped = load(path, on_bad_example="skip")
    assert len(skipped) == 2
    assert data_files.warnings_of(skipped.problems)[0] == f"{path}, {FAULTS[0]} Skipped."


def test_bad_records_have_an_end(tmp_path):
    path = write(tmp_path / "a.tfrecord", *[b""] * 150, record_files.example(image=PNGS[0]))
    lines = data_files.refusal(load, path, on_bad_example="skip")
    assert len(lines) == 1 and "no record has the feature 'image'" in lines[0]
    good = record_files.example(image=PNGS[0], label=0)
    part = load(write(tmp_path / "a.tfrecord", good, *[b"x"] * 150, good))
    assert len(part) == 1 and len(part.problems) == 101
    assert part.problems[-1].message == f"{path}: after 100 bad records the rest is not read."


def test_examples_that_are_made_to_be_read_for_ever(tmp_path):
    good = record_files.example(image=PNGS[0], label=0)
    # Each pair of bytes is a field: an empty feature, then a number that no field has.
    empty = b"\x0a\x80\x80\x80\x01" + b"\x0a\x00" * 2**20
    path = write(tmp_path / "a.tfrecord", good, empty, good)
    (problem,) = load(path).problems
    assert problem.message == f"{path}, record 2 is not a valid tf.train.Example. {ADVICE}"


def test_features_without_end_make_no_columns_without_end(tmp_path):
    records = [
        record_files.example(image=PNGS[0], label=n, **{f"f{n}_{i}": i for i in range(100)})
        for n in range(20)
    ]
    part = load(write(tmp_path / "a.tfrecord", *records))
    assert part.labels["label"].tolist() == [str(n) for n in range(20)]
    assert len(part.labels) <= 257


def test_long_lists_are_no_labels(tmp_path):
    records = [
        record_files.example(image=PNGS[0], label=n, many=list(range(200_000))) for n in range(2)
    ]
    part = load(write(tmp_path / "a.tfrecord", *records))
    assert list(part.labels) == ["label"]


def test_images_inside_are_checked(tmp_path):
    records = [record_files.example(image=PNGS[n], label=n % 2) for n in range(8)]
    huge = bytearray(PNGS[0])
    huge[16:24] = (100_000).to_bytes(4, "big") * 2
    records += [
        record_files.example(image=b"nope", label=0),
        record_files.example(image=PNGS[9][:-30], label=0),
        record_files.example(image=bytes(huge), label=0),
        record_files.example(image=b"", label=0),
    ]
    path = write(tmp_path / "a.tfrecord", *records)
    found = doctor.examine(specs.DataSpec(data=path)).problems
    errors = [problem for problem in found if problem.severity == findings.ERROR]
    assert [(problem.path, problem.message.split(". ")[0]) for problem in errors] == [
        (path, f"{path}, record 9 is no image that can be decoded: it begins with 'nope'"),
        (
            path,
            f"{path}, record 10 is cut off: a PNG without its last chunk",
        ),
        (
            path,
            f"{path}, record 11 is too large: 100000 x 100000 = 10,000,000,000 pixels, more than "
            "--max_image_pixels=89478485",
        ),
        (path, f"{path}, record 12 is no image that can be decoded: it is empty"),
    ]


def test_the_same_records_in_two_splits_are_seen(tmp_path):
    path = write_good(tmp_path / "a.tfrecord")
    splits = loading.load_data(specs.DataSpec(data=path, test_data=path))
    (problem, *_) = leaks.find_shared_files(splits)
    assert f"'{path}, record " in problem.message


def test_a_file_that_changes_meanwhile_is_named(tmp_path):
    path = write_good(tmp_path / "a.tfrecord")
    splits = loading.load_data(specs.DataSpec(data=path))
    os.truncate(path, 1000)
    lines = data_files.refusal(pipeline.read_images, splits, PRE, on_bad_example="error")
    assert [line.partition(" since")[0] for line in lines] == [
        *(f"{path}, record {n} cannot be read: its file has changed" for n in range(1, 6)),
        f"{path}: and 7 more.",
    ]


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.tfrecord")
    assert data_files.refusal(load, tmp_path / "a.tfrecord") == [
        f"{tmp_path}/a.tfrecord is a pipe, not a file."
    ]


def test_an_empty_file(tmp_path):
    path = write(tmp_path / "a.tfrecord")
    assert data_files.refusal(load, path) == [
        f"--data={path} holds no record. Expected tf.train.Example records."
    ]


def test_names_of_record_files():
    names = ["a.tfrecord", "a.TFRECORDS", "a.tfrec", "a.tfrecord-00000-of-00002"]
    assert all(map(tfrecord_source.is_record_path, names))
    others = ["a.csv", "tfrecord", "a.tfrecord.gz", "a.tfrecord-x", "*.jpg"]
    assert not any(map(tfrecord_source.is_record_path, others))


def test_every_byte_of_a_record_s_image_arrives(tmp_path):
    """Zeros behind an image are what NumPy cuts off of bytes."""
    contents = [PNGS[0] + b"\0" * 9, b"\xff\xd8\xff" + b"\0" * 50, PNGS[1]]
    path = write(
        tmp_path / "a.tfrecord",
        *(record_files.example(image=content, label=0) for content in contents),
    )
    images = load(path).inputs
    read = loaders.make_reader(images, np.array([2, 0, 1]))
    found = [read(tf.constant(position, tf.int64)).numpy() for position in range(3)]
    assert found == [contents[2], contents[0], contents[1]]
    assert image_heads.read_slice(images, 1) == contents[1]
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(tf.errors.OpError):
        next(iter(tf.data.Dataset.range(1).map(read)))
    with pytest.raises(OSError, match="has changed since it was listed"):
        image_heads.read_slice(images, 0)


def test_numbers_beside_the_only_class_are_asked_for(tmp_path):
    records = [record_files.example(image=PNGS[n], kind=n % 2, a=n / 4) for n in range(12)]
    path = write(tmp_path / "a.tfrecord", *records)
    splits = loading.load_data(specs.DataSpec(data=path))
    assert splits.info.label_columns == ("kind",)
    heads = (specs.HeadSpec(kind="regression", label="a"),)
    splits = loading.load_data(specs.DataSpec(data=path), heads=heads)
    assert splits.train.labels["label"].ravel().tolist() == (splits.train.indices / 4).tolist()


def test_heads_name_their_features(tmp_path):
    records = [record_files.example(image=PNGS[n], kind=n % 2, size=n % 3) for n in range(12)]
    path = write(tmp_path / "a.tfrecord", *records)
    heads = (specs.HeadSpec(name="kind", kind="binary"), specs.HeadSpec(name="s", label="size"))
    splits = loading.load_data(specs.DataSpec(data=path), heads=heads)
    assert [(info.name, info.classes) for info in splits.heads] == [
        ("kind", ("0", "1")),
        ("s", ("0", "1", "2")),
    ]


@pytest.mark.parametrize("flag", ["image_column", "text_column"])
def test_columns_beside_images_or_texts_are_not_of_records(tmp_path, flag):
    record = record_files.example(image=PNGS[0], text=b"a", age=3, label=1)
    path = write(tmp_path / "a.tfrecord", record, record)
    options = {flag: flag.partition("_")[0], "feature_columns": "age"}
    assert data_files.refusal(load, path, **options) == [
        f"--feature_columns beside --{flag} needs a .csv, .tsv or .jsonl. Received --data={path}: "
        "of TFRecords only one of the two is read. Leave the other out."
    ]


def test_of_many_bad_images_the_first_are_shown(tmp_path):
    records = [record_files.example(image=PNGS[n], label=n % 2) for n in range(12)]
    records += [record_files.example(image=b"nope", label=n % 2) for n in range(8)]
    path = write(tmp_path / "a.tfrecord", *records)
    splits = loading.load_data(specs.DataSpec(data=path))
    lines = data_files.refusal(pipeline.read_images, splits, PRE, on_bad_example="error")
    assert [line.split(" is no image")[0] for line in lines] == [
        *(f"{path}, record {number}" for number in range(13, 18)),
        f"{path}: and 3 more.",
    ]


def test_of_many_bad_records_the_first_are_shown(tmp_path):
    records = [record_files.example(image=[PNGS[0], PNGS[1]], label=0)] * 8
    path = write(tmp_path / "a.tfrecord", *records)
    lines = data_files.refusal(load, path)
    assert len(lines) == 6 and lines[4].startswith(f"{path}, record 5 is not usable: ")
    assert lines[5] == f"{path}: and 3 more."
    write_good(tmp_path / "b.tfrecord")
    with open(tmp_path / "b.tfrecord", "ab") as file:
        file.write((tmp_path / "a.tfrecord").read_bytes())
    spec = specs.DataSpec(data=str(tmp_path / "b.tfrecord"))
    lines = data_files.refusal(loading.load_data, spec)
    assert len(lines) == 6 and lines[5] == f"{tmp_path}/b.tfrecord: and 3 more."


@pytest.mark.parametrize("name", [b"caf\xe9.tfrecord", b"a\n.tfrecord"])
def test_names_that_are_no_text(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    record = record_files.frame(record_files.example(image=PNGS[0], label=1))
    with open(path, "wb") as file:
        file.write(record * 20)
    part = load(os.fsdecode(path))
    assert len(examples.fingerprint([part])) == 64
