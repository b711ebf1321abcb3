"""Who may read and change keys and tokens."""

import pytest

from edged.node.doctor.permissions import check
from tests.node.doctor.machine import ME, Machine, found, levels

CONFIG = '[server]\nstate_directory = "/state"\n'


def test_what_is_closed_is_in_order(machine: Machine) -> None:
    machine.folder("/state", 0o700)
    for name in ("tokens.json", "key.pem"):
        machine.write(f"/state/{name}", mode=0o600)
    machine.write("/state/certificate.pem", mode=0o644)
    assert levels(check, machine.subject(CONFIG, user=ME)) == {"permissions.files": "ok"}


def test_nothing_there_is_in_order(machine: Machine) -> None:
    assert levels(check, machine.subject(CONFIG, user=ME)) == {"permissions.files": "ok"}


@pytest.mark.parametrize("name", ["tokens.json", "key.pem"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_a_problem(machine: Machine, name: str, mode: int) -> None:
    machine.write(f"/state/{name}", mode=mode)
    finding = found(check, machine.subject(CONFIG, user=ME))["permissions.mode"]
    assert (finding.level, finding.fix) == ("problem", f"chmod 0600 /state/{name}")
    assert f"mode 0{mode:o}" in finding.text


def test_a_state_directory_that_others_may_change_is_a_problem(machine: Machine) -> None:
    machine.folder("/state", 0o770)
    finding = found(check, machine.subject(CONFIG, user=ME))["permissions.mode"]
    assert finding.text.startswith("others may change the state directory")


def test_the_operator_s_key_may_be_read_by_a_group_and_by_nobody_else(machine: Machine) -> None:
    config = '[server]\ntls_certificate = "/c.pem"\ntls_key = "/k.pem"\n'
    key = machine.write("/k.pem", mode=0o640)
    assert levels(check, machine.subject(config, user=ME)) == {"permissions.files": "ok"}
    key.chmod(0o644)
    assert levels(check, machine.subject(config, user=ME)) == {"permissions.mode": "problem"}


def test_a_key_of_somebody_else_is_a_problem(machine: Machine) -> None:
    machine.write("/state/key.pem", mode=0o600)
    finding = found(check, machine.subject(CONFIG))
    assert {one.fix for one in finding.values()} <= {
        "sudo chown somebody /state/key.pem",
        "sudo chown somebody /state",
    }
    assert "permissions.files" not in finding


def test_the_file_of_paired_daemons_is_the_user_s_alone(machine: Machine) -> None:
    machine.environ["XDG_CONFIG_HOME"] = "/config"
    peers = machine.write("/config/edged/peers.json", mode=0o644)
    finding = found(check, machine.subject(user=ME))["permissions.mode"]
    assert finding.fix == "chmod 0600 /config/edged/peers.json"
    peers.chmod(0o600)
    assert levels(check, machine.subject(user=ME)) == {"permissions.files": "ok"}
