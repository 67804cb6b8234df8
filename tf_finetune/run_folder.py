"""Whose folder a workdir is: the rules that keep one run from overwriting another.

Reference: the rules stand in README.md, "What a run leaves behind".
"""

import hashlib
import os
import re
from typing import Any

from tf_finetune import findings, spec_flags, specs, workdir

COMPLETED = "completed"
REQUIREMENT_NOT_MET = "requirement_not_met"
DIVERGED = "diverged"
_REQUEST = "state/request.flags"


def spec_hash(spec: specs.RunSpec) -> str:
    """Identifies a spec.

    Args:
      spec: with absolute paths.

    Returns:
      8 hex digits.
    """
    return hashlib.sha256(spec_flags.write_flags(spec).encode()).hexdigest()[:8]


def default_workdir(spec: specs.RunSpec) -> str:
    """runs/DATA-MODEL-HASH for a spec.

    Args:
      spec: with absolute paths.

    Returns:
      A path relative to the current folder.
    """
    data, model = (_short_name(text) for text in (spec.data.data, spec.model.model))
    return os.path.join("runs", f"{data}-{model}-{spec_hash(spec)}")


def find_finished(folder: str, spec: specs.RunSpec) -> dict[str, Any] | None:
    """Looks whether a workdir is free, or holds this very run, finished.

    Args:
      folder: the workdir; it need not exist.
      spec: the requested run, with absolute paths.

    Returns:
      The summary of the finished run, or None where the folder is free.

    Raises:
      RefusedError: the folder holds something else, another run, or an unfinished one.
    """
    if not os.path.exists(folder):
        return None
    shown = findings.one_line(folder)
    if not os.path.isdir(folder):
        raise _refused(f"--workdir={shown} is a file. Expected a folder.", folder)
    if not os.listdir(folder):
        return None
    if not os.path.isfile(os.path.join(folder, workdir.RUN_FLAGS)):
        raise _refused(
            f"--workdir={shown} holds files that are no run's. Expected a new or empty folder, or "
            "one with run.flags. Choose another --workdir.",
            folder,
        )
    requested = spec_flags.write_flags(spec)
    differences = _differences(folder, requested)
    if differences:
        raise _refused(
            f"--workdir={shown} holds another run; its flags differ: {'; '.join(differences)}. "
            "Choose another --workdir, or remove that one.",
            folder,
        )
    summary = os.path.join(folder, workdir.SUMMARY)
    if os.path.isfile(summary):
        found = workdir.read_json(summary)
        if found["status"] != DIVERGED:
            return found
    raise _refused(
        f"--workdir={shown} holds this run, unfinished, and runs cannot be resumed yet. Remove the "
        "folder to start again, or choose another --workdir.",
        folder,
    )


def claim(folder: str, *, requested: specs.RunSpec) -> None:
    """Makes the folder this run's.

    Args:
      folder: a free workdir (`find_finished` returned None).
      requested: the run as it was asked for, with absolute paths.

    Raises:
      RefusedError: the folder cannot be made or written.
    """
    try:
        flags_text = spec_flags.write_flags(requested)
        workdir.write_atomic(os.path.join(folder, _REQUEST), flags_text)
        workdir.write_atomic(os.path.join(folder, workdir.RUN_FLAGS), flags_text)
    except OSError as error:
        raise _refused(
            f"--workdir={findings.one_line(folder)} cannot be written: {error.strerror}. Choose a "
            "folder that you may write.",
            folder,
        ) from error


def read_spec(folder: str) -> specs.RunSpec:
    """The spec of the run in a workdir.

    Args:
      folder: the workdir.

    Returns:
      The resolved spec of its run.flags.

    Raises:
      RefusedError: the folder holds no run.
    """
    _check_holds_run(folder)
    return spec_flags.read_flagfile(os.path.join(folder, workdir.RUN_FLAGS))


def read_flag_lines(folder: str) -> frozenset[str]:
    """Every flag of the run in a workdir, as asked for and as resolved.

    Args:
      folder: the workdir.

    Returns:
      Lines of the form --flag=value.

    Raises:
      RefusedError: the folder holds no run.
    """
    _check_holds_run(folder)
    lines: set[str] = set()
    for name in (_REQUEST, workdir.RUN_FLAGS):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                lines.update(file.read().splitlines())
    return frozenset(lines)


def _check_holds_run(folder: str) -> None:
    if not os.path.isfile(os.path.join(folder, workdir.RUN_FLAGS)):
        raise _refused(
            f"--workdir={findings.one_line(folder)} holds no run: expected {workdir.RUN_FLAGS} in "
            "it. Give the folder that --mode=train named at its end.",
            folder,
        )


def _differences(folder: str, requested: str) -> list[str]:
    candidates = []
    for name in (_REQUEST, workdir.RUN_FLAGS):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8") as file:
            stored = file.read()
        ours, theirs = requested.splitlines(), stored.splitlines()
        candidates.append(
            [f"there {line}" for line in theirs if line not in ours]
            + [f"here {line}" for line in ours if line not in theirs]
        )
    # Asked for again as first typed, or by its own run.flags: both are the same run.
    return min(candidates, key=len)


def _short_name(text: str) -> str:
    if text.startswith("keras:"):
        text = text.partition(",")[0].removeprefix("keras:")
    name = os.path.splitext(os.path.basename(text.rstrip("/")))[0]
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[:40] or "run"


def _refused(message: str, folder: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=folder, flag="--workdir"))
