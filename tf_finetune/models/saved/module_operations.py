"""The operations that a module's graph runs, and whether TensorFlow has them."""

import importlib
import importlib.util
from collections.abc import Iterable

from tf_finetune import findings
from tf_finetune.models.stored import stored_config

# Operations of TensorFlow Text 2.20, beside those that begin with TFText>.
_TEXT_PREFIX = "TFText>"
_TEXT_OPERATIONS = frozenset(
    (
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    )
)


def find_text_operations(operations: Iterable[str]) -> list[str]:
    """The operations of TensorFlow Text among others.

    Args:
      operations: names.

    Returns:
      Those of TensorFlow Text, sorted.
    """
    return sorted(
        name for name in operations if name.startswith(_TEXT_PREFIX) or name in _TEXT_OPERATIONS
    )


def needs_install(operations: Iterable[str]) -> bool:
    """Whether a graph needs TensorFlow Text where it is not installed.

    Args:
      operations: names.

    Returns:
      True where it does. TensorFlow Text is not imported.
    """
    missing = importlib.util.find_spec("tensorflow_text") is None
    return missing and bool(find_text_operations(operations))


def check_operations(path: str, operations: Iterable[str]) -> None:
    """Refuses a graph that TensorFlow cannot run; imports TensorFlow Text where it is needed.

    Args:
      path: folder of the module, for the error's text.
      operations: names.

    Raises:
      findings.RefusedError: TensorFlow does not have all of them.
    """
    unknown = _find_unknown(operations)
    text = find_text_operations(unknown)
    if text and importlib.util.find_spec("tensorflow_text") is not None:
        importlib.import_module("tensorflow_text")
        unknown = _find_unknown(operations)
    if not unknown:
        return
    named = findings.list_first(unknown)
    if text:
        hint = "They are of TensorFlow Text: pip install tensorflow-text"
    else:
        hint = "Expected a SavedModel of TensorFlow's own operations."
    raise stored_config.refused(
        path, f"its graph needs operations that TensorFlow does not have: {named}. {hint}"
    )


def _find_unknown(operations: Iterable[str]) -> list[str]:
    # TensorFlow has no public list of the operations that it knows.
    from tensorflow.python.framework import op_def_registry

    return sorted(name for name in operations if op_def_registry.get(name) is None)
