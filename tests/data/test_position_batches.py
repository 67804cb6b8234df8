import dataclasses

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests import mask_data
from tests.data import test_mask_reading
from tf_finetune import option_values
from tf_finetune.data import (
    feature_inputs,
    pipeline,
    preprocessing,
    resampling,
)

SHOWN = 200


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Images that show their masks: 0 as black, 1 as grey, and no mask for the last."""
    folder = tmp_path_factory.mktemp("data")
    path = mask_data.write_folder(folder, count=12)
    generator = np.random.default_rng(0)
    for number in range(12):
        mask = np.zeros((24, 32), np.uint8)
        top, left = generator.integers(0, 12), generator.integers(0, 16)
        mask[top : top + 11, left : left + 13] = 1
        mask[:2] = 255
        mask_data.write_mask(folder / "masks" / f"{number:03d}.png", mask)
        picture = np.where(mask == 1, SHOWN, 0).astype(np.uint8)
        PIL.Image.fromarray(picture).save(folder / "images" / f"{number:03d}.png")
    pre = preprocessing.PreprocessingSpec(24, 32, 1)
    loaded = test_mask_reading.load(path, num_classes=2, split=(1.0, 0.0, 0.0))
    return *test_mask_reading.read(loaded, pre=pre)[:2], loaded


def collect(split, pre, **options):
    dataset = pipeline.make_dataset(split, pre, batch_size=5, **options)
    batches = list(dataset.as_numpy_iterator())
    images = np.concatenate([batch[0]["image"] for batch in batches])
    return images[..., 0], np.concatenate([batch[1]["mask"] for batch in batches]), batches


def test_masks_are_class_numbers_and_minus_one(splits):
    images, masks, batches = collect(splits[0].train, splits[1], with_weights=True)
    assert (masks.dtype, masks.shape) == (np.int32, (12, 24, 32))
    assert (masks[:, :2] == -1).all()
    assert np.array_equal(masks[:, 2:] == 1, images[:, 2:] == SHOWN)
    assert batches[-1][2]["mask"].tolist() == [0.5, 0.5]


def test_a_missing_mask_has_no_class(splits):
    labels = splits[0].train.labels["mask"].copy()
    labels[3] = -1
    train = dataclasses.replace(splits[0].train, labels={"mask": labels})
    _, masks, _ = collect(train, splits[1])
    assert (masks[3] == -1).all()
    assert (masks[4] == 0).any()


@pytest.mark.parametrize("steps", ["", "flip", "flip,crop", "rotate:30,flip,zoom"])
def test_files_give_what_memory_gives(splits, steps):
    store = dataclasses.replace(splits[0].train.positions["mask"], pixels=None)
    train = dataclasses.replace(splits[0].train, positions={"mask": store})
    views = option_values.read_augment(steps) if steps else None
    options = {"shuffle_seed": 3, "views": views}
    for ours, theirs in zip(
        collect(train, splits[1], **options)[:2],
        collect(splits[0].train, splits[1], **options)[:2],
        strict=True,
    ):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "steps",
    [
        "flip",
        "flip:vertical,crop:0.3,1",
        "rotate:45",
        "translate:0.3,zoom:0.3",
        "crop,rotate:20,flip",
    ],
)
def test_a_mask_moves_with_its_image(splits, steps):
    epoch = tf.Variable(2, dtype=tf.int64)
    images, masks, _ = collect(
        splits[0].train,
        splits[1],
        shuffle_seed=3,
        epoch=epoch,
        views=option_values.read_augment(steps),
    )
    labelled = masks >= 0
    # Where the image is blended, at borders, nearest and bilinear may differ by a pixel.
    pure = labelled & ((images == SHOWN) | (images == 0))
    assert pure.mean() > 0.6
    assert ((images == SHOWN) == (masks == 1))[pure].mean() > 0.99
    _, straight, _ = collect(splits[0].train, splits[1], shuffle_seed=3, epoch=epoch)
    assert (masks != straight).mean() > 0.05


@pytest.mark.parametrize("name", ["memory", "files"])
def test_a_mask_moves_with_its_image_each_time_that_it_comes(splits, name):
    """Under strata an example comes several times in an epoch, in another view each time."""
    train = splits[0].train
    if name == "files":
        store = dataclasses.replace(train.positions["mask"], pixels=None)
        train = dataclasses.replace(train, positions={"mask": store})
    strata = np.repeat([0, 1], [10, 2])
    images, masks, _ = collect(
        train,
        splits[1],
        shuffle_seed=3,
        views=option_values.read_augment("rotate:45,flip"),
        strata=strata,
    )
    pure = (masks >= 0) & ((images == SHOWN) | (images == 0))
    assert ((images == SHOWN) == (masks == 1))[pure].mean() > 0.99
    rows = resampling.draw_epoch(strata, seed=3, epoch=0)
    again = [masks[rows == row] for row in (10, 11)]
    assert [len(shown) for shown in again] == [3, 3]
    for shown in again:
        assert len({mask.tobytes() for mask in shown}) == len(shown)


def test_what_has_no_views_is_refused(splits):
    mixed = option_values.read_augment("mixup")
    with pytest.raises(ValueError) as caught:
        collect(splits[0].train, splits[1], shuffle_seed=3, views=mixed)
    assert str(caught.value) == "Images with masks are not mixed: a pixel has one class."
    arrays = {"map": np.zeros((12, 2, 2, 1), np.float32)}
    features = feature_inputs.Features(("map",), ((2, 2, 1),), ("float32",), 12, arrays)
    train = dataclasses.replace(splits[0].train, inputs=features)
    with pytest.raises(ValueError) as caught:
        collect(train, splits[1], shuffle_seed=3, views=option_values.read_augment("flip"))
    assert str(caught.value) == "Features have no views: they were made of images as they are."


def test_colours_and_erased_parts_leave_masks(splits):
    steps = option_values.read_augment("color,cutout:0.5")
    options = {"shuffle_seed": 3}
    _, masks, _ = collect(splits[0].train, splits[1], views=steps, **options)
    _, straight, _ = collect(splits[0].train, splits[1], **options)
    assert np.array_equal(masks, straight)
