"""A finished run on three solid colours, shared by the tests of the verbs."""

import dataclasses
import json
import pathlib
import zipfile

import pytest

from tests import tiny
from tf_finetune import main


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    folder: pathlib.Path
    data: pathlib.Path
    model: pathlib.Path
    flags: tuple[str, ...]

    @property
    def summary(self):
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="session")
def colors(tmp_path_factory):
    """Class folders of three solid colours, 30 images each."""
    folder = tmp_path_factory.mktemp("data") / "colors"
    tiny.write_color_folder(folder, per_class=30)
    return folder


@pytest.fixture(scope="session")
def photographs(shared, tmp_path_factory):
    """Class folders of real photographs: hands that show digits."""
    folder = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(shared / "zoo" / "data" / "sign_language_digits.zip") as archive:
        archive.extractall(folder)
    return folder / "sign_language_digits"


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A .h5 classifier of five classes with a softmax to cut off."""
    path = tmp_path_factory.mktemp("model") / "tiny.h5"
    tiny.make_classifier().save(path)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory, colors, classifier):
    """A run of the default recipe, but 60 epochs, through the door."""
    folder = tmp_path_factory.mktemp("runs") / "colors"
    flags = (
        f"--model={classifier}",
        f"--data={colors}",
        f"--workdir={folder}",
        "--pixel_range=0..1",
        "--phase=name=head,epochs=60,learning_rate=0.03",
        "--phase=name=fine,epochs=3,freeze=3",
        "--batch_size=16",
        "--require_min=test/accuracy:1.0",
    )
    assert main.main(flags) == 0
    return FinishedRun(folder, colors, classifier, flags)
