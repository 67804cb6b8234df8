"""What a stored Keras configuration would build, call and read, known before Keras sees it.

One idea: a configuration is data that names things, and Keras looks names up among everything it
exports. So each name is looked up here first, on lists (see `keras_classes`), wherever it stands,
in nested models, wrappers, arguments and the ignored training configuration alike.

Reference: keras/src/saving/serialization_lib.py of Keras 3.15; CVE-2024-3660, CVE-2025-1550,
CVE-2025-8747, CVE-2025-9905, CVE-2025-9906, CVE-2025-12058.
"""

import base64
import binascii
import dataclasses
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence

from tf_finetune import findings
from tf_finetune.trust import keras_classes, keras_numbers, keras_operations, refusals

_MAX_LAYERS = 10_000
_TRAINING = "training_config"
# Arguments that hold layers; Keras 2.0 stored the layers of a Sequential as its config.
_LAYER_KEYS = ("layers", "layer", "cell", "cells", "backward_layer", "config")
# Values that Keras writes as an object with a class_name of its own.
_PLAIN_MARKERS = frozenset({"__keras_tensor__", "__bytes__", "__slice__", "__ellipsis__"})
_ARRAY_MARKERS = frozenset({"__tensor__", "__numpy__"})
_ARRAY_DTYPES = re.compile(
    r"(bool|u?int(8|16|32|64)|float(8\w*|16|32|64)|bfloat16|complex\d+|string|str|<U\d{1,3})?"
)
_KERAS_ROOTS = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")
# Where TensorFlow's own initializers live: keras.applications of Keras 2 takes them now and then.
_TENSORFLOW_INITIALIZERS = ("tensorflow.python.ops.init_ops", "tensorflow.python.ops.init_ops_v2")
_OWN = "tf_finetune"
# Elements may be packed, and a layer may stand in two places: neither fills a memory.
_SLACK = 4
# Packages under which Keras's own classes were registered in older files.
_KERAS_PACKAGES = (
    "Keras",
    "keras",
    "keras_applications",
    "efficientnet",
    "Custom",
    "Addons",
    "Vision",
)
# Modules that a class of a user would not stand in, beside the standard library's.
_NEVER_CUSTOM = frozenset({"builtins", "numpy", "tensorflow", "torch", "jax", "importlib", "h5py"})
_VERSION_SUFFIX = re.compile(r"V[12]$")
_URL = re.compile(r"^\s*(https?|ftp|file|gs|s3|hdfs|hf|kaggle|data|ssh|smb)://?", re.IGNORECASE)
# Arguments that name a file where they are a text.
_PATH_ARGUMENTS = frozenset(
    {"vocabulary", "vocabulary_file", "vocab_file", "filepath", "filename", "proto", "merges"}
)
# Namespaces of TensorFlow whose functions a stored operation of Keras 2 could call by name.
_TF_NAMESPACES = re.compile(
    r"(^|\.)(io|raw_ops|data|py_function|numpy_function|py_func|load_\w+|train|summary|queue|config|"
    r"distribute|saved_model|autograph|function|print|debugging|tpu|lookup|session|test|graph_util)(\.|$)"
)
# The first byte of marshalled code, and how it looks in base64.
_MARSHAL_CODE = (b"\xe3", b"c")
_MIN_CODE_LENGTH = 40


@dataclasses.dataclass(frozen=True)
class _Place:
    """A value of the configuration and where it stands."""

    value: typing.Any
    key: str
    path: str
    outermost: bool = False
    # The class of this package whose argument it is.
    owner: str = ""

    @property
    def shown(self) -> str:
        if self.path == _TRAINING:
            return "the training configuration"
        return f"layer '{findings.one_line(self.path)}'" if self.path else "the model"


def examine(
    config: typing.Any,
    *,
    custom_objects: bool | Sequence[str] = False,
    stored_size: int | None = None,
) -> Iterator[findings.Finding]:
    """Finds what a model's configuration must not do.

    Args:
      config: the parsed configuration of the whole model, of Keras 1, 2 or 3.
      custom_objects: the user has named a module that defines further classes; or the names of
        those that are registered with Keras.
      stored_size: number of elements of all stored weights; None: not known.

    Yields:
      Findings, in the order of the configuration.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        yield refusals.broken("", "its stored configuration names no model class.")
        return
    yield from _once_per_layer(_examine_places(config, custom_objects=custom_objects))
    excesses = keras_numbers.find_excesses(config, stored_size=stored_size, slack=_SLACK)
    for path, message in excesses:
        yield refusals.outside(path, f"layer '{findings.one_line(path)}' {message}")


def _examine_places(
    config: dict[str, typing.Any], *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    layers = 0
    for place in _walk(config):
        if not isinstance(place.value, dict):
            yield from _check_text(place)
            continue
        if isinstance(place.value.get("class_name"), str):
            layers += place.key == "layers"
            yield from _check_object(place, custom_objects=custom_objects)
        yield from _check_name(place)
    if layers > _MAX_LAYERS:
        message = f"has {layers:,} layers. Expected at most {_MAX_LAYERS:,}; it would take hours."
        yield refusals.outside("", message)


def _once_per_layer(found: Iterable[findings.Finding]) -> Iterator[findings.Finding]:
    # A Lambda, the function in it and the code in that are one reason.
    told: set[tuple[str, str]] = set()
    for finding in found:
        key = (finding.where, finding.kind)
        if finding.kind != refusals.CODE or key not in told:
            told.add(key)
            yield finding


def examine_training(config: typing.Any) -> Iterator[findings.Finding]:
    """Finds code in a training configuration, which is stored beside the model and never used.

    Args:
      config: the parsed training_config or compile_config.

    Yields:
      Findings about code; a loss or metric of the user's own is none.
    """
    yield from _once_per_layer(_examine_training(config))


def _examine_training(config: typing.Any) -> Iterator[findings.Finding]:
    for place in _walk({"config": config}):
        place = dataclasses.replace(place, path=_TRAINING)
        if not isinstance(place.value, dict):
            yield from _check_text(place)
        elif isinstance(place.value.get("class_name"), str):
            yield from _check_object(place, custom_objects=True)


def _walk(config: dict[str, typing.Any]) -> Iterator[_Place]:
    waiting = [_Place(config, "", "", outermost=True)]
    while waiting:
        place = waiting.pop()
        value = place.value
        if isinstance(value, dict):
            place = dataclasses.replace(place, path=_path_of(place))
            yield place
            owner = _owner_of(place)
            inner = [_Place(item, str(key), place.path, owner=owner) for key, item in value.items()]
        elif isinstance(value, list):
            if _is_code(value):
                yield place
            # A long vocabulary is data; only a list of objects has anything to walk.
            inner = [
                _Place(item, place.key, place.path)
                for item in value
                if isinstance(item, dict | list)
            ]
        else:
            if isinstance(value, str):
                yield place
            continue
        waiting += reversed(inner)


def _owner_of(place: _Place) -> str:
    name, registered = place.value.get("class_name"), place.value.get("registered_name")
    if not isinstance(name, str):
        return place.owner if place.key == "config" else ""
    package, classes = _names_of(name, registered if isinstance(registered, str) else None)
    return classes[0] if package == _OWN and len(classes) == 1 else ""


def _path_of(place: _Place) -> str:
    value = place.value
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    name = name if isinstance(name, str) else value.get("name")
    if place.outermost or "class_name" not in value or not isinstance(name, str):
        return place.path
    if place.key not in _LAYER_KEYS:
        return place.path
    return f"{place.path}/{name}" if place.path else name


def _check_name(place: _Place) -> Iterator[findings.Finding]:
    name = place.value.get("name")
    if isinstance(name, str) and refusals.has_control_characters(name):
        yield refusals.outside(
            place.path,
            f"the name of {place.shown} holds control characters, which could forge lines of a log "
            "or of a terminal. Rename it and save the model again.",
        )


def _check_text(place: _Place) -> Iterator[findings.Finding]:
    value, key = place.value, place.key
    if isinstance(value, list):
        yield refusals.code(place.path, f"{place.shown} holds marshalled Python code in '{key}'.")
        return
    if key in ("name", "class_name"):
        return
    if _URL.match(value):
        message = f"{place.shown} names the address '{_short(value)}' in '{_short(key)}'"
    elif key in _PATH_ARGUMENTS and value and place.owner not in keras_classes.INLINE_TEXTS:
        message = f"{place.shown} would read the file '{_short(value)}' ('{_short(key)}')"
    elif len(value) >= _MIN_CODE_LENGTH and _is_marshalled(value):
        yield refusals.code(place.path, f"{place.shown} holds marshalled Python code in '{key}'.")
        return
    else:
        return
    yield refusals.outside(
        place.path,
        f"{message}: a model that opens files of this computer is not loaded. Save it again with "
        "the values themselves.",
    )


def _check_object(
    place: _Place, *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    value = place.value
    name = value["class_name"]
    module, registered = value.get("module"), value.get("registered_name")
    if any(not isinstance(item, str | None) for item in (module, registered)):
        yield refusals.broken(place.path, f"{place.shown} has a class whose name is no text.")
    elif name.startswith("__"):
        yield from _check_marker(place, name)
    elif name == "function":
        yield from _check_function(place, custom_objects=custom_objects)
    else:
        yield from _check_class(place, _names_of(name, registered), custom_objects=custom_objects)
        if _bare(name) in ("TFOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty"):
            yield from _check_tensorflow_call(place)


def _names_of(name: str, registered: str | None) -> tuple[str, tuple[str, ...]]:
    # Keras tries the registered name first and the class's name if nobody has registered it, so
    # both must be good.
    package = (registered or name).rpartition(">")[0]
    names = (_bare(name), _bare(registered)) if package and registered else (_bare(name),)
    return package, tuple(dict.fromkeys(names))


def _bare(name: str) -> str:
    return _VERSION_SUFFIX.sub("", name.rpartition(">")[2].rpartition(".")[2])


def _check_marker(place: _Place, name: str) -> Iterator[findings.Finding]:
    if name in _PLAIN_MARKERS:
        return
    if name in _ARRAY_MARKERS:
        config = place.value.get("config")
        dtype = config.get("dtype", "") if isinstance(config, dict) else ""
        if isinstance(dtype, str) and _ARRAY_DTYPES.fullmatch(dtype):
            return
        message = f"{place.shown} holds an array of the type '{_short(dtype)}', which no model has."
        yield refusals.outside(place.path, message + " Save it again with numbers.")
        return
    yield refusals.code(
        place.path, f"{place.shown} holds a {_short(name)}, which is stored Python code."
    )


def _check_function(
    place: _Place, *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    module = place.value.get("module") or "builtins"
    name = place.value.get("config")
    known = name in keras_classes.FUNCTIONS if isinstance(name, str) else False
    if known and (module == "builtins" or _is_keras_module(module)):
        return
    shown = f"'{_short(module)}.{_short(name)}'"
    root = module.partition(".")[0]
    if module != "builtins" and _cannot_be_custom(root):
        yield refusals.code(
            place.path,
            f"{place.shown} would call the function {shown}, which is no part of a layer.",
        )
    elif not _is_offered(place, custom_objects):
        yield refusals.custom(place.path, f"{place.shown} needs the custom function {shown}.")


def _check_class(
    place: _Place, names: tuple[str, tuple[str, ...]], *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    package, classes = names
    module = place.value.get("module") or ""
    root = module.partition(".")[0]
    for name in classes:
        if name in keras_classes.EXCLUDED_LAYERS:
            reason = keras_classes.EXCLUDED_LAYERS[name]
            yield refusals.code(
                place.path,
                f"{place.shown} is a {name}: {reason}, and is never run unasked. Build the model "
                "from plain layers and save it again.",
            )
            return
    if _is_known(package, classes, module):
        return
    if root and _cannot_be_custom(root):
        yield refusals.code(
            place.path,
            f"{place.shown} would call '{_short(module)}.{_short(classes[0])}', which is no layer "
            "and no part of one.",
        )
    elif not _is_offered(place, custom_objects) and not _is_functional(place.value, root):
        where = f"{package}>" if package else f"{module}." if module else ""
        shown = f"'{_short(where)}{_short(classes[-1])}'"
        yield refusals.custom(place.path, f"{place.shown} needs the custom class {shown}.")


def _is_functional(value: dict[str, typing.Any], root: str) -> bool:
    # A user's subclass of Model that was built functionally lists its layers like any other; it is
    # loaded as a Functional (`models.legacy.keras2_config`), without the class.
    config = value.get("config")
    if root not in ("", "__main__") or not isinstance(config, dict):
        return False
    return all(isinstance(config.get(key), list) for key in ("layers", "input_layers"))


def _is_offered(place: _Place, custom_objects: bool | Sequence[str]) -> bool:
    if isinstance(custom_objects, bool):
        return custom_objects
    names = [place.value.get(key) for key in ("registered_name", "class_name", "config")]
    return any(name in custom_objects for name in names if isinstance(name, str))


def _is_known(package: str, classes: tuple[str, ...], module: str) -> bool:
    if package == _OWN or (not package and module.partition(".")[0] == _OWN):
        known = all(name in keras_classes.OWN | keras_classes.OBJECTS for name in classes)
        return known and (not module or module.partition(".")[0] == _OWN)
    if package and package not in _KERAS_PACKAGES:
        return False
    known = all(name in keras_classes.OBJECTS for name in classes)
    if known and (not module or _is_keras_module(module)):
        return True
    if module in _TENSORFLOW_INITIALIZERS:
        return all(name in keras_classes.INITIALIZERS for name in classes)
    # An .h5 of Keras 3 stores operations without their module.
    operation = all(name in keras_operations.OPERATIONS for name in classes)
    return operation and not package and (not module or module.startswith("keras.src.ops."))


def _check_tensorflow_call(place: _Place) -> Iterator[findings.Finding]:
    config = place.value.get("config")
    config = config if isinstance(config, dict) else {}
    called = [config.get(key) for key in ("function", "cls_ref", "cls_symbol")]
    for name in called:
        if isinstance(name, str) and _TF_NAMESPACES.search(name):
            yield refusals.code(
                place.path, f"{place.shown} would call 'tf.{_short(name)}', which computes nothing."
            )


def _is_keras_module(module: str) -> bool:
    for root in _KERAS_ROOTS:
        if module == root:
            return True
        if module.startswith(root + "."):
            inner = module.removeprefix(root + ".")
            return any(
                inner == allowed or inner.startswith(allowed + ".")
                for allowed in keras_classes.MODULES
            )
    return False


def _cannot_be_custom(root: str) -> bool:
    return root in sys.stdlib_module_names or root in _NEVER_CUSTOM or root in ("keras", "tf_keras")


def _is_code(value: list[typing.Any]) -> bool:
    # Keras 2 stores a function as [code, defaults, closure].
    return len(value) == 3 and isinstance(value[0], str) and _is_marshalled(value[0])


def _is_marshalled(text: str) -> bool:
    if len(text) < _MIN_CODE_LENGTH:
        return False
    head = re.sub(r"\s", "", text[:200])[:80]
    try:
        start = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return False
    # Marshalled code begins with its type, then counts of arguments, four bytes each.
    return start[:1] in _MARSHAL_CODE and start[2:5] == b"\0\0\0"


def _short(value: typing.Any) -> str:
    text = findings.one_line(value)
    return text if len(text) <= 80 else text[:77] + "..."
