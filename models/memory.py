"""How much memory a process can still get. Standard library only."""

import math
from contextlib import suppress
from pathlib import Path

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# A container's limit, its usage, and its statistics, in Linux's current files and in the older ones.
FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def free_bytes() -> float:
    """Available main memory; infinite where it is unknown."""
    free = math.inf
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
        free = 1024 * int(line.split()[1])
    for names in FILES:
        with suppress(OSError, ValueError):  # a container may have less than its machine; a limit of "max" is no number
            allowed, used = (int((CGROUP / name).read_text()) for name in names[:2])
            free = min(free, max(0, allowed - used + _cached(CGROUP / names[2])))
    return free


def _cached(stat: Path) -> int:
    """A container's file cache, which can be reclaimed, except for files in use, such as programs."""
    with suppress(OSError, ValueError):
        entries = dict(line.split() for line in stat.read_text().splitlines())
        in_use = int(entries.get("file_mapped", entries.get("mapped_file", 0)))
        return max(0, int(entries.get("inactive_file", 0)) + int(entries.get("active_file", 0)) - in_use)
    return 0
