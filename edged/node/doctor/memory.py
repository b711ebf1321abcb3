"""Do the models fit into this machine's memory, and into what its control group leaves?

Theory of operation: weights are what is certain, so they are counted, and the KV where its size is
configured; activations and KV of its own choice the daemon fits to what is left. Weights that may
go to a GPU need no memory of the host, so then nothing here is worse than a note.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from edged.config import ModelSettings
from edged.embedded import EMBEDDED, PACKAGE
from edged.node.doctor.environment import daemon_host
from edged.node.doctor.finding import Finding, Level, note, ok, warning
from edged.node.doctor.gpu import has_usable_build
from edged.node.doctor.host import Host
from edged.node.doctor.runtime import package_folder
from edged.node.doctor.subject import Subject
from edged.node.doctor.unit import Unit

_KIB = 1024
_ITS_GROUP = "the control group of the daemon"
_ZFS_STATISTICS = "/proc/spl/kstat/zfs/arcstats"
_ZFS_MOST = "/sys/module/zfs/parameters/zfs_arc_max"
_OVERCOMMIT_NEVER = "2"
_NO_LIMIT_BYTES = 2**60
"""What the older control groups have for none is about 2**63."""


@dataclass(frozen=True, slots=True)
class Memory:
    total_bytes: int
    available_bytes: int
    swap_bytes: int
    limited_by: str
    """"this machine", or the control group that allows less."""


def check(subject: Subject) -> Iterator[Finding]:
    memory = host_memory(subject.host, subject.unit)
    if memory is None:
        yield note("memory.unknown", "how much memory there is cannot be seen here")
        return
    yield from _fits(subject, memory)
    if subject.host.read("/proc/sys/vm/overcommit_memory") == _OVERCOMMIT_NEVER:
        yield warning(
            "memory.overcommit",
            "the system promises no more memory than it has (vm.overcommit_memory = 2), so that "
            "a model may fail to load though it would fit",
            "sudo sysctl vm.overcommit_memory=0",
        )


def host_memory(host: Host, unit: Unit | None = None) -> Memory | None:
    """Of the machine, or of the tightest control group above the daemon: the service's, else that
    of this process."""
    if host.system == "linux":
        found = _meminfo(host)
    else:
        virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
        found = Memory(int(virtual.total), int(virtual.available), int(swap.total), "this machine")
    if found is None:
        return None
    every = [*_groups(host, unit), *_limit_of(unit)]
    groups = [group for group in every if group.total_bytes < found.total_bytes]
    tightest = min(groups, key=lambda group: group.total_bytes, default=found)
    available = min(found.available_bytes, tightest.available_bytes)
    swap_bytes = min(found.swap_bytes, tightest.swap_bytes)
    return Memory(tightest.total_bytes, available, swap_bytes, tightest.limited_by)


def size_of(subject: Subject, model: ModelSettings) -> int | None:
    """Bytes of a model's weights; None if there is no such file."""
    host = subject.host
    if model.path == EMBEDDED:
        # It is the same size wherever it is installed.
        folder = package_folder(daemon_host(subject) or host, PACKAGE)
        files = [] if folder is None else sorted(folder.glob("*.gguf"))
        return files[0].stat().st_size if files else None
    path = host.path(subject.outside(model.path))
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.glob("*.safetensors"))
        return sum(part.stat().st_size for part in _parts(path))
    except OSError:
        return None


def shown_bytes(number: float) -> str:
    """For a glance, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit != "GiB" else f"{number:.1f} GiB"
        number /= 1024
    return f"{number:.1f} TiB"


def _parts(path: Path) -> list[Path]:
    """A large model may be in several files, NAME-00001-of-00003.gguf, of which the first is
    configured."""
    stem, mark, rest = path.name.partition("-00001-of-")
    parts = sorted(path.parent.glob(f"{stem}-*-of-{rest}")) if mark else []
    return parts or [path]


def _fits(subject: Subject, memory: Memory) -> Iterator[Finding]:
    weights = {
        name: size
        for name, model in subject.models.items()
        if model.preload
        and subject.backend_of(model) != "sim"
        and (size := size_of(subject, model)) is not None
    }
    kv = [
        model.engine.kv_memory
        for name, model in subject.models.items()
        if name in weights and model.engine.kv_memory != "auto"
    ]
    needed = sum(weights.values()) + sum(kv)
    what = f"{len(weights)} model(s) that are loaded at the start need {shown_bytes(needed)}"
    what += " with their KV" if kv else " for their weights alone"
    has = f"{memory.limited_by} has {shown_bytes(memory.total_bytes)}"
    is_running = subject.local_daemon is not None
    if not weights:
        yield ok("memory.size", f"{has}; no model's weights have to fit")
    elif needed > memory.total_bytes + memory.swap_bytes:
        yield _short(subject, Level.PROBLEM, f"{what}, and {has}")
    elif needed > memory.total_bytes:
        yield _short(
            subject,
            Level.WARNING,
            f"{what}, and {has}: they fit with swap only, and will be slow",
        )
    elif needed > memory.available_bytes and not is_running:
        yield _used(subject, memory, what)
    else:
        yield ok("memory.size", f"{what}, and {has}")


def _used(subject: Subject, memory: Memory, what: str) -> Finding:
    """The system does not count what ZFS caches as free, and so neither does the daemon."""
    free = shown_bytes(memory.available_bytes)
    text = f"{what}, and of {shown_bytes(memory.total_bytes)} only {free} are free now"
    fix = "end what else needs memory before the daemon starts (`ps aux --sort -rss | head`)"
    cache_bytes = _zfs_cache_bytes(subject.host)
    if cache_bytes > memory.total_bytes / 10:
        text += (
            f"; ZFS caches files in {shown_bytes(cache_bytes)} more, which it would give back, and "
            "edged does not count on"
        )
        half = memory.total_bytes // 2
        fix = f"let ZFS cache less: echo {half} | sudo tee {_ZFS_MOST}; or {fix}"
    return Finding("memory.used", _unless_gpu(subject, Level.WARNING), text, fix)


def _zfs_cache_bytes(host: Host) -> int:
    """That ZFS would give back if memory is asked for; 0 without it."""
    words = (line.split() for line in (host.read(_ZFS_STATISTICS) or "").splitlines())
    numbers = {line[0]: int(line[2]) for line in words if len(line) == 3 and line[2].isdecimal()}
    return max(0, numbers.get("size", 0) - numbers.get("c_min", 0))


def _short(subject: Subject, level: Level, text: str) -> Finding:
    more = "; or raise the limit of the control group (MemoryMax= in a unit)"
    more = more if _ITS_GROUP in text else ""
    return Finding(
        "memory.size",
        _unless_gpu(subject, level),
        text,
        "use a smaller model, or one that is quantized further; or load fewer at the start "
        f"(preload = false){more}",
    )


def _unless_gpu(subject: Subject, level: Level) -> Level:
    return Level.NOTE if has_usable_build(subject) else level


def _meminfo(host: Host) -> Memory | None:
    numbers: dict[str, int] = {}
    for line in (host.read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0] if rest.split() else ""
        if number.isdecimal():
            numbers[name] = int(number) * _KIB
    if "MemTotal" not in numbers:
        return None
    available = numbers.get("MemAvailable", numbers.get("MemFree", numbers["MemTotal"]))
    return Memory(numbers["MemTotal"], available, numbers.get("SwapTotal", 0), "this machine")


def _groups(host: Host, unit: Unit | None) -> Iterator[Memory]:
    """Those with a limit, of both kinds of hierarchy, from the daemon's own to the root."""
    if unit is None:
        lines = (host.read("/proc/self/cgroup") or "").splitlines()
    else:
        lines = [f"0::{unit.control_group}", f"1:memory:{unit.control_group}"]
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds == "":
            base, most, used = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif kinds == "memory":
            base = "/sys/fs/cgroup/memory"
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = Path(path.lstrip("/"))
        for group in (folder, *folder.parents):
            limit = _limit(host, f"{base}/{group}", most, used)
            if limit is not None:
                yield limit


def _limit_of(unit: Unit | None) -> Iterator[Memory]:
    """What the unit says, which holds for a control group that is made at the start."""
    most = None if unit is None or unit.runs else unit.number("MemoryMax")
    if unit is not None and most is not None:
        swap_bytes = unit.number("MemorySwapMax")
        yield Memory(most, most, _NO_LIMIT_BYTES if swap_bytes is None else swap_bytes, _ITS_GROUP)


def _limit(host: Host, group: str, most: str, used: str) -> Memory | None:
    limit, usage = host.read(f"{group}/{most}") or "", host.read(f"{group}/{used}") or ""
    if not limit.isdecimal() or not usage.isdecimal() or int(limit) >= _NO_LIMIT_BYTES:
        return None
    cached = 0
    for line in (host.read(f"{group}/memory.stat") or "").splitlines():
        name, _, number = line.partition(" ")
        # Cached files, which the system drops before it refuses memory.
        cached = int(number) if name == "inactive_file" else cached
    swap = host.read(f"{group}/memory.swap.max") or ""
    swap_bytes = int(swap) if swap.isdecimal() else _NO_LIMIT_BYTES
    available = max(0, int(limit) - int(usage) + cached)
    return Memory(int(limit), available, swap_bytes, _ITS_GROUP)
