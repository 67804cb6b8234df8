"""What opens where: real model files in tf_finetune, in Keras 3 and in tf_keras.

    python benchmarks/what_opens.py --zoo=FOLDER

FOLDER has manifest.json, reference outputs and check_zoo.py, which loads each file in a process of
its own and compares the outputs on stored inputs with the reference, relative error 1e-4. Prints
the table in README.md: files that open with the right outputs, of how many. Files that nothing
should open (code inside, weights without their architecture) are left out.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile

LOADERS = {
    "tf_finetune": "tf_finetune:load_pretrained",
    "Keras": "keras:load",
    "tf_keras": "tf_keras:load",
}


def name_group(entry: dict) -> str:
    """The row of the table that a file of the manifest belongs to."""
    if entry["kind"] == "savedmodel":
        if not entry["callable"]:
            return "TF1 hub module, SavedModel with signatures only"
        return "SavedModel, TF-Hub module of TF2"
    if entry["file"].endswith(".keras"):
        return "`.keras`"
    version = entry["keras_version"]
    if version.startswith("1"):
        return "`.h5` of Keras 1"
    if version.startswith("3"):
        return "`.h5` of Keras 3"
    return "`.h5` of Keras 2 (2.0 to 2.21)"


def check(zoo: str, loader: str) -> dict[str, dict]:
    """{file: result row} of one loader."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "rows.json")
        command = [sys.executable, os.path.join(zoo, "check_zoo.py"), "--zoo", zoo]
        command += ["--load", loader, "--timeout", "120", "--json", output]
        # Its exit code says whether every file passed, which the peers' cannot.
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        with open(output) as file:
            return {row["file"]: row for row in json.load(file)}


def opens(row: dict) -> bool:
    """Whether a file opened with the right outputs; a clear refusal is none."""
    return row["result"] == "PASS" and not row["detail"].startswith("refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", required=True)
    zoo = parser.parse_args().zoo
    with open(os.path.join(zoo, "manifest.json")) as file:
        manifest = json.load(file)
    results = {name: check(zoo, loader) for name, loader in LOADERS.items()}
    groups = collections.defaultdict(list)
    for entry in manifest:
        if entry["expected"] == "loads":
            groups[name_group(entry)].append(entry["file"])
    versions = {
        "tf_finetune": "tf_finetune",
        "Keras": f"Keras {importlib.metadata.version('keras')}",
        "tf_keras": f"tf_keras {importlib.metadata.version('tf_keras')}",
    }
    print("| what | files | " + " | ".join(versions.values()) + " |")
    print("|---" * (2 + len(versions)) + "|")
    for group, files in sorted(groups.items()):
        cells = [str(sum(opens(rows[name]) for name in files)) for rows in results.values()]
        print(f"| {group} | {len(files)} | " + " | ".join(cells) + " |")
    for loader, rows in results.items():
        for row in rows.values():
            if row["result"] != "PASS":
                print(f"{loader}: {row['file']}: {row['detail']}", file=sys.stderr)


if __name__ == "__main__":
    main()
