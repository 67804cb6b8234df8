"""Examples in a store, copied once before they are read.

One idea: a source of data is a folder, a table with the images that it names, or records; which of
them is told as for local ones, by what is there and by the name's end. Each value of a flag has a
copy of its own that holds just what it selects, so nothing of an earlier state is read.
"""

import dataclasses
import fnmatch
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from tf_finetune import findings, remote_paths, specs
from tf_finetune.data import csv_rows, image_folder, json_rows, table_rows
from tf_finetune.object_store import copying, mirrors, objects

_FLAGS = ("data", "validation_data", "test_data")
_PATTERN = re.compile(r"[*?\[]")


def bring_all(
    data: specs.DataSpec, *, cache_dir: str | None
) -> tuple[specs.DataSpec, dict[str, str]]:
    """Brings every source that lies in a store.

    Args:
      data: the data options.
      cache_dir: of --cache_dir; None: the private cache of models.

    Returns:
      (the options with local paths, {local folder: the URL that it is a copy of}).

    Raises:
      RefusedError: nothing is there, or see `objects` and `mirrors`.
      OSError: there is no room for the copy.
    """
    found: dict[str, str] = {}
    changes: dict[str, Any] = {}
    for flag in _FLAGS:
        url = getattr(data, flag)
        if remote_paths.is_remote(url):
            changes[flag] = path = bring_source(url, data, flag=flag, cache_dir=cache_dir)
            url = url.rstrip("/")
            if os.path.isdir(path):
                found[path] = url
            else:
                found[os.path.dirname(path)] = url.rpartition("/")[0]
    return dataclasses.replace(data, **changes) if changes else data, found


def bring_source(url: str, data: specs.DataSpec, *, flag: str, cache_dir: str | None) -> str:
    """Makes the local copy of a source what the source is now.

    Args:
      url: gs://BUCKET/PATH: a folder, a table, or a file or pattern of records.
      data: the data options, for tables.
      flag: name of the flag that `url` stands in, for messages.
      cache_dir: of --cache_dir; None: the private cache of models.

    Returns:
      The path or pattern of the copy, in a form of --data.

    Raises:
      RefusedError: nothing is there, or see `objects` and `mirrors`.
      OSError: there is no room for the copy.
    """
    url = url.rstrip("/")
    base, _, last = url.rpartition("/")
    try:
        entry = objects.find(url)
    except FileNotFoundError:
        if not _PATTERN.search(last) or _PATTERN.search(base):
            raise _missing(url, flag) from None
        return _bring_pattern(url, base, last, flag=flag, cache_dir=cache_dir)
    mirror = mirrors.Mirror(url, cache_dir=cache_dir)
    with mirror.locked():
        if entry is None:
            wanted = objects.list_tree(url)
            copying.drop_others(mirror, wanted)
            copying.bring(mirror, url, wanted)
            return mirror.folder
        wanted = {last: entry}
        copying.bring(mirror, base, wanted)
        path = os.path.join(mirror.folder, last)
        if last.lower().endswith(table_rows.ENDINGS):
            wanted |= _find_named(path, base, data)
        copying.drop_others(mirror, wanted)
        copying.bring(mirror, base, wanted)
        return path


def _bring_pattern(url: str, base: str, last: str, *, flag: str, cache_dir: str | None) -> str:
    files, _ = objects.list_names(base)
    # As `glob` does: a pattern finds no hidden file unless it begins with a point itself.
    hidden = last.startswith(".")
    names = [
        name for name in files if fnmatch.fnmatchcase(name, last) and name.startswith(".") <= hidden
    ]
    if not names:
        raise _missing(url, flag)
    mirror = mirrors.Mirror(url, cache_dir=cache_dir)
    with mirror.locked():
        wanted = objects.look_at(base, names)
        copying.drop_others(mirror, wanted)
        copying.bring(mirror, base, wanted)
    return os.path.join(mirror.folder, last)


def _missing(url: str, flag: str) -> findings.RefusedError:
    message = (
        f"--{flag}={findings.one_line(url)} does not exist. Expected a folder of class folders, a "
        ".csv, .tsv or .jsonl, or a .tfrecord. Correct the name."
    )
    return findings.RefusedError(findings.Problem(message, path=url, flag=f"--{flag}"))


def _find_named(path: str, base: str, data: specs.DataSpec) -> dict[str, objects.Entry]:
    """The images that a table names: those of its cells that are objects below its folder."""
    wanted: dict[str, set[str]] = {}
    for cell in _iterate_cells(path, data):
        for form in dict.fromkeys(unicodedata.normalize(form, cell) for form in ("NFC", "NFD")):
            folder, _, name = form.rpartition("/")
            wanted.setdefault(folder, set()).add(name)
    found: list[str] = []
    for folder, (files, _) in objects.list_folders(base, wanted).items():
        prefix = f"{folder}/" if folder else ""
        found += [prefix + name for name in files if name in wanted[folder]]
    return objects.look_at(base, found)


def _iterate_cells(path: str, data: specs.DataSpec) -> Iterator[str]:
    """Paths below the table's folder that its cells may be."""
    try:
        for column, cell in _iterate_pairs(path, data):
            if not isinstance(cell, str) or "\0" in cell:
                continue
            is_image = cell.lower().endswith(image_folder.IMAGE_ENDINGS)
            if is_image or column == data.image_column is not None:
                name = os.path.normpath(cell)
                if not name.startswith(("/", "..")):
                    yield name
    except findings.RefusedError:
        return  # whoever reads the table says what is wrong with it


def _iterate_pairs(path: str, data: specs.DataSpec) -> Iterator[tuple[str, Any]]:
    """(column, cell) of each cell of a table."""
    if table_rows.is_json(path):
        for _, values in json_rows.iterate_objects(path, encoding=data.encoding):
            if isinstance(values, dict):
                yield from values.items()
        return
    columns: list[str] | None = None
    for _, cells in csv_rows.iterate_rows(path, encoding=data.encoding):
        columns = columns or cells
        yield from zip(columns, cells, strict=False)
