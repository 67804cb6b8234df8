import os
import struct
import zipfile

import numpy as np
import pytest

from tf_finetune import checkpoints, workdir


def arrays(value=0.0):
    return {
        "model/0": np.full((3, 4), value, "f4"),
        "model/1": np.array([True, False]),
        "optimizer/0": np.array(7, "i8"),
        "seeds/0": np.array([1, 2**31], "u4"),
        "empty": np.zeros((0, 2), "f4"),
    }


def write(folder, value, keep=2):
    return checkpoints.write(str(folder), {"epoch": value}, arrays(value), keep=keep)


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    state = {"rows": [{"loss": 0.1 + 0.2, "phase": "é"}], "best": float("nan"), "none": None}
    number = checkpoints.write(str(tmp_path / "c"), state, arrays(1.5), keep=1)
    found, problems = checkpoints.read_newest(str(tmp_path / "c"))
    assert (number, found.number, problems) == (1, 1, ())
    assert found.state["rows"] == state["rows"]
    assert found.state["best"] != found.state["best"] and found.state["none"] is None
    assert list(found.arrays) == list(arrays())
    for name, array in arrays(1.5).items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_the_oldest_go_and_numbers_are_never_used_again(tmp_path):
    assert [write(tmp_path, value, keep=2) for value in range(4)] == [1, 2, 3, 4]
    assert sorted(os.listdir(tmp_path)) == ["00000003.npz", "00000004.npz"]
    assert checkpoints.read_newest(str(tmp_path))[0].state == {"epoch": 3}


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints.remove_unfinished(str(tmp_path / "file"))
    assert checkpoints.read_newest(str(tmp_path / "file")) == (None, ())


def test_without_a_checkpoint(tmp_path):
    assert checkpoints.read_newest(str(tmp_path / "none")) == (None, ())
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "1.npz").write_text("")
    assert checkpoints.list_numbers(str(tmp_path)) == []


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    at = data.index(struct.pack("<f", 5.0) * 2)
    return data[:at] + b"\xff" + data[at + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b""])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, damage):
    write(tmp_path, 4.0)
    write(tmp_path, 5.0)
    path = tmp_path / "00000002.npz"
    path.write_bytes(damage(path.read_bytes()))
    found, (problem,) = checkpoints.read_newest(str(tmp_path))
    assert found.state == {"epoch": 4.0}
    assert problem.message.startswith(f"{path} is damaged (")
    assert problem.message.endswith("). It is not used.")
    # The next number is behind the damaged one, so that it is the newest.
    assert write(tmp_path, 6.0) == 3
    assert checkpoints.read_newest(str(tmp_path))[0].state == {"epoch": 6.0}


def test_what_carries_code_or_is_packed_is_damaged(tmp_path):
    path = tmp_path / "00000001.npz"
    with open(path, "wb") as file:
        np.savez(file, a=np.array([{}], object))
    found, (problem,) = checkpoints.read_newest(str(tmp_path))
    assert found is None and "state.json" in problem.message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("state.json", "{}")
        with archive.open("a.npy", "w") as member:
            np.lib.format.write_array(member, np.array([{}], object))
    assert checkpoints.read_newest(str(tmp_path))[0] is None
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.json", "{}")
    (problem,) = checkpoints.read_newest(str(tmp_path))[1]
    assert "a member is packed" in problem.message


def test_a_type_that_numpy_does_not_have_is_refused_before_anything_is_written(tmp_path):
    write(tmp_path, 1.0)
    with pytest.raises(TypeError, match=r"x: expected numbers\. Received object\."):
        checkpoints.write(str(tmp_path), {}, {"x": np.array([{}], object)}, keep=1)
    assert os.listdir(tmp_path) == ["00000001.npz"]


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1.0, keep=1)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir, "sync_path", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2.0, keep=1)
    assert os.listdir(tmp_path) == ["00000001.npz"]


def test_a_run_that_has_ended_keeps_none(tmp_path):
    write(tmp_path, 1.0)
    (tmp_path / "notes.txt").write_text("the user's")
    checkpoints.remove_all(str(tmp_path))
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    write(tmp_path, 1.0)
    (tmp_path / ".0123abcd.00000002.npz").write_bytes(b"half")
    (tmp_path / ".0123abcd.notes.npz").write_bytes(b"the user's")
    checkpoints.remove_unfinished(str(tmp_path))
    checkpoints.remove_unfinished(str(tmp_path / "none"))
    assert sorted(os.listdir(tmp_path)) == [".0123abcd.notes.npz", "00000001.npz"]
