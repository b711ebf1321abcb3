"""Whether models fit."""

from collections.abc import Mapping

import pytest

from edged.node.doctor.memory import check, host_memory
from edged.node.doctor.subject import Answer, Running
from tests.node.doctor.machine import VERSION, Machine, found, levels

KIB, MIB = 1024, 1024**2
MODEL = '[models.m]\npath = "/models/m.gguf"\n'


def memory(machine: Machine, *, total: int, available: int | None = None, swap: int = 0) -> None:
    numbers = {"MemTotal": total, "MemAvailable": available or total, "SwapTotal": swap}
    lines = [f"{name}:   {number // KIB} kB" for name, number in numbers.items()]
    machine.write("/proc/meminfo", "\n".join([*lines, "HugePages_Total: 0"]))


def model(machine: Machine, num_bytes: int, path: str = "/models/m.gguf") -> None:
    """A file of that size which takes no room."""
    with machine.write(path).open("wb") as file:
        file.truncate(num_bytes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"total": 4096 * MIB}, {"memory.size": "ok"}),
        ({"total": 4096 * MIB, "available": 512 * MIB}, {"memory.used": "warning"}),
        ({"total": 800 * MIB, "swap": 800 * MIB}, {"memory.size": "warning"}),
        ({"total": 800 * MIB, "swap": 100 * MIB}, {"memory.size": "problem"}),
    ],
)
def test_weights_have_to_fit(
    machine: Machine, sizes: Mapping[str, int], expected: dict[str, str]
) -> None:
    model(machine, 1000 * MIB)
    memory(machine, **sizes)
    assert levels(check, machine.subject(MODEL)) == expected


def test_a_model_that_is_too_large_comes_with_sizes_and_a_fix(machine: Machine) -> None:
    model(machine, 2048 * MIB)
    memory(machine, total=1024 * MIB)
    finding = found(check, machine.subject(MODEL))["memory.size"]
    assert "need 2.0 GiB" in finding.text
    assert "this machine has 1.0 GiB" in finding.text
    assert "smaller model" in finding.fix


def test_the_configured_kv_counts(machine: Machine) -> None:
    model(machine, 900 * MIB)
    memory(machine, total=1000 * MIB)
    assert levels(check, machine.subject(MODEL)) == {"memory.size": "ok"}
    with_kv = machine.subject(f"{MODEL}kv_memory = {200 * MIB}\n")
    assert levels(check, with_kv) == {"memory.size": "problem"}


def test_all_parts_of_a_model_count(machine: Machine) -> None:
    for part in (1, 2):
        model(machine, 600 * MIB, f"/models/m-0000{part}-of-00002.gguf")
    memory(machine, total=1000 * MIB)
    subject = machine.subject('[models.m]\npath = "/models/m-00001-of-00002.gguf"\n')
    assert levels(check, subject) == {"memory.size": "problem"}


def test_a_model_that_is_loaded_later_does_not_count(machine: Machine) -> None:
    model(machine, 2000 * MIB)
    memory(machine, total=1000 * MIB)
    assert levels(check, machine.subject(f"{MODEL}preload = false\n")) == {"memory.size": "ok"}


@pytest.mark.parametrize(
    ("is_local", "expected"), [(True, {"memory.size": "ok"}), (False, {"memory.used": "warning"})]
)
def test_a_daemon_that_runs_here_has_its_memory_already(
    machine: Machine, is_local: bool, expected: dict[str, str]
) -> None:
    def running() -> Answer:
        return Running("here", VERSION, "ready", is_local=is_local)

    model(machine, 1000 * MIB)
    memory(machine, total=1200 * MIB, available=10 * MIB)
    assert levels(check, machine.subject(MODEL, ask_usual=running)) == expected


def test_what_may_go_to_a_gpu_is_no_problem_of_the_host(machine: Machine) -> None:
    machine.device("0000:01:00.0", "0x10de")
    machine.llama("libggml-cuda.so")
    model(machine, 2000 * MIB)
    memory(machine, total=1000 * MIB)
    assert levels(check, machine.subject(MODEL)) == {"memory.size": "note"}


def test_the_tightest_control_group_counts(machine: Machine) -> None:
    memory(machine, total=4096 * MIB, swap=4096 * MIB)
    machine.write("/proc/self/cgroup", "0::/outer/inner\n")
    machine.write("/sys/fs/cgroup/outer/memory.max", str(500 * MIB))
    machine.write("/sys/fs/cgroup/outer/memory.current", str(300 * MIB))
    machine.write("/sys/fs/cgroup/outer/memory.stat", f"anon 1\ninactive_file {100 * MIB}\n")
    machine.write("/sys/fs/cgroup/outer/memory.swap.max", "0")
    machine.write("/sys/fs/cgroup/outer/inner/memory.max", "max")
    machine.write("/sys/fs/cgroup/outer/inner/memory.current", "5")
    seen = host_memory(machine.host())
    assert seen is not None
    assert (seen.total_bytes, seen.available_bytes, seen.swap_bytes) == (500 * MIB, 300 * MIB, 0)
    model(machine, 600 * MIB)
    finding = found(check, machine.subject(MODEL))["memory.size"]
    assert finding.level == "problem"
    assert "the control group of the daemon has 500 MiB" in finding.text
    assert "MemoryMax=" in finding.fix


def group(machine: Machine, name: str, most: int | str) -> None:
    machine.write(f"/sys/fs/cgroup{name}/memory.max", str(most))
    machine.write(f"/sys/fs/cgroup{name}/memory.current", "0")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (None, "ok"),
        ({"MemoryMax": "infinity", "Slice": "system.slice"}, "ok"),
        ({"MemoryMax": str(2**64 - 1)}, "ok"),
        ({"MemoryMax": str(800 * MIB)}, "problem"),
        ({"MemoryMax": "infinity", "ControlGroup": "/system.slice/edged.service"}, "problem"),
        ({"MemoryMax": str(800 * MIB), "MemorySwapMax": str(400 * MIB)}, "warning"),
        ({"Slice": "small.slice"}, "problem"),
    ],
)
def test_for_a_service_its_own_control_group_counts_and_not_that_of_who_asks(
    machine: Machine, unit: dict[str, str] | None, expected: str
) -> None:
    memory(machine, total=4096 * MIB, swap=4096 * MIB if unit and len(unit) == 2 else 0)
    model(machine, 1000 * MIB)
    machine.service(unit)
    machine.write("/proc/self/cgroup", "0::/user.slice\n")
    group(machine, "/user.slice", 500 * MIB)
    group(machine, "/small.slice", 500 * MIB)
    group(machine, "/system.slice", "max")
    group(machine, "/system.slice/edged.service", 800 * MIB)
    machine.write("/sys/fs/cgroup/system.slice/edged.service/memory.swap.max", "0")
    assert levels(check, machine.subject(MODEL)) == {"memory.size": expected}


ARC = """13 1 0x01 147 39984 8265339157 1234567890
name                            type data
hits                            4    123456
c_min                           4    {least}
size                            4    {size}
"""


def test_what_zfs_caches_is_told_since_the_daemon_does_not_count_on_it(machine: Machine) -> None:
    model(machine, 1000 * MIB)
    memory(machine, total=4096 * MIB, available=400 * MIB)
    assert "ZFS" not in found(check, machine.subject(MODEL))["memory.used"].text
    arc = "/proc/spl/kstat/zfs/arcstats"
    machine.write(arc, ARC.format(least=128 * MIB, size=3200 * MIB))
    finding = found(check, machine.subject(MODEL))["memory.used"]
    assert finding.level == "warning"
    assert "ZFS caches files in 3.0 GiB more" in finding.text
    assert f"echo {2048 * MIB} | sudo tee /sys/module/zfs/parameters/zfs_arc_max" in finding.fix
    machine.write(arc, ARC.format(least=128 * MIB, size=200 * MIB))
    assert "ZFS" not in found(check, machine.subject(MODEL))["memory.used"].text


def test_an_older_control_group_counts_too(machine: Machine) -> None:
    memory(machine, total=4096 * MIB)
    machine.write("/proc/self/cgroup", "4:memory:/mine\n0::/\n")
    machine.write("/sys/fs/cgroup/memory/mine/memory.limit_in_bytes", str(500 * MIB))
    machine.write("/sys/fs/cgroup/memory/mine/memory.usage_in_bytes", "0")
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    machine.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "0")
    seen = host_memory(machine.host())
    assert seen is not None
    assert seen.total_bytes == 500 * MIB


def test_a_system_that_promises_too_little_is_a_warning(machine: Machine) -> None:
    memory(machine, total=1000 * MIB)
    machine.write("/proc/sys/vm/overcommit_memory", "2\n")
    finding = found(check, machine.subject())["memory.overcommit"]
    assert (finding.level, finding.fix) == ("warning", "sudo sysctl vm.overcommit_memory=0")


def test_memory_that_cannot_be_seen_is_a_note(machine: Machine) -> None:
    assert levels(check, machine.subject()) == {"memory.unknown": "note"}
