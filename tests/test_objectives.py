import keras
import numpy as np
import pytest

from tf_finetune import head_kinds, objectives, specs

OF_EXAMPLES = [kind for kind, row in head_kinds.HEAD_KINDS.items() if not row.positions]


def exact_softmax_loss(logits, labels, smoothing=0.0):
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    return -(targets * log_p).sum(1)


def exact_sigmoid_loss(logits, labels, smoothing=0.0):
    logits = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    targets = labels * (1 - smoothing) + smoothing / 2
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


@pytest.fixture
def logits():
    return np.random.default_rng(1).normal(0, 2, (6, 4)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_each_kind(logits, smoothing):
    classes = np.array([0, 1, 2, 3, 1, 0], np.int32)
    several = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    values = {
        "multiclass": (classes, logits, exact_softmax_loss(logits, classes, smoothing)),
        "multilabel": (several, logits, exact_sigmoid_loss(logits, several, smoothing).mean(1)),
        "binary": (
            several[:, :1],
            logits[:, :1],
            exact_sigmoid_loss(logits[:, :1], several[:, :1], smoothing)[:, 0],
        ),
    }
    for kind, (labels, given, expected) in values.items():
        computed = objectives.per_example_cross_entropy(
            labels, given, kind=kind, label_smoothing=smoothing
        )
        np.testing.assert_allclose(np.array(computed), expected, rtol=1e-5)


def test_the_loss_is_the_weighted_mean_that_the_data_ask_for(logits):
    labels = np.array([0, 1, 2, 3, 1, 0], np.int32)
    weights = np.array([0.5, 1.0, 2.0, 4.0], np.float32)
    loss = objectives.HeadLoss("multiclass", class_weights=weights)
    value = loss(labels, logits, sample_weight=np.full(6, 1 / 6, np.float32))
    expected = (weights[labels] * exact_softmax_loss(logits, labels)).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_multilabel_class_weights_tell_absent_from_present(logits):
    labels = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    weights = np.array([[0.5, 1, 1, 2], [3, 1, 4, 1]], np.float32)
    loss = objectives.HeadLoss("multilabel", class_weights=weights)
    value = loss(labels, logits, sample_weight=np.full(6, 1 / 6, np.float32))
    per_cell = np.where(labels == 1, weights[1], weights[0]) * exact_sigmoid_loss(logits, labels)
    assert float(value) == pytest.approx(per_cell.mean(), rel=1e-5)


def test_balanced_weights_have_mean_one_over_the_examples():
    labels = np.array([0] * 6 + [1] * 3 + [2], np.int32)
    weights = objectives.balanced_weights(labels, kind="multiclass", num_classes=4)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3, 1.0], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1.0)
    rare = np.array([0] * 999 + [1], np.int32)
    assert objectives.balanced_weights(rare, kind="multiclass", num_classes=2)[1] == 10.0


def test_balanced_weights_of_multilabel_are_per_class():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    weights = objectives.balanced_weights(labels, kind="multilabel", num_classes=2)
    np.testing.assert_allclose(weights, [[2.0, 2 / 3], [2 / 3, 2.0]], rtol=1e-6)


def test_metrics_count_each_example_once(logits):
    labels = np.array([0, 1, 2, 3, 1, 0], np.int32)
    cross_entropy, accuracy = objectives.make_metrics(
        [head_kinds.HeadInfo("a", "multiclass", ("a", "b", "c", "d"))]
    )["a"]
    for part in (slice(0, 4), slice(4, 6)):  # a last batch of another size
        for metric in (cross_entropy, accuracy):
            metric.update_state(labels[part], logits[part], sample_weight=np.full(2, 9.0))
    assert float(cross_entropy.result()) == pytest.approx(
        exact_softmax_loss(logits, labels).mean(), rel=1e-5
    )
    assert float(accuracy.result()) == pytest.approx((logits.argmax(1) == labels).mean())


def test_accuracy_of_sigmoid_heads():
    several = objectives.Accuracy("multilabel")
    several.update_state(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[3.0, -1.0], [2.0, -0.1]]))
    assert float(several.result()) == 0.5
    binary = objectives.Accuracy("binary")
    binary.update_state(np.array([[1.0], [0.0], [1.0]]), np.array([[0.0], [0.5], [-1.0]]))
    assert float(binary.result()) == pytest.approx(1 / 3)


def test_make_losses_weighs_where_a_head_asks_for_it():
    heads = [specs.HeadSpec(name="a", class_weight="balanced"), specs.HeadSpec(name="b")]
    infos = [head_kinds.HeadInfo(name, "multiclass", ("x", "y")) for name in "ab"]
    labels = {"a": np.array([0, 0, 0, 1], np.int32), "b": np.array([0, 0, 0, 1], np.int32)}
    losses = objectives.make_losses(heads, infos, labels)
    logits = keras.ops.zeros((4, 2))
    ones = np.ones(4, np.float32)
    assert float(losses["b"](labels["b"], logits, sample_weight=ones)) == pytest.approx(
        4 * np.log(2), rel=1e-5
    )
    rare = losses["a"](labels["a"][3:], logits[3:], sample_weight=ones[3:])
    assert float(rare) == pytest.approx(2 * np.log(2), rel=1e-5)


def exact_focal(logits, labels, kind, gamma):
    logits = logits.astype(np.float64)
    if kind == "multiclass":
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        own = p[np.arange(len(labels)), labels]
        return -((1 - own) ** gamma) * np.log(own)
    p = 1 / (1 + np.exp(-logits))
    own = np.where(labels == 1, p, 1 - p)
    return (-((1 - own) ** gamma) * np.log(own)).mean(1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_lin_et_al(logits, gamma):
    classes = np.array([0, 1, 2, 3, 1, 0], np.int32)
    several = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    for kind, labels, given in (
        ("multiclass", classes, logits),
        ("multilabel", several, logits),
        ("binary", several[:, :1], logits[:, :1]),
    ):
        computed = objectives.per_example_cross_entropy(labels, given, kind=kind, focal_gamma=gamma)
        expected = exact_focal(given, labels, kind, gamma)
        np.testing.assert_allclose(np.array(computed), expected, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_focal_loss_has_finite_gradients_where_it_is_sure(kind, gamma):
    import tensorflow as tf

    units = 2 if kind == "multiclass" else 1
    logits = tf.Variable(np.array([[-300.0] * units, [300.0] * units], np.float32))
    logits[0, 0].assign(300.0)
    labels = np.array([0, 1], np.int32) if units == 2 else np.array([[1.0], [0.0]], np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
            objectives.per_example_cross_entropy(labels, logits, kind=kind, focal_gamma=gamma)
        )
    assert np.isfinite(float(loss))
    assert np.isfinite(np.array(tape.gradient(loss, logits))).all()


def make_gaps(kind):
    """(labels, the same with gaps, which rows have a label) of six examples."""
    generator = np.random.default_rng(3)
    labels = {
        "multiclass": np.array([0, 1, 2, 3, 1, 0], np.int32),
        "binary": generator.integers(0, 2, (6, 1)).astype(np.float32),
        "multilabel": generator.integers(0, 2, (6, 4)).astype(np.float32),
        "regression": generator.normal(5, 2, (6, 1)).astype(np.float32),
    }[kind]
    gaps, rows = labels.copy(), np.array([True, False, True, True, False, True])
    gaps[~rows] = -1 if kind == "multiclass" else np.nan
    return labels, gaps, rows


@pytest.mark.parametrize("focal_gamma", [None, 2.0])
@pytest.mark.parametrize("kind", OF_EXAMPLES)
def test_missing_labels_add_nothing_to_loss_and_gradient(logits, kind, focal_gamma):
    import tensorflow as tf

    labels, gaps, rows = make_gaps(kind)
    given = logits[:, : head_kinds.num_logits(kind, 4)]
    loss = objectives.HeadLoss(
        kind, focal_gamma=focal_gamma, deviation=2.0, labelled_fraction=rows.mean()
    )
    plain = objectives.HeadLoss(kind, focal_gamma=focal_gamma, deviation=2.0)
    variable = tf.Variable(given)
    with tf.GradientTape() as tape:
        value = loss(gaps, variable, sample_weight=np.full(6, 1 / 6, np.float32))
    expected = plain(labels[rows], given[rows], sample_weight=np.full(4, 1 / 4, np.float32))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    gradient = np.array(tape.gradient(value, variable))
    assert (gradient[~rows] == 0).all() and (gradient[rows] != 0).all()


def test_a_class_that_is_unknown_adds_nothing(logits):
    labels = np.random.default_rng(2).integers(0, 2, (6, 4)).astype(np.float32)
    known = np.random.default_rng(5).random((6, 4)) < 0.6
    gaps = np.where(known, labels, np.nan).astype(np.float32)
    weights = np.array([[0.5, 1, 1, 2], [3, 1, 4, 1]], np.float32)
    loss = objectives.HeadLoss("multilabel", class_weights=weights, labelled_fraction=known.mean())
    value = loss(gaps, logits, sample_weight=np.full(6, 1 / 6, np.float32))
    cells = np.where(labels == 1, weights[1], weights[0]) * exact_sigmoid_loss(logits, labels)
    assert float(value) == pytest.approx(cells[known].mean(), rel=1e-5)


@pytest.mark.parametrize("kind", OF_EXAMPLES)
def test_metrics_pass_over_missing_labels(logits, kind):
    labels, gaps, rows = make_gaps(kind)
    given = logits[:, : head_kinds.num_logits(kind, 4)]
    info = head_kinds.HeadInfo("a", kind, ("a", "b", "c", "d"))
    for metric, expected in zip(
        objectives.make_metrics([info])["a"], objectives.make_metrics([info])["a"], strict=True
    ):
        metric.update_state(gaps[:3], given[:3])
        metric.update_state(gaps[3:], given[3:])
        expected.update_state(labels[rows], given[rows])
        assert float(metric.result()) == pytest.approx(float(expected.result()), rel=1e-5)
    assert [metric.name for metric in objectives.make_metrics([info])["a"]] == list(
        head_kinds.HEAD_KINDS[kind].train_metrics
    )


def test_regression_is_measured_in_its_deviation():
    labels, logits = np.array([[1.0], [4.0]], np.float32), np.array([[3.0], [5.0]], np.float32)
    loss = objectives.HeadLoss("regression", deviation=2.0)
    value = loss(labels, logits, sample_weight=np.full(2, 0.5, np.float32))
    assert float(value) == pytest.approx((1.0 + 0.25) / 2)
    info = head_kinds.HeadInfo("a", "regression", (), deviation=2.0)
    squared, absolute = objectives.make_metrics([info])["a"]
    squared.update_state(labels, logits)
    absolute.update_state(labels, logits)
    assert (float(squared.result()), float(absolute.result())) == (2.5, 1.5)


@pytest.mark.parametrize("counts", [(999, 1), (500, 300, 3, 1), (1, 1), (10**6, 5, 5, 5, 1)])
def test_balanced_weights_keep_mean_one_under_the_cap(counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    weights = objectives.balanced_weights(labels, kind="multiclass", num_classes=len(counts))
    assert weights[labels].astype(np.float64).mean() == pytest.approx(1.0, rel=1e-5)
    assert weights.max() <= 10.0
    assert (np.diff(weights[np.argsort(counts)]) <= 0).all()  # a rarer class weighs no less


def test_balanced_weights_of_multi_hot_labels_with_gaps():
    labels = np.zeros((1000, 2), np.float32)
    labels[:2, 0] = 1.0
    labels[:500, 1] = np.nan
    labels[500:600, 1] = 1.0
    weights = objectives.balanced_weights(labels, kind="multilabel", num_classes=2)
    np.testing.assert_allclose(weights[:, 0], [(1000 - 20) / 998, 10.0], rtol=1e-6)
    np.testing.assert_allclose(weights[:, 1], [500 / 800, 500 / 200], rtol=1e-6)


def test_sigmoid_heads_start_at_the_log_odds():
    labels = {
        "tags": np.array([[1, 0, np.nan], [0, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32),
        "sick": np.array([[1], [0], [0], [np.nan]], np.float32),
        "breed": np.array([0, 1, 1, 1], np.int32),
        "age": np.ones((4, 1), np.float32),
    }
    kinds = {"tags": "multilabel", "sick": "binary", "breed": "multiclass", "age": "regression"}
    infos = [head_kinds.HeadInfo(name, kind, ("a", "b", "c")) for name, kind in kinds.items()]
    heads = [specs.HeadSpec(name=name) for name in kinds]
    biases = objectives.find_start_biases(heads, infos, labels)
    assert list(biases) == ["tags", "sick"]
    np.testing.assert_allclose(biases["tags"], [np.log(1 / 3), -4.6, np.log(2)], rtol=1e-5)
    np.testing.assert_allclose(biases["sick"], [np.log(1 / 2)], rtol=1e-5)
    balanced = [specs.HeadSpec(name=name, class_weight="balanced") for name in ("tags", "sick")]
    even = objectives.find_start_biases(balanced, infos[:2], labels)
    np.testing.assert_allclose(even["tags"], [0.0, -4.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(even["sick"], [0.0], atol=1e-6)


OF_POSITIONS = {"segmentation": (4, 5), "token_classification": (7,)}
POSITIONS_OF = pytest.mark.parametrize("kind", OF_POSITIONS)


def test_every_kind_is_tested():
    assert sorted([*OF_EXAMPLES, *OF_POSITIONS]) == sorted(head_kinds.HEAD_KINDS)


def make_positions(kind):
    """(logits, labels, float64 losses of the labelled ones) of three examples of three classes."""
    generator = np.random.default_rng(0)
    shape = (3, *OF_POSITIONS[kind])
    logits = generator.normal(0, 2, (*shape, 3)).astype(np.float32)
    labels = generator.integers(-1, 3, shape).astype(np.int32)
    labels[1, :3] = -1
    known = labels >= 0
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    return logits, labels, -np.take_along_axis(log_p[known], labels[known][:, None], axis=-1)[:, 0]


def make_position_loss(kind, labels, **options):
    counts = np.bincount(labels[labels >= 0], minlength=3)
    info = head_kinds.HeadInfo("head", kind, ("a", "b", "c"))
    losses = objectives.make_losses(
        (specs.HeadSpec(name="head", **options),),
        (info,),
        {"head": np.arange(3)},
        counts={"head": counts},
    )
    return losses["head"], counts


@POSITIONS_OF
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_the_loss_of_positions_is_the_mean_of_those_with_a_label(kind, class_weight):
    logits, labels, each = make_positions(kind)
    loss, counts = make_position_loss(kind, labels, class_weight=class_weight)
    found = loss(labels, logits, sample_weight=np.full(3, 1 / 3, np.float32))
    weights = np.ones(3)
    if class_weight == "balanced":
        weights = counts.sum() / 3 / counts
    expected = (each * weights[labels[labels >= 0]]).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


@POSITIONS_OF
def test_options_of_the_loss_reach_each_position(kind):
    logits, labels, _ = make_positions(kind)
    known = labels >= 0
    sample_weight = np.full(3, 1 / 3, np.float32)
    smoothed, _ = make_position_loss(kind, labels, label_smoothing=0.2)
    expected = exact_softmax_loss(logits[known], labels[known], 0.2).mean()
    found = smoothed(labels, logits, sample_weight=sample_weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    focal, _ = make_position_loss(kind, labels, loss="focal", focal_gamma=2.0)
    expected = exact_focal(logits[known], labels[known], "multiclass", 2.0).mean()
    found = focal(labels, logits, sample_weight=sample_weight)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@POSITIONS_OF
def test_positions_without_a_label_add_nothing_to_the_gradient(kind):
    import tensorflow as tf

    logits, labels, _ = make_positions(kind)
    loss, _ = make_position_loss(kind, labels)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(labels, variable, sample_weight=np.full(3, 1 / 3, np.float32))
    gradient = np.array(tape.gradient(value, variable))
    assert (gradient[labels < 0] == 0).all()
    assert (gradient[labels >= 0] != 0).all()


@POSITIONS_OF
def test_metrics_of_positions_pass_over_those_without_a_label(kind):
    logits, labels, each = make_positions(kind)
    known = labels >= 0
    info = head_kinds.HeadInfo("head", kind, ("a", "b", "c"))
    cross_entropy, accuracy = objectives.make_metrics((info,))["head"]
    for metric in (cross_entropy, accuracy):
        metric.update_state(labels[:1], logits[:1])
        metric.update_state(labels[1:], logits[1:])
    assert float(cross_entropy.result()) == pytest.approx(each.mean(), rel=1e-5)
    right = logits.argmax(axis=-1) == labels
    assert float(accuracy.result()) == pytest.approx(right[known].mean(), rel=1e-6)


def test_words_of_a_replica_are_fewer_than_the_labels_of_the_batch():
    """Each replica gets labels as wide as the longest text of the batch, and its own texts."""
    logits, labels, _ = make_positions("token_classification")
    labels[:2, 5:] = -1  # The longest text is the third.
    loss, _ = make_position_loss("token_classification", labels)
    whole = float(loss(labels, logits, sample_weight=np.full(3, 1 / 3, np.float32)))
    parts = [
        float(loss(labels[rows], given, sample_weight=np.full(len(given), 1 / 3, np.float32)))
        for rows, given in ((slice(0, 2), logits[:2, :5]), (slice(2, 3), logits[2:]))
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-6)
    info = head_kinds.HeadInfo("head", "token_classification", ("a", "b", "c"))
    for metric, expected in zip(
        objectives.make_metrics((info,))["head"],
        objectives.make_metrics((info,))["head"],
        strict=True,
    ):
        metric.update_state(labels[:2], logits[:2, :5])
        metric.update_state(labels[2:], logits[2:])
        expected.update_state(labels, logits)
        assert float(metric.result()) == pytest.approx(float(expected.result()), rel=1e-6)
