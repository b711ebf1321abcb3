"""The clock on the wall, the limits of a process, and a daemon that answers."""

import pytest

from edged.node.doctor import clock, daemon, limits
from edged.node.doctor.host import Limit
from edged.node.doctor.subject import Answer, ModelSeen, Refused, Running, Silent, Subject
from tests.node.doctor.machine import NOW_S, VERSION, Machine, found, levels

NETWORK = '[server]\nlisten = "0.0.0.0:7411"\n'


def test_a_clock_before_the_installation_is_a_problem(machine: Machine) -> None:
    subject = machine.subject(installed_s=NOW_S + 3 * 86400)
    assert levels(clock.check, subject) == {"clock.past": "problem"}


def test_a_clock_that_the_service_keeps_is_in_order(machine: Machine) -> None:
    machine.write("/run/systemd/timesync/synchronized")
    assert levels(clock.check, machine.subject()) == {"clock.synchronised": "ok"}


@pytest.mark.parametrize(
    ("answer", "config", "expected"),
    [
        ("yes", "", {"clock.synchronised": "ok"}),
        ("no", "", {"clock.unsynchronised": "note"}),
        ("no", NETWORK, {"clock.unsynchronised": "warning"}),
        ("what", "", {"clock.unknown": "note"}),
    ],
)
def test_a_clock_that_nobody_keeps_matters_most_where_there_are_certificates(
    machine: Machine, answer: str, config: str, expected: dict[str, str]
) -> None:
    machine.folder("/run/systemd/system")
    machine.command("timedatectl", f"echo {answer}")
    subject = machine.subject(config)
    assert levels(clock.check, subject) == expected
    if answer == "no":
        fix = found(clock.check, subject)["clock.unsynchronised"].fix
        assert fix == "sudo timedatectl set-ntp true"


def limited(machine: Machine, **changes: Limit) -> Subject:
    usual = {"files": Limit(1024, 4096), "address space": Limit(None, None)}
    return machine.subject(limits={**usual, **changes})


def test_for_the_service_its_own_limits_count_and_not_those_of_who_asks(machine: Machine) -> None:
    tight = {"files": Limit(256, 256), "address space": Limit(1, 1)}
    machine.service()
    assert levels(limits.check, machine.subject("[engine]\n", limits=tight)) == {
        "limits.files": "ok"
    }
    machine.service({"LimitNOFILE": "512", "LimitASSoft": "infinity"})
    seen = levels(limits.check, machine.subject("[engine]\n"))
    assert seen == {"limits.files": "warning"}


def test_the_usual_limits_are_in_order(machine: Machine) -> None:
    assert levels(limits.check, limited(machine)) == {"limits.files": "ok"}


def test_few_files_are_a_warning(machine: Machine) -> None:
    finding = found(limits.check, limited(machine, files=Limit(256, 512)))["limits.files"]
    assert finding.level == "warning"
    assert "512 files" in finding.text
    assert finding.fix.startswith("LimitNOFILE=1024 in a unit; for a shell, `* hard nofile 1024` ")


@pytest.mark.parametrize("hard", [1024, None])
def test_few_files_that_the_daemon_raises_itself_are_in_order(
    machine: Machine, hard: int | None
) -> None:
    """As everywhere on macOS."""
    assert levels(limits.check, limited(machine, files=Limit(256, hard))) == {"limits.files": "ok"}


def test_little_address_space_is_a_warning(machine: Machine) -> None:
    changes = {"address space": Limit(2**30, None)}
    assert levels(limits.check, limited(machine, **changes)) == {"limits.space": "warning"}


def asked(machine: Machine, answer: Answer) -> Subject:
    return machine.subject(ask_usual=lambda: answer)


def test_no_daemon_is_a_note(machine: Machine) -> None:
    subject = asked(machine, Silent("no daemon answers at 127.0.0.1:7411"))
    assert levels(daemon.check, subject) == {"daemon.silent": "note"}


def test_a_daemon_that_tells_nothing_is_a_note(machine: Machine) -> None:
    subject = asked(machine, Refused("127.0.0.1:7411", "no token was given"))
    assert levels(daemon.check, subject) == {"daemon.refused": "note"}


def test_a_daemon_of_this_version_is_in_order(machine: Machine) -> None:
    subject = asked(machine, Running("here", VERSION, "ready", models=(ModelSeen("m", "ready"),)))
    assert levels(daemon.check, subject) == {"daemon.running": "ok"}


def test_a_daemon_of_another_version_is_a_warning(machine: Machine) -> None:
    subject = asked(machine, Running("here", "0.0.9", "ready"))
    assert levels(daemon.check, subject) == {"daemon.version": "warning"}


def test_what_a_daemon_warns_of_is_told(machine: Machine) -> None:
    subject = asked(machine, Running("here", VERSION, "ready", warnings=("it is insecure",)))
    assert found(daemon.check, subject)["daemon.warning"].text == "it is insecure"


def test_what_a_daemon_says_of_its_models_is_told(machine: Machine) -> None:
    models = (
        ModelSeen("broken", "failed", failure="it is no GGUF file"),
        ModelSeen("slow", "ready", num_engine_losses=2, warnings=("no GPU is used",)),
    )
    subject = asked(machine, Running("here", VERSION, "ready", models=models))
    findings = list(daemon.check(subject))
    assert [(one.check, one.level.value) for one in findings] == [
        ("daemon.running", "ok"),
        ("daemon.model", "problem"),
        ("daemon.losses", "note"),
        ("daemon.model", "warning"),
    ]
    assert findings[1].text == "model 'broken' has failed: it is no GGUF file"
    assert findings[1].fix == "mend that, then `edgectl models load broken`"
