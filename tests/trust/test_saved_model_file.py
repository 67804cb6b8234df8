"""SavedModels whose graphs do more than compute. TensorFlow only writes them here."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_finetune.trust import refusals, saved_model_file, saved_model_ops

TRUST = " --trust_model opens it all the same, if you know who made it."
AGAIN = " Copy or download it again."


class Module(tf.Module):
    """A variable, a table from an asset, and one call."""

    def __init__(self, folder, call=None):
        super().__init__()
        vocabulary = os.path.join(folder, "vocabulary.txt")
        with open(vocabulary, "w") as file:
            file.write("a\nb\n")
        init = tf.lookup.TextFileInitializer(
            vocabulary, tf.string, 0, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(init, -1)
        self.weight = tf.Variable(np.ones(3, "f4"))
        self.extra = call or (lambda x: x)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, x):
        x = self.extra(x)
        return tf.cast(self.table.lookup(x), tf.float32)[:, None] * self.weight


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    path = str(folder / "sm")
    tf.saved_model.save(Module(str(folder)), path)
    return path


@pytest.fixture
def model(good, tmp_path):
    path = str(tmp_path / "sm")
    shutil.copytree(good, path)
    return path


def examine(path):
    try:
        return [(item.kind, item.message) for item in saved_model_file.examine(path)]
    except refusals.BrokenFileError as error:
        return [(error.finding.kind, error.finding.message)]


def edit(path, change):
    proto = saved_model_pb2.SavedModel()
    file = os.path.join(path, "saved_model.pb")
    with open(file, "rb") as stream:
        proto.ParseFromString(stream.read())
    change(proto.meta_graphs[0])
    with open(file, "wb") as stream:
        stream.write(proto.SerializeToString())


def test_tables_of_assets_and_the_savers_own_operations_pass(good):
    assert examine(good) == []


def test_an_export_of_keras_passes(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    model.export(str(tmp_path / "sm"), verbose=False)
    assert examine(str(tmp_path / "sm")) == []


def test_a_graph_of_tensorflow_1_with_two_savers_passes(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3])
        y = tf.matmul(x, v1.get_variable("w", [3, 2]))
        v1.train.Saver(sharded=True)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "sm"), {"x": x}, {"y": y})
    assert examine(str(tmp_path / "sm")) == []


class Adapted(tf.Module):
    """What Keras 2 saves of a layer that was adapted: a step that is given an iterator."""

    @tf.function(input_signature=[tf.data.IteratorSpec(tf.TensorSpec([None], tf.string))])
    def adapt_step(self, iterator):
        return next(iterator)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, x):
        return x


def test_a_step_may_take_from_an_iterator_that_it_is_given(tmp_path):
    tf.saved_model.save(Adapted(), str(tmp_path / "sm"))
    with open(tmp_path / "sm" / "saved_model.pb", "rb") as file:
        assert b"IteratorGetNext" in file.read()
    assert examine(str(tmp_path / "sm")) == []


def from_own_iterator(x):
    iterator = tf.raw_ops.OneShotIterator(
        dataset_factory=tf.function(
            lambda: tf.data.TextLineDataset("/etc/passwd")._variant_tensor
        ).get_concrete_function(),
        output_types=[tf.string],
        output_shapes=[[]],
    )
    (line,) = tf.raw_ops.IteratorGetNext(
        iterator=iterator, output_types=[tf.string], output_shapes=[[]]
    )
    return x + line


def test_an_iterator_of_its_own_is_excluded(tmp_path):
    tf.saved_model.save(Module(str(tmp_path), from_own_iterator), str(tmp_path / "sm"))
    found = {message.split(" (")[0] for _, message in examine(str(tmp_path / "sm"))}
    operations = ("OneShotIterator", "IteratorGetNext", "TextLineDataset")
    assert found >= {f"the operation {name}" for name in operations}


def write_file(x):
    tf.io.write_file("/tmp/x", "x")
    return x


def read_file(x):
    return x + tf.io.read_file("/etc/passwd")


def nested(x):
    return tf.cond(tf.size(x) > 1, lambda: read_file(x), lambda: x)


def list_files(x):
    return tf.concat([x, tf.io.matching_files("/etc/*")], 0)


def python_code(x):
    return tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.string), [None])


def prints(x):
    tf.print("x", output_stream="file:///tmp/x")
    return x


def save(x):
    tf.raw_ops.SaveV2(prefix="/tmp/x", tensor_names=["a"], shape_and_slices=[""], tensors=[x])
    return x


def restore(x):
    with tf.control_dependencies(
        tf.raw_ops.RestoreV2(
            prefix="/tmp/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.string]
        )
    ):
        return tf.identity(x)


@pytest.mark.parametrize(
    ("call", "op", "reason"),
    [
        (write_file, "WriteFile", "is excluded: it writes files."),
        (read_file, "ReadFile", "reads a file that is no asset of the model."),
        (nested, "ReadFile", "reads a file that is no asset of the model."),
        (list_files, "MatchingFiles", "is excluded: it reads files."),
        (python_code, "PyFunc", "is excluded: it runs Python code."),
        (prints, "PrintV2", "is excluded: it writes to the terminal, or to a file."),
        (save, "SaveV2", "writes files outside of the model's own variables."),
        (restore, "RestoreV2", "reads files outside of the model's own variables."),
    ],
)
def test_operations_that_reach_outside(tmp_path, call, op, reason):
    tf.saved_model.save(Module(str(tmp_path), call), str(tmp_path / "sm"))
    ((kind, message),) = examine(str(tmp_path / "sm"))
    assert kind == "code"
    assert message.startswith(f"the operation {op} ('")
    assert message.endswith(reason + TRUST)


def test_a_loop_in_an_initializer(model):
    def change(meta):
        (function,) = [
            item for item in meta.graph_def.library.function if "initializer" in item.signature.name
        ]
        function.node_def.add(name="loop", op="While")

    edit(model, change)
    ((kind, message),) = examine(model)
    assert kind == "code"
    assert message.startswith("an initializer of the model holds a loop (While, 'loop' of function")


def test_a_function_that_calls_itself(model):
    def change(meta):
        function = meta.graph_def.library.function[0]
        node = function.node_def.add(name="again", op="StatefulPartitionedCall")
        node.attr["f"].func.name = function.signature.name

    edit(model, change)
    assert "calls itself, so it may never return" in examine(model)[-1][1]


def test_a_table_of_another_file(model):
    def change(meta):
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node.op == "InitializeTableFromTextFileV2":
                    node.input[1] = "evil:output:0"
                    evil = function.node_def.add(name="evil", op="Const")
                    evil.attr["value"].tensor.string_val.append(b"/etc/passwd")
                    return

    edit(model, change)
    ((kind, message),) = examine(model)
    assert kind == "code"
    assert message.endswith("reads a file that is no asset of the model." + TRUST)


def test_the_restore_function_must_not_use_a_name_of_its_own(model):
    def change(meta):
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node.op == "RestoreV2":
                    node.input[0] = "evil:output:0"
                    evil = function.node_def.add(name="evil", op="Const")
                    evil.attr["value"].tensor.string_val.append(b"/etc/x")
                    return

    edit(model, change)
    ((_, message),) = examine(model)
    assert message.startswith(
        "the operation RestoreV2 ('RestoreV2' of function '__inference__traced"
    )


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_assets_stay_below_their_folder(model, name):
    def change(meta):
        meta.asset_file_def[0].filename = name

    edit(model, change)
    message = f"asset '{name}' leads out of the archive's folder. Export the model again."
    assert examine(model) == [("file", message)]


def test_an_asset_that_is_missing(model):
    os.remove(os.path.join(model, "assets", "vocabulary.txt"))
    assert examine(model) == [("broken", "asset 'vocabulary.txt' is missing." + AGAIN)]


def test_constants_that_unpack_to_gigabytes(model):
    def change(meta):
        node = meta.graph_def.node.add(name="bomb", op="Const")
        tensor = node.attr["value"].tensor
        tensor.dtype = 1
        tensor.tensor_shape.dim.add(size=2**40)
        tensor.float_val.append(0.0)

    edit(model, change)
    ((kind, message),) = examine(model)
    assert kind == "file"
    assert message.startswith("its constants unpack to 4,398,046,")


@pytest.mark.parametrize("part", [0, 0.01, 0.6, 0.99])
def test_a_cut_graph(model, part):
    file = os.path.join(model, "saved_model.pb")
    size = int(os.path.getsize(file) * part)
    os.truncate(file, size)
    what = "truncated or damaged" if size else "empty"
    assert examine(model) == [("broken", f"saved_model.pb is {what}." + AGAIN)]


def test_links_pipes_and_rights_in_the_folder(model):
    os.symlink("/etc/passwd", os.path.join(model, "assets", "leak"))
    os.mkfifo(os.path.join(model, "pipe"))
    os.chmod(os.path.join(model, "saved_model.pb"), 0o4755)
    assert [message.split(",")[0] for _, message in examine(model)] == [
        "'pipe' is no regular file. Remove it.",
        "'saved_model.pb' would run with another user's rights. Remove it.",
        "'assets/leak' is a symbolic link",
    ]


def test_a_folder_with_both_notations(model):
    with open(os.path.join(model, "saved_model.pbtxt"), "w") as file:
        file.write("")
    message = (
        "holds saved_model.pbtxt and saved_model.pb, which may differ. Expected saved_model.pb "
        "alone: export it again."
    )
    assert examine(model) == [("file", message)]


def test_variables_that_are_cut_flipped_or_not_finite(good, model, tmp_path):
    data = os.path.join(model, "variables", "variables.data-00000-of-00001")
    size = os.path.getsize(data)
    with open(data, "r+b") as file:
        content = file.read()
        file.seek(content.index(np.ones(3, "f4").tobytes()))
        file.write(np.array([np.nan], "f4").tobytes())
    assert examine(model) == [
        (
            "broken",
            "variable 'weight' holds NaN or infinite values, so every prediction would be NaN. Use "
            "a checkpoint from before the training diverged.",
        )
    ]
    os.truncate(data, size // 4)
    assert examine(model)[0][1].endswith("the file is truncated." + AGAIN)
    index = os.path.join(model, "variables", "variables.index")
    with open(index, "r+b") as file:
        file.seek(30)
        byte = file.read(1)
        file.seek(30)
        file.write(bytes([byte[0] ^ 1]))
    message = "variables/variables.index is damaged: the checksum of a block is wrong." + AGAIN
    assert examine(model) == [("broken", message)]


def test_every_excluded_operation_of_tensorflow_has_a_reason():
    assert saved_model_ops.reason("WriteFile") == "it writes files"
    assert (
        saved_model_ops.reason("TFRecordDataset")
        == "it is part of an input pipeline, which reads files"
    )
    assert (
        saved_model_ops.reason("Unheard") == "it is not on the list of operations that only compute"
    )
    for name in ("Abort", "DebugIdentity", "ImmutableConst", "DecodeProtoV2", "XlaCallModule"):
        assert saved_model_ops.reason(name) != saved_model_ops.DEFAULT_REASON
    excluded = saved_model_ops.SAVER | set(saved_model_ops.READS_ASSET)
    assert not saved_model_ops.ALLOWED & excluded


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ConvNeXtTiny",
        "DenseNet121",
        "EfficientNetB0",
        "EfficientNetV2B0",
        "InceptionResNetV2",
        "InceptionV3",
        "MobileNet",
        "MobileNetV2",
        "MobileNetV3Small",
        "NASNetMobile",
        "ResNet50",
        "ResNet50V2",
        "VGG16",
        "Xception",
    ],
)
def test_every_family_of_applications_passes(name, tmp_path):
    make = getattr(keras.applications, name)
    make(weights=None, include_top=False, input_shape=(96, 96, 3)).export(
        str(tmp_path / "sm"), verbose=False
    )
    assert examine(str(tmp_path / "sm")) == []
