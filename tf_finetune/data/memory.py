"""How much memory a cache of pixels may count on."""

import os

_MEMINFO = "/proc/meminfo"
_CGROUP_DIR = "/sys/fs/cgroup"


def find_available_bytes() -> int:
    """Memory that this process can still take without swapping or being killed.

    Linux says so itself, and a container may allow less. Elsewhere half of the machine's memory
    is assumed to be free.

    Returns:
      Bytes, 0 or more.

    Reference:
      Linux kernel, Documentation/filesystems/proc.rst (MemAvailable) and
      Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.current).
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if os.path.exists(_MEMINFO):
        with open(_MEMINFO, encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (_read_cgroup(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        available = min(available, max(limit - used, 0))
    return available


def _read_cgroup(name: str) -> int | None:
    """A number of this container; None outside of one or where it sets no limit."""
    path = os.path.join(_CGROUP_DIR, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="ascii") as file:
        text = file.read().strip()
    return int(text) if text.isdigit() else None
