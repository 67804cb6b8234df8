"""What is odd about images that can be decoded: name, pixels, size, shape.

One idea: odd is what the rest of the data set is not. A set of 8 x 8 digits has no small images,
one of solid colours no constant ones, one of spectrograms no long ones.
"""

import statistics
from collections.abc import Callable, Iterable

from tf_finetune import findings, option_values
from tf_finetune.data import doctor_images, doctor_rows, image_heads

_ENDINGS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".webp": "WebP",
}
# Against the median of the data set.
_SMALL_PART, _LONG_TIMES = 8, 4
_LONG_RATIO = 10
# Against --image_size: more than this is made up by resizing.
_ENLARGED_TIMES = 4
_RARE_PART = 0.5


def find_odd_images(
    rows: doctor_rows.Rows, looks: dict[int, doctor_images.Look], *, image_size: str | None
) -> list[findings.Problem]:
    """Images that can be used and should be looked at.

    Args:
      rows: the examples.
      looks: {row: what is known of a good image}.
      image_size: text of --image_size, or None.

    Returns:
      Warnings: an ending of another format, a file without its end, an animation, an image of one
      colour or without any, one that is far smaller or longer than the others, one of 16 bits among
      others of 8; and, once, images far smaller than --image_size.
    """
    if not looks:
        return []
    find_complaint = _make_complaint(list(looks.values()))
    problems = []
    for row, look in looks.items():
        for message, flag in find_complaint(look):
            problems.append(rows.warn(row, f"{rows.name_input(row)} {message}", flag=flag))
    return problems + _find_enlarged(rows, looks, image_size=image_size)


def describe_bad(
    rows: doctor_rows.Rows, reading: doctor_images.Reading, *, skip: bool
) -> list[findings.Problem]:
    """Images that cannot be used, with the line of the table that names them.

    Args:
      rows: the examples.
      reading: of `doctor_images.read_images`.
      skip: whether --on_bad_example=skip is given.

    Returns:
      An error for each, or a warning where it is left aside in training too.
    """
    found = image_heads.describe(reading.splits, reading.heads)
    problems = []
    for row, problem in zip(sorted(reading.heads.rule_out()), found, strict=True):
        place = rows.locate(row)
        message, path, line = problem.message, problem.path or place.path, problem.line
        if place.line is not None:
            message, path, line = f"{place.name}: {message}", place.path, place.line
        severity = findings.WARNING if skip else problem.severity
        problems.append(findings.Problem(message, severity, path, line, problem.flag))
    return problems


def _make_complaint(
    looks: list[doctor_images.Look],
) -> Callable[[doctor_images.Look], list[tuple[str, str]]]:
    """A function from a look to (what follows the image's name, flag) of each oddity."""
    middle_side = statistics.median(min(look.width, look.height) for look in looks)
    middle_ratio = statistics.median(_find_ratio(look) for look in looks)
    constant_is_rare = _is_rare(look.is_constant for look in looks)
    wide_is_rare = _is_rare(look.bits == 16 for look in looks)
    narrow_is_rare = _is_rare(look.bits == 8 for look in looks)

    def complain(look: doctor_images.Look) -> list[tuple[str, str]]:
        size, found = f"{look.width} x {look.height} pixels", []
        expected = _ENDINGS.get(look.ending)
        if expected is not None and look.form and expected != look.form:
            found.append((f"is a {look.form} file with the ending {look.ending}. Rename it.", ""))
        if look.cut:
            found.append((f"{look.cut}. It decodes; look at it, or copy it again.", ""))
        if look.frames > 1:
            text = f"is an animation of {look.frames} frames, of which the first is used."
            found.append((text, ""))
        if look.is_clear:
            found.append(("is fully transparent, which becomes white. Remove it.", ""))
        elif look.is_constant and constant_is_rare:
            found.append(("has one colour only. Remove it.", ""))
        if min(look.width, look.height) * _SMALL_PART < middle_side:
            text = f"is very small: {size}; half of all have {middle_side:g} or more on each side."
            found.append((text, ""))
        ratio = _find_ratio(look)
        if ratio > max(_LONG_RATIO, _LONG_TIMES * middle_ratio):
            text = f"is very long: {size}. --resize=pad or crop keeps its proportions."
            found.append((text, "--resize=pad"))
        if look.bits == 16 and wide_is_rare:
            text = "has 16 bits for a value, others 8. --pixel_max says which value is white."
            found.append((text, "--pixel_max"))
        if look.bits == 8 and narrow_is_rare:
            found.append(("has 8 bits for a value, others 16. Convert it like the others.", ""))
        return found

    return complain


def _find_ratio(look: doctor_images.Look) -> float:
    sides = sorted((look.width, look.height))
    return sides[1] / max(sides[0], 1)


def _is_rare(marks: Iterable[bool]) -> bool:
    values = list(marks)
    return 0 < sum(values) <= _RARE_PART * len(values)


def _find_enlarged(
    rows: doctor_rows.Rows, looks: dict[int, doctor_images.Look], *, image_size: str | None
) -> list[findings.Problem]:
    if image_size is None:
        return []
    height, width = option_values.read_image_size(image_size)
    small = [
        row
        for row, look in looks.items()
        if look.height * _ENLARGED_TIMES < height and look.width * _ENLARGED_TIMES < width
    ]
    if not small:
        return []
    source = next(iter(rows.parts.values())).source
    return [
        findings.Problem(
            f"{findings.one_line(source)}: {len(small)} of {len(looks)} images are enlarged more "
            f"than {_ENLARGED_TIMES} times by --image_size={image_size}: "
            f"{findings.list_first([rows.locate(row).name for row in small])}.",
            severity=findings.WARNING,
            path=source,
            flag="--image_size",
        )
    ]
