"""Where the service may write, and what it finds there after its stop and after a boot."""

import os
from pathlib import Path

import pytest

from edged.node.doctor.disk import check_directories
from edged.node.doctor.subject import Answer, Running
from edged.node.doctor.unit import SHIPPED, Unit
from edged.node.doctor.unix_socket import check as check_socket
from tests.node.doctor.machine import EDGED_UID, ROOT, VERSION, Machine, found, levels

HOMES = "/home"
HOME = f"{HOMES}/x"
ELSEWHERE = """
[server]
state_directory = "/data/state"
socket = "/data/run/s"
[engine]
disk_directory = "/data/kv"
disk_bytes = 1024
"""


def test_directories_that_the_unit_does_not_open_are_problems(machine: Machine) -> None:
    machine.service()
    subject = machine.subject(ELSEWHERE)
    texts = [(one.level, one.fix) for one in check_directories(subject)]
    assert [level for level, _ in texts] == ["problem", "problem"]
    for (_, fix), name in zip(texts, ("state", "kv"), strict=True):
        assert fix == (
            f"sudo install -d -o edged -g edged -m 0700 /data/{name}; and "
            f"sudo systemctl edit edged: ReadWritePaths=/data/{name}"
        )
    finding = found(check_socket, subject)["socket.directory"]
    assert finding.level == "problem"
    assert "-m 0750 /data/run; and sudo systemctl edit edged: ReadWritePaths=/data/run" in (
        finding.fix
    )


def test_directories_that_the_unit_opens_have_to_be_the_service_s(machine: Machine) -> None:
    machine.service({"ReadWritePaths": "/nowhere -/data"})
    for name in ("state", "run", "kv"):
        machine.folder(f"/data/{name}", 0o750)
    subject = machine.subject(ELSEWHERE)
    finding = found(check_directories, subject)["disk.directory"]
    assert finding.level == "problem"
    assert finding.text.endswith("not to edged")
    uid = (machine.root / "data").stat().st_uid
    machine.write("/etc/passwd", f"edged:x:{uid}:54322::/:\n")
    opened = machine.subject(ELSEWHERE)
    assert "problem" not in levels(check_directories, opened).values()
    assert levels(check_socket, opened) == {"socket.directory": "ok"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to give a directory away")
def test_a_directory_behind_a_closed_one_is_a_problem(machine: Machine) -> None:
    machine.service({"ReadWritePaths": "/data/kv"})
    machine.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    machine.write("/etc/group", "edged:x:54322:\n")
    os.chown(machine.folder("/data/kv", 0o700), EDGED_UID, -1)
    config = '[engine]\ndisk_directory = "/data/kv"\ndisk_bytes = 1024\n'
    assert "disk.directory" not in levels(check_directories, machine.subject(config, user=ROOT))
    machine.folder("/data", 0o700)
    finding = found(check_directories, machine.subject(config, user=ROOT))["disk.directory"]
    assert "user edged may not enter /data" in finding.text


def test_a_directory_of_the_service_in_a_home_is_bound(machine: Machine) -> None:
    machine.service()
    config = f'[server]\nstate_directory = "{HOME}/state"\n'
    finding = found(check_directories, machine.subject(config))["disk.directory"]
    assert finding.level == "problem"
    assert finding.fix.endswith(f"ProtectHome=tmpfs and BindPaths={HOME}/state")


def test_a_state_directory_that_is_a_link_has_to_be_opened_where_it_leads(
    machine: Machine,
) -> None:
    machine.service({"ReadWritePaths": "/data"})
    machine.folder("/data")
    machine.folder("/big/state")
    (machine.root / "data/state").symlink_to(machine.root / "big/state")
    config = '[server]\nstate_directory = "/data/state"\n'
    finding = found(check_directories, machine.subject(config))["disk.directory"]
    assert "its unit lets it write elsewhere only" in finding.text
    machine.service({"ReadWritePaths": "/data/state"})
    finding = found(check_directories, machine.subject(config))["disk.directory"]
    assert "it belongs to" in finding.text, "the link itself was opened"


def test_whose_a_directory_is_says_nothing_of_a_user_that_systemd_makes_up(
    machine: Machine,
) -> None:
    machine.service({"ReadWritePaths": "/data"})
    machine.write("/etc/passwd")
    machine.folder("/data/kv", 0o700)
    config = '[engine]\ndisk_directory = "/data/kv"\ndisk_bytes = 1024\n'
    subject = machine.subject(config, user=ROOT)
    assert "disk.directory" not in levels(check_directories, subject)


@pytest.mark.parametrize(("is_local", "level"), [(True, "ok"), (False, "problem")])
def test_a_socket_that_is_served_here_is_proven_writable(
    machine: Machine, is_local: bool, level: str
) -> None:
    def running() -> Answer:
        listeners = ("unix:/data/run/s",)
        return Running("127.0.0.1:7411", VERSION, "ready", listeners, is_local=is_local)

    machine.service()
    subject = machine.subject(ELSEWHERE, ask_usual=running)
    assert levels(check_socket, subject) == {"socket.directory": level}


def kept_kv(directory: str) -> str:
    return f'[engine]\ndisk_directory = "{directory}"\ndisk_bytes = 1024\n'


@pytest.mark.parametrize("link", ["/data/kv", "/var/cache/edged/kv"])
def test_a_link_is_no_directory_of_kept_kv(machine: Machine, link: str) -> None:
    machine.service({"ReadWritePaths": "/data/kv"})
    machine.folder("/big/kv", 0o700)
    machine.write("/etc/passwd", f"edged:x:{os.getuid()}:54322::/:\n")
    place = machine.root / link.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(machine.root / "big/kv")
    finding = found(check_directories, machine.subject(kept_kv(link), user=ROOT))["disk.directory"]
    assert finding.level == "problem"
    assert "is a link, which the daemon does not follow" in finding.text
    assert finding.fix == 'engine.disk_directory = "/big/kv", where it leads'
    bound = {"BindPaths": f"{link}:{link}:rbind"}
    machine.service({**bound, "ReadWritePaths": "/data/kv"})
    machine.write("/etc/passwd", f"edged:x:{os.getuid()}:54322::/:\n")
    subject = machine.subject(kept_kv(link), user=ROOT)
    assert "disk.directory" not in levels(check_directories, subject), "a mount is no link"


def test_a_directory_that_others_may_write_to_is_refused_where_systemd_made_the_one_above(
    machine: Machine,
) -> None:
    machine.service({})
    machine.folder("/var/cache/edged/kv", 0o770)
    machine.write("/etc/passwd", f"edged:x:{os.getuid()}:54322::/:\n")
    subject = machine.subject(kept_kv("/var/cache/edged/kv"), user=ROOT)
    finding = found(check_directories, subject)["disk.directory"]
    assert (finding.level, finding.fix) == ("problem", "chmod go-w /var/cache/edged/kv")


@pytest.mark.parametrize(
    ("directory", "unit", "when"),
    [
        ("/dev/shm/kv", {}, "when the service stops"),
        ("/dev/shm/kv", {"PrivateDevices": "yes"}, "when the service stops"),
        ("/dev/shm/kv", {"RemoveIPC": "no"}, "with every boot"),
        ("/tmp/kv", {}, "when the service stops"),
        ("/var/tmp/kv", {}, "when the service stops"),
        ("/run/edged/kv", {}, "when the service stops"),
        ("/run/edged/kv", {"RuntimeDirectoryPreserve": "yes"}, "with every boot"),
        ("/tmp/kv", {"BindPaths": "/big/kv:/tmp/kv:rbind"}, ""),
    ],
)
def test_kept_kv_where_it_is_lost_is_a_note(
    machine: Machine, directory: str, unit: dict[str, str], when: str
) -> None:
    machine.service(unit)
    machine.write("/etc/passwd", f"edged:x:{os.getuid()}:54322::/:\n")
    machine.folder("/big/kv", 0o700)
    for shared in ("/dev/shm", "/tmp", "/var/tmp"):
        machine.folder(shared, 0o1777)
    machine.folder("/tmp/kv/of-somebody-else", 0o777)
    findings = found(check_directories, machine.subject(kept_kv(directory), user=ROOT))
    expected = {"disk.room": "ok"} | ({"disk.emptied": "note"} if when else {})
    assert {name: one.level for name, one in findings.items()} == expected
    if when:
        assert findings["disk.emptied"].text.endswith(f"is emptied {when}")


def test_state_where_it_is_lost_is_a_warning_where_a_key_is_needed(machine: Machine) -> None:
    machine.service({})
    machine.folder("/tmp", 0o1777)
    config = '[server]\nstate_directory = "/tmp/state"\n'
    for listen, level in (("", "note"), ('listen = "0.0.0.0:0"\n', "warning")):
        subject = machine.subject(config + listen, user=ROOT)
        assert levels(check_directories, subject)["disk.emptied"] == level


@pytest.mark.parametrize(
    ("directory", "fix"),
    [
        ("/run/llm/kv", "sudo systemctl edit edged: RuntimeDirectory=llm/kv"),
        ("/run", "name another directory: /run is emptied with every boot"),
        ("/run/user/7/kv", "name another directory: /run/user/7/kv is emptied with every boot"),
        ("/tmp", "name another directory: /tmp is emptied when the service stops"),
        ("/dev/shm", "name one in it that is nobody else's, as /dev/shm/edged"),
    ],
)
def test_no_line_is_offered_with_which_the_service_does_not_start_after_a_boot(
    machine: Machine, directory: str, fix: str
) -> None:
    machine.service({})
    for shared in ("/dev/shm", "/tmp"):
        machine.folder(shared, 0o1777)
    machine.folder("/run")
    findings = found(check_directories, machine.subject(kept_kv(directory), user=ROOT))
    assert (findings["disk.directory"].level, findings["disk.directory"].fix) == ("problem", fix)


def test_a_temporary_directory_that_is_not_private_is_read_only(machine: Machine) -> None:
    machine.service({"PrivateTmp": "no"})
    machine.folder("/tmp", 0o1777)
    finding = found(check_directories, machine.subject(kept_kv("/tmp/kv")))["disk.directory"]
    assert finding.fix == "name another directory: /tmp/kv is emptied with every boot"


def test_a_socket_below_run_is_in_a_directory_that_systemd_makes(machine: Machine) -> None:
    machine.service({})
    machine.folder("/run")
    config = '[server]\nsocket = "/run/llm/s"\n'
    finding = found(check_socket, machine.subject(config))["socket.directory"]
    assert finding.level == "problem"
    assert finding.fix == "sudo systemctl edit edged: RuntimeDirectory=llm"
    machine.service({"RuntimeDirectory": "edged llm"})
    assert levels(check_socket, machine.subject(config)) == {"socket.directory": "ok"}


@pytest.mark.parametrize(
    ("socket", "level"),
    [
        ("/tmp/e/s", "problem"),
        ("/dev/shm/e/s", "ok"),
        pytest.param(
            "/dev/shm/s",
            "ok",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="it has to be root's"),
        ),
    ],
)
def test_a_socket_has_to_be_where_clients_find_it(
    machine: Machine, socket: str, level: str
) -> None:
    machine.service({})
    for shared in ("/dev/shm", "/tmp"):
        machine.folder(shared, 0o1777)
    subject = machine.subject(f'[server]\nsocket = "{socket}"\n', user=ROOT)
    assert levels(check_socket, subject) == {"socket.directory": level}


def test_a_directory_with_a_space_that_the_unit_opens_is_not_shown(machine: Machine) -> None:
    machine.service({})
    machine.folder("/my data/kv", 0o700)
    finding = found(check_directories, machine.subject(kept_kv("/my data/kv")))["disk.directory"]
    assert finding.fix.endswith(
        """'/my data/kv'; and sudo systemctl edit edged: """
        """ReadWritePaths="/my data/kv\""""
    )
    machine.service({"ReadWritePaths": "[unprintable] /data"})
    machine.write("/etc/passwd", f"edged:x:{os.getuid()}:54322::/:\n")
    subject = machine.subject(kept_kv("/my data/kv"), user=ROOT)
    assert "disk.directory" not in levels(check_directories, subject)
    assert Unit({**SHIPPED, "ReadWritePaths": "[unprintable] -/data"}).opened == [Path("/data")]


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("/var/lib/edged/kv", True),
        ("/var/cache/private/edged", True),
        ("/run/edged", True),
        ("/var/lib/other", False),
        ("/tmp/kv", True),
        ("/dev/shm/kv", True),
        ("/run/other", False),
        ("/proc/kv", False),
    ],
)
def test_the_shipped_unit_may_change_its_own_and_volatile_directories_alone(
    path: str, may: bool
) -> None:
    assert Unit(SHIPPED).may_change(Path(path)) is may


def test_a_unit_with_fewer_locks_may_change_more() -> None:
    assert Unit({**SHIPPED, "ProtectSystem": "no"}).may_change(Path("/srv/kv"))
    assert Unit({**SHIPPED, "ProtectSystem": "full"}).may_change(Path("/srv/kv"))
    assert not Unit({**SHIPPED, "ProtectSystem": "full"}).may_change(Path("/etc/kv"))
    assert Unit({**SHIPPED, "ProtectHome": "no"}).may_change(Path(f"{HOME}/kv"))
    assert not Unit({**SHIPPED, "ProtectHome": "read-only"}).may_change(Path(f"{HOME}/kv"))
