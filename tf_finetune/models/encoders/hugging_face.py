"""hf:DIR - a local Hugging Face folder of a BERT-family encoder.

One idea: config.json gives the sizes and model.safetensors the weights, by a table per model type
from our layers' names to theirs; nothing of transformers or PyTorch is needed or run.

Reference: https://huggingface.co/docs/transformers/model_doc/bert, distilbert, electra, roberta.
"""

import dataclasses
import os
import re
import typing

import numpy as np

from tf_finetune import findings, specs
from tf_finetune.models import backbone, formats
from tf_finetune.models.encoders import (
    encoder_layers,
    safetensors_file,
    text_encoders,
    tokenizer_files,
)
from tf_finetune.models.stored import stored_config

PREFIX = "hf:"
WEIGHTS = "model.safetensors"

_TOKEN_TABLE = "embeddings.word_embeddings"
_BERT_BLOCK = {
    "query": "encoder.layer.{}.attention.self.query",
    "key": "encoder.layer.{}.attention.self.key",
    "value": "encoder.layer.{}.attention.self.value",
    "attention_output": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "intermediate": "encoder.layer.{}.intermediate.dense",
    "output": "encoder.layer.{}.output.dense",
    "output_norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT_BLOCK = {
    "query": "transformer.layer.{}.attention.q_lin",
    "key": "transformer.layer.{}.attention.k_lin",
    "value": "transformer.layer.{}.attention.v_lin",
    "attention_output": "transformer.layer.{}.attention.out_lin",
    "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "intermediate": "transformer.layer.{}.ffn.lin1",
    "output": "transformer.layer.{}.ffn.lin2",
    "output_norm": "transformer.layer.{}.output_layer_norm",
}
_EMBEDDINGS = {
    "token": _TOKEN_TABLE,
    "position": "embeddings.position_embeddings",
    "segment": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "projection": "embeddings_project",
}
# Field of EncoderSizes -> key of config.json and its value where it is absent; None: must be there.
_BERT_KEYS: dict[str, tuple[str, typing.Any]] = {
    "vocabulary_size": ("vocab_size", None),
    "max_positions": ("max_position_embeddings", 512),
    "hidden_size": ("hidden_size", None),
    "num_layers": ("num_hidden_layers", None),
    "num_heads": ("num_attention_heads", None),
    "intermediate_size": ("intermediate_size", None),
    "num_segments": ("type_vocab_size", 2),
    "activation": ("hidden_act", "gelu"),
    "epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
_DISTILBERT_KEYS: dict[str, tuple[str, typing.Any]] = {
    "vocabulary_size": ("vocab_size", None),
    "max_positions": ("max_position_embeddings", 512),
    "hidden_size": ("dim", None),
    "num_layers": ("n_layers", None),
    "num_heads": ("n_heads", None),
    "intermediate_size": ("hidden_dim", None),
    "activation": ("activation", "gelu"),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
}
# hidden_act -> activation of our blocks. "gelu" is the exact one.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Our name of a weight -> theirs, and those of checkpoints converted from TensorFlow 1.
_ENDINGS = {
    "kernel": ("weight",),
    "bias": ("bias",),
    "gamma": ("weight", "gamma"),
    "beta": ("bias", "beta"),
}
_OTHER_WEIGHTS = {
    "pytorch_model.bin": "a Python pickle, which is never run",
    "tf_model.h5": "a TensorFlow checkpoint of transformers",
    "flax_model.msgpack": "a Flax checkpoint",
    "model.safetensors.index.json": "several parts",
}


@dataclasses.dataclass(frozen=True)
class _Family:
    keys: dict[str, tuple[str, typing.Any]]
    block: dict[str, str]
    # RoBERTa: a byte-level vocabulary, and positions that are counted from the padding's id on.
    byte_pairs: bool = False


_FAMILIES = {
    "bert": _Family(_BERT_KEYS, _BERT_BLOCK),
    "distilbert": _Family(_DISTILBERT_KEYS, _DISTILBERT_BLOCK),
    "electra": _Family({**_BERT_KEYS, "embedding_size": ("embedding_size", None)}, _BERT_BLOCK),
    "roberta": _Family({**_BERT_KEYS, "epsilon": ("layer_norm_eps", 1e-5)}, _BERT_BLOCK, True),
}


def load_backbone(text: str, spec: specs.ModelSpec, precision: str) -> backbone.Backbone:
    """Loads an encoder with its tokenizer.

    Args:
      text: hf:DIR, a folder with config.json, model.safetensors and vocab.txt (roberta: vocab.json
        and merges.txt), or tokenizer.json instead of the vocabulary.
      spec: the options of the model; see `text_encoders.make_backbone` for pooling. auto follows
        the folder's 1_Pooling/config.json, and averages where there is none.
      precision: "float32", "bfloat16" or "float16".

    Returns:
      The backbone.

    Raises:
      findings.RefusedError: no such folder, a file of it is missing or damaged, a model of another
        type, another SHA-256 than --model_sha256, and as for `text_encoders.make_backbone`.
    """
    folder = text.removeprefix(PREFIX)
    if not os.path.isdir(folder):
        raise findings.RefusedError(
            findings.Problem(
                f"--model: '{findings.one_line(text)}' names no folder. Expected hf:DIR, a local "
                "folder with config.json, model.safetensors and vocab.txt.",
                path=folder,
            )
        )
    config = tokenizer_files.read_json(folder, "config.json")
    where = os.path.join(folder, "config.json")
    if not os.path.isfile(where):
        raise stored_config.refused(
            folder, "has no config.json. Expected a folder with it, model.safetensors, vocab.txt."
        )
    family, kind = _find_family(config, where)
    sizes = _read_sizes(config, family, where)
    skipped = sizes.max_positions
    if family.byte_pairs:
        sizes = _count_positions_from_padding(sizes, config, where)
    path = _find_weights(folder)
    sha256 = formats.check_sha256(path, spec.model_sha256)
    weights = _Weights(path, family, skipped_positions=skipped - sizes.max_positions)
    load = tokenizer_files.load_byte_pairs if family.byte_pairs else tokenizer_files.load_wordpiece
    tokenizer, notes = load(folder, max_positions=sizes.max_positions)
    pooling, reason = _read_pooling(folder)
    checkpoint = text_encoders.Checkpoint(
        where=weights.path,
        source=f"Hugging Face folder, {kind}",
        sizes=sizes,
        tokenizer=tokenizer,
        read=weights.read,
        pooling=pooling,
        reason=reason,
        dropped=weights.unused(sizes),
        sha256=sha256,
        notes=notes,
    )
    return text_encoders.make_backbone(checkpoint, spec, precision=precision)


class _Weights:
    """model.safetensors by our names."""

    def __init__(self, path: str, family: _Family, *, skipped_positions: int):
        self.path = path
        self._family = family
        self._skipped_positions = skipped_positions
        self._tensors = safetensors_file.read_header(path)
        # "bert." where the file holds a whole task, "" where it holds the encoder alone.
        ending = f"{_TOKEN_TABLE}.weight"
        found = [name.removesuffix(ending) for name in self._tensors if name.endswith(ending)]
        self._prefix = min(found, key=len, default="")

    def read(self, layer: str, name: str) -> np.ndarray:
        part, _, kind = name.partition("/")
        if layer == text_encoders.EMBEDDINGS:
            module = _EMBEDDINGS[part]
        else:
            module = self._family.block[part].format(text_encoders.block_number(layer))
        names = [f"{self._prefix}{module}.{ending}" for ending in _ENDINGS.get(kind, ("weight",))]
        stored = next((each for each in names if each in self._tensors), None)
        if stored is None:
            raise KeyError(names[0])
        values = safetensors_file.read_tensor(self.path, self._tensors[stored])
        if part == "position":
            return values[self._skipped_positions :]
        return values.T if kind == "kernel" else values

    def unused(self, sizes: text_encoders.EncoderSizes) -> tuple[str, ...]:
        modules = {*_EMBEDDINGS.values()} | {
            module.format(number)
            for module in self._family.block.values()
            for number in range(sizes.num_layers)
        }
        used = {f"{self._prefix}{module}" for module in modules}
        parts = dict.fromkeys(name.rpartition(".")[0] for name in self._tensors)
        # A buffer of the numbers 0 to 511 is no weight.
        return tuple(part for part in parts if part not in used and not part.endswith("embeddings"))


def _find_family(config: dict[str, typing.Any], where: str) -> tuple[_Family, str]:
    kind = config.get("model_type")
    if kind is None:
        # Files of before 2020 name the class only, for example BertForMaskedLM.
        classes = config.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else ""
        match = re.match("(DistilBert|Bert|Electra|Roberta)(For|Model)", str(first))
        kind = match[1].lower() if match else None
    if kind not in _FAMILIES:
        what = f"the model is of the type '{findings.one_line(kind)}'."
        if kind is None:
            what = "names no type of model (model_type)."
        raise stored_config.refused(
            where,
            f"{what} hf: opens encoders of the types {', '.join(_FAMILIES)}.",
        )
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise stored_config.refused(
            where,
            "the model has relative positions or is a decoder. hf: opens encoders with absolute "
            "positions.",
        )
    return _FAMILIES[kind], kind


def _read_sizes(
    config: dict[str, typing.Any], family: _Family, where: str
) -> text_encoders.EncoderSizes:
    values = {}
    for field, (key, default) in family.keys.items():
        value = config.get(key, default)
        if field == "activation":
            if value not in _ACTIVATIONS:
                raise stored_config.refused(
                    where,
                    f"{key} expects one of {', '.join(_ACTIVATIONS)}. Received "
                    f"'{findings.one_line(value)}'.",
                )
            value = _ACTIVATIONS[value]
        elif field in ("epsilon", "dropout", "attention_dropout"):
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise _bad_number(where, key, value, "a number from 0 to 1")
        elif type(value) is not int or value < (field != "num_segments"):
            raise _bad_number(where, key, value, "a whole number above 0")
        values[field] = value
    sizes = text_encoders.EncoderSizes(**values)
    if sizes.hidden_size % sizes.num_heads:
        message = f"its {sizes.num_heads} attention heads do not divide {sizes.hidden_size} units."
        raise stored_config.refused(where, message)
    return sizes


def _count_positions_from_padding(
    sizes: text_encoders.EncoderSizes, config: dict[str, typing.Any], where: str
) -> text_encoders.EncoderSizes:
    padding = config.get("pad_token_id", 1)
    left = sizes.max_positions - 1 - padding if type(padding) is int and padding >= 0 else 0
    if left < 3:
        raise _bad_number(where, "pad_token_id", padding, "a number below max_position_embeddings")
    return dataclasses.replace(sizes, max_positions=left)


def _bad_number(where: str, key: str, value: typing.Any, expected: str) -> findings.RefusedError:
    return stored_config.refused(
        where, f"{key} expects {expected}. Received {findings.one_line(value)}."
    )


def _find_weights(folder: str) -> str:
    path = os.path.join(folder, WEIGHTS)
    if os.path.isfile(path):
        return path
    for name, what in _OTHER_WEIGHTS.items():
        if os.path.exists(os.path.join(folder, name)):
            raise stored_config.refused(
                folder,
                f"its weights are {name}, {what}. Expected model.safetensors in one part: save the "
                "model again with transformers' save_pretrained.",
            )
    raise stored_config.refused(folder, "has no model.safetensors.")


def _read_pooling(folder: str) -> tuple[str, str]:
    settings = tokenizer_files.read_json(os.path.join(folder, "1_Pooling"), "config.json")
    said = ", as its 1_Pooling/config.json says"
    for key, kind in (
        ("pooling_mode_mean_tokens", encoder_layers.MEAN),
        ("pooling_mode_cls_token", encoder_layers.FIRST),
        ("pooling_mode_max_tokens", encoder_layers.MAX),
    ):
        if settings.get(key) is True:
            return kind, said
    return encoder_layers.MEAN, ""
