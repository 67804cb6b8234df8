"""The manifests of deploy/: they parse, and what they run is this package's command line."""

import os
import subprocess

import pytest
import yaml

from tests.conftest import REPOSITORY
from tf_finetune import spec_flags, tf_config

DEPLOY = REPOSITORY / "deploy"


def load(name):
    with open(DEPLOY / name) as file:
        return yaml.safe_load(file)


def check_container(container):
    assert container["command"] == ["python", "-m", "tf_finetune.main"]
    spec = spec_flags.parse_args(container["args"]).spec
    assert spec.train.strategy == "multi_worker"
    assert spec.workdir


def test_the_manifest_of_kubeflow():
    manifest = load("kubeflow_tfjob.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "TFJob")
    (job,) = manifest["spec"]["tfReplicaSpecs"].values()
    assert job["restartPolicy"] == "ExitCode"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"  # the operator looks for it by this name
    check_container(container)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_job_of_vertex_ai():
    pools = load("vertex_ai_custom_job.yaml")["workerPoolSpecs"]
    assert pools[0]["replicaCount"] == 1  # the chief
    for pool in pools:
        check_container(pool["containerSpec"])
        assert pool["machineSpec"] == pools[0]["machineSpec"]
        assert pool["containerSpec"] == pools[0]["containerSpec"]


def write_command(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("index", [0, 1])
def test_the_script_of_slurm(tmp_path, index):
    script = DEPLOY / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    # Slurm's commands, as far as the script uses them.
    write_command(tmp_path, "scontrol", 'echo "$3-1"; echo "$3-2"')
    write_command(
        tmp_path, "srun", f'[ "$1" = --kill-on-bad-exit=1 ]; shift; SLURM_PROCID={index} "$@"'
    )
    write_command(tmp_path, "python", 'echo "$TF_CONFIG"; printf "%s\\n" "$@"')
    finished = subprocess.run(
        ["bash", script, "--model=a b.keras", "--data=photos"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n"},
        capture_output=True,
        text=True,
        check=True,
    )
    config, *arguments = finished.stdout.splitlines()
    place = tf_config.read_place(config)
    assert (place.addresses, place.index) == (("n-1:29500", "n-2:29500"), index)
    assert arguments[:2] == ["-m", "tf_finetune.main"]
    spec = spec_flags.parse_args(arguments[2:]).spec
    assert (spec.model.model, spec.train.strategy) == ("a b.keras", "multi_worker")
