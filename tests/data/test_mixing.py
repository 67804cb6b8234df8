import numpy as np
import pytest
import tensorflow as tf

from tests.data import test_pipeline
from tf_finetune import option_values
from tf_finetune.data import image_stores, loading, mixing, pipeline, text_store

COUNT = 12


def make_mixer(text, *, seeds=None):
    seeds = np.arange(COUNT) * 977 if seeds is None else seeds
    return mixing.make_mixer(option_values.read_augment(text), seeds)


def mix(text, images, *, positions=None, epoch=0):
    """(mixed images, shares)"""
    positions = np.arange(len(images)) if positions is None else positions
    mixed, shares = make_mixer(text)(
        tf.constant(images, tf.float32),
        tf.constant(positions, tf.int64),
        tf.constant(epoch, tf.int64),
    )
    return mixed.numpy(), shares.numpy()


def solid_images(*, height=15, width=20):
    """Image n is n everywhere."""
    numbers = np.arange(COUNT, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(numbers, (COUNT, height, width, 3))


def collect(text, *, store="decoded", folder=None, seed=3, epoch=0, keys=None, **options):
    """Batches of (images, MixedLabels) of an epoch."""
    pixels = test_pipeline.make_pixels(COUNT)
    split = test_pipeline.make_split(
        test_pipeline.make_store(store, pixels, folder), range(COUNT) if keys is None else keys
    )
    dataset = pipeline.make_dataset(
        split,
        test_pipeline.PRE,
        batch_size=5,
        shuffle_seed=seed,
        epoch=tf.Variable(epoch, dtype=tf.int64, trainable=False),
        views=option_values.read_augment(text),
        with_weights=True,
        **options,
    )
    return [(inputs["image"].numpy(), labels) for inputs, labels, _ in dataset]


def test_mixup_blends_each_image_with_the_next():
    mixed, shares = mix("mixup:1", solid_images())
    partners = (np.arange(COUNT) + 1) % COUNT
    expected = shares * np.arange(COUNT) + (1 - shares) * partners
    np.testing.assert_allclose(
        mixed, np.broadcast_to(expected[:, None, None, None], mixed.shape), atol=1e-5
    )
    assert len(np.unique(shares)) == COUNT and shares.min() > 0 and shares.max() < 1


def test_the_share_of_cutmix_is_the_area_that_is_left():
    outside = 0
    for epoch in range(20):
        mixed, shares = mix("cutmix", solid_images(), epoch=epoch)
        own = mixed == np.arange(COUNT)[:, None, None, None]
        partner = mixed == ((np.arange(COUNT) + 1) % COUNT)[:, None, None, None]
        assert (own | partner).all()
        np.testing.assert_allclose(shares, own.mean(axis=(1, 2, 3)), atol=1e-6)
        for image in partner[..., 0]:
            rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
            # One box, without holes, and not taller or wider than the image.
            assert image.sum() == len(rows) * len(columns)
            assert not len(rows) or rows[-1] - rows[0] + 1 == len(rows)
            outside += len(rows) > 0 and (rows[0] == 0 or rows[-1] == 14)
    assert outside > 20


def test_boxes_have_the_drawn_area():
    shares = np.concatenate([mix("cutmix:10", solid_images(), epoch=e)[1] for e in range(40)])
    # Beta(10, 10) is near a half; what leaves the image is cut off, so more is kept.
    assert 0.5 < shares.mean() < 0.8 and shares.min() > 0.15


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_shares_are_of_a_beta_distribution(alpha):
    drawn, rows, columns = mixing.draw_shares(
        {"mixup": alpha}, tf.constant([3, 4], tf.int64), count=4000, height=2, width=3
    )
    shares = drawn.numpy()
    assert rows.shape == (4000, 2) and columns.shape == (4000, 3)
    assert not np.any(rows) and not np.any(columns)
    assert np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_with_both_about_half_are_cut():
    images = solid_images()
    is_cut = []
    for epoch in range(10):
        mixed, _ = mix("mixup:4,cutmix", images, epoch=epoch)
        whole = mixed == np.round(mixed)
        is_cut += whole.all(axis=(1, 2, 3)).tolist()
    assert 40 < sum(is_cut) < 80


def test_mixes_are_a_function_of_seed_epoch_and_keys():
    images = solid_images()
    first = mix("mixup", images)[1]
    np.testing.assert_array_equal(first, mix("mixup", images)[1])
    for other in (
        mix("mixup", images, epoch=1),
        mix("mixup", images[:5], positions=np.arange(5)),
        mix("mixup", images[:5], positions=np.arange(1, 6)),
    ):
        assert not set(other[1].tolist()) & set(first.tolist())


def test_other_steps_mix_nothing():
    assert make_mixer("flip,crop") is None


@pytest.mark.parametrize("text", ["mixup,cutmix", "flip,crop,mixup"])
@pytest.mark.parametrize("store", ["array", "paths"])
def test_batches_have_the_same_bits_from_every_store(tmp_path, store, text):
    batches = collect(text)
    others = collect(text, store=store, folder=tmp_path)
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels.share, other_labels.share)
    changed = collect(text, epoch=1)
    assert not set(np.ravel(changed[0][1].share)) & set(np.ravel(batches[0][1].share))


@pytest.mark.parametrize("store", ["decoded", "stream_pixels"])
def test_labels_belong_to_their_images(store):
    pixels = test_pipeline.make_pixels(COUNT).astype(np.float32)
    seen = []
    for images, labels in collect("mixup:1", store=store):
        own, partner = labels.own["label"].numpy(), labels.partner["label"].numpy()
        share = labels.share.numpy()[:, None, None, None]
        expected = share * pixels[own] + (1 - share) * pixels[partner]
        np.testing.assert_allclose(images, expected, atol=1e-3)
        assert sorted(own) == sorted(partner)
        seen += own.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_batches_for_several_devices_are_mixed_as_a_whole():
    batches = collect("mixup", num_replicas=2)
    assert [len(labels.share) for _, labels in batches] == [5, 5, 2]
    batches = collect("mixup", num_replicas=2, keys=range(11))
    assert [len(labels.share) for _, labels in batches] == [5, 6]


def test_texts_cannot_be_mixed():
    keys = np.array(["a"], object)
    split = loading.Split("train", keys, text_store.Texts(keys), np.arange(1), {})
    with pytest.raises(ValueError, match=r"^Texts have no views\. Expected a split of images\.$"):
        pipeline.make_dataset(
            split,
            text_store.TextSpec(),
            batch_size=1,
            shuffle_seed=0,
            views=option_values.read_augment("mixup"),
        )


def test_only_training_is_mixed():
    pixels = image_stores.DecodedImages(test_pipeline.make_pixels(2))
    with pytest.raises(ValueError, match="only the images of training vary"):
        pipeline.make_dataset(
            test_pipeline.make_split(pixels, range(2)),
            test_pipeline.PRE,
            batch_size=2,
            views=option_values.read_augment("mixup"),
        )
