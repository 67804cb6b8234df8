"""Options whose values are small languages: freeze rules, requirements, image sizes."""

import dataclasses
import re

from tf_finetune.options import SpecError


@dataclasses.dataclass(frozen=True)
class FreezeRule:
    """A parsed --freeze. `kind` is count, percent, until, match, all or none."""

    kind: str
    value: int | float | str = 0


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
