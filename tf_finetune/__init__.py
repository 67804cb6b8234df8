"""Fine-tune any saved Keras model, say honestly how good it is, and serve it.

    import tf_finetune as tff

    summary = tff.train(tff.read_flagfile("configs/quickstart.flags"))

Names are loaded on first use (PEP 562), so that importing the package costs nothing.
"""

import importlib
from typing import Any

from tf_finetune import layer_registration

__version__ = "0.1.0"

# Public name -> the module that has it.
_PUBLIC = {
    "read_flagfile": "spec_flags",
    "train": "runs",
    "evaluate": "verbs",
    "export": "verbs",
    "predict": "verbs",
    "inspect": "verbs",
    "validate": "diagnosis",
    "find_problems": "validation",
    "trust": "trust",
    "load_run": "trained",
    "load_pretrained": "models.loading",
    "load_backbone": "models.loading",
    "settle_pixel_range": "models.pixel_range",
    "load_data": "data.loading",
    "read_images": "data.reading",
    "make_preprocessing": "data.preprocessing",
    "make_dataset": "data.pipeline",
    "plan_phases": "recipe",
    "plan_freeze": "freezing",
    "attach_heads": "heads",
    "Task": "training",
    "fit": "training",
    "evaluate_model": "evaluation",
    "write_export": "exporting",
    "SpecError": "options",
    "RefusedError": "findings",
    "Problem": "findings",
    "ModelSpec": "specs",
    "FreezeSpec": "specs",
    "HeadSpec": "specs",
    "DataSpec": "specs",
    "AugmentSpec": "specs",
    "PhaseSpec": "specs",
    "TrainSpec": "specs",
    "ExportSpec": "specs",
    "PredictSpec": "specs",
    "RunSpec": "specs",
}

# Those that open a model file.
_LOADERS = ("load_pretrained", "load_backbone")

__all__ = sorted(_PUBLIC)


layer_registration.register_layers()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _LOADERS:
        # A program that calls these lives on, and waits for the examination of the file. The
        # process for it starts while the module is imported.
        importlib.import_module(f"{__name__}.trust.examiner_process").keep_ready()
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    value = module if _PUBLIC[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
