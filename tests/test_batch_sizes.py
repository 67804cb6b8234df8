import dataclasses
import gc
import json

import numpy as np
import pytest
import tensorflow as tf

from tests import test_training, tiny
from tf_finetune import batch_sizes, findings, runs, specs, verbs, workdir
from tf_finetune.data import loading as data_loading
from tf_finetune.data import pipeline, preprocessing

GIB = 2**30


@pytest.mark.parametrize(
    ("num_examples", "accumulate_steps", "sizes"),
    [
        (3, 1, (8,)),
        (255, 1, (8,)),
        (256, 1, (8, 16)),
        (1023, 1, (8, 16, 32)),
        (1024, 4, (8, 16)),
        (10**6, 1, (8, 16, 32, 64, 128, 256)),
    ],
)
def test_an_epoch_keeps_16_steps(num_examples, accumulate_steps, sizes):
    assert batch_sizes.find_sizes(num_examples, accumulate_steps=accumulate_steps) == sizes


def test_the_largest_size_that_should_fit():
    # 0.25 GiB for each example more.
    measured = batch_sizes.StepMemory((8, 16), (3 * GIB, 5 * GIB), 32 * GIB)
    assert [measured.predict(size) for size in (8, 16, 32)] == [3 * GIB, 5 * GIB, 9 * GIB]
    limit = "16.00 GiB, half of the memory that was free (measured at 8 and 16 examples)"
    assert batch_sizes.find_by_memory((8, 16, 32, 64, 128), measured) == (
        32,
        f"a step takes about 9.00 GiB, and of 64 it would take 17.00 GiB, more than {limit}",
    )
    assert batch_sizes.find_by_memory((8, 16), measured) == (
        16,
        f"a step takes about 5.00 GiB of {limit}, and more would leave fewer than 16 steps to an "
        "epoch",
    )
    small = batch_sizes.StepMemory((8, 16), (2**20, 2**20 - 5), 32 * GIB)
    size, reason = batch_sizes.find_by_memory(batch_sizes.SIZES, small)
    assert size == 256
    assert reason.endswith(", and no more is tried")
    full = batch_sizes.StepMemory((8, 16), (3 * GIB, 5 * GIB), 4 * GIB)
    assert batch_sizes.find_by_memory((8, 16, 32), full) == (
        8,
        "even a step of it takes about 3.00 GiB and may not fit into 2.00 GiB, half of the memory "
        "that was free (measured at 8 and 16 examples)",
    )


@pytest.mark.parametrize(
    ("most", "size", "reason"),
    [
        (64, 64, "its steps fit into the device's memory, and more would leave fewer than 16 step"),
        (32, 32, "its steps fit into the device's memory, those of 64 do not"),
        (15, 8, "steps of 16 do not fit into the device's memory"),
    ],
)
def test_a_device_is_asked_from_the_largest_on(most, size, reason):
    tried = []

    def run_steps(number):
        tried.append(number)
        if number > most:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    found, why = batch_sizes.find_by_trying((8, 16, 32, 64), run_steps)
    assert found == size
    assert why.startswith(reason)
    assert tried == [number for number in (64, 32, 16) if number >= size]


def test_memory_that_comes_and_goes_is_seen():
    watch = batch_sizes._MemoryWatch()
    with watch:
        block = np.ones(64 * 2**20, np.uint8)
        threshold = int(block.sum()) * 3 // 4
        del block
        gc.collect()
    assert threshold < watch.grown_bytes < 2**30


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Folder of 264 training images, and a model."""
    folder = tmp_path_factory.mktemp("batch_sizes")
    tiny.write_color_folder(folder / "colors", per_class=110)
    tiny.make_classifier().save(folder / "tiny.h5")
    return folder


def run_spec(folder, name, batch_size):
    return specs.RunSpec(
        workdir=str(folder / name),
        model=specs.ModelSpec(model=str(folder / "tiny.h5"), pixel_range="0..1"),
        data=specs.DataSpec(data=str(folder / "colors")),
        heads=(specs.HeadSpec(name="label", dropout=0.3),),
        train=specs.TrainSpec(
            batch_size=batch_size,
            phases=(
                specs.PhaseSpec(name="head", epochs=2, freeze="all", learning_rate=0.03),
                specs.PhaseSpec(name="all", epochs=2, freeze="none", learning_rate=0.01),
            ),
        ),
    )


def test_a_run_with_the_chosen_number_is_the_same_to_the_last_bit(many):
    lines = []
    runs.train(run_spec(many, "auto", "auto"), announce=lines.append)
    (line,) = [line for line in lines if "--batch_size=auto" in line]
    assert line.startswith("Batch size 16 (--batch_size=auto): a step takes about ")
    assert line.endswith(
        " and more would leave fewer than 16 steps to an epoch. The learning rate stays as it is, "
        "whatever the size."
    )
    assert "--batch_size=16\n" in (many / "auto" / "run.flags").read_text()
    runs.train(run_spec(many, "number", 16), announce=test_training.silent)
    histories = [(many / name / workdir.HISTORY).read_bytes() for name in ("auto", "number")]
    assert histories[0] == histories[1]
    # Found finished; measured with the number that was chosen.
    lines.clear()
    runs.train(run_spec(many, "auto", "auto"), announce=lines.append)
    assert not any("Batch size" in line for line in lines)
    verbs.evaluate(str(many / "auto"), announce=test_training.silent)
    summary = json.loads((many / "auto" / "summary.json").read_text())
    assert summary["status"] == "completed"


def test_an_interrupted_run_goes_on_with_its_number(many):
    lines = []

    def announce(text):
        lines.append(text)
        if text.startswith("Phase all:"):
            raise KeyboardInterrupt

    spec = run_spec(many, "ended", "auto")
    with pytest.raises(KeyboardInterrupt):
        runs.train(spec, announce=announce)
    assert any(line.startswith("Batch size 16 ") for line in lines)
    lines.clear()
    runs.train(spec, announce=lines.append)
    assert not any("Batch size" in line for line in lines)
    assert any(line.startswith("Going on from checkpoint") for line in lines)
    assert "--batch_size=16\n" in (many / "ended" / "run.flags").read_text()


@pytest.fixture(scope="module")
def material(many):
    spec = specs.DataSpec(data=str(many / "colors"))
    splits = data_loading.load_data(spec)
    prepared = preprocessing.make_preprocessing(spec, input_shape=(12, 12, 3))
    splits, prepared, _ = pipeline.read_images(splits, prepared, on_bad_example="error")
    return splits, prepared, str(many / "tiny.h5")


def test_the_trial_leaves_the_model_as_it_was(material):
    model, backbone, task = test_training.build(material, dropout=0.3, accumulate_steps=1)
    before = model.get_weights()
    states = [np.array(variable) for variable in model.variables]
    chosen = batch_sizes.choose(model, backbone, task, strategy=None, announce=test_training.silent)
    assert chosen == 16
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, variable in zip(states, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
    assert all("call" not in vars(layer) for layer in backbone.model.layers)


def test_few_examples_need_no_trial(material):
    model, backbone, task = test_training.build(material, accumulate_steps=4)
    lines = []
    assert batch_sizes.choose(model, backbone, task, strategy=None, announce=lines.append) == 8
    assert lines == [
        "Batch size 8 (--batch_size=auto): more of the 264 training examples would leave fewer "
        "than 16 steps to an epoch. The learning rate stays as it is, whatever the size."
    ]


def test_a_system_that_does_not_tell_is_refused(material, monkeypatch):
    monkeypatch.setattr(batch_sizes, "_STATM", "/proc/none/statm")
    model, backbone, task = test_training.build(material)
    with pytest.raises(findings.RefusedError) as error:
        batch_sizes.choose(model, backbone, task, strategy=None, announce=test_training.silent)
    assert str(error.value) == (
        "--batch_size=auto watches the memory of its process in /proc/none/statm, which this "
        "system does not have. Expected a number: --batch_size=32."
    )


@pytest.mark.slow
def test_the_prediction_is_near_what_larger_steps_take(material):
    path = "keras:mobilenetv2,weights=none,input_shape=96x96x3"
    splits, _, _ = material
    prepared = preprocessing.PreprocessingSpec(96, 96, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (330, 96, 96, 3)).astype(np.uint8)
    store = dataclasses.replace(splits.train.inputs, pixels=pixels)
    train = dataclasses.replace(splits.train, inputs=store)
    model, backbone, task = test_training.build(
        (dataclasses.replace(splits, train=train, validation=train.head(0)), prepared, path),
        phases=(specs.PhaseSpec(name="all", epochs=1, freeze="none"),),
    )
    with batch_sizes._trying(model, backbone, task, strategy=None) as run_steps:
        measured = batch_sizes._measure(run_steps)
        watch = batch_sizes._MemoryWatch()
        with watch:
            run_steps(64)
    # What the small steps left is part of what a larger one takes.
    grown = measured.grown_bytes[1] + watch.grown_bytes
    assert grown / 2 < measured.predict(64) < 2 * grown
