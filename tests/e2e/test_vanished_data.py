"""An image that is there when a run lists its data, and gone when it wants to read it."""

import os
import shutil

import keras
import PIL.Image
import pytest

from tests import small_disk, tiny
from tests.e2e import test_full_disk, test_resume
from tf_finetune import callbacks, main, run_start
from tf_finetune.data import reading
from tf_finetune.feature_cache import feature_pass


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A classifier that makes its images small at once."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.AveragePooling2D(8, name="shrink")(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    outputs = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    path = tmp_path_factory.mktemp("pooled") / "pooled.h5"
    keras.Model(inputs, outputs).save(path)
    return path


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Class folders whose pixels are not kept in memory, so that each epoch reads the files."""
    monkeypatch.setattr(reading, "_MAX_CACHE_BYTES", 1000)
    tiny.write_color_folder(tmp_path / "images", per_class=12)
    return tmp_path / "images"


# {when: (where, what the run does next, which time)}
MOMENTS = {
    "before the first step": (run_start, "write_start", 1, "--feature_cache=off"),
    "in a later epoch": (callbacks, "format_history", 1, "--feature_cache=off"),
    "in the feature pass": (feature_pass, "_make_dataset", 1, "--feature_cache=memory"),
    "before the feature pass": (run_start, "write_start", 1, "--feature_cache=memory"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_is_named_and_the_run_goes_on_when_it_is_back(
    pooled, images, tmp_path, capsys, monkeypatch, moment
):
    module, name, call, cache = MOMENTS[moment]
    flags = [
        f"--model={pooled}", f"--data={images}", f"--workdir={tmp_path / 'run'}",
        "--pixel_range=0..1", "--batch_size=8", "--checkpoint_secs=0.001", cache,
        "--feature_precision=float32",
        "--phase=name=head,epochs=3,learning_rate=0.03,freeze=all",
    ]  # fmt: skip
    gone = sorted((images / "red").iterdir())

    class Away:
        def __enter__(self):
            shutil.move(images / "red", tmp_path / "red")

        def __exit__(self, *unused):
            return None

    with monkeypatch.context() as patch:
        calls = small_disk.before(patch, module, name, Away, call=call)
        capsys.readouterr()
        assert main.main(flags) == 2
    assert len(calls) >= call
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert any(f"red/{path.name}" in lines[0] for path in gone), lines
    assert len(lines) <= 12  # of each split the first five, and how many more
    print(f"\n{moment}: {lines[0]}")
    os.rename(tmp_path / "red", images / "red")
    assert main.main(flags) == 0
    whole = [*flags, f"--workdir={tmp_path / 'whole'}"]
    assert main.main(whole) == 0
    assert test_resume.numbers_of(tmp_path / "run") == test_resume.numbers_of(tmp_path / "whole")


def test_an_image_that_cannot_be_read_any_more(pooled, images, tmp_path, capsys, monkeypatch):
    """Somebody overwrites it while the run lasts."""
    flags = [
        f"--model={pooled}", f"--data={images}", f"--workdir={tmp_path / 'run'}",
        "--pixel_range=0..1", "--batch_size=8", "--feature_cache=off", "--epochs=3",
    ]  # fmt: skip
    victim = images / "blue" / "003.png"

    class Overwritten:
        def __enter__(self):
            victim.write_bytes(victim.read_bytes()[:60])

        def __exit__(self, *unused):
            return None

    with monkeypatch.context() as patch:
        small_disk.before(patch, run_start, "write_start", Overwritten)
        line = test_full_disk.refusal(capsys, flags)
    assert "blue/003.png" in line
    PIL.Image.new("RGB", (12, 12)).save(victim)
    # Its bytes and time are others now: going on would mix two data sets, so it starts again where
    # it has no checkpoint yet.
    assert main.main(flags) == 0
