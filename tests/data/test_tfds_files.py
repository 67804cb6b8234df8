"""Prepared data sets of strangers: nothing of them is imported, no length is believed."""

import io
import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from tests.data import data_files
from tf_finetune import specs
from tf_finetune.data import loading, preprocessing, reading, tfds_files

BOMB_SIDE = 12_000
CANARY = """
import pathlib
pathlib.Path(__file__).with_name("canary").touch()
"""


def make_png(side):
    """A PNG of one colour: some kilobytes, whatever its size."""
    stream = io.BytesIO()
    PIL.Image.new("L", (side, side)).save(stream, "PNG")
    return stream.getvalue()


class Drawings(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    bomb = False

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=("cat", "dog")),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(12):
            side = BOMB_SIDE if self.bomb and number == 3 else 4
            yield number, {"image": io.BytesIO(make_png(side)), "label": number % 2}


class BombDrawings(Drawings, skip_registration=True):
    bomb = True


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for builder in (Drawings, BombDrawings):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def drawings(prepared, tmp_path):
    """A copy of the folder of one version."""
    return shutil.copytree(prepared / "drawings" / "1.0.0", tmp_path / "drawings" / "1.0.0")


def faults_of(folder, **options):
    return tfds_files.find_faults(str(folder), **options)


def test_what_the_library_wrote_passes(prepared, drawings):
    assert faults_of(drawings) == []
    spec = specs.DataSpec(data="tfds:drawings", tfds_data_dir=str(prepared))
    assert len(loading.load_data(spec).train) == 8


def test_features_that_would_be_imported(drawings, monkeypatch):
    root = drawings.parent.parent
    (root / "stranger.py").write_text(CANARY)
    monkeypatch.syspath_prepend(str(root))
    path = drawings / "features.json"
    text = path.read_text()
    known = "tensorflow_datasets.core.features.image_feature.Image"
    assert text.count(known) == 1
    path.write_text(text.replace(known, "stranger.Image"))
    message = (
        "'features.json' names stranger.Image, which would be imported, and so run. Expected "
        "features of tensorflow_datasets.core"
    )
    assert faults_of(drawings) == [message]
    spec = specs.DataSpec(data="tfds:drawings", tfds_data_dir=str(root))
    assert data_files.refusal(loading.load_data, spec) == [
        f"--data=tfds:drawings: {drawings}: {message}. Prepare the data set again, or leave it."
    ]
    assert not (root / "canary").exists()
    old = {"type": "stranger.Image", "content": {"x": [{"type": "tensorflow_datasets.x.y"}]}}
    path.write_text(json.dumps(old))
    assert [fault.split(",")[0] for fault in faults_of(drawings)] == [
        "'features.json' names stranger.Image",
        "'features.json' names tensorflow_datasets.x.y",
    ]


def test_a_length_that_would_fill_the_memory(drawings):
    (record,) = drawings.glob("*.tfrecord*")
    record.write_bytes(b"\xff" * 14)
    assert faults_of(drawings) == [
        f"'{record.name}', record 1 has a wrong checksum of its length: the file is damaged, or is "
        "no TFRecord file"
    ]


def test_what_is_no_file_of_the_folder(drawings, tmp_path):
    (tmp_path / "secret").write_text("x")
    (drawings / "label.labels.txt").unlink()
    (drawings / "label.labels.txt").symlink_to(tmp_path / "secret")
    (fault,) = faults_of(drawings)
    assert fault.startswith("'label.labels.txt' is a link that leads out of the data folder")
    assert faults_of(drawings, follow_links=True) == []
    (drawings / "label.labels.txt").unlink()
    os.mkfifo(drawings / "label.labels.txt")
    assert faults_of(drawings) == ["'label.labels.txt' is no regular file"]


def test_descriptions_that_cannot_be_read(drawings):
    info = drawings / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps(content | {"fileFormat": "riegeli"}))
    assert faults_of(drawings) == ["'dataset_info.json' says the format riegeli. Expected tfrecord"]
    (drawings / "features.json").write_text("[" * 100_000)
    assert faults_of(drawings) == ["'features.json' is no JSON"]
    (drawings / "features.json").unlink()
    assert faults_of(drawings) == ["'features.json' cannot be read: No such file or directory"]


def test_an_image_that_promises_too_much_is_never_decoded(prepared):
    spec = specs.DataSpec(data="tfds:bomb_drawings", tfds_data_dir=str(prepared))
    splits = loading.load_data(spec)
    pre = preprocessing.PreprocessingSpec(height=4, width=4, channels=1)
    message = (
        "Example 00000003 is too large: 12000 x 12000 = 144,000,000 pixels, more than "
        "--max_image_pixels=89478485. Give a larger --max_image_pixels if it is real; "
        "--on_bad_example=skip leaves it out."
    )
    found = data_files.refusal(reading.read_images, splits, pre, on_bad_example="error")
    assert [line.replace(line.split()[1], "00000003", 1) for line in found] == [message]
    kept, _, warnings = reading.read_images(splits, pre, on_bad_example="skip")
    assert sum(map(len, (kept.train, kept.validation, kept.test))) == 11
    assert "1 of 12 images are left out" in warnings[-1].message
    assert np.isfinite(kept.train.inputs.pixels).all()
