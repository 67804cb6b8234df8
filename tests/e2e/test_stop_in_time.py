"""SIGTERM to exit, at each stage of a run of MobileNet: in under 5 s, with a whole checkpoint."""

import json
import signal
import time

import pytest

from tests import run_processes, small_disk
from tf_finetune import checkpoints

LIMIT_SECS = 5.0
# Steps that run without coming back to Python are waited for: 8 of a second each on a busy machine.
LIMIT_SECS_OF_8_STEPS = 15.0

FROZEN = ("--freeze=all", "--epochs=60", "--patience_epochs=60")
PART = (
    "--phase=name=fine,epochs=20,learning_rate=0.0001,freeze=66%", "--feature_cache=off",
    "--augment=flip",
)  # fmt: skip
WHOLE = ("--freeze=none", "--epochs=20", "--feature_cache=off")
ONE_EPOCH = ("--freeze=all", "--epochs=1", "--learning_rate=0.01")

# {stage: (flags, the beginning of the line after which the signal comes, seconds later)}
STAGES = {
    "import of TensorFlow": (FROZEN, None, 1.0),
    "the model is loaded": (FROZEN, None, 4.0),
    "trial of the cache": (FROZEN, "Data: ", 0.5),
    "feature pass": (FROZEN, "Phase ", 1.0),
    "the first step compiles": (FROZEN, "Features: ", 0.5),
    "training on features": (FROZEN, "train 3/", 0.3),
    "a part unfrozen, compiling": (PART, "Phase ", 3.0),
    "a part unfrozen": (PART, "fine 1/", 2.0),
    "unfrozen, compiling": (WHOLE, "Phase ", 3.0),
    "unfrozen": (WHOLE, "train 1/", 2.0),
    "unfrozen, 8 steps at once": ((*WHOLE, "--steps_per_execution=8"), "train 1/", 2.0),
    "bfloat16": ((*PART, "--training_precision=bfloat16"), "fine 1/", 2.0),
    "evaluation": (ONE_EPOCH, "Phase train: 1 epochs", 0.1),
    "export": (ONE_EPOCH, "test: ", 0.2),
    "export, later": (ONE_EPOCH, "test: ", 1.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_it_ends_in_time_and_goes_on(shared, photographs, tmp_path, stage):
    flags, beginning, secs = STAGES[stage]
    model = shared / "zoo" / "h5" / "mobilenet_v1_025_128_notop_keras3.h5"
    folder = tmp_path / "run"
    flags = [
        f"--model={model}", f"--data={photographs}", f"--workdir={folder}",
        f"--cache_dir={tmp_path / 'features'}", *flags,
    ]  # fmt: skip
    process = run_processes.start(flags)
    if beginning:
        run_processes.wait_for(process, beginning)
    time.sleep(secs)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate()
    took = time.monotonic() - asked
    print(f"\n{stage}: {took:.1f} s")
    assert process.returncode == 143, text
    assert text.splitlines()[-1] == "Terminated."
    assert "Traceback" not in text
    kept = folder / "state" / "checkpoints"
    newest, damaged = checkpoints.read_newest(str(kept))
    assert not damaged
    is_in_steps = beginning is not None and beginning.split()[0] in ("train", "fine")
    assert (newest is not None) or not is_in_steps, text
    if newest is not None:
        print(f"  checkpoint {newest.number}: {json.dumps(newest.state['standing'])[:90]}")
    versions = folder / "export"
    if versions.exists():
        numbers = [path for path in versions.iterdir() if path.name.isdigit()]
        assert all((path / "saved_model.pb").is_file() for path in numbers)
    assert [name for name in small_disk.list_left(folder) if "incomplete-" not in name] == []
    if is_in_steps or stage.startswith(("evaluation", "export")):
        again = run_processes.start(flags)
        run_processes.wait_for(again, "Going on from checkpoint")
        again.kill()
        again.communicate()
    assert took < (LIMIT_SECS_OF_8_STEPS if "8 steps" in stage else LIMIT_SECS), f"{took:.1f} s"
