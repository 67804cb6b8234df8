"""What a module is to new heads: how it is called, what its features are, what it takes.

One idea: training asks of a restored module and --mode=inspect of its file. Both ask here, so what
inspect prints is what training does.

Reference: TensorFlow Hub, "Common Signatures for Images",
https://www.tensorflow.org/hub/common_signatures/images (0 to 1, feature_vector), and "Common
SavedModel APIs for Text Tasks", https://www.tensorflow.org/hub/common_saved_model_apis/text
(pooled_output, input_word_ids, preprocessors).
"""

import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tf_finetune import findings
from tf_finetune.models import pixel_rules
from tf_finetune.models.saved import graph_walk, tensor_specs, variable_groups
from tf_finetune.models.stored import stored_config

IMAGE, TEXT = "image", "text"
NEEDS_TEXT = "Its graph runs operations of TensorFlow Text: what loads the export needs them too."
PREFERRED_SIGNATURES = ("default", "serving_default", "serve", "image_feature_vector")
FEATURE_SIGNATURES = ("image_feature_vector", *PREFERRED_SIGNATURES)
# Signatures of a module's initializers, which nobody calls.
PRIVATE_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")

_IMAGE_RANK = 4

_Function = typing.TypeVar("_Function")
_Number = typing.TypeVar("_Number")


@dataclasses.dataclass(frozen=True)
class CallForm(typing.Generic[_Function]):
    """One traced graph of `__call__`.

    Attributes:
      function: what the caller knows of it.
      inputs: (name, spec) of each tensor.
      training: what it was traced with; None: it does not say.
    """

    function: _Function
    inputs: tensor_specs.NamedSpecs
    training: bool | None

    def score(self) -> tuple[int, ...]:
        """More free sizes are better, above all that of the batch; so is float32."""
        shapes = [spec.shape for _, spec in self.inputs]
        free_batch = all(shape and shape[0] is None for shape in shapes)
        free = sum(size is None for shape in shapes if shape for size in shape)
        is_float32 = sum(spec.dtype == "float32" for _, spec in self.inputs)
        return int(free_batch), is_float32, free


@dataclasses.dataclass(frozen=True)
class ModuleFacts:
    """What the rules ask of a module.

    Attributes:
      path: its folder, for errors' texts.
      kind: see `saved_model_files.StoredModule`.
      source: format and writer, for the user.
      signature: the signature that is called; None: `__call__`.
      has_training: the call distinguishes training from inference.
      needs_text: it runs operations of TensorFlow Text.
      inputs: (name, spec) of each.
      outputs: likewise.
      probabilities: {output: operation that makes it}, of those that are class probabilities.
      elsewhere: SIGNATURE:OUTPUT of the floats that other signatures make of the same input.
      scaling: what the graph does with pixels before the first convolution; None: not known.
      is_export: this package has exported it.
    """

    path: str
    kind: str
    source: str
    signature: str | None
    has_training: bool
    needs_text: bool
    inputs: tensor_specs.NamedSpecs
    outputs: tensor_specs.NamedSpecs
    probabilities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    scaling: graph_walk.Scaling | None = None
    is_export: bool = False


def read_training(args: Sequence[Any], kwargs: dict[str, Any]) -> bool | None:
    """What a graph of `__call__` was traced with.

    Args:
      args: its arguments behind the inputs, Python constants.
      kwargs: its keyword arguments.

    Returns:
      Whether it is for training; None where it does not say.
    """
    if isinstance(kwargs.get("training"), bool):
        return bool(kwargs["training"])
    return next((value for value in args if isinstance(value, bool)), None)


def choose_forms(
    forms: Sequence[CallForm[_Function]],
) -> tuple[CallForm[_Function], CallForm[_Function]] | None:
    """Chooses among the graphs of `__call__` the most general pair.

    Args:
      forms: those that take tensors first and constants behind.

    Returns:
      For inference and for training, which may be the same; None where there is none at all.
    """
    usable = sorted(forms, key=lambda form: form.score(), reverse=True)
    inference = next((form for form in usable if form.training is not True), None)
    inference = inference or next(iter(usable), None)
    if inference is None:
        return None
    same = [form for form in usable if form.inputs == inference.inputs]
    return inference, next((form for form in same if form.training is True), inference)


def choose_signature(
    path: str, names: Collection[str], *, wanted: str | None, preferred: Sequence[str]
) -> str:
    """Decides which signature of a module is called.

    Args:
      path: its folder, for the error's text.
      names: of its signatures.
      wanted: the one that the user names; None: the first of `preferred` that exists, else the
        first of all.
      preferred: names of signatures.

    Returns:
      Its name.

    Raises:
      findings.RefusedError: there is no such signature, or none at all.
    """
    public = sorted(name for name in names if name not in PRIVATE_SIGNATURES)
    if wanted is not None:
        if wanted not in public:
            raise stored_config.refused(
                path,
                f"has no signature '{findings.one_line(wanted)}'. It has "
                f"{findings.list_first(public)}.",
            )
        return wanted
    if not public:
        raise stored_config.refused(
            path,
            "has neither a __call__ of tensors nor a signature, so there is nothing to run. Save "
            "it with tf.saved_model.save(module, folder, signatures=...).",
        )
    return next((name for name in preferred if name in public), public[0])


def read_cut(cut_layer: str | None) -> tuple[str | None, str | None]:
    """Reads --cut_layer of a module.

    Args:
      cut_layer: OUTPUT or SIGNATURE:OUTPUT.

    Returns:
      Names of the signature and of the output, None where not given.
    """
    if cut_layer is None:
        return None, None
    signature, _, output = cut_layer.rpartition(":")
    return signature or None, output


def order_variables(
    kind: str, *, read: Iterable[_Number], listed: Iterable[_Number]
) -> list[_Number]:
    """The order of a module's variables, in which --freeze counts their groups.

    Args:
      kind: of the module, see `saved_model_files.StoredModule`.
      read: what the graph reads, in the order of reading.
      listed: what the module itself lists.

    Returns:
      Keras lists them in the order of its layers, from the input to the output; of other modules
      only the graph tells an order. What comes twice is there twice.
    """
    first, second = (listed, read) if kind == "keras" else (read, listed)
    return [*first, *second]


def guess_input_kind(inputs: tensor_specs.NamedSpecs) -> str | None:
    """What a module takes.

    Args:
      inputs: (name, spec) of each input.

    Returns:
      IMAGE, TEXT, or None where it is neither.
    """
    if len(inputs) != 1:
        return None
    ((_, spec),) = inputs
    shape = spec.shape
    if spec.dtype == "string":
        return TEXT if shape is None or shape[1:] in ((), (1,)) else None
    is_image = shape is None or (len(shape) == _IMAGE_RANK and shape[3] in (None, 1, 3))
    return IMAGE if is_image else None


def need_input_kind(facts: ModuleFacts) -> str:
    """What a module takes that has no preprocessor.

    Args:
      facts: of the module.

    Returns:
      IMAGE or TEXT.

    Raises:
      findings.RefusedError: it takes neither.
    """
    kind = guess_input_kind(facts.inputs)
    if kind is None:
        raise _refuse_inputs(facts.path, facts.inputs)
    return kind


def free_batch(spec: tensor_specs.Spec) -> tensor_specs.Spec:
    """A spec for any number of examples.

    Args:
      spec: its first axis is the batch.

    Returns:
      The same with a free batch.
    """
    if not spec.shape:
        return spec
    return tensor_specs.Spec(spec.dtype, (None, *spec.shape[1:]))


def check_takes_tokens(facts: ModuleFacts) -> None:
    """Refuses --preprocessor for a module that takes images or texts as they are.

    Args:
      facts: of the module.

    Raises:
      findings.RefusedError: it does.
    """
    kind = guess_input_kind(facts.inputs)
    if kind is None or facts.inputs[0][1].shape is None:
        return
    shown = findings.one_line(facts.path)
    what = "images" if kind == IMAGE else "texts"
    message = (
        f"--preprocessor is for a SavedModel that takes tokens. --model={shown} takes {what}: "
        "leave --preprocessor out."
    )
    raise findings.RefusedError(findings.Problem(message, path=facts.path, flag="--preprocessor"))


def check_preprocessor(path: str, inputs: tensor_specs.NamedSpecs) -> None:
    """Refuses a preprocessor that takes anything but one text.

    Args:
      path: value of --preprocessor.
      inputs: (name, spec) of each of its inputs.

    Raises:
      findings.RefusedError: it does.
    """
    if guess_input_kind(inputs) != TEXT:
        raise _refuse_preprocessor(
            path, "expected one input, string [batch]. Choose the preprocessor made for --model."
        )


def match_preprocessor(
    path: str,
    made: Mapping[str, tuple[int | None, ...] | None],
    wanted: tensor_specs.NamedSpecs,
) -> list[str]:
    """Decides which output of a preprocessor goes to which input of an encoder.

    Args:
      path: value of --preprocessor.
      made: {name: shape} of the preprocessor's outputs.
      wanted: (name, spec) of each input of the encoder.

    Returns:
      Names in `made`, in the order of `wanted`.

    Raises:
      findings.RefusedError: an input is missing, or its shape does not suit.
    """
    if len(wanted) == 1 and len(made) == 1:
        names = list(made)
    else:
        names = [name for name, _ in wanted]
        missing = [name for name in names if name not in made]
        if missing:
            raise _refuse_preprocessor(
                path,
                f"it returns {findings.list_first(list(made))}. The model of --model takes also "
                f"{findings.list_first(missing)}: choose the preprocessor made for it.",
            )
    for (name, spec), source in zip(wanted, names, strict=True):
        shape = free_batch(spec).shape
        if not _are_compatible(made[source], shape):
            raise _refuse_preprocessor(
                path,
                f"it returns '{findings.one_line(name)}' of the shape {made[source]}. The "
                f"model of --model takes {shape}: choose the preprocessor made for it.",
            )
    return names


def find_pixel_range(
    facts: ModuleFacts, channels: int, *, requested: str
) -> pixel_rules.PixelRange:
    """Which pixel values an image module takes.

    Args:
      facts: of the module, with one input.
      channels: of its images.
      requested: a value of --pixel_range.

    Returns:
      The range.

    Raises:
      findings.RefusedError: the range is of three channels and the module takes one.
    """
    if requested != "auto":
        pixel_rules.check_channels(requested, channels)
        return pixel_rules.PixelRange(requested, "as --pixel_range says")
    ((_, spec),) = facts.inputs
    if spec.is_integer:
        return pixel_rules.PixelRange("0..255", f"its input is {spec.dtype}")
    if facts.kind in ("hub1", "hub2"):
        return pixel_rules.PixelRange("0..1", "TF-Hub image modules take 0 to 1")
    if facts.scaling is not None:
        scaled = facts.scaling
        found = pixel_rules.judge_scaling(scaled.dark, scaled.bright, scaled.names)
        if found is not None:
            return found
    reason = (
        f"a {facts.source} does not tell its range: 0..1 is the most common range; set "
        "--pixel_range if you know better"
    )
    return pixel_rules.PixelRange("0..1", reason, warning=True)


def make_notes(
    facts: ModuleFacts,
    variables: Sequence[variable_groups.StoredVariable],
    *,
    fixed_by_strategy: bool,
) -> tuple[str, ...]:
    """What a user of a module should know.

    Args:
      facts: of the module.
      variables: that it reads.
      fixed_by_strategy: its variables cannot be trained under the present strategy.

    Returns:
      Lines.
    """
    notes = []
    if facts.has_training:
        groups = variable_groups.group_variables(variables)
        norms = any(
            variable_groups.is_batch_norm([variables[index] for index in group.indices])
            for group in groups
        )
        held = "its BatchNormalization keeps its statistics and its dropout is off"
        notes.append(
            "The module runs in inference mode also while it trains (--batch_norm=frozen): "
            f"{held if norms else 'its dropout is off'}. --batch_norm=train with --freeze=none "
            "runs it in training mode."
        )
    elif facts.signature is not None:
        called = findings.one_line(facts.signature)
        notes.append(f"Called through its signature '{called}', which has no training mode.")
    if facts.needs_text:
        notes.append(NEEDS_TEXT)
    if fixed_by_strategy:
        notes.append(
            "Variables of TensorFlow 1 train on one device only: under this strategy they stay as "
            "they are. --strategy=one_device trains them."
        )
    elif variables and not any(variable.trainable for variable in variables):
        notes.append("None of its variables can be trained: its features stay as they are.")
    return tuple(notes)


def preprocessor_notes(facts: ModuleFacts) -> tuple[str, ...]:
    """What a user of a preprocessor should know.

    Args:
      facts: of the preprocessor.

    Returns:
      Lines.
    """
    text = (NEEDS_TEXT,) if facts.needs_text else ()
    return (f"Preprocessor: {facts.source}, not trained.", *text)


def _refuse_inputs(path: str, inputs: tensor_specs.NamedSpecs) -> findings.RefusedError:
    shown = ", ".join(f"{findings.one_line(name)} {free_batch(spec)}" for name, spec in inputs)
    flag = ""
    hint = "Expected one image, float [batch, height, width, channels], or one string [batch]."
    if all(spec.dtype in ("int32", "int64") for _, spec in inputs):
        flag = "--preprocessor"
        hint = (
            "It takes tokens: name the SavedModel that makes them of strings with --preprocessor."
        )
    message = f"{findings.one_line(path)}: its inputs are {shown}. {hint}"
    return findings.RefusedError(findings.Problem(message, path=path, flag=flag))


def _refuse_preprocessor(path: str, message: str) -> findings.RefusedError:
    text = f"--preprocessor={findings.one_line(path)}: {message}"
    return findings.RefusedError(findings.Problem(text, path=path, flag="--preprocessor"))


def _are_compatible(
    one: tuple[int | None, ...] | None, other: tuple[int | None, ...] | None
) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(
        first is None or second is None or first == second
        for first, second in zip(one, other, strict=True)
    )
