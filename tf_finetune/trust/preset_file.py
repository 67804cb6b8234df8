"""Folders of Hugging Face and KerasHub models, .safetensors files, and .json architectures.

One idea: these hold weights and settings, no graph; what could be code in such a folder (pickles,
Python files) is never opened, and is said.

Reference: the safetensors format, https://huggingface.co/docs/safetensors/index#format.
"""

import math
import os
import stat
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from tf_finetune import findings
from tf_finetune.trust import hdf5_file, json_text, keras_config, refusals, weight_values

_MAX_HEADER_BYTES = 32 * 2**20
_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "U16": 2, "U32": 4, "U64": 8, "BOOL": 1,
}  # fmt: skip
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_CODE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".py", ".ckpt", ".msgpack", ".joblib")
_WEIGHTS_ENDING = ".weights.h5"
_OWN_PACKAGES = ("keras_hub", "keras_nlp", "keras_cv")


def examine(path: str) -> Iterator[findings.Finding]:
    """Examines the folder of a preset.

    Args:
      path: the folder.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: a file of it cannot be read.
    """
    for name in sorted(os.listdir(path)):
        inner = os.path.join(path, name)
        mode = os.stat(inner).st_mode
        shown = f"'{findings.one_line(name)}'"
        if os.path.islink(inner) and not _is_cached(inner):
            yield refusals.outside(
                name,
                f"{shown} is a symbolic link, which could lead to any file of this computer. Copy "
                "the file itself into the folder.",
            )
        elif stat.S_ISDIR(mode):
            continue
        elif not stat.S_ISREG(mode):
            yield refusals.outside(name, f"{shown} is no regular file. Remove it.")
        elif name.endswith(".safetensors"):
            yield from examine_safetensors(inner, name)
        elif name.endswith(_WEIGHTS_ENDING):
            yield from hdf5_file.examine(inner, role=hdf5_file.WEIGHTS)
        elif name.endswith(".json"):
            yield from _examine_settings(inner, name)
        elif name.endswith(_CODE_ENDINGS):
            message = f"{shown} may hold code; it is not opened."
            yield findings.Finding(message, findings.INFO, refusals.CODE, name)


def examine_architecture(
    path: str, *, custom_objects: bool | Sequence[str] = False
) -> Iterator[findings.Finding]:
    """Examines a file of model.to_json().

    Args:
      path: of the file.
      custom_objects: the user has named a module that defines further classes; or the names of
        those that are registered with Keras.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: it is no JSON.
    """
    with open(path, "rb") as file:
        text = file.read(json_text.MAX_BYTES + 1)
    config = json_text.parse(text, what="the file")
    yield from keras_config.examine(config, custom_objects=custom_objects)


def examine_safetensors(path: str, name: str) -> Iterator[findings.Finding]:
    """Examines a .safetensors file.

    Args:
      path: of the file.
      name: for the texts.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: its header cannot be read.
    """
    shown = f"'{findings.one_line(name)}'"
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            yield refusals.broken(name, f"{shown} is truncated, or no .safetensors file.")
            return
        header = json_text.parse(file.read(length), what=shown)
        header = header if isinstance(header, dict) else {}
        header.pop("__metadata__", None)
        last = 0
        for key, value in sorted(header.items(), key=lambda item: _start(item[1])):
            place = _place(value, size - 8 - length)
            if place is None or place[1] < last:
                tensor = f"tensor '{findings.one_line(key)[:200]}' of {shown}"
                yield refusals.broken(name, f"{tensor} lies outside of the file or overlaps.")
                return
            last = place[2]
            code = _FLOATS.get(place[0])
            if code is None:
                continue
            check = weight_values.all_finite
            if place[0] == "BF16":
                check = weight_values.all_finite_bfloat16
            start = 8 + length + place[1]
            pieces = weight_values.read_pieces(file, start, place[2] - place[1], np.dtype(code))
            if not all(check(piece) for piece in pieces):
                yield refusals.broken(
                    name,
                    f"tensor '{findings.one_line(key)[:200]}' of {shown} holds NaN or infinite "
                    "weights, so every prediction would be NaN.",
                    advice="Use a checkpoint from before the training diverged.",
                )


def _start(value: object) -> int:
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if isinstance(offsets, list) and offsets and isinstance(offsets[0], int):
        return offsets[0]
    return 0


def _place(value: object, size: int) -> tuple[str, int, int] | None:
    if not isinstance(value, dict):
        return None
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2:
        return None
    if not isinstance(dtype, str) or not isinstance(shape, list):
        return None
    numbers = [*shape, *offsets]
    if any(not isinstance(number, int) or number < 0 for number in numbers):
        return None
    start, end = offsets
    if not start <= end <= size:
        return None
    element = _SIZES.get(dtype)
    if element is not None and math.prod(shape) * element != end - start:
        return None
    return dtype, start, end


def _examine_settings(path: str, name: str) -> Iterator[findings.Finding]:
    with open(path, "rb") as file:
        text = file.read(json_text.MAX_BYTES + 1)
    config = json_text.parse(text, what=f"'{findings.one_line(name)}'")
    if isinstance(config, dict) and "class_name" in config:
        package = str(config.get("registered_name", "")).partition(">")[0]
        own = package in _OWN_PACKAGES
        yield from keras_config.examine(config, custom_objects=own)


def _is_cached(path: str) -> bool:
    # The cache of huggingface_hub: snapshots/REVISION/NAME leads to blobs/HASH of the same model.
    target = os.path.realpath(path)
    snapshots = os.path.dirname(os.path.realpath(os.path.dirname(path)))
    model = os.path.dirname(snapshots)
    return os.path.basename(snapshots) == "snapshots" and (
        os.path.dirname(target) == os.path.join(model, "blobs")
    )
