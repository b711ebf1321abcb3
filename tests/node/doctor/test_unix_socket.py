"""The unix socket and its directory."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edged.node.doctor.subject import Answer, Running
from edged.node.doctor.unix_socket import check
from tests.node.doctor.machine import ME, VERSION, Machine, found, levels

CONFIG = '[server]\nsocket = "/run/e/s"\n'


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With a root whose path is short, as that of a socket has to be."""
    root = tempfile.mkdtemp(prefix="d-")
    yield Machine(Path(root))
    shutil.rmtree(root)


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


def test_a_private_directory_without_a_socket_is_in_order(machine: Machine) -> None:
    machine.folder("/run/e", 0o700)
    assert levels(check, machine.subject(CONFIG, user=ME)) == {"socket.directory": "ok"}


def test_a_directory_that_can_be_made_is_in_order(machine: Machine) -> None:
    assert levels(check, machine.subject(CONFIG, user=ME)) == {"socket.directory": "ok"}


def test_a_directory_that_cannot_be_made_is_a_problem(machine: Machine) -> None:
    machine.folder("/run", 0o755)
    finding = found(check, machine.subject(CONFIG))["socket.directory"]
    assert (finding.level, finding.fix) == (
        "problem",
        "sudo install -d -o somebody -m 0700 /run/e",
    )


def test_a_directory_that_others_may_write_to_is_a_problem(machine: Machine) -> None:
    machine.folder("/run/e", 0o777)
    finding = found(check, machine.subject(CONFIG, user=ME))["socket.directory"]
    assert finding.level == "problem"
    assert "chmod go-w /run/e" in finding.fix


def test_a_file_that_is_no_socket_is_a_problem(machine: Machine) -> None:
    machine.folder("/run/e", 0o700)
    machine.write("/run/e/s", "text")
    assert levels(check, machine.subject(CONFIG, user=ME))["socket.file"] == "problem"


def test_a_socket_that_nobody_listens_on_is_a_note(machine: Machine) -> None:
    machine.folder("/run/e", 0o700)
    with listening(machine.root / "run/e/s"):
        pass
    assert levels(check, machine.subject(CONFIG, user=ME))["socket.stale"] == "note"


def test_a_socket_on_which_a_daemon_answers_is_in_order(machine: Machine) -> None:
    asked = []

    def ask_at(address: str) -> Answer:
        asked.append(address)
        return Running(address, VERSION, "ready")

    machine.folder("/run/e", 0o700)
    with listening(machine.root / "run/e/s"):
        assert levels(check, machine.subject(CONFIG, user=ME, ask_at=ask_at)) == {
            "socket.directory": "ok",
            "socket.served": "ok",
        }
    assert asked == ["unix:/run/e/s"]


def test_a_socket_on_which_something_else_listens_is_a_problem(machine: Machine) -> None:
    machine.folder("/run/e", 0o700)
    with listening(machine.root / "run/e/s"):
        assert levels(check, machine.subject(CONFIG, user=ME))["socket.taken"] == "problem"


def test_a_socket_of_a_group_comes_with_the_command_to_join_it(machine: Machine) -> None:
    machine.service({"RuntimeDirectory": "e"})
    machine.folder("/run/e", 0o755)
    with listening(machine.root / "run/e/s"):
        (machine.root / "run/e/s").chmod(0o660)
        finding = found(check, machine.subject(CONFIG))["socket.access"]
    assert finding.level == "warning"
    assert finding.fix.startswith("sudo usermod -aG ")
    assert finding.fix.endswith(" somebody, then log in again")


def test_a_path_that_is_too_long_is_a_problem(machine: Machine) -> None:
    machine.environ["XDG_RUNTIME_DIR"] = f"/{'x' * 100}"
    finding = found(check, machine.subject())["socket.long"]
    assert finding.level == "problem"
    assert "the system takes 107" in finding.text


def test_a_socket_that_is_off_is_in_order(machine: Machine) -> None:
    assert levels(check, machine.subject('[server]\nsocket = ""\n')) == {"socket.off": "ok"}
