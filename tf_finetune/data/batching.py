"""How many examples each batch of an epoch has, so that no device is left without one.

One idea: a batch is divided among R devices in parts of ceil(size / R), so the last device may get
nothing (1 example on 2 devices, 5 on 4), and convolutions and BatchNormalization of TensorFlow 2.21
fail on an empty batch. Only the end of an epoch is changed for it.
"""

from tf_finetune import options


def plan_batches(num_examples: int, *, batch_size: int, num_replicas: int = 1) -> tuple[int, ...]:
    """The sizes of an epoch's batches.

    Args:
      num_examples: at least 0.
      batch_size: examples of a batch over all devices, at least 1.
      num_replicas: devices.

    Returns:
      As many full batches as there are, then the rest; where the rest would leave a device without
      examples, it goes with the last full batches into one or two that do not.

    Raises:
      options.SpecError: full batches, or so few examples, leave a device without any.
    """
    sizes = [batch_size] * (num_examples // batch_size)
    if sizes and not _reaches_all(batch_size, num_replicas):
        raise options.SpecError(
            f"A step of {batch_size} examples leaves one of {num_replicas} devices without any. "
            f"Expected a --batch_size that is a multiple of {num_replicas}."
        )
    rest = num_examples % batch_size
    if not rest:
        return tuple(sizes)
    if _reaches_all(rest, num_replicas):
        return (*sizes, rest)
    together = rest
    while sizes:
        together += sizes.pop()
        for first in range(together, together // 2, -1):
            parts = [part for part in (first, together - first) if part]
            if all(_reaches_all(part, num_replicas) for part in parts):
                return (*sizes, *parts)
    raise options.SpecError(
        f"{num_examples} examples leave one of {num_replicas} devices without any. Expected at "
        f"least {num_replicas}: use --strategy=one_device."
    )


def _reaches_all(size: int, num_replicas: int) -> bool:
    return -(-size // num_replicas) * (num_replicas - 1) < size
