"""What a stored Keras configuration says, read as plain JSON before Keras acts on it.

One idea: a configuration is nested {"class_name": ..., "config": ...}. Walking it finds code that
must not run (Lambda) and the layer that an error of Keras is about.

Reference: Keras saving format, https://keras.io/api/models/model_saving_apis/.
"""

import dataclasses
import importlib.metadata
import json
import platform
import re
import typing
from collections.abc import Iterator

from tf_finetune import findings

NAME_THE_MODULE = "Name the Python module that defines it: --custom_objects=MODULE."
_LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization")
_MAX_REASON = 300
_MAX_DEPTH = 200


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """An object of a configuration.

    Attributes:
      path: names of the nested models, then its own, joined by "/".
      class_name: for example "Conv2D".
      config: its arguments.
    """

    path: str
    class_name: str
    config: dict[str, typing.Any]


def read_config(text: str | bytes, *, where: str) -> dict[str, typing.Any]:
    """Parses a stored configuration.

    Args:
      text: JSON.
      where: the file, for the error's text.

    Returns:
      The configuration of the model.

    Raises:
      findings.RefusedError: the text is no JSON object with class_name.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(
            where, "its stored configuration is not JSON. The file is damaged."
        ) from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise refused(where, "its stored configuration names no model class. The file is damaged.")
    return config


def find_layers(config: typing.Any) -> Iterator[StoredLayer]:
    """Walks a configuration.

    Args:
      config: as parsed from JSON.

    Yields:
      Every object with a class name, outer ones first; the outermost model is not in the paths.
    """
    yield from _walk(config, "", depth=0)


def check_code(config: dict[str, typing.Any], *, where: str) -> None:
    """Refuses a model that carries Python code.

    Args:
      config: the configuration of the model, as stored.
      where: the file, for the error's text.

    Raises:
      findings.RefusedError: a Lambda layer.
    """
    for layer in find_layers(config):
        if layer.class_name == "Lambda":
            raise refused(
                where,
                f"layer '{findings.one_line(layer.path)}' is a Lambda, which is stored Python code "
                "and is never run. Build the model from plain layers (Rescaling, for example) and "
                "save it again, or, only if you trust its author, give --trust_model.",
            )


def check_vocabularies(config: dict[str, typing.Any], *, where: str) -> None:
    """Refuses a model whose words were left out when it was saved: only .keras stores them.

    Args:
      config: the configuration of the model, as stored by Keras 3 elsewhere than in .keras.
      where: the file, for the error's text.

    Raises:
      findings.RefusedError: a lookup layer that was adapted to data.
    """
    for layer in find_layers(config):
        if layer.class_name in _LOOKUPS and layer.config.get("vocabulary") is None:
            raise refused(
                where,
                f"layer '{findings.one_line(layer.path)}' ({layer.class_name}) has a vocabulary "
                "that the file does not hold: only .keras files do. Save the model again as "
                ".keras.",
            )


def explain(
    error: BaseException, config: dict[str, typing.Any], *, where: str, version: str
) -> findings.RefusedError:
    """Keras's refusal of a model as one line.

    Args:
      error: what Keras raised.
      config: the configuration of the model.
      where: the file.
      version: the Keras version that wrote it.

    Returns:
      The error to raise, with the layer and class where a class is missing.
    """
    text = str(error)
    match = re.search(r"(?:Could not locate (?:class|function)|Unknown \w+:) '([^']+)'", text)
    if match:
        kind = "function" if "function" in match[0] else "class"
        name = _find_user(config, match[1])
        which = "it needs"
        if name is not None:
            which = f"layer '{findings.one_line(name)}' " + ("is of" if kind == "class" else "uses")
        return refused(
            where,
            f"{which} the custom {kind} '{findings.one_line(match[1])}', which Keras "
            f"{_keras_version()} does not have. {NAME_THE_MODULE}",
        )
    if "marshal data" in text:
        found = (layer.path for layer in find_layers(config) if layer.class_name == "Lambda")
        name = findings.one_line(next(found, "?"))
        return refused(
            where,
            f"the code of its Lambda layer '{name}' is damaged, or compiled by another version of "
            f"Python than this one, {platform.python_version()}, which cannot read it. Save the "
            "model with a plain layer instead (Rescaling, for example), or under this Python.",
        )
    if _numbers(version) > _numbers(_keras_version()):
        return refused(
            where,
            f"written by Keras {version}, which is newer than the installed {_keras_version()}, "
            f"and it does not open: {one_reason(error)} Run pip install --upgrade keras, or save "
            "it again with the older version.",
        )
    return refused(
        where,
        f"written by Keras {version}, it does not open in Keras {_keras_version()}: "
        f"{one_reason(error)} Build the same model in Keras 3, load its weights and save it again.",
    )


def one_reason(error: BaseException) -> str:
    """The gist of a Keras or HDF5 error.

    Args:
      error: any exception.

    Returns:
      One printable line that ends with a full stop.
    """
    text = str(error).rpartition("Exception encountered:")[2].strip()
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].endswith(":"):
        lines[0] = " ".join(lines[:2])
    line = findings.one_line(lines[0])
    if len(line) > _MAX_REASON:
        line = line[:_MAX_REASON].rstrip() + "..."
    return line if line.endswith(".") else line + "."


def refused(where: str, message: str) -> findings.RefusedError:
    """The error of a model file.

    Args:
      where: the file's path.
      message: what is wrong, starting with a small letter.

    Returns:
      The error, its text led by the path.
    """
    return findings.RefusedError(
        findings.Problem(f"{findings.one_line(where)}: {message}", path=where)
    )


def _find_user(config: dict[str, typing.Any], name: str) -> str | None:
    """The path of the first layer of a class, or with an argument of that name."""
    for layer in find_layers(config):
        if layer.class_name.rpartition(">")[2] == name.rpartition(">")[2]:
            return layer.path
    for layer in reversed(list(find_layers(config))):
        if name in layer.config.values() or any(
            isinstance(value, dict) and name in (value.get("config"), value.get("class_name"))
            for value in layer.config.values()
        ):
            return layer.path
    return None


def _walk(value: typing.Any, path: str, *, depth: int) -> Iterator[StoredLayer]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for element in value:
            yield from _walk(element, path, depth=depth + 1)
    if not isinstance(value, dict):
        return
    name, config = value.get("class_name"), value.get("config")
    if isinstance(name, str) and isinstance(config, dict):
        own = value.get("name") or config.get("name")
        inner = path
        if isinstance(own, str) and depth:
            inner = f"{path}/{own}" if path else own
        yield StoredLayer(inner, name, config)
        path = inner
    elif isinstance(name, str) and isinstance(config, list):
        # Keras 1 and early 2 stored a Sequential as a bare list of layers.
        yield StoredLayer(path, name, {})
    for element in value.values():
        yield from _walk(element, path, depth=depth + 1)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _keras_version() -> str:
    # Asked for by --mode=inspect too, which does without importing Keras.
    return importlib.metadata.version("keras")
