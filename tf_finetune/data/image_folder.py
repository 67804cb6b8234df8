"""A folder of class folders, or a folder of train, validation and test folders of class folders.

One idea: names are bytes until they are labels. Listing is one pass of `os.scandir` over bytes,
so that names in any script, with brackets or not even UTF-8, are found and opened again as they
are; nothing is matched by a pattern, and nothing but a regular file is ever opened later.
"""

import array
import collections
import dataclasses
import os
import unicodedata

import numpy as np

from tf_finetune import findings, regular_files, specs
from tf_finetune.data import examples, image_stores

IMAGE_ENDINGS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".webp")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_EXPECTED = "Expected a folder for each class, with JPEG, PNG, BMP, GIF or WebP files in it."
_BINARY_ENDINGS = tuple(ending.encode() for ending in IMAGE_ENDINGS)
# What archives, file managers, network disks and file systems leave behind.
_CLUTTER = (
    b"$RECYCLE.BIN",
    b"@eaDir",
    b"System Volume Information",
    b"Thumbs.db",
    b"__MACOSX",
    b"__pycache__",
    b"desktop.ini",
    b"ehthumbs.db",
    b"lost+found",
)


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists a folder of images; a label is the name of a class folder.

    Images lie anywhere below their class folder. Where the folders are train and optionally
    validation and test (also val, valid, training, testing), and nothing else, that split is kept.

    Args:
      spec: the data options; `on_bad_example` decides what a link that leads nowhere, or out of the
        folder without `follow_links`, does.
      text: path of the folder.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; keys are NFC paths with "/" relative to the folder. Their problems say which
      class folders are empty (error), which files cannot be opened (error, or a warning with
      --on_bad_example=skip) and what was left aside (warning).

    Raises:
      findings.RefusedError: the folder cannot be listed or holds no class folder with an image.
    """
    text = text.rstrip("/") or "/"
    root = os.fsencode(text)
    listing = _Listing(root, findings.one_line(text), follow_links=spec.follow_links)
    folders = _list_top(listing)
    splits = find_split_folders([_decode(folder) for folder in folders])
    if splits is None:
        _warn_about_split_names(listing, folders)
        for folder in folders:
            _list_class(listing, (folder,), split=-1)
    else:
        _list_split_folders(listing, folders, splits)
    if not listing.keys:
        _refuse_empty(listing, flag)
    if splits is None:
        _warn_about_nesting(listing, folders, flag)
    return _to_examples(listing, text, skip_bad=spec.on_bad_example == "skip", split=splits)


def find_split_folders(names: list[str]) -> dict[str, str] | None:
    """Decides whether folders are splits or classes.

    Args:
      names: names of all folders beside each other.

    Returns:
      {name: "train", "validation" or "test"} where all of them are split names, train is among
      them and no split is there twice; else None.
    """
    splits = {name: SPLIT_FOLDERS.get(name.casefold(), "") for name in names}
    found = sorted(splits.values())
    if "" in found or "train" not in found or len(set(found)) < len(found):
        return None
    return splits


@dataclasses.dataclass
class _Listing:
    """What the pass has found so far; lists grow by one element per image."""

    root: bytes
    source: str
    follow_links: bool
    keys: list[str] = dataclasses.field(default_factory=list)
    paths: list[bytes] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    splits: array.array = dataclasses.field(default_factory=lambda: array.array("b"))
    stamps: array.array = dataclasses.field(default_factory=lambda: array.array("q"))
    hidden: list[str] = dataclasses.field(default_factory=list)
    unsupported: list[str] = dataclasses.field(default_factory=list)
    loose: list[str] = dataclasses.field(default_factory=list)
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    empty: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    not_utf8: list[str] = dataclasses.field(default_factory=list)
    problems: list[findings.Problem] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.real_root = os.path.realpath(self.root)

    def is_folder(self, entry: os.DirEntry[bytes], name: bytes) -> bool | None:
        """Whether an entry is a folder; None of a link out or without end, noted as bad."""
        if self.leads_out(entry, name):
            return None
        try:
            return entry.is_dir()
        except OSError as error:
            self.bad.append((_to_key(name), f"cannot be opened: {error.strerror}"))
            return None

    def leads_out(self, entry: os.DirEntry[bytes], name: bytes) -> bool:
        """Whether an entry is a link out of the folder, which is noted as bad and not followed."""
        if self.follow_links or not entry.is_symlink():
            return False
        if not regular_files.leads_outside(entry.path, self.real_root):
            return False
        self.bad.append((_to_key(name), f"is {regular_files.LINK_OUT}"))
        return True

    def warn(self, message: str) -> None:
        self.problems.append(findings.Problem(message, severity=findings.WARNING, path=self.source))


def _decode(name: bytes) -> str:
    return unicodedata.normalize("NFC", name.decode("utf-8", "surrogateescape"))


def _to_key(name: bytes) -> str:
    # Keys are written to split.csv, which is UTF-8: bytes that are not become \xff.
    return unicodedata.normalize("NFC", name.decode("utf-8", "backslashreplace"))


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name in _CLUTTER


def _scan(listing: _Listing, folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        shown = findings.one_line(os.fsdecode(folder))
        raise findings.RefusedError(
            findings.Problem(f"{shown} cannot be listed: {error.strerror}.", path=shown)
        ) from error


def _list_top(listing: _Listing) -> list[bytes]:
    folders = []
    for entry in _scan(listing, listing.root):
        if _is_hidden(entry.name):
            listing.hidden.append(_decode(entry.name))
        elif (is_folder := listing.is_folder(entry, entry.name)) is None:
            continue
        elif is_folder:
            folders.append(entry.name)
        else:
            _leave_aside(listing, entry.name)
    return sorted(folders)


def _leave_aside(listing: _Listing, name: bytes) -> None:
    """Notes a file outside of class folders."""
    is_image = name.lower().endswith(_BINARY_ENDINGS)
    (listing.loose if is_image else listing.unsupported).append(_decode(name))


def _warn_about_split_names(listing: _Listing, folders: list[bytes]) -> None:
    names = [_decode(folder) for folder in folders]
    split_names = [name for name in names if name.casefold() in SPLIT_FOLDERS]
    if "train" in {SPLIT_FOLDERS[name.casefold()] for name in split_names}:
        listing.warn(
            f"{listing.source}: {findings.list_first(split_names)} are read as classes, because "
            f"they are not one folder each of train, validation and test alone. Found: "
            f"{findings.list_first(names)}."
        )


def _warn_about_nesting(listing: _Listing, folders: list[bytes], flag: str) -> None:
    """An archive that was unpacked into its own folder has the classes one level down."""
    if len(folders) == 1 and all(key.count("/") > 1 for key in listing.keys):
        inner = f"{listing.source}/{findings.one_line(_decode(folders[0]))}"
        listing.warn(
            f"{listing.source}: all images are in folders of the only folder. Did you mean "
            f"--{flag}={inner}?"
        )


def _list_split_folders(listing: _Listing, folders: list[bytes], splits: dict[str, str]) -> None:
    for folder in folders:
        split = examples.SPLIT_NAMES.index(splits[_decode(folder)])
        for entry in sorted(_scan(listing, os.path.join(listing.root, folder)), key=_entry_name):
            if _is_hidden(entry.name):
                listing.hidden.append(_decode(folder + b"/" + entry.name))
            elif (is_folder := listing.is_folder(entry, folder + b"/" + entry.name)) is None:
                continue
            elif is_folder:
                _list_class(listing, (folder, entry.name), split=split)
            else:
                _leave_aside(listing, folder + b"/" + entry.name)


def _entry_name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def _list_class(listing: _Listing, parts: tuple[bytes, ...], *, split: int) -> None:
    """Adds every image below a class folder. `split` is an index into SPLIT_NAMES, or -1."""
    top = b"/".join(parts)
    label = _decode(parts[-1])
    visited = _ancestors(listing.root)
    num_before = len(listing.keys)
    pending = [top]
    while pending:
        folder = pending.pop()
        path = os.path.join(listing.root, folder)
        try:
            status = os.stat(path)
        except OSError as error:  # such as a path that is longer than the system takes
            listing.bad.append((_to_key(folder[-80:]), f"cannot be opened: {error.strerror}"))
            continue
        # A link to a folder above, or to one already listed, would never end or count twice.
        if (status.st_dev, status.st_ino) in visited:
            listing.hidden.append(_decode(folder))
            continue
        visited.add((status.st_dev, status.st_ino))
        pending += _list_one_folder(listing, folder, path)
    added = len(listing.keys) - num_before
    listing.labels += [label] * added
    listing.splits.extend([split] * added)
    if not added:
        listing.empty.append((label, _decode(top)))


def _ancestors(root: bytes) -> set[tuple[int, int]]:
    path = os.path.realpath(root)
    found = set()
    while True:
        status = os.stat(path)
        found.add((status.st_dev, status.st_ino))
        parent = os.path.dirname(path)
        if parent == path:
            return found
        path = parent


def _list_one_folder(listing: _Listing, folder: bytes, path: bytes) -> list[bytes]:
    """Adds the images directly in a folder and returns the folders in it."""
    inner = []
    prefix = _to_key(folder) + "/"
    for entry in _scan(listing, path):
        name = entry.name
        if _is_hidden(name):
            listing.hidden.append(prefix + _to_key(name))
            continue
        if listing.leads_out(entry, folder + b"/" + name):
            continue
        reason = ""
        try:
            if entry.is_dir():
                inner.append(folder + b"/" + name)
                continue
            is_image = name.lower().endswith(_BINARY_ENDINGS)
            if not is_image or (entry.is_symlink() and not leads_to_image(entry.path)):
                listing.unsupported.append(prefix + _to_key(name))
                continue
            status = entry.stat()
            if not entry.is_file():
                reason = "is no regular file but a FIFO, socket or device"
        except OSError as error:
            reason = f"cannot be opened: {error.strerror}"
        if reason:
            listing.bad.append((prefix + _to_key(name), reason))
            continue
        key = prefix + (name.decode() if name.isascii() else _to_key(name))
        if not name.isascii() and not _is_utf8(name):
            listing.not_utf8.append(key)
        listing.keys.append(key)
        listing.paths.append(entry.path)
        listing.stamps.extend((status.st_size, status.st_mtime_ns))
    return sorted(inner, reverse=True)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def leads_to_image(link: bytes) -> bool:
    """Whether what a link leads to may be an image, told by its name.

    A link x.jpg to secret.txt is none, and the target is not opened to find out. Stores that name
    files by their content (git-annex, DVC) have targets without an ending; these may be images.

    Args:
      link: path of a symbolic link.

    Returns:
      False where the target has an ending that no image has.
    """
    target = os.path.basename(os.path.realpath(link)).lower()
    return target.endswith(_BINARY_ENDINGS) or not os.path.splitext(target)[1]


def _refuse_empty(listing: _Listing, flag: str) -> None:
    shown = f"--{flag}={listing.source}"
    if listing.loose:
        count = len(listing.loose)
        message = f"{shown} has {count} images but no class folder with an image. {_EXPECTED}"
    elif listing.unsupported:
        message = (
            f"{shown} has no image among its {len(listing.unsupported)} files "
            f"({findings.list_first(listing.unsupported)}). {_EXPECTED}"
        )
    elif listing.empty:
        names = findings.list_first([top for _, top in listing.empty])
        message = f"{shown} has class folders without any image: {names}. {_EXPECTED}"
    else:
        message = f"{shown} is empty. {_EXPECTED}"
    raise findings.RefusedError(
        findings.Problem(message, path=listing.source, flag=f"--{flag}"),
        *_find_bad_files(listing, skip_bad=False),
    )


def _to_examples(
    listing: _Listing, text: str, *, skip_bad: bool, split: dict[str, str] | None
) -> examples.Examples:
    order = sorted(range(len(listing.keys)), key=listing.keys.__getitem__)
    keys = [listing.keys[row] for row in order]
    listing.problems += _find_duplicates(listing, keys)
    listing.problems += _find_bad_files(listing, skip_bad=skip_bad)
    listing.problems += _find_empty_classes(listing)
    _warn_about_skipped(listing)
    stamps = np.frombuffer(listing.stamps, np.int64).reshape(-1, 2)
    labels = examples.object_array([listing.labels[row] for row in order])
    return examples.Examples(
        source=text,
        keys=examples.object_array(keys),
        inputs=image_stores.PathImages(
            examples.object_array([listing.paths[row] for row in order])
        ),
        labels={examples.LABEL_COLUMN: labels},
        splits=None if split is None else np.frombuffer(listing.splits, np.int8)[order],
        stamps=stamps[order],
        problems=tuple(listing.problems),
    )


def _find_duplicates(listing: _Listing, keys: list[str]) -> list[findings.Problem]:
    return [
        findings.Problem(
            f"{listing.source}/{findings.one_line(key)}: two files have this name in different "
            "Unicode forms. Rename one of them.",
            path=f"{listing.source}/{key}",
        )
        for key in examples.find_duplicates(keys)
    ]


def _find_bad_files(listing: _Listing, *, skip_bad: bool) -> list[findings.Problem]:
    problems = []
    for key, reason in sorted(listing.bad):
        path = f"{listing.source}/{findings.one_line(key)}"
        advice = "Skipped." if skip_bad else "Remove it, or give --on_bad_example=skip."
        severity = findings.WARNING if skip_bad else findings.ERROR
        problems.append(
            findings.Problem(
                f"{path} {reason}. {advice}",
                severity=severity,
                path=path,
                flag="--on_bad_example=skip",
            )
        )
    return problems


def _find_empty_classes(listing: _Listing) -> list[findings.Problem]:
    present = set(listing.labels)
    problems = []
    for label, top in listing.empty:
        # In one split of several a class may be missing; nowhere is a mistake.
        severity = findings.WARNING if label in present else findings.ERROR
        path = f"{listing.source}/{findings.one_line(top)}"
        problems.append(
            findings.Problem(
                f"{path}: the class folder has no image. Add some, or remove the folder.",
                severity=severity,
                path=path,
            )
        )
    return problems


def _warn_about_skipped(listing: _Listing) -> None:
    if listing.loose:
        listing.warn(
            f"{listing.source}: left aside {len(listing.loose)} images outside of class folders: "
            f"{findings.list_first(sorted(listing.loose))}. Move them into the folder of their "
            "class."
        )
    if listing.hidden:
        listing.warn(
            f"{listing.source}: left aside {len(listing.hidden)} hidden or repeated files and "
            f"folders: {findings.list_first(sorted(listing.hidden))}."
        )
    if listing.unsupported:
        endings = collections.Counter(
            os.path.splitext(name)[1].lower() or "no ending" for name in listing.unsupported
        )
        counts = ", ".join(
            f"{count} {findings.one_line(ending)}" for ending, count in endings.most_common(5)
        )
        listing.warn(
            f"{listing.source}: left aside {len(listing.unsupported)} files that are no JPEG, PNG, "
            f"BMP, GIF or WebP ({counts}): {findings.list_first(sorted(listing.unsupported))}. "
            "Convert images of other formats first."
        )
    if listing.not_utf8:
        listing.warn(
            f"{listing.source}: {len(listing.not_utf8)} file names are not UTF-8, and split.csv "
            f"writes their bytes as \\x..: {findings.list_first(sorted(listing.not_utf8))}."
        )
