"""How good the default recipe is on real photographs: ten runs of a minute or two.

    python -m pytest -m slow -n 0 -s tests/e2e/test_accuracy.py

prints a row per run, the means and the paired interval that README.md quotes.
"""

import json
import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SEEDS = range(5)
# Student's t for a two-sided 95 % interval with four degrees of freedom.
T_4 = 2.776


def run_main(shared, photographs, folder, *flags):
    model = shared / "zoo" / "h5" / "mobilenet_v1_025_128_notop_keras3.h5"
    command = [
        sys.executable,
        "-m",
        "tf_finetune.main",
        f"--model={model}",
        f"--data={photographs}",
    ]
    subprocess.run([*command, f"--workdir={folder}", *flags], check=True, capture_output=True)
    summary = json.loads((folder / "summary.json").read_text())
    return summary["test"]["label"]["accuracy"], summary["seconds"]["total"]


def test_frozen_and_with_the_fine_phase(shared, photographs, tmp_path):
    frozen, fine = [], []
    print(
        "\n| seed | frozen | seconds | --model and --data alone | seconds |\n|---|---|---|---|---|"
    )
    for seed in SEEDS:
        flag = f"--seed={seed}"
        first = run_main(shared, photographs, tmp_path / f"frozen{seed}", flag, "--freeze=all")
        second = run_main(shared, photographs, tmp_path / f"default{seed}", flag)
        print(f"| {seed} | {first[0]:.4f} | {first[1]:.0f} | {second[0]:.4f} | {second[1]:.0f} |")
        frozen.append(first)
        fine.append(second)
    means = [statistics.mean(accuracy for accuracy, _ in results) for results in (frozen, fine)]
    gains = [after[0] - before[0] for before, after in zip(frozen, fine, strict=True)]
    half = T_4 * statistics.stdev(gains) / len(gains) ** 0.5
    print(f"mean {means[0]:.4f} and {means[1]:.4f}, ", end="")
    print(f"paired gain {statistics.mean(gains):.4f} +- {half:.4f} (95 %)")
    assert means[0] >= 0.88
    assert means[1] > means[0]
    assert max(seconds for _, seconds in frozen) <= 180
