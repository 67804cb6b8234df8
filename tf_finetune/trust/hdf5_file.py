"""HDF5 files: what they link to, how they store, how much they declare, what they hold.

One idea: HDF5 can point at other files, run decompressors and declare terabytes that are not
there. A Keras model needs groups, plain arrays and a few attributes, so only these are let
through, and links are looked at before they are followed.

Reference: HDF5 File Format Specification 3.0,
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (IV.A.2: data storage, filters,
external files); keras/src/legacy/saving/legacy_h5_format.py of Keras 3.15.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from tf_finetune import findings
from tf_finetune.trust import dense_shapes, json_text, keras_config, refusals, weight_values

MODEL, WEIGHTS = "model", "weights"
# gzip, shuffle, fletcher32, lzf: what h5py writes without asking. Others bring their own decoder.
_FILTERS = frozenset({1, 2, 3, 32000})
_MAX_OBJECTS = 50_000
_MAX_DEPTH = 40
_MAX_ATTRIBUTES = 200_000
_MAX_ATTRIBUTE_BYTES = 64 * 2**20
_MAX_CHUNK_BYTES = 64 * 2**20
# Weights shrink by a factor below 2, zeros by one of 1,000.
_MAX_RATIO, _RATIO_FROM_BYTES = 100, 64 * 2**20
_VALUE_KINDS = "fiubc"
# How libhdf5 says it.
_TRUNCATED = re.compile(r"truncated file: eof = (\d+),.* stored_eof = (\d+)")
_OPTIMIZER = ("optimizer_weights", "optimizer", "_optimizer")


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of a file.

    Attributes:
      path: its name, from the root.
      shape: its sides.
      dataset: the open dataset.
    """

    path: str
    shape: tuple[int, ...]
    dataset: h5py.Dataset

    @property
    def is_weight(self) -> bool:
        """Whether it is loaded into a layer."""
        return self.path.split("/", 1)[0] not in _OPTIMIZER


def examine(
    path: str, *, role: str = MODEL, custom_objects: bool | Sequence[str] = False
) -> Iterator[findings.Finding]:
    """Examines an HDF5 file.

    Args:
      path: of the file.
      role: "model", or "weights" where a file without an architecture is wanted.
      custom_objects: the user has named a module that defines further classes; or the names of
        those that are registered with Keras.

    Yields:
      Findings.

    Raises:
      refusals.BrokenFileError: it cannot be read further.
    """
    with open(path, "rb") as raw:
        size = raw.seek(0, 2)
        try:
            with h5py.File(path, "r") as file:
                arrays: list[StoredArray] = []
                found = list(examine_storage(file, raw, size, arrays))
                yield from found
                # Behind a link h5py would follow it.
                if role == MODEL and all(finding.kind != refusals.FILE for finding in found):
                    yield from _examine_model(file, arrays, custom_objects=custom_objects)
        except (OSError, KeyError, RuntimeError) as error:
            raise _damaged(error) from error


def examine_storage(
    file: h5py.File, raw: typing.BinaryIO, size: int, arrays: list[StoredArray]
) -> Iterator[findings.Finding]:
    """Examines how a file stores what it holds, and the values of its weights.

    Args:
      file: open.
      raw: the same bytes, for reading values in pieces.
      size: number of bytes.
      arrays: receives every array that passed.

    Yields:
      Findings. Where there is one, the values are not read.

    Raises:
      refusals.BrokenFileError: there are too many objects, or they are nested too deeply.
    """
    start, clean = len(arrays), True
    for finding in _walk(file, arrays):
        clean = False
        yield finding
    declared = sum(array.dataset.nbytes for array in arrays[start:])
    stored = sum(array.dataset.id.get_storage_size() for array in arrays[start:])
    if declared > max(_RATIO_FROM_BYTES, _MAX_RATIO * size) or stored > size:
        clean = False
        yield refusals.outside(
            "",
            f"its arrays declare {max(declared, stored):,} bytes, and the file has {size:,}: "
            "loading them would fill the memory. It is damaged or hostile.",
        )
    if clean:
        for array in arrays[start:]:
            if array.is_weight:
                yield from _check_values(array, raw)


def _walk(file: h5py.File, arrays: list[StoredArray]) -> Iterator[findings.Finding]:
    seen = {_address(file)}
    objects = attributes = 0
    waiting: list[tuple[h5py.Group, str, int]] = [(file["/"], "", 0)]
    while waiting:
        group, path, depth = waiting.pop()
        own = h5py.h5a.get_num_attrs(group.id)
        attributes += own
        if own:
            yield from _check_attributes(group, path)
        for name in group:
            objects += 1
            if objects > _MAX_OBJECTS or depth > _MAX_DEPTH or attributes > _MAX_ATTRIBUTES:
                raise refusals.BrokenFileError(_too_many())
            inner_path = f"{path}/{name}" if path else name
            finding = _check_link(group, name, inner_path)
            if finding is not None:
                yield finding
                continue
            inner = group[name]
            address = _address(inner)
            if address in seen:
                continue  # a second name of the same object: endless where it is a parent
            seen.add(address)
            if isinstance(inner, h5py.Group):
                waiting.append((inner, inner_path, depth + 1))
            elif isinstance(inner, h5py.Dataset):
                own = h5py.h5a.get_num_attrs(inner.id)
                attributes += own
                if own:
                    yield from _check_attributes(inner, inner_path)
                refusal = _check_dataset(inner, inner_path)
                if refusal is None:
                    arrays.append(StoredArray(inner_path, inner.shape, inner))
                else:
                    yield refusal


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _check_link(group: h5py.Group, name: str, path: str) -> findings.Finding | None:
    shown = _shown(path)
    if refusals.has_control_characters(name):
        return refusals.outside(
            path,
            f"the name {shown} holds control characters, which could forge lines of a log or of a "
            "terminal. Save the model again.",
        )
    kind = group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type
    if kind == h5py.h5l.TYPE_HARD:
        return None
    what = "a link to another file" if kind == h5py.h5l.TYPE_EXTERNAL else "a link"
    return refusals.outside(
        path,
        f"{shown} is {what}, which Keras never writes: it could read files of this computer or "
        "lead in a circle. Save the model again.",
    )


def _check_attributes(item: h5py.Group | h5py.Dataset, path: str) -> Iterator[findings.Finding]:
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        shown = f"attribute '{findings.one_line(name)}' of {_shown(path)}"
        declared = math.prod(attribute.shape or ()) * attribute.dtype.itemsize
        if declared > _MAX_ATTRIBUTE_BYTES:
            yield refusals.outside(path, f"{shown} is larger than any model needs. It is hostile.")
            continue
        if h5py.check_ref_dtype(attribute.dtype) is not None:
            yield refusals.outside(path, f"{shown} refers to another object, as Keras never does.")
            continue
        # What the loader will read is read here first: where that crashes it is harmless.
        item.attrs[name]


def _check_dataset(dataset: h5py.Dataset, path: str) -> findings.Finding | None:
    shown, plan = _shown(path), dataset.id.get_create_plist()
    layout = plan.get_layout()
    if plan.get_external_count():
        message = f"{shown} keeps its values in another file, which could be any of this computer."
        return refusals.outside(path, f"{message} Save the model again.")
    if layout == h5py.h5d.VIRTUAL:
        message = f"{shown} is put together from other files, which could be any of this computer."
        return refusals.outside(path, f"{message} Save the model again.")
    filters = {plan.get_filter(index)[0] for index in range(plan.get_nfilters())}
    if filters - _FILTERS:
        names = ", ".join(str(number) for number in sorted(filters - _FILTERS))
        return refusals.outside(
            path,
            f"{shown} needs the HDF5 filter {names}. Expected gzip, lzf, shuffle or fletcher32: "
            "save the model again.",
        )
    if dataset.dtype.kind not in _VALUE_KINDS and not _is_small_float(dataset):
        return _check_other_type(dataset, path)
    return _check_size(dataset, path, chunked=layout == h5py.h5d.CHUNKED)


def _check_other_type(dataset: h5py.Dataset, path: str) -> findings.Finding | None:
    if h5py.check_ref_dtype(dataset.dtype) is not None:
        return refusals.outside(
            path, f"{_shown(path)} refers to other objects, as Keras never does."
        )
    below = path.split("/", 1)[0]
    weights = below in ("model_weights", "layers") or path.endswith(("kernel:0", "bias:0"))
    if weights or dataset.nbytes > _MAX_ATTRIBUTE_BYTES:
        return refusals.broken(path, f"{_shown(path)} holds texts or records. Expected numbers.")
    return None


def _check_size(dataset: h5py.Dataset, path: str, *, chunked: bool) -> findings.Finding | None:
    declared, stored = dataset.nbytes, dataset.id.get_storage_size()
    shown = _shown(path)
    if chunked:
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
        too_much = declared > max(_RATIO_FROM_BYTES, _MAX_RATIO * stored)
        if chunk > _MAX_CHUNK_BYTES:
            message = (
                f"{shown} is stored in chunks of {chunk:,} bytes. Expected less. It is hostile."
            )
            return refusals.outside(path, message)
    else:
        too_much = declared != stored
    if not too_much:
        return None
    return refusals.outside(
        path,
        f"{shown} declares {declared:,} bytes and stores {stored:,}: loading it would fill the "
        "memory with nothing. It is damaged or hostile.",
    )


def _check_values(array: StoredArray, raw: typing.BinaryIO) -> Iterator[findings.Finding]:
    dataset = array.dataset
    bfloat16 = dataset.dtype == np.uint16 and _attribute_text(dataset, "dtype") == "bfloat16"
    bfloat16 = bfloat16 or (_is_small_float(dataset) and dataset.dtype.itemsize == 2)
    check = weight_values.all_finite_bfloat16 if bfloat16 else weight_values.all_finite
    if not bfloat16 and dataset.dtype.kind not in "fc":
        return
    try:
        pieces = _pieces(dataset, raw, np.dtype("<u2") if bfloat16 else dataset.dtype)
        finite = all(check(piece) for piece in pieces)
    except EOFError as error:
        raise _damaged(error) from error
    if not finite:
        yield refusals.broken(
            array.path,
            f"{_shown(array.path)} holds NaN or infinite weights, so every prediction would be "
            "NaN.",
            advice="Use a checkpoint from before the training diverged.",
        )


def _is_small_float(dataset: h5py.Dataset) -> bool:
    # bfloat16 and float8, which NumPy does not have, are stored as opaque bytes.
    dtype = dataset.dtype
    return dtype.kind == "V" and dtype.names is None and dtype.itemsize <= 2 and not dtype.shape


def _pieces(dataset: h5py.Dataset, raw: typing.BinaryIO, dtype: np.dtype) -> Iterator[np.ndarray]:
    offset = dataset.id.get_offset()
    if dataset.chunks is not None:
        for chunk in dataset.iter_chunks():
            yield dataset[chunk].view(dtype)
    elif offset is not None:
        # h5py counts the offset from the start of the file, a user's block included.
        yield from weight_values.read_pieces(raw, offset, dataset.nbytes, dtype)
    elif dataset.size:
        yield np.asarray(dataset[()]).view(dtype)  # compact: at most 64 KiB, in the header


def _examine_model(
    file: h5py.File, arrays: list[StoredArray], *, custom_objects: bool | Sequence[str]
) -> Iterator[findings.Finding]:
    if "model_config" not in file.attrs:
        only = "layer_names" in file.attrs or any("vars" in file[name] for name in _groups(file))
        only = only or "layers" in file or "_layer_checkpoint_dependencies" in file
        message = "is an HDF5 file without a Keras model (no model_config attribute)."
        advice = "Expected a file written by model.save."
        if only:
            message = f"{refusals.WEIGHTS_ONLY}, without the layers they belong to."
            advice = (
                "Give them as --weights, and name the architecture: --model=keras:NAME, or a .json "
                "file of model.to_json()."
            )
        yield refusals.broken("", message, advice=advice)
        return
    if not isinstance(file.get("model_weights"), h5py.Group):
        yield refusals.broken(
            "", "has a model_config and no model_weights: its weights are missing."
        )
    config = json_text.parse(_attribute_text(file, "model_config"), what="its model_config")
    weights = [array for array in arrays if array.path.startswith("model_weights/")]
    size = sum(int(array.dataset.size) for array in weights)
    yield from keras_config.examine(config, custom_objects=custom_objects, stored_size=size)
    yield from _find_mismatches(config, weights)
    if "training_config" in file.attrs:
        text = _attribute_text(file, "training_config")
        training = json_text.parse(text, what="its training_config")
        yield from keras_config.examine_training(training)


def _find_mismatches(
    config: dict[str, typing.Any], weights: list[StoredArray]
) -> Iterator[findings.Finding]:
    kernels: dict[str, list[StoredArray]] = {}
    for array in weights:
        if array.path.rpartition("/")[2] in ("kernel", "kernel:0"):
            kernels.setdefault(array.path.split("/")[1], []).append(array)
    by_layer = {name: [array.shape for array in arrays] for name, arrays in kernels.items()}
    for name, expected in dense_shapes.find_mismatches(config, by_layer=by_layer):
        yield refusals.broken(
            name,
            f"layer '{findings.one_line(name)}' expects a kernel of shape "
            f"{_shape_text(expected)} and the file stores {_shape_text(by_layer[name][0])}.",
        )


def _shape_text(shape: typing.Iterable[typing.Any]) -> str:
    return " x ".join("?" if side is None else findings.one_line(side) for side in shape)


def _groups(file: h5py.File) -> list[str]:
    return [name for name in file if isinstance(file.get(name), h5py.Group)]


def _attribute_text(item: typing.Any, name: str) -> str:
    value = item.attrs.get(name, "")
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _shown(path: str) -> str:
    return f"'{findings.one_line(path)}'" if path else "the file"


def _too_many() -> findings.Finding:
    return refusals.outside(
        "",
        f"has more than {_MAX_OBJECTS:,} objects or {_MAX_ATTRIBUTES:,} attributes, or groups more "
        f"than {_MAX_DEPTH} deep, which no model needs. It is hostile.",
    )


def _damaged(error: Exception) -> refusals.BrokenFileError:
    text = findings.one_line(str(error).split("\n", 1)[0])[:200].strip("'\". ")
    sizes = _TRUNCATED.search(text)
    if sizes:
        size, stated = (int(number) for number in sizes.groups())
        message = f"the HDF5 file is truncated: its header says {stated:,} bytes, it has {size:,}."
        return refusals.BrokenFileError(refusals.broken("", message))
    return refusals.BrokenFileError(refusals.broken("", f"the HDF5 file is damaged: {text}."))
