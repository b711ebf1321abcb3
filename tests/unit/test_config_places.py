"""Where a daemon and its clients meet."""

import os
from pathlib import Path

import pytest

from edged import places


@pytest.mark.parametrize(
    ("text", "is_address"),
    [
        ("127.0.0.1:7411", True),
        ("localhost:0", True),
        ("[::1]:7411", True),
        ("[fe80::1%eth0]:65535", True),
        ("host:65536", False),
        ("::1:7411", False),
        ("host", False),
        (":7411", False),
        ("host:", False),
        ("http://host:1", False),
    ],
)
def test_an_address_is_host_and_port(text: str, is_address: bool) -> None:
    assert places.is_host_port(text) is is_address


def test_a_service_listens_in_the_first_directory_systemd_made() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/edged:/run/other", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert places.daemon_socket(environ) == Path("/run/edged/edged.sock")


def test_a_daemon_of_a_user_listens_in_the_users_runtime_directory() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert places.daemon_socket(environ) == Path("/run/user/7/edged/edged.sock")


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "relative"}])
def test_without_a_runtime_directory_the_socket_is_the_users_own(environ: dict[str, str]) -> None:
    found = places.daemon_socket(environ)
    assert found.is_absolute()
    assert found.parent.name == f"edged-{os.getuid()}"


def test_a_client_looks_for_the_users_daemon_before_the_service(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "edged").mkdir(mode=0o700)
    own = tmp_path / "edged" / "edged.sock"
    assert places.client_sockets(environ) == (own, places.SERVICE_SOCKET)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_client_trusts_no_socket_that_others_could_have_made(
    tmp_path: Path, is_link: bool
) -> None:
    directory = tmp_path / "edged"
    if is_link:
        (tmp_path / "theirs").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "theirs")
    else:
        directory.mkdir()
        directory.chmod(0o777)
    found = places.client_sockets({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found == (places.SERVICE_SOCKET,)


def test_the_configuration_is_the_users_before_the_systems() -> None:
    system = places.SYSTEM_CONFIG_FILE
    named = {"XDG_CONFIG_HOME": "/c", "HOME": "/h"}
    assert places.config_files(named) == (Path("/c/edged/config.toml"), system)
    assert places.config_files({"HOME": "/h"}) == (Path("/h/.config/edged/config.toml"), system)
    assert places.config_files({"XDG_CONFIG_HOME": "relative"}) == (system,)


def test_a_private_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    places.make_private_directory(directory)
    places.make_private_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(PermissionError, match="nobody else may write"):
        places.make_private_directory(directory)


def test_a_link_is_no_private_directory(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(PermissionError):
        places.make_private_directory(link)
