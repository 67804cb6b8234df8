"""What a member of an archive may be and be called; for zip and tar alike.

One idea: regular files and folders below one folder, each once, within limits. Everything else that
an archive can hold (links, devices, names that climb) serves to reach outside.
"""

import dataclasses
import stat

from tf_finetune import findings
from tf_finetune.trust import refusals

MAX_MEMBERS = 20_000
MAX_BYTES = 64 * 2**30
# Weights shrink by a factor below 2, zeros by one of 1,000.
MAX_RATIO = 100
RATIO_FROM_BYTES = 64 * 2**20
_MAX_NAME = 1_000


@dataclasses.dataclass
class Members:
    """The names seen so far, and how much they unpack to.

    Attributes:
      packed_bytes: size of the archive.
      count: members.
      total_bytes: sum of their sizes.
    """

    packed_bytes: int
    count: int = 0
    total_bytes: int = 0
    _seen: dict[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def allowed_bytes(self) -> int:
        """How much the archive may unpack to."""
        return min(MAX_BYTES, max(RATIO_FROM_BYTES, MAX_RATIO * self.packed_bytes))

    def add(
        self, name: str, size: int, *, is_folder: bool, mode: int = 0
    ) -> findings.Finding | None:
        """Counts a member and checks its name, mode and size.

        Args:
          name: as stored, parts separated by "/".
          size: its declared size in bytes.
          is_folder: it is a folder.
          mode: permission bits, 0 where there are none.

        Returns:
          Why the archive is refused, or None.
        """
        self.count += 1
        self.total_bytes += size
        shown = f"member '{findings.one_line(name)[:200]}'"
        if self.count > MAX_MEMBERS:
            return refusals.outside("", f"the archive has more than {MAX_MEMBERS:,} members.")
        if size < 0 or self.total_bytes > self.allowed_bytes:
            return refusals.outside(
                name,
                f"the archive unpacks to more than {self.allowed_bytes:,} bytes, {MAX_RATIO} times "
                "its own size or the most that is extracted. It is hostile, or no model.",
            )
        problem = name_problem(name, is_folder=is_folder)
        if problem:
            return refusals.outside(name, f"{shown} {problem} The archive is not opened.")
        if mode & (stat.S_ISUID | stat.S_ISGID) and not is_folder:
            return refusals.outside(
                name, f"{shown} would run with another user's rights. The archive is not opened."
            )
        return self._add_name(name, is_folder=is_folder, shown=shown)

    def _add_name(self, name: str, *, is_folder: bool, shown: str) -> findings.Finding | None:
        # Names that differ in case are one file on many systems.
        parts = [part for part in name.casefold().split("/") if part not in ("", ".")]
        key = "/".join(parts)
        if key in self._seen and not (is_folder and self._seen[key]):
            return refusals.outside(
                name,
                f"{shown} comes twice in the archive, so two readers could see two contents. Pack "
                "the model again.",
            )
        self._seen[key] = is_folder
        return None


def name_problem(name: str, *, is_folder: bool) -> str:
    """What is wrong with a member's name.

    Args:
      name: as stored.
      is_folder: it is a folder.

    Returns:
      A sentence without its subject; "" where the name is good.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or parts[0][1:2] == ":":
        return "leads out of the archive's folder."
    if refusals.has_control_characters(name):
        return "has control characters in its name."
    if len(name) > _MAX_NAME:
        return f"has a name of more than {_MAX_NAME:,} characters."
    if not is_folder and not [part for part in parts if part not in ("", ".")]:
        return "has no name."
    return ""
