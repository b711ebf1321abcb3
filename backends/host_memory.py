"""What host memory there is for this process: the system's, or what its control group leaves."""

from pathlib import Path
from typing import NamedTuple

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


class FreeMemory(NamedTuple):
    free_bytes: int
    """That can be taken now without making others swap."""
    total_bytes: int


def host_memory(own_group: Path = _OWN_GROUP, groups: Path = _GROUPS) -> FreeMemory:
    """The least of what the system and each control group above this process has. A file that is
    mapped or cached counts as free, since the system can drop it."""
    system = psutil.virtual_memory()
    limits = [FreeMemory(int(system.available), int(system.total))]
    limits += _group_limits(own_group, groups)
    return min(limits)


def _group_limits(own_group: Path, groups: Path) -> list[FreeMemory]:
    """Of cgroup v2, from this process's own to the root; where there are none, nothing."""
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return []
    found: list[FreeMemory] = []
    for line in lines:
        number, _, path = line.partition("::")
        if number != "0":  # an older hierarchy
            continue
        folder = groups / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(groups):
                break
            limit = _group_limit(group)
            found.extend(() if limit is None else (limit,))
    return found


def _group_limit(group: Path) -> FreeMemory | None:
    try:
        most = int((group / "memory.max").read_text())  # "max" where there is no limit
        used = int((group / "memory.current").read_text())
        inactive = _inactive_file_bytes((group / "memory.stat").read_text())
    except (OSError, ValueError):
        return None
    return FreeMemory(max(0, most - used + inactive), most)


def _inactive_file_bytes(stat: str) -> int:
    """Cached files, which the system drops before it refuses memory."""
    for line in stat.splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file":
            return int(number)
    return 0
