"""Class numbers, of sources that have no names, as the names of --classes."""

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.data import examples, json_rows, label_encoding


def read_names(spec: specs.DataSpec) -> tuple[str, ...]:
    """The names of --classes, for a source that needs them while it lists.

    Args:
      spec: the data options: `classes`.

    Returns:
      The names in their order; none without the flag, or where `label_encoding` will refuse it.
    """
    try:
        return label_encoding.read_classes(spec.classes) or ()
    except findings.RefusedError:
        return ()


def name_numbers(cells: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Numbers as names of --classes, unless they are names themselves.

    Args:
      cells: object [n] of str or of tuples of str; numbers in decimal.
      classes: of `read_names`.

    Returns:
      The same with the name at that place for each number; a number without one stays.
    """
    flat = {name for cell in cells for name in (cell if isinstance(cell, tuple) else (cell,))}
    if not classes or flat & set(classes):
        return cells
    names = {str(number): name for number, name in enumerate(classes)}
    return examples.object_array(
        [
            json_rows.ListCell.make(names.get(name, name) for name in json_rows.read_elements(cell))
            if isinstance(cell, tuple)
            else names.get(cell, cell)
            for cell in cells
        ]
    )
