"""On data sets that are really prepared on the disk, without a network."""

import functools
import http.server
import pathlib
import shutil
import threading
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data import data_files, image_bytes
from tf_finetune import specs
from tf_finetune.data import loading, tfds_source

NAMES = ("cat", "dog")


class _Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the data sets below share: `sizes` examples in each split, classes in turn."""

    VERSION = tfds.core.Version("1.0.0")
    sizes: tuple[tuple[str, int], ...] = ()
    secret: tuple[str, ...] = ()

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=NAMES),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=("a", "b", "c"))),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, size) for name, size in self.sizes}

    def _generate_examples(self, split, size):
        for number in range(size):
            yield (
                number,
                {
                    "image": np.full((4, 5, 3), 10 * number, np.uint8),
                    "label": -1 if split in self.secret else number % 2,
                    "tags": [number % 3, 2] if number else [],
                    "note": "",
                },
            )


class OneSplitPhotos(_Photos):
    sizes = (("train", 20),)


class SplitPhotos(_Photos):
    sizes = (("train", 12), ("test", 4), ("unlabelled", 2))


class ContestPhotos(_Photos):
    sizes = (("train", 8), ("validation", 4), ("test", 4))
    secret = ("test",)


class OddPhotos(_Photos):
    sizes = (("left", 2), ("right", 2))


class ConfigPhotos(_Photos):
    sizes = (("train", 6),)
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="large", version=tfds.core.Version("1.0.0")),
        tfds.core.BuilderConfig(name="small", version=tfds.core.Version("1.0.0")),
    )


class FailingPhotos(_Photos):
    sizes = (("train", 2),)

    def _split_generators(self, dl_manager):
        raise OSError("no route to host\nsecond line")


class PlainPhotos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"photo": tfds.features.Image(shape=(1, 1, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"photo": np.zeros((1, 1, 3), np.uint8)}


class Sentences(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "x"}


class Reviews(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "body": tfds.features.Text(),
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=NAMES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

    def _generate_examples(self, size):
        for number in range(size):
            text = "" if size == 6 and number == 5 else f"{NAMES[number % 2]} {number} \u00e9"
            yield number, {"body": f"body {number}", "text": text, "label": number % 2}


class FetchedPhotos(_Photos):
    """Its images come from a server, as those of most data sets."""

    url = ""
    sizes = (("train", 12),)

    def _split_generators(self, dl_manager):
        folder = dl_manager.download_and_extract(self.url)
        return {"train": self._read_images(folder)}

    def _read_images(self, folder):
        for path in sorted(pathlib.Path(folder).glob("*/*.png")):
            label = path.parent.name
            yield path.name, {"image": path, "label": label, "tags": [], "note": ""}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with every data set, those without registered code renamed."""
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (
        OneSplitPhotos,
        SplitPhotos,
        ContestPhotos,
        OddPhotos,
        PlainPhotos,
        Sentences,
        Reviews,
    ):
        builder(data_dir=folder).download_and_prepare()
    for config in ("large", "small"):
        ConfigPhotos(data_dir=folder, config=config).download_and_prepare()
    (folder / "empty_photos").mkdir()
    return folder


def load(folder, text, **options):
    return loading.load_data(specs.DataSpec(data=text, tfds_data_dir=str(folder), **options))


def refused(folder, text, **options):
    return data_files.refusal(load, folder, text, **options)


def first_pixels(part):
    import tensorflow as tf

    return [int(tf.io.decode_image(image)[0, 0, 0]) for image in part.inputs.make_dataset()]


def test_one_split_is_split_by_us(prepared):
    spec = specs.DataSpec(tfds_data_dir=str(prepared))
    part = tfds_source.load(spec, "tfds:one_split_photos", flag="data")
    assert part.keys.tolist() == [f"{number:08d}" for number in range(20)]
    assert part.splits is None and part.identity == "one_split_photos/1.0.0"
    # Labels and images come from two passes; their order must be the same.
    numbers = [pixel // 10 for pixel in first_pixels(part)]
    assert sorted(numbers) == list(range(20)) and len(part.inputs) == 20
    assert part.labels["label"].tolist() == [NAMES[number % 2] for number in numbers]
    assert part.labels["tags"].tolist() == [
        tuple(dict.fromkeys(("abc"[number % 3], "c"))) if number else () for number in numbers
    ]
    splits = load(prepared, "tfds:one_split_photos", label_column="label")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 2, 2)
    assert splits.heads[0].classes == NAMES and splits.problems == ()


def test_own_splits_are_kept(prepared):
    splits = load(prepared, "tfds:split_photos")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10, 2, 4)
    assert splits.test.keys.tolist() == [f"test/{number}" for number in range(4)]
    assert splits.test.indices.tolist() == [0, 1, 2, 3]
    assert splits.train.keys[0].startswith("train/")
    numbers = [pixel // 10 for pixel in first_pixels(splits.train)]
    for split in (splits.train, splits.validation, splits.test):
        assert split.labels["label"].tolist() == [numbers[row] % 2 for row in split.indices]
    assert data_files.warnings_of(splits.problems)[0] == (
        "--data=tfds:split_photos: left aside the splits 'unlabelled'."
    )


def test_secret_test_labels_are_left_aside(prepared):
    splits = load(prepared, "tfds:contest_photos")
    assert (len(splits.train), len(splits.validation)) == (6, 4)
    assert [key.split("/")[0] for key in splits.test.keys] == ["train"] * 2
    assert data_files.warnings_of(splits.problems)[0] == (
        "--data=tfds:contest_photos: left aside the split 'test', which has no labels."
    )


def test_prepared_data_opens_without_its_code(prepared, tmp_path):
    # Names that no registered builder has, as of a folder that came from another machine.
    shutil.copytree(prepared / "one_split_photos", tmp_path / "foreign")
    shutil.copytree(prepared / "config_photos" / "small", tmp_path / "nested" / "small")
    assert len(load(tmp_path, "tfds:foreign").train) == 16
    assert len(load(tmp_path, "tfds:nested").train) == 2
    assert len(load(tmp_path, "tfds:nested:small").train) == 2
    shutil.copytree(tmp_path / "foreign" / "1.0.0", tmp_path / "foreign" / "1.10.0")
    assert tfds_source.find_prepared(str(tmp_path), "foreign", "") == (
        str(tmp_path / "foreign" / "1.10.0"),
        [],
    )


def test_registered_data_is_prepared_when_it_is_not(tmp_path):
    assert len(load(tmp_path, "tfds:one_split_photos").train) == 16
    assert (tmp_path / "one_split_photos" / "1.0.0" / "features.json").exists()


def test_several_sources(prepared):
    splits = load(prepared, "tfds:one_split_photos", test_data="tfds:split_photos")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 4)
    assert splits.test.keys[0] == "test_data/test/0"


def test_data_that_cannot_be_used(prepared, tmp_path):
    assert refused(prepared, "tfds:one_split_photo") == [
        "--data=tfds:one_split_photo: TensorFlow Datasets has no such data set, and none is "
        f"prepared in {prepared}. Did you mean 'one_split_photos'? --tfds_data_dir names the "
        "folder of prepared data sets."
    ]
    for text in ("tfds:", "tfds:../x", "tfds:a:b:c", "tfds:a:1.0.0:2.0.0", "tfds:a:", "tfds:a/"):
        assert refused(prepared, text) == [
            f"--data={text}: expected tfds:NAME[:CONFIG][:VERSION][/SPLIT]."
        ]
    assert refused(prepared, "tfds:config_photos") == [
        "--data=tfds:config_photos: choose a config, as tfds:config_photos:CONFIG, of 'large', "
        "'small'."
    ]
    assert refused(prepared, "tfds:odd_photos") == [
        "--data=tfds:odd_photos: expected one split, or train and optionally validation and test. "
        "It has 'left', 'right'."
    ]
    assert refused(prepared, "tfds:sentences") == [
        "--data=tfds:sentences: no class label among its features ('text')."
    ]
    assert refused(prepared, "tfds:sentences", image_column="text") == [
        "--data=tfds:sentences: --image_column=text is no image of it. It has none."
    ]
    assert refused(prepared, "tfds:plain_photos") == [
        "--data=tfds:plain_photos: no class label among its features ('photo')."
    ]
    assert refused(prepared, "tfds:one_split_photos", image_column="imag") == [
        "--data=tfds:one_split_photos: --image_column=imag is no image of it. Did you mean "
        "'image'? It has 'image'."
    ]
    assert refused(tmp_path, "tfds:failing_photos") == [
        f"--data=tfds:failing_photos is not prepared in {tmp_path}, and preparing it failed: no "
        "route to host. Where there is a network, prepare it with: tfds build failing_photos"
    ]


def test_damaged_files_are_refused(prepared, tmp_path):
    shutil.copytree(prepared / "one_split_photos", tmp_path / "damaged")
    (record,) = (tmp_path / "damaged" / "1.0.0").glob("*train.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 0xFF
    record.write_bytes(content)
    folder = tmp_path / "damaged" / "1.0.0"
    (line,) = refused(tmp_path, "tfds:damaged")
    assert line.startswith(f"--data=tfds:damaged: {folder}: 'one_split_photos-train.tfrecord")
    assert line.endswith(
        "record 10 is damaged: the checksum of its data is wrong. Prepare the data set again, or "
        "leave it."
    )
    shutil.rmtree(folder)
    shutil.copytree(prepared / "one_split_photos" / "1.0.0", folder)
    (folder / "dataset_info.json").write_text('{"splits": 3}')
    (line,) = refused(tmp_path, "tfds:damaged")
    assert line.startswith(f"--data=tfds:damaged: {folder} cannot be opened: ")


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", range(12)),
        ("test", range(4)),
        ("train[:75%]", range(9)),
        ("train[75%:]", range(9, 12)),
        ("train[2:5]", range(2, 5)),
        ("test+train[:2]", [0, 1, 2, 3, 0, 1]),
    ],
)
def test_a_split_or_slice_is_read_alone(prepared, split, numbers):
    spec = specs.DataSpec(tfds_data_dir=str(prepared))
    whole = {
        name: first_pixels(tfds_source.load(spec, f"tfds:split_photos/{name}", flag="data"))
        for name in ("train", "test")
    }
    part = tfds_source.load(spec, f"tfds:split_photos/{split}", flag="data")
    order = whole["train"] if "train" in split else whole["test"]
    if "+" in split:
        expected = whole["test"] + whole["train"][:2]
    else:
        expected = [order[number] for number in numbers]
    assert first_pixels(part) == expected
    assert part.labels["label"].tolist() == [NAMES[pixel // 10 % 2] for pixel in expected]
    assert part.splits is None and part.problems == ()
    assert part.identity == f"split_photos/1.0.0/{split}"
    assert part.keys.tolist() == [f"{number:08d}" for number in range(len(expected))]


def test_the_splits_that_are_named_are_used(prepared):
    splits = load(prepared, "tfds:split_photos/train", test_data="tfds:split_photos/test")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10, 2, 4)
    assert splits.test.keys.tolist() == [f"test_data/{number:08d}" for number in range(4)]
    splits = load(
        prepared,
        "tfds:split_photos:1.0.0/train[:8]",
        validation_data="tfds:split_photos/train[8:]",
        test_data="tfds:split_photos/test",
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 4, 4)


def test_splits_and_versions_that_cannot_be_read(prepared, tmp_path):
    for split, message in (
        ("tran", "no split 'tran'. Did you mean 'train'? It has 'test', 'train', 'unlabelled'."),
        ("train+valid[:3]", "no split 'valid'. It has 'test', 'train', 'unlabelled'."),
        ("train[:3", "'train[:3' is no split. Expected one as train, or a slice as train[:80%]."),
        ("train[a]", "'train[a]' is no slice. Expected one as train[:80%] or train[100:200]."),
        ("train[5:5]", "the split 'train[5:5]' holds no example."),
    ):
        assert refused(prepared, f"tfds:split_photos/{split}") == [
            f"--data=tfds:split_photos/{split}: {message}"
        ]
    assert refused(prepared, "tfds:contest_photos/test") == [
        "--data=tfds:contest_photos/test: the split 'test' has no labels."
    ]
    shutil.copytree(prepared / "one_split_photos", tmp_path / "photos")
    shutil.copytree(tmp_path / "photos" / "1.0.0", tmp_path / "photos" / "1.10.0")
    find = functools.partial(tfds_source.find_prepared, str(tmp_path), "photos", "")
    assert find(version="1.0.0") == (str(tmp_path / "photos" / "1.0.0"), [])
    assert find(version="3.0.0") == ("", [])
    (line,) = refused(prepared, "tfds:one_split_photos:3.0.0")
    assert line.startswith(
        f"--data=tfds:one_split_photos:3.0.0 is not prepared in {prepared}, and preparing it failed"
    )


def test_texts_are_read_with_their_labels(prepared):
    splits = load(prepared, "tfds:reviews/train")
    assert splits.input_kind == "text" and splits.train.inputs.column == "text"
    for split in (splits.train, splits.validation, splits.test):
        names = [NAMES[label] for label in split.labels["label"]]
        assert [text.split()[0] for text in split.texts] == names
        assert all(text.endswith(" \u00e9") for text in split.texts)
    splits = load(prepared, "tfds:reviews", text_column="body")
    assert splits.train.texts[0].startswith("body ") and len(splits.test) == 6
    (line,) = refused(prepared, "tfds:reviews/test")
    assert line.startswith("--data=tfds:reviews/test: the text is empty of '0000000")
    assert refused(prepared, "tfds:reviews", text_column="txt") == [
        "--data=tfds:reviews: --text_column=txt is no text of it. Did you mean 'text'? It has "
        "'body', 'text'."
    ]
    assert refused(prepared, "tfds:reviews", text_column="text", image_column="text") == [
        "--data=tfds:reviews: --text_column and --image_column exclude each other."
    ]


@pytest.fixture
def server(tmp_path):
    """A folder that is served on this machine, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_what_is_not_there_is_downloaded_and_prepared(server, tmp_path, monkeypatch):
    folder, address = server
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number in range(12):
            pixels = np.full((4, 5, 3), 10 * number, np.uint8)
            name = f"{NAMES[number % 2]}/{number:02d}.png"
            archive.writestr(name, image_bytes.encode(pixels, "PNG"))
    monkeypatch.setattr(FetchedPhotos, "url", f"{address}/photos.zip")
    splits = load(tmp_path / "data", "tfds:fetched_photos/train[:10]")
    assert splits.info.num_examples == 10 and splits.heads[0].classes == NAMES
    assert (tmp_path / "data" / "fetched_photos" / "1.0.0" / "features.json").exists()
    (folder / "photos.zip").unlink()
    # Prepared once: the server is not asked again.
    assert load(tmp_path / "data", "tfds:fetched_photos").info.num_examples == 12
    assert refused(tmp_path / "other", "tfds:fetched_photos") == [
        f"--data=tfds:fetched_photos is not prepared in {tmp_path}/other, and preparing it failed: "
        f"Failed to get url {address}/photos.zip. HTTP code: 404. Where there is a network, "
        "prepare it with: tfds build fetched_photos"
    ]
