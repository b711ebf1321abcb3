"""scripts/environment.sh: what is missing is named, with the command that installs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = "#!/bin/sh\nexit 1\n"
WITHOUT_VENV = '#!/bin/sh\n[ "$1" = - ]\n'
"""New enough, and fails at all else: venv, and importing llama_cpp."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with what the script itself needs, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "uname", "rm"):
        found = shutil.which(name)
        assert found, f"{name} is on every host"
        (folder / name).symlink_to(found)
    return folder


def run(programs: Path, command: str) -> subprocess.CompletedProcess[str]:
    script = f"source scripts/environment.sh; pythons=(python3); {command}"
    return subprocess.run(
        [str(programs / "bash"), "-c", script, "scripts/install"],
        cwd=ROOT,
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("", "Python 3.11 or newer is needed and none was found."),
        ("shared", "Python 3.11 or newer is needed outside of home directories and none was found"),
    ],
)
def test_missing_python(flag: str, sentence: str, programs: Path, tmp_path: Path) -> None:
    write_program(programs / "python3", OLD)
    done = run(programs, f"make_environment {tmp_path}/made {flag}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"install: {sentence}")
    assert "install: Install it: " in done.stderr


def test_python_without_virtual_environments(programs: Path, tmp_path: Path) -> None:
    write_program(programs / "python3", WITHOUT_VENV)
    made = tmp_path / "made"
    made.mkdir()
    done = run(programs, f"make_environment {made}")
    assert done.returncode == 1
    assert "install: Python cannot make virtual environments." in done.stderr
    assert "install: Install what is missing: " in done.stderr
    assert not made.exists(), "the next run begins anew"


def test_missing_compiler(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "bin"
    folder.mkdir(parents=True)
    write_program(folder / "python", OLD)
    done = run(programs, f"install_edged {folder.parent} llama .")
    assert done.returncode == 1
    assert "install: A C++ compiler is needed to build llama.cpp and none was found." in done.stderr
    assert "install: Install one: " in done.stderr


def test_environment_that_is_there_is_kept(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "bin"
    folder.mkdir(parents=True)
    write_program(folder / "python", OLD)
    done = run(programs, f"make_environment {folder.parent}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_python_in_a_home_is_of_no_use_to_a_service(programs: Path) -> None:
    """This test's own Python, wherever it is installed."""
    prefix = os.path.realpath(sys.base_prefix)
    is_hidden = prefix.startswith(("/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/"))
    assert run(programs, f"is_usable {sys.executable}").returncode == 0
    assert run(programs, f"is_usable {sys.executable} shared").returncode == int(is_hidden)
