import errno
import os

import pytest
import tensorflow as tf

from tests import small_disk
from tf_finetune import disk_room, findings


def test_python_and_tensorflow_tell_the_same(tmp_path):
    path = str(tmp_path / "file")
    with small_disk.limited(1000):
        with (
            pytest.raises(disk_room.FullDiskError) as caught,
            disk_room.naming(path, num_bytes=5000),
            open(path, "wb", buffering=0) as file,
        ):
            while True:
                file.write(bytes(5000))
        assert str(caught.value) == f"[Errno 27] File too large, 5.0 kB wanted: '{path}'"
        with (
            pytest.raises(disk_room.FullDiskError) as caught,
            disk_room.naming(path),
            tf.io.gfile.GFile(path, "wb") as file,
        ):
            file.write(bytes(5000))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, path)


def test_how_much_is_free_is_said_and_the_innermost_name_counts(tmp_path):
    inner = str(tmp_path / "missing" / "file")
    with (
        pytest.raises(disk_room.FullDiskError) as caught,
        disk_room.naming(""),
        disk_room.naming(inner),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    free = disk_room.format_bytes(disk_room.find_free_bytes(inner))
    assert caught.value.strerror.startswith("No space left on device, ")
    assert caught.value.strerror.endswith(f"{free[-2:]} free")
    assert caught.value.filename == inner
    with pytest.raises(disk_room.FullDiskError) as caught, disk_room.naming(""):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.strerror == "No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "No such file or directory"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        findings.RefusedError(findings.Problem("x: No space left on device.")),
    ],
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, disk_room.naming("file"):
        raise error
    assert caught.value is error


def test_sizes_for_people():
    found = [disk_room.format_bytes(count) for count in (0, 999, 1500, 2_340_000, 5 * 10**9)]
    assert found == ["0 bytes", "999 bytes", "1.5 kB", "2.3 MB", "5.0 GB"]


def test_what_is_about_a_place():
    assert disk_room.is_unwritable(OSError(errno.EROFS, ""))
    assert not disk_room.is_unwritable(OSError(errno.ENOENT, ""))
