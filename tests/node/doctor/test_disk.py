"""Models, and the daemon's directories."""

import pytest

from edged.node.doctor.disk import check_directories, check_models
from edged.node.doctor.host import User
from tests.node.doctor.machine import ME, SOMEBODY, Machine, found, levels

MODEL = '[models.m]\npath = "/models/m.gguf"\n'


def test_a_model_that_is_there_is_in_order(machine: Machine) -> None:
    machine.write("/models/m.gguf", b"GGUF" + bytes(1020))
    finding = found(check_models, machine.subject(MODEL))["disk.model"]
    assert (finding.level, finding.text) == ("ok", "model 'm': 1 KiB")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<html>", "is no GGUF file"),
        (b"", "is no GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
    ],
)
def test_a_file_that_is_no_model_is_a_problem(machine: Machine, content: bytes, text: str) -> None:
    machine.write("/models/m.gguf", content)
    finding = found(check_models, machine.subject(MODEL))["disk.model"]
    assert finding.level == "problem"
    assert text in finding.text


def test_a_model_that_is_missing_is_a_problem(machine: Machine) -> None:
    finding = found(check_models, machine.subject(MODEL))["disk.model"]
    assert finding.level == "problem"
    assert "models.m.path" in finding.fix


def test_a_model_that_the_user_may_not_read_is_a_problem(machine: Machine) -> None:
    machine.write("/models/m.gguf", b"GGUF", mode=0o600)
    finding = found(check_models, machine.subject(MODEL))["disk.model"]
    assert (finding.level, finding.fix) == ("problem", "chmod o+r /models/m.gguf")


def test_a_folder_without_weights_is_a_problem(machine: Machine) -> None:
    machine.folder("/models/m")
    subject = machine.subject('[models.m]\npath = "/models/m"\n')
    assert levels(check_models, subject) == {"disk.model": "problem"}
    machine.write("/models/m/model.safetensors", b"12345")
    assert levels(check_models, subject) == {"disk.model": "ok"}


def test_a_state_directory_that_can_be_made_is_in_order(machine: Machine) -> None:
    subject = machine.subject('[server]\nstate_directory = "/state/edged"\n', user=ME)
    assert levels(check_directories, subject) == {"disk.room": "ok"}


@pytest.mark.parametrize(("listen", "level"), [("127.0.0.1:0", "note"), ("0.0.0.0:0", "problem")])
def test_a_state_directory_that_cannot_be_made_is_a_problem_where_a_key_is_needed(
    machine: Machine, listen: str, level: str
) -> None:
    machine.folder("/state", 0o755)
    config = f'[server]\nstate_directory = "/state/edged"\nlisten = "{listen}"\n'
    finding = found(check_directories, machine.subject(config))["disk.directory"]
    assert finding.level == level
    assert finding.fix.startswith("sudo install -d -o somebody -m 0700 /state/edged")


def test_a_state_directory_that_is_a_file_is_a_problem(machine: Machine) -> None:
    machine.write("/state")
    config = '[server]\nstate_directory = "/state"\nlisten = "0.0.0.0:0"\n'
    assert levels(check_directories, machine.subject(config)) == {"disk.directory": "problem"}


def test_too_little_room_for_kept_kv_is_a_warning(machine: Machine) -> None:
    machine.folder("/state")
    machine.folder("/cache/kv")
    config = f"""
    [server]
    state_directory = "/state"
    [engine]
    disk_directory = "/cache/kv"
    disk_bytes = {2**60}
    """
    finding = found(check_directories, machine.subject(config, user=ME))["disk.room"]
    assert finding.level == "warning"
    assert "1048576.0 TiB may be needed" in finding.text


@pytest.mark.parametrize(
    ("mode", "user", "text"),
    [
        (0o1777, ME, "is everybody's"),
        (0o770, ME, "may be written to by others (mode 0770)"),
        (0o700, SOMEBODY, "not to somebody"),
    ],
)
def test_a_directory_of_kept_kv_has_to_be_the_daemon_s_alone(
    machine: Machine, mode: int, user: User, text: str
) -> None:
    machine.folder("/scratch", mode)
    config = '[engine]\ndisk_directory = "/scratch"\ndisk_bytes = 1024\n'
    finding = found(check_directories, machine.subject(config, user=user))["disk.directory"]
    assert finding.level == "warning"
    assert text in finding.text


def test_a_link_is_no_directory_of_kept_kv(machine: Machine) -> None:
    machine.folder("/big/kv", 0o700)
    (machine.folder("/cache") / "kv").symlink_to(machine.root / "big/kv")
    config = '[engine]\ndisk_directory = "/cache/kv"\ndisk_bytes = 1024\n'
    finding = found(check_directories, machine.subject(config, user=ME))["disk.directory"]
    assert (finding.level, finding.fix) == (
        "warning",
        'engine.disk_directory = "/big/kv", where it leads',
    )


def test_the_directories_of_the_service_are_not_judged_by_a_user(machine: Machine) -> None:
    machine.write("/etc/systemd/system/edged.service")
    machine.folder("/var/lib/edged", 0o700)
    assert levels(check_directories, machine.subject("[engine]\n")) == {"disk.directory": "note"}


def test_a_model_that_everybody_may_read_is_in_order_for_the_service(machine: Machine) -> None:
    machine.root.chmod(0o755)
    machine.write("/etc/systemd/system/edged.service")
    machine.write("/srv/m.gguf", b"GGUF")
    subject = machine.subject('[models.m]\npath = "/srv/m.gguf"\n')
    assert levels(check_models, subject) == {"disk.model": "ok"}
