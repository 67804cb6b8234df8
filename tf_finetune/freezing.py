"""Which layers of the backbone train.

One idea: a plan is data, made once from the --freeze rule and the numbered layers; printing it,
applying it and splitting the model at it all read the same plan.

Every BatchNormalization of the backbone is held in inference mode, also above the freeze line,
unless --batch_norm=train: few images give worse statistics than the pretraining did. Layers that
draw random numbers (Dropout, RandomFlip) do nothing while they are frozen, so that frozen layers
give the same features in every epoch: all frozen layers run in inference mode.
"""

import dataclasses
import re
import typing

from tf_finetune import findings, layer_table, option_values

FROZEN = "frozen"
TRAINABLE = "trainable"
HELD = "held"

_HEADER = ("number", "name", "class", "output shape", "parameters", "state")


@dataclasses.dataclass(frozen=True)
class FreezePlan:
    """What a --freeze rule means for one backbone: data, decided once.

    Attributes:
      rows: each layer with its state: "frozen", "trainable" or "held" (a BatchNormalization above
        the freeze line that stays in inference mode, --batch_norm=frozen).
      cut: name of the last layer of the frozen prefix; None: the first layer trains.
      num_frozen: number of rows in state "frozen".
      num_layers: number of rows.
      rule: the --freeze text.
      batch_norm: "frozen" or "train".
      unit: what a row is, plural.
    """

    rows: tuple[tuple[layer_table.LayerRow, str], ...]
    cut: str | None
    num_frozen: int
    num_layers: int
    rule: str
    batch_norm: str
    unit: str = "layers"


def plan_freeze(
    freeze: str, table: layer_table.LayerTable, *, batch_norm: str = "frozen"
) -> FreezePlan:
    """Decides which layers train.

    Args:
      freeze: N (the first N), -N (all but the last N), P% (that part from the input, rounded), all,
        none, until:LAYER (inclusive) or match:REGEX (layers whose name contains a match).
      table: the backbone's layers.
      batch_norm: "frozen" holds every BatchNormalization in inference mode; "train" updates those
        that are not frozen.

    Returns:
      The plan; nothing is changed.

    Raises:
      specs.SpecError: the text is none of these forms.
      findings.RefusedError: N is more than there are layers, the layer does not exist, the
        expression matches no name, or --batch_norm=train meets a partly frozen graph, which runs
        all its BatchNormalizations in one mode.
    """
    frozen = _frozen_numbers(option_values.read_freeze(freeze), freeze, table)
    rows = []
    for row in table.rows:
        if row.number in frozen:
            state = FROZEN
        elif row.is_batch_norm and batch_norm == "frozen":
            state = HELD
        else:
            state = TRAINABLE
        rows.append((row, state))
    if table.unit != "layers" and batch_norm == "train":
        _check_one_mode(freeze, table, num_frozen=len(frozen))
    prefix = 0
    while prefix + 1 in frozen:
        prefix += 1
    return FreezePlan(
        rows=tuple(rows),
        cut=table.rows[prefix - 1].name if prefix else None,
        num_frozen=len(frozen),
        num_layers=len(table),
        rule=freeze,
        batch_norm=batch_norm,
        unit=table.unit,
    )


def apply_plan(plan: FreezePlan, model: typing.Any) -> None:
    """Sets `trainable` of the backbone's layers; has an effect at the next compile only.

    Frozen layers run in inference mode from now on, until a later plan or `release_plan` sets them
    free: their Dropout does nothing.

    Args:
      plan: made from this backbone's table.
      model: the backbone, or a model that it is a layer of.

    Raises:
      ValueError: the model does not have the plan's layers.
    """
    layers = _find_layers(model, [row.name for row, _ in plan.rows])
    for layer in model._flatten_layers():
        if hasattr(layer, "weight_groups"):
            layer.batch_norm = plan.batch_norm
    for (_, state), layer in zip(plan.rows, layers, strict=True):
        layer.trainable = state == TRAINABLE
        for inner in layer._flatten_layers():
            _release(inner)
            if state == FROZEN:
                _silence(inner)
            elif plan.batch_norm == "frozen" and layer_table.is_batch_norm(inner):
                # Inside a wrapper or an unopened model, where the table shows no row for it.
                inner.trainable = False


def release_plan(model: typing.Any) -> None:
    """Ends the inference mode of frozen layers; `trainable` stays as it is.

    Args:
      model: what was given to `apply_plan`.
    """
    for layer in model._flatten_layers():
        _release(layer)


def is_fixed(operation: typing.Any) -> bool:
    """Whether an operation gives the same outputs for the same inputs in every epoch.

    Args:
      operation: of a model to which a plan is applied: a layer, or a function of `keras.ops`.

    Returns:
      False if it has weights that train, keeps a state, or may draw random numbers in training.
    """
    if not hasattr(operation, "_flatten_layers"):
        return True
    # What a layer holds counts too: `training` reaches it through the layers around it.
    return not operation.trainable_variables and all(
        map(_is_deterministic, operation._flatten_layers())
    )


def _is_deterministic(layer: typing.Any) -> bool:
    if getattr(layer, "stateful", False):
        return False
    return (
        not layer._call_has_training_arg
        or isinstance(vars(layer).get("call"), _InferenceCall)
        or not getattr(layer, "has_training_mode", True)
        or (layer_table.is_batch_norm(layer) and not layer.trainable)
        # Its `training` only matters to quantization.
        or type(layer).__name__ == "Dense"
    )


def format_plan(plan: FreezePlan) -> str:
    """The plan as a table for people.

    Args:
      plan: any plan.

    Returns:
      A line per layer under a header, then the totals; no line end after the last.
    """
    cells = [_HEADER] + [_cells(row, state) for row, state in plan.rows]
    lines = format_columns(cells)
    held = sum(state == HELD for _, state in plan.rows)
    total = (
        f"--freeze={plan.rule}: {plan.num_frozen} of {plan.num_layers} {plan.unit} frozen, "
        f"{plan.num_layers - plan.num_frozen - held} trainable"
    )
    if held:
        total += f", {held} BatchNormalization held in inference mode (--batch_norm=frozen)"
    parameters = {
        state: sum(row.num_parameters for row, own in plan.rows if own == state)
        for state in (FROZEN, TRAINABLE, HELD)
    }
    counts = f"Parameters: {parameters[FROZEN]:,} frozen, {parameters[TRAINABLE]:,} trainable"
    if held:
        counts += f", {parameters[HELD]:,} held"
    return "\n".join([*lines, f"{total}.", f"{counts}."])


def describe_rows(table: layer_table.LayerTable) -> list[tuple[str, ...]]:
    """A table of layers that no plan stands for, for `format_columns`.

    Args:
      table: any table.

    Returns:
      The header, then the rows.
    """
    return [_HEADER[:-1]] + [_cells(row, "")[:-1] for row in table.rows]


def format_columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligns a table: numbers to the right, text to the left.

    Args:
      rows: the header, then the rows, of the same length.

    Returns:
      A line per row.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [name in ("number", "parameters") for name in rows[0]]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def _frozen_numbers(
    rule: option_values.FreezeRule, text: str, table: layer_table.LayerTable
) -> frozenset[int]:
    total = len(table)
    if rule.kind == "match":
        pattern = re.compile(str(rule.value))
        numbers = frozenset(row.number for row in table.rows if pattern.search(row.name))
        if not numbers:
            raise _refused(
                f"--freeze={findings.one_line(text)} matches none of the {total} {table.unit} of "
                "the backbone. --mode=inspect lists them."
            )
        return numbers
    if rule.kind == "until":
        name = str(rule.value)
        if name not in table.names:
            raise findings.RefusedError(
                layer_table.unknown_layer(name, table.names, unit=table.unit, flag="--freeze")
            )
        count = table.names.index(name) + 1
    elif rule.kind == "count":
        count = int(rule.value)
        if abs(count) > total:
            raise _refused(
                f"--freeze={text} is more than the {total} {table.unit} of the backbone. "
                "--mode=inspect lists them."
            )
        # "-0" has lost its sign as a number: all but the last 0.
        count = total + count if text.startswith("-") else count
    elif rule.kind == "percent":
        count = round(float(rule.value) * total / 100)
    else:
        count = total if rule.kind == "all" else 0
    return frozenset(range(1, count + 1))


def _check_one_mode(text: str, table: layer_table.LayerTable, *, num_frozen: int) -> None:
    norms = sum(row.is_batch_norm for row in table.rows)
    if norms and 0 < num_frozen < len(table):
        message = (
            f"--batch_norm=train with --freeze={findings.one_line(text)}: {num_frozen} of "
            f"{len(table)} {table.unit} are frozen, and the graph runs its {norms} "
            "BatchNormalizations all in training mode or none. Expected --freeze=none, "
            "--freeze=all or --batch_norm=frozen."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--batch_norm"))


def _refused(message: str) -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, flag="--freeze"))


def _cells(row: layer_table.LayerRow, state: str) -> tuple[str, ...]:
    return (
        str(row.number),
        findings.one_line(row.name),
        findings.one_line(row.class_name),
        format_shape(row.output_shape),
        f"{row.num_parameters:,}",
        state,
    )


def format_shape(shape: tuple[int | None, ...] | None) -> str:
    """An output shape for people.

    Args:
      shape: with None for free sizes; None: not known.

    Returns:
      For example "(64, 64, 8)", the batch left out; "?" where not known.
    """
    if shape is None:
        return "?"
    return "(" + ", ".join("?" if side is None else str(side) for side in shape[1:]) + ")"


def _find_layers(model: typing.Any, names: list[str]) -> list[typing.Any]:
    # A SavedModel as a layer has weight groups in the place of layers.
    members = getattr(model, "weight_groups", None) or getattr(model, "layers", None) or ()
    own = {layer.name: layer for layer in members}
    if own.keys() >= set(names):
        return [own[name] for name in names]
    for layer in members:
        if hasattr(layer, "layers") or hasattr(layer, "weight_groups"):
            try:
                return _find_layers(layer, names)
            except ValueError:
                continue
    raise ValueError("The model does not have the layers of this freeze plan.")


class _InferenceCall:
    """A layer's `call` with training=False, whatever fit asks for.

    It stands on the layer object alone: class, configuration and saved model do not know of it.
    """

    def __init__(self, call: typing.Callable[..., typing.Any]):
        self._call = call

    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        return self._call(*args, **{**kwargs, "training": False})


def _silence(layer: typing.Any) -> None:
    # A rate of 0 would do for Dropout, but would be saved with the model, and augmentation layers
    # and stochastic depth have no such rate.
    if layer._call_has_training_arg:
        layer.call = _InferenceCall(layer.call)


def _release(layer: typing.Any) -> None:
    if isinstance(vars(layer).get("call"), _InferenceCall):
        del layer.call
