"""Random views through the door: training sees them, validation, test and export never do."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests import task_data, tiny_text
from tf_finetune import main, trained

AUGMENT = "--augment=flip,crop,rotate:10"
EPOCHS = 8


@pytest.fixture(scope="module")
def train(tmp_path_factory, colors):
    """Function of a name, epochs and further flags to the folder of a finished run."""
    workdir = tmp_path_factory.mktemp("augmented")
    model = task_data.write_model(workdir / "primaries.keras")

    def run(name, epochs, *flags):
        folder = workdir / name
        common = (
            f"--model={model}",
            f"--data={colors}",
            f"--workdir={folder}",
            "--pixel_range=0..1",
            f"--phase=name=head,epochs={epochs},learning_rate=0.1",
            "--batch_size=16",
        )
        assert main.main((*common, *flags)) == 0
        return folder

    return run


@pytest.fixture(scope="module")
def augmented(train):
    return train("views", EPOCHS, AUGMENT, "--require_min=test/accuracy:1.0")


def read_history(folder):
    return (folder / "logs" / "history.csv").read_bytes().splitlines()


def test_views_are_learnt_from_and_drawn_again_bit_for_bit(augmented, train):
    summary = json.loads((augmented / "summary.json").read_text())
    assert summary["test"]["label"]["accuracy"] == 1.0
    assert AUGMENT in (augmented / "run.flags").read_text().splitlines()
    assert read_history(train("again", EPOCHS, AUGMENT)) == read_history(augmented)


def test_views_change_what_is_learnt(augmented, train):
    """The negative twin: without views every epoch differs."""
    with_views, without = read_history(augmented), read_history(train("plain", EPOCHS))
    assert with_views[0] == without[0] and len(with_views) == len(without) == EPOCHS + 1
    assert not set(with_views[1:]) & set(without[1:])


def test_the_export_answers_for_images_as_they_are(augmented, colors):
    version = json.loads((augmented / "summary.json").read_text())["export"]["path"]
    answer = tf.saved_model.load(version).signatures["serve_bytes"]
    files = sorted(colors.rglob("*.png"))[::7]
    served = answer(image_bytes=tf.constant([path.read_bytes() for path in files]))
    pixels = np.stack([np.asarray(PIL.Image.open(path), np.float32) for path in files])
    expected = tf.nn.softmax(trained.load_run(str(augmented)).model({"image": pixels})["label"])
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-6)
    # The comparison would show a crop: noise makes the mean of a part another one.
    part = tf.image.resize(pixels[:, :6, :6], (12, 12))
    changed = tf.nn.softmax(trained.load_run(str(augmented)).model({"image": part})["label"])
    assert np.abs(changed - expected).max() > 1e-5


def test_mixed_pairs_are_learnt_from_and_drawn_again_bit_for_bit(train, augmented):
    flags = ("--augment=mixup,cutmix", "--require_min=test/accuracy:1.0")
    mixed = train("mixed", EPOCHS, *flags)
    assert json.loads((mixed / "summary.json").read_text())["test"]["label"]["accuracy"] == 1.0
    history = read_history(mixed)
    assert read_history(train("mixed again", EPOCHS, *flags)) == history
    assert not set(history[1:]) & set(read_history(augmented)[1:])


def test_mixing_needs_a_pair(tmp_path, colors, capsys):
    model = task_data.write_model(tmp_path / "primaries.keras")
    flags = (f"--model={model}", f"--data={colors}", f"--workdir={tmp_path}/run")
    flags = (*flags, "--augment=flip,mixup,cutmix", "--batch_size=1")
    assert main.main(flags) == 2
    assert capsys.readouterr().err == (
        "error: --augment: mixup, cutmix mix the images of a batch, and --batch_size=1 leaves them "
        "alone. Expected --batch_size of at least 2.\n"
    )
    assert not (tmp_path / "run").exists()


def test_texts_have_no_views(tmp_path, capsys):
    model, table = tmp_path / "words.keras", tmp_path / "reviews.csv"
    tiny_text.make_classifier().save(model)
    tiny_text.write_table(table, tiny_text.make_rows())
    for augment in ("flip", "mixup"):
        flags = [f"--model={model}", f"--data={table}", f"--workdir={tmp_path}/run"]
        assert main.main([*flags, f"--augment={augment}"]) == 2
        assert capsys.readouterr().err == (
            f"error: --augment={augment} has no effect on texts. Leave it out.\n"
        )
    assert not (tmp_path / "run").exists()
