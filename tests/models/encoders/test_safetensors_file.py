import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from tf_finetune import findings
from tf_finetune.models.encoders import safetensors_file


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_values_are_those_of_the_safetensors_library(tmp_path):
    draw = np.random.default_rng(0)
    tensors = {
        "single": draw.normal(size=(3, 4)).astype(np.float32),
        "half": draw.normal(size=5).astype(np.float16),
        "double": draw.normal(size=(2, 1, 2)),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(7, np.float32),
    }
    path = str(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    header = safetensors_file.read_header(path)
    assert sorted(header) == sorted(tensors)
    for name, expected in tensors.items():
        values = safetensors_file.read_tensor(path, header[name])
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    expected = np.array([1.0, -2.5, 3.140625, 1e-38, np.inf], np.float32)
    data = (expected.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write(tmp_path / "m", {"w": entry("BF16", (5,), (0, 10))}, data)
    values = safetensors_file.read_tensor(path, safetensors_file.read_header(path)["w"])
    rounded = (expected.view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(values, rounded)


DAMAGED = {
    "header": (b"{", "its header is not JSON"),
    "list": (b"[]", "its header is not a table of tensors"),
    "field": ({"w": {"dtype": "F32"}}, "its header does not describe 'w'"),
    "shape": ({"w": entry(shape=(-2,))}, "its header does not describe 'w'"),
    "offsets": ({"w": entry(offsets=(0, 9))}, "'w' ends behind the end of the file"),
    "order": ({"w": entry(offsets=(8, 0))}, "'w' ends behind the end of the file"),
    "size": ({"w": entry(shape=(3,))}, "'w' has another length than its shape (3,)"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_headers(tmp_path, name):
    header, reason = DAMAGED[name]
    path = write(tmp_path / "m.safetensors", header, bytes(8))
    with pytest.raises(findings.RefusedError) as refused:
        safetensors_file.read_header(path)
    assert str(refused.value) == (
        f"{path}: is no whole .safetensors file: {reason}. Copy or download it again."
    )


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xff" * 8, b"\x09" + bytes(7) + b"{}"])
def test_files_that_end_early(tmp_path, data):
    path = tmp_path / "m"
    path.write_bytes(data)
    with pytest.raises(findings.RefusedError, match=r"its header is longer than the file\. Copy"):
        safetensors_file.read_header(str(path))


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(findings.RefusedError) as refused:
        safetensors_file.read_header(str(path))
    assert str(refused.value) == (
        f"{path}: is a Git LFS pointer, not the model itself: run 'git lfs pull'."
    )


def test_quantized_weights_and_unknown_types_are_refused_when_read(tmp_path):
    path = write(tmp_path / "m", {"a": entry("I8", (8,)), "b": entry("F4", (16,))}, bytes(8))
    header = safetensors_file.read_header(path)
    for name, kind in (("a", "I8"), ("b", "F4")):
        with pytest.raises(findings.RefusedError) as refused:
            safetensors_file.read_tensor(path, header[name])
        assert str(refused.value) == (
            f"{path}: a weight is stored as {kind}. Expected F32, F16 or BF16: save the model "
            "again without quantization."
        )


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(findings.RefusedError, match="cannot be read: No such file or directory"):
        safetensors_file.read_header(str(tmp_path / "none"))
