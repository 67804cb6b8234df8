"""Names of files that a graph makes up, in the place of its assets' names."""

import os

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_finetune.trust import constants, saved_model_file

v1 = tf.compat.v1
NO_ASSET = "reads a file that is no asset of the model."


def messages(path):
    return [item.message for item in saved_model_file.examine(str(path))]


def edit(path, change):
    file = os.path.join(path, "saved_model.pb")
    with open(file, "rb") as stream:
        proto = saved_model_pb2.SavedModel.FromString(stream.read())
    change(proto.meta_graphs[0])
    with open(file, "wb") as stream:
        stream.write(proto.SerializeToString())


def write_model(path, make_name, *, asset="", initializer=False):
    """A graph of TensorFlow 1: a signature that fills a table from a file, and looks up in it."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.int64, [None], name="x")
        table = tf.raw_ops.HashTableV2(
            key_dtype=tf.int64, value_dtype=tf.string, shared_name="words"
        )
        fill = tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=table, filename=make_name(), key_index=-1, value_index=-2
        )
        with tf.control_dependencies([] if initializer else [fill]):
            y = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value="")
        signature = v1.saved_model.build_signature_def(
            {"x": v1.saved_model.build_tensor_info(x)}, {"y": v1.saved_model.build_tensor_info(y)}
        )
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            main_op=tf.group(fill) if initializer else None,
        )
        builder.save()
    if asset:
        edit(path, lambda meta: add_asset(meta, asset))
        (path / "assets").mkdir()
        (path / "assets" / "vocabulary.txt").write_text("a\nb\n")


def add_asset(meta, node):
    entry = meta.asset_file_def.add()
    entry.filename, entry.tensor_info.name = "vocabulary.txt", f"{node}:0"


def constant(name="name"):
    return lambda: tf.constant("/etc/passwd", name=name)


def test_an_asset_that_the_initializer_reads_passes(tmp_path):
    write_model(tmp_path / "sm", constant("words"), asset="words", initializer=True)
    assert messages(tmp_path / "sm") == []


def test_an_asset_is_a_mere_constant_where_a_signature_reads_it(tmp_path):
    # The loader gives its path to the initializer alone.
    write_model(tmp_path / "sm", constant("words"), asset="words")
    (message,) = messages(tmp_path / "sm")
    assert NO_ASSET in message


@pytest.mark.parametrize("name", ["asset", "name"])
def test_a_name_makes_no_asset(tmp_path, name):
    write_model(tmp_path / "sm", constant(name), initializer=True)
    (message,) = messages(tmp_path / "sm")
    assert NO_ASSET in message


def joined():
    return tf.reshape(tf.raw_ops.Pack(values=[tf.constant("/etc/passwd", name="name")]), [])


def test_a_text_that_calls_itself_a_number(tmp_path):
    def change(meta):
        (node,) = [item for item in meta.graph_def.node if item.name == "name"]
        for attribute in ("_a", "_z"):
            node.attr[attribute].tensor.dtype = 3

    write_model(tmp_path / "sm", joined, initializer=True)
    edit(tmp_path / "sm", change)
    (message,) = messages(tmp_path / "sm")
    assert NO_ASSET in message


def assigned_twice():
    handles = [
        tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[], shared_name="name") for _ in range(2)
    ]
    given = tf.constant("vocabulary", name="words")
    first = tf.raw_ops.AssignVariableOp(resource=handles[0], value=given)
    with tf.control_dependencies([first]):
        second = tf.raw_ops.AssignVariableOp(resource=handles[1], value="/etc/passwd")
    with tf.control_dependencies([second]):
        return tf.raw_ops.ReadVariableOp(resource=handles[0], dtype=tf.string)


def test_two_handles_of_one_variable(tmp_path):
    write_model(tmp_path / "sm", assigned_twice, asset="words", initializer=True)
    (message,) = messages(tmp_path / "sm")
    assert NO_ASSET in message


class Reader(tf.Module):
    """Reads a file in every round of a loop, or the asset itself."""

    def __init__(self, folder, *, loop):
        super().__init__()
        path = os.path.join(folder, "words.txt")
        with open(path, "w") as file:
            file.write("a b")
        self.words = tf.saved_model.Asset(path)
        self.loop = loop

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def __call__(self, x):
        if not self.loop:
            return tf.io.read_file(self.words.asset_path)

        def body(number, name, text):
            return number + 1, tf.constant("/etc/passwd"), tf.io.read_file(name)

        start = (0, tf.identity(self.words.asset_path), "")
        return tf.while_loop(lambda number, *_: number < x, body, start)[2]


def test_a_file_may_be_read_if_it_is_an_asset(tmp_path):
    tf.saved_model.save(Reader(str(tmp_path), loop=False), str(tmp_path / "sm"))
    assert messages(tmp_path / "sm") == []


def test_the_second_round_of_a_loop_reads_what_the_first_returned(tmp_path):
    tf.saved_model.save(Reader(str(tmp_path), loop=True), str(tmp_path / "sm"))
    (message,) = messages(tmp_path / "sm")
    assert message.startswith("the operation ReadFile (") and NO_ASSET in message


@pytest.mark.parametrize(("suffix", "good"), [("/part", True), ("/../x", False), ("/.", False)])
def test_what_stands_behind_an_assets_name(tmp_path, suffix, good):
    def name():
        words = tf.constant("words", name="words")
        return tf.strings.join([words, suffix, "./etc/passwd"])

    write_model(tmp_path / "sm", name, asset="words", initializer=True)
    assert (messages(tmp_path / "sm") == []) == good


def test_a_separator_is_part_of_the_name(tmp_path):
    def name():
        return tf.strings.join([tf.constant("words", name="words"), "a", "b"], separator="/../")

    write_model(tmp_path / "sm", name, asset="words", initializer=True)
    (message,) = messages(tmp_path / "sm")
    assert NO_ASSET in message


def test_a_constant_that_is_a_handle(tmp_path):
    def change(meta):
        (node,) = [item for item in meta.graph_def.node if item.name == "words"]
        node.attr["value"].tensor.dtype = tf.resource.as_datatype_enum

    write_model(tmp_path / "sm", constant("words"), asset="words", initializer=True)
    edit(tmp_path / "sm", change)
    assert messages(tmp_path / "sm")[0].startswith(
        "the constant 'words' is a handle: it could reach objects of this process."
    )


def test_shapes_that_come_in_parts_are_one():
    tensor = tf.make_tensor_proto([1.0]).SerializeToString()
    # Twice: protobuf joins the two, so the tensor has 1 x 1 elements.
    assert constants.filled_bytes(memoryview(tensor + tensor), what="x") == 0
    big = b"\x12\x05\x12\x03\x08\xc0\x3e"  # one side of 8,000
    filled = constants.filled_bytes(memoryview(b"\x08\x01" + big + big), what="x")
    assert filled == 8000 * 8000 * 4 - 16
