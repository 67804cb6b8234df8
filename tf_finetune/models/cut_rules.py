"""Where a model is cut, and which models can be: the rules, without Keras.

One idea: training cuts a real model and --mode=inspect a stored configuration. Both ask here, so
what inspect prints is what training does.
"""

import dataclasses
import typing
from collections.abc import Iterable, Sequence

from tf_finetune import findings
from tf_finetune.models import classifier

_OTHER_DTYPES = ("float16", "bfloat16", "float64", "int8", "uint8", "float8_e4m3fn")

# What a model takes, see `backbone.Backbone`.
IMAGE, TEXT, COLUMNS = "image", "text", "columns"
# (name, shape with the batch, dtype) of an input.
Input = tuple[str, tuple[int | None, ...], str]

_TOKENS = (
    " If it takes token ids, put the tokenizer into the model: a TextVectorization layer before "
    "its first layer."
)


@dataclasses.dataclass(frozen=True)
class Cut(typing.Generic[classifier.AnyTensor]):
    """Where a model is cut.

    Attributes:
      features: the last tensor that is kept, [batch, h, w, c] or [batch, c].
      pooling: "avg", "max", "flatten", or "none" where the features are a vector.
      reason: a sentence that says where it was cut and why.
      old_classifier: name of the layer with the old classifier's weights; None: there is none, or
        --cut_layer decided.
    """

    features: classifier.AnyTensor
    pooling: str
    reason: str
    old_classifier: str | None


def find_input_kind(inputs: Sequence[Input]) -> str:
    """What a model takes, told by its inputs.

    Args:
      inputs: (name, shape with the batch, dtype) of each.

    Returns:
      TEXT: one input of strings. COLUMNS: one vector of floats; one scalar; or several inputs, each
      a scalar or a vector. IMAGE: anything else: an image, an image beside inputs for columns (see
      `find_mixed_image`), or what cannot be fine-tuned.
    """
    if len(inputs) == 1 and inputs[0][2] == "string":
        return TEXT
    return COLUMNS if all(map(_takes_columns, inputs)) else IMAGE


def find_mixed_image(inputs: Sequence[Input]) -> Input | None:
    """The input of images of a model that takes columns of the same row too.

    Args:
      inputs: (name, shape with the batch, dtype) of each.

    Returns:
      The only input of images, where every other is a scalar or a vector, and there are others.
    """
    images = [part for part in inputs if not _takes_columns(part)]
    if len(inputs) > 1 and len(images) == 1 and len(images[0][1]) == 4:
        return images[0]
    return None


def _takes_columns(part: Input) -> bool:
    _, (*shape,), dtype = part
    shape = shape[1:]
    return shape in ([], [1]) or (len(shape) == 1 and "float" in dtype)


def check_inputs(
    inputs: Sequence[Input],
    weight_dtypes: Iterable[tuple[str, str]],
    *,
    channels_first: str | None,
) -> None:
    """Says whether a model is one of images, texts or columns that new heads can be attached to.

    Args:
      inputs: (name, shape with the batch, dtype) of each.
      weight_dtypes: (path of the weight, dtype of its variable).
      channels_first: the first layer with that data_format; None: there is none.

    Raises:
      findings.RefusedError: several inputs that are no columns, an input that is no image with the
        channels last, no text and no columns, a channels_first layer, or weights in half precision
        or quantized.
    """
    kind = find_input_kind(inputs)
    image = find_mixed_image(inputs)
    if kind == COLUMNS:
        _check_columns(inputs)
    elif image is not None:
        _check_columns([part for part in inputs if part is not image])
        _check_single([image], channels_first=channels_first, takes_text=False)
    else:
        _check_single(inputs, channels_first=channels_first, takes_text=kind == TEXT)
    for path, dtype in weight_dtypes:
        if dtype in _OTHER_DTYPES:
            # Layer and weight; which models Keras led the path with depends on how it was built.
            name = "/".join(path.split("/")[-2:])
            raise refused(
                f"Weight '{findings.one_line(name)}' is stored as {dtype}. Expected float32: save "
                "the model again with float32 weights."
            )


def _check_columns(inputs: Sequence[Input]) -> None:
    for name, _, dtype in inputs:
        if dtype not in ("string", "int32", "int64") and "float" not in dtype:
            raise refused(
                f"The model's input '{findings.one_line(name)}' is {dtype}. Expected float32, "
                "int32, int64 or string."
            )


def _check_single(inputs: Sequence[Input], *, channels_first: str | None, takes_text: bool) -> None:
    if len(inputs) != 1:
        names = findings.list_first([name for name, _, _ in inputs])
        raise refused(
            f"The model has {len(inputs)} inputs ({names}). This version fine-tunes models of one "
            "image input or one string input, and of several inputs that each take a column of a "
            "table: (batch,), (batch, 1) or floats of (batch, columns), one image among them."
        )
    ((_, shape, _),) = inputs
    if takes_text and shape[1:] not in ((), (1,)):
        raise refused(
            f"The model's input of strings has the shape {shape}. This version fine-tunes models "
            "of one text for each example, (batch,) or (batch, 1)."
        )
    if not takes_text and (len(shape) != 4 or shape[3] not in (1, 3)):
        why = (
            f" Its layer '{findings.one_line(channels_first)}' is channels_first."
            if channels_first
            else ""
        )
        raise refused(
            f"The model's input has the shape {shape}.{why} This version fine-tunes models of one "
            "image input, (batch, height, width, channels) with 1 or 3 channels, or of one string "
            f"input.{_TOKENS if len(shape) == 2 else ''}"
        )
    if channels_first and not takes_text:
        raise refused(
            f"Layer '{findings.one_line(channels_first)}' is channels_first. This version "
            "fine-tunes models of one image input, (batch, height, width, channels)."
        )


def refuse_without_graph(class_name: str) -> findings.RefusedError:
    """The error of a model whose layers form no known graph.

    Args:
      class_name: of the model.

    Returns:
      The error to raise.
    """
    return refused(
        f"The model is a {findings.one_line(class_name)} without a fixed graph of layers. Expected "
        "a functional model, or a Sequential one that knows its input shape."
    )


def find_cut(
    outputs: Sequence[tuple[str, classifier.AnyTensor]],
    step_back: classifier.StepBack[classifier.AnyTensor],
    *,
    pooling: str,
    takes_text: bool = False,
) -> Cut[classifier.AnyTensor]:
    """Decides where a model without --cut_layer ends.

    Args:
      outputs: (layer name, tensor) of each output of the whole model.
      step_back: see `classifier.find_classifier`.
      pooling: a value of --pooling.
      takes_text: its input holds strings, so features may be a sequence, [batch, steps, features].

    Returns:
      The cut: before the old classifier and the pooling in front of it.

    Raises:
      findings.RefusedError: several outputs; the features are no map and no vector; the pooling
        does not suit them.
    """
    if len(outputs) != 1:
        names = [name for name, _ in outputs]
        raise refused(
            f"The model has {len(names)} outputs ({findings.list_first(names)}). Name the layer "
            "whose output the new heads should get with --cut_layer."
        )
    ((_, output),) = outputs
    found = classifier.find_classifier(output, step_back)
    if found:
        reason = (
            f"The old classifier '{findings.one_line(found.layer)}' ({found.class_name}, "
            f"{found.units} units) and what follows it are cut off."
        )
        features = found.features
    else:
        reason = "No old classifier at the end: every layer but the final pooling is kept."
        features = output
    features, found_pooling = classifier.strip_tail(
        features, step_back, keep_pooling=pooling == "none"
    )
    if not found and found_pooling is None:
        reason = "No old classifier at the end: every layer is kept."
    shape = tuple(features.shape)
    if len(shape) not in (2, 3 if takes_text else 4):
        raise refused(
            f"The features have the shape {shape}. Expected {_expected(takes_text)}: choose a "
            "layer with --cut_layer."
        )
    pooling = _settle_pooling(pooling, found_pooling, shape)
    return Cut(features, pooling, reason, found.layer if found else None)


def cut_behind(
    name: str, features: classifier.AnyTensor, *, pooling: str, takes_text: bool = False
) -> Cut[classifier.AnyTensor]:
    """The cut that --cut_layer asks for.

    Args:
      name: value of --cut_layer, a layer or a nested model that exists.
      features: its output.
      pooling: a value of --pooling.
      takes_text: the model's input holds strings.

    Returns:
      The cut.

    Raises:
      findings.RefusedError: the output is no map and no vector; the pooling does not suit it.
    """
    shape = tuple(features.shape)
    if len(shape) not in (2, 3 if takes_text else 4):
        raise refused(
            f"--cut_layer: the output of '{findings.one_line(name)}' has the shape {shape}. "
            f"Expected {_expected(takes_text)}.",
            flag="--cut_layer",
        )
    reason = f"Cut behind '{findings.one_line(name)}', as --cut_layer says."
    return Cut(features, _settle_pooling(pooling, None, shape), reason, None)


def refuse_empty() -> findings.RefusedError:
    """The error of a cut that leaves nothing.

    Returns:
      The error to raise.
    """
    return refused("Cutting off the old classifier leaves no layer. Expected layers before it.")


def refused(message: str, *, flag: str = "") -> findings.RefusedError:
    """The error of a model that cannot be cut.

    Args:
      message: what is wrong and what to do.
      flag: the flag that is wrong, for example "--pooling".

    Returns:
      The error to raise.
    """
    return findings.RefusedError(findings.Problem(message, flag=flag))


def _expected(takes_text: bool) -> str:
    shape = "sequence, (batch, steps, features)"
    if not takes_text:
        shape = "feature map, (batch, height, width, channels)"
    return f"a {shape}, or a vector, (batch, features)"


def _settle_pooling(requested: str, found: str | None, shape: tuple[int | None, ...]) -> str:
    if len(shape) == 2:
        if requested in ("auto", "none"):
            return "none"
        raise refused(
            f"--pooling={requested} expects a feature map. The features are a vector of the shape "
            f"{shape}: use --pooling=auto, or another --cut_layer.",
            flag="--pooling",
        )
    if requested == "none":
        raise refused(
            f"--pooling=none expects features that are a vector. They are a map of the shape "
            f"{shape}: use --pooling=auto, avg, max or flatten.",
            flag="--pooling",
        )
    if requested == "flatten" and None in shape[1:]:
        raise refused(
            f"--pooling=flatten expects a map of known size. The features have the shape {shape}: "
            "use --pooling=avg, or a model with a fixed input shape.",
            flag="--pooling",
        )
    return (found or "avg") if requested == "auto" else requested
