"""One host with a systemd for all tests here, with two users, and edged installed on it."""

import os
from collections.abc import Iterator

import pytest

from edged.config.reference import commented_file
from edged.node.install.seal import sealed
from tests.host.booted import INSIDE, BootedHost, booted_host

INSTALL_TIMEOUT_S = 900.0
"""Half a minute where pip has llama.cpp built; some minutes where it has to build it."""
TREE = "/opt/edged"
KEPT = "/usr/src/installed"
FROM_PIP = ("PIP_", "SSL_", "REQUESTS_", "HTTP_", "HTTPS_", "http_", "https_", "no_", "NO_")
"""How this host reaches the package index."""


@pytest.fixture(scope="session")
def host() -> Iterator[BootedHost]:
    """alice is in the group edged as soon as there is one, bob is not."""
    with booted_host() as booted:
        booted.check("useradd", "--create-home", "alice")
        booted.check("useradd", "--create-home", "bob")
        yield booted


@pytest.fixture
def installed(host: BootedHost) -> BootedHost:
    """Installed for the system, stopped, and not configured; also when a test has removed it."""
    if not host.path("/opt/edged/bin/edged").exists():
        install(host)
    host.run("systemctl", "stop", "edged.service")
    host.path("/etc/edged/config.toml").write_text(sealed(commented_file()))
    return host


def install(host: BootedHost) -> str:
    """What `scripts/install` says. Only the first time it has to ask pip for everything: what it
    made is kept, and is there again the next time, as after a run that was interrupted."""
    if host.path(KEPT).exists():
        host.check("cp", "-al", KEPT, TREE)
    said = run_script(host, "--no-start")
    host.check("usermod", "--append", "--groups", "edged", "alice")
    if not host.path(KEPT).exists():
        host.check("cp", "-al", TREE, KEPT)
    return said


def run_script(host: BootedHost, *flags: str) -> str:
    """What `scripts/install` says, which may ask the package index."""
    environ = {name: text for name, text in os.environ.items() if name.startswith(FROM_PIP)}
    done = host.run(
        f"{INSIDE}/scripts/install",
        *flags,
        has_network=True,
        timeout_s=INSTALL_TIMEOUT_S,
        **environ,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout
