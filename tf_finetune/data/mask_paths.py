"""Cells that name mask images, as paths. No mask is opened here."""

import os

import numpy as np

from tf_finetune import findings, regular_files
from tf_finetune.data import examples, tables


def resolve(
    part: examples.Examples, cells: np.ndarray, *, head: str, follow_links: bool
) -> tuple[np.ndarray, list[findings.Problem]]:
    """The masks that a label column names.

    Args:
      part: a source.
      cells: object [n] of str, its label column; paths relative to the table's folder.
      head: the head's name, for messages.
      follow_links: whether links may lead out of the table's folder.

    Returns:
      (object [n] of str, paths with surrogates for bytes that are not UTF-8, "" where a cell is
      empty; an error for each cell that names no file).
    """
    paths = examples.object_array(list(cells))  # A bad cell is no missing one.
    if part.lines is None:
        message = (
            f"--head=name={head},kind=segmentation takes a table (.csv, .tsv, .jsonl) with a "
            f"column of images and one of masks. {findings.one_line(part.source)} is none."
        )
        return paths, [findings.Problem(message, path=part.source, flag="--head")]
    folder = os.path.dirname(os.path.abspath(part.source))
    root = os.path.realpath(os.fsencode(folder))
    problems = []
    for row, cell in enumerate(cells):
        if not cell:
            continue
        relative, complaint = tables.resolve_cell(cell, folder)
        path = b""
        if not complaint:
            path, _, complaint = tables.find_file(folder, relative)
        if not complaint and not follow_links and regular_files.leads_outside(path, root):
            complaint = f"'{findings.one_line(cell)}' is, or lies behind, {regular_files.LINK_OUT}."
        if complaint:
            problems.append(part.problem(row, f"mask: {complaint}", flag="--head"))
        else:
            paths[row] = os.fsdecode(path)
    return paths, problems
