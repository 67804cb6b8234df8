"""Running a model over a split, and requirements."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import distribution, evaluation, findings, head_kinds, options

ABC = head_kinds.HeadInfo("label", "multiclass", ("a", "b", "c"))
SICK = head_kinds.HeadInfo("sick", "binary", ("no", "yes"), thresholds=(0.5,))
LOGITS = {
    "label": np.array([[2, 0, 0], [0, 1, 0], [0, 3, 0], [0, 0, 1]], np.float32),
    "sick": np.array([[1], [-1], [2], [-2]], np.float32),
}
LABELS = {
    "label": np.array([0, 1, 2, 2], np.int32),
    "sick": np.array([[1], [0], [0], [0]], np.float32),
}


def evaluate(heads=(ABC, SICK), logits=LOGITS, labels=LABELS, **options):
    return evaluation.evaluate_logits(logits, labels, heads=heads, split="test", **options)


def make_model():
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dropout(0.9)(x)
    x = keras.layers.BatchNormalization()(x)
    outputs = {
        "label": keras.layers.Dense(3, kernel_initializer="random_normal")(x),
        "sick": keras.layers.Dense(1, kernel_initializer="random_normal")(x),
    }
    return keras.Model({"image": image}, outputs)


def make_examples(count=11):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(count, 4, 4, 1)).astype(np.float32)
    labels = {
        "label": generator.integers(0, 3, count).astype(np.int32),
        "sick": generator.integers(0, 2, (count, 1)).astype(np.float32),
    }
    return images, labels


def make_dataset(images, labels, batch_size):
    return tf.data.Dataset.from_tensor_slices(({"image": images}, labels)).batch(batch_size)


def test_loss_is_the_weighted_sum_of_the_heads():
    report = evaluate(loss_weights={"label": 1.0, "sick": 0.25})
    three = [math.log(math.exp(top) + 2) for top in (2, 1, 3, 1)]
    label_loss = (three[0] - 2 + three[1] - 1 + three[2] + three[3] - 1) / 4
    sick_loss = (
        math.log1p(math.exp(-1)) * 2 + math.log1p(math.exp(2)) + math.log1p(math.exp(-2))
    ) / 4
    assert report.heads["label"].metrics["log_loss"] == pytest.approx(label_loss)
    assert report.heads["sick"].metrics["log_loss"] == pytest.approx(sick_loss)
    assert report.loss == pytest.approx(label_loss + 0.25 * sick_loss)
    assert evaluate().loss == pytest.approx(label_loss + sick_loss)
    assert (report.split, report.num_examples) == ("test", 4)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_model_every_example_counts_once(batch_size):
    keras.utils.set_random_seed(0)
    model = make_model()
    images, labels = make_examples()
    report = evaluation.evaluate_model(
        model, make_dataset(images, labels, batch_size), heads=(ABC, SICK), split="test"
    )
    logits = model.predict_on_batch({"image": images})
    expected = evaluate(logits=logits, labels=labels)
    assert report.num_examples == 11
    assert report.loss == pytest.approx(expected.loss, rel=1e-5)
    for name, head in expected.heads.items():
        assert report.heads[name].metrics == pytest.approx(head.metrics, rel=1e-5)
        assert report.heads[name].confusion.tolist() == head.confusion.tolist()


def test_model_is_traced_once_and_in_inference_mode():
    traces = []

    class Spy(keras.layers.Layer):
        def call(self, inputs, training=None):
            traces.append(training)
            return inputs

    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Flatten()(Spy()(image))
    model = keras.Model({"image": image}, {"label": keras.layers.Dense(3)(x)})
    traces.clear()
    images, labels = make_examples()
    dataset = make_dataset(images, labels, 4)
    evaluation.evaluate_model(model, dataset, heads=(ABC,), split="test")
    assert traces == [False]


def test_model_sample_weights_and_unknown_cardinality_are_fine(capsys):
    model = make_model()
    images, labels = make_examples()
    plain = make_dataset(images, labels, 4)
    weighted = plain.map(lambda x, y: (x, y, {"label": tf.ones(4), "sick": tf.ones(4)}))
    weighted = weighted.filter(lambda *_: True)
    assert int(weighted.cardinality()) < 0
    reports = [
        evaluation.evaluate_model(model, dataset, heads=(ABC, SICK), split="test")
        for dataset in (plain, weighted)
    ]
    assert reports[0].loss == reports[1].loss
    # Only the data set of known length has a bar.
    assert capsys.readouterr().out.count("Evaluating test 3/3") == 1


def test_model_of_mixed_precision_gives_float32():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(3, dtype="mixed_bfloat16")(x)
    model = keras.Model({"image": image}, {"label": x})
    images, labels = make_examples()
    report = evaluation.evaluate_model(
        model, make_dataset(images, labels, 4), heads=(ABC,), split="test"
    )
    logits = np.array(keras.ops.cast(model({"image": images})["label"], "float32"))
    expected = evaluate(heads=(ABC,), logits={"label": logits}, labels=labels)
    assert report.loss == pytest.approx(expected.loss, rel=1e-6)


def test_model_built_under_mirrored_strategy():
    images, labels = make_examples()
    keras.utils.set_random_seed(0)
    plain = make_model()
    strategy = distribution.make_strategy("mirrored")
    with strategy.scope():
        mirrored = make_model()
    mirrored.set_weights(plain.get_weights())
    reports = [
        evaluation.evaluate_model(
            model, make_dataset(images, labels, 4), heads=(ABC, SICK), split="validation"
        )
        for model in (plain, mirrored)
    ]
    assert reports[0].loss == reports[1].loss
    assert reports[0].heads["label"].metrics == reports[1].heads["label"].metrics


def test_model_without_the_head():
    images, labels = make_examples()
    other = head_kinds.HeadInfo("breed", "multiclass", ("a", "b", "c"))
    with pytest.raises(ValueError) as caught:
        evaluation.evaluate_model(
            make_model(), make_dataset(images, labels, 4), heads=(other,), split="test"
        )
    assert str(caught.value) == (
        "The model has no output for head 'breed'. It has 'label', 'sick'."
    )


EMPTY = (
    "The split test has no example: nothing to evaluate. Expected at least 1. Give --test_data, "
    "or a larger part in --split."
)


def test_empty_split():
    images, labels = make_examples()
    dataset = make_dataset(images, labels, 4).take(0)
    with pytest.raises(findings.RefusedError) as caught:
        evaluation.evaluate_model(make_model(), dataset, heads=(ABC,), split="test")
    assert str(caught.value) == EMPTY
    with pytest.raises(findings.RefusedError) as caught:
        evaluate(
            heads=(ABC,),
            logits={"label": np.zeros((0, 3), np.float32)},
            labels={"label": np.zeros(0, np.int32)},
        )
    assert str(caught.value) == EMPTY


def test_logits_that_are_no_numbers():
    logits = LOGITS["label"].copy()
    logits[1, 2], logits[3, 0] = np.nan, np.inf
    with pytest.raises(findings.RefusedError) as caught:
        evaluate(heads=(ABC,), logits={"label": logits})
    assert str(caught.value) == (
        "Head 'label' gives NaN or infinite logits for 2 of 4 examples of the split test. "
        "Expected finite numbers: its weights are damaged or its training diverged."
    )


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError) as caught:
        evaluate(heads=(ABC,), logits={"label": np.zeros((4, 2), np.float32)})
    assert str(caught.value) == ("Logits of head 'label': expected shape (4, 3). Received (4, 2).")
    with pytest.raises(ValueError) as caught:
        evaluate(heads=(SICK,), labels={"sick": np.zeros(4, np.float32)})
    assert str(caught.value) == "Labels of head 'sick': expected shape (4, 1). Received (4,)."


def messages(*require_min, require_max=(), heads=(ABC,), **options):
    problems = evaluation.check_requirements(
        {"test": evaluate(heads=heads, **options)},
        require_min=require_min,
        require_max=require_max,
    )
    assert all(problem.severity == findings.ERROR for problem in problems)
    return [problem.message for problem in problems]


def test_requirements_that_are_met():
    assert messages("test/accuracy:0.75", "test/label/accuracy:0.7") == []
    assert messages(require_max=("test/log_loss:2", "test/loss:2")) == []


def test_requirements_that_are_not_met_are_all_told():
    assert messages(
        "test/accuracy:0.9", "test/label/f1_macro:0.9", require_max=("test/loss:0.5",)
    ) == [
        "--require_min=test/accuracy:0.9 is not met: accuracy on test is 0.7500.",
        "--require_min=test/label/f1_macro:0.9 is not met: f1_macro on test is 0.7778.",
        "--require_max=test/loss:0.5 is not met: loss on test is 1.1093.",
    ]


def test_requirement_missed_by_less_than_the_digits_shown():
    logits = {"label": np.array([[1.0, 0, 0]] * 3, np.float32)}
    labels = {"label": np.array([0, 1, 0], np.int32)}
    assert messages("test/accuracy:0.6667", logits=logits, labels=labels) == [
        "--require_min=test/accuracy:0.6667 is not met: accuracy on test is 0.6666666666666666."
    ]


def test_requirement_on_a_metric_that_is_not_defined():
    logits = {"label": LOGITS["label"][:1]}
    labels = {"label": LABELS["label"][:1]}
    expected = "cannot be met: roc_auc is not defined on test: every example is of the same class."
    received = messages(
        "test/roc_auc:0.1", require_max=("test/roc_auc:0.9",), logits=logits, labels=labels
    )
    assert received == [
        f"--require_min=test/roc_auc:0.1 {expected}",
        f"--require_max=test/roc_auc:0.9 {expected}",
    ]


def test_requirement_on_a_split_that_was_not_evaluated():
    assert messages("validation/accuracy:0.1") == [
        "--require_min=validation/accuracy:0.1 cannot be met: the split validation was not "
        "evaluated. Evaluated: test."
    ]
    (problem,) = evaluation.check_requirements({}, require_min=("test/accuracy:0.1",))
    assert problem.message == (
        "--require_min=test/accuracy:0.1 cannot be met: the split test was not evaluated. "
        "No split was evaluated."
    )


def test_requirement_with_several_heads():
    heads = (ABC, SICK)
    assert messages("test/label/accuracy:0.7", "test/sick/recall:1", heads=heads) == []
    assert messages(require_max=("test/loss:9",), heads=heads) == []
    assert messages("test/accuracy:0.7", heads=heads) == [
        "--require_min=test/accuracy:0.7 cannot be met: there are several heads. Write "
        "test/HEAD/accuracy with HEAD one of 'label', 'sick'."
    ]


def test_requirement_of_a_wrong_form():
    with pytest.raises(options.SpecError) as caught:
        evaluation.check_requirements({}, require_min=("accuracy",))
    assert str(caught.value) == (
        "--require_min expects SPLIT/METRIC:VALUE or SPLIT/HEAD/METRIC:VALUE, for example "
        "test/accuracy:0.9. Received 'accuracy'."
    )


def test_names_that_do_not_exist_are_found_before_training():
    problems = evaluation.find_requirement_problems(
        (ABC, SICK),
        require_min=("test/breed/accuracy:1", "test/label/acuracy:1", "test/sick/recall:1"),
        require_max=("test/label/average_precision:1", "validation/loss:1"),
    )
    assert [(problem.severity, problem.message) for problem in problems] == [
        (
            "error",
            "--require_min=test/breed/accuracy:1: there is no head 'breed'. The heads: 'label', "
            "'sick'.",
        ),
        (
            "error",
            "--require_min=test/label/acuracy:1: head 'label' has no metric 'acuracy'. Did you "
            "mean 'accuracy'? It has accuracy, precision_macro, recall_macro, f1_macro, roc_auc, "
            "log_loss.",
        ),
        (
            "error",
            "--require_max=test/label/average_precision:1: head 'label' has no metric "
            "'average_precision'. It has accuracy, precision_macro, recall_macro, f1_macro, "
            "roc_auc, log_loss.",
        ),
    ]


def test_bound_on_the_wrong_side_is_a_warning():
    problems = evaluation.find_requirement_problems(
        (ABC,), require_min=("test/log_loss:0.3",), require_max=("test/accuracy:0.9",)
    )
    assert [(problem.severity, problem.message) for problem in problems] == [
        (
            "warning",
            "--require_min=test/log_loss:0.3: log_loss is better when lower. Did you mean "
            "--require_max=test/log_loss:0.3?",
        ),
        (
            "warning",
            "--require_max=test/accuracy:0.9: accuracy is better when higher. Did you mean "
            "--require_min=test/accuracy:0.9?",
        ),
    ]
