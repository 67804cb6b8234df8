"""The comparison with other libraries: its files, its figures, and a small run of it."""

import hashlib
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import compare
from benchmarks.comparison import backbones, contenders, images, machine, processes, tables


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def make_result(seconds, *, peak=100, accuracy=0.5, parts=None):
    parts = parts or {"train": 1.0}
    rate = 80 / sum(parts.values())
    return contenders.Result(seconds, 80 / seconds, peak, accuracy, parts, rate)


def make_options(*arguments):
    return compare._parse(list(arguments))


def test_made_images_are_the_same_ones_each_time_and_more_only_add(tmp_path):
    for name, count in (("first", 20), ("again", 20), ("more", 30)):
        images.write_images(tmp_path / name, count)
    first, more = digest(tmp_path / "first"), digest(tmp_path / "more")
    assert first == digest(tmp_path / "again")
    assert len(first) == 20 and len(more) == 30 and first.items() <= more.items()
    assert len(set(more.values())) == 30
    sizes = [path.stat().st_size for path in (tmp_path / "first").rglob("*.jpg")]
    assert min(sizes) > 25_000 and max(sizes) < 65_000


def test_splits_are_disjoint_whole_and_hold_every_class(tmp_path):
    images.write_images(tmp_path / "all", 100, sides=(16, 16))
    chosen = images.choose_images(images.list_images(tmp_path / "all"), None)
    counts = images.split_images(chosen, tmp_path / "splits")
    assert counts == {"train": 80, "validation": 10, "test": 10}
    laid = digest(tmp_path / "splits")
    assert sorted(laid.values()) == sorted(digest(tmp_path / "all").values())
    for split in images.SPLITS:
        assert len(list((tmp_path / "splits" / split).iterdir())) == images.NUM_CLASSES


def test_the_first_images_of_each_class_are_chosen_in_equal_parts():
    found = {name: [pathlib.Path(name, str(n)) for n in range(size)] for name, size in SIZES}
    chosen = images.choose_images(found, 12)
    assert {name: len(paths) for name, paths in chosen.items()} == {"a": 3, "b": 4, "c": 5}
    assert all(paths == found[name][: len(paths)] for name, paths in chosen.items())


SIZES = (("a", 3), ("b", 4), ("c", 9))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (17, "Expected 17 images. Found 16 in --images."),
        (8, "Expected at least 3 images of each class, one for each split. 'c' has 2."),
    ],
)
def test_too_few_images_are_said(count, text):
    found = {name: [pathlib.Path(name, str(n)) for n in range(size)] for name, size in SIZES}
    with pytest.raises(ValueError) as error:
        images.choose_images(found, count)
    assert str(error.value) == text


def test_a_folder_without_classes_ends_with_a_line(tmp_path, capsys):
    assert compare.main([f"--images={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        f"error: --images={tmp_path}: expected a folder with at least two class folders of .jpg, "
        ".jpeg, .png, .bmp files. Found 0.\n"
    )


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--contenders=keras,jax", "expected keras, torch, torch_bfloat16, tf_finetune; got 'jax'"),
        ("--scale=100,100", "expected rising numbers, got 100,100"),
        ("--epochs=0", "expected at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(flag, text, capsys):
    with pytest.raises(SystemExit) as error:
        compare.main([flag])
    assert error.value.code == 2
    assert text in capsys.readouterr().err


def test_the_memory_of_a_process_is_its_own(tmp_path):
    log = tmp_path / "log"
    code = "import time; x = bytearray(300 * 2**20); x[::4096] = bytes([1]) * 76800; time.sleep(1)"
    large = processes.run([sys.executable, "-c", code], log=log)
    small = processes.run([sys.executable, "-c", "import time; time.sleep(0.3)"], log=log)
    assert large.code == small.code == 0
    assert large.seconds > 1 and small.seconds > 0.3
    if sys.platform == "linux":
        assert 300 < large.peak_mb < 350 and small.peak_mb < 50


def test_a_failed_process_shows_its_last_lines(tmp_path):
    done = processes.run([sys.executable, "-c", "raise SystemExit('no')"], log=tmp_path / "log")
    assert (done.code, done.tail) == (1, "no")


def test_figures_of_repeats_are_medians_and_the_largest_peak():
    runs = [make_result(3.0, peak=7), make_result(1.0, peak=9), make_result(2.0, peak=None)]
    found = tables.summarize(runs)
    assert (found["seconds"], found["images_per_second"], found["peak_mb"]) == (2.0, 40.0, 9)
    assert found["all_seconds"] == [3.0, 1.0, 2.0]


def test_ratios_are_seconds_by_ours():
    ours = make_result(4.0, parts={"features": 2.0, "train": 0.5})
    found = {
        contenders.KERAS: tables.summarize([make_result(40.0)]),
        contenders.OURS: tables.summarize([ours]),
    }
    assert compare._find_ratios(found) == {
        "keras_by_tf_finetune": 10.0,
        "training_rate_of_tf_finetune_by_keras": 0.4,
        "features_and_epochs_by_features": 1.25,
    }
    text = tables.format_contenders(found, {contenders.TORCH: "not installed"})
    assert "| plain Keras | 40.0 | 40.0 to 40.0 | 2.0 | 80.0 | 100 | 0.500 | 10.00 |" in text
    assert "| PyTorch, float32 | not installed | - |" in text


def test_pytorch_takes_part_only_where_it_can():
    against = contenders.find_reason_against
    other = make_options("--backbone=efficientnetv2b0")
    assert against("torch", make_options(), has_torch=True) is None
    assert against("keras", make_options(), has_torch=False) is None
    reason = "not installed (python -m pip install torch torchvision)"
    assert against("torch", make_options(), has_torch=False) == reason
    assert against("torch", other, has_torch=True) == "torchvision has no EfficientNetV2B0"


@pytest.mark.parametrize("backbone", backbones.NETWORKS)
def test_the_last_block_begins_after_a_layer_of_the_network(backbone):
    import keras

    network = backbones.NETWORKS[backbone]
    module = getattr(keras.applications, network.keras_module)
    model = getattr(keras.applications, network.keras_name)(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    names = [layer.name for layer in model.layers]
    trained = sum(
        layer.count_params() for layer in model.layers[names.index(network.frozen_until) + 1 :]
    )
    assert 0.05 < trained / model.count_params() < 0.7
    assert callable(module.preprocess_input)


def test_the_header_names_the_machine():
    header = machine.describe(["--epochs=2"])
    text = tables.format_header(header)
    assert header["command"] == "python -m benchmarks.compare --epochs=2"
    assert header["versions"]["keras"] in text and f"{header['cores']} cores" in text
    assert set(header["bfloat16"]) <= {"amx_bf16", "avx512_bf16"}
    assert header["versions"]["torch"] == header["versions"]["torchvision"] == "not installed"
    found = machine.describe([], torch_versions=("2.1", "0.2"))["versions"]
    assert (found["torch"], found["torchvision"]) == ("2.1", "0.2")


def test_an_interpreter_that_is_not_there_is_said(tmp_path, capsys):
    path = tmp_path / "python"
    assert compare.main([f"--torch_python={path}"]) == 1
    text = f"error: --torch_python={path}: No such file or directory.\n"
    assert capsys.readouterr().err == text


@pytest.mark.slow
def test_the_compiled_prefix_beside_plain_keras(repository, tmp_path):
    output = tmp_path / "report.json"
    command = [
        *(sys.executable, "-m", "benchmarks.compare", "--backbone=mobilenetv2", "--size=64"),
        *("--num_images=40", "--prefix_only", f"--folder={tmp_path}", f"--output={output}"),
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "float32" in done.stdout


@pytest.mark.slow
def test_forty_images_through_both_keras_contenders(repository, tmp_path):
    output = tmp_path / "report.json"
    command = [
        *(sys.executable, "-m", "benchmarks.compare", "--backbone=mobilenetv2", "--size=64"),
        *("--num_images=40", "--epochs=2", "--contenders=keras,tf_finetune"),
        *(f"--folder={tmp_path}", f"--output={output}"),
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["images"] == {"train": 20, "validation": 10, "test": 10}
    assert set(report["contenders"]) == {"keras", "tf_finetune"}
    for values in report["contenders"].values():
        assert values["seconds"] == values["all_seconds"][0] > 1
        assert 0 <= values["accuracy"] <= 1
        assert 0 < values["images_per_second"] < values["training_images_per_second"]
        assert values["seconds"] > sum(values["parts"].values()) > 0
        assert sys.platform != "linux" or values["peak_mb"] > 100
    ours = report["contenders"]["tf_finetune"]
    ratio = report["contenders"]["keras"]["seconds"] / ours["seconds"]
    assert report["ratios"]["keras_by_tf_finetune"] == pytest.approx(ratio, abs=2e-3)
    assert (report["not_run"], report["failed"]) == ({}, {})
    assert "| tf_finetune |" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]
