"""Cells with a tag for each word of a text.

One idea: words are what white space parts, in the data as in the graph, so how many tags a text
needs is known before any model is. Which piece of a word speaks for it is the model's business.
"""

import numpy as np

from tf_finetune import findings
from tf_finetune.data import examples, json_rows, text_store
from tf_finetune.text import spaces


def read(
    part: examples.Examples, cells: np.ndarray, *, head: str
) -> tuple[np.ndarray, list[findings.Problem]]:
    """The tags of a label column.

    Args:
      part: a source.
      cells: object [n] of its label column: tags with spaces between them, or tuples of tags.
      head: the head's name, for messages.

    Returns:
      (object [n] of tuples of str, "" where a cell is empty; an error for each cell that has not a
      tag for each word).
    """
    found = [_read_cell(cell) for cell in cells]
    tags = examples.object_array([own or "" for own in found])
    if not isinstance(part.inputs, text_store.Texts):
        message = (
            f"--head=name={head},kind=token_classification takes a table with a column of texts "
            f"(--text_column). {findings.one_line(part.source)} holds none."
        )
        return tags, [findings.Problem(message, path=part.source, flag="--head")]
    problems = []
    for row, own in enumerate(found):
        num_words = len(spaces.split_words(part.inputs.texts[row]))
        odd = next((tag for tag in own if spaces.split_words(tag) != [tag]), None)
        message = ""
        if odd is not None:
            message = f"tag '{findings.one_line(odd)}': expected one word."
        elif own and len(own) != num_words:
            message = f"expected a tag for each of {num_words} words. Received {len(own)} tags."
        if message:
            problems.append(part.problem(row, message, flag="--head"))
    return tags, problems


def _read_cell(cell: object) -> tuple[str, ...]:
    if isinstance(cell, tuple):
        return json_rows.read_elements(cell)
    return tuple(spaces.split_words(str(cell)))
