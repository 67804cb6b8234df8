"""The two questions about an untrusted model: what is in it, and may it be opened.

One idea: what a path is decides the examiner, the examiner runs in a child process, and the answer
is a tuple of findings. --trust_model lifts what is refused because it is code, and nothing else:
not a broken file, not one that reaches for others.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence

from tf_finetune import findings
from tf_finetune.trust import path_kinds, refusals, sandbox

MODEL, WEIGHTS, PRESET = "model", "weights", "preset"
_MAX_TOLD = 5
_TRUSTED = "--trust_model is given, so it is opened all the same, and its code runs: "
_ENDINGS = {
    ".h5": path_kinds.HDF5,
    ".hdf5": path_kinds.HDF5,
    ".keras": path_kinds.KERAS,
}
_NAMES = {
    path_kinds.HDF5: "an HDF5 file",
    path_kinds.KERAS: "a zip archive (.keras)",
    path_kinds.ARCHIVE: "a tar archive",
}
# Kind of path -> (examiner, how many times the file's size it may hold in memory).
_EXAMINERS = {
    path_kinds.HDF5: ("hdf5_file", 0),
    path_kinds.KERAS: ("zip_file", 2),
    path_kinds.ARCHIVE: ("archive_file", 0),
    path_kinds.JSON: ("preset_file", 0),
    path_kinds.SAVED_MODEL: ("saved_model_file", 2),
    path_kinds.PRESET: ("preset_file", 0),
}


class UntrustedModelError(findings.RefusedError):
    """A model is not opened because of what was found in it; exit code 2.

    Attributes:
      problems: one for each reason, at least one.
    """


def examine(
    path: str,
    *,
    trust_model: bool = False,
    custom_objects: bool | Sequence[str] = False,
    role: str = MODEL,
) -> tuple[findings.Finding, ...]:
    """Finds out what a model file could do, without opening it in this process.

    Args:
      path: of a .h5, .keras, .json, .tar or .tar.gz file, or of the folder of a SavedModel or
        preset. Its bytes count, not its name.
      trust_model: the user vouches for the code in it: what is refused for that alone becomes a
        warning.
      custom_objects: the user has named a module that defines further classes; or the names of
        those that are registered with Keras.
      role: "model"; "weights" where an HDF5 file without an architecture is wanted; "preset" where
        a folder is opened as that, whatever else is in it.

    Returns:
      The findings, in the file's order; a model without any of the severity "refuse" may be opened.
    """
    kind = path_kinds.find_kind(path, is_preset=role == PRESET)
    if kind.finding is not None:
        return (kind.finding,)
    misnamed = _check_ending(path, kind.kind)
    if misnamed is not None:
        return (misnamed,)
    module, factor = _EXAMINERS[kind.kind]
    options: dict[str, object] = {}
    if kind.kind in (path_kinds.HDF5, path_kinds.KERAS, path_kinds.JSON):
        options["custom_objects"] = custom_objects
    if kind.kind == path_kinds.HDF5:
        options["role"] = role
    found = sandbox.run(
        f"tf_finetune.trust.{module}",
        os.path.realpath(path),
        entry="examine_architecture" if kind.kind == path_kinds.JSON else "examine",
        options=options,
        limits=sandbox.limits_for(kind.size, memory_factor=factor),
        readable=_cached_files(path) if kind.kind == path_kinds.PRESET else (),
    )
    return tuple(_trusted(finding) for finding in found) if trust_model else found


def check(
    path: str,
    *,
    trust_model: bool = False,
    custom_objects: bool | Sequence[str] = False,
    role: str = MODEL,
    where: str = "",
) -> tuple[findings.Finding, ...]:
    """Examines a model file and refuses it where something in it forbids opening it.

    Args:
      path: see `examine`.
      trust_model: see `examine`.
      custom_objects: see `examine`.
      role: see `examine`.
      where: what the file is called in the error's text; default: the path.

    Returns:
      What remains: warnings and remarks, for the log and the run's report.

    Raises:
      UntrustedModelError: there is a finding of the severity "refuse". Its text has a line for
        each, led by the file's name.
    """
    found = examine(path, trust_model=trust_model, custom_objects=custom_objects, role=role)
    refuse(found, path=path, where=where)
    return found


def refuse(found: Iterable[findings.Finding], *, path: str, where: str = "") -> None:
    """Raises an error if a finding forbids opening a file.

    Args:
      found: see `examine`.
      path: of the file.
      where: see `check`.

    Raises:
      UntrustedModelError: see `check`.
    """
    shown = findings.one_line(where or path)
    problems = [
        findings.Problem(f"{shown}: {finding.message}", path=path)
        for finding in found
        if finding.severity == findings.REFUSE
    ]
    if problems:
        raise UntrustedModelError(*problems[:_MAX_TOLD])


def _check_ending(path: str, kind: str) -> findings.Finding | None:
    # Bytes decide what is read. An ending that promises another model format is refused: Keras
    # decides by the ending, so two programs would read the file in two ways.
    ending = os.path.splitext(path)[1].lower()
    promised = _ENDINGS.get(ending)
    if promised in (None, kind) or kind not in _NAMES:
        return None
    message = f"is named {ending} and is {_NAMES[kind]}. Rename it to what it is."
    return findings.Finding(message, kind=refusals.BROKEN)


def _trusted(finding: findings.Finding) -> findings.Finding:
    if finding.severity != findings.REFUSE or finding.kind != refusals.CODE:
        return finding
    message = _TRUSTED + finding.message.removesuffix(refusals.TRUST_ADVICE).rstrip()
    return dataclasses.replace(finding, severity=findings.WARNING, message=message)


def _cached_files(path: str) -> tuple[str, ...]:
    # The files of huggingface_hub's cache lie beside the folder of links.
    blobs = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(path))), "blobs")
    return (blobs,) if os.path.isdir(blobs) else ()
