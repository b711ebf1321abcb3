"""Plans of an installation over an older one: what it refreshes, and that it is not forgotten."""

import subprocess
import time
from pathlib import Path

import pytest

from edged.errors import EdgedError
from edged.node.install.processes import started_s
from edged.node.install.seal import sealed
from edged.node.install.steps import changed_s
from tests.node.fake_host import CONFIG_TEXT, FILE_TIME_S, FakeHost

UNIT = "/etc/systemd/system/edged.service"
CONFIG = "/etc/edged/config.toml"
AGENT = "/users/alice/Library/LaunchAgents/org.edged.edged.plist"
RESTART = "run systemctl restart edged.service"
OLDER_TEXT = "# nothing was set\n"


def kept(name: str, command: str) -> str:
    return f"keep {name}: it runs what was installed before; to restart it: {command}"


# ── The service ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_user", [False, True])
def test_a_service_is_restarted_once_for_a_new_program(is_user: bool, tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=is_user)
    fake.upgrade()
    assert not any("restart" in step for step in fake.install()), "it was started from it"
    assert fake.install() == []
    fake.upgrade()
    user = "--user " if is_user else ""
    assert fake.install() == [f"run systemctl {user}restart edged.service"]
    assert fake.install() == []


@pytest.mark.parametrize("is_user", [False, True])
def test_an_older_service_that_is_not_to_be_started_runs_on_and_that_is_told(
    is_user: bool, tmp_path: Path
) -> None:
    fake = FakeHost(tmp_path, is_user=is_user)
    fake.install()
    fake.upgrade()
    command = f"systemctl {'--user ' if is_user else ''}restart edged.service"
    for _ in range(2):
        assert fake.install(starts=False) == [kept("edged.service", command)]
    assert fake.install() == [f"run {command}"]
    assert fake.install(starts=False) == []


def test_a_service_that_does_not_run_needs_no_restart(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    fake.active_state = "inactive"
    fake.upgrade()
    assert fake.install(starts=False) == []
    assert fake.install() == ["run systemctl start edged.service"]


def test_an_older_service_that_is_still_starting_is_restarted(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    fake.active_state = "activating"
    assert fake.install() == ["run systemctl start edged.service"]
    fake.active_state = "activating"
    fake.upgrade()
    assert fake.install() == [RESTART]


def test_a_new_unit_is_not_forgotten_either(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    time.sleep(FILE_TIME_S)
    (tmp_path / UNIT.lstrip("/")).write_text("[Service]\n")
    assert fake.install(starts=False) == [
        f"write {UNIT}",
        "run systemctl daemon-reload",
        kept("edged.service", "systemctl restart edged.service"),
    ]
    assert fake.install() == [RESTART]
    assert fake.install() == []


@pytest.mark.parametrize(("is_macos", "verb"), [(False, "restart"), (True, "bootstrap")])
def test_a_unit_that_is_written_anew_is_started_from(
    is_macos: bool, verb: str, tmp_path: Path
) -> None:
    fake = FakeHost(tmp_path, is_user=True, is_macos=is_macos)
    fake.install()
    fake.program = Path("/opt/other/bin/edged")
    assert verb in fake.install()[-1]
    assert fake.install() == []


def test_an_upgrade_that_failed_before_the_restart_goes_on_there(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    fake.upgrade()
    (tmp_path / UNIT.lstrip("/")).write_text("[Service]\n")
    fake.fails = "daemon-reload"
    with pytest.raises(EdgedError):
        fake.install()
    fake.fails = ""
    assert fake.install()[-1] == RESTART
    assert fake.install() == []


def test_an_agent_of_macos(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=True, is_macos=True, uid=501)
    restart = [
        "run launchctl bootout gui/501/org.edged.edged",
        f"run launchctl bootstrap gui/501 {AGENT}",
    ]
    left = kept("org.edged.edged", "edged install-service --user")
    fake.install()
    fake.upgrade()
    assert fake.install(starts=False) == [left]
    assert fake.install() == restart
    assert fake.install() == []
    time.sleep(FILE_TIME_S)
    (tmp_path / AGENT.lstrip("/")).write_text("")
    assert fake.install(starts=False) == [f"write {AGENT}", left]
    assert fake.install() == restart
    assert fake.install() == []


def test_a_process_and_a_file_are_put_in_order(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    before_s = changed_s(file)
    time.sleep(FILE_TIME_S)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            time.sleep(FILE_TIME_S)
            file.chmod(0o600)  # like a copy that keeps the time when the original was written
            after_s = changed_s(file)
            time.sleep(FILE_TIME_S)
            assert before_s < (started_s(process.pid) or 0) < after_s
        finally:
            process.kill()
    assert started_s(process.pid) is None
    assert started_s(0) is None
    assert changed_s(tmp_path / "missing") == 0


# ── The configuration ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def older(tmp_path: Path) -> FakeHost:
    """A host where another version is installed."""
    fake = FakeHost(tmp_path)
    fake.install(config_text=OLDER_TEXT)
    return fake


def test_a_configuration_that_nobody_changed_is_kept_up_to_date(older: FakeHost) -> None:
    assert older.install() == [f"write {CONFIG}: another version wrote it, and nobody changed it"]
    assert older.files()[CONFIG] == sealed(CONFIG_TEXT)
    assert older.install() == []


def test_a_configuration_that_nobody_changed_is_removed(older: FakeHost) -> None:
    assert f"remove {CONFIG}" in older.uninstall()
    assert CONFIG not in older.files()


@pytest.mark.parametrize(
    "text",
    [
        sealed(OLDER_TEXT) + "[server]\n",
        sealed(OLDER_TEXT).replace("nothing", "little"),
        sealed(OLDER_TEXT).replace("\n", "\r\n"),
        f"# mine\n{sealed(OLDER_TEXT)}",
        OLDER_TEXT,
        "[server]\n",
        "",
    ],
)
def test_a_configuration_that_somebody_wrote_is_left_alone(text: str, older: FakeHost) -> None:
    file = older.root / CONFIG.lstrip("/")
    file.write_bytes(text.encode())
    assert older.install() == []
    assert f"keep {CONFIG}: it was changed" in older.uninstall()
    assert file.read_bytes() == text.encode()


def test_a_configuration_that_is_a_link_is_left_alone(older: FakeHost) -> None:
    file = older.root / CONFIG.lstrip("/")
    file.rename(older.root / "mine")
    file.symlink_to(older.root / "mine")
    assert older.install() == []
    assert f"keep {CONFIG}: it was changed" in older.uninstall()


def test_a_change_that_was_taken_back_is_none(older: FakeHost) -> None:
    file = older.root / CONFIG.lstrip("/")
    before = file.read_text()
    file.write_text(f"{before}[server]\n")
    file.write_text(before)
    assert f"remove {CONFIG}" in older.uninstall()
