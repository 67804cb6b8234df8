"""Whose folder a workdir is: the rules that keep one run from overwriting another.

Reference: the rules stand in README.md, "What a run leaves behind".
"""

import dataclasses
import hashlib
import os
import re
from typing import Any

from tf_finetune import (
    checkpoints,
    findings,
    flagfiles,
    regular_files,
    run_lock,
    run_records,
    spec_flags,
    specs,
    workdir,
)

COMPLETED = "completed"
REQUIREMENT_NOT_MET = "requirement_not_met"
DIVERGED = "diverged"
_STATUSES = (COMPLETED, REQUIREMENT_NOT_MET, DIVERGED)
_MOST_DIFFERENCES = 10


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
    """Looks whether a workdir is free, or holds this very run.

    Args:
      folder: the workdir; it need not exist.
      spec: the requested run, with absolute paths.

    Returns:
      The summary of the finished run, or None where the folder is free or the run can go on.

    Raises:
      RefusedError: the folder holds something else, another run, one that diverged, or what
        --resume does not allow.
    """
    shown = findings.one_line(folder)
    if _is_free(folder):
        if spec.train.resume == "must":
            raise _refused(
                f"--resume=must, and --workdir={shown} holds no run. Name the workdir of the run "
                "that was interrupted, or leave --resume out.",
                folder,
                flag="--resume",
            )
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
            f"--workdir={shown} holds another run; its flags differ: "
            f"{_join_first(differences)}{_describe_lost(folder)}. "
            "Choose another --workdir, or remove that one.",
            folder,
        )
    if os.path.isfile(os.path.join(folder, workdir.SUMMARY)):
        found = read_summary(folder)
        if found["status"] != DIVERGED:
            return found
        raise _refused(
            f"--workdir={shown} holds this run, which diverged: it would again. Expected other "
            "flags, such as a smaller --learning_rate, and another --workdir.",
            folder,
        )
    if spec.train.resume == "never":
        raise _refused(
            f"--workdir={shown} holds this run, unfinished, and --resume=never. Leave that out to "
            "go on, or remove the folder to start again.",
            folder,
            flag="--resume",
        )
    if spec.train.resume == "must" and not has_checkpoint(folder):
        raise _refused(
            f"--resume=must, and the run in --workdir={shown} ended before its first checkpoint. "
            "Leave --resume out to start again.",
            folder,
            flag="--resume",
        )
    return None


def has_checkpoint(folder: str) -> bool:
    """Whether there is something to go on from.

    Args:
      folder: the workdir; it need not exist.

    Returns:
      True if it has a checkpoint.
    """
    return bool(checkpoints.list_numbers(os.path.join(folder, workdir.CHECKPOINTS_DIR)))


def remove_checkpoints(folder: str) -> None:
    """Removes what a run that has ended will not go on from.

    Args:
      folder: the workdir.
    """
    checkpoints.remove_all(os.path.join(folder, workdir.CHECKPOINTS_DIR))


def _is_free(folder: str) -> bool:
    if not os.path.exists(folder):
        return True
    if not os.path.isdir(folder):
        shown = findings.one_line(folder)
        raise _refused(f"--workdir={shown} is a file. Expected a folder.", folder)
    if os.path.isfile(os.path.join(folder, workdir.RUN_FLAGS)):
        return False
    # A run that was ended, or had no room, before it had claimed the folder has left its lock, and
    # maybe what was asked for.
    state = os.path.join(folder, workdir.STATE_DIR)
    return _list_finished(folder) <= {workdir.STATE_DIR} and (
        not os.path.isdir(state)
        or _list_finished(state) <= {run_lock.NAME, os.path.basename(workdir.REQUEST)}
    )


def _list_finished(folder: str) -> set[str]:
    return {name for name in os.listdir(folder) if not workdir.is_unfinished(name)}


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
        workdir.write_atomic(os.path.join(folder, workdir.REQUEST), flags_text)
        workdir.write_atomic(os.path.join(folder, workdir.RUN_FLAGS), flags_text)
    except OSError as error:
        raise run_lock.refuse_unwritable(folder, error) from error


def read_summary(folder: str) -> dict[str, Any]:
    """What a run found.

    Args:
      folder: the workdir.

    Returns:
      The content of its summary.json: "status", and where they are there, metrics of "validation"
      and "test" that are numbers, and "export" with a path.

    Raises:
      RefusedError: summary.json cannot be read or is damaged.
    """
    summary = run_records.read_record(folder, workdir.SUMMARY)
    if summary.get("status") not in _STATUSES:
        reason = f"status must be one of {', '.join(_STATUSES)}"
        raise run_records.damaged(folder, workdir.SUMMARY, reason)
    for split in ("validation", "test"):
        measured = summary.get(split, {})
        if not isinstance(measured, dict) or not all(
            name == "loss" or _are_metrics(value) for name, value in measured.items()
        ):
            reason = f"{split}: expected a number for each metric of each head"
            raise run_records.damaged(folder, workdir.SUMMARY, reason)
    exported = summary.get("export")
    if exported is not None and not (
        isinstance(exported, dict) and isinstance(exported.get("path"), str)
    ):
        raise run_records.damaged(folder, workdir.SUMMARY, "export: expected null or a path")
    return summary


def _are_metrics(value: object) -> bool:
    return isinstance(value, dict) and all(
        run_records.is_number(number, lower=-1e300, upper=1e300) for number in value.values()
    )


def read_spec(folder: str, *, max_image_pixels: int | None = None) -> specs.RunSpec:
    """The spec of the run in a workdir.

    The folder may be a stranger's, and its run.flags cannot lift the limit of images that are
    decoded.

    Args:
      folder: the workdir.
      max_image_pixels: the limit; default: the run's own, or that of --max_image_pixels where the
        run's is higher.

    Returns:
      The resolved spec of its run.flags.

    Raises:
      RefusedError: the folder holds no run, or its run.flags is damaged or names other flagfiles.
    """
    _check_holds_run(folder)
    _read_lines(folder, workdir.RUN_FLAGS)
    try:
        spec = spec_flags.read_flagfile(os.path.join(folder, workdir.RUN_FLAGS))
    except specs.SpecError as error:
        raise run_records.damaged(folder, workdir.RUN_FLAGS, error.problems[0]) from error
    limit = min(spec.data.max_image_pixels, specs.DataSpec.max_image_pixels)
    data = dataclasses.replace(spec.data, max_image_pixels=max_image_pixels or limit)
    return dataclasses.replace(spec, data=data)


def choose_export_dir(spec: specs.RunSpec, *, folder: str, given: str | None) -> str:
    """Where a finished run is exported again: a run's folder does not decide it for another place.

    Args:
      spec: the run's own, from its run.flags.
      folder: its workdir.
      given: --export_dir as given with the verb.

    Returns:
      `given`, or the run's own folder of versions, which lies in the workdir.

    Raises:
      RefusedError: nothing is given, and the run's own lies outside of the workdir.
    """
    if given is not None:
        return given
    own = spec.export.export_dir
    if own is None:
        workdir.check_inside(folder, workdir.EXPORT_DIR)
        return os.path.join(folder, workdir.EXPORT_DIR)
    if regular_files.leads_outside(own, os.path.realpath(folder)):
        shown = findings.one_line(own)
        raise findings.RefusedError(
            findings.Problem(
                f"The run in --workdir={findings.one_line(folder)} was exported to {shown}, which "
                "lies outside of it, and a run's folder does not decide where files are written. "
                f"Repeat --export_dir={shown} with the verb, or name another folder.",
                path=own,
                flag="--export_dir",
            )
        )
    return own


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
    for name in (workdir.REQUEST, workdir.RUN_FLAGS):
        if os.path.isfile(os.path.join(folder, name)):
            lines.update(_read_lines(folder, name))
    return frozenset(lines)


def _read_lines(folder: str, name: str) -> list[str]:
    """The lines of run.flags or request.flags, which no run writes with others in them."""
    try:
        lines = flagfiles.read_lines(os.path.join(folder, name))
    except OSError as error:
        raise run_records.damaged(folder, name, error.strerror or str(error)) from error
    except ValueError as error:
        raise run_records.damaged(folder, name, "not UTF-8 text") from error
    nested = [line for line in lines if flagfiles.names_flagfile(line)]
    if nested:
        raise run_records.damaged(folder, name, f"it names another flagfile: {nested[0]}")
    return lines


def _check_holds_run(folder: str) -> None:
    if not os.path.isfile(os.path.join(folder, workdir.RUN_FLAGS)):
        raise _refused(
            f"--workdir={findings.one_line(folder)} holds no run: expected {workdir.RUN_FLAGS} in "
            "it. Give the folder that --mode=train named at its end.",
            folder,
        )


def _differences(folder: str, requested: str) -> list[str]:
    candidates = []
    for name in (workdir.REQUEST, workdir.RUN_FLAGS):
        if not os.path.isfile(os.path.join(folder, name)):
            continue
        ours, theirs = requested.splitlines(), _read_lines(folder, name)
        candidates.append(
            [f"there {line}" for line in theirs if line not in ours]
            + [f"here {line}" for line in ours if line not in theirs]
        )
    # Asked for again as first typed, or by its own run.flags: both are the same run.
    return min(candidates, key=len)


def _describe_lost(folder: str) -> str:
    if os.path.isfile(os.path.join(folder, workdir.REQUEST)):
        return ""
    return f" ({workdir.REQUEST}, with what was asked for, is missing: these are resolved values)"


def _join_first(differences: list[str]) -> str:
    more = len(differences) - _MOST_DIFFERENCES
    text = "; ".join(map(findings.one_line, differences[:_MOST_DIFFERENCES]))
    return text + (f"; and {more} more" if more > 0 else "")


def _short_name(text: str) -> str:
    if text.startswith("keras:"):
        text = text.partition(",")[0].removeprefix("keras:")
    name = os.path.splitext(os.path.basename(text.rstrip("/")))[0]
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[:40] or "run"


def _refused(message: str, folder: str, flag: str = "--workdir") -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=folder, flag=flag))
