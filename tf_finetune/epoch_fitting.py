"""Runs a phase's epochs, from any step of one.

One idea: between two steps, and between an epoch's steps and its validation, a run may end and go
on; `fit` itself only begins whole epochs, so what was left of one comes first.
"""

from collections.abc import Sequence

import keras

from tf_finetune import (
    callbacks,
    checkpoint_writer,
    interruptions,
    phase_data,
    resuming,
    worker_callbacks,
    workers,
)


def fit_epochs(
    trainer: keras.Model,
    data: phase_data.PhaseData,
    recorder: resuming.Recorder,
    *,
    keeper: callbacks.Keeper,
    stopper: callbacks.StopAtDeadline,
    lines: callbacks.EpochLines,
    team: workers.Workers,
    run: callbacks.Progress,
    phase: str,
    last: int,
) -> None:
    """Runs the epochs of a phase that are not done, from where the recorder says that it stands.

    Args:
      trainer: the phase's compiled model.
      data: of the phase.
      recorder: of the run's checkpoints.
      keeper: of the phase.
      stopper: of the phase.
      lines: of the phase.
      team: the processes that train together.
      run: what the run knows about itself.
      phase: the phase's name.
      last: epochs of the run at the phase's end.

    Raises:
      callbacks.DivergedError: the loss became NaN or infinite.
      KeyboardInterrupt: a signal was obeyed, by most handlers.
      RefusedError: a checkpoint cannot be written.
    """
    if recorder.standing.step:
        # Keras builds the metrics on their first batch; before that they have no sums.
        trainer.evaluate(data.train.take(1), verbose=0)
    first = (
        callbacks.ExampleOrder(data.epoch),
        non_finite := callbacks.StopOnNonFinite(phase, data.list_keys),
        worker_callbacks.MeanStatistics(team),
    )
    # Until a step is done there is nothing to write down, and compiling takes long; but workers
    # end together, after a step.
    with interruptions.postponed(is_held=team.is_joined) as interruption:
        saver = checkpoint_writer.CheckpointWriter(
            recorder, keeper, steps=data.steps, interruption=interruption, team=team
        )
        listeners = [*first, stopper, keeper, lines, saver]
        while len(run.rows) < last and not (keeper.out_of_patience or stopper.reached):
            step = recorder.standing.step
            lines.first_step = non_finite.first_step = step
            if step >= data.steps:
                _end_epoch(trainer, data, listeners, epoch=len(run.rows))
                continue
            trainer.fit(
                data.make_rest(step) if step else data.train,
                validation_data=data.validation,
                initial_epoch=len(run.rows),
                # `fit` takes the number of steps of all epochs from the first.
                epochs=len(run.rows) + 1 if step else last,
                shuffle=False,
                verbose=0,
                callbacks=listeners,
            )


def _end_epoch(
    trainer: keras.Model,
    data: phase_data.PhaseData,
    listeners: Sequence[keras.callbacks.Callback],
    *,
    epoch: int,
) -> None:
    """What `fit` does once an epoch's steps are done, which an earlier run has done."""
    events = keras.callbacks.CallbackList(
        list(listeners), model=trainer, epochs=epoch + 1, steps=data.steps
    )
    events.on_epoch_begin(epoch)  # the sums of the metrics come back
    logs = dict(trainer.get_metrics_result())
    if data.validation is not None:
        found = trainer.evaluate(data.validation, callbacks=events, return_dict=True, verbose=0)
        logs.update({f"val_{name}": number for name, number in found.items()})
    events.on_epoch_end(epoch, logs)
