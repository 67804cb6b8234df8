"""Tar archives: members that reach outside, bombs, and what they hold."""

import gzip
import io
import os
import tarfile

import pytest

from tf_finetune.trust import archive_file, refusals

AGAIN = " Copy or download it again."
EXPECTED = "Expected one SavedModel folder, .h5 or .keras file in it."
ONLY = ", which could reach outside of the archive. Only regular files and folders are extracted."


def member(name, content=b"", **values):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in values.items():
        setattr(info, key, value)
    return info, content


def write(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def examine(path):
    try:
        return [(item.kind, item.message) for item in archive_file.examine(path)]
    except refusals.BrokenFileError as error:
        return [(error.finding.kind, error.finding.message)]


MODEL = member("model/weights.h5", os.urandom(5000))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_good_archives(tmp_path, mode):
    extra = [member(f"model/assets/{count}", b"x" * count) for count in range(300)]
    folder = member("model", type=tarfile.DIRTYPE)
    assert examine(write(tmp_path / "m.tar", folder, MODEL, *extra, mode=mode)) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            member("../escaped.txt"),
            "member '../escaped.txt' leads out of the archive's folder. The archive is not opened.",
        ),
        (
            member("/etc/x"),
            "member '/etc/x' leads out of the archive's folder. The archive is not opened.",
        ),
        (
            member("d", type=tarfile.SYMTYPE, linkname="/etc"),
            "member 'd' is a symbolic link" + ONLY,
        ),
        (
            member("d", type=tarfile.LNKTYPE, linkname="../x"),
            "member 'd' is a hard link" + ONLY,
        ),
        (member("d", type=tarfile.FIFOTYPE), "member 'd' is a named pipe" + ONLY),
        (member("d", type=tarfile.CHRTYPE), "member 'd' is a device" + ONLY),
        (
            member("d", b"x", mode=0o4755),
            "member 'd' would run with another user's rights. The archive is not opened.",
        ),
        (
            member("model/Weights.h5"),
            "member 'model/Weights.h5' comes twice in the archive, so two readers could see two "
            "contents. Pack the model again.",
        ),
        (
            member("a\x1b[2J"),
            r"member 'a\x1b[2J' has control characters in its name. The archive is not opened.",
        ),
    ],
)
def test_members_that_are_refused(tmp_path, bad, message):
    assert examine(write(tmp_path / "m.tar.gz", MODEL, bad)) == [("file", message)]


def test_a_bomb_is_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "m.tar.gz", "wb", compresslevel=1) as file:
        info = tarfile.TarInfo("model.h5")
        info.size = 2**40
        file.write(info.tobuf())
        file.write(bytes(2**20))
    ((kind, message),) = examine(str(tmp_path / "m.tar.gz"))
    assert kind == "file"
    assert message.startswith("the archive unpacks to more than 67,108,864 bytes, 100 times")


def test_a_lying_gzip_stream_is_stopped(tmp_path):
    with gzip.open(tmp_path / "m.tar.gz", "wb", compresslevel=1) as file:
        file.write(tarfile.TarInfo("a").tobuf())
        for _ in range(70):
            file.write(bytes(2**20))
    assert examine(str(tmp_path / "m.tar.gz"))[0][0] == "file"


@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_a_cut_archive(tmp_path, part):
    path = write(tmp_path / "m.tar.gz", MODEL)
    os.truncate(path, int(os.path.getsize(path) * part))
    ((kind, message),) = examine(path)
    assert kind == "broken"
    assert message.startswith("the archive is truncated or damaged: ")


def test_one_model_is_expected(tmp_path):
    assert examine(write(tmp_path / "a.tar", member("readme.txt", b"x"))) == [
        ("broken", f"the archive holds no model. {EXPECTED}")
    ]
    two = [member("a/saved_model.pb"), member("b/saved_model.pb")]
    found = examine(write(tmp_path / "b.tar", *two))
    assert found[0] == ("file", f"the archive holds 2 models: 'a', 'b'. {EXPECTED}")


def test_the_graph_inside_is_examined(tmp_path):
    path = write(tmp_path / "a.tar", member("m/saved_model.pb", b"\xff\xff"))
    assert examine(path) == [("broken", "saved_model.pb is truncated or damaged." + AGAIN)]
