"""What features depend on: the prefix they are made by, and the content they are made of.

One idea: a cache that is addressed by content cannot be out of date. The space is named by all
that the prefix is, an example by its bytes, so that a changed image is a new example, an unchanged
one is found in whatever data set it comes again, and nothing has to be told to forget.
"""

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tf_finetune.data import (
    augmentation,
    columns,
    image_heads,
    image_stores,
    loading,
    mixed_spec,
    preprocessing,
    text_store,
)
from tf_finetune.models import splitting

DIGEST_BYTES = 16
# Changes when features of the same inputs would be others, or are kept in another form.
_FORMAT = 1
# Code that a version stands for (ours: _FORMAT); of all other code the files are read.
_LIBRARIES = ("tensorflow", "keras")
_VERSIONED = ("tf_finetune", *_LIBRARIES)


def name_space(
    split: splitting.ModelSplit,
    pre: preprocessing.InputSpec,
    *,
    precision: str,
) -> str:
    """Names the features that a prefix makes.

    Args:
      split: the cut model, its prefix's weights at their final values.
      pre: how inputs are prepared.
      precision: of the compiled prefix.

    Returns:
      64 hex digits.
    """
    digest = hashlib.sha256()
    parts = {
        "format": _FORMAT,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "precision": precision,
        "preprocessing": [type(pre).__name__, dataclasses.asdict(pre)],
        "graph": split.describe_prefix(),
    }
    digest.update(json.dumps(parts, sort_keys=True, default=_describe).encode())
    for layer in split.prefix_layers:
        for weight in layer.weights:
            value = keras.ops.convert_to_numpy(weight)
            digest.update(f"{value.dtype} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        for content in _list_hidden(layer):
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _list_hidden(layer: Any) -> Iterator[bytes]:
    """What a layer computes with that is neither configuration nor weights."""
    for inner in layer._flatten_layers():
        # Vocabularies that were learnt from data, the graph and the tables of a SavedModel.
        if hasattr(inner, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                inner.save_assets(folder)
                yield from _read_folder(folder)
        made_of: list[Any] = [type(inner)]
        made_of += [value for value in vars(inner).values() if inspect.isfunction(value)]
        for code in made_of:
            if code.__module__.partition(".")[0] in _VERSIONED:
                continue
            try:
                with open(inspect.getfile(code), "rb") as file:
                    yield file.read()
            except (OSError, TypeError):  # of a notebook, or a Lambda: the configuration has it
                continue


def _read_folder(folder: str) -> Iterator[bytes]:
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(path, name), folder).encode()
            with open(os.path.join(path, name), "rb") as file:
                yield file.read()


def digest_examples(
    split: loading.Split, pre: preprocessing.InputSpec, *, fingerprint: str
) -> np.ndarray:
    """Digests of what examples hold.

    Args:
      split: the examples, as `read_images` returns them.
      pre: how inputs are prepared.
      fingerprint: of the data set, which tells the examples of a stream apart, see DatasetInfo.

    Returns:
      uint8 [n, 16]: equal for equal contents.

    Raises:
      OSError: a file cannot be read.
    """
    store, found = split.inputs, np.empty((len(split), DIGEST_BYTES), np.uint8)
    beside = mixed_spec.find_mixed(pre)
    for row, index in enumerate(split.indices):
        if isinstance(store, image_stores.DecodedImages | image_stores.ArrayImages):
            pixels = store.pixels[index]
            content: Any = f"{pixels.dtype} {pixels.shape}\n".encode() + pixels.tobytes()
        elif isinstance(store, image_stores.EncodedImages):
            with image_heads.read_image(store, index) as file:
                content = file.read()
        elif isinstance(store, text_store.Texts):
            content = store.texts[index].encode("utf-8", "surrogatepass")
        elif isinstance(store, columns.Columns) and isinstance(pre, columns.ColumnsSpec):
            content = _join(store.read(split.indices[row : row + 1], pre))
        else:
            content = f"{fingerprint} {split.keys[row]}".encode("utf-8", "surrogatepass")
        if split.features is not None and beside is not None:
            own = _join(split.features.read(np.array([row]), beside.columns))
            content = b"%d " % len(content) + content + own
        value = hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=_person(store)).digest()
        found[row] = np.frombuffer(value, np.uint8)
    return found


def digest_views(
    digests: np.ndarray, keys: np.ndarray, views: augmentation.KeptViews
) -> np.ndarray:
    """Digests of the views of examples.

    Args:
      digests: uint8 [n, 16], of `digest_examples`.
      keys: object [n] of str, the examples' keys, from which views are drawn.
      views: of the examples.

    Returns:
      uint8 [n * views.number, 16]: view v of example i is row i * views.number + v. Equal for equal
      contents in equal views: how many views there are does not matter.
    """
    steps = sorted([step.name, step.values] for step in views.steps)
    start = hashlib.blake2b(json.dumps(steps).encode(), digest_size=DIGEST_BYTES, person=b"view")
    seeds = augmentation.make_seeds(keys, seed=views.seed)
    found = np.empty((len(digests), views.number, DIGEST_BYTES), np.uint8)
    for row, (own, seed) in enumerate(zip(digests, seeds, strict=True)):
        for number in range(views.number):
            digest = start.copy()
            digest.update(own.tobytes() + struct.pack("<qq", seed, number))
            found[row, number] = np.frombuffer(digest.digest(), np.uint8)
    return found.reshape(-1, DIGEST_BYTES)


def _person(store: Any) -> bytes:
    # An image's bytes and its pixels are different contents.
    return type(store).__name__.encode()[:16]


def _join(values: dict[str, np.ndarray]) -> bytes:
    parts = []
    for name in sorted(values):
        array = np.ascontiguousarray(values[name])
        content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        parts.append(b"%b %d " % (name.encode(), len(content)) + content)
    return b"".join(parts)


def _describe(value: Any) -> Any:
    """What JSON has no form for, such as a layer's dtype policy or an array."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if hasattr(value, "get_config"):
        return [type(value).__name__, value.get_config()]
    return f"{type(value).__module__}.{type(value).__qualname__} {value}"
