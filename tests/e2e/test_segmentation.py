"""Masks through the door: rectangles are found, noise is refused, what is written is a mask."""

import csv
import json
import shutil

import numpy as np
import PIL.Image
import pytest

from tests import mask_data, task_data
from tf_finetune import main
from tf_finetune.data import text_store

HEAD = "--head=name=mask,kind=segmentation,label=mask,num_classes=4,dropout=0"
FLAGS = (
    "--image_column=image",
    "--pixel_range=0..1",
    "--phase=name=head,epochs=15,learning_rate=0.3",
    "--batch_size=8",
)
# Images have the model's own size: no pixel is moved, and each can be told by its colour.
REQUIRED = "--require_min=test/mean_iou:1"
SIZE = (24, 32)


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return task_data.write_model(tmp_path_factory.mktemp("model") / "primaries.keras", size=SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return mask_data.write_folder(tmp_path_factory.mktemp("data") / "masks", count=60)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = (f"--model={model}", f"--data={data}", f"--workdir={folder}", HEAD, REQUIRED, *FLAGS)
    assert main.main([*flags, "--augment=flip,color:0.1"]) == 0
    return folder


def test_rectangles_are_found(finished):
    measured = read_summary(finished)["test"]["mask"]
    assert (measured["mean_iou"], measured["pixel_accuracy"]) == (1.0, 1.0)
    assert measured["log_loss"] < 0.05
    report = json.loads((finished / "evaluation" / "test" / "report.json").read_text())
    rows = report["heads"]["mask"]["per_class"]
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(measured["mean_iou"])
    assert sum(row["support"] for row in rows) == report["num_examples"] * 24 * 32
    page = (finished / "evaluation" / "test" / "report.md").read_text()
    assert page.splitlines()[2] == f"**Mean IoU {measured['mean_iou']:.4f} (6 examples).**"
    assert "| class | iou | precision | recall | f1 | pixels | predicted |" in page


def test_kept_views_have_the_masks_of_the_images_that_they_were(tmp_path, model, data, capsys):
    histories = []
    for mode in ("off", "memory", "compiled"):
        folder = tmp_path / mode
        flags = [f"--model={model}", f"--data={data}", f"--workdir={folder}", HEAD, *FLAGS[:2]]
        flags += ["--phase=name=head,epochs=5,learning_rate=0.3", "--augment=flip,crop,rotate:20"]
        flags += ["--augment_views=2", f"--feature_cache={mode}", "--feature_precision=float32"]
        assert main.main([*flags, "--batch_size=8"]) == 0
        with open(folder / "logs" / "history.csv", newline="") as file:
            histories.append([float(row["cross_entropy"]) for row in csv.DictReader(file)])
        features = [row for row in capsys.readouterr().out.splitlines() if "Features: " in row]
        assert [row.split()[:3] for row in features] == (
            [["Features:", "102", "computed,"]] if mode == "memory" else []
        )
    assert len(histories[0]) == 5
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(histories[2], histories[0], rtol=1e-5, atol=1e-5)


def test_noise_is_not_learnt(tmp_path, model):
    """Each pixel's class is drawn evenly out of four: one in four is right by chance."""
    path = mask_data.write_folder(tmp_path / "data", count=30, shuffled=True)
    flags = (f"--model={model}", f"--data={path}", f"--workdir={tmp_path / 'run'}", HEAD, *FLAGS)
    assert main.main([*flags, "--require_min=test/mean_iou:0.9"]) == 3
    measured = read_summary(tmp_path / "run")["test"]["mask"]
    assert measured["mean_iou"] < 0.2
    assert measured["pixel_accuracy"] < 0.3
    assert measured["log_loss"] > 0.98 * np.log(4)


def read_masks(table):
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, [np.array(PIL.Image.open(table.parent / row["mask"])) for row in rows]


def test_predicted_files_give_the_reported_iou(finished, data, tmp_path):
    """The report against the PNG files that predict writes, counted without our code."""
    with open(finished / "split.csv", newline="") as file:
        keys = [row["key"] for row in csv.DictReader(file) if row["split"] == "test"]
    listing = tmp_path / "test.csv"
    listing.write_text("path\n" + "".join(f"{data.parent / key}\n" for key in keys))
    output = tmp_path / "found.csv"
    flags = (f"--workdir={finished}", f"--input={listing}", f"--output={output}")
    assert main.main(["--mode=predict", *flags]) == 0
    rows, predicted = read_masks(output)
    true = [np.array(PIL.Image.open(data.parent / "masks" / key.split("/")[1])) for key in keys]
    true, found = np.stack(true), np.stack(predicted)
    assert np.array_equal(true, found)
    overlaps = [
        ((true == number) & (found == number)).sum() / ((true == number) | (found == number)).sum()
        for number in range(4)
    ]
    measured = read_summary(finished)["test"]["mask"]
    assert np.mean(overlaps) == pytest.approx(measured["mean_iou"], abs=1e-12)
    assert (true == found).mean() == pytest.approx(measured["pixel_accuracy"], abs=1e-12)
    for row, mask in zip(rows, predicted, strict=True):
        parts = [float(row[f"fraction_{number}"]) for number in range(4)]
        assert parts == pytest.approx(np.bincount(mask.ravel(), minlength=4) / mask.size, abs=1e-6)


def test_the_export_says_what_the_run_says(finished, data, tmp_path):
    image = data.parent / "images" / "003.png"
    version = read_summary(finished)["export"]["path"]
    for name, source in (("run", f"--workdir={finished}"), ("export", f"--model={version}")):
        output = tmp_path / f"{name}.csv"
        flags = ("--mode=predict", source, f"--input={image}", f"--output={output}")
        assert main.main(flags) == 0
    (_, ours), (_, theirs) = (read_masks(tmp_path / f"{name}.csv") for name in ("run", "export"))
    assert np.array_equal(ours[0], theirs[0])

    import tensorflow as tf

    served = tf.saved_model.load(version).signatures
    pixels = np.array(PIL.Image.open(image))[None].astype(np.float32)
    by_pixels = served["serving_default"](image=tf.constant(np.repeat(pixels, 3, axis=0)))
    by_bytes = served["serve_bytes"](image_bytes=tf.constant([image.read_bytes()]))
    for answer, count in ((by_pixels, 3), (by_bytes, 1)):
        assert sorted(answer) == ["class_ids", "probabilities"]
        assert (answer["class_ids"].dtype, answer["class_ids"].shape) == (tf.int32, (count, 24, 32))
        assert answer["probabilities"].shape == (count, 24, 32, 4)
        assert np.allclose(answer["probabilities"].numpy().sum(axis=-1), 1, atol=1e-5)
        assert np.array_equal(answer["class_ids"][0], ours[0])


def test_an_export_without_its_preprocessing_is_refused(finished, data, tmp_path, capsys):
    """Masks in the model's size would be taken for masks of the images."""
    version = tmp_path / "1"
    shutil.copytree(read_summary(finished)["export"]["path"], version)
    asset = version / "assets" / "image.json"
    output, image = tmp_path / "found.csv", data.parent / "images" / "003.png"
    flags = (f"--model={version}", f"--input={image}", f"--output={output}")
    asset.write_text(json.dumps(text_store.TextSpec().to_dict()))
    assert main.main(["--mode=predict", *flags]) == 2
    assert capsys.readouterr().err == (
        f"error: --model={version} has an assets/image.json that is not of images. Export the "
        "model again.\n"
    )
    asset.unlink()
    assert main.main(["--mode=predict", *flags]) == 2
    assert "'image.json' is missing" in capsys.readouterr().err
    assert not output.exists()


def test_what_was_predicted_can_be_evaluated(finished, data, tmp_path, capsys):
    """Masks of another size than the model's input come back in the size of their images."""
    generator = np.random.default_rng(5)
    for number in range(3):
        image, _ = mask_data.draw(generator, height=50, width=40)
        PIL.Image.fromarray(image).save(tmp_path / f"{number}.png")
    output = tmp_path / "found.csv"
    flags = (f"--workdir={finished}", f"--input={tmp_path}", f"--output={output}")
    assert main.main(["--mode=predict", *flags]) == 0
    _, masks = read_masks(output)
    assert [mask.shape for mask in masks] == [(50, 40)] * 3
    # Once more is a prediction in place of the former; without its table they are somebody's masks.
    former = output.read_text()
    assert main.main(["--mode=predict", *flags[:1], f"--input={tmp_path / '0.png'}", flags[2]]) == 0
    output.unlink()
    capsys.readouterr()
    assert main.main(["--mode=predict", *flags[:1], f"--input={tmp_path / '0.png'}", flags[2]]) == 2
    assert capsys.readouterr().err == (
        f"error: --output={output}: masks go to {tmp_path / 'found_masks'}, which holds files and "
        "belongs to no table of predictions. Choose another name, or move it away.\n"
    )
    output.write_text(former)
    table = tmp_path / "again.csv"
    table.write_text(
        "image,mask\n" + "".join(f"{number}.png,found_masks/{number}.png\n" for number in range(3))
    )
    flags = ("--mode=evaluate", f"--workdir={finished}", f"--test_data={table}")
    assert main.main([*flags, "--require_min=test/mean_iou:0.95"]) == 0
    assert "mask: mean IoU" in capsys.readouterr().out


def test_two_heads_on_one_map(tmp_path, model, data):
    """A class for each pixel and one for the image, from two columns."""
    folder = tmp_path / "run"
    flags = (f"--model={model}", f"--data={data}", f"--workdir={folder}", HEAD, *FLAGS)
    assert main.main([*flags, "--head=name=first,kind=multiclass"]) == 0
    summary = read_summary(folder)
    assert summary["test"]["mask"]["mean_iou"] > 0.9
    assert "accuracy" in summary["test"]["first"]
    output = tmp_path / "found.jsonl"
    image = data.parent / "images" / "000.png"
    flags = (f"--workdir={folder}", f"--input={image}", f"--output={output}")
    assert main.main(["--mode=predict", *flags]) == 0
    found = json.loads(output.read_text())["predictions"]
    assert found["first"]["predicted"][0] in mask_data.CLASSES
    assert found["mask"]["mask"] == "found_masks/000_mask.png"
    assert sum(found["mask"]["fractions"].values()) == pytest.approx(1)


def test_the_config_runs(tmp_path, model, data, repository):
    folder = tmp_path / "run"
    flags = (
        f"--flagfile={repository / 'configs' / 'segmentation.flags'}",
        f"--model={model}",
        f"--data={data}",
        f"--workdir={folder}",
        f"--classes={','.join(mask_data.CLASSES)}",
        *FLAGS[1:],
    )
    assert main.main([*flags, "--require_min=test/mean_iou:0.9"]) == 0
    labels = folder / "export" / "1" / "assets" / "labels_mask.txt"
    assert labels.read_text().split() == list(mask_data.CLASSES)


MOBILE_NET = "--model=keras:MobileNetV2,alpha=0.35,input_shape=32x32x3,weights=none"
TRAIN_ALL = ("--freeze=none", "--learning_rate=0.01", "--batch_size=8")
# Flags of a model, and its least mean IoU: that of the background everywhere is 0.2, since three
# of four classes are missed. The first has a map of one position, which cannot tell more.
MAPS = {
    "one_position": ((MOBILE_NET, "--freeze=all", "--epochs=4", "--learning_rate=0.03"), 0.19),
    "cropped": (
        (MOBILE_NET, "--cut_layer=block_2_add", "--resize=crop", *TRAIN_ALL, "--epochs=12"),
        0.7,
    ),
    "padded": (
        ("--model=configs/pretrained/mnist_cnn.h5", "--resize=pad", *TRAIN_ALL, "--epochs=10"),
        0.6,
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_other_models(tmp_path, data, repository, monkeypatch, name):
    monkeypatch.chdir(repository)
    flags, least = MAPS[name]
    given = (f"--data={data}", f"--workdir={tmp_path}", HEAD, FLAGS[0])
    assert main.main([*given, *flags, f"--require_min=test/mean_iou:{least}"]) == 0
    assert read_summary(tmp_path)["test"]["mask"]["pixel_accuracy"] > 0.75


def test_an_old_file_of_the_zoo(tmp_path, data, shared):
    path = shared / "zoo" / "h5" / "k2.0.5_mini_xception_kdef_MIT.hdf5"
    flags = (f"--model={path}", f"--data={data}", f"--workdir={tmp_path}", HEAD, FLAGS[0])
    short = ("--freeze=all", "--epochs=10", "--learning_rate=0.1", "--batch_size=8")
    assert main.main([*flags, *short, "--require_min=test/mean_iou:0.4"]) == 0


REFUSALS = {
    "--head=name=mask,kind=segmentation": (
        "error: --head=name=mask,kind=segmentation needs num_classes=N, or --classes with the "
        "names of the class numbers 0, 1, 2 and so on.\n"
    ),
    "--head=name=mask,kind=segmentation,num_classes=300": (
        "error: --head=name=mask: a mask tells 255 classes apart. Received 300.\n"
    ),
    f"{HEAD} --augment=randaugment": (
        "error: --augment=randaugment moves pixels in ways that no mask follows. Leave it out.\n"
    ),
    f"{HEAD} --augment=flip,mixup": (
        "error: --augment=mixup mixes images, and a pixel of a mask has one class. Leave it out.\n"
    ),
    f"{HEAD} --cut_layer=classifier": (
        "error: --head=name=mask,kind=segmentation needs a feature map, [batch, height, width, "
        "channels]. The features of --model=MODEL have the shape (None, 5). Name an earlier layer "
        "with --cut_layer; --mode=inspect lists them.\n"
    ),
    f"{HEAD} --resample=balanced": (
        "error: --resample=balanced draws classes evenly, and no head has classes. Leave it out.\n"
    ),
    f"{HEAD} --examples_per_class=5": (
        "error: --examples_per_class counts examples of a class, and classes of head 'mask' are "
        "those of pixels. Leave it out.\n"
    ),
    f"{HEAD},threshold=0.4": (
        "error: --head: threshold is of kind=binary and kind=multilabel. Received "
        "kind=segmentation.\n"
    ),
}


@pytest.mark.parametrize("flags", REFUSALS)
def test_mistakes_are_one_line(tmp_path, model, data, flags, capsys):
    given = (f"--model={model}", f"--data={data}", f"--workdir={tmp_path / 'run'}", FLAGS[0])
    assert main.main([*given, *flags.split()]) == 2
    assert capsys.readouterr().err == REFUSALS[flags].replace("MODEL", str(model))
    assert not (tmp_path / "run").exists()


def test_the_doctor_finds_bad_masks(tmp_path, capsys):
    path = mask_data.write_folder(tmp_path / "data", count=12)
    arguments = ("--mode=validate", f"--data={path}", HEAD, FLAGS[0])
    assert main.main(arguments) == 0
    page = capsys.readouterr().out
    assert "**0 errors, 0 warnings.**" in page
    assert "| Class of head mask | pixels |" in page
    bad = tmp_path / "data" / "masks" / "004.png"
    mask_data.write_mask(bad, np.full((24, 32), 77, np.uint8))
    assert main.main(arguments) == 2
    page = capsys.readouterr().out
    assert f"- **error** {bad} has the class number 77 in row 0, column 0. Expected 0 to 3" in page


def test_features_of_a_frozen_map_give_the_same_run(tmp_path, model, data):
    """A phase on features that were computed ahead learns what one on images does."""
    found = []
    for mode in ("off", "memory"):
        folder = tmp_path / mode
        flags = (f"--model={model}", f"--data={data}", f"--workdir={folder}", HEAD, FLAGS[0])
        cached = (f"--feature_cache={mode}", "--feature_precision=float32", "--freeze=all")
        short = ("--epochs=3", "--learning_rate=0.1", "--pixel_range=0..1")
        assert main.main([*flags, *cached, *short]) == 0
        found.append(read_summary(folder)["test"]["mask"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
