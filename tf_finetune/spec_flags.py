"""Command-line flags to specs and back, each option declared once.

One idea: `specs` declares every option, and this module turns the declarations into absl flags,
values into specs, and specs into the lines of run.flags. All flags are read as text and converted
here, so that several mistakes are reported together.

Reference: Abseil, "Flags", https://abseil.io/docs/python/guides/flags
"""

import csv
import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from tf_finetune import findings, flagfiles, options, specs

# Field of RunSpec -> the spec whose options become flags; "" is RunSpec itself.
_GROUPS: dict[str, type] = {
    "": specs.RunSpec,
    "model": specs.ModelSpec,
    "freeze": specs.FreezeSpec,
    "data": specs.DataSpec,
    "augment": specs.AugmentSpec,
    "train": specs.TrainSpec,
    "export": specs.ExportSpec,
    "predict": specs.PredictSpec,
}
_TITLES = {
    "": "run",
    "freeze": "freezing",
    "augment": "augmentation",
    "train": "training",
    "predict": "prediction",
}
# Flags of the form key=value,key=value that build one spec each.
_COMPOSITES: dict[str, type] = {"head": specs.HeadSpec, "phase": specs.PhaseSpec}
_NOT_IN_RUN_FLAGS = frozenset(
    {"mode", "workdir", "dry_run", "input", "output", "top_k", "inspect_format"}
    | {"resume", "checkpoint_secs", "keep_checkpoints", "data_service"}
)
_PATHS = frozenset(
    {
        "cache_dir",
        "data",
        "export_dir",
        "model",
        "output",
        "preprocessor",
        "split_file",
        "test_data",
        "tfds_data_dir",
        "validation_data",
        "vocabulary",
        "weights",
        "workdir",
    }
)
_TRUE_FALSE = {"true": True, "1": True, "false": False, "0": False}


@dataclasses.dataclass(frozen=True)
class ParsedFlags:
    """A spec and the names of the flags that were given for it."""

    spec: specs.RunSpec
    given: frozenset[str]


def parse_args(arguments: Sequence[str]) -> ParsedFlags:
    """Command-line arguments to a spec.

    Args:
      arguments: what follows the program's name; `--flagfile` may occur, nested too.

    Returns:
      The spec and the names of the given flags.

    Raises:
      SpecError: every mistake at once: unknown flags with the nearest name, positional
        arguments, values of the wrong type or outside their range.
    """
    given, problems = _read_arguments(arguments)
    return ParsedFlags(_build_run_spec(given, problems), frozenset(given))


def read_flagfile(path: str, **overrides: Any) -> specs.RunSpec:
    """A spec from a flagfile, for notebooks: no global flag is defined.

    Args:
      path: the flagfile.
      **overrides: flag name to value, as text or in its Python type; None takes the default.
        `head` and `phase` take a list of texts or of specs, and replace those of the file.

    Returns:
      The spec.

    Raises:
      SpecError: a mistake in the file or in an override.
    """
    given, problems = _read_arguments([f"--flagfile={path}"])
    known = define_flags()
    for name, value in overrides.items():
        if name not in known:
            problems.append(_leftover_problem(f"--{name}", known))
        elif value is None:
            given.pop(name, None)
        else:
            given[name] = value
    return _build_run_spec(given, problems)


def define_flags() -> flags.FlagValues:
    """Every flag of the program, on a private FlagValues.

    Returns:
      FlagValues that share nothing with `absl.flags.FLAGS`.
    """
    flag_values = flags.FlagValues()
    flag_values.set_gnu_getopt(True)
    for group, spec_class in _GROUPS.items():
        for field, (scalar, _, _) in _options(spec_class):
            define: Any = flags.DEFINE_string
            if scalar is bool:
                define = flags.DEFINE_boolean
            elif field.metadata["repeated"]:
                define = flags.DEFINE_multi_string
            define(
                field.name,
                None,
                field.metadata["help"],
                flag_values=flag_values,
                module_name=group,
            )
    for name, spec_class in _COMPOSITES.items():
        flags.DEFINE_multi_string(
            name, None, _composite_help(name, spec_class), flag_values=flag_values
        )
    return flag_values


def format_help() -> str:
    """The text of --help: all flags, grouped by spec.

    Returns:
      Text of some hundred lines of at most 100 columns.
    """
    lines = [
        "Fine-tunes a pretrained Keras model and exports it for TF Serving.",
        "",
        "  python -m tf_finetune.main --model=MODEL --data=DATA [flags]",
        "  python -m tf_finetune.main --flagfile=configs/quickstart.flags",
    ]
    for group, spec_class in _GROUPS.items():
        lines += ["", f"{_TITLES.get(group, group)}:"]
        for field, (scalar, _, _) in _options(spec_class):
            lines += _help_lines(field, scalar)
        if group in ("freeze", "train"):
            name = "head" if group == "freeze" else "phase"
            lines += ["", "heads:"] if name == "head" else []
            lines += [f"  --{name}=KEY=VALUE,..."]
            lines += _wrap(_composite_help(name, _COMPOSITES[name]))
    lines += ["", "  --flagfile=FILE", *_wrap("Reads flags from FILE, one on each line.")]
    return "\n".join(lines) + "\n"


def write_flags(spec: specs.RunSpec) -> str:
    """A spec as the text of a flagfile that repeats it.

    Args:
      spec: any spec; make its paths absolute first if it is to be read from another folder.

    Returns:
      A line per option that has a value; mode, workdir, dry_run, what --mode=predict reads, and
      what does not change a run's result are left out: how it is kept and gone on with, and who
      reads its images.

    Raises:
      SpecError: a value cannot stand in a flagfile.
    """
    lines = []
    for group, spec_class in _GROUPS.items():
        part = getattr(spec, group) if group else spec
        for field, (scalar, _, _) in _options(spec_class):
            value = getattr(part, field.name)
            if field.name in _NOT_IN_RUN_FLAGS or value is None:
                continue
            if field.metadata["repeated"]:
                lines += [f"--{field.name}={element}" for element in value]
            else:
                lines.append(f"--{field.name}={_format_value(value, scalar, joint=',')}")
    lines += [f"--head={_format_composite(head)}" for head in spec.heads]
    lines += [f"--phase={_format_composite(phase)}" for phase in spec.train.phases]
    for line in lines:
        if not line.isprintable() or re.search(r"\s# ", line) or line != line.strip():
            name = line.partition("=")[0]
            raise specs.SpecError(
                f"{name} has a line end, ' # ' or a blank at its end, which no flagfile can hold. "
                f"Received {line.partition('=')[2]!r}. Rename it."
            )
    return "\n".join(lines) + "\n"


def _options(spec_class: type) -> list[tuple[Any, tuple[type, bool, bool]]]:
    types = options.field_types(spec_class)
    return [
        (field, types[field.name])
        for field in dataclasses.fields(spec_class)
        if field.name in types
    ]


def _composite_help(name: str, spec_class: type) -> str:
    keys = [
        f"{field.name}={_placeholder(field, types[0])}" for field, types in _options(spec_class)
    ]
    what = {
        "head": "A task, given once for each head (none given: inferred from the labels). Keys: ",
        "phase": "A phase of training, given once for each, in order. Keys: ",
    }[name]
    return what + ", ".join(keys)


def _placeholder(field: Any, scalar: type) -> str:
    if field.metadata["choices"]:
        return "|".join(field.metadata["choices"])
    value = {int: "N", float: "X", bool: "true|false"}.get(scalar, field.name.upper())
    return "|".join((value, *field.metadata["words"]))


def _help_lines(field: Any, scalar: type) -> list[str]:
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(str(part) for part in default) or None
    suffix = "" if default in (None, "", False) else f" Default: {default}."
    signature = f"--{field.name}" if scalar is bool else None
    signature = signature or f"--{field.name}={_placeholder(field, scalar)}"
    return [f"  {signature}", *_wrap(field.metadata["help"] + suffix)]


def _wrap(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > 90:
            lines.append(f"      {line}")
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, f"      {line}"]


def _read_arguments(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """({flag: text, bool or list of texts}, problems) of the flags that are given."""
    flag_values = define_flags()
    expanded = flagfiles.expand_flagfiles(arguments)
    try:
        _, *leftover = flag_values(["tf_finetune", *expanded], known_only=True)
    except flags.Error as error:
        raise specs.SpecError(f"{error}. --help lists all flags.") from error
    problems = [_leftover_problem(argument, flag_values) for argument in leftover]
    present = [name for name in flag_values if flag_values[name].present]
    return {name: flag_values[name].value for name in present}, problems


def _leftover_problem(argument: str, flag_values: flags.FlagValues) -> str:
    name = findings.one_line(argument.lstrip("-").partition("=")[0])
    if not argument.startswith("-"):
        return (
            f"Unexpected argument {argument!r}. Every value belongs to a flag: --flag=value "
            "(a yes-or-no flag takes no separate value)."
        )
    near = difflib.get_close_matches(name, list(flag_values), n=2)
    hint = f"Did you mean {' or '.join(f'--{flag}' for flag in near)}? " if near else ""
    return f"Unknown flag --{name}. {hint}--help lists all flags."


def _build_run_spec(given: Mapping[str, Any], problems: list[str]) -> specs.RunSpec:
    parts: dict[str, Any] = {}
    for group, spec_class in _GROUPS.items():
        values: dict[str, Any] = {}
        for field, types in _options(spec_class):
            if field.name in given:
                _convert(values, field, types, given[field.name], problems)
        parts[group] = values
    heads = _build_composites("head", given, problems)
    parts["train"]["phases"] = _build_composites("phase", given, problems)
    built: dict[str, Any] = {}
    for group, spec_class in _GROUPS.items():
        try:
            if group:
                built[group] = spec_class(**parts[group])
        except specs.SpecError as error:
            problems.extend(error.problems)
    try:
        spec = specs.RunSpec(**parts[""], **built, heads=heads)
    except specs.SpecError as error:
        problems.extend(error.problems)
    if problems:
        raise specs.SpecError(*problems)
    return spec


def _build_composites(name: str, given: Mapping[str, Any], problems: list[str]) -> tuple[Any, ...]:
    built: dict[str, Any] = {}
    for text in given.get(name) or ():
        try:
            spec = read_composite(text, flag=name) if isinstance(text, str) else text
        except specs.SpecError as error:
            problems.extend(error.problems)
            continue
        built[spec.name] = spec  # a repeated name replaces the earlier one, in its place
    return tuple(built.values())


def read_composite(text: str, *, flag: str) -> Any:
    """Parses the value of --head or --phase.

    Args:
      text: key=value pairs joined by commas; a value with a comma or a quote is quoted as in CSV.
      flag: "head" or "phase".

    Returns:
      A HeadSpec or PhaseSpec.

    Raises:
      SpecError: a pair without '=', an unknown key (the nearest is named), or a bad value.
    """
    spec_class = _COMPOSITES[flag]
    options = {field.name: (field, types) for field, types in _options(spec_class)}
    problems: list[str] = []
    values: dict[str, Any] = {}
    try:
        pairs = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as error:
        raise specs.SpecError(f"--{flag} expects key=value pairs: {error}.") from error
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            problems.append(
                f"--{flag} expects key=value pairs joined by commas. Received {pair!r}."
            )
        elif key not in options:
            near = difflib.get_close_matches(key, list(options), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            problems.append(f"--{flag} has no key {key!r}.{hint} Keys: {', '.join(options)}.")
        else:
            field, types = options[key]
            _convert(values, field, types, value, problems, prefix=f"--{flag}: {key}", joint="x")
    if problems:
        raise specs.SpecError(*problems)
    try:
        return spec_class(**values)
    except specs.SpecError as error:
        renamed = [_rename(problem, flag) for problem in error.problems]
        raise specs.SpecError(*renamed) from error


def _rename(problem: str, flag: str) -> str:
    # A field of a composite is no flag of its own: "--dropout must" becomes "--head: dropout must".
    if problem.startswith((f"--{flag}:", "--freeze")):
        return problem
    return f"--{flag}: {problem.removeprefix('--')}"


def _convert(
    values: dict[str, Any],
    field: Any,
    types: tuple[type, bool, bool],
    value: Any,
    problems: list[str],
    *,
    prefix: str = "",
    joint: str = ",",
) -> None:
    scalar, _, is_tuple = types
    prefix = prefix or f"--{field.name}"
    if field.name in _PATHS and isinstance(value, str):
        value = os.path.expanduser(value)  # a shell leaves the ~ of --data=~/photos alone
    try:
        if field.metadata["repeated"]:
            values[field.name] = (value,) if isinstance(value, str) else tuple(value)
        elif is_tuple and isinstance(value, str):
            parts = value.split(joint) if value else []
            values[field.name] = tuple(_read_scalar(part, scalar) for part in parts)
        else:
            is_read = isinstance(value, str) and value not in field.metadata["words"]
            values[field.name] = _read_scalar(value, scalar) if is_read else value
    except ValueError:
        what = {int: "a whole number", float: "a number", bool: "true or false"}[scalar]
        if is_tuple:
            what = f"numbers joined by {joint!r}"
        what = " or ".join((what, *field.metadata["words"]))
        problems.append(f"{prefix} expects {what}. Received {value!r}.")


def _read_scalar(text: str, scalar: type) -> Any:
    if scalar is bool:
        if text.lower() not in _TRUE_FALSE:
            raise ValueError(text)
        return _TRUE_FALSE[text.lower()]
    return scalar(text)


def _format_value(value: Any, scalar: type, *, joint: str) -> str:
    if isinstance(value, tuple):
        return joint.join(_format_value(element, scalar, joint=joint) for element in value)
    if scalar is bool:
        return "true" if value else "false"
    is_number = scalar is float and not isinstance(value, str)
    return repr(float(value)) if is_number else str(value)


def _format_composite(spec: Any) -> str:
    pairs = []
    for field, (scalar, _, _) in _options(type(spec)):
        value = getattr(spec, field.name)
        if value is None or value == ():
            continue
        pair = f"{field.name}={_format_value(value, scalar, joint='x')}"
        if any(character in pair for character in ',"'):
            pair = '"' + pair.replace('"', '""') + '"'
        pairs.append(pair)
    return ",".join(pairs)
