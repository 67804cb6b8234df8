import keras

from tests import tiny
from tf_finetune import layer_table


def test_rows_are_the_layers_after_the_input():
    table = layer_table.table_from_model(tiny.make_classifier())
    assert [(row.number, row.name) for row in table.rows] == [
        (1, "conv_a"),
        (2, "norm_a"),
        (3, "relu_a"),
        (4, "conv_b"),
        (5, "norm_b"),
        (6, "relu_b"),
        (7, "pool"),
        (8, "drop"),
        (9, "classifier"),
    ]
    assert table.rows[1] == layer_table.LayerRow(
        number=2,
        name="norm_a",
        class_name="BatchNormalization",
        output_shape=(None, 12, 12, 6),
        num_parameters=24,
        is_batch_norm=True,
    )
    assert table.rows[8].num_parameters == 8 * 5 + 5
    assert len(table) == 9
    assert table.unit == "layers"


def test_shapes_are_those_of_this_graph_not_of_an_earlier_call():
    layer = keras.layers.Conv2D(2, 1, name="conv")
    layer(keras.Input((32, 32, 3)))
    inputs = keras.Input((8, 8, 3))
    table = layer_table.table_from_model(keras.Model(inputs, layer(inputs)))
    assert table.rows[0].output_shape == (None, 8, 8, 2)


def test_wrapper_is_one_layer_and_several_outputs_have_no_shape():
    inputs = keras.Input((4, 8, 8, 3))
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(2, 1), name="each")(inputs)
    x = keras.layers.TimeDistributed(keras.layers.Flatten())(x)
    outputs = keras.layers.LSTM(3, return_state=True, name="memory")(x)
    table = layer_table.table_from_model(keras.Model(inputs, outputs))
    assert table.rows[0].class_name == "TimeDistributed"
    assert table.rows[0].num_parameters == 8
    assert table.rows[-1].output_shape is None


def test_batch_norm_is_known_by_its_class_and_base_class():
    class Custom(keras.layers.BatchNormalization):
        pass

    assert layer_table.is_batch_norm(Custom())
    assert not layer_table.is_batch_norm(keras.layers.LayerNormalization())


def test_unknown_layer_names_the_nearest():
    names = tuple(f"block_{number}_add" for number in range(155))
    problem = layer_table.unknown_layer("block_13_ad", names, flag="--freeze")
    assert problem.message == (
        "--freeze: unknown layer 'block_13_ad'. Did you mean 'block_13_add'? --mode=inspect lists "
        "all 155."
    )
    assert problem.flag == "--freeze"


def test_unknown_layer_without_a_near_name_gives_no_hint():
    problem = layer_table.unknown_layer("x\ny", ("conv", "dense"), unit="weight groups")
    assert problem.message == "Unknown weight group 'x\\ny'. --mode=inspect lists all 2."
