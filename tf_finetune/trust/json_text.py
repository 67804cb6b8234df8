"""JSON from an untrusted file: bounded, and with one meaning only.

One idea: of two equal keys Python takes the last and other readers the first, so a text with two is
refused; so are texts that only their nesting or length makes expensive.

Reference: RFC 8259, section 4 (names within an object SHOULD be unique).
"""

import json
import typing

from tf_finetune import findings
from tf_finetune.trust import refusals

MAX_BYTES = 32 * 2**20
# A model in a model in a model, each wrapped, with initializers: about 30.
MAX_DEPTH = 80


def parse(text: bytes | str, *, what: str) -> typing.Any:
    """Parses a text.

    Args:
      text: UTF-8.
      what: what it is called in the error's text, for example "config.json".

    Returns:
      Plain values.

    Raises:
      refusals.BrokenFileError: no JSON; too long or too deep; a key stands twice in an object.
    """
    if len(text) > MAX_BYTES:
        raise refusals.BrokenFileError(
            refusals.outside(
                what, f"{what} has {len(text):,} bytes. Expected at most {MAX_BYTES:,}."
            )
        )
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateError as error:
        message = (
            f"{what} has the key '{findings.one_line(error)}' twice in one object, which readers "
            "understand differently. Save the model again."
        )
        raise refusals.BrokenFileError(refusals.outside(what, message)) from error
    except RecursionError as error:
        raise refusals.BrokenFileError(refusals.outside(what, _too_deep(what))) from error
    except ValueError as error:
        raise refusals.BrokenFileError(refusals.broken(what, f"{what} is not JSON.")) from error
    check_depth(value, what=what)
    return value


def check_depth(value: typing.Any, *, what: str) -> None:
    """Refuses values nested so deeply that a recursive reader would end in an error.

    Args:
      value: as parsed from JSON.
      what: what it is called in the error's text.

    Raises:
      refusals.BrokenFileError: it is deeper than `MAX_DEPTH`.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise refusals.BrokenFileError(refusals.outside(what, _too_deep(what)))


def _inside(value: typing.Any) -> typing.Iterable[typing.Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return ()
    return (inner for inner in value if isinstance(inner, dict | list))


def _too_deep(what: str) -> str:
    return (
        f"{what} is nested more than {MAX_DEPTH} levels deep, which no model needs and which "
        "exhausts its readers. Save the model with fewer models inside models."
    )


class _DuplicateError(ValueError):
    """A key stands twice."""


def _unique(pairs: list[tuple[str, typing.Any]]) -> dict[str, typing.Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateError(key)
            seen.add(key)
    return result
