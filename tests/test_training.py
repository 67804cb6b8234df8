import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tf_finetune import callbacks, distribution, heads, recipe, specs, training
from tf_finetune.data import loading as data_loading
from tf_finetune.data import pipeline, preprocessing
from tf_finetune.models import loading as model_loading


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """(splits, preprocessing, path of the model) of three solid colours."""
    folder = tmp_path_factory.mktemp("training")
    tiny.write_color_folder(folder / "colors", per_class=20)
    tiny.make_classifier().save(folder / "tiny.h5")
    spec = specs.DataSpec(data=str(folder / "colors"))
    splits = data_loading.load_data(spec)
    prepared = preprocessing.make_preprocessing(spec, input_shape=(12, 12, 3))
    splits, prepared, _ = pipeline.read_images(splits, prepared, on_bad_example="error")
    return splits, prepared, str(folder / "tiny.h5")


def build(material, *, dropout=0.0, strategy=None, **options):
    """(model, backbone, task)"""
    splits, prepared, path = material
    keras.utils.set_random_seed(0)
    head = specs.HeadSpec(name="label", dropout=dropout)
    with (strategy or tf.distribute.get_strategy()).scope():
        backbone = model_loading.load_backbone(specs.ModelSpec(model=path, pixel_range="0..1"))
        model = heads.attach_heads(backbone, heads=(head,), infos=splits.heads)
    train = specs.TrainSpec(**{"batch_size": 16, **options})
    phases = recipe.plan_phases(
        train, specs.FreezeSpec(), table=backbone.table, num_train_examples=len(splits.train)
    )
    task = training.Task(
        splits=splits, preprocessing=prepared, heads=(head,), train=train, phases=phases
    )
    return model, backbone, task


def silent(text):
    del text


def test_a_dry_run_leaves_the_model_as_it_was(material):
    model, backbone, task = build(material, epochs=2)
    before = model.get_weights()
    result = training.fit(model, backbone, task, dry_run=True, announce=silent)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert result.phases == ()
    assert result.cost.total_secs[0] > 0


def test_timing_the_first_steps_does_not_change_the_training(material):
    # The weights after one epoch equal those of plain Keras on the same batches.
    model, backbone, task = build(material, epochs=1, schedule="constant", learning_rate=0.01)
    training.fit(model, backbone, task, announce=silent)
    plain, _, _ = build(material)
    for layer in plain.layers:
        if isinstance(layer, keras.Model):
            layer.trainable = False
    plain.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss={"label": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    )
    dataset = pipeline.make_dataset(
        task.splits.train, task.preprocessing, batch_size=16, shuffle_seed=0
    )
    plain.fit(dataset, epochs=1, verbose=0, shuffle=False)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_phase_that_makes_things_worse_is_discarded(material):
    phases = (
        specs.PhaseSpec(name="good", epochs=20, learning_rate=0.03),
        specs.PhaseSpec(name="bad", epochs=1, freeze="none", learning_rate=50.0),
    )
    lines = []
    model, backbone, task = build(material, phases=phases)
    result = training.fit(model, backbone, task, announce=lines.append)
    assert [phase.improved for phase in result.phases] == [True, False]
    assert "the phase is discarded." in lines[-1]
    assert result.best_epoch <= 20
    logits = model.predict(
        pipeline.make_dataset(task.splits.validation, task.preprocessing, batch_size=16), verbose=0
    )["label"]
    labels = task.splits.validation.labels["label"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    assert float(loss) == pytest.approx(result.best_value, rel=1e-4)


def test_patience_ends_a_phase_early(material):
    model, backbone, task = build(
        material, epochs=30, learning_rate=20.0, schedule="constant", patience_epochs=1
    )
    result = training.fit(model, backbone, task, announce=silent)
    assert result.phases[0].stopped_by == "patience"
    assert result.phases[0].epochs_run < 30


def test_the_deadline_ends_a_phase(material, monkeypatch):
    model, backbone, task = build(material, epochs=10_000)
    asked = []

    def tell():
        asked.append(1)
        return 2e9 if len(asked) > 20 else 0.0

    monkeypatch.setattr(callbacks, "time", types.SimpleNamespace(monotonic=tell))
    result = training.fit(model, backbone, task, announce=silent, deadline=1e9)
    assert result.phases[0].stopped_by == "time"
    assert 0 < result.phases[0].epochs_run < 20


def test_frozen_layers_are_whole_again_after_training(material):
    model, backbone, task = build(material, epochs=1)
    training.fit(model, backbone, task, announce=silent)
    assert all("call" not in vars(layer) for layer in backbone.model.layers)


def test_the_same_task_gives_the_same_bits(material):
    weights = []
    for _ in range(2):
        model, backbone, task = build(material, dropout=0.3, epochs=3)
        training.fit(model, backbone, task, announce=silent)
        weights.append(model.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_order_of_examples_follows_the_seed(material):
    results = []
    for seed in (0, 1):
        model, backbone, task = build(material, epochs=2)
        result = training.fit(
            model, backbone, dataclasses.replace(task, seed=seed), announce=silent
        )
        results.append(result.history[-1]["cross_entropy"])
    assert results[0] != results[1]


def fit_both(material, strategy=None, **options):
    """(lines, history) of training everything, or the heads, with rates that matter."""
    lines = []
    model, backbone, task = build(
        material, strategy=strategy, warmup_fraction=0.3, gradient_clip_norm=0.1, **options
    )
    result = training.fit(model, backbone, task, strategy=strategy, announce=lines.append)
    return lines, result.history


def assert_same_history(history, other):
    assert len(history) == len(other)
    for row, same in zip(history, other, strict=True):
        assert list(row) == list(same)
        for name, value in row.items():
            assert same[name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_accumulated_steps_learn_what_large_batches_learn(material, cache):
    # 48 examples: 32 and a last batch of 16, which four parts share.
    options = {
        "feature_cache": cache,
        "phases": (
            specs.PhaseSpec(name="head", epochs=3, freeze="all", learning_rate=0.03),
            specs.PhaseSpec(name="all", epochs=3, freeze="none", learning_rate=0.01),
        ),
    }
    _, large = fit_both(material, batch_size=32, **options)
    assert large[0]["cross_entropy"] > 1.2 * large[-1]["cross_entropy"]
    lines, accumulated = fit_both(material, batch_size=8, accumulate_steps=4, **options)
    assert_same_history(large, accumulated)
    assert "epochs of 2 steps (each of 4 batches of 8), Adam" in "".join(lines)
    # The last part of the last step has fewer examples than the others.
    _, uneven = fit_both(material, batch_size=7, accumulate_steps=5, **options)
    _, large = fit_both(material, batch_size=35, **options)
    assert_same_history(large, uneven)


def test_accumulated_steps_on_two_devices_learn_what_large_batches_learn(material):
    options = {
        "phases": (specs.PhaseSpec(name="all", epochs=3, freeze="none", learning_rate=0.01),),
    }
    mirrored = distribution.make_strategy("mirrored")
    _, large = fit_both(material, batch_size=32, **options)
    _, accumulated = fit_both(
        material, strategy=mirrored, batch_size=8, accumulate_steps=4, **options
    )
    assert_same_history(large, accumulated)


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_two_devices_have_the_history_of_one(material, cache):
    # 48 and 6 examples: a last batch of 6, and one of all validation examples.
    options = {
        "batch_size": 14,
        "feature_cache": cache,
        "feature_precision": "float32",
        "phases": (
            specs.PhaseSpec(name="head", epochs=3, freeze="all", learning_rate=0.03),
            specs.PhaseSpec(name="all", epochs=3, freeze="none", learning_rate=0.01),
        ),
    }
    lines, one = fit_both(material, **options)
    assert any(line.startswith("Features: ") for line in lines) == (cache == "memory")
    assert one[0]["cross_entropy"] > 1.2 * one[-1]["cross_entropy"]
    _, two = fit_both(material, strategy=distribution.make_strategy("mirrored"), **options)
    assert_same_history(one, two)


def test_normalization_that_trains_sees_each_part_on_two_devices_too(material):
    moved = []
    for strategy in (None, distribution.make_strategy("mirrored")):
        model, backbone, task = build(
            material,
            strategy=strategy,
            batch_size=8,
            accumulate_steps=2,
            phases=(specs.PhaseSpec(name="all", epochs=1, freeze="none"),),
        )
        before = model.get_weights()
        task = dataclasses.replace(task, batch_norm="train")
        training.fit(model, backbone, task, strategy=strategy, announce=silent)
        names = [weight.path for weight in model.weights]
        changed = [
            not np.array_equal(old, new)
            for old, new in zip(before, model.get_weights(), strict=True)
        ]
        moved.append([c for c, name in zip(changed, names, strict=True) if "moving" in name])
    assert all(map(all, moved)), moved


def test_several_steps_at_once_learn_the_same(material):
    # 5 steps in an epoch: two executions of 3 and 2, or one where no more are there.
    phases = (specs.PhaseSpec(name="all", epochs=3, freeze="none", learning_rate=0.01),)
    _, one = fit_both(material, batch_size=10, phases=phases)
    for steps in (3, 100):
        model, backbone, task = build(
            material,
            batch_size=10,
            steps_per_execution=steps,
            phases=phases,
            warmup_fraction=0.3,
            gradient_clip_norm=0.1,
        )
        result = training.fit(model, backbone, task, announce=silent)
        assert_same_history(one, result.history)
        assert result.cost.total_secs[0] > 0
        assert result.cost.num_timed == min(steps, 5)


def test_several_steps_at_once_need_one_device(material):
    mirrored = distribution.make_strategy("mirrored")
    with pytest.raises(
        specs.SpecError,
        match=r"^--steps_per_execution=2 runs on one device only, and this run has 2\. Leave it "
        r"out, or give --strategy=one_device\.$",
    ):
        fit_both(material, strategy=mirrored, steps_per_execution=2)
