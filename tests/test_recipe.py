import pytest

from tf_finetune import layer_table, recipe, specs

TABLE = layer_table.LayerTable(
    tuple(
        layer_table.LayerRow(
            number=number,
            name=f"layer_{number}",
            class_name="Conv2D",
            output_shape=(None, 4, 4, 8),
            num_parameters=10,
            is_batch_norm=False,
        )
        for number in range(1, 11)
    )
)


def plan(train=None, freeze=None, num_train_examples=1650):
    return recipe.plan_phases(
        train or specs.TrainSpec(),
        freeze or specs.FreezeSpec(),
        table=TABLE,
        num_train_examples=num_train_examples,
    )


def test_the_recipe_has_two_phases_from_500_examples_on():
    head, fine = plan()
    assert head == specs.PhaseSpec(
        name="head",
        epochs=30,
        learning_rate=5e-3,
        freeze="all",
        schedule="cosine",
        warmup_fraction=0.0,
        gradient_clip_norm=0.0,
        training_precision="float32",
    )
    assert fine == specs.PhaseSpec(
        name="fine",
        epochs=10,
        learning_rate=1e-4,
        freeze="67%",
        schedule="cosine",
        warmup_fraction=0.1,
        gradient_clip_norm=1.0,
        training_precision="auto",
    )
    assert [phase.name for phase in plan(num_train_examples=499)] == ["head"]


@pytest.mark.parametrize(("examples", "epochs"), [(50, 200), (320, 100), (1600, 30), (10**6, 30)])
def test_few_examples_get_more_epochs(examples, epochs):
    assert plan(num_train_examples=examples)[0].epochs == epochs


def test_naming_epochs_or_freeze_replaces_the_recipe():
    (phase,) = plan(specs.TrainSpec(epochs=3))
    assert (phase.name, phase.epochs, phase.freeze, phase.learning_rate) == (
        "train", 3, "all", 5e-3,
    )  # fmt: skip
    (phase,) = plan(freeze=specs.FreezeSpec(freeze="5"))
    assert (phase.freeze, phase.learning_rate, phase.gradient_clip_norm) == ("5", 3e-4, 1.0)
    (phase,) = plan(freeze=specs.FreezeSpec(freeze="10"))  # all ten: the head's values
    assert phase.learning_rate == 5e-3


def test_a_named_rate_keeps_the_ratio_of_the_two_phases():
    head, fine = plan(specs.TrainSpec(learning_rate=5e-2))
    assert (head.learning_rate, fine.learning_rate) == (5e-2, pytest.approx(1e-3))


def test_named_phases_keep_what_they_say():
    phases = (
        specs.PhaseSpec(name="a", epochs=4),
        specs.PhaseSpec(name="b", freeze="none", warmup_fraction=0.5, schedule="constant"),
    )
    first, second = plan(specs.TrainSpec(phases=phases, gradient_clip_norm=2.0))
    assert (first.epochs, first.freeze, first.gradient_clip_norm) == (4, "all", 2.0)
    assert (second.epochs, second.learning_rate, second.schedule) == (10, 1e-4, "constant")
    assert second.warmup_fraction == 0.5


def test_a_rule_that_does_not_fit_is_told():
    from tf_finetune import findings

    with pytest.raises((specs.SpecError, findings.RefusedError), match="--freeze=11"):
        plan(freeze=specs.FreezeSpec(freeze="11"))


def test_patience():
    def patience(validation, **values):
        return recipe.patience_epochs(specs.TrainSpec(**values), num_validation_examples=validation)

    assert patience(100) == 5
    assert patience(99) is None
    assert patience(99, patience_epochs=2) == 2
    assert patience(0, patience_epochs=2) is None


def text_plan(train=None, freeze=None, num_train_examples=1650, **options):
    return recipe.plan_phases(
        train or specs.TrainSpec(),
        freeze or specs.FreezeSpec(),
        table=TABLE,
        num_train_examples=num_train_examples,
        input_kind="text",
        **options,
    )


def test_a_text_encoder_trains_as_a_whole():
    assert text_plan() == (
        specs.PhaseSpec(
            name="fine",
            epochs=3,
            learning_rate=3e-5,
            freeze="none",
            schedule="cosine",
            warmup_fraction=0.1,
            gradient_clip_norm=1.0,
            training_precision="auto",
        ),
    )


def test_few_texts_or_constant_features_train_the_heads():
    head = plan(num_train_examples=499)
    assert head == text_plan(num_train_examples=499)
    assert text_plan(can_train=False) == plan()[:1]
    assert text_plan(freeze=specs.FreezeSpec(freeze="all"))[0].learning_rate == 5e-3
    (phase,) = text_plan(freeze=specs.FreezeSpec(freeze="3"))
    assert (phase.epochs, phase.learning_rate) == (3, 3e-5)


def test_decay_and_patience_follow_the_kind():
    def settle(phases, input_kind, train=None, validation=100):
        settled = recipe.settle_options(
            train or specs.TrainSpec(),
            specs.FreezeSpec(),
            phases,
            table=TABLE,
            num_validation_examples=validation,
            input_kind=input_kind,
        )
        return settled.weight_decay, settled.patience_epochs

    assert settle(plan(), "image") == (0.0, 5)
    assert settle(text_plan(), "text") == (0.01, 2)
    assert settle(text_plan(), "text", validation=99) == (0.01, None)
    assert settle(text_plan(can_train=False), "text") == (0.0, 5)
    named = specs.TrainSpec(weight_decay=0.0, patience_epochs=7)
    assert settle(text_plan(), "text", named) == (0.0, 7)


def test_a_backbone_that_is_frozen_just_now_can_train():
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.trainable = False
    assert recipe.can_train_backbone(model)
    assert not recipe.can_train_backbone(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))


def test_epochs_count_steps_of_the_optimizer():
    (large,) = plan(specs.TrainSpec(batch_size=64), num_train_examples=400)
    accumulated = specs.TrainSpec(batch_size=16, accumulate_steps=4)
    assert plan(accumulated, num_train_examples=400) == (large,)
    assert large.epochs == 143  # of 7 steps
