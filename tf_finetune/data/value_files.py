"""Values of flags, which a user may write into a file of their own: --classes=@names.txt."""

from tf_finetune import findings, regular_files


def read_lines(text: str, *, flag: str) -> list[str] | None:
    """The lines of the file that a flag names.

    Args:
      text: value of the flag, as the user wrote it.
      flag: for messages, with its dashes.

    Returns:
      The lines of the FILE of @FILE, UTF-8, with or without a byte order mark, spaces at both ends
      left out, no empty ones; None: the value is no @FILE.

    Raises:
      findings.RefusedError: the file cannot be read, or is not UTF-8.
    """
    if not text.startswith("@"):
        return None
    try:
        with regular_files.open_regular(text[1:]) as file:
            lines = [line.strip() for line in file.read().decode("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        if isinstance(error, regular_files.NotRegularError):
            reason = f"it {reason}"
        message = f"{flag}={findings.one_line(text)} cannot be read: {reason}."
        raise findings.RefusedError(findings.Problem(message, path=text[1:], flag=flag)) from error
    return [line for line in lines if line]
