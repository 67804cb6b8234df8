import h5py
import numpy as np
import pytest

from tf_finetune import findings, specs
from tf_finetune.models import formats, hdf5


def _refusal(function, path) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        function(str(path))
    return str(caught.value)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_truncation_is_seen_in_every_superblock(tmp_path, libver):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["numbers"] = np.arange(1000)
    hdf5.check_size(str(path))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert _refusal(hdf5.check_size, path) == (
        f"{path}: the HDF5 file is truncated: its header says {len(content):,} bytes, it has "
        f"{len(content) - 1:,}. Copy or download it again."
    )


@pytest.mark.parametrize("head", [b"", bytes(56), b"\x09" + bytes(55)])
def test_size_of_an_unknown_header_is_left_to_the_library(tmp_path, head):
    path = tmp_path / "data.h5"
    path.write_bytes(formats.HDF5_SIGNATURE + head)
    hdf5.check_size(str(path))


def test_weights_are_read_in_the_files_order_with_names_in_pieces(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        for number, name in enumerate(["b", "a", "empty"]):
            group = file.create_group(name)
            names = [] if name == "empty" else [f"{name}/kernel:0".encode()]
            group.attrs["weight_names"] = np.array(names, "S20")
            for weight in names:
                group[weight.decode()] = np.full((2, 3), number)
        file.attrs["layer_names0"] = np.array([b"b", b"empty"])
        file.attrs["layer_names1"] = np.array([b"a"])
    b, empty, a = hdf5.read_layers(str(path))
    assert [layer.name for layer in (b, empty, a)] == ["b", "empty", "a"]
    assert empty.weights == ()
    np.testing.assert_array_equal(b.weights[0][1], np.zeros((2, 3)))
    np.testing.assert_array_equal(a.weights[0][1], np.ones((2, 3)))


def _load_model(path):
    return hdf5.load_model(path, specs.ModelSpec(model=path))


@pytest.mark.parametrize("function", [hdf5.read_layers, hdf5.is_keras3_weights, _load_model])
def test_damaged_file_is_refused(tmp_path, function):
    path = tmp_path / "weights.h5"
    path.write_bytes(formats.HDF5_SIGNATURE + bytes(5000))
    message = _refusal(function, path)
    assert message.startswith(f"{path}: the HDF5 file is damaged: ")
    assert message.endswith(" Copy or download it again.")


def test_missing_weight_is_damage(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["weight_names"] = [b"kernel:0"]
        file.attrs["layer_names"] = [b"a"]
    assert _refusal(hdf5.read_layers, path).startswith(f"{path}: the HDF5 file is damaged: ")
