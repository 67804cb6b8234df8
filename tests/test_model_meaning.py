import keras
import pytest

from tf_finetune import head_kinds, model_meaning
from tf_finetune.data import columns, mixed_spec, preprocessing, text_store

MULTI = {"name": "tags", "kind": "multilabel", "classes": ["a", "b"], "thresholds": [0, 0.5]}
COLUMNS = columns.ColumnsSpec(
    (
        columns.ModelInput("numbers", ("a", "b"), "float32", (2,)),
        columns.ModelInput("c", ("c",), "string", ()),
    )
)
BINARY = {"name": "b", "kind": "binary", "classes": ["no", "yes"], "thresholds": [0.5]}

PART = {"name": "numbers", "columns": ["a"], "dtype": "float32", "shape": [1]}


def test_what_training_writes_is_read():
    heads = model_meaning.read_heads([MULTI, BINARY])
    assert heads == (
        head_kinds.HeadInfo("tags", "multilabel", ("a", "b"), (0.0, 0.5)),
        head_kinds.HeadInfo("b", "binary", ("no", "yes"), (0.5,)),
    )
    model_meaning.check_loss_weights({"b": 0, "tags": 1.5}, heads)
    for spec in (
        preprocessing.PreprocessingSpec(4, 5, 1, "pad", 1000.0),
        text_store.TextSpec("review"),
        mixed_spec.MixedSpec(preprocessing.PreprocessingSpec(4, 5, 3), "photo", COLUMNS),
        mixed_spec.MixedSpec(text_store.TextSpec("review"), "review", COLUMNS),
    ):
        assert model_meaning.read_inputs(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "value",
    [
        None,
        [3],
        [{}],
        [{**MULTI, "more": 1}],
        [{**MULTI, "name": "loss"}],
        [{**MULTI, "name": None}],
        [{**MULTI, "classes": "ab"}],
        [{**MULTI, "classes": ["a"], "thresholds": [0.5]}],
        [{**MULTI, "thresholds": [0.5, True]}],
        [{**MULTI, "thresholds": {"a": 0.5, "b": 0.5}}],
        [{**BINARY, "classes": ["a", "b", "c"]}],
        [BINARY, BINARY],
    ],
)
def test_heads_that_training_does_not_write(value):
    with pytest.raises(ValueError, match=r"^heads?\b.*: "):
        model_meaning.read_heads(value)


@pytest.mark.parametrize("value", [[], {"b": -1}, {"b": "1"}, {"b": 1, "c": 1}, {"b": 1e39}])
def test_loss_weights_that_training_does_not_write(value):
    with pytest.raises(ValueError, match=r"^loss_weights: "):
        model_meaning.check_loss_weights(value, model_meaning.read_heads([BINARY]))


@pytest.mark.parametrize(
    "changes",
    [
        {"main": {"kind": "columns", "inputs": []}},
        {"main": {"kind": "mixed"}},
        {"main": {"kind": "text", "column": "a\nb"}},
        {"main": {"height": 0, "width": 1, "channels": 3}},
        {"main": None},
        {"main": 3},
        {"column": 3},
        {"column": "a\nb"},
        {"columns": {"inputs": []}},
        {"columns": []},
        {"columns": {"inputs": [{**PART, "name": "text"}]}},
        {"columns": {"inputs": [{**PART, "name": "image"}]}},
        {"columns": {"inputs": [{**PART, "shape": [2]}]}},
        {"columns": {"inputs": [{**PART, "dtype": "float64"}]}},
    ],
)
def test_mixed_inputs_that_training_does_not_write(changes):
    spec = mixed_spec.MixedSpec(text_store.TextSpec("review"), "review", COLUMNS)
    with pytest.raises(ValueError, match=r"^preprocessing: "):
        model_meaning.read_inputs({**spec.to_dict(), **changes})


def test_a_model_of_both_is_held_against_its_meaning():
    heads = model_meaning.read_heads([BINARY])
    image, numbers = keras.Input((4, 4, 1), name="image"), keras.Input((2,), name="numbers")
    c = keras.Input((), name="c", dtype="string")
    features = keras.layers.Concatenate()([keras.layers.Flatten()(image), numbers])
    outputs = {"b": keras.layers.Dense(1)(features)}
    model = keras.Model({"image": image, "numbers": numbers, "c": c}, outputs)
    main = preprocessing.PreprocessingSpec(4, 4, 1)
    model_meaning.check_model(model, heads, mixed_spec.MixedSpec(main, "photo", COLUMNS))
    for spec in (
        main,
        mixed_spec.MixedSpec(text_store.TextSpec(), "text", COLUMNS),
        mixed_spec.MixedSpec(main, "photo", columns.ColumnsSpec(COLUMNS.inputs[:1])),
        mixed_spec.MixedSpec(preprocessing.PreprocessingSpec(5, 4, 1), "photo", COLUMNS),
    ):
        with pytest.raises(ValueError, match=r"^preprocessing: the model takes"):
            model_meaning.check_model(model, heads, spec)


def make_model(shape=(4, 4, 1), units=1, name="image"):
    image = keras.Input(shape, name=name)
    logits = keras.layers.Dense(units)(keras.layers.GlobalAveragePooling2D()(image))
    return keras.Model({name: image}, {"b": logits})


def test_a_model_is_held_against_its_meaning():
    heads = model_meaning.read_heads([BINARY])
    spec = preprocessing.PreprocessingSpec(4, 4, 1)
    model_meaning.check_model(make_model(), heads, spec)
    model_meaning.check_model(make_model((None, None, 1)), heads, spec)
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    for model in (
        make_model((4, 5, 1)),
        make_model((4, 4, 3)),
        make_model(units=2),
        make_model(name="picture"),
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]),
        unbuilt,
    ):
        with pytest.raises(ValueError, match="the model "):
            model_meaning.check_model(model, heads, spec)
    with pytest.raises(ValueError, match="the model takes"):
        model_meaning.check_model(make_model(), heads, text_store.TextSpec())


MASK = {"name": "b", "kind": "segmentation", "classes": ["sky", "road"], "thresholds": []}
TAGS = {"name": "b", "kind": "token_classification", "classes": ["B-A", "O"], "thresholds": []}


def make_positions_model(name, shape, *, dtype="float32", places=(4, 5), units=2):
    given = keras.Input(shape, name=name, dtype=dtype)
    make = keras.layers.Lambda(lambda values: values, output_shape=(*places, units))
    return keras.Model({name: given}, {"b": make(given)})


def test_a_head_of_pixels_is_held_against_the_input():
    heads = model_meaning.read_heads([MASK])
    assert heads == (head_kinds.HeadInfo("b", "segmentation", ("sky", "road")),)
    spec = preprocessing.PreprocessingSpec(4, 5, 1)
    model_meaning.check_model(make_positions_model("image", (4, 5, 1)), heads, spec)
    for places, units, shown in (
        ((4, 4), 2, "(4, 4, 2)"),
        ((4, 5), 3, "(4, 5, 3)"),
        ((), 2, "(2,)"),
    ):
        model = make_positions_model("image", (4, 5, 1), places=places, units=units)
        with pytest.raises(ValueError) as caught:
            model_meaning.check_model(model, heads, spec)
        assert str(caught.value) == (
            f"head b: the model gives {shown} numbers, and its classes need (4, 5, 2)"
        )
    with pytest.raises(ValueError) as caught:
        model_meaning.check_model(model, heads, text_store.TextSpec())
    assert str(caught.value) == "head b: kind=segmentation is of images"


def test_a_head_of_words_is_held_against_the_input():
    heads = model_meaning.read_heads([TAGS])
    spec = text_store.TextSpec()
    model = make_positions_model("text", (), dtype="string", places=(None,))
    model_meaning.check_model(model, heads, spec)
    for places, units, shown in (
        ((None,), 3, "(None, 3)"),
        ((7,), 2, "(7, 2)"),
        ((), 2, "(2,)"),
    ):
        model = make_positions_model("text", (), dtype="string", places=places, units=units)
        with pytest.raises(ValueError) as caught:
            model_meaning.check_model(model, heads, spec)
        assert str(caught.value) == (
            f"head b: the model gives {shown} numbers, and its classes need (None, 2)"
        )
    with pytest.raises(ValueError) as caught:
        model_meaning.check_model(model, heads, preprocessing.PreprocessingSpec(4, 5, 1))
    assert str(caught.value) == "head b: kind=token_classification is of texts"
