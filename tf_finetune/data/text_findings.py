"""What is odd about texts: none, no words, a wrong encoding, markup, more than the model reads."""

import re
import statistics

import numpy as np

from tf_finetune import findings
from tf_finetune.data import doctor_rows, text_store

# A tokenizer makes at least one token of each of these, and marks both ends of the text.
_WORD = re.compile(r"\w+|[^\w\s]")
_END_TOKENS = 2
_LONG_TIMES = 50
# Of 100 texts, those that a suggested --sequence_length holds whole.
_ENOUGH = 99
_MISSING = frozenset(
    {
        "nan",
        "null",
        "none",
        "n/a",
        "#n/a",
        "na",
        "-",
        "?",
        "#ref!",
        "#value!",
        "#name?",
        "undefined",
    }
)
_URL = re.compile(r"\s*(?:https?://|www\.)\S+\s*")
_TAG = re.compile(
    r"</?(?:p|br|div|span|a|b|i|em|strong|li|ul|td|tr|h[1-6]|html|body|img)\b[^<>]*>", re.I
)
# UTF-8 that was read as Latin-1 or Windows-1252: "Ã©", "â€™".
_MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00e2\u20ac[\u0080-\u2122]|\ufffd")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def count_words(text: str) -> int:
    """Words and marks of a text: at most as many as a tokenizer makes tokens.

    Args:
      text: any.

    Returns:
      The number, 0 of an empty text.
    """
    return sum(1 for _ in _WORD.finditer(text))


def find_odd_texts(
    rows: doctor_rows.Rows, texts: list[str], *, sequence_length: int | None
) -> list[findings.Problem]:
    """Texts that can be used and should be looked at.

    Args:
      rows: the examples.
      texts: of each row.
      sequence_length: tokens that the model reads, or None.

    Returns:
      Warnings, each at its line: a text that stands for a missing one, without letter or digit,
      of nothing but an address, with markup, of a wrong encoding, with control characters, or far
      longer than the others; a row that repeats the header; and one about all texts with more words
      than the model reads tokens.
    """
    lengths = [count_words(text) for text in texts]
    middle = statistics.median(lengths) if lengths else 0
    header = _find_header(rows)
    problems = []
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        message, flag = _find_fault(text), ""
        if not message and (found := _MOJIBAKE.search(text)):
            shown = findings.one_line(text[max(found.start() - 10, 0) : found.end() + 10])
            message, flag = f"'{shown}' was read in a wrong encoding.", "--encoding"
        cells = (cells[row] for cells in rows.labels.values())
        if header[:1] == (text.strip(),) and any(cell in header[1:] for cell in cells):
            message, flag = "the row repeats the names of the columns. Remove it.", ""
        if message:
            problems.append(rows.warn(row, f": {message}", flag=flag))
        if length > max(_LONG_TIMES * middle, _LONG_TIMES):
            message = f"a text of {length} words; half of all have {middle:g} or fewer. Split it."
            problems.append(rows.warn(row, f": {message}"))
    return problems + _find_cut_texts(rows, lengths, sequence_length=sequence_length)


def _find_cut_texts(
    rows: doctor_rows.Rows, lengths: list[int], *, sequence_length: int | None
) -> list[findings.Problem]:
    """One warning about all texts of which the model does not read the end."""
    if sequence_length is None:
        return []
    tokens = np.array(lengths, np.int64) + _END_TOKENS
    long = rows.sort(np.flatnonzero(tokens > sequence_length).tolist())
    if not long:
        return []
    enough = int(np.percentile(tokens, _ENOUGH, method="higher"))
    text = (
        f": the first of {len(long)} of {len(tokens)} texts of which --sequence_length="
        f"{sequence_length} cuts off the end: it has at least {tokens[long[0]]} tokens, the "
        f"longest {tokens.max()}. {enough} would hold {_ENOUGH} of 100."
    )
    return [rows.warn(long[0], text, flag=f"--sequence_length={enough}")]


def _find_header(rows: doctor_rows.Rows) -> tuple[str, ...]:
    """The name of the column of texts, then of the label columns."""
    store = next(iter(rows.parts.values())).inputs
    columns = (name for names in rows.columns.values() for name in names)
    return (store.column, *columns) if isinstance(store, text_store.Texts) else ()


def _find_fault(text: str) -> str:
    shown = f"'{findings.one_line(text_store.shorten(text))}'"
    if text.strip().casefold() in _MISSING:
        return f"the text is {shown}. Is it missing? Remove the row."
    if not any(map(str.isalnum, text)):
        return f"the text {shown} has no letter and no digit."
    if _CONTROL.search(text):
        return f"the text {shown} has control characters. Remove them."
    if _URL.fullmatch(text):
        return f"the text is only an address, {shown}."
    if _TAG.search(text):
        return f"the text {shown} has HTML tags. Remove them where they mean nothing."
    return ""
