"""Plans of an installation: what they do on a host, that they end, and what they leave alone."""

import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from edged.errors import EdgedError
from edged.node.install.installation import why_not, why_not_this_program
from edged.node.install.layout import TREE_MARK
from edged.node.install.seal import sealed
from edged.node.install.shipped import hidden_from_services
from edged.node.install.steps import GONE_CHECKS, Run, perform
from tests.node.fake_host import CONFIG_TEXT, PROGRAM, FakeHost

UNIT = "/etc/systemd/system/edged.service"
CONFIG = "/etc/edged/config.toml"
SYSUSERS = "/etc/sysusers.d/edged.conf"
AGENT = "/users/alice/Library/LaunchAgents/org.edged.edged.plist"


def test_a_service_of_the_system(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    assert fake.install() == [
        f"write {SYSUSERS}",
        f"run systemd-sysusers {tmp_path}{SYSUSERS}".replace(f"{tmp_path}/", "/"),
        f"write {CONFIG}",
        f"write {UNIT}",
        f"link /usr/local/bin/edged to {PROGRAM}",
        "link /usr/local/bin/edgectl to /opt/edged/bin/edgectl",
        "run systemctl daemon-reload",
        "run systemctl enable edged.service",
        "run systemctl start edged.service",
    ]
    files = fake.files()
    assert files[CONFIG] == sealed(CONFIG_TEXT)
    assert f"ExecStart={PROGRAM} serve" in files[UNIT]
    assert "SupplementaryGroups=video\n" in files[UNIT], "render is no group of this host"
    assert files["/usr/local/bin/edged"] == f"-> {PROGRAM}"


def test_a_service_of_a_user(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=True, uid=1000)
    assert fake.install() == [
        "write /users/alice/.config/edged/config.toml",
        "write /users/alice/.config/systemd/user/edged.service",
        f"link /users/alice/.local/bin/edged to {PROGRAM}",
        "link /users/alice/.local/bin/edgectl to /opt/edged/bin/edgectl",
        "run systemctl --user daemon-reload",
        "run systemctl --user enable edged.service",
        "run systemctl --user start edged.service",
    ]
    assert fake.install() == []


def test_a_program_that_every_shell_finds_needs_no_link(tmp_path: Path) -> None:
    for is_user in (True, False):
        fake = FakeHost(tmp_path / str(is_user), is_user=is_user, program=Path("/usr/bin/edged"))
        assert not any(step.startswith("link ") for step in fake.install())
        fake.uninstall()


def test_an_agent_of_macos(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=True, is_macos=True, uid=501)
    done = fake.install()
    assert done[1] == f"write {AGENT}"
    assert done[-1] == f"run launchctl bootstrap gui/501 {AGENT}"
    agent = plistlib.loads(fake.files()[AGENT].encode())
    assert agent["ProgramArguments"] == [str(PROGRAM), "serve"]
    assert agent["StandardErrorPath"] == "/users/alice/Library/Logs/edged.log"
    assert fake.install() == []
    fake.lingers = 3
    assert "run launchctl bootout gui/501/org.edged.edged" in fake.uninstall()
    assert [path for path in fake.files() if path.startswith("/users")] == []


@pytest.mark.parametrize("is_user", [False, True])
def test_a_second_installation_has_nothing_to_do(is_user: bool, tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=is_user)
    fake.install()
    before = fake.files()
    assert fake.install() == []
    assert fake.files() == before


def test_what_was_damaged_is_repaired_and_nothing_else(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    before = fake.files()
    (tmp_path / "usr/local/bin/edgectl").unlink()
    (tmp_path / "usr/local/bin/edgectl").symlink_to("/elsewhere")
    (tmp_path / "etc/systemd/system/edged.service").write_text("[Service]\n")
    assert fake.install() == [
        f"write {UNIT}",
        "link /usr/local/bin/edgectl to /opt/edged/bin/edgectl",
        "run systemctl daemon-reload",
        "run systemctl restart edged.service",
    ]
    assert fake.files() == before


def test_a_service_that_has_failed_is_started_again(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    fake.active_state = "failed"
    assert fake.install() == [
        "run systemctl reset-failed edged.service",
        "run systemctl start edged.service",
    ]


def test_a_program_of_that_name_is_left_alone(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    other = tmp_path / "usr/local/bin/edged"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\n")
    kept = f"keep /usr/local/bin/edged: it is not edged's; {PROGRAM} is the program"
    assert kept in fake.install()
    fake.uninstall()
    assert other.read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize("is_user", [False, True])
def test_removing_leaves_nothing(is_user: bool, tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=is_user)
    before = fake.files()
    fake.install()
    home = "users/alice/" if is_user else ""
    tree = ".local/share/edged" if is_user else "opt/edged"
    made = [".local/state/edged", ".cache/edged"] if is_user else ["var/lib/private/edged"]
    for folder in (*made, tree):
        (tmp_path / home / folder).mkdir(parents=True)
        (tmp_path / home / folder / TREE_MARK).write_text("")
    fake.uninstall()
    assert fake.files() == before
    assert (fake.active_state, fake.is_enabled) == ("inactive", False)
    assert fake.uninstall() == []


def test_removing_from_a_checkout_needs_the_standard_library_alone() -> None:
    """Asked to, where there is nothing to remove it from."""
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-m", "edged.node.install", "--user"],
        cwd=Path(__file__).parents[2],
        env={"HOME": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    sentence = "install: a service of a user needs a home directory: HOME is no absolute path\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_somebody_of_that_name_is_kept_and_told(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    users, groups = tmp_path / "etc/passwd", tmp_path / "etc/group"
    users.write_text(users.read_text() + "edged:x:1003:1003::/home/edged:/bin/bash\n")
    groups.write_text(groups.read_text() + "edged:x:1003:\n")
    before = fake.files()
    fake.install()
    assert "keep the user edged: it has a home, so that edged did not make it" in fake.uninstall()
    assert fake.files() == before


def test_what_others_made_is_kept_and_told(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.install()
    dropin = tmp_path / "etc/systemd/system/edged.service.d/mine.conf"
    tree = tmp_path / "opt/edged/bin/edged"
    for file in (dropin, tree):
        file.parent.mkdir(parents=True)
        file.write_text("")
    assert "keep /etc/systemd/system/edged.service.d: edged did not make it" in fake.uninstall()
    assert dropin.exists()
    assert tree.exists(), "it has no mark of scripts/install"


def test_a_command_that_fails_ends_the_installation_with_what_it_said(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, fails="systemctl start")
    with pytest.raises(EdgedError) as raised:
        fake.install()
    assert raised.value.detail == (
        "systemctl start edged.service failed: it would not\n"
        "its log: journalctl --unit edged --lines 20"
    )


def test_a_job_that_does_not_end_is_waited_for_so_long(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, lingers=GONE_CHECKS + 1)
    step = Run(("launchctl", "bootout", "gui/1/x"), then_gone=("launchctl", "print", "gui/1/x"))
    with pytest.raises(EdgedError, match="it has not ended within 75 s"):
        perform(step, fake.run, pause=lambda _: None)
    assert fake.asked.count("launchctl print gui/1/x") == GONE_CHECKS


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_nothing_speaks_against_a_usual_host(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    assert why_not(fake.host) is None
    assert why_not_this_program(fake.host, (PROGRAM,)) is None


def test_who_is_not_root_is_told_of_both_ways(tmp_path: Path) -> None:
    sentence = why_not(FakeHost(tmp_path, uid=1000).host)
    assert sentence is not None
    assert "sudo" in sentence
    assert "--user" in sentence


def test_a_host_without_systemd_is_told_so(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    (tmp_path / "run/systemd/system").rmdir()
    assert (why_not(fake.host) or "").startswith("systemd does not run this host")


def test_a_user_without_a_manager_is_told_how_to_get_one(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_user=True, has_user_manager=False)
    assert "loginctl enable-linger" in (why_not(fake.host) or "")


def test_a_system_service_of_macos_is_refused(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, is_macos=True)
    assert "--user" in (why_not(fake.host) or "")


@pytest.mark.parametrize("folder", ["/home", "/root", "/tmp/x", "/var/tmp", "/run/user/1"])
def test_a_program_that_the_unit_hides_is_refused_for_the_system(
    folder: str, tmp_path: Path
) -> None:
    needed = (Path("/usr/bin/python3"), Path(folder, "bin", "edged"))
    system, user = (FakeHost(tmp_path / name, is_user=name == "u") for name in ("s", "u"))
    assert f"this edged needs {folder}/bin/edged" in (
        why_not_this_program(system.host, needed) or ""
    )
    assert why_not_this_program(user.host, needed) is None


def test_a_program_is_also_hidden_behind_a_link(tmp_path: Path) -> None:
    link = Path("/proc/self/root/home")
    assert hidden_from_services((link / "alice",)) == Path("/home", "alice")
    assert hidden_from_services((Path("/usr/bin"), Path("/homes/edged"))) is None


def test_a_masked_unit_is_not_replaced(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    unit = tmp_path / UNIT.lstrip("/")
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    assert "systemctl unmask edged" in (why_not_this_program(fake.host, (PROGRAM,)) or "")
