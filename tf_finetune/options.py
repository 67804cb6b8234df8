"""A dataclass field that is also a flag: its declaration, its type and its range check.

One idea: name, type, default, bounds and help of an option stand in one place, the field; what
checks a value and what makes a flag both read them there.
"""

import dataclasses
import math
import types
import typing
from typing import Any


class SpecError(ValueError):
    """An option has a value that cannot be used.

    Attributes:
      problems: one line per mistake, each with what was expected and received.
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


def option(
    default: Any,
    help: str,
    *,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    choices: tuple[str, ...] | None = None,
    repeated: bool = False,
    words: tuple[str, ...] = (),
) -> Any:
    """Declares a field that is also a flag.

    Args:
      default: value when the flag is not given; None means "decided by the run".
      help: one or two sentences, shown by --help.
      lower_bound: smallest allowed number, inclusive; for tuples, of each element.
      upper_bound: largest allowed number, inclusive; for tuples, of each element.
      choices: the allowed strings.
      repeated: the flag may be given more than once, each adding an element.
      words: texts that may stand in the place of a number; the field's type has them as a Literal.

    Returns:
      A dataclass field.
    """
    metadata = {
        "help": help,
        "lower_bound": lower_bound,
        "upper_bound": upper_bound,
        "choices": choices,
        "repeated": repeated,
        "words": words,
    }
    return dataclasses.field(default=default, metadata=metadata)


def field_types(spec_class: type) -> dict[str, tuple[type, bool, bool]]:
    """The scalar type of each option of a spec.

    Args:
      spec_class: one of this module's dataclasses.

    Returns:
      {field name: (scalar type, may be None, is a tuple)}; fields that hold other specs are
      left out.
    """
    hints = typing.get_type_hints(spec_class)
    result = {}
    for field in dataclasses.fields(spec_class):
        if "help" not in field.metadata:
            continue
        hint = hints[field.name]
        arms = _find_arms(hint)
        optional = type(None) in arms
        (inner,) = [arm for arm in arms if arm is not type(None) and not _is_words(arm)]
        is_tuple = typing.get_origin(inner) is tuple
        result[field.name] = (typing.get_args(inner)[0] if is_tuple else inner, optional, is_tuple)
    return result


def _find_arms(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _is_words(arm: Any) -> bool:
    return typing.get_origin(arm) is typing.Literal


def _find_range_problems(spec: Any) -> list[str]:
    problems = []
    for field in dataclasses.fields(spec):
        if "help" not in field.metadata:
            continue
        value = getattr(spec, field.name)
        scalar, optional, is_tuple = field_types(type(spec))[field.name]
        if value is None:
            if not optional:
                problems.append(f"--{field.name} needs a value. Received None.")
            continue
        if is_tuple and not isinstance(value, tuple):
            problems.append(f"--{field.name} expects a tuple. Received {value!r}.")
            continue
        for element in value if is_tuple else (value,):
            problem = _find_value_problem(field, scalar, element)
            if problem:
                problems.append(problem)
                break
    return problems


def _find_value_problem(field: Any, scalar: type, value: Any) -> str | None:
    words = field.metadata["words"]
    if value in words:
        return None
    accepted = (int, float) if scalar is float else scalar
    if not isinstance(value, accepted) or (isinstance(value, bool) and scalar is not bool):
        what = " or ".join((scalar.__name__, *words))
        return f"--{field.name} expects a value of type {what}. Received {value!r}."
    choices = field.metadata["choices"]
    if choices and value not in choices:
        return f"--{field.name} must be one of {', '.join(choices)}. Received {value!r}."
    lower, upper = field.metadata["lower_bound"], field.metadata["upper_bound"]
    if scalar not in (int, float) or (lower is None and upper is None):
        return None
    if value != value or value in (math.inf, -math.inf):
        return f"--{field.name} must be a finite number. Received {value}."
    if (lower is not None and value < lower) or (upper is not None and value > upper):
        if upper is None:
            bounds = f"at least {lower}"
        elif lower is None:
            bounds = f"at most {upper}"
        else:
            bounds = f"from {lower} to {upper}"
        return f"--{field.name} must be {bounds}. Received {value}."
    return None


class CheckedSpec:
    """Base of every spec: checks its fields when built."""

    def __post_init__(self) -> None:
        problems = _find_range_problems(self) or self.find_more_problems()
        if problems:
            raise SpecError(*problems)

    def find_more_problems(self) -> list[str]:
        """Mistakes beyond the range of one option; asked when no option is out of range.

        Returns:
          One line per mistake.
        """
        return []
