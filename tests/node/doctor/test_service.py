"""The service, as fake programs of systemd tell of it."""

import shlex

import pytest

from edged.node.doctor.service import check
from tests.node.doctor.machine import VERSION, Machine, found, levels

JOURNAL = """
case "$*" in
    *_SYSTEMD_UNIT=edged.service*) echo "cannot listen" ;;
    *) echo "Failed to start edged.service" ;;
esac
"""
"""What is the daemon's own, and what systemd says of it."""


def unit(machine: Machine, scope: str = "--system", **changes: str) -> None:
    """What systemctl says of it in one scope; in the other there is none."""
    machine.folder("/run/systemd/system")
    shown = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "Result": "success",
        "NeedDaemonReload": "no",
        **changes,
    }
    lines = shlex.quote("\n".join(f"{name}={value}" for name, value in shown.items()))
    machine.command(
        "systemctl", f"if [ $1 = {scope} ]; then echo {lines}; else echo LoadState=not-found; fi"
    )


def program(machine: Machine, version: str = VERSION) -> str:
    """An installed edged, as ExecStart shows it."""
    machine.write("/opt/edged", f'#!/bin/sh\necho \'{{"version": "{version}"}}\'\n', mode=0o755)
    return "{ path=/opt/edged ; argv[]=/opt/edged serve ; ignore_errors=no }"


def test_without_systemd_there_is_no_service(machine: Machine) -> None:
    assert levels(check, machine.subject()) == {"service.none": "ok"}


def test_without_a_unit_there_is_no_service(machine: Machine) -> None:
    unit(machine, "--nowhere")
    assert levels(check, machine.subject()) == {"service.none": "ok"}


def test_a_service_that_runs_this_version_is_in_order(machine: Machine) -> None:
    unit(machine, ExecStart=program(machine))
    assert levels(check, machine.subject()) == {"service.active": "ok", "service.version": "ok"}


def test_a_program_may_lie_in_a_folder_with_a_space(machine: Machine) -> None:
    at = "/opt/some folder/edged"
    machine.write(at, f'#!/bin/sh\necho \'{{"version": "{VERSION}"}}\'\n', mode=0o755)
    unit(machine, ExecStart=f"{{ path={at} ; argv[]={at} serve ; ignore_errors=no }}")
    finding = found(check, machine.subject())["service.version"]
    assert (finding.level, finding.text) == ("ok", f"{at} is edged {VERSION}")


def test_a_service_that_failed_comes_with_its_last_line(machine: Machine) -> None:
    unit(machine, ActiveState="failed", Result="exit-code", ExecMainStatus="78")
    machine.command("journalctl", JOURNAL)
    finding = found(check, machine.subject())["service.failed"]
    assert finding.level == "problem"
    assert finding.text == (
        "edged.service has failed (exit-code, code 78); its last line: cannot listen"
    )
    assert "journalctl -u edged.service" in finding.fix


@pytest.mark.parametrize(
    ("shown", "times"),
    [
        ({"SubState": "auto-restart", "Result": "exit-code", "ExecMainStatus": "1"}, ""),
        ({"SubState": "auto-restart-queued", "NRestarts": "3"}, "3 time(s)"),
        ({"SubState": "start", "NRestarts": "4"}, "4 time(s)"),
    ],
)
def test_a_service_that_is_started_again_and_again_is_a_problem(
    machine: Machine, shown: dict[str, str], times: str
) -> None:
    unit(machine, ActiveState="activating", **shown)
    machine.command("journalctl", JOURNAL)
    finding = found(check, machine.subject())["service.failing"]
    assert finding.level == "problem"
    assert times in finding.text
    assert ("(exit-code, code 1)" in finding.text) is ("Result" in shown)
    assert finding.text.endswith("; its last line: cannot listen")
    assert "journalctl -u edged.service tells why" in finding.fix


@pytest.mark.parametrize(
    ("state", "expected"),
    [("activating", "is starting"), ("deactivating", "is stopping")],
)
def test_a_service_on_its_way_is_a_note(machine: Machine, state: str, expected: str) -> None:
    unit(machine, ActiveState=state, SubState="start", NRestarts="0")
    finding = found(check, machine.subject())["service.changing"]
    assert (finding.level, finding.text) == ("note", f"edged.service {expected}")


def test_a_service_that_came_back_is_a_note(machine: Machine) -> None:
    unit(machine, NRestarts="2")
    finding = found(check, machine.subject())["service.restarted"]
    assert finding.level == "note"
    assert "2 time(s)" in finding.text


def test_a_service_that_does_not_run_is_a_note(machine: Machine) -> None:
    unit(machine, ActiveState="inactive", UnitFileState="disabled")
    assert levels(check, machine.subject()) == {
        "service.inactive": "note",
        "service.disabled": "note",
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [("masked", {"service.masked": "note"}), ("bad-setting", {"service.unit": "problem"})],
)
def test_a_unit_that_is_not_loaded_is_told(
    machine: Machine, state: str, expected: dict[str, str]
) -> None:
    unit(machine, LoadState=state, ActiveState="inactive")
    assert levels(check, machine.subject()) == expected


def test_a_unit_that_was_changed_is_a_warning(machine: Machine) -> None:
    unit(machine, NeedDaemonReload="yes")
    finding = found(check, machine.subject())["service.changed"]
    assert finding.fix.startswith("sudo systemctl daemon-reload")


def test_a_program_that_is_gone_is_a_problem(machine: Machine) -> None:
    unit(machine, ExecStart="{ path=/opt/edged ; argv[]=/opt/edged serve }")
    finding = found(check, machine.subject())["service.program"]
    assert finding.level == "problem"
    assert "/opt/edged, which is not there" in finding.text


def test_a_program_of_another_version_is_a_warning(machine: Machine) -> None:
    unit(machine, ExecStart=program(machine, "0.0.9"))
    finding = found(check, machine.subject())["service.version"]
    assert finding.level == "warning"
    assert "edged 0.0.9" in finding.text


def test_a_program_that_does_not_tell_its_version_is_a_note(machine: Machine) -> None:
    machine.write("/opt/edged", "#!/bin/sh\necho what\n", mode=0o755)
    unit(machine, ExecStart="{ path=/opt/edged ; }")
    assert levels(check, machine.subject())["service.version"] == "note"


def test_a_user_s_service_ends_with_the_session_unless_the_user_lingers(machine: Machine) -> None:
    unit(machine, "--user")
    finding = found(check, machine.subject())["service.linger"]
    assert (finding.level, finding.fix) == ("note", "sudo loginctl enable-linger somebody")
    machine.write("/var/lib/systemd/linger/somebody")
    assert levels(check, machine.subject()) == {"service.active": "ok"}


def test_on_a_mac_launchd_is_asked(machine: Machine) -> None:
    machine.environ["HOME"] = "/users/somebody"
    subject = machine.subject(system="darwin")
    assert levels(check, subject) == {"service.none": "ok"}
    machine.write("/users/somebody/Library/LaunchAgents/org.edged.plist")
    assert levels(check, subject) == {"service.inactive": "note"}
    machine.command("launchctl", '[ "$1 $2" = "list org.edged" ]')
    assert levels(check, subject) == {"service.active": "ok"}
