"""edged installed on a real host, again, for one user, and removed so that nothing is left."""

import pytest

from edged.node.install.seal import sealed
from tests.host.booted import INSIDE, BootedHost
from tests.host.conftest import install, run_script
from tests.host.service import CONFIG, UNIT, shown

NOT_OURS = (
    "/root/.cache",  # of pip
    "/var/log",
    "/var/tmp",  # of systemd, for services with a temporary directory of their own
    # Backups and locks of useradd and its kin.
    "/etc/.pwd.lock",
    *(
        f"/etc/{name}{ending}"
        for name in ("group", "gshadow", "passwd", "shadow")
        for ending in ("", "-")
    ),
    # Of systemd, for all services with a dynamic user; made at boot on most hosts.
    "/var/cache/private",
    "/var/lib/private",
)
HOMES = "/home"
SHARED_FOLDERS = (".config", ".local", ".local/bin", ".local/state", ".local/share", ".cache")
"""Of a user, made when they are needed first, by whatever program that is."""
USER_RUNTIME = "/run/user/1500"
MADE_ANEW = "install: make the virtual environment in /opt/edged anew: it does not work"

pytestmark = pytest.mark.timeout(1200)  # the first test installs edged


def test_second_installation_changes_nothing(installed: BootedHost) -> None:
    installed.check("systemctl", "start", UNIT)
    pid = shown(installed, "MainPID")
    before = installed.changed_files()
    again = installed.run(f"{INSIDE}/scripts/install")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "nothing to do\n")
    assert installed.changed_files() == before
    assert shown(installed, "MainPID") == pid


def test_new_sources_are_installed_and_the_service_is_restarted_when_it_may_be(
    installed: BootedHost,
) -> None:
    installed.check("systemctl", "start", UNIT)
    pid = shown(installed, "MainPID")
    (stamp,) = installed.path("/opt/edged").glob("installed-*")
    (module,) = installed.path("/opt/edged").glob("lib/python3.*/site-packages/edged/places.py")
    text = module.read_text()
    for path in (stamp, module):  # as an older checkout would have left them
        path.unlink()
    stamp.write_text("of another checkout\n")
    module.write_text(f"{text}# of another version\n")
    installed.path(CONFIG).write_text(sealed("# of another version\n"))
    lines = run_script(installed, "--no-start").splitlines()
    assert lines[0].startswith("install: install edged, llama.cpp and the embedded model into")
    assert lines[1:] == [
        f"write {CONFIG}: another version wrote it, and nobody changed it",
        f"keep {UNIT}: it runs what was installed before; to restart it: systemctl restart {UNIT}",
    ]
    assert module.read_text() == text, "the same version was installed over it"
    assert shown(installed, "MainPID") == pid
    assert run_script(installed) == f"run systemctl restart {UNIT}\n"
    assert shown(installed, "MainPID") != pid
    assert run_script(installed) == ""


def test_environment_of_another_python_is_made_anew(installed: BootedHost) -> None:
    installed.check("systemctl", "start", UNIT)
    pid = shown(installed, "MainPID")
    _upgrade_python(installed)
    assert installed.run("edged", "version").returncode, "it does not run any more"
    assert run_script(installed).splitlines() == [
        MADE_ANEW,
        "install: install edged, llama.cpp and the embedded model into /opt/edged",
        f"run systemctl restart {UNIT}",
    ]
    assert shown(installed, "MainPID") != pid
    assert run_script(installed) == ""


def test_llama_cpp_is_built_as_last_time_or_as_asked(installed: BootedHost) -> None:
    """As far as one gets without a package index."""
    script = f"{INSIDE}/scripts/install"
    other = installed.run(script, PIP_NO_INDEX="1", CMAKE_ARGS="-DGGML_CUDA=on")
    assert other.returncode == 1
    assert "llama-cpp-python" in other.stderr, "it is wanted anew"
    installed.path("/opt/edged/cmake-args").write_text("-DGGML_CUDA=on\n")
    same = installed.run(script, PIP_NO_INDEX="1")
    assert "where llama.cpp is built, it is with CMAKE_ARGS=-DGGML_CUDA=on as last" in same.stderr
    assert "llama-cpp-python" not in same.stderr, "it is there"
    installed.check("rm", "-r", "/opt/edged")


def test_folder_that_somebody_else_made_is_left_alone(installed: BootedHost) -> None:
    script = f"{INSIDE}/scripts/install"
    mark = installed.path("/opt/edged/.made-by-scripts-install")
    mark.unlink()
    try:
        done = installed.run(script)
        assert done.returncode == 1
        assert "was not made by scripts/install" in done.stderr
    finally:
        mark.touch()


def test_installed_programs_are_found_by_a_new_shell(installed: BootedHost) -> None:
    for program in ("edged", "edgectl"):
        # Of su, pam_systemd would want to make a session.
        login = ("env", "--ignore-environment", f"HOME={HOMES}/bob", "sh", "-l", "-c")
        said = installed.check(*login, f"{program} --help", user="bob")
        assert f"Usage: {program} " in said


def test_installed_unit_has_nothing_to_complain_about(installed: BootedHost) -> None:
    done = installed.run("systemd-analyze", "verify", UNIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = installed.run("systemd-analyze", "security", "--threshold=20", UNIT)
    assert told.returncode == 0, told.stdout


def test_program_that_a_service_cannot_see_is_refused(installed: BootedHost) -> None:
    copy = f"{HOMES}/alice/copy"
    installed.check("cp", "-R", "/opt/edged", copy)
    run = (f"{copy}/bin/python", "-m", "edged.cli.edged", "install-service")
    done = installed.run(*run)
    assert done.returncode == 1
    assert "which a service of the system cannot see" in done.stderr
    installed.check("rm", "-r", copy)


def test_user_who_is_not_root_is_told_so(installed: BootedHost) -> None:
    done = installed.run("edged", "install-service", user="bob")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "edged: a service of the system needs root: use sudo, or --user for one of your own\n"
    )


def test_service_of_one_user(installed: BootedHost) -> None:
    installed.check("useradd", "--create-home", "--uid", "1500", "carol")
    if installed.run("systemctl", "start", "user@1500.service").returncode:
        pytest.skip("no manager of a user can be started: apt-get install dbus libpam-systemd")
    environ = {"XDG_RUNTIME_DIR": USER_RUNTIME}
    before = installed.changed_files()
    try:
        said = installed.check("edged", "install-service", "--user", user="carol", **environ)
        assert "run systemctl --user start edged.service" in said.splitlines()
        again = installed.run("edged", "install-service", "--user", user="carol", **environ)
        assert (again.returncode, again.stdout) == (0, ""), again.stderr
        answer = installed.check(
            *("edgectl", "run", "--max-tokens", "4", "hello"), user="carol", **environ
        )
        assert answer.strip()
        assert installed.path(f"{USER_RUNTIME}/edged/edged.sock").exists()
        verify = ("systemd-analyze", "--user", "verify", UNIT)
        done = installed.run(*verify, user="carol", **environ)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        gone = ("edged", "install-service", "--user", "--uninstall")
        installed.check(*gone, user="carol", **environ)
        assert not installed.path(f"{USER_RUNTIME}/edged").exists()
        left = _new(before, installed.changed_files())
        assert set(left) <= {f"{HOMES}/carol/{folder}" for folder in SHARED_FOLDERS}
    finally:
        installed.run("systemctl", "stop", "user@1500.service")
        installed.run("userdel", "--remove", "carol")


@pytest.mark.parametrize("works", [True, False], ids=["works", "of-another-python"])
def test_removing_leaves_nothing(installed: BootedHost, works: bool) -> None:
    host = installed
    _uninstall(host)
    before = host.changed_files()
    known = {name: host.path(name).read_text() for name in ("/etc/group", "/etc/passwd")}
    install(host)
    host.check("systemctl", "start", UNIT)
    made = _new(before, host.changed_files())
    assert {"/etc/systemd/system/edged.service", CONFIG, "/opt/edged", "/usr/local/bin/edged"} <= {
        *made
    }
    assert host.path("/var/lib/private/edged").exists(), "the service made its state"
    if not works:
        _upgrade_python(host)
    said = _uninstall(host)
    assert "remove /opt/edged" in said.splitlines()
    assert _new(before, host.changed_files()) == {}
    assert {name: host.path(name).read_text() for name in known} == known
    assert not host.path("/run/edged").exists()
    assert host.run("systemctl", "cat", UNIT).returncode, "systemd has forgotten it"


def test_what_a_failed_repair_leaves_is_removed(installed: BootedHost) -> None:
    (package,) = installed.path("/opt/edged").glob("lib/python3.*/site-packages/edged")
    package.rename(package.with_name("gone"))
    done = installed.run(f"{INSIDE}/scripts/install", PIP_NO_INDEX="1")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, MADE_ANEW)
    assert not installed.path("/opt/edged/bin/edged").exists()
    removed = _uninstall(installed).splitlines()
    assert {"remove /opt/edged", "remove /etc/systemd/system/edged.service"} <= {*removed}


def test_removing_keeps_what_somebody_wrote(installed: BootedHost) -> None:
    config = installed.path(CONFIG)
    config.write_text("[server]\ndrain_s = 5\n")
    said = _uninstall(installed)
    assert f"keep {CONFIG}: it was changed" in said.splitlines()
    assert config.exists()
    config.unlink()
    config.parent.rmdir()


def _upgrade_python(host: BootedHost) -> None:
    """As a distribution does it: what was installed is for another version than there is now."""
    (packages,) = host.path("/opt/edged/lib").glob("python3.*")
    packages.rename(packages.with_name("python3.0"))


def _uninstall(host: BootedHost) -> str:
    return host.check(f"{INSIDE}/scripts/install", "--uninstall")


def _new(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """What was added or changed its kind, but for what others leave behind; a directory that is
    only listed because something below it has changed is on the host anyway."""
    return {
        path: kind
        for path, kind in after.items()
        if before.get(path) != kind and not path.startswith(NOT_OURS)
    }
