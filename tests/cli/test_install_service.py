"""`edged install-service`, below a directory that stands for the root of a host."""

import os
from pathlib import Path

import pytest

from edged.config import load_settings
from edged.config.reference import commented_file
from tests.cli.program import Program

PROGRAM = "/opt/edged/bin/edged"
RUNS = "not done: run "


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What is installed for one who has no rights here, and nothing is started."""
    return tmp_path / "root"


def staged(root: Path) -> tuple[str, ...]:
    return ("install-service", "--root", str(root), "--program", PROGRAM)


def test_it_writes_the_files_and_leaves_the_commands_to_whoever_boots_it(
    edged: Program, root: Path
) -> None:
    done = edged.run(*staged(root))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f"write {root}/etc/systemd/system/edged.service" in lines
    assert [line.removeprefix(RUNS) for line in lines if line.startswith(RUNS)][-2:] == [
        "systemctl enable edged.service",
        "systemctl start edged.service",
    ]
    assert os.readlink(root / "usr/local/bin/edgectl") == "/opt/edged/bin/edgectl"


def test_dry_run_says_the_same_and_does_nothing(edged: Program, root: Path) -> None:
    done = edged.run(*staged(root), "--dry-run")
    assert (done.returncode, done.stderr) == (0, "nothing was done\n")
    assert not root.exists()
    real = edged.run(*staged(root))
    assert real.stdout.replace("not done: ", "") == done.stdout


def test_no_start_starts_nothing(edged: Program, root: Path) -> None:
    done = edged.run(*staged(root), "--no-start")
    assert "systemctl enable" in done.stdout
    assert "systemctl start" not in done.stdout


def test_configuration_that_it_wrote_sets_nothing_and_one_that_was_changed_stays(
    edged: Program, root: Path
) -> None:
    edged.run(*staged(root))
    file = root / "etc/edged/config.toml"
    assert file.read_text().endswith(commented_file())
    written = load_settings((), {}, file)
    assert written.settings == load_settings((), {}, candidates=()).settings
    file.write_text(file.read_text().replace("#drain_s = 30", "drain_s = 5"))
    assert load_settings((), {}, file).settings.server.drain_s == 5
    done = edged.run(*staged(root), "--uninstall")
    assert f"keep {file}: it was changed" in done.stdout.splitlines()


def test_uninstall_takes_all_of_it_away(edged: Program, root: Path) -> None:
    edged.run(*staged(root))
    done = edged.run(*staged(root), "--uninstall")
    assert done.returncode == 0, done.stderr
    assert [path for path in root.rglob("*") if not path.is_dir()] == []


def test_refusal_is_one_sentence_and_changes_nothing(edged: Program, tmp_path: Path) -> None:
    program = tmp_path / "edged"
    root = tmp_path / "root"
    done = edged.run("install-service", "--root", str(root), "--program", "/root/.local/edged")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("edged: this edged needs /root/.local/edged, which a service")
    assert not root.exists()
    assert not program.exists()


@pytest.mark.parametrize("home", ["", "here"])
@pytest.mark.parametrize("flag", ["--dry-run", "--uninstall"])
def test_a_user_without_a_home_is_told(edged: Program, root: Path, home: str, flag: str) -> None:
    done = edged.run(*staged(root), "--user", flag, HOME=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "edged: a service of a user needs a home directory: HOME is no absolute path\n"
    )


def test_dry_run_tells_what_would_be_refused_and_the_plan(edged: Program, root: Path) -> None:
    flags = ("--root", str(root), "--program", "/root/.local/edged", "--dry-run")
    done = edged.run("install-service", *flags)
    assert done.returncode == 0
    assert done.stderr.startswith("this would be refused: this edged needs /root/.local/edged")
    assert "edged.service" in done.stdout


def test_every_setting_in_it_is_one_character_away(tmp_path: Path) -> None:
    """But for "#", which prose has with a space behind it."""
    file = tmp_path / "config.toml"
    lines = commented_file().splitlines()
    settings = [line for line in lines if line.startswith("#") and not line.startswith("# ")]
    assert len(settings) > 50
    file.write_text("\n".join(line[1:] if line in settings else line for line in lines))
    taken = load_settings((), {}, file)
    assert taken.settings == load_settings((), {}, candidates=()).settings
    assert all(str(origin) != "default" for key, origin in taken.origins.items() if len(key) < 3)
