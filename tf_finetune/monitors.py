"""The numbers that training watches: Keras's logs under our names, and which can be monitored."""

from collections.abc import Sequence

from tf_finetune import head_kinds, objectives, specs

HIGHER_IS_BETTER = {objectives.CROSS_ENTROPY: False, objectives.ACCURACY: True}


def read_logs(logs: dict[str, float], heads: Sequence[specs.HeadSpec]) -> dict[str, float]:
    """Keras's logs under our names.

    Keras's own loss is left out: it is a weighted sum that depends on the batch's share of a
    replica. What is monitored and recorded are means over examples.

    Args:
      logs: of an epoch; with several heads Keras writes HEAD_METRIC, with one METRIC.
      heads: the heads, with their loss weights.

    Returns:
      {"cross_entropy": sum over heads by loss_weight, "accuracy": ...}; with several heads
      HEAD/METRIC for each; validation metrics have the prefix "val_".
    """
    values: dict[str, float] = {}
    for prefix in ("", "val_"):
        if not any(name.startswith("val_") == (prefix == "val_") for name in logs):
            continue
        total = 0.0
        for head in heads:
            for metric in (objectives.CROSS_ENTROPY, objectives.ACCURACY):
                key = metric if len(heads) == 1 else f"{head.name}_{metric}"
                ours = metric if len(heads) == 1 else f"{head.name}/{metric}"
                if f"{prefix}{key}" in logs:
                    values[f"{prefix}{ours}"] = float(logs[f"{prefix}{key}"])
                    if metric == objectives.CROSS_ENTROPY:
                        total += head.loss_weight * values[f"{prefix}{ours}"]
        values[f"{prefix}{objectives.CROSS_ENTROPY}"] = total
    return values


def check_monitor(monitor: str, infos: Sequence[head_kinds.HeadInfo]) -> None:
    """Checks that a monitor exists.

    Args:
      monitor: METRIC or HEAD/METRIC.
      infos: the heads.

    Raises:
      SpecError: it is none of those there are, which are listed.
    """
    known = [objectives.CROSS_ENTROPY]
    if len(infos) == 1:
        known.append(objectives.ACCURACY)
    else:
        known += [f"{info.name}/{metric}" for info in infos for metric in HIGHER_IS_BETTER]
    if monitor not in known:
        raise specs.SpecError(f"--monitor expects one of {', '.join(known)}. Received {monitor!r}.")
