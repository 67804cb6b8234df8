""".keras archives in which two readers would see two contents, or one too much."""

import io
import json
import struct
import zipfile

import h5py
import numpy as np
import pytest

from tf_finetune.trust import refusals, zip_file

AGAIN = " Copy or download it again."
TWO = "so two readers could see two contents. Save the model again."
CONFIG = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "m",
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "i", "batch_shape": [None, 3]}},
            {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d", "units": 4}},
        ],
    },
    "compile_config": {"loss": "mse"},
}


def weights(value=1.0, rows=3):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["layers/dense/vars/0"] = np.full((rows, 4), value, "f4")
    return stream.getvalue()


def members(**changes):
    parts = {
        "metadata.json": json.dumps({"keras_version": "3.15.1"}),
        "config.json": json.dumps(CONFIG),
        "model.weights.h5": weights(),
    }
    parts.update(changes)
    return {name: content for name, content in parts.items() if content is not None}


def write(path, parts, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return str(path)


def examine(path):
    try:
        return [(item.kind, item.message) for item in zip_file.examine(path)]
    except refusals.BrokenFileError as error:
        return [(error.finding.kind, error.finding.message)]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_good_archives(tmp_path, compression):
    parts = members(**{"assets/": "", "assets/_layer/vocabulary.txt": "../../etc/passwd\n"})
    assert examine(write(tmp_path / "m.keras", parts, compression=compression)) == []


def changed(text, **config):
    value = json.loads(text)
    value["config"].update(config)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        (
            members(**{"model.weights.h5": None}),
            "broken",
            "is a zip archive without model.weights.h5. Expected a .keras file written by "
            "model.save.",
        ),
        (
            members(**{"../escaped.txt": "x"}),
            "file",
            "member '../escaped.txt' leads out of the archive's folder. The archive is not opened.",
        ),
        (
            members(**{"/etc/x": "x"}),
            "file",
            "member '/etc/x' leads out of the archive's folder. The archive is not opened.",
        ),
        (
            members(**{"assets/..\\x": "x"}),
            "file",
            "member 'assets/..\\x' leads out of the archive's folder. The archive is not opened.",
        ),
        (
            members(**{"CONFIG.json": "{}"}),
            "file",
            "member 'CONFIG.json' comes twice in the archive, so two readers could see two "
            "contents. Pack the model again.",
        ),
        (
            members(**{"extra.py": "x"}),
            "file",
            "member 'extra.py' is none that Keras writes. Save the model again.",
        ),
        (
            members(**{"config.json": "{"}),
            "broken",
            "config.json is not JSON." + AGAIN,
        ),
        (
            members(**{"metadata.json": "{}"}),
            "broken",
            "metadata.json names no keras_version." + AGAIN,
        ),
        (
            members(**{"model.weights.h5": weights(np.nan)}),
            "broken",
            "'layers/dense/vars/0' holds NaN or infinite weights, so every prediction would be "
            "NaN. Use a checkpoint from before the training diverged.",
        ),
        (
            members(**{"model.weights.h5": weights(rows=2)}),
            "broken",
            "layer 'd' expects a kernel of shape 3 x 4 and model.weights.h5 has none." + AGAIN,
        ),
        (
            members(**{"assets/saved_model.pb": b"\xff"}),
            "broken",
            "saved_model.pb is truncated or damaged." + AGAIN,
        ),
    ],
)
def test_what_is_refused(tmp_path, parts, kind, message):
    assert examine(write(tmp_path / "m.keras", parts)) == [(kind, message)]


def test_a_bomb_is_not_unpacked(tmp_path):
    parts = members(**{"config.json": " " * 40_000_000})
    found = examine(write(tmp_path / "m.keras", parts, compression=zipfile.ZIP_DEFLATED))
    assert found[0][1].startswith("member 'config.json' unpacks from 38,")


def patched(path, old, new, *, last):
    data = bytearray(path.read_bytes())
    at = data.rindex(old) if last else data.index(old)
    data[at : at + len(old)] = new
    path.write_bytes(data)
    return str(path)


def test_the_two_descriptions_of_a_member_must_agree(tmp_path):
    path = tmp_path / "m.keras"
    write(path, members())
    message = f"member 'config.json' is described in two ways, {TWO}"
    found = examine(patched(path, b"config.json", b"confi1.json", last=False))
    assert found == [("file", message)]


def test_a_stored_member_is_as_long_as_it_is_packed(tmp_path):
    path = tmp_path / "m.keras"
    write(path, members())
    size = len(members()["model.weights.h5"])
    # Packed and unpacked size, as both descriptions have them: the window behind the member grows.
    sizes, longer = struct.pack("<2I", size, size), struct.pack("<2I", size, size + 8)
    patched(path, sizes, longer, last=False)
    found = examine(patched(path, sizes, longer, last=True))
    assert found == [("file", f"member 'model.weights.h5' is described in two ways, {TWO}")]


def test_nothing_hides_around_the_members(tmp_path):
    path = tmp_path / "m.keras"
    write(path, members())
    message = f"the archive holds bytes before, between or behind its members, {TWO}"
    whole = path.read_bytes()
    path.write_bytes(whole + b"PK" * 100)
    assert [kind for kind, _ in examine(str(path))] in (["file"], ["broken"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"x" * 50
        for name, content in members().items():
            archive.writestr(name, content)
    assert examine(str(path)) == [("file", message)]
    path.write_bytes(b"#!/bin/sh\n" + whole)
    assert examine(str(path)) == [("file", message)]


def test_encrypted_links_and_odd_methods(tmp_path):
    path = tmp_path / "m.keras"
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert examine(str(path)) == [
        ("file", "member 'assets/link' is a link. Only regular files are read.")
    ]
    write(path, members(), compression=zipfile.ZIP_BZIP2)
    assert examine(str(path))[0][1] == (
        "member 'metadata.json' is packed by method 12. Expected stored or deflated."
    )


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "m.keras"
    write(path, members())
    found = examine(patched(path, b"\x00\x00\x80?", b"\x00\x00\x81?", last=True))
    assert found == [
        (
            "broken",
            "the .keras archive is truncated or damaged: Bad CRC-32 for file 'model.weights.h5'."
            + AGAIN,
        )
    ]


def test_a_cut_archive(tmp_path):
    path = tmp_path / "m.keras"
    write(path, members())
    path.write_bytes(path.read_bytes()[:2000])
    message = "the .keras archive is truncated or damaged: File is not a zip file." + AGAIN
    assert examine(str(path)) == [("broken", message)]


def test_a_zip_of_a_saved_model_is_told_what_to_pack_instead(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("module/saved_model.pb", b"x")
        archive.writestr("module/fingerprint.pb", b"x")
    (finding,) = zip_file.examine(str(path))
    assert finding.message == (
        "is a zip archive of a SavedModel. Unpack it and name the folder, or pack that as .tar or "
        ".tar.gz."
    )
