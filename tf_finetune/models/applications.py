"""keras:NAME - an architecture of keras.applications, with its weights.

Reference: https://keras.io/api/applications/.
"""

import csv
import dataclasses
import difflib
import inspect
import os
import re
import typing

import keras

from tf_finetune import findings, specs
from tf_finetune.models import backbone, formats, hdf5
from tf_finetune.models.stored import stored_config
from tf_finetune.models.weights import weights_only

# Set by us: the old classifier is never built, and heads bring their own pooling.
_OURS = (
    "include_top",
    "input_tensor",
    "pooling",
    "classes",
    "classifier_activation",
    "name",
)


@dataclasses.dataclass(frozen=True)
class ApplicationSpec:
    """A parsed --model=keras:...

    Attributes:
      name: for example "MobileNetV2".
      weights: "imagenet", "none", or the path of a weights file.
      input_shape: (height, width, channels) in pixels; None: any size, 3 channels.
      arguments: further arguments of the application, such as alpha.
    """

    name: str
    weights: str
    input_shape: tuple[int, int, int] | None
    arguments: dict[str, typing.Any]


def read_application(text: str) -> ApplicationSpec:
    """Parses `keras:NAME,key=value,...`.

    Args:
      text: NAME in any case; keys weights, input_shape (HEIGHTxWIDTHxCHANNELS) and the arguments of
        that application. A value with a comma is quoted as in CSV: `"weights=a,b.h5"`.

    Returns:
      The parsed value; weights is "imagenet" when not given.

    Raises:
      findings.RefusedError: unknown application or key, or malformed values, all of them.
    """
    (parts,) = csv.reader([text.removeprefix(formats.APPLICATION_PREFIX)])
    name = _find_name(parts[0] if parts else "")
    allowed = _arguments_of(name)
    values: dict[str, typing.Any] = {"weights": "imagenet", "input_shape": None}
    problems = []
    for part in parts[1:]:
        key, _, value = part.partition("=")
        if key not in ("weights", "input_shape", *allowed) or not value:
            keys = ", ".join(["weights", "input_shape", *allowed])
            near = difflib.get_close_matches(key, ["weights", "input_shape", *allowed], n=1)
            hint = f" Did you mean '{near[0]}'?" if near and near[0] != key else ""
            problems.append(
                f"--model=keras:{name} takes KEY=VALUE with the keys {keys}. Received "
                f"'{findings.one_line(part)}'.{hint}"
            )
            continue
        try:
            values[key] = _read_value(key, value, allowed.get(key))
        except ValueError as error:
            problems.append(
                f"--model=keras:{name}: {key} expects {error}. Received "
                f"'{findings.one_line(value)}'."
            )
    if problems:
        raise findings.RefusedError(*map(findings.Problem, problems))
    weights, shape = values.pop("weights"), values.pop("input_shape")
    return ApplicationSpec(name, weights, shape, values)


def load_model(text: str, spec: specs.ModelSpec) -> backbone.LoadedModel:
    """Builds an application without its classifier and gives it its weights.

    Args:
      text: keras:NAME,key=value,...
      spec: the options of the model.

    Returns:
      The model; its source is for example "keras.applications.MobileNet, weights none".

    Raises:
      findings.RefusedError: malformed text; a shape or argument that the application refuses; the
        ImageNet weights cannot be downloaded; the weights file does not exist or does not fit.
    """
    named = read_application(text)
    build = getattr(keras.applications, named.name)
    path = _find_weights_file(text, named, spec)
    arguments = dict(named.arguments)
    if named.input_shape:
        arguments["input_shape"] = named.input_shape
    try:
        model = build(
            include_top=False,
            weights="imagenet" if named.weights == "imagenet" and not path else None,
            **arguments,
        )
    except hdf5.KERAS_ERRORS as error:
        message = f"--model=keras:{named.name}: {_gist(error)}"
        raise findings.RefusedError(findings.Problem(message)) from error
    except Exception as error:
        # keras.utils.get_file raises a bare Exception when a download fails.
        if type(error) is not Exception:
            raise
        message = (
            f"--model=keras:{named.name}: the ImageNet weights cannot be downloaded: "
            f"{stored_config.one_reason(error)} Give weights=PATH, or weights=none."
        )
        raise findings.RefusedError(findings.Problem(message)) from error
    notes: tuple[str, ...] = ()
    digest = formats.check_sha256(path, spec.model_sha256) if path else None
    if path:
        architecture = weights_only.Architecture(
            model,
            shown=text.replace(f",weights={path}", ""),
            advice=_advise(named),
        )
        notes = weights_only.load_weights(architecture, path)
    module = build.__module__.rpartition(".")[2]
    weights = f"from {findings.one_line(path)}" if path else named.weights
    return backbone.LoadedModel(
        model,
        f"keras.applications.{named.name}, weights {weights}",
        application=module,
        sha256=digest,
        notes=notes,
    )


def _gist(error: BaseException) -> str:
    # What Keras says of arguments, as one of our lines: it quotes values between backticks, now and
    # then without the space before them.
    line = re.sub("`([^`]*)`", r" \1 ", stored_config.one_reason(error))
    line = re.sub(" +(?=[,.;])", "", line)
    line = re.sub(" {2,}", " ", line)
    return f"Keras cannot build it with these arguments: {line[:1].lower()}{line[1:]}"


def _advise(named: ApplicationSpec) -> str:
    # Of weights that do not fit.
    keys = [key for key in ("alpha", "depth_multiplier") if key in _arguments_of(named.name)]
    shape = "the channels of input_shape"
    if not keys:
        return f"Set {shape} as they were for these weights, or name the application they are of."
    known = {"alpha": "0.25", "depth_multiplier": "2"}
    return (
        f"Set {', '.join(keys)} and {shape} as they were for these weights, for example "
        f"keras:{named.name},{keys[0]}={known[keys[0]]}; or name the application they are of."
    )


def _find_weights_file(text: str, named: ApplicationSpec, spec: specs.ModelSpec) -> str | None:
    inside = None if named.weights in ("none", "imagenet") else named.weights
    if spec.weights and ",weights=" in text and named.weights != "none":
        shown = findings.one_line(named.weights)
        message = (
            f"--model=keras:{named.name} has weights={shown} and --weights is given too. Leave one "
            "of them out."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--weights"))
    path = spec.weights or inside
    if inside and not os.path.isfile(inside):
        shown = findings.one_line(inside)
        message = f"--model=keras:{named.name}: the weights file '{shown}' does not exist."
        raise findings.RefusedError(findings.Problem(message, path=inside))
    if path and (problems := formats.find_weights_problems(path)):
        raise findings.RefusedError(*problems)
    if spec.model_sha256 and not path:
        message = (
            f"--model=keras:{named.name} reads no file of yours that --model_sha256 could be "
            "compared with. Leave it out, or give --weights."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--model_sha256"))
    return path


def _find_name(text: str) -> str:
    names = [name for name in dir(keras.applications) if name[:1].isupper()]
    by_lower = {name.lower(): name for name in names}
    if text.lower() in by_lower:
        return by_lower[text.lower()]
    near = difflib.get_close_matches(text.lower(), by_lower, n=1)
    hint = f" Did you mean 'keras:{by_lower[near[0]]}'?" if near else ""
    raise findings.RefusedError(
        findings.Problem(
            f"Unknown Keras application '{findings.one_line(text)}'.{hint} Keras has "
            f"{', '.join(names)}."
        )
    )


def _arguments_of(name: str) -> dict[str, typing.Any]:
    signature = inspect.signature(getattr(keras.applications, name))
    return {
        key: parameter.default
        for key, parameter in signature.parameters.items()
        if key not in (*_OURS, "weights", "input_shape")
    }


def _read_value(key: str, value: str, default: typing.Any) -> typing.Any:
    if key == "weights":
        return value
    if key == "input_shape":
        match = re.fullmatch(r"(\d+)x(\d+)x([13])", value)
        sides = tuple(int(side) for side in match.groups()) if match else ()
        if not match or not all(1 <= side <= 8192 for side in sides):
            raise ValueError(
                "HEIGHTxWIDTHxCHANNELS in pixels, such as 128x128x3, with 1 or 3 channels"
            )
        return sides
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return value.lower() == "true"
    try:
        return type(default)(value)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(kind) from None
