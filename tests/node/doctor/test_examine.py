"""All checks together: no check can end the others, or hold them up."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from edged.node.doctor.examine import CHECKS, examine, is_healthy
from edged.node.doctor.finding import Finding, ok, problem, warning
from edged.node.doctor.subject import Subject
from tests.node.doctor.machine import SOMEBODY, Machine


def fine(subject: Subject) -> Iterator[Finding]:
    yield ok("fine.one", "in order")


def crashes(subject: Subject) -> Iterator[Finding]:
    yield warning("crashes.one", "found before")
    raise RuntimeError("boom")


def test_a_check_that_crashes_is_a_finding_and_not_the_end(machine: Machine) -> None:
    first, crash, last = examine(machine.subject(), {"crashes": (crashes,), "fine": (fine,)})
    assert (first.check, last.check) == ("crashes.one", "fine.one")
    assert crash.check == "crashes.crashed"
    assert "RuntimeError: boom" in crash.text
    assert crash.fix


def test_a_check_that_hangs_is_a_finding_and_what_it_found_counts(machine: Machine) -> None:
    released = threading.Event()

    def hangs(subject: Subject) -> Iterator[Finding]:
        yield warning("hangs.one", "found before")
        released.wait(20)

    try:
        findings = examine(machine.subject(), {"hangs": (hangs,), "fine": (fine,)}, limit_s=0.1)
    finally:
        released.set()
    assert [one.check for one in findings] == ["hangs.one", "hangs.unfinished", "fine.one"]
    assert "0.1 s" in findings[1].text


def test_only_a_problem_makes_a_host_unhealthy() -> None:
    assert is_healthy([ok("a.b", ""), warning("a.b", "")])
    assert not is_healthy([ok("a.b", ""), problem("a.b", "")])


def test_an_empty_machine_is_examined_to_the_end(machine: Machine) -> None:
    findings = examine(machine.subject(lan=True))
    assert {one.area for one in findings} >= CHECKS.keys() - {"certificate"}
    assert not [one for one in findings if one.check.endswith((".crashed", ".unfinished"))]


def test_a_machine_without_a_usable_configuration_is_examined_to_the_end(machine: Machine) -> None:
    findings = examine(machine.subject("[server]\nlistne = 1\nlog_level = 2\n", lan=True))
    wrong = [one for one in findings if one.check == "configuration.wrong"]
    assert len(wrong) == 2
    assert "did you mean server.listen" in wrong[0].text + wrong[1].text
    assert not [one for one in findings if one.check.endswith((".crashed", ".unfinished"))]


@contextmanager
def as_somebody() -> Iterator[None]:
    os.setresuid(SOMEBODY.uid, SOMEBODY.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become who may not look")
@pytest.mark.parametrize("is_service", [False, True])
def test_a_user_who_may_not_look_is_told_so_and_no_check_crashes(*, is_service: bool) -> None:
    with TemporaryDirectory() as root:
        machine = Machine(Path(root))
        machine.folder("/", 0o755)
        if is_service:
            machine.service()
        model = '[models.m]\npath = "/closed/models/m.gguf"\n'
        own = '[server]\nlisten = "0.0.0.0:7411"\nstate_directory = "/var/lib/edged"\n'
        tls = 'tls_certificate = "/closed/tls/c.pem"\ntls_key = "/closed/tls/k.pem"\n'
        subject = machine.subject(f"{own}{tls}{model}", lan=True)
        for closed in ("/var/lib/edged/kv", "/closed/models", "/closed/tls", "/etc/credstore"):
            machine.folder(closed)
            (machine.root / closed.lstrip("/")).parent.chmod(0o700)
        (machine.root / "etc").chmod(0o755)
        machine.folder("/etc/credstore", 0o700)
        with as_somebody():
            findings = examine(subject)
    assert not [one for one in findings if one.check.endswith((".crashed", ".unfinished"))]
    by_check = {one.check: one.level for one in findings}
    assert by_check["lan.tokens"] == "note"
    assert by_check["disk.model"] == "problem", "nor may the daemon"
    assert ("certificate.closed" if is_service else "certificate.unseen") in by_check


@pytest.mark.parametrize("area", CHECKS)
def test_every_finding_is_of_its_area_and_what_is_wrong_has_a_fix(
    machine: Machine, area: str
) -> None:
    config = '[server]\nlisten = "0.0.0.0:1"\n[models.m]\npath = "/none.gguf"\n'
    for finding in examine(machine.subject(config), {area: CHECKS[area]}):
        assert finding.area == area
        assert finding.fix or finding.level in ("ok", "note")
