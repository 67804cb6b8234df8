"""Whether a model and its data are of one kind, before anything is read.

One idea: the model's input and the data's store each say what they are; a flag that is about the
other kind would have no effect, so it is refused too.
"""

import keras

from tf_finetune import findings, specs
from tf_finetune.data import column_inputs, columns, input_stores, preprocessing, text_store
from tf_finetune.data import loading as data_loading
from tf_finetune.models import loading as model_loading


def settle_inputs(
    spec: specs.RunSpec, backbone: model_loading.Backbone, splits: data_loading.Splits
) -> preprocessing.InputSpec:
    """How the examples become the model's input.

    Args:
      spec: the run.
      backbone: the model.
      splits: the data.

    Returns:
      The preprocessing of images, a TextSpec with the column of the texts, or a ColumnsSpec that
      says which columns feed which input.

    Raises:
      findings.RefusedError: the model takes examples of another kind than the data are; a flag
        about images with others; --image_size contradicts the model; columns and the model's inputs
        do not fit, see `column_inputs`.
    """
    if backbone.input_kind != splits.input_kind:
        raise findings.RefusedError(
            _describe_mismatch(spec, backbone.input_kind, holds=splits.input_kind)
        )
    store = splits.train.inputs
    if not isinstance(store, text_store.Texts | columns.Columns):
        return preprocessing.make_preprocessing(spec.data, input_shape=backbone.input_shape)
    _refuse_image_flags(spec, input_stores.PLURALS[backbone.input_kind])
    if isinstance(store, columns.Columns):
        return _settle_columns(spec, backbone, splits, store=store)
    return text_store.TextSpec(column=store.column)


def _settle_columns(
    spec: specs.RunSpec,
    backbone: model_loading.Backbone,
    splits: data_loading.Splits,
    *,
    store: columns.Columns,
) -> columns.ColumnsSpec:
    prepared = column_inputs.match_inputs(backbone.inputs, store, model=spec.model.model)
    num_rows = _count_embedding_rows(backbone)
    parts = (splits.train, splits.validation, splits.test)
    stores = {id(part.inputs): part.inputs for part in parts}
    problems = [
        problem
        for other in stores.values()
        if isinstance(other, columns.Columns)
        for problem in column_inputs.find_bad_ids(prepared, other, num_rows=num_rows)
    ]
    if problems:
        raise findings.RefusedError(*problems)
    return prepared


def _count_embedding_rows(backbone: model_loading.Backbone) -> dict[str, int]:
    """{input: rows of the Embedding that it goes to}."""
    # An unknown id stops a CPU in the middle of an epoch, and is a row of zeros on a GPU.
    found = {}
    for layer in backbone.model.layers:
        if isinstance(layer, keras.layers.Embedding):
            for node in layer._inbound_nodes:
                for tensor in node.input_tensors:
                    found[tensor._keras_history.operation.name] = layer.input_dim
    return {name: found[name] for name, _, _ in backbone.inputs if name in found}


def _refuse_image_flags(spec: specs.RunSpec, shown: str) -> None:
    problems = [
        findings.Problem(
            f"--{flag}={value} has no effect on {shown}. Leave it out.", flag=f"--{flag}"
        )
        for flag, value, default in (
            ("image_size", spec.data.image_size, None),
            ("pixel_max", spec.data.pixel_max, None),
            ("resize", spec.data.resize, specs.DataSpec().resize),
            ("pixel_range", spec.model.pixel_range, specs.ModelSpec().pixel_range),
            ("augment", spec.augment.augment, specs.AugmentSpec().augment),
        )
        if value != default
    ]
    if problems:
        raise findings.RefusedError(*problems)


def _describe_mismatch(spec: specs.RunSpec, takes: str, *, holds: str) -> findings.Problem:
    model, data = (findings.one_line(text) for text in (spec.model.model, spec.data.data))
    if input_stores.COLUMNS in (takes, holds):
        message = (
            f"--model={model} takes {input_stores.PLURALS[takes]}, and --data={data} holds "
            f"{input_stores.PLURALS[holds]}. "
        )
        if takes == input_stores.COLUMNS:
            message += "Name the columns of a table that it takes with --feature_columns."
        else:
            message += "Choose a model of vectors, or leave --feature_columns out."
        return findings.Problem(message, path=spec.data.data, flag="--feature_columns")
    if takes == input_stores.TEXT:
        message = (
            f"--model={model} takes texts, and --data={data} holds images. Give a .csv with a "
            "header and name its column of texts with --text_column, or choose a model for images."
        )
    else:
        message = (
            f"--model={model} takes images, and --data={data} holds texts. Choose a model that "
            "takes strings; where the .csv names images, --image_column names their column instead "
            "of --text_column."
        )
    return findings.Problem(message, path=spec.data.data, flag="--text_column")
