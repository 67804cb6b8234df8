"""Training on features is training the whole model, in every kind of task."""

import dataclasses
import os
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import task_data, tiny, tiny_text
from tests.models import hugging_face_folders
from tf_finetune import distribution, findings, heads, recipe, specs, token_lengths, training
from tf_finetune.data import loading as data_loading
from tf_finetune.data import pipeline, preprocessing, text_store
from tf_finetune.feature_cache import feature_pass, spaces, store
from tf_finetune.models import loading as model_loading

EPOCHS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """images/, labels.csv with every form of label, and a classifier with BatchNormalization."""
    folder = tmp_path_factory.mktemp("tasks")
    present = task_data.write_images(folder, count=90)
    columns = task_data.make_columns(present)
    columns["bright"] = [
        "" if number % 5 == 0 else cell for number, cell in enumerate(columns["bright"])
    ]
    task_data.write_table(folder, columns)
    tiny.make_classifier().save(folder / "tiny.h5")
    return folder


@dataclasses.dataclass(frozen=True)
class Outcome:
    result: training.TrainResult
    weights: dict
    start: dict
    lines: list


def make_task(data, model, head_specs, *, strategy=None, **options):
    """(model, backbone, task) of a table and a model file."""
    keras.utils.set_random_seed(0)
    data = specs.DataSpec(data=str(data))
    splits = data_loading.load_data(data, heads=head_specs)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        is_text = str(model).startswith("hf:")
        pixels = {} if is_text else {"pixel_range": "0..1"}
        backbone = model_loading.load_backbone(specs.ModelSpec(model=str(model), **pixels))
        if is_text:
            prepared = text_store.TextSpec(column=splits.train.inputs.column)
            splits = token_lengths.count_splits(splits, backbone.model)
        else:
            prepared = preprocessing.make_preprocessing(data, input_shape=(12, 12, 3))
            splits, prepared, _ = pipeline.read_images(splits, prepared, on_bad_example="error")
        built = heads.attach_heads(backbone, heads=head_specs, infos=splits.heads)
    head_phase = specs.PhaseSpec(name="head", epochs=EPOCHS, freeze="all", learning_rate=0.02)
    defaults = {"phases": (head_phase,), "batch_size": 16, "feature_precision": "float32"}
    spec = specs.TrainSpec(**{**defaults, **options})
    phases = recipe.plan_phases(
        spec, specs.FreezeSpec(), table=backbone.table, num_train_examples=len(splits.train)
    )
    return built, backbone, training.Task(splits, prepared, head_specs, spec, phases)


def fit(built, backbone, task, **options):
    """An Outcome."""
    start = {weight.path: np.array(weight) for weight in built.weights}
    lines = []
    result = training.fit(built, backbone, task, announce=lines.append, **options)
    weights = {weight.path: np.array(weight) for weight in built.weights}
    return Outcome(result, weights, start, lines)


def train(folder, head_specs, *, strategy=None, **options):
    """An Outcome of a run on images."""
    options = {"cache_dir": str(folder / "features"), **options}
    built = make_task(
        folder / "labels.csv", folder / "tiny.h5", head_specs, strategy=strategy, **options
    )
    return fit(*built, strategy=strategy)


def check_same(off, cached):
    """Equal histories, best epochs and weights, and what is frozen bit for bit as it was."""
    assert any(line.startswith("Features: ") for line in cached.lines)
    assert not any(line.startswith("Features: ") for line in off.lines)
    assert len(off.result.history) == len(cached.result.history)
    assert off.result.best_epoch == cached.result.best_epoch
    for expected, row in zip(off.result.history, cached.result.history, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if name != "secs" and isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    for path, value in off.weights.items():
        np.testing.assert_allclose(cached.weights[path], value, rtol=1e-3, atol=1e-4, err_msg=path)


def check_frozen(outcome, *, but=()):
    """All weights of the backbone have the bits they had, but those of some layers."""
    frozen = [
        path
        for path in outcome.start
        if path.split("/")[-2].endswith(("_a", "_b")) and path.split("/")[-2] not in but
    ]
    assert len(frozen) > 4
    for path in frozen:
        np.testing.assert_array_equal(outcome.weights[path], outcome.start[path])


SEVERAL = "several, labels missing"
TASKS = {
    "multiclass": ((specs.HeadSpec(name="count"),), {}),
    "class_weight": ((specs.HeadSpec(name="count", class_weight="balanced"),), {}),
    "resample": ((specs.HeadSpec(name="count"),), {"resample": "balanced"}),
    "multilabel": ((specs.HeadSpec(name="tags", kind="multilabel"),), {}),
    SEVERAL: (
        (
            specs.HeadSpec(name="count", hidden_units=(8,)),
            specs.HeadSpec(name="bright", kind="binary", loss_weight=0.5),
            specs.HeadSpec(name="brightness", kind="regression"),
        ),
        {},
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("resample", SEVERAL) else pytest.mark.slow)
        for name in TASKS
    ],
)
def test_the_history_is_that_of_the_whole_model(folder, name):
    head_specs, options = TASKS[name]
    off, cached = (
        train(folder, head_specs, feature_cache=mode, **options) for mode in ("off", "memory")
    )
    check_same(off, cached)
    check_frozen(cached)


COUNT = (specs.HeadSpec(name="count", dropout=0.2),)
TWO_PHASES = (
    specs.PhaseSpec(name="head", epochs=3, freeze="all", learning_rate=0.02),
    specs.PhaseSpec(name="fine", epochs=3, freeze="67%", learning_rate=0.005),
)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("memory", marks=pytest.mark.slow),
        pytest.param("disk", marks=pytest.mark.slow),
        "read",
    ],
)
def test_two_phases(folder, tmp_path, mode, monkeypatch):
    """Dropout in the head draws the same numbers too."""
    if mode == "read":  # as features that are larger than what is kept in memory
        monkeypatch.setattr(feature_pass, "MEMORY_BYTES", 0)
    off = train(folder, COUNT, feature_cache="off", phases=TWO_PHASES)
    cached = train(
        folder,
        COUNT,
        feature_cache="memory" if mode == "memory" else "disk",
        phases=TWO_PHASES,
        cache_dir=str(tmp_path),
    )
    check_same(off, cached)
    assert [phase.epochs_run for phase in cached.result.phases] == [3, 3]
    assert sum(line.startswith("Features: ") for line in cached.lines) == 2
    check_frozen(cached, but=("conv_b", "norm_b"))
    assert len(os.listdir(tmp_path)) == (0 if mode == "memory" else 2)


def test_the_same_epoch_ends_the_run(folder):
    options = {
        "phases": (specs.PhaseSpec(name="head", epochs=40, freeze="all", learning_rate=3.0),),
        "patience_epochs": 2,
        "schedule": "constant",
    }
    off, cached = (
        train(folder, (specs.HeadSpec(name="count"),), feature_cache=mode, **options)
        for mode in ("off", "memory")
    )
    assert off.result.phases[0].stopped_by == "patience"
    assert off.result.phases[0].epochs_run == cached.result.phases[0].epochs_run < 40
    assert off.result.best_epoch == cached.result.best_epoch
    assert off.result.best_value == pytest.approx(cached.result.best_value, rel=1e-4)


@pytest.mark.slow
def test_two_devices(folder, tmp_path):
    strategy = distribution.make_strategy("mirrored")
    off, cached = (
        train(
            folder,
            (specs.HeadSpec(name="count"),),
            feature_cache=mode,
            phases=TWO_PHASES,
            cache_dir=str(tmp_path),
            strategy=strategy,
        )
        for mode in ("off", "disk")
    )
    check_same(off, cached)


def test_texts_in_batches_of_like_length(tmp_path):
    model = hugging_face_folders.write(tmp_path / "bert", hugging_face_folders.make_weights())
    rows = [(f"{'good film ' * (number % 9)}{number}", ("pos", "neg")[number % 2])
            for number in range(80)]  # fmt: skip
    data = tiny_text.write_table(tmp_path / "reviews.csv", rows)
    outcomes = []
    for mode in ("off", "memory"):
        built, backbone, task = make_task(
            data, model, (specs.HeadSpec(name="sentiment"),), feature_cache=mode
        )
        assert task.splits.train.inputs.lengths is not None
        outcomes.append(fit(built, backbone, task))
    check_same(*outcomes)


def features_line(outcome):
    (line,) = [line for line in outcome.lines if line.startswith("Features: ")]
    return line.partition(" bytes")[0].rpartition(",")[0]


def test_only_what_changed_is_computed_again(folder, tmp_path):
    """Content decides: not names, not dates, not the split."""
    import shutil

    shutil.copytree(folder / "images", tmp_path / "images")
    shutil.copy(folder / "tiny.h5", tmp_path / "tiny.h5")
    cells = [f"images/{number:03d}.png,{number % 2}" for number in range(40)]
    table, one_epoch = tmp_path / "labels.csv", TWO_PHASES[0]
    table.write_text("\n".join(["image,count", *cells]))

    def run(**options):
        phase = dataclasses.replace(one_epoch, epochs=1)
        return features_line(train(tmp_path, (specs.HeadSpec(name="count"),),
            **{"feature_cache": "disk", "phases": (phase,), **options}))  # fmt: skip

    num_used = 40 - 4
    assert run() == f"Features: {num_used} computed"
    assert run() == f"Features: 0 computed, {num_used} were there already"
    # Another rate and other labels: the same features.
    table.write_text("\n".join(["image,count", *[cell[:-1] + str(int(cell[-1]) ^ 1)
                                                  for cell in cells]]))  # fmt: skip
    assert run() == f"Features: 0 computed, {num_used} were there already"
    # Other pixels in one file of training or validation, and the model under another name.
    changed = data_loading.load_data(specs.DataSpec(data=str(table))).train.keys[0]
    pixels = np.full((12, 12, 3), 77, np.uint8)
    (tmp_path / changed).write_bytes(tf.io.encode_png(pixels).numpy())
    shutil.move(tmp_path / "tiny.h5", tmp_path / "moved.h5")
    os.symlink(tmp_path / "moved.h5", tmp_path / "tiny.h5")
    assert run() == f"Features: 1 computed, {num_used - 1} were there already"
    # Another precision, and other weights: other features.
    assert run(feature_precision="bfloat16") == f"Features: {num_used} computed"
    os.remove(tmp_path / "tiny.h5")
    tiny.make_classifier(seed=1).save(tmp_path / "tiny.h5")
    assert run() == f"Features: {num_used} computed"


def test_an_example_of_two_parts_is_computed_once(folder, tmp_path):
    built, backbone, task = make_task(
        folder / "labels.csv", folder / "tiny.h5", (specs.HeadSpec(name="count"),),
        feature_cache="memory",
    )  # fmt: skip
    splits = dataclasses.replace(
        task.splits, validation=dataclasses.replace(task.splits.train, name="validation")
    )
    outcome = fit(built, backbone, dataclasses.replace(task, splits=splits))
    count = len(task.splits.train)
    assert features_line(outcome) == f"Features: {count} computed, {count} were there already"


def test_a_dry_run_keeps_nothing(folder, tmp_path):
    built, backbone, task = make_task(
        folder / "labels.csv", folder / "tiny.h5", (specs.HeadSpec(name="count"),),
        feature_cache="disk", cache_dir=str(tmp_path / "features"),
    )  # fmt: skip
    outcome = fit(built, backbone, task, dry_run=True)
    assert outcome.result.cost.total_secs[0] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_deadline_ends_the_pass_and_keeps_what_was_computed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_pass, "_PASS_BATCH", 4)
    monkeypatch.setattr(store, "_FLUSH_SECS", 1e9)
    options = {"feature_cache": "disk", "cache_dir": str(tmp_path)}
    heads_of_count = (specs.HeadSpec(name="count"),)
    built, backbone, task = make_task(
        folder / "labels.csv", folder / "tiny.h5", heads_of_count, **options
    )
    features = training.plan_features(built, backbone, task, announce=lambda text: None)
    make, calls = feature_pass._make_dataset, []

    def make_counting(*args, **options):
        for batch in make(*args, **options):
            calls.append(batch)
            yield batch

    monkeypatch.setattr(feature_pass, "_make_dataset", make_counting)
    # A clock on which the time is over when the third batch is read, however slow this machine is.
    clock = types.SimpleNamespace(monotonic=lambda: 2e9 if len(calls) >= 3 else 0.0)
    monkeypatch.setattr(feature_pass, "time", clock)
    outcome = fit(built, backbone, task, deadline=1e9, features=features)
    monkeypatch.undo()
    total = len(task.splits.train) + len(task.splits.validation)
    assert outcome.lines[-1] == (
        f"Phase head: not started, --max_minutes is over: 8 of {total} features were computed "
        "and are kept."
    )
    assert outcome.result.phases == ()
    for path, value in outcome.start.items():
        np.testing.assert_array_equal(outcome.weights[path], value)
    again = train(folder, heads_of_count, **options)
    assert features_line(again) == f"Features: {total - 8} computed, 8 were there already"


def test_what_does_not_fit_is_refused_before_anything_is_written(folder, tmp_path):
    built = make_task(
        folder / "labels.csv", folder / "tiny.h5", (specs.HeadSpec(name="count"),),
        feature_cache="disk", cache_dir=str(tmp_path / "new"), cache_max_gb=1e-6,
    )  # fmt: skip
    with pytest.raises(findings.RefusedError) as caught:
        fit(*built)
    assert caught.value.problems[0].message == (
        "--feature_cache=disk would keep 2.6e-06 GB of features (32 bytes per example), and there "
        "is room for 1e-06 GB. Expected less: freeze more layers, give a larger --cache_max_gb, or "
        "--feature_cache=off."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_bound_is_kept_when_the_data_change_again_and_again(folder, tmp_path):
    """Features of former data make room, those of this run never do."""
    bound = 82 * (32 + 16) + 3000
    for seed in range(4):
        own = tmp_path / f"data{seed}"
        (own / "images").mkdir(parents=True)
        generator = np.random.default_rng(seed)
        for number in range(90):
            pixels = generator.integers(0, 256, (12, 12, 3), np.uint8)
            (own / "images" / f"{number:03d}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        (own / "labels.csv").write_text((folder / "labels.csv").read_text())
        os.symlink(folder / "tiny.h5", own / "tiny.h5")
        outcome = train(
            own, (specs.HeadSpec(name="count"),), feature_cache="disk",
            cache_dir=str(tmp_path / "features"), cache_max_gb=bound / 1e9,
        )  # fmt: skip
        assert features_line(outcome) == "Features: 82 computed"
        sizes = [path.stat().st_size for path in (tmp_path / "features").rglob("*.shard")]
        assert sum(sizes) <= bound
        assert not any(line.startswith("Warning") for line in outcome.lines)


def test_a_cache_that_cannot_be_written_is_memory(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file"))
    outcome = train(folder, (specs.HeadSpec(name="count"),), feature_cache="disk", cache_dir=None)
    (line,) = [line for line in outcome.lines if line.startswith("Warning")]
    assert line.startswith("Warning: features cannot be kept on the disk (")
    assert line.endswith("); they stay in memory.")
    assert features_line(outcome) == "Features: 82 computed"


def test_what_nobody_tried_is_no_trials_choice(folder, tmp_path):
    """A later run that may round makes its own trial."""
    options = {"feature_cache": "disk", "feature_precision": "auto", "precision": "float32"}
    train(folder, (specs.HeadSpec(name="count"),), cache_dir=str(tmp_path), **options)
    (space,) = tmp_path.iterdir()
    assert spaces.read_about(str(tmp_path), space.name)["is_tried"] is False


def test_a_file_that_is_gone_is_named(folder, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("features"))
    built, backbone, task = make_task(
        own / "labels.csv", own / "tiny.h5", (specs.HeadSpec(name="count"),), feature_cache="memory"
    )
    listed = data_loading.load_data(specs.DataSpec(data=str(own / "labels.csv")), heads=task.heads)
    task = dataclasses.replace(task, splits=listed)
    path = os.fsdecode(listed.train.inputs.paths[listed.train.indices[0]])
    os.remove(path)
    with pytest.raises(findings.RefusedError) as caught:
        fit(built, backbone, task)
    assert caught.value.problems[0].message == (
        f"{path}: was there when the data were listed and cannot be read now: No such file or "
        "directory. Put it back and run the same command again."
    )
