import json
import subprocess
import sys
import time

import pytest

from tests import tiny
from tf_finetune import main


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tf_finetune.main", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--flagfle=x"]])
def test_answers_in_under_a_second(arguments):
    # The best of three: a busy machine is not what is measured.
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        run(*arguments)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1.0


def test_help_goes_to_standard_output():
    result = run("--help")
    assert result.returncode == 0
    assert "--model=MODEL" in result.stdout
    assert result.stderr == ""


def test_every_mistake_is_a_line_and_the_exit_code_is_2(capsys):
    assert main.main(["--modle=x", "--batch_size=0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: Unknown flag --modle. Did you mean --mode or --model? --help lists all flags.",
        "error: --batch_size must be at least 1. Received 0.",
    ]


def test_no_flags_at_all(capsys):
    assert main.main([]) == 2
    assert capsys.readouterr().err == (
        "error: Nothing to do: give --model and --data. --help lists all flags.\n"
    )


def test_a_mode_names_the_flags_it_needs(capsys):
    assert main.main(["--mode=train"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --mode=train needs --model.",
        "error: --mode=train needs --data.",
    ]
    assert main.main(["--mode=predict", "--output=x.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --mode=predict needs --input.",
        "error: --mode=predict needs --workdir, or --model=EXPORT_DIR/VERSION.",
    ]


# VmHWM, not ru_maxrss: that one remembers the process that started this one.
_WATCHED = """
import re, sys
from tf_finetune import main
code = main.main(sys.argv[1:])
heavy = [name for name in ("tensorflow", "keras", "sklearn", "scipy", "PIL") if name in sys.modules]
memory = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(code, int(memory) // 1024, *heavy, file=sys.stderr)
"""


@pytest.fixture
def big_model(tmp_path):
    """A model of 100 MB, most of it in a Dense layer."""
    path = tmp_path / "model.h5"
    tiny.make_classifier(num_classes=2_800_000).save(path)
    assert path.stat().st_size > 100e6
    return path


def test_inspect_of_100_megabytes_without_tensorflow(big_model):
    arguments = ["--mode=inspect", f"--model={big_model}", "--inspect_format=json"]
    # The best of three: a busy machine is not what is measured. 0.5 s and 50 MB when idle.
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", _WATCHED, *arguments], capture_output=True, text=True
        )
        seconds.append(time.monotonic() - start)
    code, memory, *heavy = result.stderr.split()
    assert (code, heavy) == ("0", [])
    assert int(memory) < 150
    assert min(seconds) < 1.5
    assert json.loads(result.stdout)["layers"][0]["name"] == "conv_a"


def test_inspect_refuses_in_one_line(tmp_path):
    path = tmp_path / "page.h5"
    path.write_text("<!DOCTYPE html>")
    result = run("--mode=inspect", f"--model={path}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path}: is an HTML page, not a model")
    assert len(result.stderr.splitlines()) == 1
