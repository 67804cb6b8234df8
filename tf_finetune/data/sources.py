"""The table of sources: which loader reads a value of --data.

Adding a source is a file with a `load` function and a row here.
"""

import os
from collections.abc import Callable

from tf_finetune import findings, specs
from tf_finetune.data import (
    examples,
    image_folder,
    memory_source,
    sklearn_source,
    table_rows,
    tables,
    tfds_source,
    tfrecord_source,
)

Loader = Callable[..., examples.Examples]

EXPECTED = (
    "a folder of class folders, a .csv, .tsv or .jsonl, a .tfrecord, tfds:NAME or sklearn:NAME"
)
TABLE_LOADERS = (tables.load, tfrecord_source.load)
TEXT_LOADERS = (tables.load, tfrecord_source.load, tfds_source.load)
PREFIXES: dict[str, Loader] = {
    tfds_source.PREFIX: tfds_source.load,
    sklearn_source.PREFIX: sklearn_source.load,
}
ENDINGS: dict[str, Loader] = dict.fromkeys(table_rows.ENDINGS, tables.load)


def find_source(text: str, *, flag: str) -> Loader:
    """The loader of a value of --data.

    Args:
      text: a path, a pattern of TFRecord files, or a prefix of PREFIXES and a name.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      A function (spec, text, *, flag) -> Examples that raises findings.RefusedError where nothing
      can be listed.

    Raises:
      findings.RefusedError: the path does not exist, or its kind has no row in the tables.
    """
    for prefix, loader in PREFIXES.items():
        if text.startswith(prefix):
            return loader
    if text and os.path.isdir(text):
        return image_folder.load
    ending = os.path.splitext(text)[1].lower()
    if os.path.isfile(text) and ending in ENDINGS:
        return ENDINGS[ending]
    if tfrecord_source.is_record_path(text) and tfrecord_source.find_files(text):
        return tfrecord_source.load
    raise findings.RefusedError(
        findings.Problem(_describe_unknown(text, flag), path=text, flag=f"--{flag}")
    )


def load_source(
    spec: specs.DataSpec, text: str | memory_source.Arrays, *, flag: str
) -> examples.Examples:
    """Lists the examples of one source.

    Args:
      spec: the data options.
      text: a value of --data, --validation_data or --test_data; or examples in memory.
      flag: name of the flag that `text` stands in, for messages.

    Returns:
      The examples; their `problems` may hold errors.

    Raises:
      findings.RefusedError: nothing can be listed, see the loaders; or --text_column,
        --feature_columns or --record_schema is given for a source that has none.
    """
    if isinstance(text, memory_source.Arrays):
        return memory_source.load(spec, text, flag=flag)
    loader = find_source(text, flag=flag)
    if spec.record_schema is not None and flag == "data" and loader is not tfrecord_source.load:
        message = f"--record_schema needs TFRecords. Received --data={findings.one_line(text)}."
        raise findings.RefusedError(findings.Problem(message, path=text, flag="--record_schema"))
    for name in ("text_column", "feature_columns"):
        value = getattr(spec, name)
        is_text = name == "text_column"
        if value is not None and loader not in (TEXT_LOADERS if is_text else TABLE_LOADERS):
            which = "that column" if is_text else "such columns"
            message = (
                f"--{name}={findings.one_line(value)} needs a .csv, .tsv, .jsonl or "
                f".tfrecord with {which}. Received --{flag}={findings.one_line(text)}."
            )
            raise findings.RefusedError(findings.Problem(message, path=text, flag=f"--{name}"))
    return loader(spec, text, flag=flag)


def _describe_unknown(text: str, flag: str) -> str:
    shown = f"--{flag}={findings.one_line(text)}"
    if not text:
        return f"--{flag} is missing. Expected {EXPECTED}."
    if os.path.lexists(text):
        return (
            f"{shown} is neither a folder nor a .csv, .tsv, .jsonl or .tfrecord file. Expected "
            f"{EXPECTED}."
        )
    if text.startswith(memory_source.PREFIX):
        return (
            f"{shown} names examples that were handed over in Python, and they are on no disk. "
            f"Hand them over again, or give --{flag} a file."
        )
    if "://" in text:
        return (
            f"{shown} is an address, and only files of this machine are listed here. Of gs://, "
            "train, evaluate and validate make a local copy; of others, make one yourself."
        )
    head, colon, name = text.partition(":")
    hint = ""
    if colon and not os.path.isdir(os.path.dirname(text)):
        near = examples.nearest_name(head + colon, list(PREFIXES))
        hint = near.replace("'?", f"{findings.one_line(name)}'?")
    return f"{shown} does not exist.{hint} Expected {EXPECTED}."
