"""Which output of a module the features are, and what is to be said of it.

One idea: training asks of a restored module and --mode=inspect of its file. Both ask here, see
`module_rules`.

Reference: TensorFlow Hub, "Common Signatures for Images",
https://www.tensorflow.org/hub/common_signatures/images (feature_vector), and "Common SavedModel
APIs for Text Tasks", https://www.tensorflow.org/hub/common_saved_model_apis/text (pooled_output).
"""

import dataclasses
import difflib
from collections.abc import Sequence

from tf_finetune import findings
from tf_finetune.models import cut_rules
from tf_finetune.models.saved import module_rules
from tf_finetune.models.stored import stored_config

# Operations that make class probabilities.
PROBABILITY_MAKERS = ("Softmax", "LogSoftmax", "Sigmoid")

# Names that modules give to one vector per example, the best first.
_FEATURE_NAMES = ("pooled_output", "feature_vector", "default", "features", "embeddings", "logits")
_MAX_SHOWN = 4


def check_no_export(facts: module_rules.ModuleFacts) -> None:
    """Refuses what this package has exported: its features would be probabilities.

    Args:
      facts: of the module.

    Raises:
      findings.RefusedError: it has.
    """
    if facts.is_export:
        raise stored_config.refused(
            facts.path,
            "is an export of this program, made for serving: it returns probabilities, no "
            "features. Train on from the model.keras in the WORKDIR of its run.",
        )


def choose_output(facts: module_rules.ModuleFacts, wanted: str | None) -> str:
    """Decides which output the features are.

    Args:
      facts: of the module.
      wanted: the output that the user names.

    Returns:
      Its name.

    Raises:
      findings.RefusedError: there is no such output of floats, or none at all; or there are several
        of different shapes, and no name tells which is meant.
    """
    floats = {name: spec for name, spec in facts.outputs if spec.is_float}
    if wanted is not None:
        if wanted not in floats:
            raise _refuse_output(facts, wanted, list(floats))
        return wanted
    if not floats:
        received = ", ".join(f"{findings.one_line(n)} {s.dtype}" for n, s in facts.outputs)
        raise stored_config.refused(
            facts.path,
            f"has no output of floats, which features are. It returns {received or 'none'}.",
        )
    for name in _FEATURE_NAMES:
        if name in floats:
            return name
    vectors = [n for n, spec in floats.items() if spec.shape is None or len(spec.shape) == 2]
    usable = vectors or list(floats)
    if len({floats[name].shape for name in usable}) > 1:
        shown = [
            f"{findings.one_line(n)} {module_rules.free_batch(floats[n])}"
            for n in usable[:_MAX_SHOWN]
        ]
        message = (
            f"{findings.one_line(facts.path)}: {_called(facts)} has {len(usable)} outputs of "
            f"different shapes ({findings.list_values(shown, total=len(usable))}). Name "
            "the one that the new heads should get with --cut_layer."
        )
        raise findings.RefusedError(findings.Problem(message, path=facts.path, flag="--cut_layer"))
    return usable[0]


def explain_output(facts: module_rules.ModuleFacts, output: str) -> str:
    """Says what the features are.

    Args:
      facts: of the module.
      output: from `choose_output`.

    Returns:
      A sentence or two.
    """
    others = [name for name, spec in facts.outputs if name != output and spec.is_float]
    text = f"The features are the output '{findings.one_line(output)}' of {_called(facts)}."
    if not others:
        return text
    return f"{text} --cut_layer can name another: {findings.list_first(others)}."


def output_notes(facts: module_rules.ModuleFacts, output: str) -> tuple[str, ...]:
    """What a user of an output should know.

    Args:
      facts: of the module.
      output: from `choose_output`.

    Returns:
      Lines.
    """
    maker = facts.probabilities.get(output)
    if maker is None:
        return ()
    others = [
        name
        for name, spec in facts.outputs
        if name != output and spec.is_float and name not in facts.probabilities
    ]
    others += facts.elsewhere
    advice = "The SavedModel has no other output: features from before its classifier learn better."
    if others:
        advice = f"--cut_layer=OUTPUT chooses another: {findings.list_first(others)}."
    return (
        f"The features '{findings.one_line(output)}' are the old classifier's probabilities "
        f"({maker}), which tell little about other classes. {advice}",
    )


def settle_pooling(output: str, shape: tuple[int | None, ...], requested: str) -> str:
    """How the features become a vector.

    Args:
      output: name of the features.
      shape: of the features.
      requested: a value of --pooling.

    Returns:
      "avg", "max", "flatten" or "none".

    Raises:
      findings.RefusedError: they are no sequence, map or vector, or the pooling does not suit.
    """
    if len(shape) == 3 and requested in ("auto", "avg", "max"):
        return "avg" if requested == "auto" else requested
    return cut_rules.cut_behind(output, _Features(shape), pooling=requested).pooling


def _called(facts: module_rules.ModuleFacts) -> str:
    if facts.signature is None:
        return "__call__"
    return f"the signature '{findings.one_line(facts.signature)}'"


def _refuse_output(
    facts: module_rules.ModuleFacts, wanted: str, names: Sequence[str]
) -> findings.RefusedError:
    shown, called = findings.one_line(wanted), _called(facts)
    dtype = next((spec.dtype for name, spec in facts.outputs if name == wanted), None)
    if dtype is not None:
        message = f"--cut_layer: the output '{shown}' of {called} is of type {dtype}, and features"
        message += " are floats."
    else:
        message = f"Unknown output '{shown}' of {called}."
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
        message += f" Did you mean '{findings.one_line(near[0])}'?" if near else ""
    has = findings.list_first(list(names), limit=10) or "none"
    message += f" Its outputs of floats: {has}."
    if facts.elsewhere:
        message += f" Other signatures have {findings.list_first(list(facts.elsewhere))}."
    return findings.RefusedError(findings.Problem(message, flag="--cut_layer"))


@dataclasses.dataclass(frozen=True)
class _Features:
    # What `cut_rules` asks of a tensor.
    shape: tuple[int | None, ...]
