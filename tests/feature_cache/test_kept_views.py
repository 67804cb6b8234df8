"""Training on kept views is training the whole model on the same views."""

import dataclasses

import numpy as np
import pytest

from tests import task_data, tiny
from tests.feature_cache import test_caching
from tf_finetune import findings, option_values, specs
from tf_finetune.data import augmentation
from tf_finetune.feature_cache import feature_pass, keys

COUNT = (specs.HeadSpec(name="count", dropout=0.2),)
NUM_TRAIN, NUM_VALIDATION = 73, 9
STEPS = "flip,crop:0.4,0.9,brightness"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    present = task_data.write_images(folder, count=90)
    task_data.write_table(folder, task_data.make_columns(present))
    tiny.make_classifier().save(folder / "tiny.h5")
    return folder


def train(folder, *, number=2, epochs=5, augment=STEPS, seed=0, model="tiny.h5", **options):
    """An Outcome of a run on views of images."""
    phase = specs.PhaseSpec(name="head", epochs=epochs, freeze="all", learning_rate=0.02)
    options = {"phases": (phase,), **options}
    built, backbone, task = test_caching.make_task(
        folder / "labels.csv", folder / model, COUNT, **options
    )
    views = specs.AugmentSpec(augment=augment, augment_views=number)
    task = dataclasses.replace(task, augment=views, seed=seed)
    return test_caching.fit(built, backbone, task)


def losses(outcome):
    return [row["cross_entropy"] for row in outcome.result.history]


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("disk", {}),
        ("read", {"resample": "balanced"}),
        pytest.param("memory", {"phases": test_caching.TWO_PHASES}, marks=pytest.mark.slow),
    ],
)
def test_the_history_is_that_of_the_whole_model_on_the_same_views(
    folder, tmp_path, monkeypatch, mode, options
):
    if mode == "read":  # as features that are larger than what is kept in memory
        monkeypatch.setattr(feature_pass, "MEMORY_BYTES", 0)
    off = train(folder, feature_cache="off", **options)
    cached = train(
        folder,
        feature_cache="memory" if mode == "memory" else "disk",
        cache_dir=str(tmp_path),
        **options,
    )
    test_caching.check_same(off, cached)
    if not options:
        assert test_caching.features_line(cached) == (
            f"Features: {2 * NUM_TRAIN + NUM_VALIDATION} computed"
        )
        # With a new view in each epoch the third is another.
        fresh = losses(train(folder, number=None, feature_cache="off"))
        assert fresh[:2] == losses(off)[:2] and fresh[2] != losses(off)[2]


def test_kept_views_are_found_again(folder, tmp_path):
    """Another rate changes nothing about a view, other steps do."""

    def count(**options):
        options = {"feature_cache": "disk", "cache_dir": str(tmp_path), "epochs": 3, **options}
        return test_caching.features_line(train(folder, **options))

    views, once = 2 * NUM_TRAIN, NUM_VALIDATION
    assert count() == f"Features: {views + once} computed"
    assert count(learning_rate=0.3, number=3) == (
        f"Features: {NUM_TRAIN} computed, {views + once} were there already"
    )
    assert count(augment="flip,crop:0.4,0.8,brightness") == (
        f"Features: {views} computed, {once} were there already"
    )


def test_a_view_is_named_by_what_it_is_made_of():
    digests = np.arange(48, dtype=np.uint8).reshape(3, 16)

    def name(augment=STEPS, number=2, seed=0, digests=digests, names=("a", "b", "c")):
        views = augmentation.KeptViews(option_values.read_augment(augment), seed, number)
        found = keys.digest_views(digests, np.array(names, object), views)
        assert found.shape == (3 * number, 16) and found.dtype == np.uint8
        return found.reshape(3, number, 16)

    own = name()
    assert len({row.tobytes() for row in own.reshape(-1, 16)}) == 6
    # The order of steps has no meaning, and more views are the same ones and more.
    np.testing.assert_array_equal(name("brightness,crop:0.4,0.9,flip"), own)
    np.testing.assert_array_equal(name(number=3)[:, :2], own)
    for other in (
        name("flip,crop:0.4,0.8,brightness"),
        name("flip,crop:0.4,0.9"),
        name(seed=1),
        name(digests=digests + np.uint8(1)),
    ):
        assert not (other == own).all(axis=2).any()
    moved = name(names=("a", "z", "c"))
    assert (moved == own).all(axis=2).tolist() == [[True, True], [False, False], [True, True]]


@pytest.mark.parametrize("mode", ["auto", pytest.param("disk", marks=pytest.mark.slow)])
def test_a_phase_with_fewer_epochs_than_views_keeps_none(folder, tmp_path, mode):
    phases = (
        specs.PhaseSpec(name="head", epochs=3, freeze="all", learning_rate=0.02),
        specs.PhaseSpec(name="fine", epochs=1, freeze="67%", learning_rate=0.005),
    )
    options = {"feature_cache": mode, "cache_dir": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tf_finetune.feature_cache.choosing._MIN_SAVED_PRODUCTS", 1)
        outcome = train(folder, phases=phases, **options)
        short = train(folder, epochs=2 if mode == "auto" else 1, **options)
    cache = [line for line in outcome.lines if line.startswith(("Feature cache: ", "Features: "))]
    assert "once per example, and for each of 2 views of a training image, the" in cache[0]
    assert cache[1].startswith(f"Features: {2 * NUM_TRAIN + NUM_VALIDATION} computed, ")
    assert cache[2:] == [
        "Feature cache: off in this phase, whose epochs=1 is fewer than --augment_views=2; it "
        "computes its frozen part in each epoch."
    ]
    reason = f"the longest phase has epochs={2 if mode == 'auto' else 1} and --augment_views=2"
    assert f"Feature cache: off, {reason}." in short.lines


def test_what_does_not_fit_counts_views(folder, tmp_path):
    with pytest.raises(findings.RefusedError) as caught:
        train(folder, feature_cache="disk", cache_dir=str(tmp_path / "new"), cache_max_gb=1e-6)
    assert "would keep 5e-06 GB of features (32 bytes per example)" in str(caught.value)
