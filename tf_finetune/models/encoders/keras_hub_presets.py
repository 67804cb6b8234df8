"""kerashub:PRESET - a text encoder or decoder of keras_hub, by name or as a local preset folder.

One idea: keras_hub reads the preset, and its weights are copied into our own layers behind our own
tokenizer. A preprocessor of keras_hub inside a model needs TF-Text wherever the model is served,
and such a model does not load again from .keras; ours needs neither afterwards.

Reference: https://keras.io/keras_hub/.
"""

import dataclasses
import json
import os
import typing

import keras
import numpy as np

from tf_finetune import findings, specs, trust
from tf_finetune.models import admission, backbone, formats, hdf5
from tf_finetune.models.encoders import text_encoders, tokenizer_files
from tf_finetune.models.stored import stored_config
from tf_finetune.text import byte_pair_tokenizer, wordpiece

PREFIX = "kerashub:"
WEIGHTS = "model.weights.h5"

_ENCODER_BLOCK = {
    "query": "self_attention_layer/query",
    "key": "self_attention_layer/key",
    "value": "self_attention_layer/value",
    "attention_output": "self_attention_layer/attention_output",
    "attention_norm": "self_attention_layer_norm",
    "intermediate": "feedforward_intermediate_dense",
    "output": "feedforward_output_dense",
    "output_norm": "feedforward_layer_norm",
}
_DECODER_BLOCK = {
    ours: theirs.replace("self_attention_layer/", "self_attention/")
    for ours, theirs in _ENCODER_BLOCK.items()
}


@dataclasses.dataclass(frozen=True)
class _Family:
    embeddings: dict[str, str]
    # What keras_hub computes: the tanh form of GELU where Google's own code has it.
    activation: str
    epsilon: float
    word_pieces: bool
    decoder: bool = False


_SUMMED = {
    "token": "token_embedding",
    "position": "position_embedding",
    "segment": "segment_embedding",
    "norm": "embeddings_layer_norm",
}


def _combined(layer: str) -> dict[str, str]:
    return {
        "token": f"{layer}/token_embedding",
        "position": f"{layer}/position_embedding",
        "norm": "embeddings_layer_norm",
    }


_FAMILIES = {
    "BertBackbone": _Family(_SUMMED, "gelu_tanh", 1e-12, word_pieces=True),
    "DistilBertBackbone": _Family(
        _combined("token_and_position_embedding"), "gelu", 1e-12, word_pieces=True
    ),
    "RobertaBackbone": _Family(_combined("embeddings"), "gelu", 1e-5, word_pieces=False),
    "GPT2Backbone": _Family(_SUMMED, "gelu_tanh", 1e-5, word_pieces=False, decoder=True),
}


def load_backbone(text: str, spec: specs.ModelSpec, precision: str) -> backbone.Backbone:
    """Loads a preset's backbone and tokenizer.

    Args:
      text: kerashub:PRESET, a name that keras_hub knows or a folder that it wrote.
      spec: the options of the model; see `text_encoders.make_backbone` for pooling. auto averages.
      precision: "float32", "bfloat16" or "float16".

    Returns:
      The backbone; it needs no keras_hub.

    Raises:
      findings.RefusedError: keras_hub is not installed, there is no such preset, it is damaged or
        of another family, another SHA-256 than --model_sha256, and as for
        `text_encoders.make_backbone`.
    """
    preset = text.removeprefix(PREFIX)
    keras_hub = _import_keras_hub()
    sha256 = None
    if os.path.isdir(preset):
        _find_family(preset, _read_class(preset, "config.json"))
        _read_class(preset, "tokenizer.json")
        sha256 = _check_sha256(preset, spec)
    elif spec.model_sha256 is not None:
        message = (
            f"--model_sha256 applies to files here. '{findings.one_line(text)}' is no folder: give "
            "the folder of a preset, or leave it out."
        )
        raise findings.RefusedError(findings.Problem(message, flag="--model_sha256"))
    theirs, tokenizer = _load(keras_hub, preset, text=text)
    family = _find_family(preset, type(theirs).__name__)
    weights = {weight.path: weight for weight in theirs.weights}
    make_tokenizer = _make_wordpiece if family.word_pieces else _make_byte_pairs
    ours, notes = make_tokenizer(tokenizer, max_positions=theirs.max_sequence_length)
    checkpoint = text_encoders.Checkpoint(
        where=text,
        source=f"keras_hub {type(theirs).__name__}",
        sizes=_sizes(theirs, family),
        tokenizer=ours,
        read=lambda layer, name: _read(weights, family, layer=layer, name=name),
        dropped=tuple(dict.fromkeys(_dropped(theirs))),
        sha256=sha256,
        notes=(
            "The weights were copied into this package's own layers: model.keras and the export "
            "need neither keras_hub nor TF-Text.",
            *notes,
        ),
    )
    return text_encoders.make_backbone(checkpoint, spec, precision=precision)


def _import_keras_hub() -> typing.Any:
    try:
        import keras_hub
    except ImportError as error:
        message = (
            "--model=kerashub:... needs keras_hub, which cannot be imported: "
            f"{findings.one_line(error)}. Run: pip install 'tf_finetune[text]'"
        )
        raise findings.RefusedError(findings.Problem(message, flag="--model")) from error
    return keras_hub


def _read_class(folder: str, name: str) -> str:
    # Read before keras_hub does: it imports the module that the file names.
    path = os.path.join(folder, name)
    config = tokenizer_files.read_json(folder, name)
    if not config:
        raise stored_config.refused(
            folder, f"has no {name}. Expected a preset that keras_hub's save_to_preset wrote."
        )
    if "model_type" in config:
        raise stored_config.refused(
            folder,
            f"is a Hugging Face folder. Open it with --model=hf:{findings.one_line(folder)}.",
        )
    # keras_hub was keras_nlp until 2024, and reads those presets as well.
    package = str(config.get("module")).partition(".")[0]
    kind = config.get("class_name")
    if package not in ("keras_hub", "keras_nlp") or not isinstance(kind, str):
        raise stored_config.refused(path, "names no class of keras_hub.")
    if config.get("registered_name") != f"{package}>{kind}":
        raise stored_config.refused(path, "names no class of keras_hub.")
    return kind


def _find_family(preset: str, name: str) -> _Family:
    if name not in _FAMILIES:
        raise stored_config.refused(
            f"{PREFIX}{preset}",
            f"a {findings.one_line(name)}. This version opens {', '.join(_FAMILIES)}: others split "
            "texts by SentencePiece, which would need TF-Text wherever the export is served, or "
            "have other layers.",
        )
    return _FAMILIES[name]


def _check_sha256(folder: str, spec: specs.ModelSpec) -> str:
    path = os.path.join(folder, WEIGHTS)
    if not os.path.isfile(path):
        raise stored_config.refused(folder, f"has no {WEIGHTS}.")
    return formats.check_sha256(path, spec.model_sha256)


def _load(keras_hub: typing.Any, preset: str, *, text: str) -> tuple[typing.Any, typing.Any]:
    try:
        if not os.path.isdir(preset):
            admission.check(_download(preset), role=admission.PRESET, where=text)
        theirs = keras_hub.models.Backbone.from_preset(preset, dtype="float32")
        tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except trust.UntrustedModelError:
        raise
    except (*hdf5.KERAS_ERRORS, ImportError, OSError) as error:
        raise stored_config.refused(
            text,
            f"keras_hub does not open it: {stored_config.one_reason(error)} Expected the name of a "
            "preset or a folder with config.json, tokenizer.json and model.weights.h5.",
        ) from error
    return theirs, tokenizer


def _download(preset: str) -> str:
    # Where keras_hub itself fetches to, and finds them again; the folder's other files are texts.
    from keras_hub.src.utils import preset_utils

    paths = [
        preset_utils.get_file(preset, name) for name in ("config.json", "tokenizer.json", WEIGHTS)
    ]
    return os.path.dirname(paths[-1])


def _sizes(theirs: typing.Any, family: _Family) -> text_encoders.EncoderSizes:
    return text_encoders.EncoderSizes(
        vocabulary_size=theirs.vocabulary_size,
        max_positions=theirs.max_sequence_length,
        hidden_size=theirs.hidden_dim,
        num_layers=theirs.num_layers,
        num_heads=theirs.num_heads,
        intermediate_size=theirs.intermediate_dim,
        num_segments=getattr(theirs, "num_segments", 0),
        activation=family.activation,
        epsilon=family.epsilon,
        dropout=theirs.dropout,
        attention_dropout=theirs.dropout,
        decoder=family.decoder,
    )


def _read(weights: dict[str, typing.Any], family: _Family, *, layer: str, name: str) -> np.ndarray:
    part, _, kind = name.partition("/")
    if layer == text_encoders.FINAL_NORM:
        path = f"layer_norm/{name}"
    elif layer == text_encoders.EMBEDDINGS:
        path = f"{family.embeddings[part]}/{kind or 'embeddings'}"
    else:
        block = _DECODER_BLOCK if family.decoder else _ENCODER_BLOCK
        number = text_encoders.block_number(layer)
        path = f"transformer_layer_{number}/{block[part]}/{kind}"
    values = keras.ops.convert_to_numpy(weights[path])
    # keras_hub stores heads as an axis of their own.
    if kind == "bias":
        return values.reshape(-1)
    if kind == "kernel" and values.ndim == 3:
        last = part == "attention_output"
        return values.reshape(-1, values.shape[-1]) if last else values.reshape(len(values), -1)
    return values


def _dropped(theirs: typing.Any) -> typing.Iterator[str]:
    for weight in theirs.weights:
        if weight.path.startswith("pooled_dense/"):
            yield "pooled_dense"


def _length(max_positions: int) -> int:
    return min(max_positions, tokenizer_files.DEFAULT_SEQUENCE_LENGTH)


def _make_wordpiece(
    theirs: typing.Any, *, max_positions: int
) -> tuple[keras.layers.Layer, tuple[str, ...]]:
    layer = wordpiece.WordPieceTokenizer(
        "\n".join(theirs.get_vocabulary()),
        lower_case=bool(theirs.lowercase),
        sequence_length=_length(max_positions),
        first_token=theirs.cls_token,
        last_token=theirs.sep_token,
        padding_token=theirs.pad_token,
        unknown_token=theirs.oov_token,
        name=text_encoders.TOKENIZER,
    )
    lower = "lower-cased and stripped of accents, as BERT does" if theirs.lowercase else "as it is"
    return layer, (f"Text is {lower}; cut behind {layer.sequence_length} tokens.",)


def _make_byte_pairs(
    theirs: typing.Any, *, max_positions: int
) -> tuple[keras.layers.Layer, tuple[str, ...]]:
    layer = byte_pair_tokenizer.BytePairTokenizer(
        json.dumps(dict(theirs.vocabulary)),
        "\n".join(theirs.merges),
        sequence_length=_length(max_positions),
        first_token=theirs.start_token,
        last_token=theirs.end_token,
        space_first=bool(theirs.add_prefix_space),
        name=text_encoders.TOKENIZER,
    )
    return layer, (f"Texts are cut behind {layer.sequence_length} tokens.",)
