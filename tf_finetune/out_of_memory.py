"""Too little memory, told with the number that decides how much is needed: the batch size.

One idea: TensorFlow says which tensor did not fit; who started the run can only change how many
examples are computed at a time.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tf_finetune import findings

# In the error of a step whose examples could not be read: the batch is not what was too large.
_READING = "IteratorGetNext"


@contextlib.contextmanager
def naming_batch_size(
    batch_size: int, *, what: str, advice: str = "", accumulates: bool = False
) -> Iterator[None]:
    """Turns TensorFlow's error for too little memory into one that says what to try.

    Args:
      batch_size: examples that the block computes at a time.
      what: the block does, for example "Training".
      advice: a sentence that is added.
      accumulates: whether --accumulate_steps makes up for smaller batches.

    Yields:
      None.

    Raises:
      findings.RefusedError: the memory was too small in the block.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if _READING in error.message:
            raise
        raise _refuse(batch_size, what, advice, error.message, accumulates=accumulates) from error
    except MemoryError as error:
        raise _refuse(batch_size, what, advice, str(error), accumulates=accumulates) from error


def _refuse(
    batch_size: int, what: str, advice: str, reason: str, *, accumulates: bool
) -> findings.RefusedError:
    first = findings.one_line(reason.strip().split("\n")[0])[:200]
    half = batch_size // 2
    hint = f"Expected a smaller one: --batch_size={half}"
    if accumulates:
        hint += ", with --accumulate_steps=2 for the same steps of the optimizer"
    if not half:
        hint = "Expected a smaller model or smaller inputs (--image_size, --sequence_length)"
    shown = f" ({first})" if first else ""
    text = f"{what} with --batch_size={batch_size} does not fit into the memory{shown}. {hint}."
    return findings.RefusedError(
        findings.Problem(" ".join(filter(None, [text, advice])), flag="--batch_size")
    )
