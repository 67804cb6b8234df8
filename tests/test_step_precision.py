"""Steps in bfloat16: where they are tried, what is compared, and that nothing else is rounded."""

import math

import numpy as np
import pytest

from tests import test_training
from tf_finetune import findings, graph_precision, resuming, specs, step_precision, training

material = test_training.material
needs_bfloat16 = pytest.mark.skipif(
    not graph_precision.has_bfloat16(), reason="this processor has no bfloat16"
)


def train(material, arithmetic, *, recorder=None, **options):
    """(weights, result, lines) of a run of two epochs."""
    lines, noted = [], []
    phase = specs.PhaseSpec(
        name="fine",
        epochs=2,
        freeze="none",
        learning_rate=0.01,
        schedule="constant",
        training_precision=arithmetic,
    )
    model, backbone, task = test_training.build(material, phases=(phase,), **options)
    result = training.fit(
        model,
        backbone,
        task,
        recorder=recorder,
        note_phases=noted.append,
        announce=lines.append,
    )
    return model.get_weights(), result, lines, noted


def find_difference(some, others):
    return max(np.abs(one - other).max() for one, other in zip(some, others, strict=True))


@needs_bfloat16
def test_steps_are_rounded_and_what_they_start_from_is_not(material):
    exact, result, _, _ = train(material, "float32")
    rounded, other, _, _ = train(material, "bfloat16")
    assert 0 < find_difference(exact, rounded) < 0.05
    assert all(weight.dtype == np.float32 for weight in rounded)
    losses = [row["cross_entropy"] for found in (result, other) for row in found.history]
    assert losses[0] != losses[2] and losses[0] == pytest.approx(losses[2], rel=0.02)
    again, _, _, _ = train(material, "bfloat16")
    assert find_difference(rounded, again) == 0


@needs_bfloat16
def test_validation_is_not_rounded(material):
    """At a rate of nearly nothing both end where they began, and so must be measured the same."""
    values = []
    for precision in ("float32", "bfloat16"):
        phase = specs.PhaseSpec(
            name="fine",
            epochs=1,
            freeze="none",
            learning_rate=1e-12,
            training_precision=precision,
        )
        model, backbone, task = test_training.build(material, phases=(phase,))
        result = training.fit(model, backbone, task, announce=test_training.silent)
        values.append(result.history[0])
    assert values[0]["val_cross_entropy"] == pytest.approx(values[1]["val_cross_entropy"], abs=1e-7)
    assert values[0]["cross_entropy"] != pytest.approx(values[1]["cross_entropy"], abs=1e-7)


def test_a_short_phase_is_not_tried(material):
    _, _, lines, noted = train(material, "auto")
    assert not any("bfloat16" in line for line in lines)
    assert [phase.training_precision for phase in noted[-1]] == ["float32"]


@needs_bfloat16
def test_a_trial_leaves_the_run_as_it_was(material, monkeypatch):
    monkeypatch.setattr(step_precision, "_MIN_SECS", 0.0)
    recorder = resuming.Recorder(None)
    found, _, lines, noted = train(material, "auto", recorder=recorder)
    ((phase,),) = noted
    assert phase.training_precision in ("float32", "bfloat16")
    assert recorder.standing.precisions == {"fine": phase.training_precision}
    (line,) = [line for line in lines if line.startswith("Phase fine: steps in ")]
    assert line.startswith(f"Phase fine: steps in {phase.training_precision}, bfloat16 is ")
    expected, _, _, _ = train(material, phase.training_precision)
    assert find_difference(found, expected) == 0


@needs_bfloat16
def test_who_wants_float32_gets_it(material, monkeypatch):
    monkeypatch.setattr(step_precision, "_MIN_SECS", 0.0)
    _, _, lines, noted = train(material, "auto", precision="float32")
    assert not any("bfloat16" in line for line in lines)
    assert noted[-1][0].training_precision == "float32"


@pytest.mark.parametrize(
    ("secs", "losses", "expected"),
    [
        ((2.0, 1.0), (1.0, 1.01), ("bfloat16", "bfloat16 is 2.00 times as fast")),
        ((1.1, 1.0), (1.0, 1.0), ("float32", "bfloat16 is 1.10 times as fast")),
        ((1.0, 2.0), (1.0, 1.0), ("float32", "bfloat16 is 0.50 times as fast")),
        (
            (2.0, 1.0),
            (1.0, 0.97),
            ("float32", "bfloat16 would change the loss of the first steps by 3.0%"),
        ),
        (
            (2.0, 1.0),
            (1.0, math.nan),
            ("float32", "bfloat16 would change the loss of the first steps by nan%"),
        ),
    ],
)
def test_what_a_trial_decides(secs, losses, expected):
    found = step_precision.compare(*secs, losses=losses)
    assert (found.precision, found.reason) == expected


def test_where_it_may_be_tried(monkeypatch):
    monkeypatch.setattr(graph_precision, "has_bfloat16", lambda: True)
    allowed = {"precision": "auto", "input_kind": "image", "has_columns": False, "num_replicas": 1}
    assert step_precision.may_try(**allowed)
    for other in (
        {"precision": "float32"},
        {"input_kind": "columns"},
        {"has_columns": True},
        {"num_replicas": 2},
    ):
        assert not step_precision.may_try(**{**allowed, **other})
    monkeypatch.setattr(graph_precision, "has_bfloat16", lambda: False)
    assert not step_precision.may_try(**allowed)


def test_a_processor_without_it_is_told(monkeypatch):
    phases = (specs.PhaseSpec(name="fine", training_precision="bfloat16"),)
    step_precision.check_processor((specs.PhaseSpec(name="fine", training_precision="auto"),))
    monkeypatch.setattr(graph_precision, "has_bfloat16", lambda: False)
    with pytest.raises(findings.RefusedError) as caught:
        step_precision.check_processor(phases)
    assert caught.value.problems[0].message == (
        "--training_precision=bfloat16 needs a processor that computes in it (x86 with AVX-512 "
        "BF16 or AMX, on Linux), and this one is not known to. Leave it out, or give "
        "--precision=bfloat16, which any device computes."
    )
