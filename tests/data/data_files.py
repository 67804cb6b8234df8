"""Small data sets on disk. The loaders list by name, so that most images here have no pixels."""

import os
import pathlib

import pytest

from tf_finetune import findings


def write_files(folder: pathlib.Path, **contents: int) -> pathlib.Path:
    """Writes `contents[label]` files 0.jpg, 1.jpg ... into a class folder for each label."""
    for label, total in contents.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(total):
            (folder / label / f"{number}.jpg").write_bytes(f"{label} {number}".encode())
    return folder


def write_named(folder: pathlib.Path, *names: str | bytes) -> pathlib.Path:
    """Writes empty files of these names; parents are made."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return folder


def refusal(function, *arguments, **options) -> list[str]:
    """The lines that a call refuses with."""
    with pytest.raises(findings.RefusedError) as caught:
        function(*arguments, **options)
    lines = [problem.message for problem in caught.value.problems]
    assert all("\n" not in line for line in lines)
    return lines


def warnings_of(problems) -> list[str]:
    """The messages of problems, none of which may be an error."""
    assert all(problem.severity == findings.WARNING for problem in problems)
    return [problem.message for problem in problems]
