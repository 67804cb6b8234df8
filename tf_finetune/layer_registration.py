"""Makes the layers of this package known to Keras wherever both are imported.

One idea: a model.keras may hold layers of ours (a SavedModel as a layer, a tokenizer), and Keras
opens it only if their classes are registered. Importing them here at once would make
`import tf_finetune` and `--help` wait for TensorFlow, so they are registered when Keras is.

Reference: PEP 302 and 451, import hooks.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
import typing
from collections.abc import Sequence

# Modules that register layers or functions when they are imported.
_MODULES = (
    "models.column_layers",
    "models.encoders.encoder_layers",
    "models.legacy.keras1_layers",
    "models.legacy.locally_connected",
    "models.legacy.masked_layers",
    "models.legacy.private_layers",
    "models.saved.saved_model",
    "models.saved.saved_model_layer",
    "models.legacy.tensor_operations",
    "text.byte_pair_tokenizer",
    "text.first_pieces",
    "text.word_ids",
    "text.wordpiece",
)


def register_layers() -> None:
    """Registers our layers: now where Keras is imported already, else right after it will be."""
    if "keras" in sys.modules:
        _import_modules()
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, typing.cast(typing.Any, _KerasFinder()))


def _import_modules() -> None:
    for name in _MODULES:
        importlib.import_module(f"{__package__}.{name}")


# Finder and loader by protocol: importing `importlib.abc` for their bases takes 20 ms.
class _KerasFinder:
    """Finds Keras as the other finders do, until it is imported, with a loader that calls us."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            # TensorFlow asks where Keras is and does not import it.
            sys.meta_path.insert(0, typing.cast(typing.Any, self))
        if spec is not None and spec.loader is not None:
            spec.loader = typing.cast(typing.Any, _Loader(spec.loader))
        return spec


class _Loader:
    """A loader that registers our layers behind another's work."""

    def __init__(self, loader: typing.Any):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        ours = [finder for finder in sys.meta_path if isinstance(finder, _KerasFinder)]
        for finder in ours:
            sys.meta_path.remove(finder)
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            # As if we had never been here: `inspect.getsource` and others ask the loader.
            module.__spec__.loader = self._loader
        _import_modules()
