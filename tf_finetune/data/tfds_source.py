"""`tfds:NAME[:CONFIG][:VERSION][/SPLIT]`: images or texts of TensorFlow Datasets, and class labels.

One idea: what lies prepared in the data folder is opened from its own description, so that neither
the code that made it nor a network is needed. TensorFlow is imported only when a source is tfds.

Reference: TensorFlow Datasets, https://www.tensorflow.org/datasets.
"""

import contextlib
import dataclasses
import functools
import os
import re
import typing

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import (
    array_inputs,
    examples,
    image_folder,
    image_stores,
    text_store,
    text_tables,
    tfds_files,
    tfds_splits,
)

PREFIX = "tfds:"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPECTED = "tfds:NAME[:CONFIG][:VERSION][/SPLIT]"


def load(spec: specs.DataSpec, text: str, *, flag: str) -> examples.Examples:
    """Lists a data set of TensorFlow Datasets; its images stay encoded.

    Labels are read in one pass that decodes no image. Splits named train, validation and test are
    kept; other splits beside train are left aside. A split that is named is read alone.

    Args:
      spec: the data options: `tfds_data_dir`, `image_column`, `text_column`.
      text: "tfds:NAME", behind it ":CONFIG", ":1.0.0" and "/SPLIT" as far as wanted; a split is one
        of the data set's, a slice as "train[:80%]", or several joined by "+".
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; keys are the index in each split; label columns are the ClassLabel features.

    Raises:
      findings.RefusedError: there is no such data set, version or split, it is not prepared and
        cannot be, a config must be chosen, or it has no image or text or no class label.
    """
    shown = f"--{flag}={findings.one_line(text)}"
    source = _read_source(text, shown=shown, flag=flag)
    builder = _open_builder(source, spec=spec, shown=shown, flag=flag)
    features = dict(builder.info.features.items())
    image, text_name = _find_input(features, spec, shown=shown, flag=flag)
    columns = _find_label_columns(features)
    if not columns:
        raise _refusal(shown, f"no class label among its features ({_list(features)})", flag)
    names, is_split, problems = _choose_splits(builder, source.split, shown=shown, flag=flag)
    taken = dict(columns) | ({text_name: features[text_name]} if text_name else {})
    with _refuse_errors(f"{shown} cannot be read", flag):
        read = {name: _read_columns(builder, name, taken) for name in names}
    texts = {name: read[name].pop(text_name, []) for name in names}
    names = _drop_unlabelled(read, names, problems=problems, shown=shown)
    if not names:
        raise _refusal(shown, f"the split '{source.split}' has no labels", flag)
    counts = {name: len(next(iter(read[name].values()))) for name in names}
    keys = [
        f"{name}/{row:0{len(str(counts[name]))}d}" if is_split else f"{row:08d}"
        for name in names
        for row in range(counts[name])
    ]
    codes = [
        examples.SPLIT_NAMES.index(image_folder.SPLIT_FOLDERS.get(name, "train"))
        for name in names
        for _ in range(counts[name])
    ]
    store: image_stores.StreamImages | text_store.Texts = image_stores.StreamImages(
        functools.partial(_stream_images, builder, tuple(names), image), len(keys)
    )
    if text_name:
        cells = [cell for name in names for cell in texts[name]]
        _check_texts(cells, keys, shown=shown, flag=flag)
        store = text_store.Texts(examples.object_array(cells), text_name)
    return examples.Examples(
        source=text,
        keys=examples.object_array(keys),
        inputs=store,
        labels={
            column: examples.object_array([cell for name in names for cell in read[name][column]])
            for column in columns
        },
        splits=np.array(codes, np.int8) if is_split else None,
        repeats=array_inputs.find_repeats(store),
        identity=f"{builder.info.full_name}/{source.split}".removesuffix("/"),
        problems=tuple(problems),
    )


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a value of --data asks for; empty where it does not say."""

    name: str
    config: str
    version: str
    split: str

    @property
    def builder_name(self) -> str:
        """As the library writes it."""
        name = f"{self.name}/{self.config}" if self.config else self.name
        return f"{name}:{self.version}" if self.version else name


def _read_source(text: str, *, shown: str, flag: str) -> _Source:
    place, slash, split = text.removeprefix(PREFIX).partition("/")
    name, *parts = place.split(":")
    versions = [part for part in parts if _VERSION.fullmatch(part)]
    configs = [part for part in parts if not _VERSION.fullmatch(part)]
    is_good = _NAME.fullmatch(name) and len(versions) <= 1 and len(configs) <= 1
    if not is_good or "" in configs or (slash and not split.strip()):
        raise _refusal(shown, f"expected {_EXPECTED}", flag)
    return _Source(name, "".join(configs), "".join(versions), split)


def _check_texts(texts: list[str], keys: list[str], *, shown: str, flag: str) -> None:
    empty = [key for text, key in zip(texts, keys, strict=True) if not text.strip()]
    if empty:
        raise _refusal(shown, f"the text is empty of {findings.list_first(empty)}", flag)


def find_prepared(
    data_dir: str, name: str, config: str, *, version: str = ""
) -> tuple[str, list[str]]:
    """Looks for a prepared data set on the disk.

    Args:
      data_dir: the folder of data sets.
      name: the data set's name.
      config: the config's name, or "".
      version: the version wanted, or "".

    Returns:
      (folder of that version, else of the newest, []); ("", names of the configs that are there)
      where one must be chosen; ("", []) where nothing is prepared.
    """
    folder = os.path.join(data_dir, name)
    found = _find_version(os.path.join(folder, config), version)
    if found or config or not os.path.isdir(folder):
        return found, []
    versions = {
        entry: _find_version(os.path.join(folder, entry), version) for entry in os.listdir(folder)
    }
    configs = sorted(entry for entry, path in versions.items() if path)
    return (versions[configs[0]], []) if len(configs) == 1 else ("", configs)


def _find_version(folder: str, wanted: str) -> str:
    if not os.path.isdir(folder):
        return ""
    versions = [
        entry
        for entry in os.listdir(folder)
        if (entry == wanted or (not wanted and _VERSION.fullmatch(entry)))
        and os.path.isfile(f"{folder}/{entry}/features.json")
    ]
    newest = max(versions, key=lambda entry: [int(part) for part in entry.split(".")], default="")
    return os.path.join(folder, newest) if newest else ""


def _refusal(shown: str, message: str, flag: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(f"{shown}: {message}.", flag=f"--{flag}"))


def _list(names: typing.Iterable[str]) -> str:
    return findings.list_first(sorted(names), limit=20)


def _open_builder(source: _Source, *, spec: specs.DataSpec, shown: str, flag: str) -> typing.Any:
    """What is on the disk; else the library's own data set, downloaded and prepared."""
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(spec.tfds_data_dir or str(tfds.core.constants.DATA_DIR))
    place = findings.one_line(folder)
    name = source.name
    path, configs = find_prepared(folder, name, source.config, version=source.version)
    if configs:
        raise _refusal(shown, f"choose a config, as tfds:{name}:CONFIG, of {_list(configs)}", flag)
    if path:
        _check_prepared(path, spec, shown=shown, flag=flag)
        with _refuse_errors(f"{shown}: {findings.one_line(path)} cannot be opened", flag):
            return tfds.builder_from_directory(path)
    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        near = examples.nearest_name(name, known)
        raise _refusal(
            shown,
            f"TensorFlow Datasets has no such data set, and none is prepared in {place}.{near} "
            "--tfds_data_dir names the folder of prepared data sets",
            flag,
        )
    advice = f"Where there is a network, prepare it with: tfds build {name}"
    with _refuse_errors(
        f"{shown} is not prepared in {place}, and preparing it failed", flag, advice=advice
    ):
        builder = tfds.builder(source.builder_name, data_dir=folder)
        # The copy on Google's storage would be asked first, and retried for minutes when offline.
        settings = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=settings)
        return builder


def _check_prepared(path: str, spec: specs.DataSpec, *, shown: str, flag: str) -> None:
    faults = tfds_files.find_faults(path, follow_links=spec.follow_links)
    if faults:
        place = findings.one_line(path)
        raise findings.RefusedError(
            *(
                findings.Problem(
                    f"{shown}: {place}: {fault}. Prepare the data set again, or leave it.",
                    path=path,
                    flag=f"--{flag}",
                )
                for fault in faults
            )
        )


@contextlib.contextmanager
def _refuse_errors(message: str, flag: str, *, advice: str = "") -> typing.Iterator[None]:
    """Turns what tfds raises into one line; its modules agree on no base class."""
    import google.protobuf.json_format
    import tensorflow as tf
    import tensorflow_datasets as tfds

    expected = (
        AssertionError,
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
        google.protobuf.json_format.ParseError,
        tf.errors.OpError,
        tfds.download.DownloadError,
    )
    try:
        yield
    except expected as error:
        lines = str(error).strip().split("\n")
        reason = findings.one_line(lines[0]).rstrip(".") or type(error).__name__
        text = f"{message}: {reason}. {advice}".strip()
        raise findings.RefusedError(findings.Problem(text, flag=f"--{flag}")) from error


def _find_input(
    features: dict[str, typing.Any], spec: specs.DataSpec, *, shown: str, flag: str
) -> tuple[str, str]:
    """(the image, "") or ("", the text)."""
    import tensorflow_datasets as tfds

    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    wanted = spec.text_column
    if wanted is not None and spec.image_column is not None:
        message = "--text_column and --image_column exclude each other"
        raise _refusal(shown, message, "text_column")
    if wanted is not None and wanted not in texts:
        raise _refusal(
            shown,
            f"--text_column={findings.one_line(wanted)} is no text of it."
            f"{examples.nearest_name(wanted, texts)} It has {_list(texts) or 'none'}",
            "text_column",
        )
    has_image = any(isinstance(feature, tfds.features.Image) for feature in features.values())
    if wanted is None and not has_image and spec.image_column is None and texts:
        known = [name for name in text_tables.TEXT_COLUMNS if name in texts]
        if not known and len(texts) > 1:
            message = f"it has the texts {_list(texts)}. --text_column chooses one"
            raise _refusal(shown, message, "text_column")
        wanted = (known or texts)[0]
    if wanted is not None:
        return "", wanted
    return _find_image(features, spec.image_column, shown=shown, flag=flag), ""


def _find_image(features: dict[str, typing.Any], name: str | None, *, shown: str, flag: str) -> str:
    import tensorflow_datasets as tfds

    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype in (np.uint8, np.uint16)
    ]
    if name is not None and name not in images:
        raise _refusal(
            shown,
            f"--image_column={findings.one_line(name)} is no image of it."
            f"{examples.nearest_name(name, images)} It has {_list(images) or 'none'}",
            "image_column",
        )
    if not images:
        raise _refusal(
            shown, f"no image of 8 or 16 bits among its features ({_list(features)})", flag
        )
    return name or ("image" if "image" in images else images[0])


def _find_label_columns(features: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """{feature: its ClassLabel}; a Sequence of labels has several for an example."""
    import tensorflow_datasets as tfds

    columns = {}
    for name, feature in features.items():
        inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        if isinstance(inner, tfds.features.ClassLabel):
            columns[name] = inner
    return columns


def _choose_splits(
    builder: typing.Any, asked: str, *, shown: str, flag: str
) -> tuple[list[str], bool, list[findings.Problem]]:
    """(names of the splits to read, whether they are train, validation and test, warnings)."""
    if asked:
        fault = tfds_splits.find_fault(builder, asked)
        if fault:
            raise _refusal(shown, fault, flag)
        return [asked], False, []
    names = sorted(name for name, split in builder.info.splits.items() if split.num_examples)
    if len(names) == 1:
        return names, False, []
    kept = [name for name in names if name in image_folder.SPLIT_FOLDERS]
    if image_folder.find_split_folders(kept) is None:
        raise _refusal(
            shown,
            "expected one split, or train and optionally validation and test. It has "
            f"{_list(names) or 'none'}",
            flag,
        )
    others = [name for name in names if name not in kept]
    if not others:
        return kept, True, []
    message = f"{shown}: left aside the splits {_list(others)}."
    return kept, True, [findings.Problem(message, severity=findings.WARNING)]


def _drop_unlabelled(
    read: dict[str, dict[str, list]],
    names: list[str],
    *,
    problems: list[findings.Problem],
    shown: str,
) -> list[str]:
    """Leaves aside splits whose labels are secret, as the test split of a competition."""
    kept = []
    for name in names:
        # -1 stands for a class that is not told, read as ""; a tuple may well be empty.
        secret = any(all(cell == "" for cell in cells) for cells in read[name].values())
        if name == "train" or not secret:
            kept.append(name)
            continue
        message = f"{shown}: left aside the split '{name}', which has no labels."
        problems.append(findings.Problem(message, severity=findings.WARNING))
    return kept


def _read_split(builder: typing.Any, split: str, decoders: typing.Any) -> typing.Any:
    import tensorflow_datasets as tfds

    # One file after another: the same order in every run, whatever the number of cores.
    settings = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return builder.as_dataset(
        split=split, shuffle_files=False, read_config=settings, decoders=decoders
    )


def _read_columns(
    builder: typing.Any, split: str, columns: dict[str, typing.Any]
) -> dict[str, list]:
    """{feature: a cell for each example} of class labels and texts."""
    import tensorflow_datasets as tfds

    decoders = tfds.decode.PartialDecoding({name: True for name in columns})
    labels: dict[str, list] = {name: [] for name in columns}
    for example in _read_split(builder, split, decoders).as_numpy_iterator():
        for name, feature in columns.items():
            numbers = example[name]
            if isinstance(numbers, bytes):
                cell: str | tuple = numbers.decode("utf-8", "backslashreplace")
            elif np.ndim(numbers):
                cell = tuple(
                    feature.int2str(int(number)) for number in dict.fromkeys(numbers.tolist())
                )
            else:
                cell = feature.int2str(int(numbers)) if numbers >= 0 else ""
            labels[name].append(cell)
    return labels


def _stream_images(builder: typing.Any, splits: tuple[str, ...], image: str) -> typing.Any:
    """Encoded images of the splits, one after another: a tf.data.Dataset of string scalars."""
    import tensorflow_datasets as tfds

    decoders = tfds.decode.PartialDecoding(
        {image: True}, decoders={image: tfds.decode.SkipDecoding()}
    )
    datasets = [
        _read_split(builder, split, decoders).map(lambda example: example[image])
        for split in splits
    ]
    return functools.reduce(lambda first, second: first.concatenate(second), datasets)
