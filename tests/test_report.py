"""report.json, report.md and the terminal's lines."""

import json
import os

import numpy as np
import pytest

from tf_finetune import evaluation, head_kinds, position_metrics, report

NAMES = ("a|b", "_new_ <b>", "c")
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
LOGITS = np.array([[2, 0, 0], [0, 1, 0], [0, 3, 0], [0, 1, 0], [0, 0, 1], [4, 0, 0]], np.float32)


def evaluate(*, repeats=1, classes=NAMES, keep=6, heads=None, split="test"):
    heads = heads or (head_kinds.HeadInfo("label", "multiclass", classes),)
    logits = {head.name: np.tile(LOGITS[:keep], (repeats, 1)) for head in heads}
    labels = {head.name: np.tile(LABELS[:keep], repeats) for head in heads}
    return evaluation.evaluate_logits(logits, labels, heads=heads, split=split)


def make_wide(num_classes):
    """Class 1 is taken for class 2 five times, the others are right."""
    labels = np.arange(num_classes, dtype=np.int32)
    labels = np.concatenate([labels, np.zeros(5, np.int32)])
    logits = np.zeros((len(labels), num_classes), np.float32)
    logits[np.arange(len(labels)), np.where(np.arange(len(labels)) < num_classes, labels, 1)] = 9
    classes = tuple(f"k{number:03d}" for number in range(1, num_classes + 1))
    head = head_kinds.HeadInfo("label", "multiclass", classes)
    return evaluation.evaluate_logits(
        {"label": logits}, {"label": labels}, heads=(head,), split="test"
    )


def test_markdown_page():
    assert report.format_markdown(evaluate(repeats=5)) == (
        """# Evaluation on the test split

**Accuracy 0.6667 (95 % interval 0.4878 to 0.8077; 20 of 30 examples right).**

| metric | value |
| --- | ---: |
| `accuracy` | 0.6667 |
| `precision_macro` | 0.7222 |
| `recall_macro` | 0.6667 |
| `f1_macro` | 0.6556 |
| `roc_auc` | 0.6875 |
| `log_loss` | 1.1708 |

### Classes

| class | precision | recall | f1 | examples | predicted |
| --- | ---: | ---: | ---: | ---: | ---: |
| a\\|b | 0.5000 | 0.5000 | 0.5000 | 10 | 10 |
| \\_new\\_ \\<b\\> | 0.6667 | 1.0000 | 0.8000 | 10 | 15 |
| c | 1.0000 | 0.5000 | 0.6667 | 10 | 5 |

### Confusion matrix

Rows: true class. Columns: predicted class.

| true / predicted | a\\|b | \\_new\\_ \\<b\\> | c |
| --- | ---: | ---: | ---: |
| a\\|b | 5 | 5 | 0 |
| \\_new\\_ \\<b\\> | 0 | 10 | 0 |
| c | 5 | 0 | 5 |
"""
    )


def test_few_examples_lead_with_the_interval():
    text = report.format_markdown(evaluate(keep=2))
    assert text.splitlines()[2:7] == [
        "**Accuracy between 0.0945 and 0.9055 (95 % interval; 1 of 2 examples right: 0.5000).**",
        "",
        "- With fewer than 30 examples only the interval is meaningful: do not choose between "
        "models by these numbers.",
        "- 2 of 3 classes without an example here, left out of the macro averages: "
        "'\\_new\\_ \\<b\\>', 'c'.",
        "- roc\\_auc is not defined here: every example is of the same class.",
    ]
    assert "| c | - | - | - | 0 | 0 |" in text.splitlines()


@pytest.mark.parametrize(("repeats", "few"), [(4, True), (5, False)])
def test_thirty_examples_are_not_few(repeats, few):
    assert ("between" in report.format_report(evaluate(repeats=repeats))) is few


def test_terminal_text():
    assert report.format_report(evaluate(repeats=5)) == (
        "test: 30 examples, loss 1.1708\n"
        "  label: accuracy 0.6667 (95 % interval 0.4878 to 0.8077; 20 of 30 examples right), "
        "precision_macro 0.7222, recall_macro 0.6667, f1_macro 0.6556, roc_auc 0.6875, "
        "log_loss 1.1708"
    )
    assert report.format_report(evaluate(keep=1, split="validation")) == (
        "validation: 1 example, loss 0.2395\n"
        "  label: accuracy between 0.2065 and 1.0000 (95 % interval; 1 of 1 example right: "
        "1.0000), precision_macro 1.0000, recall_macro 1.0000, f1_macro 1.0000, log_loss 0.2395\n"
        "    With fewer than 30 examples only the interval is meaningful: do not choose between "
        "models by these numbers.\n"
        "    2 of 3 classes without an example here, left out of the macro averages: "
        "'_new_ <b>', 'c'.\n"
        "    roc_auc is not defined here: every example is of the same class."
    )


def test_several_heads_have_a_section_each():
    heads = tuple(head_kinds.HeadInfo(name, "multiclass", NAMES) for name in ("one", "two_2"))
    text = report.format_markdown(evaluate(repeats=5, heads=heads))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Head one",
        "## Head two\\_2",
    ]
    assert text.endswith("\nLoss, summed over the heads with their weights: 2.3416.\n")


def test_multilabel_says_what_right_means():
    head = head_kinds.HeadInfo("tags", "multilabel", NAMES, thresholds=(0.5,) * 3)
    measured = evaluation.evaluate_logits(
        {"tags": np.tile(LOGITS, (5, 1))},
        {"tags": np.tile(np.eye(3, dtype=np.float32)[LABELS], (5, 1))},
        heads=(head,),
        split="test",
    )
    text = report.format_markdown(measured)
    assert "\n\nAn example is right when it is right in every class.\n\n" in text
    assert "Confusion matrix" not in text
    assert "| `hamming_loss` | " in text
    assert "confusion" not in report.to_json_dict(measured)["heads"]["tags"]


def test_matrix_of_many_classes_is_numbered():
    lines = report.format_markdown(make_wide(13)).splitlines()
    header = lines.index("### Confusion matrix") + 4
    assert lines[header].startswith("| true / predicted | 1 | 2 | 3 |")
    assert lines[header + 2] == "| 1: k001 | 1 | 5 |" + " 0 |" * 11
    assert lines[-3:] == [
        "| true | predicted | examples |",
        "| --- | --- | ---: |",
        "| k001 | k002 | 5 |",
    ]


def test_above_200_classes_pairs_replace_the_matrix():
    measured = make_wide(201)
    text = report.format_markdown(measured)
    assert "Confusion matrix" not in text
    assert text.endswith("| k001 | k002 | 5 |\n")
    head = report.to_json_dict(measured)["heads"]["label"]
    assert "confusion" not in head
    assert head["confused_pairs"] == [{"true": "k001", "predicted": "k002", "count": 5}]
    assert "Confusion matrix" in report.format_markdown(make_wide(200))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("a|b", "a\\|b"),
        ("[x](http://e)", "\\[x\\](http://e)"),
        ("<script>", "\\<script\\>"),
        ("`*_~#&!$\\", "\\`\\*\\_\\~\\#\\&\\!\\$\\\\"),
        ("new\nline\x1b[31m", "new\\\\nline\\\\x1b\\[31m"),
        (" two  ", "&nbsp;two&nbsp;&nbsp;"),
        ("  ", "&nbsp;&nbsp;"),
        ("猫", "猫"),
        ("caf\udce9", "caf\\\\udce9"),
    ],
)
def test_names_are_shown_literally(name, shown):
    text = report.format_markdown(evaluate(repeats=5, classes=(name, "y", "z")))
    assert f"| {shown} | 0.5000 | 0.5000 | 0.5000 | 10 | 10 |" in text.splitlines()


def test_json_holds_everything_and_no_nan(tmp_path):
    folder = tmp_path / "evaluation" / "test"
    report.write_report(evaluate(keep=2, classes=("a", "b", "caf\udce9")), str(folder))
    assert sorted(os.listdir(folder)) == ["report.json", "report.md"]

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    text = (folder / "report.json").read_text(encoding="utf-8")
    value = json.loads(text, parse_constant=refuse)
    loss = value.pop("loss")
    metrics = value["heads"]["label"].pop("metrics")
    interval = value["heads"]["label"].pop("accuracy_interval_95")
    assert metrics["log_loss"] == loss == pytest.approx(0.8954, abs=1e-4)
    assert sorted(metrics) == [
        "accuracy",
        "f1_macro",
        "log_loss",
        "precision_macro",
        "recall_macro",
    ]
    assert interval == pytest.approx([0.0945, 0.9055], abs=1e-4)
    nothing = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert value == {
        "split": "test",
        "num_examples": 2,
        "heads": {
            "label": {
                "kind": "multiclass",
                "num_examples": 2,
                "num_missing": 0,
                "thresholds": [],
                "num_correct": 1,
                "undefined": {"roc_auc": "every example is of the same class"},
                "num_classes_without_examples": 2,
                "per_class": [
                    {
                        "name": "a",
                        "precision": 1.0,
                        "recall": 0.5,
                        "f1": 2 / 3,
                        "support": 2,
                        "num_predicted": 1,
                    },
                    {"name": "b", **nothing, "num_predicted": 1},
                    {"name": "caf\\udce9", **nothing, "num_predicted": 0},
                ],
                "confused_pairs": [{"true": "a", "predicted": "b", "count": 1}],
                "confusion": [[1, 1, 0], [0, 0, 0], [0, 0, 0]],
            }
        },
    }


def test_equal_reports_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        report.write_report(evaluate(), str(tmp_path / name))
    for name in ("report.json", "report.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_summary_has_the_numbers_per_head():
    measured = evaluate()
    assert report.summarize(measured) == {
        "label": measured.heads["label"].metrics,
        "loss": measured.loss,
    }


def test_regression_has_errors_and_no_accuracy():
    head = head_kinds.HeadInfo("age", "regression", (), mean=5.0, deviation=2.0)
    labels = np.array([[1.0], [np.nan], [4.0], [6.0]], np.float32)
    measured = evaluation.evaluate_logits(
        {"age": np.array([[2.0], [0.0], [4.0], [8.0]], np.float32)},
        {"age": labels},
        heads=(head,),
        split="test",
    )
    assert report.format_report(measured) == (
        "test: 4 examples, loss 0.4167\n"
        "  age: mean absolute error 1 (3 examples), mean_squared_error 1.667, "
        "root_mean_squared_error 1.291, r2 0.6053\n"
        "    1 example without a label of this head left out.\n"
        "    With fewer than 30 examples these numbers are rough: do not choose between models by "
        "them."
    )
    text = report.format_markdown(measured)
    assert "**Mean absolute error 1 (3 examples).**" in text
    assert "### Classes" not in text and "matrix" not in text
    values = report.to_json_dict(measured)["heads"]["age"]
    assert (values["num_missing"], values["num_correct"], values["per_class"]) == (1, None, [])


def test_a_head_without_labels_says_so():
    head = head_kinds.HeadInfo("age", "regression", ())
    measured = evaluation.evaluate_logits(
        {"age": np.zeros((2, 1), np.float32)},
        {"age": np.full((2, 1), np.nan, np.float32)},
        heads=(head,),
        split="test",
    )
    assert report.format_report(measured) == (
        "test: 2 examples, loss 0.0000\n"
        "  age: nothing is measured, no example has a label\n"
        "    2 examples without a label of this head left out."
    )
    assert "| metric |" not in report.format_markdown(measured)


@pytest.mark.parametrize(
    ("kind", "classes", "true", "lead"),
    [
        ("segmentation", ("a", "b"), [0, 1], "mean IoU 1.0000 (1 example)"),
        ("token_classification", ("B-X", "O"), [0, 1], "entity F1 1.0000 (1 example)"),
        ("token_classification", ("NOUN", "O"), [0, 1], "micro F1 1.0000 (1 example)"),
        ("token_classification", ("B-X", "O"), [1, 1], "token accuracy 1.0000 (1 example)"),
        (
            "token_classification",
            ("B-X", "O"),
            [-1, -1],
            "nothing is measured, no example has a label",
        ),
    ],
)
def test_what_reports_of_positions_lead_with(kind, classes, true, lead):
    counter = position_metrics.PositionCounter(head_kinds.HeadInfo("label", kind, classes))
    counter.add(9 * np.eye(2, dtype=np.float32)[true][np.newaxis], np.array([true]))
    measured = counter.make_report()
    found = evaluation.EvalReport("test", 1, measured.loss, {"label": measured})
    first = report.format_report(found).splitlines()[1]
    assert first.startswith(f"  label: {lead}")
    # What leads is not told again.
    names = [name for name in measured.metrics if f"{name} " in first]
    assert len(names) == max(len(measured.metrics) - 1, 0)
    assert report.format_markdown(found).splitlines()[2] == f"**{lead[0].upper()}{lead[1:]}.**"
