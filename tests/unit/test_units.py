"""The files for service managers: systemd and Apple's documentation have nothing against them."""

import plistlib
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from edged.node.install.layout import AGENT
from edged.node.install.shipped import FOLDER, service_file
from edged.node.install.units import GPU_GROUPS, filled_agent, filled_unit

ROOT = Path(__file__).parents[2]
UNITS = ("edged.service", "edged-user.service")
MAX_EXPOSURE_TENTHS = 20

_DOCUMENTED = """
AbandonProcessGroup AssociatedBundleIdentifiers BundleProgram Debug Disabled EnableGlobbing
EnablePressuredExit EnableTransactions EnvironmentVariables ExitTimeOut GroupName
HardResourceLimits HopefullyExitsFirst HopefullyExitsLast InitGroups KeepAlive Label LaunchEvents
LaunchOnlyOnce LegacyTimers LimitLoadFromHardware LimitLoadFromHosts LimitLoadToHardware
LimitLoadToHosts LimitLoadToSessionType LowPriorityBackgroundIO LowPriorityIO MachServices
MaterializeDatalessFiles Nice OnDemand ProcessType Program ProgramArguments QueueDirectories
RootDirectory RunAtLoad ServiceIPC SessionCreate Sockets SoftResourceLimits StandardErrorPath
StandardInPath StandardOutPath StartCalendarInterval StartInterval StartOnMount ThrottleInterval
TimeOut Umask UserName WaitForDebugger WatchPaths WorkingDirectory inetdCompatibility
"""
LAUNCHD_KEYS = frozenset(_DOCUMENTED.split())
"""Of launchd.plist(5)."""
KEEP_ALIVE_KEYS = frozenset(
    (
        "SuccessfulExit",
        "NetworkState",
        "PathState",
        "OtherJobEnabled",
        "Crashed",
        "AfterInitialDemand",
    )
)
_RESOURCES = (
    "Core CPU Data FileSize MemoryLock NumberOfFiles NumberOfProcesses ResidentSetSize Stack"
)
RESOURCE_KEYS = frozenset(_RESOURCES.split())
PROCESS_TYPES = {"Background", "Standard", "Adaptive", "Interactive"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """One that exists, which is among what is verified."""
    path = tmp_path / "my programs" / "edged"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def analyze(*arguments: str, runtime: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(runtime), "HOME": str(runtime)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", UNITS)
def test_systemd_verifies_the_unit_without_a_word(name: str, program: Path, tmp_path: Path) -> None:
    unit = tmp_path / "edged.service"
    unit.write_text(filled_unit(service_file(name).read_text(), program))
    manager = ("--user",) if "user" in name else ()
    done = analyze(*manager, "--recursive-errors=no", "verify", str(unit), runtime=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_exposed_to_little(tmp_path: Path) -> None:
    unit = str(service_file("edged.service"))
    flags = ("--offline=true", f"--threshold={MAX_EXPOSURE_TENTHS}", "--no-pager")
    done = analyze("security", *flags, unit, runtime=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout, "it was assessed"


def test_the_agent_has_only_keys_that_are_documented() -> None:
    agent = plistlib.loads(service_file(f"{AGENT}.plist").read_bytes())
    assert set(agent) <= LAUNCHD_KEYS
    assert set(agent["KeepAlive"]) <= KEEP_ALIVE_KEYS
    assert set(agent["SoftResourceLimits"]) <= RESOURCE_KEYS
    assert agent["ProcessType"] in PROCESS_TYPES
    assert agent["Label"] == AGENT, "the file is named after the job"
    assert agent["RunAtLoad"] is True
    assert agent["Umask"] == 0o077


def test_the_agent_is_filled_in() -> None:
    shipped = service_file(f"{AGENT}.plist").read_bytes()
    text = filled_agent(shipped, Path("/a & b/edged"), Path("/logs/edged.log"))
    agent = plistlib.loads(text.encode())
    assert agent["ProgramArguments"] == ["/a & b/edged", "serve"]
    assert agent["StandardErrorPath"] == "/logs/edged.log"
    untouched = {"ProgramArguments", "StandardErrorPath"}
    expected = plistlib.loads(shipped)
    assert {key: agent[key] for key in agent if key not in untouched} == {
        key: expected[key] for key in expected if key not in untouched
    }


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/opt/edged/bin/edged", "/opt/edged/bin/edged"),
        ("/my programs/edged", '"/my programs/edged"'),
        ("/100%/edged", "/100%%/edged"),
        ('/a"b/edged', '"/a\\"b/edged"'),
    ],
)
def test_a_path_is_written_as_systemd_reads_it(path: str, written: str) -> None:
    unit = filled_unit(service_file("edged.service").read_text(), Path(path))
    assert f"ExecStart={written} serve" in unit.splitlines()


@pytest.mark.parametrize("groups", [(), ("video",), GPU_GROUPS])
def test_only_groups_that_exist_are_in_the_unit(groups: tuple[str, ...]) -> None:
    unit = filled_unit(service_file("edged.service").read_text(), Path("/edged"), groups)
    lines = [line for line in unit.splitlines() if line.startswith("SupplementaryGroups=")]
    assert lines == ([f"SupplementaryGroups={' '.join(groups)}"] if groups else [])


def test_a_wheel_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data_files = project["tool"]["setuptools"]["data-files"]
    assert data_files == {f"share/edged/{FOLDER}": [f"{FOLDER}/*"]}
    assert all(path.is_file() for path in (ROOT / FOLDER).iterdir())
