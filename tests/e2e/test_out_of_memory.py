"""Too little memory: one line with the batch size to try."""

import re

import keras
import pytest

from tf_finetune import main


@keras.saving.register_keras_serializable("test_out_of_memory")
class Wide(keras.layers.Layer):
    """Makes 400 MB of each example, in one array that no compiler leaves out."""

    supports_jit = False

    def call(self, inputs):
        wide = keras.ops.repeat(inputs, 25_000_000, axis=1)
        return keras.ops.mean(keras.ops.sort(wide, axis=1)[:, ::1000], axis=1, keepdims=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    rows = [f"{number % 7},{number % 5},{number % 3},{number % 2}" for number in range(6000)]
    path.write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="dense")(inputs)
    x = Wide(name="wide")(x)
    keras.Model(inputs, keras.layers.Dense(4, name="top")(x)).save(folder / "wide.keras")
    return folder / "wide.keras"


def test_training_says_which_batch_size_to_try(wide, table, tmp_path, capsys):
    """4096 examples would take 1.6 TB at once."""
    flags = [
        f"--model={wide}", f"--data={table}", f"--workdir={tmp_path / 'run'}",
        "--feature_columns=a,b,c", "--label_column=label", "--custom_objects=" + __name__,
        "--batch_size=4096", "--freeze=none", "--feature_cache=off", "--epochs=1",
    ]  # fmt: skip
    assert main.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"error: Training with --batch_size=4096 does not fit into the memory \(.+\)\. Expected a "
        r"smaller one: --batch_size=2048, with --accumulate_steps=2 for the same steps of the "
        r"optimizer\. With other flags it is another run: choose another --workdir too\. Where "
        r"memory was taken by something else, run the same command again to go on\.",
        line,
    ), line
