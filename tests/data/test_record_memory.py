"""Peak memory of training from TFRecord files, which must not follow the number of images."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def stream_records(repository):
    path = repository / "benchmarks" / "stream_records.py"
    spec = importlib.util.spec_from_file_location("stream_records", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_ten_times_the_images_take_hardly_more_memory(stream_records, tmp_path):
    """2,000 and 20,000 images of 32 x 32: their pixels alone are 6 and 61 MB."""
    stream_records.write_records(tmp_path, 20_000, size=32)
    stream_records.write_model(tmp_path / "tiny.keras", size=32)
    part = stream_records.measure(tmp_path, "images-00000-of-*.tfrecord")
    whole = stream_records.measure(tmp_path, "images-*.tfrecord")
    assert part["examples"] == 2_000 and whole["examples"] == 20_000
    assert whole["peak_mb"] - part["peak_mb"] < 100
