"""The numbers that training watches: Keras's logs under our names, and which can be monitored."""

from collections.abc import Sequence

from tf_finetune import head_kinds, specs

TOTAL = "loss"
HIGHER_IS_BETTER = {
    head_kinds.CROSS_ENTROPY: False,
    head_kinds.ACCURACY: True,
    head_kinds.SQUARED_ERROR: False,
    head_kinds.ABSOLUTE_ERROR: False,
    TOTAL: False,
}


def name_total(infos: Sequence[head_kinds.HeadInfo]) -> str:
    """The number that training watches unless told otherwise: the heads' losses, summed.

    Args:
      infos: the heads.

    Returns:
      "cross_entropy" where every head has classes, "mean_squared_error" of a single regression
      head, else "loss".
    """
    losses = {head_kinds.HEAD_KINDS[info.kind].train_metrics[0] for info in infos}
    if losses == {head_kinds.CROSS_ENTROPY} or len(infos) == 1:
        return losses.pop()
    return TOTAL


def read_logs(
    logs: dict[str, float],
    heads: Sequence[specs.HeadSpec],
    infos: Sequence[head_kinds.HeadInfo],
) -> dict[str, float]:
    """Keras's logs under our names.

    Keras's own loss is left out: it is a weighted sum that depends on the batch's share of a
    replica. What is monitored and recorded are means over labelled examples.

    Args:
      logs: of an epoch; with several heads Keras writes HEAD_METRIC, with one METRIC.
      heads: the heads, with their loss weights.
      infos: the same heads with their kinds.

    Returns:
      {METRIC: value} of a single head; of several HEAD/METRIC for each, and `name_total`: the sum
      of their losses by loss_weight, squared errors in the variance of the training labels.
      Validation metrics have the prefix "val_".
    """
    values: dict[str, float] = {}
    single = len(heads) == 1
    for prefix in ("", "val_"):
        if not any(name.startswith("val_") == (prefix == "val_") for name in logs):
            continue
        total = 0.0
        for head, info in zip(heads, infos, strict=True):
            metrics = head_kinds.HEAD_KINDS[info.kind].train_metrics
            for metric in metrics:
                key = metric if single else f"{head.name}_{metric}"
                ours = metric if single else f"{head.name}/{metric}"
                if f"{prefix}{key}" in logs:
                    values[f"{prefix}{ours}"] = float(logs[f"{prefix}{key}"])
                    if metric == metrics[0]:
                        loss = values[f"{prefix}{ours}"] / (1 if single else info.deviation**2)
                        total += head.loss_weight * loss
        values[f"{prefix}{name_total(infos)}"] = total
    return values


def check_monitor(monitor: str | None, infos: Sequence[head_kinds.HeadInfo]) -> None:
    """Checks that a monitor exists.

    Args:
      monitor: METRIC or HEAD/METRIC; None: `name_total`.
      infos: the heads.

    Raises:
      SpecError: it is none of those there are, which are listed.
    """
    known = [name_total(infos)]
    for info in infos:
        metrics = head_kinds.HEAD_KINDS[info.kind].train_metrics
        if len(infos) == 1:
            known.append(metrics[1])
        else:
            known += [f"{info.name}/{metric}" for metric in metrics]
    if monitor is not None and monitor not in known:
        raise specs.SpecError(f"--monitor expects one of {', '.join(known)}. Received {monitor!r}.")
