import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.data import image_bytes
from tf_finetune import findings, specs
from tf_finetune.data import preprocessing

RGB = image_bytes.gradient()
HEIGHT, WIDTH = RGB.shape[:2]
ALPHA = np.concatenate([RGB, RGB[..., 1:2]], -1)
PALETTE = PIL.Image.fromarray(RGB).quantize(16)
GREY = PIL.Image.fromarray(RGB[..., 0])
# Few specs, because building the graph of one takes longer than most tests.
SAME_SIZE = preprocessing.PreprocessingSpec(HEIGHT, WIDTH, 3)
GREY_SIZE = preprocessing.PreprocessingSpec(HEIGHT, WIDTH, 1)
WIDE = preprocessing.PreprocessingSpec(HEIGHT, WIDTH, 3, pixel_max=4095.0)


def decode(contents, spec=SAME_SIZE):
    return preprocessing.decode_image(tf.constant(contents), spec).numpy()


FILES = {
    "jpeg_colour": image_bytes.encode(RGB, "JPEG", quality=92),
    "jpeg_subsampled": image_bytes.encode(RGB, "JPEG", quality=80, subsampling=2),
    "jpeg_progressive": image_bytes.encode(RGB, "JPEG", quality=92, progressive=True),
    "jpeg_grey": image_bytes.encode(GREY, "JPEG", quality=92),
    "png_colour": image_bytes.encode(RGB, "PNG"),
    "png_grey": image_bytes.encode(GREY, "PNG"),
    "png_1_bit": image_bytes.encode(GREY.convert("1"), "PNG"),
    "png_palette": image_bytes.encode(PALETTE, "PNG"),
    "bmp_colour": image_bytes.encode(RGB, "BMP"),
    "bmp_unused_alpha": image_bytes.encode(ALPHA, "BMP"),
    "bmp_grey": image_bytes.encode(GREY, "BMP"),
    "bmp_palette": image_bytes.encode(PALETTE, "BMP"),
    "bmp_1_bit": image_bytes.encode(GREY.convert("1"), "BMP"),
    "gif": image_bytes.encode(PALETTE, "GIF"),
    "gif_animated": image_bytes.encode(
        PALETTE, "GIF", save_all=True, append_images=[PIL.Image.fromarray(255 - RGB)]
    ),
    "webp_lossless": image_bytes.encode(RGB, "WEBP", lossless=True),
    "webp_lossy": image_bytes.encode(RGB, "WEBP", quality=90),
    # TensorFlow 2.21 writes past its buffer for this one unless it is told of alpha.
    "webp_animated": image_bytes.encode(
        PIL.Image.fromarray(RGB),
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=[PIL.Image.fromarray(255 - RGB)],
    ),
}
TRANSPARENT_FILES = {
    "png_alpha": image_bytes.encode(ALPHA, "PNG"),
    "png_grey_alpha": image_bytes.encode(
        PIL.Image.merge("LA", [GREY, PIL.Image.fromarray(RGB[..., 1])]), "PNG"
    ),
    "png_palette_trns": image_bytes.encode(PALETTE, "PNG", transparency=3),
    "png_colour_trns": image_bytes.encode(RGB, "PNG", transparency=tuple(RGB[5, 5].tolist())),
    "png_grey_trns": image_bytes.encode(GREY, "PNG", transparency=int(RGB[5, 5, 0])),
    "webp_alpha": image_bytes.encode(PIL.Image.fromarray(ALPHA), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("name", FILES)
def test_decode_image_gives_the_pixels_of_pillow(name):
    pixels = decode(FILES[name])
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, image_bytes.decode_with_pillow(FILES[name]))


@pytest.mark.parametrize("name", TRANSPARENT_FILES)
def test_decode_image_puts_transparent_pixels_over_white(name):
    pixels = decode(TRANSPARENT_FILES[name])
    expected = image_bytes.decode_with_pillow(TRANSPARENT_FILES[name]).astype(np.float32)
    # Pillow blends in whole numbers, so that some are off by one.
    assert np.abs(pixels - expected).max() <= 1
    assert np.abs(pixels - expected).mean() < 0.3


def test_decode_image_converts_cmyk():
    contents = image_bytes.encode(PIL.Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    pixels = decode(contents)
    # Both multiply ink by black, with different rounding.
    assert np.abs(pixels - image_bytes.decode_with_pillow(contents)).max() <= 2


def test_transparent_pixels_hide_their_colour():
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, 0, 3] = 255
    image = decode(image_bytes.encode(pixels, "PNG"))
    assert image[0, 0].tolist() == [200, 0, 0]
    assert (image.reshape(-1, 3)[1:] == 255).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_scaled_by_pixel_max(channels):
    generator = np.random.default_rng(channels)
    pixels = generator.integers(0, 5000, (HEIGHT, WIDTH, channels)).astype(np.uint16)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    image = decode(image_bytes.make_png(pixels), WIDE)
    colors = pixels[..., : 3 if channels > 2 else 1].astype(np.float64)
    expected = np.broadcast_to(np.minimum(colors * 255 / 4095, 255), (HEIGHT, WIDTH, 3))
    np.testing.assert_allclose(image, expected, rtol=1e-6, atol=1e-4)
    assert (image != np.round(image)).any()
    assert (image == 255).any()


def test_16_bit_png_without_pixel_max_is_rounded_to_256_steps():
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH, 1) * 29
    image = decode(image_bytes.make_png(pixels), GREY_SIZE)
    np.testing.assert_array_equal(image, np.round(pixels.astype(np.float32) * (255 / 65535)))


def test_16_bit_alpha_blends_to_white():
    pixels = np.full((HEIGHT, WIDTH, 4), 1000, np.uint16)
    pixels[..., 3] = 32768
    expected = 255 * (0.5 * 1000 / 4095 + 0.5)
    np.testing.assert_allclose(decode(image_bytes.make_png(pixels), WIDE), expected, rtol=2e-4)


def test_pixel_max_leaves_8_bit_images_alone():
    np.testing.assert_array_equal(decode(FILES["png_colour"], WIDE), RGB)


def test_colour_becomes_grey_by_luma():
    grey = np.array(PIL.Image.fromarray(RGB).convert("L"))[..., np.newaxis]
    assert np.abs(decode(FILES["png_colour"], GREY_SIZE) - grey).max() <= 1
    expected = np.array(GREY)[..., np.newaxis]
    np.testing.assert_array_equal(decode(FILES["png_grey"], GREY_SIZE), expected)


BAD_FILES = {
    "empty": b"",
    "text": b"this is no image at all, though it is long enough to be one",
    "jpeg_cut": FILES["jpeg_colour"][:-200],
    "jpeg_head": FILES["jpeg_colour"][:3],
    "png_cut": FILES["png_colour"][:-60],
    "png_head": FILES["png_colour"][:8],
    "png_16_head": image_bytes.make_png(np.zeros((2, 2, 1), np.uint16))[:40],
    "bmp_cut": FILES["bmp_colour"][:200],
    "bmp_palette_cut": FILES["bmp_palette"][:300],
    "bmp_head": b"BM",
    "bmp_compressed": FILES["bmp_palette"][:30] + b"\1" + FILES["bmp_palette"][31:],
    "gif_cut": FILES["gif"][:40],
    "webp_cut": FILES["webp_lossless"][:40],
    "webp_animated_cut": FILES["webp_animated"][:60],
    "tiff": image_bytes.encode(RGB, "TIFF"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_decode_image_refuses_what_is_no_image(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(BAD_FILES[name])


def test_decode_image_stands_any_damage():
    # Whatever one changed byte does, it is pixels or InvalidArgumentError and never a crash.
    generator = np.random.default_rng(0)
    refused = 0
    for name in ("bmp_palette", "jpeg_colour", "png_palette", "webp_animated", "bmp_1_bit"):
        for _ in range(60):
            contents = bytearray(FILES[name])
            contents[generator.integers(0, min(len(contents), 160))] ^= generator.integers(1, 256)
            try:
                decode(bytes(contents))
            except tf.errors.InvalidArgumentError:
                refused += 1
    assert refused > 10


def test_decode_image_runs_in_a_saved_model(tmp_path):
    module = tf.Module()
    module.serve = tf.function(
        lambda image_bytes: tf.map_fn(
            lambda contents: preprocessing.decode_image(contents, SAME_SIZE),
            image_bytes,
            fn_output_signature=tf.TensorSpec((HEIGHT, WIDTH, 3), tf.float32),
        ),
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serve_bytes": module.serve})
    serve = tf.saved_model.load(str(tmp_path)).signatures["serve_bytes"]
    functions = serve.graph.as_graph_def().library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert "DecodePng" in operations
    assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & operations
    files = [*FILES.values(), *TRANSPARENT_FILES.values()]
    (served,) = serve(image_bytes=tf.constant(files)).values()
    np.testing.assert_array_equal(served, np.stack([decode(file) for file in files]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(image_bytes=tf.constant([files[0], b"text"]))


def resize(pixels, height, width, resize):
    spec = preprocessing.PreprocessingSpec(height, width, pixels.shape[-1], resize)
    return preprocessing.resize_pixels(tf.constant(pixels), spec).numpy()


def test_shrinking_a_fine_pattern_gives_its_mean():
    rows, columns = np.mgrid[0:256, 0:256]
    board = ((rows + columns) % 2 * 255).astype(np.uint8)[..., np.newaxis]
    inner = resize(board, 32, 32, "squash")[1:-1, 1:-1]
    assert np.abs(inner - 127.5).max() <= 1.0


def test_resizing_agrees_with_pillow():
    image = resize(RGB, 17, 23, "squash")
    expected = PIL.Image.fromarray(RGB).resize((23, 17), PIL.Image.Resampling.BILINEAR)
    assert np.abs(image - np.array(expected)).max() <= 1
    assert (image == np.round(image)).all()


@pytest.mark.parametrize("size", [(HEIGHT, 90), (71, WIDTH), (171, 199)])
def test_enlarging_needs_no_antialias(size):
    difference = np.abs(resize(RGB, *size, "squash") - tf.image.resize(RGB, size, antialias=True))
    assert difference.max() <= 0.501


def test_an_image_of_the_right_size_is_not_touched():
    np.testing.assert_array_equal(resize(RGB, HEIGHT, WIDTH, "squash"), RGB)
    np.testing.assert_array_equal(resize(RGB, HEIGHT, WIDTH, "crop"), RGB)
    np.testing.assert_array_equal(resize(RGB, HEIGHT, WIDTH, "pad"), RGB)


def stripes(height, width):
    """Left third red, middle green, right blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for part in range(3):
        pixels[:, part * width // 3 : (part + 1) * width // 3, part] = 255
    return pixels


def test_squash_keeps_everything():
    image = resize(stripes(10, 30), 12, 12, "squash")
    assert image[6, 0].tolist() == [255, 0, 0]
    assert image[6, 6].tolist() == [0, 255, 0]
    assert image[6, -1].tolist() == [0, 0, 255]


def test_crop_keeps_the_centre():
    image = resize(stripes(10, 30), 12, 12, "crop")
    assert (image == [0, 255, 0]).all()
    turned = resize(stripes(10, 30).transpose(1, 0, 2), 12, 12, "crop")
    assert (turned == [0, 255, 0]).all()


def test_crop_fits_another_shape():
    image = resize(stripes(30, 30), 10, 20, "crop")
    assert image.shape == (10, 20, 3)
    assert image[5, 0].tolist() == [255, 0, 0]
    assert image[5, -1].tolist() == [0, 0, 255]


def test_pad_centres_on_black():
    image = resize(np.full((10, 30, 3), 255, np.uint8), 12, 12, "pad")
    assert (image[:4] == 0).all()
    assert (image[4:8] == 255).all()
    assert (image[8:] == 0).all()
    turned = resize(np.full((30, 10, 3), 255, np.uint8), 12, 12, "pad")
    np.testing.assert_array_equal(turned, image.transpose(1, 0, 2))


@pytest.mark.parametrize("name", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1)])
def test_extreme_shapes(name, shape):
    assert resize(np.full((*shape, 3), 90, np.uint8), 8, 8, name).max() == 90


def test_resize_pixels_takes_floats_and_16_bits():
    floats = preprocessing.resize_pixels(tf.constant(RGB, tf.float32), SAME_SIZE)
    np.testing.assert_array_equal(floats, RGB)
    wide = preprocessing.resize_pixels(tf.constant(RGB.astype(np.uint16) * 257), SAME_SIZE)
    np.testing.assert_array_equal(wide, RGB)


def test_preprocessing_spec_survives_json():
    spec = preprocessing.PreprocessingSpec(8, 9, 1, "pad", 4095.0)
    assert preprocessing.PreprocessingSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("image_size", "input_shape", "expected"),
    [
        (None, (128, 96, 3), (128, 96)),
        (None, (None, None, 3), (50, 50)),
        ("32x48", (None, None, 3), (32, 48)),
        ("128", (128, 128, 3), (128, 128)),
        ("128x64", (None, 64, 1), (128, 64)),
        (None, (None, 64, 1), (50, 64)),
    ],
)
def test_make_preprocessing_settles_the_size(image_size, input_shape, expected):
    data = specs.DataSpec(data="d", image_size=image_size, resize="crop", pixel_max=9.0)
    spec = preprocessing.make_preprocessing(data, input_shape=input_shape, default_size=50)
    assert spec == preprocessing.PreprocessingSpec(*expected, input_shape[2], "crop", 9.0)


def test_make_preprocessing_refuses_a_contradiction_and_channels():
    data = specs.DataSpec(data="d", image_size="64")
    with pytest.raises(findings.RefusedError) as caught:
        preprocessing.make_preprocessing(data, input_shape=(128, None, 4))
    assert str(caught.value).splitlines() == [
        "--image_size=64 contradicts the model, whose input is 128xany (height x width). Leave "
        "--image_size out, or choose a model of that size.",
        "--model: expected an input of 1 (grey) or 3 (colour) channels. Received 4. Choose a model "
        "for images.",
    ]
