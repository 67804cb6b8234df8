"""HDF5 files that point, declare, hide or hold what a model does not."""

import json
import os

import h5py
import numpy as np
import pytest

from tf_finetune.trust import hdf5_file, refusals

KERNEL = "model_weights/dense/dense/kernel"
AGAIN = " Copy or download it again."


def config(units=4):
    layers = [
        {"class_name": "InputLayer", "config": {"name": "input", "batch_shape": [None, 3]}},
        {"class_name": "Dense", "config": {"name": "dense", "units": units}},
    ]
    return {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}


def write(path, change=None, **options):
    with h5py.File(path, "w", **options) as file:
        file.attrs["model_config"] = json.dumps(config())
        file.attrs["keras_version"] = "3.15.1"
        group = file.create_group("model_weights/dense/dense")
        group["kernel"] = np.ones((3, 4), "f4")
        group["bias"] = np.zeros(4, "f4")
        if change is not None:
            change(file, group)
    return str(path)


def examine(path, **options):
    try:
        return [(item.kind, item.message) for item in hdf5_file.examine(path, **options)]
    except refusals.BrokenFileError as error:
        return [(error.finding.kind, error.finding.message)]


def replace(group, **options):
    del group["kernel"]
    return group.create_dataset("kernel", (3, 4), **{"dtype": "f4", **options})


def compressed(file, group):
    replace(
        group,
        data=np.ones((3, 4)),
        chunks=(3, 2),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
    )


def bfloat16(file, group):
    dataset = replace(group, dtype="u2", data=np.full((3, 4), 0x3F80, "u2"))
    dataset.attrs["dtype"] = "bfloat16"


def cycle(file, group):
    group["again"] = group


def compact(file, group):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((2,))
    identifier = h5py.h5d.create(group.id, b"more", h5py.h5t.IEEE_F32LE, space, plan)
    identifier.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(2, "f4"))


@pytest.mark.parametrize("change", [None, compressed, bfloat16, cycle, compact])
def test_good_files(tmp_path, change):
    assert examine(write(tmp_path / "good.h5", change)) == []


def test_a_users_block_in_front(tmp_path):
    path = write(tmp_path / "block.h5", userblock_size=512)
    assert examine(path) == []

    def bad(file, group):
        group["kernel"][1, 1] = np.inf

    assert [kind for kind, _ in examine(write(tmp_path / "b.h5", bad, userblock_size=512))] == [
        "broken"
    ]


def external_link(file, group):
    del group["kernel"]
    group["kernel"] = h5py.ExternalLink("/etc/other.h5", "x")


def soft_link(file, group):
    group["loop"] = h5py.SoftLink("/model_weights")


def external_storage(file, group):
    replace(group, external=[("/etc/passwd", 0, 48)])


def virtual(file, group):
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (3, 4))
    del group["kernel"]
    group.create_virtual_dataset("kernel", layout)


def other_filter(file, group):
    replace(group, data=np.ones((3, 4)), chunks=(3, 4), scaleoffset=4)


def huge(file, group):
    del group["kernel"]
    group.create_dataset("kernel", (10**6, 10**6), "f4")


def chunk_bomb(file, group):
    del group["kernel"]
    group.create_dataset("kernel", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")


def big_chunks(file, group):
    del group["kernel"]
    group.create_dataset("kernel", (8, 8), "f4", chunks=(2**13, 2**12), maxshape=(None, None))


def texts(file, group):
    replace(group, dtype=h5py.string_dtype())


def references(file, group):
    replace(group, dtype=h5py.ref_dtype)


def reference_attribute(file, group):
    group.attrs["other"] = group["bias"].ref


def control_characters(file, group):
    group["a\x1b[2J"] = np.ones(1)


def not_a_number(file, group):
    group["kernel"][1, 2] = np.nan


def infinite_bfloat16(file, group):
    bfloat16(file, group)
    group["kernel"][0, 0] = 0x7F80


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (external_link, "file", f"'{KERNEL}' is a link to another file, which Keras never writes"),
        (soft_link, "file", "'model_weights/dense/dense/loop' is a link, which Keras never writes"),
        (external_storage, "file", f"'{KERNEL}' keeps its values in another file, which could be"),
        (virtual, "file", f"'{KERNEL}' is put together from other files, which could be any of"),
        (other_filter, "file", f"'{KERNEL}' needs the HDF5 filter 6. Expected gzip, lzf, shuffle"),
        (huge, "file", f"'{KERNEL}' declares 4,000,000,000,000 bytes and stores 0: loading it"),
        (chunk_bomb, "file", f"'{KERNEL}' declares 4,000,000,000,000 bytes and stores 0: loading"),
        (big_chunks, "file", f"'{KERNEL}' is stored in chunks of 134,217,728 bytes."),
        (texts, "broken", f"'{KERNEL}' holds texts or records. Expected numbers."),
        (references, "file", f"'{KERNEL}' refers to other objects, as Keras never does."),
        (reference_attribute, "file", "attribute 'other' of 'model_weights/dense/dense' refers to"),
        (
            control_characters,
            "file",
            r"the name 'model_weights/dense/dense/a\x1b[2J' holds control",
        ),
        (not_a_number, "broken", f"'{KERNEL}' holds NaN or infinite weights, so every prediction"),
        (
            infinite_bfloat16,
            "broken",
            f"'{KERNEL}' holds NaN or infinite weights, so every predict",
        ),
    ],
)
def test_what_is_refused(tmp_path, change, kind, message):
    found = examine(write(tmp_path / "bad.h5", change))
    assert found[0][0] == kind
    assert found[0][1].startswith(message)


def test_a_link_is_never_followed(tmp_path, monkeypatch):
    other = write(tmp_path / "other.h5")

    def link(file, group):
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink(other, "/model_weights")

    path = write(tmp_path / "bad.h5", link)
    before = os.stat(other).st_atime_ns
    assert [kind for kind, _ in examine(path)] == ["file"]
    assert os.stat(other).st_atime_ns == before


def test_parts_that_are_missing(tmp_path):
    def no_weights(file, group):
        del file["model_weights"]

    assert examine(write(tmp_path / "a.h5", no_weights)) == [
        ("broken", "has a model_config and no model_weights: its weights are missing." + AGAIN)
    ]

    def weights_only(file, group):
        del file.attrs["model_config"]
        file.attrs["layer_names"] = ["dense"]

    path = write(tmp_path / "b.h5", weights_only)
    expected = (
        "holds weights only, without the layers they belong to. Give them as --weights, and name "
        "the architecture: --model=keras:NAME, or a .json file of model.to_json()."
    )
    assert examine(path) == [("broken", expected)]
    assert examine(path, role=hdf5_file.WEIGHTS) == []

    def nothing(file, group):
        del file.attrs["model_config"], file["model_weights"]

    assert examine(write(tmp_path / "c.h5", nothing)) == [
        (
            "broken",
            "is an HDF5 file without a Keras model (no model_config attribute). Expected a file "
            "written by model.save.",
        )
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (2, "layer 'dense' expects a kernel of shape 3 x 4 and the file stores 2 x 4." + AGAIN),
        (3, ""),
    ],
)
def test_a_kernel_of_another_shape(tmp_path, rows, message):
    def change(file, group):
        del group["kernel"]
        group["kernel"] = np.ones((rows, 4), "f4")

    found = examine(write(tmp_path / "m.h5", change))
    assert found == ([("broken", message)] if message else [])


def test_code_in_the_training_configuration(tmp_path):
    def change(file, group):
        loss = {"class_name": "__lambda__", "config": {}}
        file.attrs["training_config"] = json.dumps({"loss": loss})

    assert [kind for kind, _ in examine(write(tmp_path / "m.h5", change))] == ["code"]


def test_overlapping_arrays_are_a_bomb(tmp_path):
    path = write(
        tmp_path / "m.h5", lambda file, group: group.create_dataset("big", data=np.ones(10**5))
    )
    with open(path, "r+b") as file:
        file.truncate(10**5)
    assert [kind for kind, _ in examine(path)] == ["broken"]
