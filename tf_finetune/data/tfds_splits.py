"""What --data=tfds:NAME/SPLIT may ask for: a split of the data set, a slice, or several joined.

Reference: TensorFlow Datasets, "Splits and slicing", https://www.tensorflow.org/datasets/splits.
"""

import re
import typing

from tf_finetune import findings
from tf_finetune.data import examples

_PART = re.compile(r"\s*(?P<name>[^\[\]+\s]+)\s*(\[[^\[\]]*\])?\s*")


def find_fault(builder: typing.Any, split: str) -> str:
    """What forbids reading a split.

    Args:
      builder: of a prepared data set.
      split: as the user wrote it.

    Returns:
      What is wrong, without a full stop; "" of a split with examples.
    """
    names = sorted(builder.info.splits)
    shown = findings.one_line(split)
    for part in split.split("+"):
        match = _PART.fullmatch(part)
        if match is None:
            return f"'{shown}' is no split. Expected one as train, or a slice as train[:80%]"
        if match["name"] not in names:
            hint = examples.nearest_name(match["name"], names)
            listed = findings.list_first(names, limit=20)
            return f"no split '{findings.one_line(match['name'])}'.{hint} It has {listed}"
    try:
        count = builder.info.splits[split].num_examples
    except (AssertionError, KeyError, ValueError):
        return f"'{shown}' is no slice. Expected one as train[:80%] or train[100:200]"
    return "" if count else f"the split '{shown}' holds no example"
