"""A prepared folder of TensorFlow Datasets, looked at before the library opens it.

One idea: the library imports whatever module features.json names, and hands records to TensorFlow
whose length nobody has checked. So the names are read as data first, from an allow list, and the
framing of every record file is walked in Python.

Reference: tensorflow_datasets 4.9, core/features/feature.py, `FeatureConnector.cls_from_name`.
"""

import json
import os
import re
import typing
from collections.abc import Iterator

from tf_finetune import findings, regular_files
from tf_finetune.data import record_framing

_FEATURES, _INFO = "features.json", "dataset_info.json"
_MAX_JSON_BYTES = 64 * 2**20
# Classes of the library itself; a module of anybody else would be imported, which runs its code.
_KNOWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.([a-z0-9_]+\.)*[A-Za-z0-9_]+")
_KNOWN_MESSAGE = re.compile(r"tensorflow_datasets\.[A-Za-z0-9_.]+")
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_MESSAGE_KEYS = ("proto_cls",)
_FORMAT_KEYS = ("fileFormat", "file_format")
_RECORDS = "tfrecord"
_SHOWN_FAULTS = 5


def find_faults(folder: str, *, follow_links: bool = False) -> list[str]:
    """What forbids opening a prepared data set.

    Args:
      folder: of one version, with features.json.
      follow_links: reads files also through links that lead out of the folder.

    Returns:
      At most five faults, each continuing a sentence that begins with the folder's name; none: it
      may be opened.
    """
    faults = []
    for fault in _iterate_faults(folder, follow_links):
        faults.append(fault)
        if len(faults) == _SHOWN_FAULTS:
            break
    return faults


def _iterate_faults(folder: str, follow_links: bool) -> Iterator[str]:
    root = os.path.realpath(os.fsencode(folder))
    names = sorted(os.listdir(folder))
    for name in names:
        path = os.path.join(folder, name)
        shown = f"'{findings.one_line(name)}'"
        if not follow_links and regular_files.leads_outside(os.fsencode(path), root):
            yield f"{shown} is {regular_files.LINK_OUT}"
            return
        if not os.path.isfile(path) and not os.path.isdir(path):
            yield f"{shown} is no regular file"
            return
    try:
        yield from _check_features(_read_json(folder, _FEATURES))
        if _INFO in names:
            yield from _check_info(_read_json(folder, _INFO))
    except (OSError, ValueError) as error:
        yield str(error)
        return
    for name in names:
        if f".{_RECORDS}" in name and os.path.isfile(os.path.join(folder, name)):
            yield from _check_records(folder, name)


def _read_json(folder: str, name: str) -> object:
    try:
        with regular_files.open_regular(os.path.join(folder, name)) as file:
            text = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ValueError(f"'{name}' cannot be read: {error.strerror}") from error
    if len(text) > _MAX_JSON_BYTES:
        raise ValueError(f"'{name}' is larger than {_MAX_JSON_BYTES // 2**20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{name}' is no JSON") from error


def _check_features(content: object) -> Iterator[str]:
    for key, value in _walk(content):
        rule = None
        if key in _CLASS_KEYS:
            rule = _KNOWN_CLASS
        elif key in _MESSAGE_KEYS:
            rule = _KNOWN_MESSAGE
        if rule is None or not isinstance(value, str) or not value:
            continue
        # A feature may be called "type": what stands below is then an object, or a plain word.
        if not rule.fullmatch(value) and "." in value:
            yield (
                f"'{_FEATURES}' names {findings.one_line(value)[:100]}, which would be imported, "
                "and so run. Expected features of tensorflow_datasets.core"
            )


def _check_info(content: object) -> Iterator[str]:
    for key, value in _walk(content):
        if key in _FORMAT_KEYS and value not in ("", _RECORDS):
            shown = findings.one_line(str(value))[:40]
            yield f"'{_INFO}' says the format {shown}. Expected {_RECORDS}"


def _walk(content: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, of all objects; without recursion, whatever the nesting."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from typing.cast("dict[str, object]", value).items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _check_records(folder: str, name: str) -> Iterator[str]:
    path = os.fsencode(os.path.join(folder, name))
    try:
        for record in record_framing.read_records(path):
            if record.fault:
                yield f"'{findings.one_line(name)}', record {record.number} {record.fault}"
                return
    except OSError as error:
        yield f"'{findings.one_line(name)}' cannot be read: {error.strerror}"
