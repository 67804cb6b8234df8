"""Whether a model file may be opened: it is examined once, before anything else reads it.

One idea: an examination takes a second process and some tenths of a second, so it is begun as soon
as a path is known, while TensorFlow is imported, and its answer is kept as long as the file stays
what it was.
"""

import concurrent.futures
import contextlib
import os
import threading
import typing
from collections.abc import Iterator, Sequence

from tf_finetune import findings, specs, trust

MODEL, WEIGHTS, PRESET = "model", "weights", "preset"
_FOLDER_PREFIXES = ("hf:", "kerashub:")
_MAX_FILES = 20_000
_MAX_KEPT = 64
_Identity = tuple[tuple[typing.Any, ...], ...]
_Findings = tuple[findings.Finding, ...]
_answers: "dict[tuple[typing.Any, ...], concurrent.futures.Future[_Findings]]" = {}
_lock = threading.Lock()


def start(spec: specs.ModelSpec) -> None:
    """Begins to examine what a model's flags name on this machine; `check` will wait for it.

    Args:
      spec: the options of the model.
    """
    for path, role in (
        locate(spec.model),
        (spec.weights, WEIGHTS),
        (spec.preprocessor, MODEL),
    ):
        if path and os.path.exists(path):
            _begin(path, spec.trust_model, spec.custom_objects is not None, role)


def locate(model: str) -> tuple[str, str]:
    """The path in a value of --model.

    Args:
      model: the value.

    Returns:
      (the path behind hf: and kerashub:, "preset"), or (the value itself, "model").
    """
    for prefix in _FOLDER_PREFIXES:
        if model.startswith(prefix) and not model.startswith(prefix + "//"):
            return model.removeprefix(prefix), PRESET
    return model, MODEL


def begin(
    path: str,
    *,
    trust_model: bool = False,
    custom_objects: bool | Sequence[str] = False,
    role: str = MODEL,
) -> None:
    """Begins to examine a file; `check` with the same arguments will wait for it.

    Args:
      path: an existing file or folder.
      trust_model: see `check`.
      custom_objects: see `check`.
      role: see `check`.
    """
    _begin(path, trust_model, custom_objects, role)


def check(
    path: str,
    *,
    trust_model: bool = False,
    custom_objects: bool | Sequence[str] = False,
    role: str = MODEL,
    where: str = "",
) -> _Findings:
    """Refuses a model file in which something forbids opening it.

    Args:
      path: an existing file or folder.
      trust_model: the user vouches for the code in it.
      custom_objects: see `trust.examine`.
      role: "model", "weights" or "preset", see `trust.examine`.
      where: what the file is called in the error's text; default: the path.

    Returns:
      Warnings and remarks.

    Raises:
      trust.UntrustedModelError: see `trust.check`.
    """
    found = _begin(path, trust_model, custom_objects, role).result()
    trust.refuse(found, path=path, where=where)
    return found


@contextlib.contextmanager
def unchanged(*paths: str | None) -> Iterator[None]:
    """Sees to it that files are the same at the block's end: what was examined is what was read.

    Args:
      *paths: files and folders; what does not exist is left out.

    Yields:
      None.

    Raises:
      findings.RefusedError: one of them was changed meanwhile.
    """
    before = {path: _identify(path) for path in paths if path and os.path.exists(path)}
    yield
    for path, identity in before.items():
        if _identify(path) != identity:
            shown = findings.one_line(path)
            message = f"{shown}: was changed while it was read. Run the same command again."
            raise findings.RefusedError(findings.Problem(message, path=path))


def _begin(
    path: str, trust_model: bool, custom_objects: bool | Sequence[str], role: str
) -> "concurrent.futures.Future[_Findings]":
    if not isinstance(custom_objects, bool):
        custom_objects = tuple(sorted(custom_objects)) or False
    key = (os.path.abspath(path), trust_model, custom_objects, role, _identify(path))
    with _lock:
        if key in _answers:
            return _answers[key]
        future: concurrent.futures.Future[_Findings] = concurrent.futures.Future()
        while len(_answers) >= _MAX_KEPT:
            del _answers[next(iter(_answers))]
        _answers[key] = future

    def work() -> None:
        try:
            found = trust.examine(
                path, trust_model=trust_model, custom_objects=custom_objects, role=role
            )
        except BaseException as error:  # whoever waits gets it
            _forget(key)
            future.set_exception(error)
            return
        # The next attempt may find more memory, or the file's other half.
        if any(finding.severity == findings.REFUSE for finding in found):
            _forget(key)
        future.set_result(found)

    # A daemon: a run that ends for another reason waits for nothing, and the child ends with it.
    threading.Thread(target=work, daemon=True).start()
    return future


def _forget(key: tuple[typing.Any, ...]) -> None:
    with _lock:
        _answers.pop(key, None)


def _identify(path: str) -> _Identity:
    """What of a file's or a folder's state changes with its content."""
    found = [_state(path)]
    if os.path.isdir(path):
        for folder, folders, names in os.walk(path):
            folders.sort()
            found += [_state(os.path.join(folder, name)) for name in sorted(names)]
            if len(found) > _MAX_FILES:
                break
    return tuple(found)


def _state(path: str) -> tuple[typing.Any, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return (path, error.errno)
    return (
        path,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
