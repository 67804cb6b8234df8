import numpy as np
import pytest

from tests.data import test_pipeline
from tf_finetune.data import image_stores, samples


@pytest.mark.parametrize("name", ["decoded", "array", "paths", "stream_pixels"])
def test_sample_pixels(name, tmp_path):
    pixels = test_pipeline.make_pixels(12)
    split = test_pipeline.make_split(
        test_pipeline.make_store(name, pixels, tmp_path), np.arange(3, 12)
    )
    sample = samples.sample_pixels(split, test_pipeline.PRE, count=4, seed=0)
    assert sample.dtype == np.float32
    members = [np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))[0] for image in sample]
    assert len(set(members)) == 4
    assert min(members) >= 3
    everything = samples.sample_pixels(split, test_pipeline.PRE, count=100, seed=1)
    np.testing.assert_array_equal(everything, pixels[3:])


def test_sample_pixels_depends_on_the_seed_alone():
    split = test_pipeline.make_split(
        image_stores.DecodedImages(test_pipeline.make_pixels(40)), np.arange(40)
    )
    found = [
        samples.sample_pixels(split, test_pipeline.PRE, count=5, seed=seed) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
