"""Paths of a spec, made to mean the same in any folder."""

import dataclasses
import os

from tf_finetune import specs

# What a value that is no path starts with.
SOURCE_SCHEMES = (
    "tfds:",
    "sklearn:",
    "arrays:",
    "keras:",
    "kerashub:",
    "hf://",
    "https://",
    "http://",
    "gs://",
)


def absolute_paths(spec: specs.RunSpec) -> specs.RunSpec:
    """The same spec with every path made absolute.

    Args:
      spec: a spec whose paths are relative to the current folder.

    Returns:
      A spec that means the same in any folder.
    """
    data, model = spec.data, spec.model
    return dataclasses.replace(
        spec,
        model=dataclasses.replace(
            model,
            model=_absolute_model(model.model),
            weights=_absolute(model.weights),
            preprocessor=_absolute(model.preprocessor),
            custom_objects=_absolute_module(model.custom_objects),
        ),
        data=dataclasses.replace(
            data,
            data=_absolute(data.data) or "",
            validation_data=_absolute(data.validation_data),
            test_data=_absolute(data.test_data),
            split_file=_absolute(data.split_file),
            tfds_data_dir=_absolute(data.tfds_data_dir),
            vocabulary=_absolute(data.vocabulary),
            classes=_absolute_list(data.classes),
            record_schema=_absolute_list(data.record_schema),
        ),
        train=dataclasses.replace(spec.train, cache_dir=_absolute(spec.train.cache_dir)),
        export=dataclasses.replace(spec.export, export_dir=_absolute(spec.export.export_dir)),
    )


def _absolute(path: str | None) -> str | None:
    if not path or path.startswith(SOURCE_SCHEMES):
        return path.rstrip("/") if path and path.startswith("gs://") else path
    return os.path.abspath(os.path.expanduser(path))


def _absolute_list(text: str | None) -> str | None:
    """A value that may be @FILE."""
    return "@" + os.path.abspath(text[1:]) if text and text.startswith("@") else text


def _absolute_module(module: str | None) -> str | None:
    return _absolute(module) if module and module.endswith(".py") else module


def _absolute_model(model: str) -> str:
    for prefix in ("hf:", "kerashub:"):
        # A folder where there is one, else the name of a preset.
        path = model.removeprefix(prefix)
        if model.startswith(prefix) and os.path.isdir(os.path.expanduser(path)):
            return prefix + (_absolute(path) or "")
    if not model.startswith("keras:"):
        return _absolute(model) or ""
    parts = model.split(",")
    for number, part in enumerate(parts):
        key, _, value = part.partition("=")
        if key == "weights" and value not in ("none", "imagenet", ""):
            parts[number] = f"weights={os.path.abspath(os.path.expanduser(value))}"
    return ",".join(parts)
