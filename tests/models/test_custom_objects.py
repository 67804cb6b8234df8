import sys

import keras
import numpy as np
import pytest

from tests import custom_layers
from tf_finetune import findings, specs
from tf_finetune.models import custom_objects, loading


def refusal(text: str) -> str:
    with pytest.raises(findings.RefusedError) as caught:
        custom_objects.import_module(text)
    (problem,) = caught.value.problems
    assert problem.flag == "--custom_objects"
    assert "\n" not in problem.message
    return problem.message.removeprefix(f"--custom_objects={text}: ")


def test_what_a_module_defines_is_offered_by_its_plain_name(tmp_path):
    path = custom_layers.write_module(tmp_path, "offered_layers")
    module = custom_objects.import_module(str(path))
    assert sorted(custom_objects.find_objects(module)) == ["Scale", "Shift", "soft_steps"]
    assert custom_objects.import_module(str(path)) is module
    with custom_objects.offered(str(path)):
        layer = keras.saving.deserialize_keras_object(
            {"class_name": "Shift", "config": {"by": 3.0}, "registered_name": "Shift"}
        )
    assert isinstance(layer, module.Shift)
    assert "Shift" not in keras.saving.get_custom_objects()


def test_a_dotted_name_is_found_in_the_current_folder(tmp_path, monkeypatch):
    package = tmp_path / "my_package"
    package.mkdir()
    custom_layers.write_module(package, "dotted_layers")
    monkeypatch.chdir(tmp_path)
    module = custom_objects.import_module("my_package.dotted_layers")
    assert module.__file__ == str(package / "dotted_layers.py")
    assert sys.path[0] != str(tmp_path)


def test_a_file_may_be_called_like_a_known_module_and_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_json.py").write_text("VALUE = 7\n")
    (tmp_path / "json.py").write_text("import neighbour_of_json\nVALUE = neighbour_of_json.VALUE\n")
    assert custom_objects.import_module(str(tmp_path / "json.py")).VALUE == 7
    assert not hasattr(sys.modules["json"], "VALUE")


def test_modules_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("missing.py") == ("does not exist. Expected a dotted module name or a .py file.")
    for name in ("no_such_module", "no_such_module.layers", "os.no_such_module"):
        assert refusal(name) == (
            f"there is no such module in {tmp_path} or among the installed packages. Expected a "
            "dotted module name or a .py file."
        )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("\n1 / 0", "ZeroDivisionError: division by zero ({path}, line 2)."),
        (
            "import no_such_dependency",
            "ModuleNotFoundError: No module named 'no_such_dependency' ({path}, line 1).",
        ),
        ("def x(:\n  pass", "SyntaxError: invalid syntax (broken.py, line 1)."),
        ("raise SystemExit('bye\\n')", "SystemExit: bye\\n ({path}, line 1)."),
        (
            "import keras\nkeras.layers.Dense(-1)",
            "ValueError: Received an invalid value for `units`, expected a positive integer. "
            "Received: units=-1 ({path}, line 2).",
        ),
    ],
)
def test_errors_of_the_module_are_one_line(tmp_path, source, reason):
    path = tmp_path / "broken.py"
    path.write_text(source)
    assert refusal(str(path)) == "cannot be imported: " + reason.format(path=path)
    assert "broken" not in sys.modules


def test_a_run_of_another_folder_finds_its_module(tmp_path, monkeypatch):
    custom_layers.write_module(tmp_path, "recorded_layers")
    monkeypatch.chdir(tmp_path)
    recorded = custom_objects.describe("recorded_layers")
    assert recorded == {"module": "recorded_layers", "folder": str(tmp_path)}
    assert custom_objects.describe("a.py") == {
        "module": str(tmp_path / "a.py"),
        "folder": str(tmp_path),
    }
    assert custom_objects.describe(None) is None
    monkeypatch.chdir("/")
    with custom_objects.offered(recorded["module"], folder=recorded["folder"]):
        assert "recorded_layers" in sys.modules


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_a_model_with_custom_layers_becomes_a_backbone(tmp_path, ending):
    name = f"layers_of{ending[1:]}"
    module_path = custom_layers.write_module(tmp_path, name)
    module = custom_objects.import_module(str(module_path))
    path = tmp_path / f"model{ending}"
    custom_layers.save_classifier(module, path)
    backbone = loading.load_backbone(
        specs.ModelSpec(model=str(path), custom_objects=str(module_path))
    )
    names = [row.name for row in backbone.table.rows]
    assert names == ["conv", "scale", "steps", "shift", "conv_b"]
    with custom_objects.offered(str(module_path)):
        reference = keras.saving.load_model(path, compile=False)
    features = keras.Model(reference.inputs, reference.get_layer("conv_b").output)
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 12, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(backbone.model(pixels), features(pixels), rtol=1e-6)


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_a_custom_layer_without_the_flag_names_layer_class_and_flag(tmp_path, ending):
    name = f"unnamed_of{ending[1:]}"
    module = custom_objects.import_module(str(custom_layers.write_module(tmp_path, name)))
    path = tmp_path / f"model{ending}"
    custom_layers.save_classifier(module, path)
    keras.saving.get_custom_objects().pop(f"{name}>Scale")
    sys.modules.pop(module.__name__)
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_backbone(specs.ModelSpec(model=str(path)))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: layer 'scale' needs the custom class '")
    assert "Scale'" in lines[0]
    assert all(line.startswith(f"{path}: layer '") for line in lines)
    assert all("--custom_objects=MODULE" in line for line in lines)


def test_a_module_that_does_not_define_the_class_is_named(tmp_path):
    module = custom_objects.import_module(str(custom_layers.write_module(tmp_path, "whose_class")))
    path = tmp_path / "model.h5"
    custom_layers.save_classifier(module, path)
    keras.saving.get_custom_objects().pop("whose_class>Scale")
    sys.modules.pop(module.__name__)
    other = tmp_path / "other_layers.py"
    other.write_text("")
    with pytest.raises(findings.RefusedError) as caught:
        loading.load_pretrained(str(path), custom_objects=str(other))
    assert str(caught.value) == (
        f"{path}: layer 'scale' is of the custom class 'whose_class>Scale', which Keras "
        f"{keras.__version__} does not have. The module of --custom_objects={other} does not "
        "define it."
    )
