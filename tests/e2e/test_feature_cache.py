"""The feature cache through the door: what it says, what it keeps, what it leaves alone."""

import csv
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from tf_finetune import main
from tf_finetune.feature_cache import prefix, shards
from tf_finetune.models import splitting


@pytest.fixture
def train(tmp_path, colors, classifier, capsys):
    """Function of a name and flags to (exit code, printed lines) of a run of two epochs."""

    def run(name, *flags):
        given = (
            f"--model={classifier}",
            f"--data={colors}",
            f"--workdir={tmp_path / name}",
            "--pixel_range=0..1",
            "--batch_size=16",
            f"--cache_dir={tmp_path / 'features'}",
        )
        code = main.main((*given, *flags))
        captured = capsys.readouterr()
        return code, captured.out.splitlines() + captured.err.splitlines()

    return run


def starting_with(lines, start):
    (line,) = [line for line in lines if line.startswith(start)]
    return line


EXACT = ("--feature_cache=disk", "--feature_precision=float32")


def head(epochs, rate="0.03"):
    return f"--phase=name=head,epochs={epochs},learning_rate={rate}"


def test_a_second_run_with_another_rate_finds_the_features(train, tmp_path):
    code, lines = train("first", *EXACT, head(20))
    assert code == 0
    assert starting_with(lines, "Feature cache: ").startswith(
        "Feature cache: 658 frozen weights are run once per example, the features (8, float32) are "
        "kept on the disk: "
    )
    assert re.fullmatch(
        r"Features: 81 computed, 32 bytes each \(float32\), [\d.]+ s, \d+ examples/s\.",
        starting_with(lines, "Features: "),
    )
    code, lines = train("second", *EXACT, head(20, "0.02"))
    assert code == 0
    assert starting_with(lines, "Features: ").startswith(
        "Features: 0 computed, 81 were there already, "
    )
    flags = (tmp_path / "second" / "run.flags").read_text().splitlines()
    assert "--feature_cache=disk" in flags
    assert "--feature_precision=float32" in flags
    assert f"--cache_dir={tmp_path / 'features'}" in flags
    assert '"features": ' in (tmp_path / "second" / "summary.json").read_text()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_measured_is_the_model_itself_and_computed_once(
    train, tmp_path, capsys, monkeypatch, precision
):
    """Measured on features in float32: what --mode=evaluate finds with the whole model."""
    flags = ("--feature_cache=disk", f"--feature_precision={precision}")
    assert train("first", *flags, head(20))[0] == 0
    assert main.main(("--mode=evaluate", f"--workdir={tmp_path / 'first'}")) == 0
    capsys.readouterr()
    path = tmp_path / "first" / "evaluation" / "test" / "report.json"
    whole = json.loads(path.read_text())
    compile_prefix, make_suffix = prefix.compile_prefix, splitting.ModelSplit.make_suffix
    compiled, made = [], []

    def note_compiled(*arguments, **options):
        compiled.append(options)
        return compile_prefix(*arguments, **options)

    def note_made(self, kind):
        made.append(kind)
        return make_suffix(self, kind)

    monkeypatch.setattr(prefix, "compile_prefix", note_compiled)
    monkeypatch.setattr(splitting.ModelSplit, "make_suffix", note_made)
    assert train("second", *flags, head(20))[0] == 0
    path = tmp_path / "second" / "evaluation" / "test" / "report.json"
    assert made.count(splitting.SuffixModel) == 2 and not compiled
    check_numbers(json.loads(path.read_text()), whole)


def check_numbers(found, expected):
    """Equal but for rounding."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            check_numbers(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_numbers(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert found == expected


def test_what_was_chosen_is_written_and_obeyed(train, tmp_path, capsys):
    """auto is off for so little work, and a repeated run does not measure again."""
    code, lines = train("auto", head(20))
    assert code == 0
    assert re.fullmatch(
        r"Feature cache: off, the frozen part is [\d.]+ billion products in the later epochs, "
        r"which are soon done\.",
        starting_with(lines, "Feature cache: "),
    )
    flags = (tmp_path / "auto" / "run.flags").read_text()
    assert "--feature_cache=off\n" in flags and "--feature_precision=float32\n" in flags
    assert not (tmp_path / "features").exists()
    path, again = tmp_path / "auto" / "run.flags", tmp_path / "again"
    assert main.main((f"--flagfile={path}", f"--workdir={again}")) == 0
    assert "Feature cache" not in capsys.readouterr().out
    histories = [(folder / "logs/history.csv").read_text() for folder in (path.parent, again)]
    assert histories[0] == histories[1]


def test_bfloat16_features(train, tmp_path):
    code, lines = train("half", "--feature_cache=disk", "--feature_precision=bfloat16", head(20))
    assert code == 0
    assert "Features: 81 computed, 16 bytes each (bfloat16), " in "\n".join(lines)
    code, lines = train("full", *EXACT, head(20))
    # Those of validation are there already: what is measured is measured in float32.
    assert "Features: 72 computed, 9 were there already, 32 bytes each (float32), " in (
        "\n".join(lines)
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--feature_cache=ram",
            "error: --feature_cache must be one of auto, off, memory, disk, compiled. "
            "Received 'ram'.",
        ),
        (
            "--feature_precision=float16",
            "error: --feature_precision must be one of auto, float32, bfloat16. "
            "Received 'float16'.",
        ),
        ("--cache_max_gb=-1", "error: --cache_max_gb must be at least 0.0. Received -1.0."),
        (
            "--cache_max_gb=1e-6",
            "error: --feature_cache=disk would keep 2.6e-06 GB of features (32 bytes per example), "
            "and there is room for 1e-06 GB. Expected less: freeze more layers, give a larger "
            "--cache_max_gb, or --feature_cache=off.",
        ),
    ],
)
def test_mistakes(train, tmp_path, flag, message):
    name = flag.partition("=")[0]
    given = [own for own in EXACT if not own.startswith(name)]
    code, lines = train("bad", *given, head(1), flag)
    assert (code, lines[-1]) == (2, message)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_dir_that_is_a_file(train, tmp_path):
    (tmp_path / "features").write_text("mine")
    code, lines = train("bad", "--feature_cache=disk", head(1))
    assert code == 2
    assert lines[-1] == (
        f"error: --cache_dir={tmp_path}/features: {tmp_path}/features is no folder. Expected a "
        "folder for features: choose another, or --feature_cache=memory."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_views_leave_the_cache_off(train, tmp_path):
    code, lines = train("views", "--feature_cache=disk", "--augment=flip", head(20))
    assert code == 0
    assert starting_with(lines, "Feature cache: ") == (
        "Feature cache: off, --augment gives each epoch its own images."
    )
    assert not (tmp_path / "features").exists()


def test_kept_views_are_found_by_a_second_run(train, tmp_path):
    views = ("--augment=flip,crop", "--augment_views=3")
    code, lines = train("first", *EXACT, *views, head(4))
    assert code == 0
    assert starting_with(lines, "Feature cache: ").startswith(
        "Feature cache: 658 frozen weights are run once per example, and for each of 3 views of a "
        "training image, the features (8, float32) are kept on the disk: "
    )
    made = starting_with(lines, "Features: ")
    assert re.match(r"Features: \d+ computed, 32 bytes each", made)
    flags = (tmp_path / "first" / "run.flags").read_text().splitlines()
    assert {"--augment_views=3", "--feature_cache=disk"} <= set(flags)
    code, lines = train("second", *EXACT, *views, head(4, rate="0.01"))
    assert code == 0
    count = made.split()[1]
    assert starting_with(lines, "Features: ").startswith(
        f"Features: 0 computed, {count} were there already, "
    )


def test_views_of_no_steps_are_refused(train, tmp_path):
    code, lines = train("none", "--augment_views=3")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert lines == [
        "error: --augment_views=3 is how many views of --augment an image has. Give "
        "--augment=flip,crop or other steps, or leave it out."
    ]


def test_new_views_in_each_epoch_through_the_compiled_prefix(train, tmp_path):
    given = ("--feature_cache=compiled", "--feature_precision=float32", "--augment=flip,mixup")
    code, lines = train("compiled", *given, head(20))
    assert code == 0
    assert starting_with(lines, "Feature cache: ").startswith(
        "Feature cache: none; 658 frozen weights run as a compiled graph (float32) in each epoch: "
        "--augment gives each epoch its own images, and the frozen part is "
    )
    assert "--feature_cache=compiled\n" in (tmp_path / "compiled" / "run.flags").read_text()
    assert not (tmp_path / "features").exists()


def test_a_dry_run_writes_nothing(train, tmp_path):
    code, lines = train("dry", "--feature_cache=disk", head(20), "--dry_run")
    assert code == 0
    assert re.fullmatch(
        r"Cost: all 81 features would take about \d+\.\d s \(from 81 timed\), less where they are "
        r"kept already\.",
        starting_with(lines, "Cost: all "),
    )
    assert lines[-1] == "--dry_run: nothing was trained or written."
    assert list(tmp_path.iterdir()) == []


def test_time_that_is_over_in_the_pass(train, tmp_path):
    code, lines = train("late", "--feature_cache=disk", head(20), "--max_minutes=0.00001")
    assert code == 3
    assert (
        "Phase head: not started, --max_minutes is over: 0 of 81 features were computed and "
        in ("\n".join(lines))
    )
    assert any(line.startswith("error: No epoch was better") for line in lines)


def run_main(*flags):
    command = [sys.executable, "-m", "tf_finetune.main", *flags]
    start = time.monotonic()
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return process.stdout.splitlines(), time.monotonic() - start


def read_accuracy(folder):
    return json.loads((folder / "summary.json").read_text())["test"]["label"]["accuracy"]


def read_history(folder):
    with (folder / "logs" / "history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_photographs(shared, photographs, tmp_path):
    """Equal histories in float32, and what bfloat16 costs, over five seeds."""
    model = shared / "zoo" / "h5" / "mobilenet_v1_025_128_notop_keras3.h5"
    common = (f"--model={model}", f"--data={photographs}", f"--cache_dir={tmp_path / 'features'}")
    accuracies, ways = {}, ("off", "float32", "auto", "bfloat16")
    print("\n| seed | " + " | ".join(ways) + " |")
    for seed in range(5):
        row = []
        for way in ways[1:] if seed else ways:
            folder = tmp_path / f"{way}{seed}"
            flags = ["--feature_cache=off"] if way == "off" else [
                "--feature_cache=disk", f"--feature_precision={way}",
            ]  # fmt: skip
            _, secs = run_main(
                *common, f"--workdir={folder}", f"--seed={seed}", "--freeze=all", *flags
            )
            accuracies.setdefault(way, []).append(read_accuracy(folder))
            row.append(f"{accuracies[way][-1]:.4f} ({secs:.0f} s)")
        print(f"| {seed} | " + " | ".join(row) + " |", flush=True)
    means = {way: statistics.mean(values) for way, values in accuracies.items()}
    print(means)
    off, exact = (read_history(tmp_path / f"{way}0") for way in ("off", "float32"))
    assert len(off) == len(exact)
    for expected, own in zip(off, exact, strict=True):
        for name, value in expected.items():
            if "cross_entropy" in name:
                assert float(own[name]) == pytest.approx(float(value), abs=1e-5), name
    assert abs(means["auto"] - means["float32"]) <= 0.005


def read_features(folder):
    """{digest: features} of every shard; the layout is that of one vector."""
    found = {}
    (space,) = [path for path in pathlib.Path(folder).iterdir() if path.is_dir()]
    layout = shards.Layout({"features_0": (2048,)}, {"features_0": "float32"})
    for shard in shards.find_shards(str(space), layout)[0]:
        values = np.memmap(
            shard.path, np.float32, "r", shard.offsets["features_0"], (len(shard.digests), 2048)
        )
        found.update(zip(map(bytes, shard.digests), np.array(values), strict=True))
    return found


@pytest.mark.slow
def test_killed_five_times(photographs, tmp_path):
    """Nothing that was on the disk is computed again, and the features are those of one pass."""
    common = (
        "--model=keras:ResNet50,weights=none,input_shape=224x224x3",
        f"--data={photographs}",
        "--feature_cache=disk",
        "--feature_precision=float32",
        "--freeze=all",
        "--epochs=1",
        "--pixel_range=caffe",
    )
    cache = tmp_path / "killed"
    generator, kept = random.Random(0), [0]
    for number in range(5):
        command = [sys.executable, "-m", "tf_finetune.main", *common]
        process = subprocess.Popen(
            [*command, f"--cache_dir={cache}", f"--workdir={tmp_path / f'run{number}'}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        for line in process.stdout:
            if line.startswith("Phase "):
                break
        time.sleep(generator.uniform(3, 10))
        os.kill(process.pid, signal.SIGKILL)
        end = time.time()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kept.append(len(read_features(cache)) if cache.exists() and any(cache.iterdir()) else 0)
        newest = max((path.stat().st_mtime for path in cache.rglob("*.shard")), default=end)
        print(f"\nkilled: {kept[-1]} features are there, the newest {end - newest:.1f} s old")
        # In flight is what _FLUSH_SECS and a batch bring; compiling comes before the first.
        assert kept[-1] == kept[-2] or end - newest < 5 + 3
    assert kept == sorted(kept) and kept[-1] > 0
    lines, _ = run_main(*common, f"--cache_dir={cache}", f"--workdir={tmp_path / 'last'}")
    last = starting_with(lines, "Features: ")
    whole, _ = run_main(
        *common, f"--cache_dir={tmp_path / 'one'}", f"--workdir={tmp_path / 'one_run'}"
    )
    total = int(re.match(r"Features: ([\d,]+) computed", starting_with(whole, "Features: "))[1]
                .replace(",", ""))  # fmt: skip
    assert last.startswith(f"Features: {total - kept[-1]:,} computed, {kept[-1]:,} were there")
    killed, once = read_features(cache), read_features(tmp_path / "one")
    summary = json.loads((tmp_path / "one_run" / "summary.json").read_text())
    # Those of the test split come when the model is measured.
    assert killed.keys() == once.keys() and len(once) == total + summary["examples"]["test"]
    change = max(np.abs(killed[key] - once[key]).max() for key in once)
    scale = np.std(list(once.values()))
    print(f"largest difference {change:.2g}, standard deviation of features {scale:.2g}")
    assert change <= 1e-5 * max(scale, 1.0)
    lines, secs = run_main(
        *common, f"--cache_dir={cache}", f"--workdir={tmp_path / 'other'}", "--learning_rate=0.001"
    )
    assert starting_with(lines, "Features: ").startswith("Features: 0 computed, ")
    print(f"another learning rate: {secs:.1f} s in all")
