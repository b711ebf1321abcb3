"""What the service may read and write, in the view of the host that its unit gives it."""

import configparser
import errno
import os
import struct
from pathlib import Path

import pytest

from edged.node.doctor.disk import check_directories, check_models
from edged.node.doctor.finding import Finding
from edged.node.doctor.subject import Answer, ModelSeen, Running
from edged.node.doctor.unit import SHIPPED, Unit
from edged.node.doctor.unix_socket import check as check_socket
from tests.node.doctor.machine import EDGED_UID, ROOT, VERSION, Machine, found, levels

HOMES = "/home"
HOME = f"{HOMES}/x"
MODELS = f"{HOME}/models"
MODEL = f"{MODELS}/m.gguf"
SHOWN = {"ProtectHome": "tmpfs", "BindReadOnlyPaths": f"{MODELS}:{MODELS}:rbind"}
UNIT_FILE = Path(__file__).parents[3] / "systemd/edged.service"


def seen(machine: Machine, path: str = MODEL) -> Finding:
    subject = machine.subject(f'[models.m]\npath = "{path}"\n', user=ROOT)
    return found(check_models, subject)["disk.model"]


def model(machine: Machine, path: str = MODEL, mode: int = 0o644) -> None:
    machine.write(path, b"GGUF", mode)
    if path.startswith(HOME):
        machine.folder(HOME, 0o700)


def test_what_is_taken_for_the_shipped_unit_is_the_shipped_unit() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the manual has it
    parser.read(UNIT_FILE)
    assert {name: parser["Service"][name] for name in SHIPPED} == SHIPPED


@pytest.mark.parametrize("unit", [None, {}])
def test_a_model_of_the_service_s_group_is_in_order(
    machine: Machine, unit: dict[str, str] | None
) -> None:
    machine.service(unit)
    model(machine, "/srv/models/m.gguf", 0o640)
    machine.folder("/srv/models", 0o750)
    assert seen(machine, "/srv/models/m.gguf").level == "ok"
    by_a_user = machine.subject('[models.m]\npath = "/srv/models/m.gguf"\n')
    assert levels(check_models, by_a_user) == {"disk.model": "note"}


def test_a_file_system_without_attributes_hides_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(path: object) -> list[str]:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "listxattr", unsupported, raising=False)
    machine.service()
    model(machine, "/srv/models/m.gguf")
    assert seen(machine, "/srv/models/m.gguf").level == "ok"


def test_links_that_lead_to_each_other_are_a_problem_and_no_crash(machine: Machine) -> None:
    machine.service()
    folder = machine.folder("/srv/models")
    (folder / "m.gguf").symlink_to("n.gguf")
    (folder / "n.gguf").symlink_to("m.gguf")
    assert seen(machine, "/srv/models/m.gguf").level == "problem"


def test_a_model_of_another_group_is_a_problem(machine: Machine) -> None:
    machine.service()
    machine.write("/etc/group", "edged:x:54322:\n")
    machine.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    model(machine, "/srv/models/m.gguf", 0o640)
    finding = seen(machine, "/srv/models/m.gguf")
    assert finding.level == "problem"
    assert "user edged may not read it" in finding.text
    assert finding.fix.startswith("chmod o+r /srv/models/m.gguf; or move it")


def test_the_groups_that_the_unit_or_the_host_adds_count(machine: Machine) -> None:
    machine.service({"SupplementaryGroups": "models"})
    machine.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    machine.write("/etc/group", "edged:x:54322:\n")
    model(machine, "/srv/models/m.gguf", 0o640)
    assert seen(machine, "/srv/models/m.gguf").level == "problem"
    machine.write("/etc/group", f"models:x:{os.getegid()}:somebody\n")
    assert seen(machine, "/srv/models/m.gguf").level == "ok"
    machine.write("/etc/group", f"other:x:{os.getegid()}:somebody,edged\n")
    assert seen(machine, "/srv/models/m.gguf").level == "ok"


@pytest.mark.parametrize(
    ("unit", "lines"),
    [
        (None, f"ProtectHome=tmpfs and BindReadOnlyPaths={MODELS}"),
        ({"BindReadOnlyPaths": f"{MODELS}:{MODELS}:rbind"}, "ProtectHome=tmpfs and BindRead"),
        ({"ProtectHome": "tmpfs"}, f": BindReadOnlyPaths={MODELS}; or move it"),
    ],
)
def test_a_home_that_is_hidden_comes_with_the_lines_that_are_missing(
    machine: Machine, unit: dict[str, str] | None, lines: str
) -> None:
    machine.service(unit)
    model(machine)
    finding = seen(machine)
    assert finding.level == "problem"
    assert "/home is hidden from it" in finding.text
    assert lines in finding.fix
    assert ("ProtectHome" in finding.fix) is ("ProtectHome" in lines)


def test_a_home_is_not_shown_whole_for_a_file_in_it(machine: Machine) -> None:
    machine.service()
    model(machine, f"{HOME}/m.gguf")
    assert f"BindReadOnlyPaths={HOME}/m.gguf;" in seen(machine, f"{HOME}/m.gguf").fix


@pytest.mark.parametrize("unit", [SHOWN, {"ProtectHome": "no"}, {"ProtectHome": "read-only"}])
def test_a_home_that_the_unit_shows_is_seen(machine: Machine, unit: dict[str, str]) -> None:
    machine.service(unit)
    model(machine)
    machine.folder(HOME, 0o700 if unit is SHOWN else 0o755)
    assert seen(machine).level == "ok"


def test_a_home_that_is_only_not_hidden_is_still_closed(machine: Machine) -> None:
    machine.service({"ProtectHome": "no"})
    machine.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    model(machine)
    finding = seen(machine)
    assert finding.level == "problem"
    assert f"user edged may not enter {HOME}" in finding.text


def test_a_folder_that_is_shown_elsewhere_is_looked_into_where_it_is(machine: Machine) -> None:
    machine.service({**SHOWN, "BindReadOnlyPaths": f"{MODELS}:/models:rbind -/a:/b:norbind"})
    model(machine)
    assert seen(machine, "/models/m.gguf").level == "ok"
    model(machine, mode=0o600)
    assert "user edged may not read it" in seen(machine, "/models/m.gguf").text
    (machine.root / MODEL.lstrip("/")).unlink()
    assert "No such file" in seen(machine, "/models/m.gguf").text


def test_a_link_that_is_bound_shows_what_it_leads_to(machine: Machine) -> None:
    machine.service(SHOWN)
    model(machine, "/big/models/m.gguf")
    machine.folder("/big", 0o700)
    machine.folder(HOME, 0o700)
    (machine.root / MODELS.lstrip("/")).symlink_to(machine.root / "big/models")
    assert seen(machine).level == "ok"


def test_of_binds_in_each_other_the_inner_one_is_seen() -> None:
    binds = "/a:/models:rbind /b/c:/models/new:rbind"
    for shown in (binds, " ".join(reversed(binds.split()))):
        unit = Unit({**SHIPPED, "BindReadOnlyPaths": shown})
        assert unit.outside(Path("/models/new/m.gguf")) == Path("/b/c/m.gguf")
        assert unit.outside(Path("/models/m.gguf")) == Path("/a/m.gguf")


def test_a_unit_that_systemd_has_not_read_yet_counts_as_it_is_shipped(machine: Machine) -> None:
    machine.service({"LoadState": "not-found", "User": "", "ProtectHome": "no"})
    model(machine)
    machine.folder(HOME, 0o755)
    assert "/home is hidden from it" in seen(machine).text


def test_what_an_access_list_may_allow_counts_as_allowed(machine: Machine) -> None:
    machine.service()
    machine.write("/etc/passwd", "edged:x:54322:54322::/:\n")
    machine.write("/etc/group", "edged:x:54322:\n")
    file = machine.write("/srv/m.gguf", b"GGUF", mode=0o600)
    assert seen(machine, "/srv/m.gguf").level == "problem"
    entries = ((1, 6, 2**32 - 1), (2, 4, 54322), (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 0))
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
    try:
        os.setxattr(file, "system.posix_acl_access", listed)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    assert seen(machine, "/srv/m.gguf").level == "ok"


def test_a_link_is_followed(machine: Machine) -> None:
    machine.service()
    model(machine)
    machine.folder("/srv")
    (machine.root / "srv/link.gguf").symlink_to(machine.root / MODEL.lstrip("/"))
    finding = seen(machine, "/srv/link.gguf")
    assert "/home is hidden from it" in finding.text
    assert f"BindReadOnlyPaths={MODELS}" in finding.fix
    machine.service(SHOWN)
    assert seen(machine, "/srv/link.gguf").level == "ok"


SNAPSHOT = f"{HOME}/.cache/huggingface/hub/models--a--b/snapshots/1f"
BLOBS = f"{HOME}/.cache/huggingface/hub/models--a--b/blobs"


def test_a_link_and_what_it_leads_to_are_shown_by_one_line(machine: Machine) -> None:
    machine.service()
    model(machine, f"{BLOBS}/abc")
    (machine.folder(SNAPSHOT) / "m.gguf").symlink_to("../../blobs/abc")
    finding = seen(machine, f"{SNAPSHOT}/m.gguf")
    assert f"ProtectHome=tmpfs and BindReadOnlyPaths={SNAPSHOT} {BLOBS};" in finding.fix
    followed = " ".join(f"{one}:{one}:rbind" for one in (SNAPSHOT, BLOBS))
    machine.service({"ProtectHome": "tmpfs", "BindReadOnlyPaths": followed})
    assert seen(machine, f"{SNAPSHOT}/m.gguf").level == "ok"
    machine.service({"ProtectHome": "tmpfs", "BindReadOnlyPaths": followed.split()[0]})
    finding = seen(machine, f"{SNAPSHOT}/m.gguf")
    assert f"edit edged: BindReadOnlyPaths={BLOBS};" in finding.fix


def test_a_folder_that_is_a_link_is_shown_with_what_it_leads_to(machine: Machine) -> None:
    machine.service()
    model(machine, f"{HOME}/big/m.gguf")
    (machine.root / MODELS.lstrip("/")).symlink_to("big")
    assert f"BindReadOnlyPaths={MODELS};" in seen(machine).fix


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("LM Studio", f'"{HOME}/LM Studio"'),
        ("a:b", f'"{HOME}/a:b"'),
        ('5" at 100%', f'"{HOME}/5\\" at 100%%"'),
        ("100%", f"{HOME}/100%%"),
    ],
)
def test_a_path_is_quoted_as_units_have_it(machine: Machine, name: str, line: str) -> None:
    machine.service()
    model(machine, f"{HOME}/{name}/m.gguf")
    config = f"[models.m]\npath = '{HOME}/{name}/m.gguf'\n"
    finding = found(check_models, machine.subject(config, user=ROOT))["disk.model"]
    assert f"BindReadOnlyPaths={line};" in finding.fix


def test_a_model_that_the_daemon_has_is_proven_readable(machine: Machine) -> None:
    state = "ready"

    def running() -> Answer:
        return Running("unix:/run/edged/edged.sock", VERSION, "ready", (), (ModelSeen("m", state),))

    machine.service()
    model(machine)
    subject = machine.subject(f'[models.m]\npath = "{MODEL}"\n', ask_usual=running)
    assert levels(check_models, subject) == {"disk.model": "ok"}
    state = "failed"
    assert levels(check_models, subject) == {"disk.model": "problem"}


def test_a_daemon_of_somebody_else_proves_nothing(machine: Machine) -> None:
    def running() -> Answer:
        return Running("unix:/run/user/7/s", VERSION, "ready", (), (ModelSeen("m", "ready"),))

    machine.service()
    model(machine)
    subject = machine.subject(f'[models.m]\npath = "{MODEL}"\n', ask_usual=running)
    assert levels(check_models, subject) == {"disk.model": "problem"}


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


def test_a_directory_that_is_a_link_is_one_that_the_unit_does_not_open(machine: Machine) -> None:
    machine.service({"ReadWritePaths": "/data"})
    machine.folder("/data")
    machine.folder("/big/kv")
    (machine.root / "data/kv").symlink_to(machine.root / "big/kv")
    config = '[engine]\ndisk_directory = "/data/kv"\ndisk_bytes = 1024\n'
    finding = found(check_directories, machine.subject(config))["disk.directory"]
    assert "its unit lets it write elsewhere only" in finding.text
    machine.service({"ReadWritePaths": "/data/kv"})
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


def test_a_socket_that_is_served_is_proven_writable(machine: Machine) -> None:
    def running() -> Answer:
        return Running("127.0.0.1:7411", VERSION, "ready", ("unix:/data/run/s",))

    machine.service()
    subject = machine.subject(ELSEWHERE, ask_usual=running)
    assert levels(check_socket, subject) == {"socket.directory": "ok"}


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("/var/lib/edged/kv", True),
        ("/var/cache/private/edged", True),
        ("/run/edged", True),
        ("/var/lib/other", False),
        ("/tmp/kv", False),
    ],
)
def test_the_shipped_unit_may_change_its_own_directories_alone(path: str, may: bool) -> None:
    assert Unit(SHIPPED).may_change(Path(path)) is may


def test_a_unit_with_fewer_locks_may_change_more() -> None:
    assert Unit({**SHIPPED, "ProtectSystem": "no"}).may_change(Path("/srv/kv"))
    assert Unit({**SHIPPED, "ProtectSystem": "full"}).may_change(Path("/srv/kv"))
    assert not Unit({**SHIPPED, "ProtectSystem": "full"}).may_change(Path("/etc/kv"))
