"""What somebody meant by a --model value that is not there.

One idea: a wrong value is near a right one: a file of a similar name, the name of an application
without its prefix, a repository of Hugging Face, the folder of a run instead of its model.
"""

import difflib
import os
import re

from tf_finetune import findings

# Of keras.applications; Keras itself is not asked, because importing it takes seconds.
_APPLICATIONS = (
    *("ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge"),
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetV2B{number}" for number in range(4)),
    *("EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S", "InceptionResNetV2"),
    *("InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small"),
    *("NASNetLarge", "NASNetMobile", "ResNet101", "ResNet101V2", "ResNet152", "ResNet152V2"),
    *("ResNet50", "ResNet50V2", "VGG16", "VGG19", "Xception"),
)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILE_ENDINGS = (".h5", ".hdf5", ".keras", ".json", ".gz", ".tgz", ".tar", ".pb")
_RUN_MODEL = "model.keras"


def explain_missing(path: str) -> str:
    """What a path that does not exist may mean.

    Args:
      path: a value of --model.

    Returns:
      A sentence with a space before it; "" where nothing is near.
    """
    name = path.partition(",")[0]
    by_lower = {known.lower(): known for known in _APPLICATIONS}
    known = by_lower.get(name.lower())
    if known is not None:
        rest = findings.one_line(path.removeprefix(name))
        return f" Did you mean 'keras:{known}{rest}'?"
    near = near_name(path)
    if near:
        return near
    owner = path.partition("/")[0]
    is_file = path.lower().endswith(_FILE_ENDINGS)
    if _REPOSITORY.fullmatch(path) and not is_file and not os.path.exists(owner):
        return (
            " If it is a repository of Hugging Face: a Keras model is "
            f"'hf://{path}'; a text encoder is downloaded into a folder first, for hf:FOLDER."
        )
    return ""


def explain_folder(path: str) -> str:
    """What a folder without a SavedModel may mean.

    Args:
      path: an existing folder.

    Returns:
      A sentence with a space before it; "" where nothing in it is a model.
    """
    model = os.path.join(path, _RUN_MODEL)
    if os.path.isfile(model):
        return f" Did you mean '{findings.one_line(model)}'?"
    return ""


def near_name(path: str) -> str:
    """A file of a similar name beside one that does not exist.

    Args:
      path: of the missing file.

    Returns:
      A question with a space before it; "" where there is none.
    """
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return ""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return f" Did you mean '{findings.one_line(os.path.join(folder, near[0]))}'?" if near else ""
