"""Which paths of a run may lie in an object store, told by their text alone.

One idea: a folder in a store is worked on through a local copy (`object_store`), so everything else
sees local paths only. An address that is no such folder is refused before anything is imported or
made: taken for a local path it would become a folder named "gs:" or "s3:".

Reference: Google, "Cloud Storage, object naming guidelines",
https://cloud.google.com/storage/docs/objects#naming
"""

import re

from tf_finetune import findings, specs

SCHEME = "gs://"
_EXPECTED = "gs://BUCKET/PATH"
# "gs:/bucket" is one that somebody has mistyped, and no folder.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|gs:")
_SOURCES = ("data", "validation_data", "test_data")


def is_remote(path: str | None) -> bool:
    """Whether a path lies in an object store.

    Args:
      path: a path as given; None is none.

    Returns:
      True for gs://...
    """
    return path is not None and path.startswith(SCHEME)


def is_data_remote(data: specs.DataSpec) -> bool:
    """Whether examples lie in an object store.

    Args:
      data: the data options.

    Returns:
      True where --data, --validation_data or --test_data does.
    """
    return any(is_remote(getattr(data, name)) for name in _SOURCES)


def join(url: str, name: str) -> str:
    """An object below a folder of a store.

    Args:
      url: of the folder, gs://...
      name: relative to it, with "/"; "" is the folder.

    Returns:
      Its URL.
    """
    return f"{url.rstrip('/')}/{name}" if name else url.rstrip("/")


def check_paths(spec: specs.RunSpec) -> None:
    """Refuses addresses that nothing here opens.

    Args:
      spec: the run or verb as it was asked for.

    Raises:
      RefusedError: a path has a scheme that is not read, lies in a store where only local paths
        are read, names no bucket, or an output lies inside of the data or of the workdir; the
        workers of a data service would have to read from a store.
    """
    problems: list[findings.Problem] = []
    for flag, path in _list_paths(spec, in_stores=True):
        problems += _check_address(flag, path)
    for flag, path in _list_paths(spec, in_stores=False):
        if _ADDRESS.match(path):
            message = (
                f"--{flag}={findings.one_line(path)}: expected a path on this machine. Received an "
                "address. Copy it here, and name the copy."
            )
            problems.append(findings.Problem(message, path=path, flag=f"--{flag}"))
    if spec.train.data_service is not None and is_data_remote(spec.data):
        message = (
            f"--data_service: examples in {SCHEME} are copied to this machine, where its workers "
            "do not see them. Leave it out, or name a folder that they see."
        )
        problems.append(findings.Problem(message, flag="--data_service"))
    problems = problems or _find_nested(spec)
    if problems:
        raise findings.RefusedError(*problems)


def _list_paths(spec: specs.RunSpec, *, in_stores: bool) -> list[tuple[str, str]]:
    """(flag, path) of what may lie in a store, or of what may not."""
    data = spec.data
    if in_stores:
        paths = [(name, getattr(data, name)) for name in _SOURCES]
        paths += [("workdir", spec.workdir), ("export_dir", spec.export.export_dir)]
        paths += [("tfds_data_dir", data.tfds_data_dir)]  # tensorflow_datasets opens it itself
    else:
        paths = [
            ("split_file", data.split_file),
            ("vocabulary", data.vocabulary),
            ("cache_dir", spec.train.cache_dir),
            ("output", spec.predict.output),
            *(("input", path) for path in spec.predict.input),
        ]
    return [(flag, path) for flag, path in paths if path]


def _check_address(flag: str, path: str) -> list[findings.Problem]:
    if not _ADDRESS.match(path):
        return []
    shown = f"--{flag}={findings.one_line(path)}"
    if not is_remote(path):
        message = (
            f"{shown} is an address of a kind that is not opened. Expected a path on this machine "
            f"or {_EXPECTED}. Copy it to one of them."
        )
    else:
        bucket, *parts = path.removeprefix(SCHEME).rstrip("/").split("/")
        if bucket and not any(part in ("", ".", "..") for part in parts):
            return []
        message = f"{shown}: expected {_EXPECTED}, without empty parts, '.' and '..'. Correct it."
    return [findings.Problem(message, path=path, flag=f"--{flag}")]


def _find_nested(spec: specs.RunSpec) -> list[findings.Problem]:
    """Outputs in a store where they would be read as data, or brought down with the workdir."""
    problems = []
    outputs = {"workdir": spec.workdir, "export_dir": spec.export.export_dir}
    for flag, folder in outputs.items():
        for source in (getattr(spec.data, name) for name in _SOURCES):
            if _lies_inside(folder, source):
                message = (
                    f"--{flag}={findings.one_line(folder)} lies inside the data folder "
                    f"{findings.one_line(source)}, and would be read as a class. Choose a folder "
                    "elsewhere."
                )
                problems.append(findings.Problem(message, path=folder or "", flag=f"--{flag}"))
    if _lies_inside(spec.export.export_dir, spec.workdir):
        message = (
            f"--export_dir={findings.one_line(spec.export.export_dir)} lies inside --workdir. In "
            "an object store expected a folder elsewhere, or no --export_dir: versions are in "
            "WORKDIR/export then."
        )
        problems.append(findings.Problem(message, flag="--export_dir"))
    return problems


def _lies_inside(folder: str | None, other: str | None) -> bool:
    if folder is None or other is None or not is_remote(folder) or not is_remote(other):
        return False
    return f"{folder.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")
