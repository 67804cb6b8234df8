import keras
import numpy as np
import pytest

from tests import tiny
from tf_finetune import findings, freezing, layer_table
from tf_finetune.models import surgery

L = keras.layers


def _table(count: int = 10) -> layer_table.LayerTable:
    """Every third layer is a BatchNormalization."""
    rows = [
        layer_table.LayerRow(
            number=number,
            name=f"norm_{number}" if number % 3 == 2 else f"conv_{number}",
            class_name="BatchNormalization" if number % 3 == 2 else "Conv2D",
            output_shape=(None, 8, None, 4),
            num_parameters=1000 * number,
            is_batch_norm=number % 3 == 2,
        )
        for number in range(1, count + 1)
    ]
    return layer_table.LayerTable(tuple(rows))


@pytest.mark.parametrize(
    ("rule", "num_frozen", "cut"),
    [
        ("0", 0, None),
        ("4", 4, "conv_4"),
        ("10", 10, "conv_10"),
        ("-3", 7, "conv_7"),
        ("-10", 0, None),
        ("-0", 10, "conv_10"),
        ("0%", 0, None),
        ("67%", 7, "conv_7"),
        ("33.3%", 3, "conv_3"),
        ("100%", 10, "conv_10"),
        ("all", 10, "conv_10"),
        ("none", 0, None),
        ("until:norm_5", 5, "norm_5"),
        ("match:_[12]$", 2, "norm_2"),
        ("match:norm", 3, None),
        ("match:^conv_1$|conv_4|conv_10", 3, "conv_1"),
    ],
)
def test_rules(rule, num_frozen, cut):
    plan = freezing.plan_freeze(rule, _table())
    assert (plan.num_frozen, plan.cut, plan.num_layers) == (num_frozen, cut, 10)
    assert sum(state == "frozen" for _, state in plan.rows) == num_frozen
    assert (plan.rule, plan.batch_norm) == (rule, "frozen")


def test_states_of_batch_norm():
    held = freezing.plan_freeze("4", _table())
    assert [state for _, state in held.rows] == (
        ["frozen"] * 4 + ["held", "trainable", "trainable", "held", "trainable", "trainable"]
    )
    trained = freezing.plan_freeze("4", _table(), batch_norm="train")
    assert [state for _, state in trained.rows] == ["frozen"] * 4 + ["trainable"] * 6


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "200",
            "--freeze=200 is more than the 10 layers of the backbone. --mode=inspect lists them.",
        ),
        (
            "-11",
            "--freeze=-11 is more than the 10 layers of the backbone. --mode=inspect lists them.",
        ),
        (
            "until:norm_55",
            "--freeze: unknown layer 'norm_55'. Did you mean 'norm_5'? --mode=inspect lists all "
            "10.",
        ),
        (
            "match:block",
            "--freeze=match:block matches none of the 10 layers of the backbone. --mode=inspect "
            "lists them.",
        ),
    ],
)
def test_rules_that_do_not_fit(rule, message):
    with pytest.raises(findings.RefusedError) as caught:
        freezing.plan_freeze(rule, _table())
    (problem,) = caught.value.problems
    assert (problem.message, problem.flag) == (message, "--freeze")


def test_format():
    text = freezing.format_plan(freezing.plan_freeze("2", _table(5)))
    assert text.splitlines() == [
        "number  name    class               output shape  parameters  state",
        "     1  conv_1  Conv2D              (8, ?, 4)          1,000  frozen",
        "     2  norm_2  BatchNormalization  (8, ?, 4)          2,000  frozen",
        "     3  conv_3  Conv2D              (8, ?, 4)          3,000  trainable",
        "     4  conv_4  Conv2D              (8, ?, 4)          4,000  trainable",
        "     5  norm_5  BatchNormalization  (8, ?, 4)          5,000  held",
        "--freeze=2: 2 of 5 layers frozen, 2 trainable, 1 BatchNormalization held in inference "
        "mode (--batch_norm=frozen).",
        "Parameters: 3,000 frozen, 7,000 trainable, 5,000 held.",
    ]
    text = freezing.format_plan(freezing.plan_freeze("all", _table(1)))
    assert text.splitlines()[-2:] == [
        "--freeze=all: 1 of 1 layers frozen, 0 trainable.",
        "Parameters: 1,000 frozen, 0 trainable.",
    ]
    assert freezing.format_shape(None) == "?"


def _backbone() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for block in "abc":
        x = L.Conv2D(4, 3, padding="same", name=f"conv_{block}")(x)
        x = L.BatchNormalization(name=f"norm_{block}", momentum=0.5)(x)
        x = L.ReLU(name=f"relu_{block}")(x)
    model = keras.Model(inputs, x)
    tiny.randomize_statistics(model)
    return surgery.cut_model(model).model


def _with_head(backbone: keras.Model) -> keras.Model:
    """As the heads are attached: the backbone stays one layer of the trained model."""
    inputs = keras.Input(backbone.inputs[0].shape[1:])
    x = backbone(L.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


def _fit(model: keras.Model) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.uniform(0, 255, (16, *model.inputs[0].shape[1:])).astype(np.float32)
    labels = generator.integers(0, 2, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(pixels, labels, batch_size=8, epochs=2, verbose=0)


def _changed(model: keras.Model, before: dict[str, list[np.ndarray]]) -> dict[str, list[bool]]:
    return {
        layer.name: [
            not np.array_equal(old, new)
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        ]
        for layer in model.layers
        if layer.weights
    }


def _weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers}


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_fit_changes_what_the_plan_says_and_nothing_else(batch_norm):
    backbone = _backbone()
    model = _with_head(backbone)
    table = layer_table.table_from_model(backbone)
    plan = freezing.plan_freeze("until:conv_b", table, batch_norm=batch_norm)
    freezing.apply_plan(plan, model)
    before = _weights(backbone)
    _fit(model)
    norm = [batch_norm == "train"] * 4
    assert _changed(backbone, before) == {
        "conv_a": [False, False],
        "norm_a": [False] * 4,
        "conv_b": [False, False],
        "norm_b": norm,
        "conv_c": [True, True],
        "norm_c": norm,
    }


def test_all_frozen_leaves_every_bit():
    backbone = _backbone()
    model = _with_head(backbone)
    table = layer_table.table_from_model(backbone)
    freezing.apply_plan(freezing.plan_freeze("all", table, batch_norm="train"), backbone)
    before = _weights(backbone)
    _fit(model)
    assert not any(any(changes) for changes in _changed(backbone, before).values())
    assert len(model.trainable_weights) == 2


def test_a_later_plan_thaws_what_an_earlier_one_or_the_file_froze():
    backbone = _backbone()
    backbone.get_layer("conv_c").trainable = False
    table = layer_table.table_from_model(backbone)
    freezing.apply_plan(freezing.plan_freeze("all", table), backbone)
    assert backbone.trainable_weights == []
    freezing.apply_plan(freezing.plan_freeze("none", table), backbone)
    assert [weight.path for weight in backbone.trainable_weights] == [
        f"conv_{block}/{name}" for block in "abc" for name in ("kernel", "bias")
    ]
    freezing.apply_plan(freezing.plan_freeze("none", table, batch_norm="train"), backbone)
    assert len(backbone.trainable_weights) == 12


def _noisy() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.RandomFlip(name="flip", seed=1)(inputs)
    x = L.GaussianNoise(1.0, name="noise", seed=1)(x)
    x = L.Dropout(0.5, name="drop", seed=1)(x)
    x = L.Conv2D(4, 3, name="conv")(x)
    x = L.Reshape((2, 3, 6, 4), name="rows")(x)
    x = L.TimeDistributed(L.Dropout(0.5, seed=1), name="each")(x)
    x = L.Reshape((6, 6, 4), name="back")(x)
    return keras.Model(inputs, L.SpatialDropout2D(0.5, name="last", seed=1)(x))


def _draws(model: keras.Model, layer: str) -> bool:
    """Whether two training passes differ at a layer."""
    probe = keras.Model(model.inputs[0], model.get_layer(layer).output)
    pixels = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
    first, second = (np.asarray(probe(pixels, training=True)) for _ in range(2))
    return not np.array_equal(first, second)


def test_frozen_random_layers_do_nothing_until_thawed_or_released():
    model = _noisy()
    table = layer_table.table_from_model(model)
    assert all(_draws(model, name) for name in ("flip", "noise", "drop", "each", "last"))
    freezing.apply_plan(freezing.plan_freeze("until:back", table), model)
    assert not _draws(model, "back")
    assert _draws(model, "last")
    pixels = np.ones((2, 8, 8, 3), np.float32)
    probe = keras.Model(model.inputs[0], model.get_layer("back").output)
    np.testing.assert_array_equal(probe(pixels, training=True), probe(pixels, training=False))
    freezing.apply_plan(freezing.plan_freeze("until:noise", table), model)
    assert not _draws(model, "noise")
    assert _draws(model, "drop")
    freezing.release_plan(model)
    assert all(_draws(model, name) for name in ("flip", "noise", "drop", "each", "last"))
    assert not model.get_layer("flip").trainable


def test_frozen_random_layers_do_nothing_in_fit():
    backbone = _noisy()
    model = _with_head(backbone)
    table = layer_table.table_from_model(backbone)
    freezing.apply_plan(freezing.plan_freeze("all", table), model)
    seeds = [np.asarray(layer.seed_generator.state) for layer in (backbone.get_layer("drop"),)]
    _fit(model)
    after = [np.asarray(layer.seed_generator.state) for layer in (backbone.get_layer("drop"),)]
    np.testing.assert_array_equal(after, seeds)


def test_model_saved_under_a_plan_keeps_its_rates(tmp_path):
    model = _noisy()
    table = layer_table.table_from_model(model)
    freezing.apply_plan(freezing.plan_freeze("all", table), model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("drop").rate == 0.5
    assert _draws(loaded, "drop")


def test_batch_norm_inside_a_wrapper_is_held_above_the_line():
    inputs = keras.Input((8, 8, 3))
    x = L.Reshape((2, 4, 8, 3), name="rows")(inputs)
    block = keras.Sequential([keras.Input((4, 8, 3)), L.Conv2D(4, 1), L.BatchNormalization()])
    x = L.Reshape((8, 8, 4))(L.TimeDistributed(block, name="each")(x))
    backbone = keras.Model(inputs, x)
    model = _with_head(backbone)
    table = layer_table.table_from_model(backbone)
    freezing.apply_plan(freezing.plan_freeze("1", table), model)
    before = backbone.get_layer("each").get_weights()
    _fit(model)
    changed = [
        not np.array_equal(old, new)
        for old, new in zip(before, backbone.get_layer("each").get_weights(), strict=True)
    ]
    assert changed == [True, True, False, False, False, False]


def test_plan_of_another_model_is_a_programming_error():
    plan = freezing.plan_freeze("all", _table())
    with pytest.raises(ValueError, match="does not have the layers of this freeze plan"):
        freezing.apply_plan(plan, _with_head(_backbone()))


def test_planning_needs_no_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys\nfrom tf_finetune import freezing, inspection, layer_table\n"
        "freezing.plan_freeze('all', layer_table.LayerTable(()))\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
