"""Which inputs of a model take the image or the text of a row, and which its columns.

One idea: a model that has inputs beside the image or the text was made for columns, so each takes
that of its name; one that has none leaves the columns to the heads.
"""

from tf_finetune import findings
from tf_finetune.data import (
    column_encoding,
    column_inputs,
    column_names,
    columns,
    image_stores,
    mixed_spec,
    preprocessing,
    text_store,
)


def find_main_input(
    inputs: tuple[column_inputs.Input, ...], store: columns.Columns, *, is_text: bool, model: str
) -> column_inputs.Input:
    """The input of a model that takes the image or the text.

    Args:
      inputs: of the model.
      store: the feature columns.
      is_text: the rows have texts.
      model: value of --model, for messages.

    Returns:
      The only input of images; of texts the input of strings that is named like the column of
      texts, else the only one that no feature column is for.

    Raises:
      findings.RefusedError: there is no such input, or several.
    """
    if len(inputs) == 1:
        return inputs[0]
    if not is_text:
        found = [part for part in inputs if len(part[1]) == 3]
    else:
        strings = [part for part in inputs if part[2] == "string"]
        fed = store.found.inputs or store.found.names
        found = [part for part in strings if part[0] == store.beside and part[0] not in fed]
        found = found or [part for part in strings if part[0] not in fed]
    if len(found) == 1:
        return found[0]
    kind = "text" if is_text else "image"
    shown = findings.list_first([name for name, _, _ in inputs], limit=20)
    here = f"the {kind}s of the column '{findings.one_line(store.beside)}'"
    message = f"--model={findings.one_line(model)} has no input for {here}. It has {shown}"
    if found:
        names = findings.list_first([name for name, _, _ in found], limit=20)
        message = (
            f"--model={findings.one_line(model)} has several inputs that could take {here}: {names}"
        )
    message += f", and {column_names.FLAG} names {_list_columns(store)}."
    if is_text:
        message += " Name the column of texts like the input that takes it."
    raise findings.RefusedError(findings.Problem(message, flag=column_names.FLAG))


def settle(
    main: preprocessing.PreprocessingSpec | text_store.TextSpec,
    inputs: tuple[column_inputs.Input, ...],
    store: columns.Columns,
    *,
    model: str,
) -> mixed_spec.MixedSpec:
    """Settles what each input of the trained model takes.

    Args:
      main: what happens to the image, or a TextSpec.
      inputs: of the backbone.
      store: the feature columns of --data.
      model: value of --model, for messages.

    Returns:
      The spec. Of a backbone with one input, its columns are those of `column_encoding.make_spec`.

    Raises:
      findings.RefusedError: the columns and the model's inputs do not fit, or a column has the name
        that a server gives the image or the text.
    """
    is_text = isinstance(main, text_store.TextSpec)
    taken = find_main_input(inputs, store, is_text=is_text, model=model)
    others = tuple(part for part in inputs if part is not taken)
    if others:
        spec = _match_columns(others, store, kind="text" if is_text else "image", model=model)
    elif store.found.inputs:
        names = findings.list_first(list(store.found.inputs), limit=20)
        message = (
            f"{column_names.FLAG} names the inputs {names}, and --model={findings.one_line(model)} "
            f"has only '{findings.one_line(taken[0])}'. Write the columns alone, a,b,c: they go to "
            "the heads."
        )
        raise findings.RefusedError(findings.Problem(message, flag=column_names.FLAG))
    else:
        spec = column_encoding.make_spec(store)
    _check_names(spec, is_text=is_text)
    return mixed_spec.MixedSpec(main, store.beside, spec)


def _match_columns(
    inputs: tuple[column_inputs.Input, ...], store: columns.Columns, *, kind: str, model: str
) -> columns.ColumnsSpec:
    names = [name for name, _, _ in inputs]
    given = list(store.found.inputs or store.found.names)
    # A vector of its own takes all columns; a scalar would take any, and a wrong name would go
    # unnoticed.
    takes_all = len(inputs) == 1 and inputs[0][1] not in ((), (1,)) and not store.found.inputs
    absent = [name for name in names if name not in given]
    unused = [name for name in given if name not in names]
    if not takes_all and (absent or unused):
        faults = [f"no column for {findings.list_first(absent, limit=20)}"] if absent else []
        faults += [f"no input for {findings.list_first(unused, limit=20)}"] if unused else []
        message = (
            f"--model={findings.one_line(model)} takes, beside the {kind} of the column "
            f"'{findings.one_line(store.beside)}', the inputs "
            f"{findings.list_first(names, limit=20)}, and {column_names.FLAG} names "
            f"{findings.list_first(given, limit=20)}: {', '.join(faults)}. Name a column as each "
            "input, or write INPUT:a+b,OTHER:c."
        )
        raise findings.RefusedError(findings.Problem(message, flag=column_names.FLAG))
    return column_inputs.match_inputs(inputs, store, model=model)


def _list_columns(store: columns.Columns) -> str:
    return findings.list_first(list(store.found.names), limit=20)


def _check_names(spec: columns.ColumnsSpec, *, is_text: bool) -> None:
    """A server takes the image or the text, and each column, by its name."""
    reserved = {text_store.INPUT} if is_text else {image_stores.INPUT, image_stores.ENCODED_INPUT}
    arguments = columns.serving_arguments(spec)
    taken = {part.name for part in spec.inputs} | set(arguments.values())
    names = sorted(taken & reserved)
    if names:
        kind = "text" if is_text else "image"
        message = (
            f"{column_names.FLAG}: the {kind} is served by the name {findings.list_first(names)}, "
            "and a column or input has it too. Give that another name."
        )
        raise findings.RefusedError(findings.Problem(message, flag=column_names.FLAG))


def describe_missing(inputs: tuple[column_inputs.Input, ...], *, model: str) -> findings.Problem:
    """What is said of a model of an image and columns where the data have images alone.

    Args:
      inputs: of the model, several.
      model: value of --model.

    Returns:
      The error.
    """
    names = findings.list_first([name for name, _, _ in inputs], limit=20)
    message = (
        f"--model={findings.one_line(model)} has several inputs ({names}), and the data have "
        "images alone. Give a table, name its column of images with --image_column and the columns "
        f"for the other inputs with {column_names.FLAG}."
    )
    return findings.Problem(message, flag=column_names.FLAG)
