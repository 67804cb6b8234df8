"""Small batches added up learn what large ones learn: texts, words, pixels, mixed images."""

import csv

import pytest

from tests import mask_data, tag_data, task_data, tiny, tiny_text
from tests.models import hugging_face_folders
from tf_finetune import main

PHASE = "--phase=name=all,epochs=2,learning_rate=0.02,freeze=none,gradient_clip_norm=0.5"


def read_history(folder):
    with open(folder / "logs" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    return [float(value) for row in rows for name, value in row.items() if name != "phase"]


def train(folder, flags, *, batch_size, accumulate_steps):
    own = (f"--batch_size={batch_size}", f"--accumulate_steps={accumulate_steps}")
    assert main.main([f"--workdir={folder}", *flags, *own, PHASE, "--split=0.7,0.15,0.15"]) == 0


def make_texts(folder):
    tiny_text.make_classifier().save(folder / "words.keras")
    data = tiny_text.write_table(folder / "reviews.csv", tiny_text.make_rows())
    return f"--data={data}", f"--model={folder / 'words.keras'}", "--head=name=sentiment,dropout=0"


def make_words(folder):
    # Dropout draws other masks for other batches.
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = hugging_face_folders.write(
        folder / "bert",
        hugging_face_folders.make_weights(),
        config={**hugging_face_folders.CONFIG, **still},
    )
    data = tag_data.write_csv(folder / "tags.csv", tag_data.make_sentences(60))
    head = "--head=name=tags,kind=token_classification,label=tags,dropout=0"
    return f"--data={data}", f"--model={model}", head


def make_pixels(folder):
    model = task_data.write_model(folder / "primaries.keras", size=(24, 32))
    data = mask_data.write_folder(folder / "masks", count=60)
    head = "--head=name=mask,kind=segmentation,label=mask,num_classes=4,dropout=0"
    return f"--data={data}", f"--model={model}", head, "--image_column=image", "--augment=flip"


def make_mixed(folder):
    tiny.write_color_folder(folder / "colors", per_class=20)
    tiny.make_classifier().save(folder / "tiny.h5")
    head = "--head=name=color,dropout=0,label_smoothing=0.1"
    mixing = "--augment=mixup,cutmix"
    return f"--data={folder / 'colors'}", f"--model={folder / 'tiny.h5'}", head, mixing


@pytest.mark.parametrize("make", [make_texts, make_words, make_pixels, make_mixed])
def test_the_history_is_that_of_large_batches(tmp_path, make):
    flags = make(tmp_path)
    # 42 examples: three steps of 12 and one of 6, whose parts have 2.
    train(tmp_path / "large", flags, batch_size=12, accumulate_steps=1)
    train(tmp_path / "parts", flags, batch_size=4, accumulate_steps=3)
    large, parts = (read_history(tmp_path / name) for name in ("large", "parts"))
    assert parts == pytest.approx(large, abs=1e-5)
    lines = (tmp_path / "parts" / "run.flags").read_text().splitlines()
    assert {"--batch_size=4", "--accumulate_steps=3"} <= set(lines)


@pytest.mark.parametrize("accumulate_steps", [6, 10**20])
def test_more_batches_than_there_are(tmp_path, accumulate_steps):
    flags = make_mixed(tmp_path)
    flags = [flag for flag in flags if not flag.startswith("--augment")]
    train(tmp_path / "whole", flags, batch_size=42, accumulate_steps=1)
    train(tmp_path / "parts", flags, batch_size=7, accumulate_steps=accumulate_steps)
    found, expected = read_history(tmp_path / "parts"), read_history(tmp_path / "whole")
    assert found == pytest.approx(expected, abs=1e-4)
