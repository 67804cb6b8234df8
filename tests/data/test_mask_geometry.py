import numpy as np
import pytest

from tf_finetune.data import mask_geometry, preprocessing


def make_spec(resize, *, height=8, width=12):
    return preprocessing.PreprocessingSpec(height, width, 3, resize)


def test_by_hand():
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    spec = make_spec("squash", height=2, width=4)
    assert mask_geometry.fit_mask(mask, spec).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    spec = make_spec("pad", height=2, width=4)
    assert mask_geometry.fit_mask(mask, spec).tolist() == [[255, 0, 1, 255], [255, 2, 3, 255]]
    spec = make_spec("crop", height=1, width=2)
    tall = np.array([[9, 9], [1, 2], [3, 4], [9, 9]], np.uint8)
    assert mask_geometry.fit_mask(tall, spec).tolist() == [[1, 2]]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(31, 17), (9, 40), (24, 24), (5, 7), (8, 12), (200, 3)])
def test_a_mask_goes_where_its_image_goes(resize, size):
    """A picture of a mask, resized as images are, shows the resized mask but for its borders."""
    generator = np.random.default_rng(1)
    mask = np.zeros(size, np.uint8)
    mask[: generator.integers(1, size[0]), : generator.integers(1, size[1])] = 1
    spec = make_spec(resize)
    picture = np.repeat(mask[..., None] * 200 + 50, 3, axis=2).astype(np.uint8)
    shown = preprocessing.resize_pixels(picture, spec).numpy()[..., 0]
    fitted = mask_geometry.fit_mask(mask, spec)
    # Exact values are away from borders, which bilinear resizing blends.
    assert (fitted[shown == 0] == 255).all()
    assert (fitted[shown == 50] == 0).all()
    assert (fitted[shown == 250] == 1).all()
    assert np.isin(shown, (0, 50, 250)).any()


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_an_enlarged_mask_is_restored(resize):
    mask = np.random.default_rng(0).integers(0, 5, (5, 7)).astype(np.uint8)
    spec = make_spec(resize, height=50, width=42)
    fitted = mask_geometry.fit_mask(mask, spec)
    assert np.array_equal(mask_geometry.restore_mask(fitted, spec, height=5, width=7), mask)


def test_what_was_cropped_has_no_class():
    spec = make_spec("crop", height=4, width=4)
    restored = mask_geometry.restore_mask(np.ones((4, 4), np.uint8), spec, height=4, width=8)
    assert restored.tolist() == [[255, 255, 1, 1, 1, 1, 255, 255]] * 4
