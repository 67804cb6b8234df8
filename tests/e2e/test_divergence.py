"""A loss that is no number any more: where, on which examples, and what is left."""

import json
import re

import keras
import numpy as np
import pytest

from tf_finetune import graph_precision, main, trained


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of one the layers explode when they train, of the other what is behind them."""
    folder = tmp_path_factory.mktemp("models")
    for name, scale in (("exploding", 1.0), ("large", 1e35)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((12, 12, 3))
        x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
        x = keras.layers.Activation("exponential", name="exp")(x)
        x = keras.layers.Rescaling(scale, name="scale")(x)
        outputs = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        keras.Model(inputs, outputs).save(folder / f"{name}.h5")
    return folder


FAST = "--phase=name=fast,epochs=5,learning_rate=100,warmup_fraction=0,gradient_clip_norm=0,freeze="
WAYS = {
    "whole": (FAST + "none",),
    "several steps at once": (FAST + "none", "--steps_per_execution=3"),
    "on features": (FAST + "all", "--feature_cache=memory"),
    "bfloat16": (FAST + "none,training_precision=bfloat16",),
    "resampled": (FAST + "none", "--resample=balanced"),
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way,
            marks=pytest.mark.skipif(
                way == "bfloat16" and not graph_precision.has_bfloat16(),
                reason="this processor does not compute in bfloat16",
            ),
        )
        for way in WAYS
    ],
)
def test_it_is_named_and_the_last_good_weights_are_kept(models, colors, tmp_path, capsys, way):
    folder, name = tmp_path / "run", "large" if way == "on features" else "exploding"
    flags = [
        f"--model={models / name}.h5", f"--data={colors}", f"--workdir={folder}",
        "--pixel_range=0..1", "--batch_size=16", "--checkpoint_secs=0.001", *WAYS[way],
    ]  # fmt: skip
    assert main.main(flags) == 4
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    found = re.fullmatch(
        r"error: The loss became (nan|inf) in phase 'fast', epoch (\d+), step (\d+)\. Expected a "
        r"finite number\. (Its batch|The batches of steps \d+ to \d+): ('.+', )+'.+' and (\d+) "
        r"more\. "
        r"The best weights so far are kept; try a smaller --learning_rate or "
        r"--gradient_clip_norm=1\.",
        line,
    )
    assert found, line
    summary = json.loads((folder / "summary.json").read_text())
    place = summary["diverged"]
    assert summary["status"] == "diverged"
    assert [str(place["epoch"]), str(place["step"])] == [found[2], found[3]]
    assert len(place["keys"]) == int(found[6]) + 5
    is_several = way == "several steps at once"
    assert (len(place["keys"]) > 16) == is_several == found[4].startswith("The batches")
    assert all((colors / key).is_file() for key in place["keys"])
    weights = trained.load_run(str(folder)).model.get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    assert not (folder / "export").exists()
    assert not list(folder.rglob("*.npz"))
    assert main.main(flags) == 2  # it would again
    assert "holds this run, which diverged: it would again." in capsys.readouterr().err
    assert main.main(["--mode=evaluate", f"--workdir={folder}"]) == 0
