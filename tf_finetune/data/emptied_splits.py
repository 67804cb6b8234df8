"""What skipping bad examples leaves: never a split or a class of training without any.

One idea: --on_bad_example=skip is for the few bad ones of many. Where it takes all of something, a
run would end well and mean nothing.
"""

from collections.abc import Sequence

from tf_finetune import findings, head_kinds
from tf_finetune.data import loading


def check(splits: loading.Splits, kept: Sequence[loading.Split], *, fault: str, bad: str) -> None:
    """Refuses what is left where that is nothing.

    Args:
      splits: the examples before.
      kept: training, validation and test without the skipped ones.
      fault: what none of them does, "can be decoded".
      bad: a sentence that names the skipped ones.

    Raises:
      findings.RefusedError: a split had examples and has none, or a class of the training split.
    """
    problems = []
    for old, new in zip(splits.parts, kept, strict=True):
        if len(old) and not len(new):
            message = (
                f"The {old.name} split has no image left: none of its {len(old)} {fault}. {bad} "
                "Repair them or choose other data."
            )
            problems.append(findings.Problem(message))
    for head in splits.heads if len(kept[0]) else ():
        counts = [
            head_kinds.count_labels(
                part.labels[head.name], kind=head.kind, num_classes=len(head.classes)
            )
            for part in (splits.train, kept[0])
        ]
        for name, old_count, new_count in zip(head.classes, *counts, strict=True):
            if old_count and not new_count:
                message = (
                    f"Class '{findings.one_line(name)}' of head '{head.name}' has no training "
                    f"image left: none of its {old_count} {fault}. {bad} Repair them or remove the "
                    "class."
                )
                problems.append(findings.Problem(message))
    if problems:
        raise findings.RefusedError(*problems)
