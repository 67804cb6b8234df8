"""Options whose values are small languages: freeze rules, requirements, sizes, random views."""

import codecs
import dataclasses
import difflib
import math
import re

from tf_finetune.options import SpecError


@dataclasses.dataclass(frozen=True)
class FreezeRule:
    """A parsed --freeze. `kind` is count, percent, until, match, all or none."""

    kind: str
    value: int | float | str = 0


def is_text_encoding(name: str) -> bool:
    """Whether --encoding names an encoding that turns bytes into text.

    Args:
      name: for example "utf-8" or "latin-1".

    Returns:
      False for an unknown name, and for Python's codecs of other things, such as "base64".
    """
    try:
        found = codecs.lookup(name)
        return bool(found._is_text_encoding) and isinstance(b"".decode(name), str)
    except (LookupError, UnicodeError, ValueError):
        return False


def read_freeze(text: str) -> FreezeRule:
    """Parses a --freeze value.

    Args:
      text: N, -N, P%, all, none, until:LAYER or match:REGEX.

    Returns:
      The rule; a negative count means "all but the last".

    Raises:
      SpecError: the text has none of these forms, P is outside 0 to 100, or REGEX is malformed.
    """
    forms = "N, -N, P%, all, none, until:LAYER or match:REGEX"
    if text in ("all", "none"):
        return FreezeRule(text)
    if re.fullmatch(r"-?\d+", text):
        return FreezeRule("count", int(text))
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        percent = float(text[:-1])
        if percent > 100:
            raise SpecError(f"--freeze expects a part from 0% to 100%. Received {text!r}.")
        return FreezeRule("percent", percent)
    kind, colon, value = text.partition(":")
    if colon and value and kind == "until":
        return FreezeRule(kind, value)
    if colon and value and kind == "match":
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise SpecError(
                f"--freeze=match: expects a regular expression. Received {value!r}: {error}."
            ) from error
        return FreezeRule(kind, value)
    raise SpecError(f"--freeze expects {forms}. Received {text!r}.")


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A parsed --require_min or --require_max. `head` is None where one head exists."""

    split: str
    head: str | None
    metric: str
    value: float


def read_service(text: str) -> tuple[str, int]:
    """Parses a --data_service value.

    Args:
      text: grpc://HOST:PORT.

    Returns:
      (host, port); the host of an address of IPv6 without its brackets.

    Raises:
      SpecError: the text has another form, or there is no such port.
    """
    found = re.fullmatch(r"grpc://([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", text)
    if not found or not 0 < int(found[2]) < 2**16:
        raise SpecError(
            "--data_service expects the address of a dispatcher, grpc://HOST:PORT, for example "
            f"grpc://10.0.0.5:5000. Received {text!r}."
        )
    return found[1].strip("[]"), int(found[2])


def read_requirement(text: str, *, flag: str) -> Requirement:
    """Parses SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE.

    Args:
      text: for example `test/accuracy:0.9`.
      flag: the flag's name, for the error's text.

    Returns:
      The requirement.

    Raises:
      SpecError: the text has neither form, or the split is not validation or test.
    """
    path, colon, number = text.rpartition(":")
    parts = path.split("/")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not colon or value != value or len(parts) not in (2, 3) or not all(parts):
        raise SpecError(
            f"--{flag} expects SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE, for example "
            f"test/accuracy:0.9. Received {text!r}."
        )
    if parts[0] not in ("validation", "test"):
        raise SpecError(f"--{flag} knows the splits validation and test. Received {text!r}.")
    head = parts[1] if len(parts) == 3 else None
    return Requirement(parts[0], head, parts[-1], value)


def read_image_size(text: str) -> tuple[int, int]:
    """Parses `224` or `HEIGHTxWIDTH`.

    Args:
      text: one number for squares, or two joined by x; pixels.

    Returns:
      (height, width) in pixels.

    Raises:
      SpecError: not of that form, or a side outside 1 to 8192.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(1 <= side <= 8192 for side in sides):
        raise SpecError(
            "--image_size expects pixels as N or HEIGHTxWIDTH, each from 1 to 8192. "
            f"Received {text!r}."
        )
    return sides


@dataclasses.dataclass(frozen=True)
class AugmentStep:
    """One step of --augment, every value settled.

    Attributes:
      name: a key of AUGMENT_STEPS.
      values: its numbers; for flip the directions, "horizontal" and "vertical" or one of them.
    """

    name: str
    values: tuple[float | str, ...]


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """What stands behind a step's name: how it is written, defaults and bounds of each number."""

    form: str
    defaults: tuple[float, ...]
    lower_bounds: tuple[float, ...]
    upper_bounds: tuple[float, ...]


_FLIPS: dict[str, tuple[str, ...]] = {"horizontal": ("horizontal",), "vertical": ("vertical",)}
_FLIPS["both"] = ("horizontal", "vertical")
_STRENGTH = _Numbers("STRENGTH", (0.2,), (0.0,), (1.0,))
AUGMENT_STEPS: dict[str, _Numbers | None] = {
    "flip": None,
    "crop": _Numbers("MIN_AREA,MAX_AREA", (0.5, 1.0), (0.01, 0.01), (1.0, 1.0)),
    "rotate": _Numbers("DEGREES", (10.0,), (0.0,), (180.0,)),
    "translate": _Numbers("PART", (0.1,), (0.0,), (1.0,)),
    "zoom": _Numbers("PART", (0.1,), (0.0,), (0.9,)),
    "color": _STRENGTH,
    "brightness": _STRENGTH,
    "contrast": _STRENGTH,
    "saturation": _STRENGTH,
    "hue": _Numbers("TURN", (0.05,), (0.0,), (0.5,)),
    "cutout": _Numbers("SIDE", (0.5,), (0.01,), (1.0,)),
    "erase": _Numbers("MIN_AREA,MAX_AREA", (0.02, 0.33), (0.001, 0.001), (1.0, 1.0)),
    "randaugment": _Numbers("NUM,MAGNITUDE", (2.0, 5.0), (1.0, 0.0), (5.0, 10.0)),
    # Defaults: the strengths that the authors used for ImageNet.
    "mixup": _Numbers("ALPHA", (0.2,), (0.05,), (10.0,)),
    "cutmix": _Numbers("ALPHA", (1.0,), (0.05,), (10.0,)),
}
# Those that make one image of two; the others change each image by itself.
MIXING_STEPS = ("mixup", "cutmix")
_RANGES = ("crop", "erase")


def read_augment(text: str) -> tuple[AugmentStep, ...]:
    """Parses `flip,crop:0.3,1,rotate:10`.

    Args:
      text: steps joined by commas, each NAME, or NAME: and numbers joined by commas (a piece that
        is a number belongs to the step before it); or none.

    Returns:
      The steps in the order of the text, left-out numbers by their defaults.

    Raises:
      SpecError: an unknown step (all are listed), one that is named twice, or a value that it
        does not take; a line each.
    """
    if text == "none":
        return ()
    steps: list[AugmentStep] = []
    problems: list[str] = []
    for name, values in _split_augment(text):
        try:
            steps.append(_read_step(name, values))
        except SpecError as error:
            problems.extend(error.problems)
    names = [step.name for step in steps]
    problems += [
        f"--augment names {name} twice. Give each step once."
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise SpecError(*problems)
    return tuple(steps)


def _split_augment(text: str) -> list[tuple[str, list[str]]]:
    """(name, texts of its values) of each step."""
    steps: list[tuple[str, list[str]]] = []
    for piece in text.split(","):
        if steps and re.fullmatch(r"[-+.\d]\S*", piece):
            steps[-1][1].append(piece)
        else:
            name, colon, value = piece.partition(":")
            steps.append((name, [value] if colon else []))
    return steps


def _read_step(name: str, texts: list[str]) -> AugmentStep:
    if name not in AUGMENT_STEPS:
        near = difflib.get_close_matches(name, AUGMENT_STEPS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise SpecError(
            f"--augment knows no step {name!r}. {hint}Expected none, or some of "
            f"{', '.join(AUGMENT_STEPS)}, joined by commas."
        )
    form = AUGMENT_STEPS[name]
    shown = ",".join(texts)
    if form is None:
        direction = shown or "horizontal"
        if direction not in _FLIPS:
            raise SpecError(
                f"--augment: flip expects {', '.join(_FLIPS)}. Received {shown!r}, in "
                f"'{name}:{shown}'."
            )
        return AugmentStep(name, _FLIPS[direction])
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        numbers = (math.nan,)
    numbers += form.defaults[len(numbers) :]
    is_right = len(numbers) == len(form.defaults) and all(
        lower <= number <= upper
        for number, lower, upper in zip(numbers, form.lower_bounds, form.upper_bounds, strict=True)
    )
    if name in _RANGES and is_right:
        is_right = numbers[0] <= numbers[1]
    if name == "randaugment" and is_right:
        is_right = numbers[0].is_integer()
    if not is_right:
        raise SpecError(_describe_step(name, form, received=shown))
    return AugmentStep(name, numbers)


def _describe_step(name: str, form: _Numbers, *, received: str) -> str:
    parts = [
        f"{part} from {lower:g} to {upper:g}"
        for part, lower, upper in zip(
            form.form.split(","), form.lower_bounds, form.upper_bounds, strict=True
        )
    ]
    return (
        f"--augment: {name} expects {name}:{form.form} with {', '.join(parts)}"
        + (", the first not above the second" if name in _RANGES else "")
        + (", NUM a whole number" if name == "randaugment" else "")
        + f". Received '{name}:{received}'."
    )
