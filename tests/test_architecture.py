"""The house rules that a machine can hold: floors, packages behind one door, whole docstrings."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import tf_finetune

PACKAGE = pathlib.Path(tf_finetune.__file__).parent
# A module imports from lower floors only; inside a folder siblings may import each other.
FLOORS = (
    ("disk_room", "findings", "interruptions", "layer_registration", "options", "regular_files"),
    ("option_values", "tf_config", "worker_strategy"),
    ("data_specs", "model_specs"),
    ("specs",),
    (
        "distribution",
        "flagfiles",
        "graph_precision",
        "entity_tags",
        "head_kinds",
        "layer_table",
        "metric_values",
        "model_calls",
        "pointwise_strides",
        "progress",
        "remote_paths",
        "spec_paths",
        "text",
        "trust",
        "workdir",
    ),
    (
        "checkpoints",
        "event_writers",
        "head_metrics",
        "out_of_memory",
        "run_lock",
        "run_records",
        "spec_flags",
        "thresholds",
        "version_folders",
        "warmup",
        "workers",
    ),
    ("data", "models"),
    (
        "model_meaning",
        "object_store",
        "prediction_columns",
        "prediction_images",
        "prediction_masks",
    ),
    ("prediction_mixed",),
    (
        "callbacks",
        "freezing",
        "heads",
        "objectives",
        "optimizers",
        "position_metrics",
        "prediction_files",
        "prediction_texts",
        "predictors",
        "run_folder",
        "serving_graph",
        "token_lengths",
        "trainer_model",
    ),
    (
        "worker_callbacks",
        "descriptions",
        "evaluation",
        "feature_cache",
        "exporting",
        "monitors",
        "prediction",
        "rate_range",
        "recipe",
        "run_state",
        "trained",
        "training_cost",
    ),
    ("phase_data", "run_standing"),
    ("resuming",),
    ("checkpoint_writer", "range_steps", "step_precision"),
    ("epoch_fitting",),
    ("phase_fitting",),
    ("batch_sizes", "diagnosis_page", "inspection", "report", "training"),
    ("input_checks", "outcomes", "run_messages", "same_run", "validation"),
    ("diagnosis", "run_start", "unfinished_runs"),
    ("run_preparation",),
    ("runs",),
    ("verbs",),
    ("main",),
)
ROOMS = ("data", "feature_cache", "models", "object_store", "text", "trust")
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
ONLY_IN = {
    "tensorflow_datasets": {"data/tfds_source.py"},
    "tensorflow_hub": set(),
    "absl": {"spec_flags.py"},
    "h5py": {
        "models/weights/archive_weights.py",
        "models/hdf5.py",
        "models/weights/keras3_weights.py",
        "models/stored/archive_vocabularies.py",
        "models/stored/stored_model.py",
        "models/stored/stored_weights.py",
        "models/stored/weight_sizes.py",
        "models/weights/weights_only.py",
        "trust/hdf5_file.py",
        "trust/zip_file.py",
    },
    "keras_hub": {"models/encoders/keras_hub_presets.py"},
    "matplotlib": set(),
    "tf_keras": set(),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]


def room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(tree):
    """(package-relative room or foreign package) of every import, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_go_down_the_floors(path):
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "tf_finetune" or len(parts) == 1:
            continue
        other = parts[1]
        if other == room(path) and other in ROOMS:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[room(path)], f"{room(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_some_packages_stay_behind_one_module(path):
    name = str(path.relative_to(PACKAGE))
    for imported in imports(ast.parse(path.read_text())):
        package = imported.split(".")[0]
        assert package not in ONLY_IN or name in ONLY_IN[package], f"{name} imports {package}"


def test_every_module_has_a_floor():
    assert {room(path) for path in MODULES} == set(FLOOR_OF)


def public_functions():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_docstrings_are_complete(name):
    node = FUNCTIONS[name]
    text = ast.get_docstring(node) or ""
    arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs)]
    for argument in arguments:
        assert f"{argument}:" in text, f"{name}: Args lacks {argument}"
    returns_value = not (isinstance(node.returns, ast.Constant) and node.returns.value is None)
    if returns_value:
        assert "Returns:" in text or "Yields:" in text, f"{name}: no Returns"
    if any(isinstance(inner, ast.Raise) for inner in node.body):
        assert "Raises:" in text, f"{name}: no Raises"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_functions_are_short_and_modules_fit_a_screenful_of_ideas(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 480, "split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documentation = ast.get_docstring(node, clean=False)
            length = node.end_lineno - node.lineno + 1
            length -= len(documentation.splitlines()) if documentation else 0
            assert length <= 50, f"{node.name} has {length} lines"
        assert not isinstance(node, ast.Assert), "no assert in the package"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "no bare except"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_nothing_is_decided_by_the_time_of_day(path):
    """Clocks jump: intervals and deadlines are of time.monotonic, numbers count up."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            assert called not in ("time.time", "time.time_ns", "datetime.now"), called


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


HEAVY = "print(*[name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])"


def test_importing_the_package_loads_nothing_heavy():
    assert run_python(f"import sys, tf_finetune; dir(tf_finetune); {HEAVY}") == []


@pytest.mark.parametrize("arguments", [["--help"], ["--modle=x"], ["--batch_size=0"]])
def test_help_and_a_typo_load_no_tensorflow(arguments):
    code = f"import sys; from tf_finetune import main; main.main({arguments!r}); " + HEAVY.replace(
        "print(", "print(file=sys.stderr, *"
    ).replace("**", "*")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "keras", "sklearn"} & set(result.stderr.split("\n")[-2].split())


def test_public_names_exist():
    for name in tf_finetune.__all__:
        value = getattr(tf_finetune, name)
        assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = tf_finetune.nothing
