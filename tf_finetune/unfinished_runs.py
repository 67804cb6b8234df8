"""What is left of a run that did not come to its end, and what its user is told."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from tf_finetune import (
    callbacks,
    findings,
    out_of_memory,
    run_folder,
    run_state,
    trained,
    training,
    workdir,
)
from tf_finetune.data import pipeline

_OTHER_RUN = (
    "With other flags it is another run: choose another --workdir too. Where memory was taken by "
    "something else, run the same command again to go on."
)


@contextlib.contextmanager
def naming_faults(task: training.Task) -> Iterator[None]:
    """Names what a user can change where data or memory fail while the block trains.

    Args:
      task: what is trained.

    Yields:
      None.

    Raises:
      RefusedError: a file is gone or cannot be read any more, or the memory is too small.
    """
    splits = task.splits
    with (
        pipeline.naming_bad_images(splits.train, splits.validation, pre=task.preprocessing),
        out_of_memory.naming_batch_size(
            task.train.batch_examples, what="Training", advice=_OTHER_RUN, accumulates=True
        ),
    ):
        yield


def keep_best(run: run_state.Run, outcome: trained.TrainedModel, error: BaseException) -> None:
    """Leaves what there is of a run that was interrupted or has diverged.

    Args:
      run: the run.
      outcome: the model with its best weights so far.
      error: what has ended it.

    Raises:
      OSError: the workdir cannot be written.
    """
    text = "No epoch has ended."
    has_epoch = os.path.isfile(os.path.join(run.folder, workdir.HISTORY))
    if has_epoch or isinstance(error, callbacks.DivergedError):
        trained.write_trained(run.folder, outcome)  # fit has put the best weights back
        text = (
            f"The best weights so far are in {run.folder}: --mode=evaluate and --mode=export "
            "work on them."
        )
    run.announce(f"{text} {_describe_next(run, error)}")
    if isinstance(error, callbacks.DivergedError):
        summary: dict[str, Any] = {"status": run_folder.DIVERGED, "seconds": run.clock.total()}
        if error.place:
            summary["diverged"] = error.place
        workdir.write_json(os.path.join(run.folder, workdir.SUMMARY), summary)
        remove_checkpoints(run)


def remove_checkpoints(run: run_state.Run) -> None:
    """Removes what a run that has ended will not go on from.

    Args:
      run: the run; it is warned where that fails.
    """
    try:
        run_folder.remove_checkpoints(run.folder)
    except OSError as error:
        message = f"The checkpoints in {run.folder} cannot be removed: {error.strerror}."
        run.warn((findings.Problem(message, severity=findings.WARNING),))


def _describe_next(run: run_state.Run, error: BaseException) -> str:
    if isinstance(error, callbacks.DivergedError):
        return "To train again, choose other flags and another --workdir."
    start = "" if run_folder.has_checkpoint(run.folder) else ", from the start of training"
    return f"Run the same command again to go on{start}."
