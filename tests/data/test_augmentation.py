import numpy as np
import pytest
import tensorflow as tf

from tests.data import test_pipeline
from tf_finetune import option_values
from tf_finetune.data import augmentation, image_stores, pipeline

EVERYTHING = "flip:both,crop,rotate,translate,zoom,color,cutout:0.3,erase,randaugment"


def collect(text, *, order=None, batch_size=4, seed=3, epoch=0, store="decoded", folder=None):
    """{key: view} of an epoch."""
    pixels = test_pipeline.make_pixels(12)
    indices = np.arange(12) if order is None else np.array(order)
    split = test_pipeline.make_split(test_pipeline.make_store(store, pixels, folder), indices)
    variable = tf.Variable(epoch, dtype=tf.int64, trainable=False)
    dataset = pipeline.make_dataset(
        split,
        test_pipeline.PRE,
        batch_size=batch_size,
        shuffle_seed=seed,
        epoch=variable,
        views=option_values.read_augment(text),
    )
    images, labels = test_pipeline.collect(dataset)
    return {split.keys[label]: image for image, label in zip(images, labels, strict=True)}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key, image in first.items():
        np.testing.assert_array_equal(image, second[key])


def view(text, image, *, count=40):
    """[count, height, width, channels]: views of one image in as many epochs."""
    seeds = augmentation.make_seeds(np.array(["a"], object), seed=0)
    show = tf.function(augmentation.make_viewer(option_values.read_augment(text), seeds))
    image = tf.constant(image, tf.float32)
    first = tf.constant(0, tf.int64)
    return np.stack([show(image, first, tf.constant(epoch, tf.int64)) for epoch in range(count)])


def test_views_are_a_function_of_seed_epoch_and_key(tmp_path):
    views = collect(EVERYTHING)
    assert_equal(views, collect(EVERYTHING))
    assert_equal(views, collect(EVERYTHING, order=np.arange(12)[::-1], batch_size=5))
    assert_equal(views, collect(EVERYTHING, store="paths", folder=tmp_path, batch_size=12))
    assert_equal(views, collect(EVERYTHING, store="stream_pixels"))
    for other in (collect(EVERYTHING, epoch=1), collect(EVERYTHING, seed=4)):
        assert sum(np.array_equal(views[key], other[key]) for key in views) == 0


def test_rand_augment_has_the_same_bits_from_every_store():
    # 60 draws from eleven changes.
    views = collect("randaugment:5,10")
    for store in ("array", "stream_bytes", "stream_pixels"):
        assert_equal(views, collect("randaugment:5,10", store=store))


def test_a_further_step_leaves_the_flips_as_they_are():
    pixels = test_pipeline.make_pixels(1)[0]
    alone = view("flip", pixels)
    np.testing.assert_allclose(view("flip,rotate:0", pixels), alone, atol=1e-2)


def test_flips_are_exact_and_about_half():
    image = test_pipeline.make_pixels(1)[0].astype(np.float32)
    flipped = [np.array_equal(shown, image[:, ::-1]) for shown in view("flip", image)]
    kept = [np.array_equal(shown, image) for shown in view("flip", image)]
    assert all(np.logical_xor(flipped, kept))
    assert 10 < sum(flipped) < 30
    shapes = {shown.tobytes() for shown in view("flip:both", image)}
    turned = (image, image[::-1], image[:, ::-1], image[::-1, ::-1])
    assert shapes == {np.ascontiguousarray(shown).tobytes() for shown in turned}


@pytest.mark.parametrize("text", ["crop:1,1", "rotate:0", "translate:0", "zoom:0", "color:0"])
def test_a_strength_of_nothing_changes_nothing(text):
    image = test_pipeline.make_pixels(1)[0].astype(np.float32)
    shown = view(text, image, count=5)
    np.testing.assert_allclose(shown, np.broadcast_to(image, shown.shape), atol=2e-2)


def test_shifts_reflect_the_edge():
    ramp = np.tile(np.arange(10, dtype=np.float32)[:, None] * 10, (8, 1, 3)).reshape(8, 10, 3)
    shown = view("translate:0.5", ramp)
    # Nothing but what the image holds; a black fill would make the mean fall.
    assert shown.min() >= 0 and shown.max() <= 90.01
    middle = shown[:, 4, 5, 0]
    assert middle.min() < 30 and middle.max() > 60


def test_degrees_are_degrees():
    image = np.zeros((21, 21, 1), np.float32)
    image[10, 16:] = 255.0
    right = image[..., 0] > 0
    shown = view("rotate:30", image, count=60)[..., 0]
    rows, columns = np.mgrid[-10:11, -10:11]
    angles = []
    for one in shown:
        weights = one * (columns**2 + rows**2 > 25)
        angles.append(np.degrees(np.arctan2((weights * rows).sum(), (weights * columns).sum())))
    assert right.any()
    assert 20 < max(np.abs(angles)) <= 31.5
    assert min(angles) < -10 and max(angles) > 10


def test_crops_enlarge_a_part_within_the_image():
    rows = np.tile(np.arange(64, dtype=np.float32)[:, None, None], (1, 64, 3))
    shown = view("crop:0.25,0.25", rows)
    extent = shown[:, -1, 0, 0] - shown[:, 0, 0, 0]
    assert np.all((extent > 20) & (extent < 45))
    assert shown.min() >= 0 and shown.max() <= 63


def test_colours_stay_grey_under_saturation_and_hue():
    grey = np.full((4, 4, 3), 100.0, np.float32)
    np.testing.assert_allclose(view("saturation:0.9,hue:0.5", grey), 100.0, atol=0.2)
    bright = view("brightness:0.5", grey)[:, 0, 0, 0]
    assert bright.min() < 50 and bright.max() > 180 and bright.min() >= 0


def test_erased_parts_hold_the_mean():
    image = test_pipeline.make_pixels(1, height=20, width=20)[0].astype(np.float32)
    mean = image.mean(axis=(0, 1))
    for text in ("cutout:0.4", "erase:0.1,0.2"):
        erased = np.isclose(view(text, image), mean, atol=1e-2).all(axis=-1)
        assert erased.sum(axis=(1, 2)).max() <= 0.3 * 400
        assert erased.any(axis=(1, 2)).mean() > 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_keeps_shape_and_range(channels):
    image = test_pipeline.make_pixels(1)[0][..., :channels].astype(np.float32)
    shown = view("randaugment:3,10", image, count=60)
    assert shown.shape == (60, 8, 10, channels)
    assert np.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 255
    assert len({one.tobytes() for one in shown}) > 40


def test_views_need_a_seed():
    split = test_pipeline.make_split(
        image_stores.DecodedImages(test_pipeline.make_pixels(2)), range(2)
    )
    steps = option_values.read_augment("flip")
    with pytest.raises(ValueError, match="Views need a shuffle_seed"):
        pipeline.make_dataset(split, test_pipeline.PRE, batch_size=2, views=steps)
