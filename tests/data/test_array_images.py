import numpy as np
import pytest

from tf_finetune.data import array_images, array_labels, image_stores

BYTES = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3)).astype(np.uint8)


def test_bytes_are_not_copied():
    store, bad, warning = array_images.make_store(BYTES)
    assert isinstance(store, image_stores.ArrayImages)
    assert store.pixels is BYTES and bad == [] and warning == ""


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int32, np.int64, np.int16]
)
def test_other_numbers_become_bytes(dtype):
    store, bad, warning = array_images.make_store(BYTES.astype(dtype))
    np.testing.assert_array_equal(store.pixels, BYTES)
    assert store.pixels.dtype == np.uint8 and bad == [] and warning == ""


def test_gray_has_no_channel_axis():
    store, _, _ = array_images.make_store(BYTES[..., 0])
    assert store.pixels.shape == (5, 4, 3, 1)


def test_fractions_are_rounded_and_told():
    store, _, warning = array_images.make_store(np.array([[[0.4, 254.6]]], np.float32))
    assert store.pixels.ravel().tolist() == [0, 255]
    assert warning == (
        "pixels with fractions are rounded to whole numbers, as those of resized images are."
    )


def test_wide_and_encoded_images_are_streams():
    wide = BYTES.astype(np.uint16) * 257
    store, _, _ = array_images.make_store(wide)
    assert isinstance(store, image_stores.StreamImages) and len(store) == 5
    np.testing.assert_array_equal(list(store.make_dataset().as_numpy_iterator()), wide)
    encoded = np.empty(2, object)
    encoded[:] = [b"\x89PNG", b"GIF\0"]
    store, _, _ = array_images.make_store(encoded)
    assert list(store.make_dataset().as_numpy_iterator()) == [b"\x89PNG", b"GIF\0"]


def test_images_that_are_not_finite_are_named():
    pixels = BYTES.astype(np.float32)
    pixels[1, 2, 0, 0], pixels[4] = np.nan, np.inf
    store, bad, _ = array_images.make_store(pixels)
    assert bad == [1, 4]
    np.testing.assert_array_equal(store.pixels[[0, 2, 3]], BYTES[[0, 2, 3]])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (BYTES / np.float32(255), "float32 pixels from 0 to 1 look scaled. Expected 0 to 255: "
         "multiply them by 255. Scaling is the model's own, see --pixel_range."),
        (np.array([[[-1.0, 1.0]]]), "float64 pixels from -1 to 1. Expected 0 to 255, or uint16. "
         "Undo what scaled them."),
        (np.array([[[0, 256]]]), "int64 pixels from 0 to 256. Expected 0 to 255, or uint16. Undo "
         "what scaled them."),
        (np.full((1, 1, 1), np.nan), "no image has finite pixels."),
        (np.zeros((2, 3), np.uint8), "expected images [n, height, width] or [n, height, width, "
         "1, 3 or 4 channels]. Received uint8 [2, 3]."),
        (np.zeros((2, 3, 8, 9), np.uint8), "expected images [n, height, width] or [n, height, "
         "width, 1, 3 or 4 channels]. Received uint8 [2, 3, 8, 9]. Channels come last: "
         "numpy.moveaxis(images, 1, -1)."),
        (BYTES[:, :0], "images without a pixel. Received uint8 [5, 0, 3, 3]."),
        (BYTES[..., :0], "images without a pixel. Received uint8 [5, 4, 3, 0]."),
        (BYTES[..., :2], "images of two channels. Expected 1 (grey), 3 (RGB) or 4 (RGB and alpha). "
         "images[..., :1] is the first channel alone; numpy.take(images, [0, 0, 0, 1], -1) makes "
         "RGB and alpha of grey and alpha. Received uint8 [5, 4, 3, 2]."),
        (np.zeros((2, 3, 8), bool), "expected pixels, or the bytes of encoded images. Received "
         "bool [2, 3, 8]."),
        (np.array(["a.png"]), "expected pixels, or the bytes of encoded images. Received <U5 [1]."),
    ],
)  # fmt: skip
def test_what_is_refused(images, message):
    with pytest.raises(array_labels.BadArrayError) as caught:
        array_images.make_store(images)
    assert str(caught.value) == message


def test_black_images_are_images():
    store, _, _ = array_images.make_store(np.zeros((2, 3, 4), np.float32))
    assert store.pixels.max() == 0
