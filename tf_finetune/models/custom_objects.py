"""--custom_objects=MODULE: the user's own layers, for a model that needs them.

One idea: the module is imported, which registers what it registers, and whatever it defines is
offered by its plain name too, because an old .h5 knows a layer as "MyLayer" and nothing more. Only
while a model is loaded: a function named like one of Keras's replaces it nowhere else.

Reference: Keras, "Custom objects", https://keras.io/guides/serialization_and_saving/.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import types
import typing
from collections.abc import Iterator

import keras

from tf_finetune import findings

_FLAG = "--custom_objects"
# A user's module imports names from these; they are not the user's.
_FOREIGN = frozenset(
    {"keras", "tensorflow", "tf_keras", "numpy", "jax", "torch", *sys.stdlib_module_names}
)
# Parts of the paths of files where an error is not the user's.
_NOT_USERS = ("importlib", "site-packages", __file__)


@contextlib.contextmanager
def offered(module: str | None, *, folder: str | None = None) -> Iterator[None]:
    """Imports the user's module and offers what it defines to Keras until the block ends.

    Args:
      module: value of --custom_objects: a dotted name or the path of a .py file; None: nothing.
      folder: where a dotted name is looked for first; default: the current folder.

    Yields:
      None.

    Raises:
      findings.RefusedError: see `import_module`.
    """
    objects = find_objects(import_module(module, folder=folder)) if module else {}
    # Not custom_object_scope: an inner scope hides what the outer one offers.
    known = keras.saving.get_custom_objects()
    hidden = {name: known[name] for name in objects if name in known}
    known.update(objects)
    try:
        yield
    finally:
        for name in objects:
            known.pop(name, None)
        known.update(hidden)


def import_module(text: str, *, folder: str | None = None) -> types.ModuleType:
    """Imports a module that the user names. Its code runs.

    Args:
      text: a dotted name or the path of a .py file.
      folder: where a dotted name is looked for first; default: the current folder. It stays at the
        end of `sys.path`, for what the module imports later.

    Returns:
      The module; the same one when it is asked for again.

    Raises:
      findings.RefusedError: it does not exist, or raises an error when it is imported.
    """
    if text.endswith(".py"):
        path = os.path.realpath(os.path.expanduser(text))
        if not os.path.isfile(path):
            raise _refused(text, "does not exist. Expected a dotted module name or a .py file.")
        with _on_path(os.path.dirname(path)), _explained(text, path):
            return _import_file(path)
    try:
        with _on_path(folder or os.getcwd()), _explained(text, ""):
            return importlib.import_module(text)
    except ModuleNotFoundError as error:
        raise _refused(
            text,
            f"there is no such module in {findings.one_line(folder or os.getcwd())} or among the "
            "installed packages. Expected a dotted module name or a .py file.",
        ) from error


def find_objects(module: types.ModuleType) -> dict[str, typing.Any]:
    """What of a module a stored model can refer to.

    Args:
      module: the user's.

    Returns:
      {name: layer, model, initializer or other class with a configuration, or function}; not what
      the module imports from Keras, TensorFlow, NumPy and Python itself.
    """
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or (inspect.isclass(value) and hasattr(value, "get_config")))
        and value.__module__.partition(".")[0] not in _FOREIGN
    }


def offered_names(module: str | None) -> bool | tuple[str, ...]:
    """What an examination is told of the user's classes, without importing anything.

    Args:
      module: value of --custom_objects.

    Returns:
      True where a module is named, which may define any; else the names that this process has
      registered with Keras beside this package's own.
    """
    if module is not None:
        return True
    own = f"{__package__.partition('.')[0]}>"
    names = keras.saving.get_custom_objects()
    return tuple(sorted(name for name in names if not name.startswith(own)))


def describe(module: str | None) -> dict[str, str] | None:
    """What model.json records, so that a run can be opened from another folder.

    Args:
      module: value of --custom_objects.

    Returns:
      The module and the folder where a dotted name was looked for; None for None.
    """
    if module is None:
        return None
    if module.endswith(".py"):
        module = os.path.abspath(os.path.expanduser(module))
    return {"module": module, "folder": os.getcwd()}


def _import_file(path: str) -> types.ModuleType:
    name = os.path.splitext(os.path.basename(path))[0]
    unique = f"{name}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    for known in (name, unique):
        module = sys.modules.get(known)
        file = getattr(module, "__file__", None)
        if module is not None and file and os.path.realpath(file) == path:
            return module
    # The file may be called like a module that exists, "layers" or "json".
    if name in sys.modules or name in _FOREIGN:
        name = unique
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python source file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _on_path(folder: str) -> Iterator[None]:
    # First while the module is imported, then last, so that no other import finds its files.
    folder = os.path.abspath(folder)
    known = folder in sys.path
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        if not known:
            sys.path.append(folder)


@contextlib.contextmanager
def _explained(text: str, path: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        parents = [".".join(text.split(".")[: end + 1]) for end in range(text.count(".") + 1)]
        if not path and isinstance(error, ModuleNotFoundError) and error.name in parents:
            raise
        reason = findings.one_line(f"{type(error).__name__}: {error}")
        raise _refused(text, f"cannot be imported: {reason}{_place(error)}.") from error


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its text says where
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _NOT_USERS)]
    if not own:
        return ""
    return f" ({findings.one_line(own[-1].filename)}, line {own[-1].lineno})"


def _refused(text: str, message: str) -> findings.RefusedError:
    shown = findings.one_line(text)
    return findings.RefusedError(findings.Problem(f"{_FLAG}={shown}: {message}", flag=_FLAG))
