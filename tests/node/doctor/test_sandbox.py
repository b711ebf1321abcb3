"""What the service may read, in the view of the host that its unit gives it."""

import configparser
import errno
import os
import struct
from pathlib import Path

import pytest

from edged.node.doctor.disk import check_models
from edged.node.doctor.finding import Finding
from edged.node.doctor.subject import Answer, ModelSeen, Running
from edged.node.doctor.unit import SHIPPED, Unit
from tests.node.doctor.machine import ROOT, VERSION, Machine, found, levels

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


@pytest.mark.parametrize(
    ("at", "is_local"), [("unix:/run/user/7/s", True), ("unix:/run/edged/edged.sock", False)]
)
def test_a_daemon_of_somebody_else_proves_nothing(
    machine: Machine, at: str, is_local: bool
) -> None:
    def running() -> Answer:
        models = (ModelSeen("m", "ready"),)
        return Running(at, VERSION, "ready", models=models, is_local=is_local)

    machine.service()
    model(machine)
    subject = machine.subject(f'[models.m]\npath = "{MODEL}"\n', ask_usual=running)
    assert levels(check_models, subject) == {"disk.model": "problem"}


def test_a_model_that_a_boot_takes_away_does_not_keep_the_service_from_its_start(
    machine: Machine,
) -> None:
    machine.service()
    model(machine, "/tmp/models/m.gguf")
    assert ": BindReadOnlyPaths=-/tmp/models;" in seen(machine, "/tmp/models/m.gguf").fix
