"""The file of --vocabulary: which word or piece of a word has which id, and how texts are split.

One idea: the file's form tells what wrote it, and what wrote it tells the rules: a list with ## is
WordPiece, any other list is a TextVectorization's, an object {word: id} or a saved Tokenizer is
Keras 2's Tokenizer. What was decided is said in one sentence.

Reference: keras.layers.TextVectorization (`set_vocabulary`, `get_vocabulary`);
keras.preprocessing.text.Tokenizer (`word_index`, `to_json`), Keras 2; Devlin et al., 2018, BERT,
vocab.txt.
"""

import dataclasses
import json
import typing

from tf_finetune import findings, regular_files
from tf_finetune.text import word_rules

# Of keras.preprocessing.text.Tokenizer, without the white space.
_TOKENIZER_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'
# Of TextVectorization(standardize="lower_and_strip_punctuation").
_PUNCTUATION = _TOKENIZER_FILTERS + "'"
_PADDING_NAMES = ("", "[pad]", "<pad>")
_UNKNOWN_NAMES = ("[unk]", "<unk>", "<oov>", "[oov]")
_PIECE_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_MAX_BYTES = 2**28
_FLAG = "--vocabulary"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a file of --vocabulary says.

    Attributes:
      pieces: WordPiece: the pieces in the order of their ids; () for words.
      ids: {word: id}; {} for pieces.
      rules: further arguments of `word_ids.WordTokenizer` or `wordpiece.WordPieceTokenizer`.
      padding: the side of the padding where --token_padding does not say, "pre" or "post".
      highest_id: the largest id that a text can get.
      highest_word: the word or piece that has it.
      description: what was decided, a sentence.
    """

    pieces: tuple[str, ...]
    ids: dict[str, int]
    rules: dict[str, typing.Any]
    padding: str
    highest_id: int
    highest_word: str
    description: str


def read_vocabulary(path: str) -> Vocabulary:
    """Reads a vocabulary.

    Args:
      path: .json, or text with a word or piece on each line, UTF-8.

    Returns:
      The vocabulary.

    Raises:
      findings.RefusedError: the file cannot be read or is not UTF-8; JSON that is neither {word:
        id} nor a saved Tokenizer, or whose ids are no whole numbers from 1, or occur twice; a
        Tokenizer of characters, or not of words between blanks; an empty or repeated line; pieces
        without a special token.
    """
    try:
        with regular_files.open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except regular_files.NotRegularError as error:
        raise _refused(path, f"{error.strerror}.") from error
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"has more than {_MAX_BYTES:,} bytes. Is it a vocabulary?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(path, "is not UTF-8. Save it as UTF-8.", line=line) from error
    if path.lower().endswith(".json"):
        return _read_json(path, text)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    _check_lines(path, lines)
    if set(_PIECE_NAMES[2:]) <= set(lines) or any(line.startswith("##") for line in lines):
        return _make_pieces(path, lines)
    return _make_list(lines)


def _check_lines(path: str, lines: list[str]) -> None:
    first: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        message = ""
        if line in first:
            shown = findings.one_line(line)
            message = f"'{shown}' stands in line {first[line]} already. Expected each once."
        elif not line.strip() and (line or number > 1 or len(lines) == 1):
            message = "is empty. Expected a word or piece of a word on each line."
        first.setdefault(line, number)
        if message:
            problems.append(_problem(path, message, line=number))
    if problems:
        raise findings.RefusedError(*problems[:5])


def _make_pieces(path: str, lines: list[str]) -> Vocabulary:
    missing = [name for name in _PIECE_NAMES if name not in lines]
    if missing:
        raise _refused(
            path,
            f"has pieces of words (## or [CLS]) but not {findings.list_first(missing)}. Expected "
            "the vocab.txt of a WordPiece tokenizer.",
        )
    words = [line for line in lines if not line.startswith(("[", "<"))]
    lower = all(word == word.lower() for word in words)
    return Vocabulary(
        pieces=tuple(lines),
        ids={},
        rules={"lower_case": lower},
        padding=word_rules.POST,
        highest_id=len(lines) - 1,
        highest_word=lines[-1],
        description=(
            f"{len(lines):,} WordPiece pieces, ids by line from 0; [CLS] and [SEP] are put around "
            f"each text; {_describe_case(lower)}"
        ),
    )


def _make_list(lines: list[str]) -> Vocabulary:
    names = [line.lower() for line in lines[:2]]
    # Where no word has the reserved ids, they stand before the first line.
    start = 0 if names[0] in _PADDING_NAMES else 1 if names[0] in _UNKNOWN_NAMES else 2
    ids = {word: number for number, word in enumerate(lines, start=start) if number}
    if start:
        unknown_id: int | None = 1
    else:
        unknown_id = next((ids[w] for w in ids if w.lower() in _UNKNOWN_NAMES), None)
    return _make_words(
        {word: number for word, number in ids.items() if number != unknown_id},
        unknown_id=unknown_id,
        filters=_PUNCTUATION,
        drops=True,
        padding=word_rules.POST,
        made_by=f"a list of words, ids by line from {start}",
    )


def _read_json(path: str, text: str) -> Vocabulary:
    content = _parse(path, text)
    if not isinstance(content, dict) or not content:
        raise _refused(path, "expects an object {word: id}, or a Tokenizer's to_json().")
    if content.get("class_name") == "Tokenizer":
        return _make_tokenizer(path, content.get("config"))
    ids = _check_ids(path, content)
    unknown_id = next((ids[word] for word in ids if word.lower() in _UNKNOWN_NAMES), None)
    return _make_words(
        {word: number for word, number in ids.items() if number != unknown_id},
        unknown_id=unknown_id,
        filters=_TOKENIZER_FILTERS,
        drops=False,
        padding=word_rules.PRE,
        made_by="a word_index, ids as they stand",
    )


def _make_tokenizer(path: str, config: typing.Any) -> Vocabulary:
    if not isinstance(config, dict) or not isinstance(config.get("word_index"), str):
        raise _refused(path, "is a Tokenizer without a word_index. The file is damaged.")
    if config.get("char_level"):
        raise _refused(path, "is a Tokenizer of characters (char_level). Expected one of words.")
    if config.get("split", " ") != " ":
        shown = findings.one_line(config["split"])
        raise _refused(path, f"is a Tokenizer that splits at '{shown}'. Expected one of blanks.")
    ids = _check_ids(path, _parse(path, config["word_index"]))
    limit = config.get("num_words")
    limit = limit if isinstance(limit, int) else None
    unknown_id = ids.get(config.get("oov_token") or "")
    kept = {
        word: number
        for word, number in ids.items()
        if number != unknown_id and (limit is None or number < limit)
    }
    filters = config.get("filters")
    cut = f", the first {limit - 1:,} of {len(ids):,}" if limit and limit <= len(ids) else ""
    return _make_words(
        kept,
        unknown_id=unknown_id,
        filters=filters if isinstance(filters, str) else _TOKENIZER_FILTERS,
        drops=False,
        padding=word_rules.PRE,
        made_by=f"a Tokenizer, ids as they stand{cut}",
        lower=bool(config.get("lower", True)),
        keeps_filters=True,
    )


def _make_words(
    ids: dict[str, int],
    *,
    unknown_id: int | None,
    filters: str,
    drops: bool,
    padding: str,
    made_by: str,
    lower: bool | None = None,
    keeps_filters: bool = False,
) -> Vocabulary:
    if lower is None:
        lower = all(word == word.lower() for word in ids)
    if not keeps_filters:
        # Punctuation that words of the vocabulary have was no punctuation to whoever made it.
        used = set().union(*ids) if ids else set()
        filters = "".join(mark for mark in filters if mark not in used)
    case = (word_rules.ASCII if drops else word_rules.UNICODE) if lower else None
    highest = max(ids, key=lambda word: ids[word], default="")
    highest_id = max(ids.get(highest, 0), unknown_id or 0)
    unknown = "unknown words are left out" if unknown_id is None else f"unknown words {unknown_id}"
    marks = "".join(mark for mark in filters if not mark.isspace())
    what = "vanish" if drops else "part words"
    shown = f"; {what}: {marks}" if marks else "; punctuation stays with its word"
    return Vocabulary(
        pieces=(),
        ids=ids,
        rules={
            "unknown_id": unknown_id,
            "lower_case": case,
            "parted_at": "" if drops else filters,
            "dropped": filters if drops else "",
        },
        padding=padding,
        highest_id=highest_id,
        highest_word=highest if ids.get(highest) == highest_id else "the unknown words",
        description=(
            f"{len(ids):,} words ({made_by}; padding 0, {unknown}); {_describe_case(lower)}{shown}"
        ),
    )


def _describe_case(lower: bool) -> str:
    return "texts are lower-cased" if lower else "capital letters stay"


def _parse(path: str, text: str) -> typing.Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, "is not JSON. The file is damaged.") from error


def _check_ids(path: str, content: typing.Any) -> dict[str, int]:
    if not isinstance(content, dict) or not content:
        raise _refused(path, "expects an object {word: id}, or a Tokenizer's to_json().")
    words: dict[int, str] = {}
    ids: dict[str, int] = {}
    problems: list[str] = []
    for word, number in content.items():
        shown = findings.one_line(word)
        if type(number) is not int or number < 0:
            problems.append(
                f"the id of '{shown}' is no whole number from 1. Received "
                f"{findings.one_line(repr(number))}."
            )
        elif number == 0 and word.lower() not in _PADDING_NAMES:
            problems.append(f"'{shown}' has the id 0, which is the padding's. Expected 1 or more.")
        elif number in words:
            problems.append(
                f"'{shown}' and '{findings.one_line(words[number])}' have the same id {number}. "
                "Expected each id once."
            )
        elif number:
            words[number], ids[word] = word, number
    if problems:
        raise findings.RefusedError(*[_problem(path, message) for message in problems[:5]])
    return ids


def _problem(path: str, message: str, *, line: int | None = None) -> findings.Problem:
    where = findings.one_line(path) + ("" if line is None else f", line {line}")
    return findings.Problem(f"{where}: {message}", path=path, line=line, flag=_FLAG)


def _refused(path: str, message: str, *, line: int | None = None) -> findings.RefusedError:
    return findings.RefusedError(_problem(path, message, line=line))
