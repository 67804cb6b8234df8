"""A model of token ids becomes one of texts: its tokenizer is put in front of it.

One idea: the tokenizer is a layer of the model from then on, so training, evaluation, prediction
and the exported graph make the same tokens of a text, and nobody needs the vocabulary's file again.
"""

import dataclasses
import json
import typing

import keras

from tf_finetune import findings, specs
from tf_finetune.models import backbone as results
from tf_finetune.models import flattening
from tf_finetune.models.encoders import text_encoders, vocabulary_files
from tf_finetune.text import word_ids, wordpiece

INPUT, TOKENIZER = "text", "tokenizer"
AS_FLOATS = "token_ids_as_floats"
LAYERS = (TOKENIZER, AS_FLOATS)
# Keras computes the mask of an Embedding beside it.
_MASK_OPERATION = "NotEqual"
_LENGTH_FLAG = "--sequence_length"


def put_tokenizer(loaded: results.LoadedModel, data: specs.DataSpec) -> results.LoadedModel:
    """Puts the tokenizer of --vocabulary in front of a model of token ids.

    Args:
      loaded: a whole model; its layers are taken over.
      data: vocabulary, a path; sequence_length, default: the model's; token_padding.

    Returns:
      A model of one string input, and a note that says how texts are split; what was given where
      there is no --vocabulary and the model takes no token ids.

    Raises:
      findings.RefusedError: the model takes token ids and there is no --vocabulary, or the
        reverse; its length is not known, or another; the vocabulary cannot be read, or has ids for
        which the Embedding has no row.
    """
    functional = flattening.functional_of(loaded.model)
    tables = _find_tables(functional) if functional is not None else []
    if data.vocabulary is None:
        if tables:
            raise _refused("--vocabulary", _describe_missing(tables))
        if data.sequence_length is not None:
            raise _refused(_LENGTH_FLAG, _describe_no_effect(data.sequence_length))
        return loaded
    if not tables:
        raise _refused(
            "--vocabulary",
            f"--vocabulary={findings.one_line(data.vocabulary)} has no effect: --model has "
            "no one input of token ids, (batch, length), that goes into an Embedding. Leave it "
            "out.",
        )
    vocabulary = vocabulary_files.read_vocabulary(data.vocabulary)
    _check_rows(vocabulary, tables, data.vocabulary)
    length = _settle_length(functional.inputs[0].shape[1], data.sequence_length)
    tokenizer, note = _make_tokenizer(vocabulary, length, data)
    text = keras.Input((), dtype="string", name=INPUT)
    tokens = tokenizer(text)
    if "int" not in functional.inputs[0].dtype:
        # Keras 2 kept ids as float32, and an Embedding casts them back.
        tokens = keras.layers.Rescaling(1.0, name=AS_FLOATS, dtype="float32")(tokens)
    model = keras.Model(text, functional(tokens), name=loaded.model.name)
    return dataclasses.replace(loaded, model=model, notes=(*loaded.notes, note))


def limit_length(model: keras.Model, data: specs.DataSpec) -> tuple[str, ...]:
    """Makes the tokenizer of a text transformer cut texts earlier, in place.

    Args:
      model: a backbone.
      data: sequence_length; None: as it is.

    Returns:
      Notes for the user.

    Raises:
      findings.RefusedError: --vocabulary is given, or the model's texts are no tokens of ours or
        are cut earlier already.
    """
    if data.vocabulary is not None:
        raise _refused(
            "--vocabulary",
            f"--vocabulary={findings.one_line(data.vocabulary)} has no effect: --model makes "
            "tokens of texts itself. Leave it out.",
        )
    if data.sequence_length is None:
        return ()
    names = [layer.name for layer in model.layers]
    named = text_encoders.TOKENIZER in names
    layer: typing.Any = model.get_layer(text_encoders.TOKENIZER) if named else None
    if not hasattr(layer, "shorten"):
        raise _refused(_LENGTH_FLAG, _describe_no_effect(data.sequence_length))
    longest = layer.sequence_length
    if not 3 <= data.sequence_length <= longest:
        raise _refused(
            _LENGTH_FLAG,
            f"--sequence_length={data.sequence_length}: --model takes 3 to {longest} tokens of a "
            "text. Give one of these.",
        )
    layer.shorten(data.sequence_length)
    return (f"--sequence_length: texts are cut behind {data.sequence_length} tokens.",)


def _find_tables(functional: typing.Any) -> list[keras.layers.Embedding]:
    """The Embeddings that the one input goes into, if it goes nowhere else."""
    if len(functional.inputs) != 1 or len(functional.inputs[0].shape) != 2:
        return []
    # One id for each example is a category, no text.
    if functional.inputs[0].shape[1] == 1 or functional.inputs[0].dtype == "string":
        return []
    found = _find_consumers(functional, functional.inputs[0])
    tables = [layer for layer in found if isinstance(layer, keras.layers.Embedding)]
    return tables if len(tables) == len(found) else []


def _find_consumers(functional: typing.Any, tensor: keras.KerasTensor) -> list[typing.Any]:
    consumers = []
    for nodes in functional._nodes_by_depth.values():
        for node in nodes:
            if node.is_input or not any(given is tensor for given in node.input_tensors):
                continue
            inner = flattening.functional_of(node.operation)
            if inner is not None and len(inner.inputs) == 1:
                consumers += _find_consumers(inner, inner.inputs[0])
            elif type(node.operation).__name__ != _MASK_OPERATION:
                consumers.append(node.operation)
    return consumers


def _describe_missing(tables: list[keras.layers.Embedding]) -> str:
    table = tables[0]
    return (
        f"--model takes token ids: its input goes into the Embedding "
        f"'{findings.one_line(table.name)}' of {table.input_dim:,} rows. Give the vocabulary that "
        "it was trained with: --vocabulary=FILE, a word on each line, or the .json of a Tokenizer."
    )


def _describe_no_effect(sequence_length: int) -> str:
    return (
        f"--sequence_length={sequence_length} has no effect: --model takes no tokens of ours, or "
        "decides the length of its texts itself. Leave it out."
    )


def _check_rows(
    vocabulary: vocabulary_files.Vocabulary, tables: list[keras.layers.Embedding], path: str
) -> None:
    table = min(tables, key=lambda layer: layer.input_dim)
    if vocabulary.highest_id < table.input_dim:
        return
    hint = "Give the vocabulary that the model was trained with."
    if vocabulary.ids:
        hint += " If it was a Tokenizer(num_words=...), give its to_json(), which tells the number."
    raise _refused(
        "--vocabulary",
        f"{findings.one_line(path)}: '{findings.one_line(vocabulary.highest_word)}' has the id "
        f"{vocabulary.highest_id}, and the Embedding '{findings.one_line(table.name)}' only "
        f"{table.input_dim:,} rows, ids 0 to {table.input_dim - 1}. {hint}",
        path=path,
    )


def _settle_length(of_model: int | None, requested: int | None) -> int:
    if of_model is None and requested is None:
        raise _refused(
            _LENGTH_FLAG,
            "--model takes token ids of any length. Give the length that it was trained with: "
            "--sequence_length=N, in tokens.",
        )
    if of_model is not None and requested is not None and requested != of_model:
        raise _refused(
            _LENGTH_FLAG,
            f"--sequence_length={requested}: --model takes {of_model} token ids of each text. "
            "Leave it out.",
        )
    return of_model or requested or 0


def _make_tokenizer(
    vocabulary: vocabulary_files.Vocabulary, length: int, data: specs.DataSpec
) -> tuple[keras.layers.Layer, str]:
    padding = vocabulary.padding if data.token_padding == "auto" else data.token_padding
    sides = {word_ids.PRE: "beginning", word_ids.POST: "end"}
    note = f"Vocabulary: {vocabulary.description}."
    if vocabulary.pieces:
        if padding != word_ids.POST or length < 3:
            raise _refused(
                "--token_padding",
                "--vocabulary is of WordPiece, whose texts have 3 tokens or more and are padded at "
                f"the end. Received {length} tokens, --token_padding={padding}.",
            )
        tokenizer: keras.layers.Layer = wordpiece.WordPieceTokenizer(
            "\n".join(vocabulary.pieces),
            sequence_length=length,
            fixed_length=True,
            name=TOKENIZER,
            **vocabulary.rules,
        )
    else:
        tokenizer = word_ids.WordTokenizer(
            json.dumps(vocabulary.ids, ensure_ascii=False),
            sequence_length=length,
            padding=padding,
            name=TOKENIZER,
            **vocabulary.rules,
        )
    side = sides[padding]
    return tokenizer, f"{note} Each text has {length} tokens, padded and cut at its {side}."


def _refused(flag: str, message: str, *, path: str = "") -> findings.RefusedError:
    return findings.RefusedError(findings.Problem(message, path=path, flag=flag))
