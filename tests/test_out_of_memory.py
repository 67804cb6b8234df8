import pytest
import tensorflow as tf

from tf_finetune import findings, out_of_memory


def refusal(batch_size, run, **options):
    with (
        pytest.raises(findings.RefusedError) as caught,
        out_of_memory.naming_batch_size(batch_size, what="Training", **options),
    ):
        run()
    (problem,) = caught.value.problems
    return problem.message


def allocate():
    """A tensor of 4 PB, which no machine has."""
    return tf.zeros([2**25, 2**25], tf.float32)


def test_tensorflow_has_too_little():
    message = refusal(32, allocate)
    assert message.startswith(
        "Training with --batch_size=32 does not fit into the memory (OOM when allocating tensor "
    ) or message.startswith("Training with --batch_size=32 does not fit into the memory ({{")
    assert message.endswith("). Expected a smaller one: --batch_size=16.")
    assert "\n" not in message
    message = refusal(32, allocate, accumulates=True, advice="Do it.")
    assert message.endswith(
        ": --batch_size=16, with --accumulate_steps=2 for the same steps of the optimizer. Do it."
    )


def test_one_example_is_too_much():
    assert refusal(1, allocate).endswith(
        "Expected a smaller model or smaller inputs (--image_size, --sequence_length)."
    )


def test_python_has_too_little():
    message = refusal(8, lambda: bytearray(2**62))
    assert message == (
        "Training with --batch_size=8 does not fit into the memory. Expected a smaller one: "
        "--batch_size=4."
    )


def test_an_example_that_cannot_be_read_is_another_fault():
    error = tf.errors.ResourceExhaustedError(None, None, "OOM [[{{node IteratorGetNext}}]]")
    with (
        pytest.raises(tf.errors.ResourceExhaustedError),
        out_of_memory.naming_batch_size(8, what="Training"),
    ):
        raise error
