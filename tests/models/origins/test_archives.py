import gzip
import io
import os
import stat
import tarfile

import pytest

from tests import hub_server
from tf_finetune import findings
from tf_finetune.models.origins import archives
from tf_finetune.trust import member_rules

MODEL = ("saved_model.pb", b"model")


def extract(content: bytes, tmp_path) -> str:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    folder = tmp_path / "out"
    folder.mkdir()
    archives.extract(str(path), str(folder), where="model.tar.gz")
    return str(folder)


def refusal(content: bytes, tmp_path) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        extract(content, tmp_path)
    message = str(caught.value)
    assert message.startswith("model.tar.gz: ")
    return message.removeprefix("model.tar.gz: ")


def with_member(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "./", "some/folder/"])
def test_regular_files_and_folders_come_out(tmp_path, mode, prefix):
    big = os.urandom(3 * 2**20)
    content = hub_server.make_archive(
        (f"{prefix}variables/", b""),
        (f"{prefix}saved_model.pb", b"model"),
        (f"{prefix}variables/data", big),
        (f"{prefix}{'deep/' * 30}{'n' * 120}", b""),
        mode=mode,
    )
    assert archives.is_archive(content[:262])
    folder = extract(content, tmp_path)
    model = archives.find_model(folder, where="model.tar.gz")
    assert model == os.path.normpath(os.path.join(folder, prefix))
    with open(os.path.join(model, "variables/data"), "rb") as file:
        assert file.read() == big
    assert os.path.getsize(os.path.join(model, "deep/" * 30, "n" * 120)) == 0


def test_modes_in_the_archive_are_not_taken_over(tmp_path):
    member = tarfile.TarInfo("tool")
    member.mode = 0o777
    folder = extract(with_member(member), tmp_path)
    assert stat.S_IMODE(os.stat(f"{folder}/tool").st_mode) & 0o6111 == 0


def test_a_file_with_another_users_rights_is_refused(tmp_path):
    member = tarfile.TarInfo("tool")
    member.mode = 0o4755
    assert refusal(with_member(member), tmp_path) == (
        "member 'tool' would run with another user's rights. The archive is not opened."
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (b"9", "of an unusual kind"),
    ],
)
def test_members_of_other_kinds_are_refused(tmp_path, kind, words):
    member = tarfile.TarInfo("a\x1b[31m")
    member.type, member.linkname = kind, "/etc/passwd"
    assert refusal(with_member(member), tmp_path) == (
        f"member 'a\\x1b[31m' is {words}, which could reach outside of the archive. Only regular "
        "files and folders are extracted."
    )
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/tmp/escaped", "a/.."])
def test_members_that_leave_the_folder_are_refused(tmp_path, name):
    content = hub_server.make_archive(MODEL, (name, b"x"))
    assert refusal(content, tmp_path) == (
        f"member '{name}' leads out of the archive's folder. The archive is not opened."
    )
    assert not (tmp_path / "escaped").exists()


def test_a_name_that_comes_twice_is_refused(tmp_path):
    content = hub_server.make_archive(MODEL, ("./saved_model.pb", b"other"))
    assert refusal(content, tmp_path) == (
        "member './saved_model.pb' comes twice in the archive, so two readers could see two "
        "contents. Pack the model again."
    )


def test_a_file_as_a_folder_is_refused(tmp_path):
    content = hub_server.make_archive(MODEL, ("saved_model.pb/x", b"other"))
    assert refusal(content, tmp_path).startswith("the archive cannot be extracted: ")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(member_rules, "MAX_MEMBERS", 3)
    content = hub_server.make_archive(*[(f"{number}", b"") for number in range(4)])
    assert refusal(content, tmp_path) == ("the archive has more than 3 members.")


def test_zeros_that_unpack_to_a_thousand_times_their_size_are_refused_unwritten(tmp_path):
    content = hub_server.make_archive(("zeros", bytes(70 * 2**20)))
    assert refusal(content, tmp_path) == (
        "the archive unpacks to more than 67,108,864 bytes, 100 times its own size or the most "
        "that is extracted. It is hostile, or no model."
    )
    assert os.listdir(tmp_path / "out") == []


def test_a_huge_extended_header_is_not_read_into_memory(tmp_path):
    member = tarfile.TarInfo("x")
    member.pax_headers = {"comment": "c" * 2**21}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    assert refusal(stream.getvalue(), tmp_path).startswith("the archive has a header of 2,097,")


def test_a_sparse_file_is_refused(tmp_path):
    member = tarfile.TarInfo("x")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**40),
        "GNU.sparse.name": "x",
    }
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"a".ljust(512, b"\0")
    member.size = len(data)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))
    assert "'x' is of an unusual kind" in refusal(stream.getvalue(), tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_a_truncated_archive_is_refused(tmp_path, mode, part):
    members = [(f"{number}", os.urandom(1024)) for number in range(50)]
    content = hub_server.make_archive(MODEL, *members, mode=mode)
    end = int(part * 51 * 1536) if mode == "w" else int(part * len(content))
    message = refusal(content[:end], tmp_path)
    assert message.startswith("the archive is truncated or damaged: ")
    assert message.endswith(" Copy or download it again.")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    content = bytearray(hub_server.make_archive(MODEL, ("a", b"1"), ("b", b"2"), mode="w"))
    content[1024:1100] = b"\xff" * 76
    assert refusal(bytes(content), tmp_path) == (
        "the archive is truncated or damaged: it ends without an end-of-archive block. Copy or "
        "download it again."
    )


def test_the_checksum_of_the_gzip_stream_counts(tmp_path):
    content = bytearray(hub_server.make_archive(MODEL))
    content[-8] ^= 1
    assert "the archive is truncated or damaged: CRC check failed " in refusal(
        bytes(content), tmp_path
    )


def test_a_gzipped_file_that_is_no_archive(tmp_path):
    message = refusal(gzip.compress(b"x" * 2000), tmp_path)
    assert message.startswith("the archive is truncated or damaged: ")


def find(tmp_path, *members: tuple[str, bytes]) -> str:
    folder = extract(hub_server.make_archive(*members), tmp_path)
    return os.path.relpath(archives.find_model(folder, where="m.tar"), folder)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (("saved_model.pb", "assets/a.h5", "assets.extra/saved_model.pb"), "."),
        (("m/tfhub_module.pb", "m/saved_model.pb", "README"), "m"),
        (("m/model.keras", "m/labels.txt"), "m/model.keras"),
        (("model.h5", "model.weights.h5"), "model.h5"),
        (("model.weights.h5", "data.npz"), "model.weights.h5"),
        (("p/config.json", "p/model.weights.h5", "p/tokenizer.json"), "p"),
    ],
)
def test_the_one_model_is_found(tmp_path, members, expected):
    content = {".h5": b"\x89HDF\r\n\x1a\n", ".keras": b"PK\x03\x04", ".npz": b"PK\x03\x04"}
    named = [(name, content.get(os.path.splitext(name)[1], b"x")) for name in members]
    assert find(tmp_path, *named) == expected


def test_no_model_and_two_models_are_refused(tmp_path):
    with pytest.raises(findings.RefusedError) as caught:
        find(tmp_path, ("README", b"x"))
    expected = "Expected one SavedModel folder, .h5 or .keras file in it."
    assert str(caught.value) == f"m.tar: holds no model. {expected}"
    (tmp_path / "two").mkdir()
    with pytest.raises(findings.RefusedError) as caught:
        find(tmp_path / "two", ("a/saved_model.pb", b"x"), ("b/saved_model.pb", b"x"))
    assert str(caught.value) == (
        f"m.tar: holds 2 models: 'a', 'b'. {expected} Extract it, and give --model one of them."
    )
