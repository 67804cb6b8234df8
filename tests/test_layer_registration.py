"""In processes of their own: what is registered depends on the order of imports."""

import subprocess
import sys

import pytest

LOOK = """
import keras
print(keras.saving.get_registered_object("tf_finetune>TokenPooling"))
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "before",
    [
        "import tf_finetune",
        "import keras\nimport tf_finetune",
        # TensorFlow looks for Keras before anybody imports it.
        "import tf_finetune\nimport tensorflow",
    ],
)
def test_layers_are_registered_in_either_order(before):
    expected = "<class 'tf_finetune.models.encoders.encoder_layers.TokenPooling'>"
    assert run(before + LOOK) == expected


def test_importing_the_package_imports_no_keras_and_hides_no_loader():
    code = (
        "import sys, tf_finetune\n"
        "print([name for name in ('keras', 'tensorflow', 'numpy') if name in sys.modules])\n"
        "import keras\n"
        "print(type(keras.__spec__.loader).__name__)\n"
        "print([f for f in sys.meta_path if type(f).__module__.startswith('tf_finetune')])"
    )
    assert run(code).splitlines() == ["[]", "SourceFileLoader", "[]"]
