"""Whether a model and its data are of one kind, before anything is read.

One idea: the model's input and the data's store each say what they are; a flag that is about the
other kind would have no effect, so it is refused too.
"""

import keras

from tf_finetune import findings, head_kinds, option_values, specs
from tf_finetune.data import (
    augmentation,
    column_encoding,
    column_inputs,
    columns,
    input_stores,
    memory_source,
    mixed_inputs,
    mixed_spec,
    preprocessing,
    text_store,
)
from tf_finetune.data import loading as data_loading
from tf_finetune.models import loading as model_loading
from tf_finetune.models.encoders import token_features


def settle_inputs(
    spec: specs.RunSpec, backbone: model_loading.Backbone, splits: data_loading.Splits
) -> preprocessing.InputSpec:
    """How the examples become the model's input.

    Args:
      spec: the run.
      backbone: the model.
      splits: the data.

    Returns:
      The preprocessing of images, a TextSpec with the column of the texts, a ColumnsSpec that says
      which columns feed which input, or a MixedSpec of images or texts and columns.

    Raises:
      findings.RefusedError: the model takes examples of another kind than the data are; a head is
        about pixels and its features have no positions, or an augmentation no mask follows; a flag
        about images with others; --image_size contradicts the model; columns and the model's inputs
        do not fit, see `column_inputs` and `mixed_inputs`.
    """
    holds, features = splits.input_kind, splits.train.features
    # A text and columns are, to a model of several inputs, strings and numbers.
    are_texts = features is not None and holds == input_stores.TEXT
    may_be_columns = are_texts and backbone.input_kind == input_stores.COLUMNS
    if backbone.input_kind != holds and not may_be_columns:
        raise findings.RefusedError(_describe_mismatch(spec, backbone.input_kind, holds=holds))
    _check_positions(spec, backbone, splits)
    store = splits.train.inputs
    if holds != input_stores.IMAGE:
        _refuse_image_flags(spec, input_stores.PLURALS[holds])
    if isinstance(store, columns.Columns):
        prepared = column_inputs.match_inputs(backbone.inputs, store, model=spec.model.model)
        _check_ids(prepared, backbone, splits)
        return prepared
    main: preprocessing.PreprocessingSpec | text_store.TextSpec
    if isinstance(store, text_store.Texts):
        main = text_store.TextSpec(column=store.column)
    else:
        main = preprocessing.make_preprocessing(spec.data, input_shape=backbone.input_shape)
    if features is not None:
        mixed = mixed_inputs.settle(main, backbone.inputs, features, model=spec.model.model)
        _check_ids(mixed.columns, backbone, splits)
        return mixed
    if len(backbone.inputs) > 1:
        raise findings.RefusedError(
            mixed_inputs.describe_missing(backbone.inputs, model=spec.model.model)
        )
    return main


def _check_positions(
    spec: specs.RunSpec, backbone: model_loading.Backbone, splits: data_loading.Splits
) -> None:
    """Refuses heads of pixels on features without positions, and views that no mask follows."""
    kinds = {info.name: head_kinds.HEAD_KINDS[info.kind].positions for info in splits.heads}
    if any(kinds.values()) and splits.train.features is not None:
        message = "Heads of pixels and of words take no columns. Leave --feature_columns out."
        raise findings.RefusedError(findings.Problem(message, flag="--feature_columns"))
    if "words" in kinds.values():
        _check_words(spec, backbone, splits)
    names = [name for name, positions in kinds.items() if positions == "pixels"]
    if not names:
        return
    shown = f"--head=name={names[0]},kind=segmentation"
    shape = backbone.model.output.shape
    messages = []
    if splits.input_kind != input_stores.IMAGE:
        shown_kind = input_stores.PLURALS[splits.input_kind]
        messages.append(f"{shown} is about images, and the model takes {shown_kind}.")
    elif len(shape) != 4:
        messages.append(
            f"{shown} needs a feature map, [batch, height, width, channels]. The features of "
            f"--model={findings.one_line(spec.model.model)} have the shape {tuple(shape)}. Name an "
            "earlier layer with --cut_layer; --mode=inspect lists them."
        )
    for step in augmentation.find_unmasked(spec.augment.steps):
        if step in option_values.MIXING_STEPS:
            reason = "mixes images, and a pixel of a mask has one class"
        else:
            reason = "moves pixels in ways that no mask follows"
        messages.append(f"--augment={step} {reason}. Leave it out.")
    if messages:
        raise findings.RefusedError(
            *(findings.Problem(message, flag=message.split("=")[0]) for message in messages)
        )


def _check_words(
    spec: specs.RunSpec, backbone: model_loading.Backbone, splits: data_loading.Splits
) -> None:
    """Refuses heads of words beside others, and on models whose tokens nobody knows."""
    name = next(info.name for info in splits.heads if info.kind == "token_classification")
    shown = f"--head=name={name},kind=token_classification"
    messages = []
    if any(info.kind != "token_classification" for info in splits.heads):
        messages.append(f"{shown} stands alone. Train a head of the whole text in another run.")
    found = token_features.find(backbone.model)
    if isinstance(found, str):
        messages.append(
            f"{shown}: --model={findings.one_line(spec.model.model)} {found}. Choose hf:DIR or "
            "kerashub:PRESET of a BERT, or a model of token ids with --vocabulary of WordPiece."
        )
    if messages:
        raise findings.RefusedError(
            *(findings.Problem(message, flag="--head") for message in messages)
        )


def measure_columns(
    prepared: preprocessing.InputSpec,
    backbone: model_loading.Backbone,
    splits: data_loading.Splits,
) -> column_encoding.Encoding | None:
    """How the heads take columns that the model has no inputs for.

    Args:
      prepared: of `settle_inputs`.
      backbone: the model.
      splits: the data.

    Returns:
      Means and categories of the training rows; None where no column goes to the heads.

    Raises:
      findings.RefusedError: a column of strings holds no categories, see `column_encoding.measure`.
    """
    features = splits.train.features
    if not isinstance(prepared, mixed_spec.MixedSpec) or features is None:
        return None
    if len(backbone.inputs) > 1:
        return None
    return column_encoding.measure(features, prepared.columns)


def _check_ids(
    prepared: columns.ColumnsSpec, backbone: model_loading.Backbone, splits: data_loading.Splits
) -> None:
    num_rows = _count_embedding_rows(backbone)
    parts = splits.parts
    stores = {id(store): store for part in parts for store in (part.inputs, part.features)}
    problems = [
        problem
        for other in stores.values()
        if isinstance(other, columns.Columns)
        for problem in column_inputs.find_bad_ids(prepared, other, num_rows=num_rows)
    ]
    if problems:
        # Columns beside images are a store for each split.
        raise findings.RefusedError(*dict.fromkeys(problems))


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
    model = findings.one_line(spec.model.model)
    data = memory_source.name_source(spec.data.data, flag="data")
    if input_stores.COLUMNS in (takes, holds):
        message = (
            f"--model={model} takes {input_stores.PLURALS[takes]}, and {data} holds "
            f"{input_stores.PLURALS[holds]}. "
        )
        if takes == input_stores.COLUMNS:
            message += "Name the columns of a table that it takes with --feature_columns."
        else:
            message += (
                "Choose a model of vectors, leave --feature_columns out, or name the column of "
                f"{input_stores.PLURALS[takes]} beside them with --{takes}_column."
            )
        return findings.Problem(message, path=spec.data.data, flag="--feature_columns")
    if takes == input_stores.TEXT:
        message = (
            f"--model={model} takes texts, and {data} holds images. Give a .csv with a "
            "header and name its column of texts with --text_column, or choose a model for images."
        )
    else:
        message = (
            f"--model={model} takes images, and {data} holds texts. Choose a model that "
            "takes strings; where the .csv names images, --image_column names their column instead "
            "of --text_column."
        )
    return findings.Problem(message, path=spec.data.data, flag="--text_column")
