"""The configuration, and whose service it is."""

from pathlib import Path

import pytest

from edged.node.doctor.configuration import check
from edged.node.doctor.runtime import check_compiler, check_runtimes
from tests.node.doctor.machine import ROOT, Machine, found, levels


def test_each_mistake_is_a_problem(machine: Machine) -> None:
    subject = machine.subject("[engine]\nkv_tpye = 1\n")
    finding = found(check, subject)["configuration.wrong"]
    assert finding.level == "problem"
    assert "did you mean engine.kv_type" in finding.text


def test_without_a_file_it_is_the_defaults(machine: Machine) -> None:
    text = found(check, machine.subject())["configuration.read"].text
    assert text == "no file, so the defaults: 1 model(s): embedded"


def test_a_file_that_everybody_may_write_to_is_a_warning(machine: Machine) -> None:
    subject = machine.subject("[engine]\n")
    assert levels(check, subject) == {"configuration.read": "ok"}
    (machine.root / "etc/edged/config.toml").chmod(0o666)
    finding = found(check, subject)["configuration.writable"]
    assert finding.level == "warning"
    assert finding.fix.startswith("chmod o-w ")


def test_the_service_s_directories_are_meant_where_the_service_is_installed(
    machine: Machine,
) -> None:
    machine.environ["XDG_STATE_HOME"] = "/mine"
    assert machine.subject("[engine]\n").state_directory == Path("/mine/edged")
    machine.write("/etc/systemd/system/edged.service")
    subject = machine.subject("[engine]\n")
    assert subject.state_directory == Path("/var/lib/edged")
    assert subject.socket == Path("/run/edged/edged.sock")
    assert machine.subject("[engine]\nwrong = 1\n").is_service


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o640), (0o750, 0o644)])
def test_a_configuration_of_the_service_s_alone_is_nothing_wrong(
    machine: Machine, folder: int, file: int
) -> None:
    machine.write("/etc/systemd/system/edged.service")
    machine.write("/etc/edged/config.toml", "[engine]\n", file)
    machine.folder("/etc/edged", folder)
    subject = machine.subject()
    finding = found(check, subject)["configuration.unseen"]
    assert (finding.level, finding.fix) == ("note", "sudo edgectl doctor")
    assert "user somebody may not read" in finding.text
    assert subject.is_service
    # What it needs is not known, so that nothing of it is missing.
    for part in (check_runtimes, check_compiler):
        assert "problem" not in levels(part, subject).values()
    assert "configuration.read" in levels(check, machine.subject(user=ROOT))


def test_without_a_service_who_asks_has_to_read_the_configuration(machine: Machine) -> None:
    machine.write("/etc/edged/config.toml", "[engine]\n", 0o640)
    assert not machine.subject().is_hidden


def test_a_service_without_a_configuration_is_meant_too(machine: Machine) -> None:
    machine.write("/etc/systemd/system/edged.service")
    subject = machine.subject()
    assert (subject.file, subject.state_directory) == (None, Path("/var/lib/edged"))


def test_who_has_a_configuration_of_their_own_is_meant_with_it(machine: Machine) -> None:
    machine.write("/etc/systemd/system/edged.service")
    machine.environ["HOME"] = "/srv/home"
    own = machine.write("/srv/home/.config/edged/config.toml")
    subject = machine.subject("[engine]\n")
    assert (subject.file, subject.is_service) == (own, False)
