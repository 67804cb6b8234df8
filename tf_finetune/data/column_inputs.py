"""Which columns feed which input of a model: settled once, before anything is trained."""

from collections.abc import Sequence

import numpy as np

from tf_finetune import findings
from tf_finetune.data import column_names, columns, vector_columns

# Name, shape without the batch, dtype of an input of a model.
Input = tuple[str, tuple[int | None, ...], str]

_CHUNK_ROWS = 2**16


def match_inputs(
    inputs: Sequence[Input], store: columns.Columns, *, model: str
) -> columns.ColumnsSpec:
    """Gives each input of a model its columns.

    A model's only input takes all feature columns in their order. Of several, each takes the
    column of its name, or those that --feature_columns=INPUT:a+b,OTHER:c gives it.

    Args:
      inputs: of the model; shapes (), (1,) or (d,).
      store: the feature columns of --data.
      model: value of --model, for messages.

    Returns:
      The inputs with their columns.

    Raises:
      findings.RefusedError: the number of columns is another than the model's, an input has no
        column or a column no input, or strings and numbers are confused; every mistake.
    """
    groups, texts = _group(inputs, store, model=findings.one_line(model))
    made = []
    for name, shape, dtype in inputs if not texts else ():
        names = groups[name]
        size = shape[0] if shape else 1
        if size not in (None, len(names)):
            texts.append(
                f"--model={findings.one_line(model)} takes {size} numbers in its input "
                f"'{findings.one_line(name)}', and {column_names.FLAG} names {len(names)} columns. "
                "Expected as many."
            )
        texts += _find_wrong_kinds(name, names, dtype, store=store)
        made.append(columns.ModelInput(name, names, dtype, (len(names),) if shape else ()))
    if texts:
        raise findings.RefusedError(
            *[findings.Problem(text, flag=column_names.FLAG) for text in texts]
        )
    return columns.ColumnsSpec(tuple(made))


def _group(
    inputs: Sequence[Input], store: columns.Columns, *, model: str
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """({input: its columns}, what is wrong)."""
    names = [name for name, _, _ in inputs]
    found = store.found
    if found.inputs:
        groups = dict(found.inputs)
    elif len(inputs) == 1:
        return {names[0]: found.names}, []
    else:
        groups = _group_vectors(found.names)
    texts = []
    absent = [name for name in names if name not in groups]
    if absent:
        texts.append(
            f"--model={model} has the inputs {findings.list_first(names, limit=20)}, and "
            f"{column_names.FLAG} gives none to {findings.list_first(absent, limit=20)}. Name a "
            "column as the input, or write INPUT:a+b,OTHER:c."
        )
    unused = [name for name in groups if name not in names]
    if unused:
        texts.append(
            f"--model={model} has no input for {findings.list_first(unused, limit=20)}. It has "
            f"{findings.list_first(names, limit=20)}. Leave the others out of "
            f"{column_names.FLAG}."
        )
    return groups, texts


def _group_vectors(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """{vector, or column that is in none: its columns}."""
    groups = {
        vector: tuple(vector_columns.name_elements(vector, length))
        for vector, length in vector_columns.find_vectors(names).items()
    }
    taken = {name for group in groups.values() for name in group}
    return {**{name: (name,) for name in names if name not in taken}, **groups}


def _find_wrong_kinds(
    name: str, names: tuple[str, ...], dtype: str, *, store: columns.Columns
) -> list[str]:
    kinds = store.kinds
    wanted = columns.STRING if dtype == "string" else columns.NUMBER
    wrong = [column for column in names if kinds[column] != wanted]
    if not wrong:
        return []
    shown = findings.list_first(wrong)
    head = f"The model's input '{findings.one_line(name)}' takes {dtype}"
    if wanted == columns.STRING:
        return [
            f"{head}, and there are only numbers in {shown}. {column_names.FLAG}="
            f"{findings.one_line(wrong[0])}=string reads them as strings."
        ]
    cell = findings.one_line(store.examples_of.get(wrong[0], ""))[:80]
    return [
        f"{head}, and there is text in {shown}, such as '{cell}'. Leave text out, or write "
        f"{column_names.FLAG}={findings.one_line(wrong[0])}=number to have each cell named that is "
        "no number."
    ]


def find_bad_ids(
    spec: columns.ColumnsSpec, store: columns.Columns, *, num_rows: dict[str, int]
) -> list[findings.Problem]:
    """Columns of whole numbers for a model that are none, or that it does not know.

    Args:
      spec: the inputs.
      store: the table.
      num_rows: {input: rows of the Embedding that it goes to}; such ids begin at 0.

    Returns:
      An error for each column that does not fit its input.
    """
    problems = []
    places = {name: place for place, name in enumerate(store.number_names)}
    wanted = [
        (name, part)
        for part in spec.inputs
        if part.dtype.startswith("int")
        for name in part.columns
    ]
    wrong: dict[str, float] = {}
    for start in range(0, len(store) if wanted else 0, _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, len(store)))
        numbers = store.matrix.read(rows)
        for name, part in wanted:
            values = numbers[:, places[name]].astype(np.float64)
            lowest, highest = _find_bounds(part, num_rows)
            bad = (values != np.floor(values)) | (values < lowest) | (values > highest)
            if bad.any():
                wrong.setdefault(name, float(values[bad][0]))
    for name, part in wanted:
        if name in wrong:
            message = (
                f"The model's input '{findings.one_line(part.name)}' takes {part.dtype}, and the "
                f"column '{findings.one_line(name)}' has {wrong[name]:.12g}. Expected whole numbers"
                + (f" from 0 to {num_rows[part.name] - 1}." if part.name in num_rows else ".")
            )
            problems.append(findings.Problem(message, flag=column_names.FLAG))
    return problems


def _find_bounds(part: columns.ModelInput, num_rows: dict[str, int]) -> tuple[float, float]:
    if part.name in num_rows:
        return 0.0, num_rows[part.name] - 1.0
    limits = np.iinfo(part.dtype)
    return float(limits.min), float(limits.max)
