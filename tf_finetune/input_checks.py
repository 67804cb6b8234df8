"""Whether a model and its data are of one kind, images or texts, before anything is read.

One idea: the model's input and the data's store each say what they are; a flag that is about the
other kind would have no effect, so it is refused too.
"""

from tf_finetune import findings, specs
from tf_finetune.data import input_stores, preprocessing, text_store
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
      The preprocessing of images, or a TextSpec with the column of the texts.

    Raises:
      findings.RefusedError: the model takes texts and the data are images or the reverse; a flag
        about images with texts; --image_size contradicts the model.
    """
    if backbone.input_kind != splits.input_kind:
        raise findings.RefusedError(_describe_mismatch(spec, backbone.input_kind))
    store = splits.train.inputs
    if not isinstance(store, text_store.Texts):
        return preprocessing.make_preprocessing(spec.data, input_shape=backbone.input_shape)
    problems = [
        findings.Problem(
            f"--{flag}={value} has no effect on texts. Leave it out.", flag=f"--{flag}"
        )
        for flag, value, default in (
            ("image_size", spec.data.image_size, None),
            ("pixel_max", spec.data.pixel_max, None),
            ("resize", spec.data.resize, specs.DataSpec().resize),
            ("pixel_range", spec.model.pixel_range, specs.ModelSpec().pixel_range),
        )
        if value != default
    ]
    if problems:
        raise findings.RefusedError(*problems)
    return text_store.TextSpec(column=store.column)


def _describe_mismatch(spec: specs.RunSpec, takes: str) -> findings.Problem:
    model, data = (findings.one_line(text) for text in (spec.model.model, spec.data.data))
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
