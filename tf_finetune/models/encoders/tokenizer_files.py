"""The tokenizer of a Hugging Face folder: vocabulary and settings -> our layer.

One idea: the files are read as data; what none of them says is decided from the vocabulary, and
said.

Reference: https://huggingface.co/docs/transformers/main_classes/tokenizer.
"""

import json
import os
import typing

from tf_finetune import findings
from tf_finetune.models.stored import stored_config
from tf_finetune.text import byte_pair_tokenizer, wordpiece

# Most texts to classify are shorter, and attention grows with the square of the length.
DEFAULT_SEQUENCE_LENGTH = 128

# Argument of our layer -> key of the settings, and the token where none says.
_WORDPIECE_TOKENS = {
    "first_token": ("cls_token", "[CLS]"),
    "last_token": ("sep_token", "[SEP]"),
    "padding_token": ("pad_token", "[PAD]"),
    "unknown_token": ("unk_token", "[UNK]"),
}
_BYTE_PAIR_TOKENS = {
    "first_token": ("cls_token", "<s>"),
    "last_token": ("sep_token", "</s>"),
    "unknown_token": ("unk_token", "<unk>"),
}
# Classes that split words by other means than BERT's rules.
_OTHER_CLASSES = ("BertJapaneseTokenizer",)


def read_json(folder: str, name: str) -> dict[str, typing.Any]:
    """Reads a file of settings.

    Args:
      folder: where it lies.
      name: for example "tokenizer_config.json".

    Returns:
      Its object; {} where there is no such file.

    Raises:
      findings.RefusedError: the file cannot be read or is no JSON object.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise stored_config.refused(path, "is not JSON. The file is damaged.") from error
    if not isinstance(settings, dict):
        raise stored_config.refused(path, "expects a JSON object. The file is damaged.")
    return settings


def load_wordpiece(
    folder: str, *, max_positions: int
) -> tuple[wordpiece.WordPieceTokenizer, tuple[str, ...]]:
    """Makes the tokenizer of a folder with vocab.txt, or tokenizer.json of the kind WordPiece.

    Args:
      folder: an existing folder.
      max_positions: longest text of the model in tokens.

    Returns:
      The layer, and notes for the user.

    Raises:
      findings.RefusedError: there is no such vocabulary, it lacks a special token, or words are not
        split by BERT's rules.
    """
    settings = read_json(folder, "tokenizer_config.json")
    whole = read_json(folder, "tokenizer.json")
    kind = settings.get("tokenizer_class")
    if kind in _OTHER_CLASSES:
        path = os.path.join(folder, "tokenizer_config.json")
        raise stored_config.refused(
            path, f"{kind} splits words with a dictionary. Expected a tokenizer by BERT's rules."
        )
    pieces = _read_pieces(folder, whole)
    names: dict[str, typing.Any] = _special_tokens(folder, settings, table=_WORDPIECE_TOKENS)
    for name in names.values():
        if name not in pieces:
            raise stored_config.refused(
                folder,
                f"its vocabulary lacks the special token '{findings.one_line(name)}', which its "
                "tokenizer_config.json names or BERT has.",
            )
    rules, notes = _splitting_rules(pieces, settings, whole, names)
    length = _sequence_length(folder, settings, max_positions=max_positions)
    layer = wordpiece.WordPieceTokenizer(
        "\n".join(pieces), sequence_length=length, name="tokenizer", **rules, **names
    )
    notes.append(f"Texts are lower-cased: {_yes(rules['lower_case'])}; cut behind {length} tokens.")
    return layer, tuple(notes)


def load_byte_pairs(
    folder: str, *, max_positions: int
) -> tuple[byte_pair_tokenizer.BytePairTokenizer, tuple[str, ...]]:
    """Makes the tokenizer of a folder with vocab.json and merges.txt, or tokenizer.json (BPE).

    Args:
      folder: an existing folder.
      max_positions: longest text of the model in tokens.

    Returns:
      The layer, and notes for the user.

    Raises:
      findings.RefusedError: there is no such vocabulary, it lacks a special token, or its merges do
        not fit it.
    """
    settings = read_json(folder, "tokenizer_config.json")
    vocabulary, merges = _read_merges(folder)
    names = _special_tokens(folder, settings, table=_BYTE_PAIR_TOKENS)
    length = _sequence_length(folder, settings, max_positions=max_positions)
    try:
        layer = byte_pair_tokenizer.BytePairTokenizer(
            json.dumps(vocabulary),
            "\n".join(merges),
            space_first=settings.get("add_prefix_space") is True,
            sequence_length=length,
            name="tokenizer",
            **names,
        )
    except ValueError as error:
        raise stored_config.refused(
            folder, f"its vocabulary does not open: {stored_config.one_reason(error)}"
        ) from error
    return layer, (f"Texts are cut behind {length} tokens.",)


def _read_merges(folder: str) -> tuple[dict[str, int], list[str]]:
    vocabulary: typing.Any = read_json(folder, "vocab.json")
    path = os.path.join(folder, "merges.txt")
    if vocabulary and os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = stored_config.one_reason(error)
            raise stored_config.refused(path, f"cannot be read: {reason}") from error
        merges = [line for line in lines if line and not line.startswith("#version")]
    else:
        model = read_json(folder, "tokenizer.json").get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            raise stored_config.refused(
                folder,
                "has no vocabulary. Expected vocab.json and merges.txt, or tokenizer.json of the "
                "kind BPE.",
            )
        vocabulary, stored = model.get("vocab"), model.get("merges")
        # A pair is a list since tokenizers 0.20.
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in stored or ()]
    if not isinstance(vocabulary, dict) or not all(
        type(number) is int and number >= 0 for number in vocabulary.values()
    ):
        raise stored_config.refused(folder, "its vocabulary expects {token: id}.")
    return vocabulary, merges


def _yes(value: typing.Any) -> str:
    return "yes" if value else "no"


def _read_pieces(folder: str, whole: dict[str, typing.Any]) -> list[str]:
    path = os.path.join(folder, "vocab.txt")
    if os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().removesuffix("\n").split("\n")
        except OSError as error:
            raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise stored_config.refused(path, "is not UTF-8. Expected a piece per line.") from error
    path = os.path.join(folder, "tokenizer.json")
    model = whole.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise stored_config.refused(
            folder,
            "has no vocabulary. Expected vocab.txt, or tokenizer.json of the kind WordPiece.",
        )
    # Files of before 2022 name no type.
    if model.get("type", "WordPiece") != "WordPiece":
        raise stored_config.refused(
            path,
            f"is a tokenizer of the kind {findings.one_line(model['type'])}. Expected WordPiece.",
        )
    numbers = {number: piece for piece, number in model["vocab"].items()}
    if sorted(numbers, key=str) != sorted(range(len(numbers)), key=str) or any(
        "\n" in piece for piece in model["vocab"]
    ):
        raise stored_config.refused(path, "its vocabulary is not numbered from 0 without gaps.")
    return [numbers[number] for number in range(len(numbers))]


def _special_tokens(
    folder: str, settings: dict[str, typing.Any], *, table: dict[str, tuple[str, str]]
) -> dict[str, str]:
    more = read_json(folder, "special_tokens_map.json")
    names = {}
    for ours, (theirs, default) in table.items():
        value = settings.get(theirs, more.get(theirs, default))
        # A token with its settings is an object.
        value = value.get("content") if isinstance(value, dict) else value
        names[ours] = value if isinstance(value, str) else default
    return names


def _splitting_rules(
    pieces: list[str],
    settings: dict[str, typing.Any],
    whole: dict[str, typing.Any],
    names: dict[str, str],
) -> tuple[dict[str, typing.Any], list[str]]:
    notes = []
    stored = whole.get("normalizer")
    normalizer: dict[str, typing.Any] = stored if isinstance(stored, dict) else {}
    if normalizer.get("type", "BertNormalizer") != "BertNormalizer":
        notes.append(
            f"Its tokenizer.json cleans texts by {findings.one_line(normalizer['type'])}; BERT's "
            "rules are used instead."
        )
    lower_case = settings.get("do_lower_case", normalizer.get("lowercase"))
    if not isinstance(lower_case, bool):
        lower_case = not any(
            piece != piece.lower()
            for piece in pieces
            if piece not in names.values() and not piece.startswith(("[", "<"))
        )
        notes.append(
            "No file says whether texts are lower-cased; its vocabulary has "
            f"{'no' if lower_case else 'some'} capital letters."
        )
    strip_accents = settings.get("strip_accents", normalizer.get("strip_accents"))
    space_cjk = settings.get("tokenize_chinese_chars", normalizer.get("handle_chinese_chars"))
    return {
        "lower_case": lower_case,
        "strip_accents": strip_accents if isinstance(strip_accents, bool) else None,
        "space_cjk": space_cjk if isinstance(space_cjk, bool) else True,
    }, notes


def _sequence_length(folder: str, settings: dict[str, typing.Any], *, max_positions: int) -> int:
    stated = read_json(folder, "sentence_bert_config.json").get("max_seq_length")
    if not isinstance(stated, int):
        stated = settings.get("model_max_length")
        # Its default is 10**30, "not known".
        stated = stated if isinstance(stated, int) else DEFAULT_SEQUENCE_LENGTH
        stated = min(stated, DEFAULT_SEQUENCE_LENGTH)
    return max(3, min(stated, max_positions))
