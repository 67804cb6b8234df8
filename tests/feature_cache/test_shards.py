import fcntl
import os
import pathlib
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tf_finetune.feature_cache import shards

LAYOUT = shards.Layout({"features_0": (3, 2), "features_1": ()}, {
    "features_0": "float32", "features_1": "bfloat16",
})  # fmt: skip


def make_rows(count=5, *, seed=0):
    generator = np.random.default_rng(seed)
    digests = generator.integers(0, 256, (count, 16), np.uint8)
    arrays = {
        "features_0": generator.normal(size=(count, 3, 2)).astype(np.float32),
        "features_1": generator.normal(size=count).astype(ml_dtypes.bfloat16),
    }
    return digests, arrays


def write(folder, *, seed=0):
    digests, arrays = make_rows(seed=seed)
    return shards.write_shard(str(folder), digests, arrays, LAYOUT)


def test_what_is_written_is_found(tmp_path):
    written = [write(tmp_path, seed=seed) for seed in range(3)]
    found, damaged = shards.find_shards(str(tmp_path), LAYOUT)
    assert damaged == []
    assert sorted(shard.path for shard in found) == sorted(shard.path for shard in written)
    assert LAYOUT.row_bytes == 6 * 4 + 2
    for seed, shard in enumerate(written):
        digests, arrays = make_rows(seed=seed)
        (again,) = [one for one in found if one.path == shard.path]
        np.testing.assert_array_equal(again.digests, digests)
        assert again.offsets == shard.offsets
        content = pathlib.Path(shard.path).read_bytes()
        for name, array in arrays.items():
            start = shard.offsets[name]
            assert content[start : start + array.nbytes] == array.tobytes()
    assert all(path.suffix == ".shard" for path in tmp_path.iterdir())


def places(content, shard):
    header = 16 + int.from_bytes(content[8:16], "little")
    return {
        "magic": 0,
        "length": 8,
        "length, high": 15,
        "header, first": 16,
        "header, count": content.index(b'"count": ') + 9,
        "header, checksum": content.index(b'"digests": ') + 11,
        "header, name": content.index(b"features_1"),
        "header, last": header - 1,
        "digests, first": header,
        "digests, last": shard.offsets["features_0"] - 1,
        "array, first": shard.offsets["features_0"],
        "array, second": shard.offsets["features_1"],
        "last": len(content) - 1,
    }


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path):
    shard = write(tmp_path)
    content = pathlib.Path(shard.path).read_bytes()
    for place, position in places(content, shard).items():
        for bits in (0x01, 0x80):
            changed = bytearray(content)
            changed[position] ^= bits
            pathlib.Path(shard.path).write_bytes(bytes(changed))
            found, damaged = shards.find_shards(str(tmp_path), LAYOUT)
            assert (found, damaged) == ([], [os.path.basename(shard.path)]), place
            assert list(tmp_path.iterdir()) == []
    pathlib.Path(shard.path).write_bytes(content)
    assert len(shards.find_shards(str(tmp_path), LAYOUT)[0]) == 1


def header_of(text):
    return b"tfftfeat" + len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"tfftfeat",
        random.Random(0).randbytes(4096),
        bytes(4096),
        header_of(b""),
        header_of(b"null"),
        header_of(b"[]"),
        header_of(b"{}"),
        header_of(b"[" * 100_000),
        header_of(b"\xff\xfe"),
        header_of(b'{"count": Infinity, "arrays": {}, "digests": 0}'),
        header_of(b'{"count": NaN, "arrays": {}, "digests": 0}'),
        header_of(b'{"count": -1, "arrays": {"features_0": 0, "features_1": 0}, "digests": 0}'),
        header_of(b'{"count": 1e300, "arrays": {"features_0": 0}, "digests": 0}'),
        header_of(b'{"count": 0, "arrays": 7, "digests": 0}'),
        b"tfftfeat" + b"\xff" * 8,
    ],
    ids=lambda content: f"{len(content)}-{content[16:40]!r}",
)
def test_garbage_is_noticed(tmp_path, content):
    (tmp_path / "0123456789abcdef.shard").write_bytes(content)
    assert shards.find_shards(str(tmp_path), LAYOUT) == ([], ["0123456789abcdef.shard"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_off_or_too_long_is_noticed(tmp_path):
    shard = write(tmp_path)
    content = pathlib.Path(shard.path).read_bytes()
    for size in (*range(0, len(content), 13), len(content) - 1):
        pathlib.Path(shard.path).write_bytes(content[:size])
        assert shards.find_shards(str(tmp_path), LAYOUT)[0] == []
    pathlib.Path(shard.path).write_bytes(content + b"\0")
    assert shards.find_shards(str(tmp_path), LAYOUT)[0] == []


def test_a_shard_of_another_layout_is_noticed(tmp_path):
    write(tmp_path)
    other = shards.Layout({"features_0": (3, 3), "features_1": ()}, LAYOUT.dtypes)
    assert len(shards.find_shards(str(tmp_path), other)[1]) == 1


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "0123456789abcdef.shard")
    found, damaged = shards.find_shards(str(tmp_path), LAYOUT)
    assert (found, damaged) == ([], ["0123456789abcdef.shard"])


def test_other_files_are_left_alone(tmp_path):
    for name in ("about.json", "lock", "notes.txt", "0123.shard", "x.tmp"):
        (tmp_path / name).write_text("mine")
    assert shards.find_shards(str(tmp_path), LAYOUT) == ([], [])
    assert len(list(tmp_path.iterdir())) == 5


def test_what_a_dead_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    dead, live = tmp_path / f"{'d' * 16}.tmp", tmp_path / f"{'a' * 16}.tmp"
    code = (
        "import fcntl, os, signal, sys\n"
        "file = open(sys.argv[1], 'xb'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(dead)], check=False).returncode == -9
    assert dead.read_bytes() == b"half"
    with open(live, "xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert shards.find_shards(str(tmp_path), LAYOUT) == ([], [])
        assert [path.name for path in tmp_path.iterdir()] == [live.name]
    shards.find_shards(str(tmp_path), LAYOUT)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
import numpy as np
from tf_finetune.feature_cache import shards, store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
layout = shards.Layout({"features_0": (100,)}, {"features_0": "float32"})
lines = []
features = store.FeatureStore(layout, folder=sys.argv[1], announce=lines.append)
digests = np.arange(1000 * 16, dtype=np.uint16).view(np.uint8)[:16000].reshape(1000, 16)
values = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float32)
for start in (0, 100, 600):
    part = slice(start, {0: 100, 100: 600, 600: 1000}[start])
    features.add(digests[part], {"features_0": values[part]})
    features.flush()
assert not features.is_kept
assert len(lines) == 1, lines
assert not len(features.find_missing(digests))
np.testing.assert_array_equal(features.read(digests)["features_0"], values)
read = features.make_reader(digests)
np.testing.assert_array_equal(read(np.array([5, 999, 100]))[0], values[[5, 999, 100]])
print(lines[0])
"""


def test_a_full_disk_moves_the_rest_into_memory(tmp_path):
    # A limit on the size of files stands in for a full disk: write fails half-way just the same.
    process = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == (
        "Warning: features cannot be kept on the disk (File too large): from here on they stay in "
        "memory, and the next run computes them again.\n"
    )
    (kept,) = tmp_path.iterdir()
    layout = shards.Layout({"features_0": (100,)}, {"features_0": "float32"})
    ((shard,), damaged) = shards.find_shards(str(tmp_path), layout)
    assert (shard.path, len(shard.digests), damaged) == (str(kept), 100, [])
