"""What README.md says is run: its Python, its flags, its two commands."""

import pathlib
import re

import pytest

from tf_finetune import spec_flags

README = (pathlib.Path(__file__).resolve().parent.parent / "README.md").read_text()
COMMANDS = re.findall(r"^python -m tf_finetune\.main (.+)$", README, re.MULTILINE)
FLAG_LINES = re.findall(r"^(--(?:head|phase)=.+)$", README, re.MULTILINE)


def test_the_two_commands_stand_as_they_must():
    assert (
        "    python -m pip install -e . && "
        "python -m tf_finetune.main --flagfile=configs/quickstart.flags\n" in README
    )
    assert "    python -m pip install -e '.[dev]' && python -m pytest\n" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    spec_flags.parse_args(command.split())


def test_flag_lines_parse():
    assert len(FLAG_LINES) >= 4
    spec_flags.parse_args(FLAG_LINES)


def test_every_flag_that_is_named_exists():
    named = set(re.findall(r"`--([a-z0-9_]+)", README))
    # Of TensorFlow's tools.
    assert named - set(spec_flags.define_flags()) <= {"flagfile", "help"}


def test_every_exit_code_is_told():
    for code in ("0 done", "1 crash", "2 refused", "3 a requirement", "4 training", "130 inter"):
        assert code in README
