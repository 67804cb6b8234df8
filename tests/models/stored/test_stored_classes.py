import keras
import pytest

from tests import tiny
from tf_finetune import findings
from tf_finetune.models import loading
from tf_finetune.models.stored import stored_classes, stored_model

L = keras.layers


@keras.saving.register_keras_serializable(package="someone")
class _Doubled(L.Layer):
    def call(self, inputs):
        return 2 * inputs


def _nested_custom():
    inner = keras.Sequential([keras.Input((8, 8, 3)), _Doubled(name="own")], name="block")
    return keras.Sequential([keras.Input((8, 8, 3)), inner, L.Conv2D(2, 1)])


def _wrapped_custom():
    return keras.Sequential([keras.Input((4, 8)), L.TimeDistributed(_Doubled(name="own"))])


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("make", [_nested_custom, _wrapped_custom])
def test_a_custom_class_is_refused_as_loading_refuses_it(tmp_path, make, ending, monkeypatch):
    path = str(tmp_path / f"model.{ending}")
    make().save(path)
    monkeypatch.setattr(keras.src.saving.object_registration, "GLOBAL_CUSTOM_OBJECTS", {})
    with pytest.raises(findings.RefusedError) as built:
        loading.load_pretrained(path)
    with pytest.raises(findings.RefusedError) as stored:
        stored_classes.check_classes(stored_model.read_stored_model(path), where=path)
    for error in (stored, built):
        message = str(error.value)
        assert message.startswith(f"{path}: layer '")
        assert "/own' " in message
        assert "_Doubled" in message
        assert "--custom_objects=MODULE" in message


def test_a_model_of_known_layers_passes(tmp_path):
    for ending in ("keras", "h5"):
        path = str(tmp_path / f"model.{ending}")
        tiny.make_classifier().save(path)
        stored_classes.check_classes(stored_model.read_stored_model(path), where=path)


def test_every_layer_of_keras_is_known():
    classes = [value for value in vars(L).values() if isinstance(value, type)]
    names = {value.__name__ for value in classes if issubclass(value, L.Layer)}
    names -= {"FlaxLayer", "JaxLayer", "Lambda", "Layer", "TFSMLayer", "TorchModuleWrapper"}
    for name in names:
        config = {"class_name": name, "config": {"name": "one"}}
        outer = {"class_name": "Sequential", "config": {"layers": [config]}}
        stored = stored_model.StoredModel(outer, "3.0.0", "", "HDF5", stored_config=outer)
        stored_classes.check_classes(stored, where="model.h5")
