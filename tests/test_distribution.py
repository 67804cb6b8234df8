import json
import re
import time

import pytest
import tensorflow as tf

from tf_finetune import distribution, options


def test_strategies():
    assert distribution.make_strategy("one_device").num_replicas_in_sync == 1
    assert distribution.make_strategy("auto").num_replicas_in_sync == 1  # no GPU here
    mirrored = distribution.make_strategy("mirrored")
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert mirrored.num_replicas_in_sync == 2


def test_precision():
    assert distribution.resolve_precision("auto") == "float32"
    assert distribution.resolve_precision("bfloat16") == "bfloat16"


def test_the_environment_is_json():
    facts = distribution.describe_environment(
        strategy=distribution.make_strategy("auto"), precision="float32", seed=3
    )
    assert json.loads(json.dumps(facts)) == facts
    assert facts["seed"] == 3
    assert facts["versions"]["tensorflow"] == tf.__version__


def test_several_steps_at_once_are_for_one_device():
    one, two = (distribution.make_strategy(name) for name in ("one_device", "mirrored"))
    distribution.check_steps(one, steps_per_execution=8)
    distribution.check_steps(two, steps_per_execution=1)
    with pytest.raises(
        options.SpecError, match=r"^--steps_per_execution=8 runs on one device only"
    ):
        distribution.check_steps(two, steps_per_execution=8)


@pytest.mark.parametrize("name", ["", "local", "no-such-tpu"])
def test_without_a_tpu(monkeypatch, name):
    monkeypatch.setenv("TPU_NAME", name)
    begin = time.monotonic()
    with pytest.raises(options.SpecError) as caught:
        distribution.make_strategy("tpu")
    assert time.monotonic() - begin < 20
    assert re.fullmatch(
        rf"--strategy=tpu: TensorFlow {re.escape(tf.__version__)} finds no TPU where "
        rf"TPU_NAME={name or 'local'} says \(.+\)\. Expected a machine with a TPU and a TensorFlow "
        r"that is built for it \(the package tensorflow-tpu instead of tensorflow, in version "
        r"2\.21 or later\), or --strategy=auto\.",
        str(caught.value),
    ), caught.value
