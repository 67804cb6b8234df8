import os
import subprocess
import sys

import numpy as np
import pytest

import tf_finetune as tff
from tests import tiny
from tests.models import hugging_face_folders
from tf_finetune import findings, specs, trust
from tf_finetune.models import admission, loading
from tf_finetune.models.origins import hub_handles


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.h5"
    tiny.make_classifier().save(path)
    return str(path)


@pytest.fixture
def examined(monkeypatch):
    """The paths that were really examined, in order."""
    paths = []
    original = trust.examine

    def examine(path, **options):
        paths.append(path)
        return original(path, **options)

    monkeypatch.setattr(trust, "examine", examine)
    return paths


def test_a_file_is_examined_once_until_it_changes(path, examined):
    admission.start(specs.ModelSpec(model=path))
    assert admission.check(path) == ()
    assert hub_handles.fetch(path).found == ()
    assert examined == [path]
    tiny.make_classifier(seed=1).save(path)
    hub_handles.fetch(path)
    assert examined == [path] * 2


def test_a_refusal_is_not_kept_and_names_what_the_user_typed(tmp_path, examined):
    path = str(tmp_path / "model.h5")
    with open(path, "wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n" + bytes(900))
    for _ in range(2):
        with pytest.raises(trust.UntrustedModelError) as caught:
            admission.check(path, where="hf://user/model")
        assert str(caught.value).startswith("hf://user/model: the HDF5 file is damaged: ")
    assert examined == [path] * 2


def test_each_question_has_its_own_answer(path, examined):
    admission.check(path)
    admission.check(path, role=admission.WEIGHTS)
    admission.check(path, custom_objects=True)
    admission.check(path, custom_objects=["shop>Layer"])
    admission.check(path, custom_objects=[])
    assert len(examined) == 4


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "part").write_text("1")
    with admission.unchanged(path, str(folder), None, "keras:MobileNet"):
        pass
    for changed in (path, str(folder / "part")):
        named = path if changed == path else str(folder)
        with (
            pytest.raises(findings.RefusedError) as caught,
            admission.unchanged(path, str(folder)),
            open(changed, "ab") as file,
        ):
            file.write(b"1")
        assert str(caught.value) == (
            f"{named}: was changed while it was read. Run the same command again."
        )


def test_a_folder_is_examined_as_what_it_is_opened_as(tmp_path):
    # With the file of a good SavedModel beside it, it would pass as one.
    weights = hugging_face_folders.make_weights()
    weights["embeddings.LayerNorm.bias"][0] = np.nan
    model = hugging_face_folders.write(tmp_path / "hf", weights)
    graph = b'\x08\x01\x12\x11\n\x0f"\x05serve*\x062.20.0'
    (tmp_path / "hf" / "saved_model.pb").write_bytes(graph)
    assert trust.examine(str(tmp_path / "hf")) == ()
    with pytest.raises(trust.UntrustedModelError, match="holds NaN or infinite"):
        loading.load_backbone(specs.ModelSpec(model=model))


def test_the_examination_is_public():
    assert tff.trust is trust
    assert "trust" in dir(tff)


def test_no_filter_of_hdf5_is_loaded_from_a_folder():
    code = (
        "import os; import tf_finetune.models.formats; import h5py; "
        "print(os.environ['HDF5_PLUGIN_PRELOAD'])"
    )
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("HDF5")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "::\n"
