import subprocess
import sys
import time

import pytest

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
