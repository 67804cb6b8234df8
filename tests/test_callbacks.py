import csv
import math
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import callbacks


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def keeper(run, values, **options):
    """A Keeper that sees the given validation values, one per epoch."""
    numbers = iter(values)
    return callbacks.Keeper(
        run,
        phase="head",
        read_logs=lambda logs: {"cross_entropy": 1.0, "val_cross_entropy": next(numbers)},
        patience=options.get("patience"),
        history_path=options.get("history_path"),
        writers={},
    )


def fit(model, epochs, *used):
    x = np.ones((4, 2), np.float32)
    model.fit(x, np.zeros(4), epochs=epochs, batch_size=2, verbose=0, callbacks=list(used))


def test_the_best_weights_are_kept(model):
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    run.start(model)
    weights = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()[0])
    )
    fit(model, 4, keeper(run, [0.5, 0.3, 0.4, 0.3]), note)
    assert (run.best_value, run.best_epoch) == (0.3, 2)
    np.testing.assert_array_equal(run.best_weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[3])


def test_direction_of_the_monitor(model):
    run = callbacks.Progress("accuracy", higher_is_better=True)
    assert run.offer(0.5, epoch=1, model=model)
    assert not run.offer(0.4, epoch=2, model=model)
    assert not run.offer(0.5, epoch=3, model=model)
    assert run.offer(0.6, epoch=4, model=model)
    assert run.best_epoch == 4


def test_patience_ends_a_phase(model):
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    kept = keeper(run, [0.5, 0.6, 0.4, 0.6, 0.7, 0.1], patience=2)
    fit(model, 6, kept)
    assert len(run.rows) == 5
    assert kept.out_of_patience
    assert kept.improved
    assert run.best_epoch == 3


def test_history_is_written_each_epoch_and_reads_back_exactly(model, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "_HISTORY_SECS", 0.0)  # else once a second
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    path = tmp_path / "logs" / "history.csv"
    fit(model, 2, keeper(run, [1 / 3, 0.1], history_path=str(path)))
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["val_cross_entropy"]) == 1 / 3
    assert list(rows[0]) == [
        "phase", "epoch", "learning_rate", "cross_entropy", "val_cross_entropy",
    ]  # fmt: skip


def test_a_validation_loss_of_nan_is_told(model):
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    with pytest.raises(
        callbacks.DivergedError,
        match=r"val_cross_entropy became nan in phase 'head', epoch 2\. Expected a finite number",
    ):
        fit(model, 3, keeper(run, [0.5, math.nan, 0.1]))
    assert run.best_epoch == 1


@pytest.mark.parametrize("values", [[0.5, 0.4], [None, None]])
def test_weights_of_nan_are_not_kept(model, values):
    """The loss of an epoch's last step is finite, and what it makes of the weights is not."""
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    run.start(model)
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model.set_weights([np.full((2, 1), np.nan)])
            if len(run.rows) == 1 and batch == 1
            else None
        )
    )
    kept = keeper(run, values)
    if values[0] is None:
        kept._read_logs = lambda logs: {"cross_entropy": 1.0}
    with pytest.raises(
        callbacks.DivergedError,
        match=r"The weights .*kernel are no finite numbers any more at the end of epoch 2, in "
        r"phase 'head'\. The best weights so far are kept; ",
    ) as caught:
        fit(model, 3, spoil, kept)
    assert caught.value.place == {"phase": "head", "epoch": 2}
    assert np.isfinite(run.best_weights[0]).all() and run.best_epoch == 1


def test_a_training_loss_of_nan_names_the_examples_of_its_steps(model):
    model.set_weights([np.full((2, 1), 1e30, np.float32)])
    asked = []

    def list_keys(*places):
        asked.append(places)
        return [f"{number}.png" for number in range(7)]

    with pytest.raises(callbacks.DivergedError) as caught:
        fit(model, 1, callbacks.StopOnNonFinite("fine", list_keys))
    assert str(caught.value) == (
        "The loss became inf in phase 'fine', epoch 1, step 1. Expected a finite number. Its "
        "batch: '0.png', '1.png', '2.png', '3.png', '4.png' and 2 more. The best weights so far "
        "are kept; try a smaller --learning_rate or --gradient_clip_norm=1."
    )
    assert asked == [(0, 0, 1)]
    assert caught.value.place["keys"] == [f"{number}.png" for number in range(7)]
    assert (caught.value.place["step"], caught.value.place["epoch"]) == (1, 1)


def test_a_training_loss_of_nan_names_phase_epoch_and_step(model):
    model.set_weights([np.full((2, 1), 1e30, np.float32)])
    with pytest.raises(
        callbacks.DivergedError,
        match=r"The loss became inf in phase 'fine', epoch 1, step 1\. Expected a finite number",
    ):
        fit(model, 1, callbacks.StopOnNonFinite("fine"))


def test_the_deadline_ends_training_after_a_step(model):
    stopper = callbacks.StopAtDeadline(time.monotonic())
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    fit(model, 5, stopper, count)
    assert seen == [0]
    assert stopper.reached
    stopper = callbacks.StopAtDeadline(math.inf)
    fit(model, 2, stopper)
    assert not stopper.reached


def test_the_order_variable_follows_the_epoch(model):
    variable = tf.Variable(7, dtype=tf.int64)
    seen = []
    fit(
        model,
        3,
        callbacks.ExampleOrder(variable),
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(int(variable.numpy()))
        ),
    )
    assert seen == [0, 1, 2]


def test_a_line_per_epoch_with_a_star_at_the_best(model, capsys):
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    lines = callbacks.EpochLines(run, label="head", first_epoch=0, num_epochs=2, steps=2)
    fit(model, 2, keeper(run, [0.5, 0.7]), lines)
    # The seconds are those of the machine.
    first, second = re.sub(r", \d+ s ", ", 0 s ", capsys.readouterr().out).splitlines()
    assert first == "head 1/2 2/2, 0 s  cross_entropy 1.0000  val_cross_entropy 0.5000 *"
    assert second == "head 2/2 2/2, 0 s  cross_entropy 1.0000  val_cross_entropy 0.7000"


def test_no_step_behind_the_end_is_told_of_several_at_once(model, capsys):
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", steps_per_execution=3)
    run = callbacks.Progress("cross_entropy", higher_is_better=False)
    lines = callbacks.EpochLines(run, label="head", first_epoch=0, num_epochs=1, steps=2)
    fit(model, 1, keeper(run, [0.5]), lines)
    assert capsys.readouterr().out.startswith("head 1/1 2/2, ")
    model.set_weights([np.full((2, 1), 1e30, np.float32)])
    with pytest.raises(callbacks.DivergedError, match=r"epoch 1, step 2\. Expected"):
        fit(model, 1, callbacks.StopOnNonFinite("fine"))
