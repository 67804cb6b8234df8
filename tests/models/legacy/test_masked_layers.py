"""Models that make masks compute what tf_keras computes, also where its rules are not Keras 3's."""

import json
import re

import keras
import numpy as np
import pytest

pytest.importorskip("tf_keras")
import tensorflow as tf
import tf_keras

from tests.models import keras2_files
from tf_finetune.models import model_building
from tf_finetune.models.legacy import keras2_config, keras2_masks, masked_layers

L = tf_keras.layers


def _words(length=6):
    return tf_keras.Input((length,), dtype="int32")


def _embed(words, size=8, **options):
    return L.Embedding(5, size, mask_zero=True, **options)(words)


def _gru(x):
    return L.GRU(3)(x)


def _seq2seq(cell, **options):
    source, target = _words(), _words(5)
    _, *states = cell(8, return_state=True)(_embed(source))
    decoded = cell(8, return_sequences=True, **options)(_embed(target), initial_state=states)
    return tf_keras.Model([source, target], _gru(decoded))


def _bidirectional_seq2seq():
    source, target = _words(), _words(5)
    _, *states = L.Bidirectional(L.LSTM(4, return_state=True))(_embed(source))
    layer = L.Bidirectional(L.LSTM(4, return_sequences=True))
    return tf_keras.Model([source, target], _gru(layer(_embed(target), initial_state=states)))


def _states_of_unmasked():
    words, state = _words(), tf_keras.Input((4,))
    plain = L.Embedding(5, 8)(words)
    first = L.SimpleRNN(4, return_sequences=True)(plain, initial_state=state)
    second = L.SimpleRNN(4)(_embed(words), initial_state=state)
    return tf_keras.Model([words, state], [L.GlobalAveragePooling1D()(first), second])


def _merged(layer, *, masks=2):
    first, second = _words(), _words()
    other = _embed(second) if masks == 2 else L.Embedding(5, 8)(second)
    return tf_keras.Model([first, second], _gru(layer([_embed(first), other])))


def _concatenated_in_time():
    first, second = _words(), _words(4)
    joined = L.Concatenate(axis=1)([_embed(first), _embed(second)])
    return tf_keras.Model([first, second], _gru(joined))


def _named_as_an_operation():
    first, second = _words(), _words()
    joined = L.Concatenate(name="concatenate")([_embed(first), _embed(second)])
    joined = L.Activation("tanh", name="logical_and")(joined)
    return tf_keras.Model([first, second], L.GRU(3, name="not_equal")(joined))


def _after(function, end=_gru):
    words = _words()
    return tf_keras.Model(words, end(function(_embed(words))))


def _frames(layer, *, end=_gru):
    words = tf_keras.Input((4, 6), dtype="int32")
    embedded = L.TimeDistributed(L.Embedding(5, 8, mask_zero=True))(words)
    return tf_keras.Model(words, end(L.TimeDistributed(layer)(embedded)))


def _frames_of_a_model():
    words = tf_keras.Input((4, 6), dtype="int32")
    inner = tf_keras.Sequential(
        [L.Embedding(5, 8, mask_zero=True, input_length=6), L.GRU(4, return_sequences=True)]
    )
    embedded = L.TimeDistributed(inner)(words)
    return tf_keras.Model(words, _gru(L.TimeDistributed(L.GRU(3))(embedded)))


def _frames_masked():
    values = tf_keras.Input((4, 6, 3))
    masked = L.Masking(0.5)(L.ReLU(threshold=0.5, max_value=0.5)(values))
    return tf_keras.Model(values, _gru(L.TimeDistributed(L.GRU(3))(masked)))


def _attention(layer, *, explicit=False):
    query, value = _words(), _words(4)
    q, v = _embed(query), _embed(value)
    if explicit:
        mask = tf_keras.Input((6, 4), dtype="bool")
        return tf_keras.Model([query, value, mask], layer(q, v, attention_mask=mask))
    attended = layer(q, v)
    # The masks of `v` and `q` are used again.
    again = layer(L.Add()([q, attended]), v)
    return tf_keras.Model([query, value], [attended, L.GRU(3)(again), L.GRU(2)(v)])


def _explicit_attention_alone():
    values, mask = tf_keras.Input((6, 8)), tf_keras.Input((6, 6), dtype="bool")
    layer = L.MultiHeadAttention(2, 4, dropout=0.1)
    return tf_keras.Model([values, mask], layer(values, values, attention_mask=mask))


def _dense_attention(layer):
    query, value = _words(), _words(4)
    q = L.Add()([_embed(query), L.Embedding(5, 8)(query)])
    v = L.Activation("tanh")(_embed(value))
    return tf_keras.Model([query, value], L.GlobalAveragePooling1D()(layer([q, v])))


def _nested():
    words = _words()
    inner_input = _words()
    inner = tf_keras.Model(inner_input, L.Dense(4)(_embed(inner_input)))
    pair = tf_keras.Input((6, 4)), tf_keras.Input((6, 4))
    merge = tf_keras.Model(pair, L.Add()(list(pair)))
    encoded = inner(words)
    return tf_keras.Model(words, _gru(merge([encoded, L.Embedding(5, 4)(words)])))


def _softmax_of_masked():
    scores, mask = tf_keras.Input((6,)), tf_keras.Input((6,), dtype="bool")
    return tf_keras.Model([scores, mask], L.Softmax()(scores, mask=mask))


MODELS = {
    "lstm": lambda: _seq2seq(L.LSTM),
    "gru": lambda: _seq2seq(L.GRU, reset_after=False),
    "simple": lambda: _seq2seq(L.SimpleRNN, go_backwards=True),
    "bidirectional": _bidirectional_seq2seq,
    "states_of_unmasked": _states_of_unmasked,
    "add_two": lambda: _merged(L.Add()),
    "add_one": lambda: _merged(L.Add(), masks=1),
    "subtract": lambda: _merged(L.Subtract()),
    "multiply": lambda: _merged(L.Multiply()),
    "average": lambda: _merged(L.Average()),
    "maximum": lambda: _merged(L.Maximum(), masks=1),
    "minimum": lambda: _merged(L.Minimum()),
    "concatenate_two": lambda: _merged(L.Concatenate()),
    "concatenate_one": lambda: _merged(L.Concatenate(), masks=1),
    "concatenate_time": _concatenated_in_time,
    "names": _named_as_an_operation,
    "relu": lambda: _after(tf.nn.relu),
    "relu6": lambda: _after(tf.nn.relu6, L.GlobalAveragePooling1D()),
    "product": lambda: _after(lambda x: x * 2.5),
    "difference": lambda: _after(lambda x: 1.0 - x, L.GlobalAveragePooling1D()),
    "concat": lambda: _after(lambda x: tf.concat([x, x], -1)),
    "softmax": lambda: _after(tf.nn.softmax),
    "rescaling": lambda: _after(L.Rescaling(0.5)),
    "normalization": lambda: _after(L.Normalization(mean=0.5, variance=2.0)),
    "identity": lambda: _after(L.Identity()),
    "kept": lambda: _after(lambda x: L.BatchNormalization()(L.Dropout(0.5)(L.ReLU()(x)))),
    "dropped": lambda: _after(L.Conv1D(4, 3, padding="same")),
    "frames": lambda: _frames(L.GRU(4)),
    "frames_dense": lambda: _frames(L.Dense(4), end=lambda x: _gru(L.TimeDistributed(L.GRU(4))(x))),
    "frames_model": _frames_of_a_model,
    "frames_masked": _frames_masked,
    "attention": lambda: _attention(L.MultiHeadAttention(2, 4)),
    "attention_dropout": lambda: _attention(L.MultiHeadAttention(2, 4, dropout=0.2)),
    "attention_explicit": lambda: _attention(L.MultiHeadAttention(2, 4), explicit=True),
    "attention_explicit_alone": _explicit_attention_alone,
    "dot_attention": lambda: _dense_attention(L.Attention()),
    "additive_attention": lambda: _dense_attention(L.AdditiveAttention()),
    "nested": _nested,
    "softmax_layer": _softmax_of_masked,
}


def _inputs(model):
    given = keras2_files.inputs_for(model)
    generator = np.random.default_rng(3)
    for number, tensor in enumerate(model.inputs):
        shape = (3, *tensor.shape[1:])
        if tensor.dtype == tf.bool:
            # An example is masked as a whole.
            given[number] = generator.uniform(size=shape) > 0.4
            given[number][0] = False
        elif tensor.dtype == tf.int32:
            # Zeros at the end, in front and inside; another word of another example starts anew.
            given[number] = generator.integers(0, 5, shape).astype("int32")
            given[number][..., 0] = generator.integers(0, 2, shape[:-1])
            given[number][..., -1] = 1
        else:
            given[number] = generator.uniform(0.05, 1, shape).astype("float32")
    return given


@pytest.mark.parametrize("name", MODELS)
def test_computes_what_keras_2_computes(name, tmp_path):
    model = MODELS[name]()
    keras2_files.check_loads(model, tmp_path / "model.h5", inputs=_inputs(model))


# Arguments of layers that need some.
ARGUMENTS = {
    "ActivityRegularization": (0.1,),
    "Activation": ("tanh",),
    "CenterCrop": (2, 2),
    "ConvLSTM1D": (2, 1, 1, "same"),
    "Dense": (2,),
    "Discretization": ([0.5],),
    "Dropout": (0.5,),
    "EinsumDense": ("abc,cd->abd", (None, 2)),
    "Embedding": (5, 2),
    "GRU": (2,),
    "GaussianNoise": (0.1,),
    "GroupNormalization": (1,),
    "LSTM": (2,),
    "LocallyConnected1D": (2, 1),
    "LocallyConnected2D": (2, 1),
    "Permute": ((2, 1),),
    "Rescaling": (0.5,),
    "Reshape": ((-1, 1),),
    "Resizing": (2, 2),
    "SimpleRNN": (2,),
    "AlphaDropout": (0.5,),
    "GaussianDropout": (0.5,),
    "SpatialDropout1D": (0.5,),
    "SpatialDropout2D": (0.5,),
    "Normalization": (-1, 0.5, 2.0),
    "RandomContrast": (0.5,),
    "RandomRotation": (0.5,),
    "RandomTranslation": (0.5, 0.5),
    "RandomZoom": (0.5,),
    "RandomBrightness": (0.5,),
    "RandomCrop": (2, 2),
}
WRAPPED = {
    "Bidirectional": lambda: L.GRU(2, return_sequences=True),
    "RNN": lambda: L.SimpleRNNCell(2),
    "SpectralNormalization": lambda: L.Dense(2),
    "TimeDistributed": lambda: L.Dense(2),
}
# They take words, or are no layers that a file may hold.
SKIPPED = (
    "IntegerLookup",
    "StringLookup",
    "TextVectorization",
    "Lambda",
    "Layer",
    "Wrapper",
    "InputLayer",
)
MERGING = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract", "Dot")
ATTENTION = ("Attention", "AdditiveAttention")


def _call(name, tensor):
    """What a layer returns for a masked tensor."""
    layer_class = getattr(L, name)
    if name in MERGING:
        plain = L.Conv1D(tensor.shape[-1], 1)(tensor) if tensor.shape.rank == 3 else tensor
        return layer_class(**({"axes": -1} if name == "Dot" else {}))([tensor, plain])
    if name in ATTENTION:
        return layer_class()([tensor, tensor])
    if name == "MultiHeadAttention":
        return layer_class(1, 2)(tensor, tensor)
    if "Conv" in name and name not in ARGUMENTS:
        arguments = (1,) if name.startswith("Depthwise") else (2, 1)
        return layer_class(*arguments)(tensor)
    if name in WRAPPED:
        return layer_class(WRAPPED[name]())(tensor)
    return layer_class(*ARGUMENTS.get(name, ()))(tensor)


def _rank(name):
    """Of the inputs that a layer is for; None: of any."""
    if name.endswith("Attention"):
        return 3
    if name.startswith("Random"):
        return 4
    found = re.search(r"([123])D(Transpose)?$", name)
    return int(found[1]) + 2 if found else None


def _try_call(name, tensor):
    if _rank(name) not in (None, len(tensor.shape)):
        return None
    try:
        return _call(name, tensor)
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
        return None


def test_every_layer_passes_the_masks_that_it_passed_in_keras_2():
    words, frames = _words(), tf_keras.Input((4, 5, 3))
    tensors = _embed(words), L.Masking(0.5)(frames)
    found = {}
    for name in dir(L):
        value = getattr(L, name)
        is_layer = isinstance(value, type) and issubclass(value, L.Layer)
        if not is_layer or name in SKIPPED:
            continue
        for tensor in tensors:
            output = _try_call(name, tensor)
            if hasattr(output, "shape"):
                found[f"{name}_{len(tensor.shape)}"] = output
    # Nearly all: each with inputs of the ranks that Keras 2 lets it take with a mask.
    assert len(found) > 110
    model = tf_keras.Model([words, frames], list(found.values()))
    config = keras2_config.translate_config(
        json.loads(model.to_json()), where="model", version="2.15.0"
    ).config
    with model_building.private_classes():
        loaded = keras.saving.deserialize_keras_object(config)
    given = _inputs(model)
    given[1][:, :, 2:] = 0.5
    expected = [_mask(output) for output in model(given, training=False)]
    masks = [_mask(output) for output in loaded(given, training=False)]
    differing = [
        name
        for name, mask, wanted in zip(found, masks, expected, strict=True)
        if (mask is None) != (wanted is None)
        or (wanted is not None and not np.array_equal(mask, wanted))
    ]
    assert differing == []


def _mask(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return None if mask is None else np.asarray(mask)


def test_no_function_joins_the_graph(tmp_path):
    model = keras2_files.check_loads(
        (source := MODELS["names"]()), tmp_path / "model.h5", inputs=_inputs(source)
    )
    assert all(isinstance(operation, keras.layers.Layer) for operation in model.operations)
    assert type(model.get_layer("concatenate")) is masked_layers.Concatenate


def test_a_model_without_masks_keeps_the_layers_of_keras(tmp_path):
    image = tf_keras.Input((8, 8, 3))
    scaled = L.Rescaling(1 / 127.5, -1)(image)
    branch = tf.nn.relu(L.Conv2D(3, 3, padding="same")(scaled)) * 0.5
    merged = L.Concatenate()([L.Add()([scaled, branch]), scaled])
    attended = L.Reshape((64, 6))(merged)
    attended = L.MultiHeadAttention(2, 4)(attended, attended)
    source = tf_keras.Model(image, L.LSTM(2)(attended, initial_state=[attended[:, 0, :2]] * 2))
    model = keras2_files.check_loads(source, tmp_path / "model.h5")
    own = {type(layer).__name__ for layer in model.layers if "keras.src" not in str(type(layer))}
    assert own == {"TensorOperation"}
    assert [type(layer) for layer in model.layers].count(keras.layers.Rescaling) == 2


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"class_name": "Embedding", "config": {"name": "a", "mask_zero": True}}, True),
        ({"class_name": "Embedding", "config": {"name": "a", "mask_zero": False}}, False),
        ({"class_name": "Masking", "config": {"name": "a"}}, True),
        ({"class_name": "Mine>Words", "config": {"name": "a"}}, True),
        ({"class_name": "TFOpLambda", "config": {"name": "a"}}, False),
    ],
)
def test_finds_what_makes_masks(layer, expected):
    lstm = {"class_name": "LSTM", "config": {"name": "b"}}
    inner = {"class_name": "Sequential", "config": {"name": "c", "layers": [layer, lstm]}}
    stored = {"class_name": "Sequential", "config": {"name": "d", "layers": [inner]}}
    assert keras2_masks.has_masks(stored) is expected


def test_a_custom_layer_of_an_image_model_makes_no_masks():
    layers = [{"class_name": name, "config": {"name": name}} for name in ("Mine", "Conv2D")]
    stored = {"class_name": "Sequential", "config": {"name": "d", "layers": layers}}
    assert not keras2_masks.has_masks(stored)


def test_every_class_that_is_replaced_exists():
    for name in keras2_masks.MASKED:
        own = getattr(masked_layers, name)
        assert issubclass(own, getattr(keras.layers, name))
        assert keras.saving.get_registered_name(own) == f"tf_finetune>{name}"
